//! How the table is written.
//!
//! A line is a form: opcode and modifiers, a blank, operands. `//` begins a comment; each group of forms names its
//! section of the PTX ISA in one.
//!
//! ```text
//! mbarrier.try_wait.parity{.acquire|.relaxed}{.cta|.cluster}{.SHARED}.b64 p, [a], b, c?
//! ```
//!
//! Modifiers:
//!
//! | notation     | meaning                                                                              |
//! |--------------|--------------------------------------------------------------------------------------|
//! | `.x`         | stands there                                                                         |
//! | `(.x\|.y.z)` | one of them stands there                                                             |
//! | `{.x\|.y.z}` | one of them or none stands there                                                     |
//! | `.NAME`      | one of the set `NAME` stands there; the sets are in `sets.rs`                        |
//! | `.m64nNk16`  | `N` is a multiple of 8 from 8 to 256                                                 |
//! | `.m64nIk32`  | as `N`, but above 32 a multiple of 16                                                |
//!
//! Operands, with commas between them:
//!
//! | notation        | what stands there                                                                 |
//! |-----------------|-----------------------------------------------------------------------------------|
//! | `d`, `r`        | a register that is written, that is read                                          |
//! | `d_`, `_`       | a register that is written or `_`; `_`                                            |
//! | `p`, `!p`       | a predicate register; one that may be negated                                     |
//! | `d\|p`, `d{\|p}`| two results, where the second may be missing                                      |
//! | `a`, `b`, `c`   | a register or an integer                                                          |
//! | `x`, `y`, `z`   | a register or a floating-point constant                                           |
//! | `v`             | a register, any constant, or the address of a variable                            |
//! | `n`             | an integer                                                                        |
//! | `4\|8\|16`      | one of these integers                                                             |
//! | `[a]`           | an address                                                                        |
//! | `[t]`           | a tensor map with as many coordinates as `.1d` to `.5d` says                      |
//! | `d{4}`, `v{4}`  | a vector of four `d_` or `v`                                                      |
//! | `d{v}`, `v{v}`  | a vector as long as `.v2`, `.v4` or `.v8` says, or no vector where none stands    |
//! | `d{x}`, `v{x}`  | a vector as long as `.x1`, `.x2` or `.x4` says                                    |
//! | `d{N/2}`        | a vector of N/2, with the `n` of the shape                                        |
//! | `label`, `function`, `list` | a name; a name; operands in parentheses                               |
//! | `…?`            | may be missing                                                                    |
//! | `… if .x`       | stands there where the modifier `.x` does, and only there                         |

use std::collections::HashMap;

/// A form of an instruction.
#[derive(Debug)]
pub(super) struct Form {
    pub opcode: &'static str,
    pub modifiers: Vec<Part>,
    pub operands: Vec<OperandForm>,
}

/// A part of the modifiers.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// One modifier.
    Word(&'static str),
    /// A shape of a matrix product, what stands before and behind N.
    Shape { before: &'static str, multiple: Multiple, after: &'static str },
    /// One of several sequences, or none if it is optional.
    Choice { alternatives: Vec<Vec<Part>>, optional: bool },
}

/// The values of N in a shape.
#[derive(Clone, Copy, Debug)]
pub(super) enum Multiple {
    /// `N`
    OfEight,
    /// `I`
    OfSixteenAbove32,
}

/// An operand of a form.
#[derive(Debug)]
pub(super) struct OperandForm {
    pub kind: Kind,
    pub optional: bool,
    /// The modifier that it stands or falls with.
    pub only_with: Option<&'static str>,
    /// As it is written.
    pub text: &'static str,
}

/// What an operand is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Register,
    RegisterOrSink,
    Sink,
    NegatablePredicate,
    Pair { optional: bool },
    IntegerSource,
    FloatSource,
    AnySource,
    Integer,
    OneOf(Vec<i64>),
    Address,
    Tensor,
    Vector { written: bool, length: Length },
    Name(&'static str),
    List,
}

/// The length of a vector.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    Fixed(usize),
    /// `.v2`, `.v4`, `.v8`, or a scalar.
    OfV,
    /// `.x1`, `.x2`, `.x4`.
    OfX,
    /// N of the shape, divided.
    OfShape {
        divisor: usize,
    },
}

/// The sets by name.
pub(super) type Sets = HashMap<&'static str, Vec<Vec<Part>>>;

/// The lines of a table that are not comments.
pub(super) fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"))
}

/// Reads lines such as `SCOPE = .cta|.cluster`.
pub(super) fn sets(table: &'static str) -> Sets {
    let mut sets = Sets::new();
    for line in lines(table) {
        let (name, alternatives) = line.split_once(" = ").unwrap_or_else(|| malformed(line));
        let mut reader = Reader { rest: alternatives, line, sets: &sets };
        let alternatives = reader.alternatives();
        reader.expect_end();
        sets.insert(name, alternatives);
    }
    sets
}

impl Form {
    /// Reads a line.
    pub(super) fn parse(line: &'static str, sets: &Sets) -> Self {
        let (mnemonic, operands) = line.split_once(' ').unwrap_or((line, ""));
        let (opcode, modifiers) = mnemonic.split_at(mnemonic.find(['.', '(', '{']).unwrap_or(mnemonic.len()));
        let mut reader = Reader { rest: modifiers, line, sets };
        let modifiers = reader.sequence();
        reader.expect_end();
        let operands = operands.split(',').map(str::trim).filter(|text| !text.is_empty());
        Self { opcode, modifiers, operands: operands.map(|text| OperandForm::parse(text, line)).collect() }
    }
}

impl OperandForm {
    fn parse(text: &'static str, line: &str) -> Self {
        let (kind, only_with) = match text.split_once(" if .") {
            Some((kind, modifier)) => (kind, Some(modifier)),
            None => (text, None),
        };
        let (kind, optional) = kind.strip_suffix('?').map_or((kind, false), |kind| (kind, true));
        Self { kind: Kind::parse(kind).unwrap_or_else(|| malformed(line)), optional, only_with, text }
    }
}

impl Kind {
    fn parse(text: &'static str) -> Option<Self> {
        Some(match text {
            "d" | "r" | "p" => Self::Register,
            "d_" => Self::RegisterOrSink,
            "_" => Self::Sink,
            "!p" => Self::NegatablePredicate,
            "d|p" => Self::Pair { optional: false },
            "d{|p}" => Self::Pair { optional: true },
            "a" | "b" | "c" => Self::IntegerSource,
            "x" | "y" | "z" => Self::FloatSource,
            "v" => Self::AnySource,
            "n" => Self::Integer,
            "[a]" => Self::Address,
            "[t]" => Self::Tensor,
            "label" | "function" => Self::Name(text),
            "list" => Self::List,
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => {
                Self::OneOf(text.split('|').map(str::parse).collect::<Result<_, _>>().ok()?)
            }
            _ => {
                let (element, length) = text.strip_suffix('}')?.split_once('{')?;
                let written = match element {
                    "d" => true,
                    "v" => false,
                    _ => return None,
                };
                let length = match length {
                    "v" => Length::OfV,
                    "x" => Length::OfX,
                    _ => match length.strip_prefix("N/") {
                        Some(divisor) => Length::OfShape { divisor: divisor.parse().ok()? },
                        None => Length::Fixed(length.parse().ok()?),
                    },
                };
                Self::Vector { written, length }
            }
        })
    }
}

/// Reads modifiers.
struct Reader<'a> {
    rest: &'static str,
    line: &'static str,
    sets: &'a Sets,
}

impl Reader<'_> {
    /// `.x{.y}(.z|.w)`
    fn sequence(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        loop {
            parts.push(if self.take(".") {
                self.word()
            } else if self.take("{") {
                self.choice(true, "}")
            } else if self.take("(") {
                self.choice(false, ")")
            } else {
                return parts;
            });
        }
    }

    /// `.x.y|.z`
    fn alternatives(&mut self) -> Vec<Vec<Part>> {
        let mut alternatives = vec![self.sequence()];
        while self.take("|") {
            alternatives.push(self.sequence());
        }
        alternatives
    }

    fn choice(&mut self, optional: bool, close: &str) -> Part {
        let alternatives = self.alternatives();
        if !self.take(close) {
            malformed(self.line)
        }
        Part::Choice { alternatives, optional }
    }

    fn word(&mut self) -> Part {
        let length = self.rest.find(['.', '|', '(', ')', '{', '}']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        if let Some(alternatives) = self.sets.get(word) {
            return Part::Choice { alternatives: alternatives.clone(), optional: false };
        }
        for (letter, multiple) in [("nNk", Multiple::OfEight), ("nIk", Multiple::OfSixteenAbove32)] {
            if let Some(at) = word.find(letter) {
                let (before, after) = (&word[..=at], &word[at + "nN".len()..]);
                return Part::Shape { before, multiple, after };
            }
        }
        // Nothing but capitals is the name of a set, and of an unknown one here; or the level of a cache.
        let is_word = word.contains(|c: char| c.is_ascii_lowercase())
            || word.starts_with("L1")
            || word.starts_with("L2");
        if !is_word {
            malformed(self.line)
        }
        Part::Word(word)
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect_end(&self) {
        if !self.rest.is_empty() {
            malformed(self.line)
        }
    }
}

/// The tables are constants: a malformed line is a mistake in this crate, and every test that parses meets it.
fn malformed(line: &str) -> ! {
    unreachable!("malformed line in the grammar: {line}")
}
