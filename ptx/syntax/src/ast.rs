//! The syntax tree: a module as it is written, nothing resolved.
//!
//! Names are kept as they stand. What a name means (register, label, variable, special register) depends on scopes,
//! which are the business of whoever interprets the tree.

use std::fmt;

/// Where something stands in the text; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A whole PTX file.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// `.version major.minor`
    pub version: (u32, u32),
    /// `.target` specifiers, the architecture first: `["sm_90a"]`.
    pub target: Vec<String>,
    /// `.address_size`, 64 unless the file says otherwise.
    pub address_size: u32,
    /// Where these three stand.
    pub header: HeaderPositions,
    /// Variables and functions in their order.
    pub items: Vec<Item>,
}

/// Where the directives at the top of a module stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderPositions {
    /// `.version`
    pub version: Position,
    /// `.target`
    pub target: Position,
    /// `.address_size`; where it is missing, what stands in its place.
    pub address_size: Position,
}

/// Something at module scope.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A variable.
    Variable(Variable),
    /// An entry or a function.
    Function(Function),
}

/// How a name is seen from other modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linkage {
    /// `.extern`
    Extern,
    /// `.visible`
    Visible,
    /// `.weak`
    Weak,
    /// `.common`
    Common,
}

/// State space of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.const`
    Const,
    /// `.global`
    Global,
    /// `.local`
    Local,
    /// `.param`
    Param,
    /// `.shared`
    Shared,
}

/// A fundamental type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    Pred,
}

/// `.shared .align 16 .b8 name[64];`, also a parameter of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Of its first directive.
    pub position: Position,
    /// Linkage, at module scope.
    pub linkage: Option<Linkage>,
    /// State space.
    pub space: Space,
    /// `.align`, in bytes.
    pub align: Option<u32>,
    /// 2 or 4 for `.v2`, `.v4`.
    pub vector: Option<u32>,
    /// Element type.
    pub ty: Type,
    /// `.ptr`, of a parameter of an entry that is a pointer.
    pub pointer: Option<Pointer>,
    /// Name.
    pub name: String,
    /// Array dimensions; `None` where none is written (`name[]`).
    pub dimensions: Vec<Option<u64>>,
    /// Initial values, flattened; empty where there is no initialiser.
    pub initializer: Vec<Operand>,
}

/// `.ptr .global .align 16`: what the pointer in a parameter points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// State space; generic where none is written.
    pub space: Option<Space>,
    /// Alignment of what it points to, in bytes.
    pub align: Option<u32>,
}

/// `.entry` or `.func`.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Of its first directive.
    pub position: Position,
    /// Linkage.
    pub linkage: Option<Linkage>,
    /// Whether it is an `.entry`.
    pub is_entry: bool,
    /// Return parameters of a `.func`.
    pub returns: Vec<Variable>,
    /// Name.
    pub name: String,
    /// Parameters.
    pub parameters: Vec<Variable>,
    /// Where the parameters end: behind `)`, or behind the name where there is no list.
    pub parameters_end: Position,
    /// Performance-tuning and cluster directives between parameters and body.
    pub directives: Vec<Directive>,
    /// Body; `None` for a declaration.
    pub body: Option<Vec<Statement>>,
}

/// `.maxntid 384`, `.reqnctapercluster 2, 1, 1`, `.noreturn`: the name with its dot, and its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Of the directive.
    pub position: Position,
    /// With its dot.
    pub name: String,
    /// Its numbers.
    pub values: Vec<u32>,
}

/// Something in a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `name:`
    Label {
        /// Of the name.
        position: Position,
        /// The name.
        name: String,
    },
    /// `.reg .b32 %r<12>, x;`
    Registers {
        /// Of `.reg`.
        position: Position,
        /// 2 or 4 for `.v2`, `.v4`.
        vector: Option<u32>,
        /// Type of each.
        ty: Type,
        /// What is declared.
        names: Vec<Registers>,
    },
    /// A variable of the body's own.
    Variable(Variable),
    /// `{ … }`
    Block(Vec<Statement>),
    /// An instruction.
    Instruction(Instruction),
    /// `.pragma "…";`
    Pragma {
        /// Of `.pragma`.
        position: Position,
        /// The strings, without quotes.
        texts: Vec<String>,
    },
    /// `.branchtargets a, b;`, named by the label before it: where a `brx.idx` may go.
    BranchTargets {
        /// Of `.branchtargets`.
        position: Position,
        /// The labels.
        labels: Vec<String>,
    },
    /// `.callprototype (…) _ (…);`, named by the label before it: what an indirect call calls.
    CallPrototype {
        /// Of `.callprototype`.
        position: Position,
        /// Return parameters.
        returns: Vec<Variable>,
        /// Parameters.
        parameters: Vec<Variable>,
        /// Whether `.noreturn` stands behind them.
        no_return: bool,
    },
}

/// One name in a `.reg` declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The name, or what precedes the number.
    pub name: String,
    /// `N` in `%r<N>`: the names `%r0` to `%r(N-1)`.
    pub count: Option<u32>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Of its guard or opcode.
    pub position: Position,
    /// `@p` or `@!p`
    pub guard: Option<Guard>,
    /// What stands before the first dot: `"cp"`.
    pub opcode: String,
    /// What stands between dots, `::` kept: `["async", "bulk", "tensor", "4d", "shared::cluster", …]`.
    pub modifiers: Vec<String>,
    /// Operands in their order.
    pub operands: Vec<Operand>,
}

/// A guard predicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Whether it reads `@!p`.
    pub negated: bool,
    /// The predicate register.
    pub register: String,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, special register (`%tid.x`), label, variable or function.
    Name(String),
    /// `!p`
    Not(String),
    /// `_`, a result nobody wants.
    Sink,
    /// An integer as its 64-bit two's complement: `-1` and `0xffffffffffffffff` are the same.
    Integer(i64),
    /// `0fXXXXXXXX`
    F32(u32),
    /// `0dXXXXXXXXXXXXXXXX`, also a decimal like `1.5`.
    F64(u64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `name+8`, `generic(name)`: an address as a constant, in initialisers and `mov`.
    Symbol(Symbol),
    /// `[base+offset]`
    Address(Address),
    /// `(a, b)`, of a call.
    List(Vec<Operand>),
}

/// `name+8`, `generic(name)+8`, `0xff00(name)`: an address as a constant. Where there is nothing but the name, it is an
/// [`Operand::Name`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The variable or function.
    pub name: String,
    /// Whether it is the generic address.
    pub generic: bool,
    /// Added to the address, in bytes.
    pub offset: i64,
    /// The bits that are taken, shifted down to bit 0: `0xff00(name)` is the second byte.
    pub mask: Option<u64>,
}

/// `[base+offset]`, with coordinates `[base, {x, y}]` of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// A register, a variable, or `None` for an absolute address, which then is the offset.
    pub base: Option<String>,
    /// Added to the base, in bytes.
    pub offset: i64,
    /// Coordinates, innermost first; empty where there are none.
    pub coordinates: Vec<Operand>,
}

impl Instruction {
    /// Opcode and modifiers as written: `cp.async.bulk.wait_group.read`.
    pub fn mnemonic(&self) -> String {
        let mut text = self.opcode.clone();
        for modifier in &self.modifiers {
            text.push('.');
            text.push_str(modifier);
        }
        text
    }

    /// Whether a modifier stands there.
    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers.iter().any(|m| m == modifier)
    }
}

impl Type {
    /// Every type with its name.
    pub const ALL: [(Self, &'static str); 20] = [
        (Self::B8, "b8"),
        (Self::B16, "b16"),
        (Self::B32, "b32"),
        (Self::B64, "b64"),
        (Self::B128, "b128"),
        (Self::U8, "u8"),
        (Self::U16, "u16"),
        (Self::U32, "u32"),
        (Self::U64, "u64"),
        (Self::S8, "s8"),
        (Self::S16, "s16"),
        (Self::S32, "s32"),
        (Self::S64, "s64"),
        (Self::F16, "f16"),
        (Self::F16x2, "f16x2"),
        (Self::Bf16, "bf16"),
        (Self::Bf16x2, "bf16x2"),
        (Self::F32, "f32"),
        (Self::F64, "f64"),
        (Self::Pred, "pred"),
    ];

    /// The type of a name such as `"b32"`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(ty, _)| *ty)
    }

    /// Its name, without the dot.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(ty, _)| *ty == self).map_or("", |(_, name)| name)
    }

    /// Bytes in memory; 1 for a predicate, which is never there.
    pub fn bytes(self) -> u32 {
        match self {
            Self::B8 | Self::U8 | Self::S8 | Self::Pred => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B32 | Self::U32 | Self::S32 | Self::F32 | Self::F16x2 | Self::Bf16x2 => 4,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
            Self::B128 => 16,
        }
    }
}
