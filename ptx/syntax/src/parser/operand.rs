//! Operands and constants.

use super::Parser;
use crate::ParseError;
use crate::ast::{Address, Operand, Symbol};
use crate::lexer::TokenKind;

/// How deep operands may be nested. An address with coordinates in a list is the deepest there is.
const MAX_DEPTH: u32 = 4;

/// The value of an integer in any of PTX's notations.
pub(super) fn integer(text: &str) -> Option<u64> {
    let digits = text.strip_suffix(['U', 'u']).unwrap_or(text);
    let prefixed = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| digits.strip_prefix(*prefix));
    let (digits, radix) = if let Some(digits) = prefixed(["0x", "0X"]) {
        (digits, 16)
    } else if let Some(digits) = prefixed(["0b", "0B"]) {
        (digits, 2)
    } else if let Some(digits) = digits.strip_prefix('0').filter(|digits| !digits.is_empty()) {
        (digits, 8)
    } else {
        (digits, 10)
    };
    u64::from_str_radix(digits, radix).ok()
}

/// The value of a floating-point constant.
fn float(text: &str) -> Option<Operand> {
    let bits = |prefixes: [&str; 2], digits: usize| {
        let bits = prefixes.iter().find_map(|prefix| text.strip_prefix(*prefix))?;
        (bits.len() == digits).then(|| u64::from_str_radix(bits, 16).ok()).flatten()
    };
    if let Some(bits) = bits(["0f", "0F"], 8) {
        u32::try_from(bits).ok().map(Operand::F32)
    } else if let Some(bits) = bits(["0d", "0D"], 16) {
        Some(Operand::F64(bits))
    } else {
        text.contains(['.', 'e', 'E'])
            .then(|| text.parse().ok().map(|value: f64| Operand::F64(value.to_bits())))?
    }
}

impl Parser<'_> {
    /// One operand, with `depth` others around it.
    pub(super) fn operand(&mut self, depth: u32) -> Result<Operand, ParseError> {
        let first = self.simple_operand(depth)?;
        if !self.take('|') {
            return Ok(first);
        }
        let second = self.simple_operand(depth)?;
        Ok(Operand::Pair(Box::new(first), Box::new(second)))
    }

    fn simple_operand(&mut self, depth: u32) -> Result<Operand, ParseError> {
        let token = self.peek();
        if depth > MAX_DEPTH {
            return Err(ParseError {
                position: token.position,
                message: format!("more than {MAX_DEPTH} operands in each other"),
            });
        }
        match token.kind {
            TokenKind::Word | TokenKind::Number | TokenKind::Punctuation('-') => self.constant(),
            TokenKind::Punctuation('!') => {
                self.advance();
                Ok(Operand::Not(self.word("a predicate register")?.to_owned()))
            }
            TokenKind::Punctuation('{') => Ok(Operand::Vector(self.vector(depth)?)),
            TokenKind::Punctuation('[') => Ok(Operand::Address(self.address(depth)?)),
            TokenKind::Punctuation('(') => {
                self.advance();
                if self.take(')') {
                    return Ok(Operand::List(Vec::new()));
                }
                let items = self.comma_separated(|parser| parser.operand(depth + 1))?;
                self.expect(')')?;
                Ok(Operand::List(items))
            }
            _ => Err(self.expected("an operand")),
        }
    }

    /// `{a, b}`
    fn vector(&mut self, depth: u32) -> Result<Vec<Operand>, ParseError> {
        self.expect('{')?;
        let items = self.comma_separated(|parser| parser.operand(depth + 1))?;
        self.expect('}')?;
        Ok(items)
    }

    /// `[base+offset]`, `[base+-8]`, `[base, {x, y}]`
    fn address(&mut self, depth: u32) -> Result<Address, ParseError> {
        self.expect('[')?;
        let (base, offset) = if self.peek().kind == TokenKind::Word {
            (Some(self.name()), self.offset()?)
        } else {
            (None, self.signed_integer("a register, a variable or an address")?)
        };
        let coordinates = if self.take(',') { self.vector(depth)? } else { Vec::new() };
        if !self.take(']') {
            return Err(self.expected("`]`"));
        }
        Ok(Address { base, offset, coordinates })
    }

    /// `= 1`, `= {1, 2}`, `= {{1, 2}, {3, 4}}`: what follows `=`, flattened.
    pub(super) fn initializer(&mut self) -> Result<Vec<Operand>, ParseError> {
        let mut values = Vec::new();
        self.initial_values(&mut values, 0)?;
        Ok(values)
    }

    fn initial_values(&mut self, values: &mut Vec<Operand>, depth: u32) -> Result<(), ParseError> {
        if depth > MAX_DEPTH {
            return Err(self.expected(&format!("at most {MAX_DEPTH} braces in each other")));
        }
        if self.take('{') {
            // LLVM writes `{}` for bytes that may be any.
            if self.take('}') {
                return Ok(());
            }
            self.comma_separated(|parser| parser.initial_values(values, depth + 1))?;
            self.expect('}')
        } else {
            values.push(self.constant()?);
            Ok(())
        }
    }

    /// A number or a name, with an offset and as a generic address where that is written.
    fn constant(&mut self) -> Result<Operand, ParseError> {
        if self.peek().kind == TokenKind::Word {
            return self.symbol(None);
        }
        let negated = self.take('-');
        let token = self.peek();
        let operand = if token.kind == TokenKind::Number {
            match (integer(token.text), float(token.text)) {
                (Some(mask), _) if !negated && self.peek_behind(1).kind == TokenKind::Punctuation('(') => {
                    self.advance();
                    self.expect('(')?;
                    let symbol = self.symbol(Some(mask))?;
                    self.expect(')')?;
                    return Ok(symbol);
                }
                (Some(value), _) => signed(negated, value).map(Operand::Integer),
                (None, Some(Operand::F64(bits))) if negated => {
                    Some(Operand::F64((-f64::from_bits(bits)).to_bits()))
                }
                (None, float) => float.filter(|_| !negated),
            }
        } else {
            None
        };
        let operand = operand.ok_or_else(|| self.expected("a number"))?;
        self.advance();
        Ok(operand)
    }

    /// `name`, `name+8`, `generic(name)+8`
    fn symbol(&mut self, mask: Option<u64>) -> Result<Operand, ParseError> {
        let generic =
            self.peek().text == "generic" && self.peek_behind(1).kind == TokenKind::Punctuation('(');
        if generic {
            self.advance();
            self.expect('(')?;
        }
        if self.peek().kind != TokenKind::Word {
            return Err(self.expected("a name"));
        }
        let name = self.name();
        if generic {
            self.expect(')')?;
        }
        let offset = self.offset()?;
        Ok(if generic || offset != 0 || mask.is_some() {
            Operand::Symbol(Symbol { name, generic, offset, mask })
        } else if name == "_" {
            Operand::Sink
        } else {
            Operand::Name(name)
        })
    }

    /// A word that comes next, with the component of a vector: `v.x`.
    fn name(&mut self) -> String {
        let mut name = self.advance().text.to_owned();
        if let Some(component @ ("x" | "y" | "z" | "w" | "r" | "g" | "b" | "a")) = self.directive() {
            self.advance();
            name.push('.');
            name.push_str(component);
        }
        name
    }

    /// `+8`, `+-8`, `-8`, or nothing.
    fn offset(&mut self) -> Result<i64, ParseError> {
        if self.take('+') || self.is('-') { self.signed_integer("an offset") } else { Ok(0) }
    }

    fn signed_integer(&mut self, what: &str) -> Result<i64, ParseError> {
        let negated = self.take('-');
        let token = self.peek();
        let value =
            Some(token).filter(|token| token.kind == TokenKind::Number).and_then(|token| integer(token.text));
        let value = value.and_then(|value| signed(negated, value)).ok_or_else(|| self.expected(what))?;
        self.advance();
        Ok(value)
    }
}

/// The two's complement of a number with its sign; none where 64 bits do not hold it.
fn signed(negated: bool, value: u64) -> Option<i64> {
    match negated {
        false => Some(value.cast_signed()),
        true => (value <= i64::MIN.unsigned_abs()).then(|| value.wrapping_neg().cast_signed()),
    }
}
