//! One launch with what it must give.

use std::sync::Arc;

use super::map::Map;

/// Threads of a CTA that runs a table of values, a row each.
pub const ROWS_OF_CTA: u32 = 128;

/// Bytes of a value in a row of a table.
pub const SLOT_BYTES: usize = 8;

/// What the output is full of before a launch, so that a missing store shows.
pub const UNWRITTEN: u8 = 0xcc;

/// An entry and one launch of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the file and of the entry: `float/add_rn_f32`.
    pub name: String,
    /// The module; cases that share it were written together.
    pub ptx: Arc<str>,
    /// Name of the entry in the module.
    pub entry: String,
    /// How it is launched.
    pub launch: Shape,
    /// Contents of the input buffer.
    pub input: Vec<u8>,
    /// Bytes of the output buffer.
    pub output_bytes: usize,
    /// Tensor maps: the parameters behind input and output.
    pub maps: Vec<Map>,
    /// Words of the output that are known.
    pub expected: Vec<Expected>,
    /// How far results may be apart.
    pub bound: Bound,
    /// Part of the emulator's finding, for a launch that is wrong. A GPU is spared it: a fault would take the cases
    /// behind it along.
    pub refused: Option<String>,
    /// The table whose rows are computed; `None` for entries that are written out.
    pub table: Option<Table>,
}

/// CTAs and threads, in one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs.
    pub grid: u32,
    /// CTAs of a cluster.
    pub cluster: u32,
    /// Dynamic shared memory of a CTA, in bytes.
    pub shared: u32,
}

/// Known bytes of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// First byte.
    pub offset: usize,
    /// What must be there.
    pub bytes: Vec<u8>,
}

/// How far a result may be from another one, where the ISA does not say exactly what it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Every bit is the same.
    Exact,
    /// So many units in the last place.
    Ulp(f64),
    /// A difference, absolute.
    Absolute(f64),
    /// A difference, relative to the larger of both.
    Relative(f64),
    /// A difference, absolute below 1 and relative above.
    Scaled(f64),
    /// No difference, but NaN may be any NaN.
    Number,
}

/// A table: each row has a value for each operand and gets one for each result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The instruction.
    pub form: String,
    /// Types of the operands.
    pub operands: Vec<Type>,
    /// Types of the results.
    pub results: Vec<Type>,
}

/// Type of a value in a table: how it is generated and how it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `f64`
    F64,
    /// `f32`
    F32,
    /// `turn`: f32 in -π..π.
    Turn,
    /// `f16`
    F16,
    /// `bf16`
    Bf16,
    /// `f16x2`
    F16x2,
    /// `bf16x2`
    Bf16x2,
    /// `b64`
    B64,
    /// `b32`
    B32,
    /// `b16`
    B16,
    /// `count`: a small number, as of bits to shift by.
    Count,
}

impl Type {
    /// Every type with its name.
    pub const ALL: [(&'static str, Self); 11] = [
        ("f64", Self::F64),
        ("f32", Self::F32),
        ("turn", Self::Turn),
        ("f16", Self::F16),
        ("bf16", Self::Bf16),
        ("f16x2", Self::F16x2),
        ("bf16x2", Self::Bf16x2),
        ("b64", Self::B64),
        ("b32", Self::B32),
        ("b16", Self::B16),
        ("count", Self::Count),
    ];

    /// Bits of a value.
    pub const fn bits(self) -> u32 {
        match self {
            Self::F64 | Self::B64 => 64,
            Self::F32 | Self::Turn | Self::F16x2 | Self::Bf16x2 | Self::B32 | Self::Count => 32,
            Self::F16 | Self::Bf16 | Self::B16 => 16,
        }
    }
}

impl Case {
    /// Parts of the output that belong together, as text: a row of a table, or a word.
    pub fn places(&self) -> usize {
        self.output_bytes / self.place_bytes()
    }

    /// Bytes of such a part.
    pub fn place_bytes(&self) -> usize {
        self.table.as_ref().map_or(size_of::<u32>(), |table| table.results.len() * SLOT_BYTES)
    }

    /// What the row of a table, or a word, is about.
    pub fn describe(&self, place: usize) -> String {
        let Some(table) = &self.table else { return format!("{} word {place}", self.name) };
        let row = &self.input[place * table.operands.len() * SLOT_BYTES..];
        let slots = row.as_chunks::<SLOT_BYTES>().0.iter().zip(&table.operands);
        let values: Vec<String> = slots
            .map(|(slot, ty)| {
                format!("{:#0width$x}", u64::from_le_bytes(*slot), width = ty.bits() as usize / 4 + 2)
            })
            .collect();
        format!("{} of ({})", table.form, values.join(", "))
    }
}
