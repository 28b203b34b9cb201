//! Tensor maps: which bytes a box of a tensor consists of, and where they go.
//!
//! What a tensor map says is taken from the CUDA driver API (`cuTensorMapEncodeTiled`) and the PTX ISA ("Tensors",
//! tiled mode). How the driver packs it into 128 bytes is not documented and differs between generations of GPUs, so
//! that [`TensorMap::encode`] has a form of its own, which only [`TensorMap::decode`] reads.
//!
//! * `constraints`: what the driver refuses;
//! * `encoding`: the 128 bytes;
//! * `pieces`: the parts of a box.

mod constraints;
mod encoding;
mod pieces;

pub use pieces::Piece;

pub use crate::matrix::swizzle::Swizzle;

/// Largest number of dimensions.
pub const MAX_RANK: usize = 5;

/// Bytes of an encoded map.
pub const MAP_BYTES: usize = 128;

/// A tensor in global memory, and the box of it that one instruction copies. Dimension 0 is the innermost; its elements
/// are neighbours. Interleaved layouts are not supported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Type of the elements.
    pub element: ElementType,
    /// Address of the first element, in global memory.
    pub address: u64,
    /// Elements in each dimension, 1 to 5 of them.
    pub dims: Vec<u64>,
    /// Bytes from one element to the next in dimensions 1, 2, …: one fewer than dimensions.
    pub strides: Vec<u64>,
    /// Elements that the box covers in each dimension.
    pub box_dims: Vec<u32>,
    /// The box takes every so many-th of the elements that it covers. That of dimension 0 is ignored, as the driver
    /// API says.
    pub element_strides: Vec<u32>,
    /// Order of 16-byte runs in shared memory.
    pub swizzle: Swizzle,
    /// Whether elements outside the tensor are read as NaN instead of zero.
    pub fill_nan: bool,
}

/// Type of the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ElementType {
    U8,
    U16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    Bf16,
    /// Copied as it is here; an H200 rounds the values to 10 bits of fraction on the way.
    Tf32,
}

/// What is wrong with a tensor map, or with a use of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tensor map: {field} is {found}; needed is {needed}")]
pub struct TensorMapError {
    /// The field, with its index: `strides[1]`.
    pub field: String,
    /// What it was.
    pub found: String,
    /// What would be right.
    pub needed: String,
}

impl TensorMapError {
    fn new(field: impl ToString, found: impl ToString, needed: impl ToString) -> Self {
        Self { field: field.to_string(), found: found.to_string(), needed: needed.to_string() }
    }
}

impl ElementType {
    /// Every type.
    pub const ALL: [Self; 11] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F16,
        Self::F32,
        Self::F64,
        Self::Bf16,
        Self::Tf32,
    ];

    /// Bytes of an element.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 | Self::Tf32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// A NaN as the lowest bits of the result; `None` for integers. Which NaN the hardware writes is not documented; an
    /// H200 writes 0x7ff7 to every 16 bits, whatever the type.
    pub const fn nan(self) -> Option<u64> {
        match self {
            Self::F16 | Self::Bf16 => Some(0x7ff7),
            Self::F32 | Self::Tf32 => Some(0x7ff7_7ff7),
            Self::F64 => Some(0x7ff7_7ff7_7ff7_7ff7),
            Self::U8 | Self::U16 | Self::U32 | Self::I32 | Self::U64 | Self::I64 => None,
        }
    }
}

impl TensorMap {
    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Bytes that a whole box counts on an mbarrier: the parts outside the tensor count too, the gaps that swizzling
    /// leaves behind short rows do not. At most [`u32::MAX`], far more than a valid map has.
    pub fn box_bytes(&self) -> u32 {
        self.rows().saturating_mul(self.row_bytes())
    }

    /// Bytes of shared memory from the first to behind the last of a box.
    pub fn shared_bytes(&self) -> u32 {
        let gap = self.row_pitch().saturating_sub(self.row_bytes());
        self.rows().saturating_mul(self.row_pitch()).saturating_sub(gap)
    }

    /// Sixteen bytes of what is read outside the tensor; a longer piece repeats them.
    pub fn fill(&self) -> [u8; 16] {
        let value = self.element.nan().filter(|_| self.fill_nan).unwrap_or(0).to_le_bytes();
        std::array::from_fn(|byte| value[byte % self.element.bytes() as usize])
    }

    /// Bytes of a row of the box.
    fn row_bytes(&self) -> u32 {
        self.box_dims.first().map_or(0, |elements| elements.saturating_mul(self.element.bytes()))
    }

    /// Bytes in shared memory from one row to the next: swizzled rows begin a new span each (CUDA programming guide,
    /// "Swizzle": a box whose inner dimension is smaller occupies the full width).
    fn row_pitch(&self) -> u32 {
        match self.swizzle {
            Swizzle::None => self.row_bytes(),
            swizzle => swizzle.span(),
        }
    }

    /// Rows of the box, over all outer dimensions.
    fn rows(&self) -> u32 {
        self.outer_counts().fold(1, u32::saturating_mul)
    }

    /// Elements that the box takes in dimensions 1, 2, …
    fn outer_counts(&self) -> impl Iterator<Item = u32> {
        let covered = self.box_dims.iter().zip(&self.element_strides).skip(1);
        covered.map(|(elements, stride)| elements.div_ceil((*stride).max(1)))
    }
}
