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
