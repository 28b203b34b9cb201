//! Text to tokens.
//!
//! A token is a piece of the text. What a piece means (a directive, a modifier, a register) is the parser's business;
//! it only has to know where words end, and PTX's are unusual: `.mbarrier::complete_tx::bytes`, `.4d`, `%tid.x`.

use crate::ParseError;
use crate::ast::Position;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// An identifier, `%tid.x` with its component; also `_` alone.
    Word,
    /// A word with a dot before it, `::` inside: a directive or a modifier.
    Dotted,
    /// A number, in any notation and without sign.
    Number,
    /// A string; the text has no quotes.
    String,
    /// One of `( ) { } [ ] < > , ; : = + - ! | @`.
    Punctuation(char),
    /// Behind the last token.
    End,
}

/// A piece of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// How it is written; a word with a dot has none, a string no quotes.
    pub text: &'a str,
    /// Where it begins.
    pub position: Position,
    /// Where it ends.
    pub end: Position,
}

impl Token<'_> {
    /// How an error names it.
    pub(crate) fn describe(&self) -> String {
        match self.kind {
            TokenKind::End => "the end of the text".to_owned(),
            TokenKind::String => format!("\"{}\"", self.text),
            TokenKind::Dotted => format!("`.{}`", self.text),
            _ => format!("`{}`", self.text),
        }
    }
}

/// Splits a text; the last token is [`TokenKind::End`].
///
/// # Errors
/// At a character that begins no token, and at a comment or a string without end.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    // The text has about six bytes a token.
    let mut tokens = Vec::with_capacity(text.len() / 6);
    let mut cursor = Cursor { text, offset: 0, position: Position { line: 1, column: 1 } };
    loop {
        cursor.skip_blanks()?;
        let token = cursor.token()?;
        tokens.push(token);
        if token.kind == TokenKind::End {
            return Ok(tokens);
        }
    }
}

struct Cursor<'a> {
    text: &'a str,
    /// Byte offset of `position`.
    offset: usize,
    position: Position,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.offset..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    /// Moves over `length` bytes.
    fn advance(&mut self, length: usize) -> &'a str {
        let passed = &self.rest()[..length];
        for byte in passed.bytes() {
            match byte {
                b'\n' => self.position = Position { line: self.position.line + 1, column: 1 },
                // Bytes that continue a character have no column of their own.
                0x80..=0xbf => {}
                _ => self.position.column += 1,
            }
        }
        self.offset += length;
        passed
    }

    /// Moves over the bytes that `belongs` accepts.
    fn advance_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a str {
        let length = self.rest().bytes().take_while(|byte| belongs(*byte)).count();
        self.advance(length)
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            self.advance_while(|byte| byte.is_ascii_whitespace());
            if self.rest().starts_with("//") {
                self.advance_while(|byte| byte != b'\n');
            } else if self.rest().starts_with("/*") {
                let length = self.rest().find("*/").ok_or_else(|| self.error("a comment without end"))?;
                self.advance(length + "*/".len());
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token<'a>, ParseError> {
        let position = self.position;
        let (kind, text) = match self.peek() {
            None => (TokenKind::End, ""),
            Some(b'0'..=b'9') => (TokenKind::Number, self.number()),
            Some(b'"') => (TokenKind::String, self.string()?),
            Some(b'.') => (TokenKind::Dotted, self.dotted()?),
            Some(b'%') if !self.rest()[1..].starts_with(is_word_char) => {
                return Err(self.error("expected a name behind `%`"));
            }
            Some(byte) if is_word(byte) || byte == b'%' => (TokenKind::Word, self.word()),
            Some(byte) if b"(){}[]<>,;:=+-!|@".contains(&byte) => {
                (TokenKind::Punctuation(char::from(byte)), self.advance(1))
            }
            Some(_) => {
                let unknown = self.rest().chars().next().unwrap_or_default();
                return Err(self.error(format!("`{}` begins nothing in PTX", unknown.escape_debug())));
            }
        };
        Ok(Token { kind, text, position, end: self.position })
    }

    /// A name; one with `%` takes its component along.
    fn word(&mut self) -> &'a str {
        let start = self.offset;
        let first = self.advance(1);
        self.advance_while(is_word);
        let rest = self.rest().as_bytes();
        if first == "%"
            && let [b'.', b'x' | b'y' | b'z' | b'w', after @ ..] = rest
            && !after.first().is_some_and(|byte| is_word(*byte))
        {
            self.advance(".x".len());
        }
        &self.text[start..self.offset]
    }

    fn dotted(&mut self) -> Result<&'a str, ParseError> {
        let dot = self.position;
        self.advance(".".len());
        let start = self.offset;
        loop {
            if self.advance_while(is_word).is_empty() {
                let message = format!("expected a name behind `.{}`", &self.text[start..self.offset]);
                return Err(ParseError { position: dot, message });
            }
            if !self.rest().starts_with("::") {
                return Ok(&self.text[start..self.offset]);
            }
            self.advance("::".len());
        }
    }

    /// Digits and letters, with a fraction and a signed exponent where the number is decimal.
    fn number(&mut self) -> &'a str {
        let start = self.offset;
        let digits = self.advance_while(is_word);
        let is_decimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_decimal(digits) && self.peek() == Some(b'.') {
            self.advance(".".len());
            self.advance_while(is_word);
        }
        let so_far = &self.text[start..self.offset];
        if so_far.ends_with(['e', 'E'])
            && !so_far.starts_with("0x")
            && !so_far.starts_with("0X")
            && matches!(self.peek(), Some(b'+' | b'-'))
        {
            self.advance("-".len());
            self.advance_while(is_word);
        }
        &self.text[start..self.offset]
    }

    fn string(&mut self) -> Result<&'a str, ParseError> {
        let length = self.rest()[1..].find('"').ok_or_else(|| self.error("a string without end"))?;
        Ok(&self.advance(length + "\"\"".len())[1..=length])
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError { position: self.position, message: message.into() }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

fn is_word_char(c: char) -> bool {
    u8::try_from(c).is_ok_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        let mut texts: Vec<_> = tokens(text).unwrap().into_iter().map(|token| token.text).collect();
        assert_eq!(texts.pop(), Some(""), "the end");
        texts
    }

    #[test]
    fn words_end_where_ptx_ends_them() {
        assert_eq!(texts("mov.u32 %r1, %tid.x;"), ["mov", "u32", "%r1", ",", "%tid.x", ";"]);
        assert_eq!(texts("$L__BB0_1: _ _x x.b32"), ["$L__BB0_1", ":", "_", "_x", "x", "b32"]);
        assert_eq!(
            texts(".4d.shared::cta.mbarrier::complete_tx::bytes.L2::128B.m64n256k16"),
            ["4d", "shared::cta", "mbarrier::complete_tx::bytes", "L2::128B", "m64n256k16"]
        );
        assert_eq!(texts("%p.xor"), ["%p", "xor"]);
        assert_eq!(texts("a:b"), ["a", ":", "b"]);
    }

    #[test]
    fn numbers_keep_their_notation() {
        let numbers =
            ["0", "0x1F", "017", "0b11", "5U", "0f3F800000", "0d3FF0000000000000", "1.5", "2.5e-3", "8.4"];
        assert_eq!(texts(&numbers.join(" ")), numbers);
        assert_eq!(texts("8.4\n.target 0x1e-3"), ["8.4", "target", "0x1e", "-", "3"]);
    }

    #[test]
    fn comments_and_strings_are_passed_over() {
        assert_eq!(texts("a // { é\n b /* } \n */ \"x; // y\" c"), ["a", "b", "x; // y", "c"]);
        assert_eq!(texts("// only"), [""; 0]);
    }

    #[test]
    fn positions_count_characters() {
        let places: Vec<_> = tokens("/* é */ a\n\t\"éé\" bc").unwrap();
        let at = |line, column| Position { line, column };
        assert_eq!(places[0].position, at(1, 9));
        assert_eq!(places[1].position, at(2, 2));
        assert_eq!((places[2].position, places[2].end), (at(2, 7), at(2, 9)));
    }

    #[test]
    fn errors_tell_where() {
        let message = |text| tokens(text).unwrap_err().to_string();
        assert_eq!(message("a\n  /* b"), "2:3: a comment without end");
        assert_eq!(message(" \"b"), "1:2: a string without end");
        assert_eq!(message("a #"), "1:3: `#` begins nothing in PTX");
        assert_eq!(message("a .;"), "1:3: expected a name behind `.`");
        assert_eq!(message("a.b:: c"), "1:2: expected a name behind `.b::`");
        assert_eq!(message("%;"), "1:1: expected a name behind `%`");
    }
}
