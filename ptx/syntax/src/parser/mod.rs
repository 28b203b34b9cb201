//! Tokens to a tree, by recursive descent.
//!
//! One function a construct, one token of lookahead; where a second is needed (`name:` against `name …;`), it is looked
//! at and not consumed. So the time is linear in the text, and the depth of the recursion is bounded.

mod module;
mod operand;
mod statement;

use crate::ast::{Module, Position, Type};
use crate::lexer::{self, Token, TokenKind};
use crate::{ParseError, grammar};

/// Parses a module and checks that its instructions are known ones, written as the ISA says.
///
/// # Errors
/// At the first place that is not PTX, or at the first instruction that breaks the [`grammar`].
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let module = parse_unchecked(text)?;
    let violation = grammar::violations(&module).next();
    violation.map_or(Ok(module), |error| Err(error.into()))
}

/// Parses a module whose instructions may be any: opcode, modifiers and operands are not checked.
///
/// # Errors
/// At the first place that is not PTX.
pub fn parse_unchecked(text: &str) -> Result<Module, ParseError> {
    Parser { tokens: lexer::tokens(text)?, next: 0 }.module()
}

struct Parser<'a> {
    /// The last is the end.
    tokens: Vec<Token<'a>>,
    /// Index of the next token.
    next: usize,
}

impl<'a> Parser<'a> {
    /// The next token.
    fn peek(&self) -> Token<'a> {
        self.peek_behind(0)
    }

    /// The token behind `skipped` others.
    fn peek_behind(&self, skipped: usize) -> Token<'a> {
        self.tokens[(self.next + skipped).min(self.tokens.len() - 1)]
    }

    /// Consumes the next token. The end stays.
    fn advance(&mut self) -> Token<'a> {
        let token = self.peek();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    /// Where the last consumed token ends.
    fn end_of_last(&self) -> Position {
        self.tokens[self.next.saturating_sub(1)].end
    }

    fn is(&self, punctuation: char) -> bool {
        self.peek().kind == TokenKind::Punctuation(punctuation)
    }

    /// Consumes the punctuation if it comes next.
    fn take(&mut self, punctuation: char) -> bool {
        let found = self.is(punctuation);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, punctuation: char) -> Result<(), ParseError> {
        if self.take(punctuation) { Ok(()) } else { Err(self.expected(&format!("`{punctuation}`"))) }
    }

    /// The directive that comes next, without its dot.
    fn directive(&self) -> Option<&'a str> {
        Some(self.peek()).filter(|token| token.kind == TokenKind::Dotted).map(|token| token.text)
    }

    /// Consumes the directive if it comes next.
    fn take_directive(&mut self, name: &str) -> bool {
        let found = self.directive() == Some(name);
        if found {
            self.advance();
        }
        found
    }

    fn expect_directive(&mut self, name: &str) -> Result<(), ParseError> {
        if self.take_directive(name) { Ok(()) } else { Err(self.expected(&format!("`.{name}`"))) }
    }

    /// Consumes what comes next if it is one of the directives, and tells what that one stands for.
    fn take_one_of<T: Copy>(&mut self, meanings: &[(&str, T)]) -> Option<T> {
        let name = self.directive()?;
        let (_, meaning) = meanings.iter().find(|(known, _)| *known == name)?;
        self.advance();
        Some(*meaning)
    }

    /// Consumes a word; `what` is what an error calls it.
    fn word(&mut self, what: &str) -> Result<&'a str, ParseError> {
        match self.peek().kind {
            TokenKind::Word => Ok(self.advance().text),
            _ => Err(self.expected(what)),
        }
    }

    /// Consumes an unsigned integer.
    fn number<T: TryFrom<u64>>(&mut self, what: &str) -> Result<T, ParseError> {
        let token = self.peek();
        let value = if token.kind == TokenKind::Number { operand::integer(token.text) } else { None };
        let value = value.and_then(|value| T::try_from(value).ok()).ok_or_else(|| self.expected(what))?;
        self.advance();
        Ok(value)
    }

    /// Consumes items with commas between them.
    fn comma_separated<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        let mut items = vec![item(self)?];
        while self.take(',') {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// `.v2` or `.v4`, where one comes next.
    fn vector_length(&mut self) -> Option<u32> {
        self.take_one_of(&[("v2", 2), ("v4", 4)])
    }

    /// `.b32`
    fn ty(&mut self) -> Result<Type, ParseError> {
        let ty = self
            .directive()
            .and_then(Type::from_name)
            .ok_or_else(|| self.expected("a type such as `.b32`"))?;
        self.advance();
        Ok(ty)
    }

    /// The error that the next token is not `what`.
    fn expected(&self, what: &str) -> ParseError {
        let found = self.peek();
        ParseError {
            position: found.position,
            message: format!("expected {what}, found {}", found.describe()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ast::{Address, Function, Instruction, Operand, Statement};

    fn in_body(text: &str) -> Result<Module, ParseError> {
        parse_unchecked(&format!(".version 8.4\n.target sm_90a\n.entry k()\n{{\n{text}\n}}"))
    }

    fn instruction(text: &str) -> Instruction {
        let module = in_body(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        module.functions().flat_map(Function::instructions).next().unwrap().clone()
    }

    #[test]
    fn instructions_are_taken_apart() {
        let copy = instruction(
            "@!%p1 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+8], [m, {0, %r2}], [%r3];",
        );
        assert_eq!(copy.position, Position { line: 5, column: 1 });
        assert_eq!(
            copy.guard.as_ref().map(|guard| (guard.negated, guard.register.as_str())),
            Some((true, "%p1"))
        );
        assert_eq!(copy.opcode, "cp");
        assert_eq!(
            copy.modifiers,
            ["async", "bulk", "tensor", "2d", "shared::cluster", "global", "mbarrier::complete_tx::bytes"]
        );
        let address = |base: &str, offset, coordinates| {
            Operand::Address(Address { base: Some(base.to_owned()), offset, coordinates })
        };
        let coordinates = vec![Operand::Integer(0), Operand::Name("%r2".to_owned())];
        let expected =
            [address("%r1", 8, Vec::new()), address("m", 0, coordinates), address("%r3", 0, Vec::new())];
        assert_eq!(copy.operands, expected);
    }

    #[test]
    fn constants_have_their_values() {
        let values = instruction(
            "x 10, -10, 0x1F, 017, 0b101U, 0xffffffffffffffff, -0x8000000000000000, 0f3F800000, 0DC000000000000000, \
            1.5, -2.5e-1, 0, 0F00000001;",
        );
        let integers = [10, -10, 31, 15, 5, -1, i64::MIN].map(Operand::Integer);
        assert_eq!(values.operands[..7], integers);
        let [minus_two, more, less] = [-2.0_f64, 1.5, -0.25].map(|value| Operand::F64(value.to_bits()));
        let rest = [Operand::F32(0x3f80_0000), minus_two, more, less, Operand::Integer(0), Operand::F32(1)];
        assert_eq!(values.operands[7..], rest);
    }

    #[test]
    fn debug_directives_are_dropped() {
        let module = in_body(".loc 1 2 3\nret;\n.loc 1 2 3, function_name $L+8, inlined_at 1 2 3\n").unwrap();
        let statements: Vec<_> = module.functions().flat_map(Function::statements).collect();
        assert!(matches!(statements[..], [Statement::Instruction(_)]));
    }

    #[test]
    fn errors_tell_where_and_what() {
        let cases = [
            ("add.s32 %r1, %r2", "6:1: expected `,` or `;`, found `}`"),
            ("  add.s32 %r1 %r2;", "5:15: expected `,` or `;`, found `%r2`"),
            ("ld.b32 a, [b;", "5:13: expected `]`, found `;`"),
            ("ld.b32 a, [];", "5:12: expected a register, a variable or an address, found `]`"),
            ("mov.b32 a, 0f12;", "5:12: expected a number, found `0f12`"),
            ("mov.b64 a, 18446744073709551616;", "5:12: expected a number, found `18446744073709551616`"),
            ("mov.b64 a, -9223372036854775809;", "5:13: expected a number, found `9223372036854775809`"),
            ("mov.b32 a, 08;", "5:12: expected a number, found `08`"),
            ("a ,;", "5:3: expected an operand, found `,`"),
            ("@ bra x;\n@5 bra x;", "6:2: expected a predicate register, found `5`"),
            (".reg .b33 a;", "5:6: expected a type such as `.b32`, found `.b33`"),
            (".reg .b32 %r<x>;", "5:14: expected the number of registers, found `x`"),
            (".global", "6:1: expected a type such as `.b32`, found `}`"),
            (
                ".maxntid 5;",
                "5:1: expected `.reg`, `.pragma`, or the state space of a variable, found `.maxntid`",
            ),
            ("{ ret;", "6:2: expected a statement or `}`, found the end of the text"),
            ("} ;", "5:3: expected `.entry`, `.func` or the state space of a variable, found `;`"),
            (".pragma 5;", "5:9: expected a string, found `5`"),
            ("ret; \"x\"", "5:6: expected a statement or `}`, found \"x\""),
        ];
        for (text, message) in cases {
            assert_eq!(in_body(text).unwrap_err().to_string(), message, "{text}");
        }
        let cases = [
            ("", "1:1: expected `.version`, found the end of the text"),
            (".version 8", "1:10: expected a version such as `8.4`, found `8`"),
            (".version 8.4\n.address_size 64", "2:1: expected `.target`, found `.address_size`"),
            (".version 8.4 .target 5", "1:22: expected a target such as `sm_90a`, found `5`"),
            (
                ".version 8.4 .target sm_90a .entry k() .maxntid 1, 2, 3, 4 { }",
                "1:40: expected 1 to 3 numbers",
            ),
            (".version 8.4 .target sm_90a .entry k(.reg .b32 a)", "1:38: expected `.param`, found `.reg`"),
        ];
        for (text, message) in cases {
            let error = parse_unchecked(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
