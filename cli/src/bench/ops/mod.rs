//! The operations that are timed: sizes as the cases give them, the library's problems, and inputs on the host.

mod dense_decode;
mod sparse_decode;
mod sparse_prefill;

use oximla::InvalidProblem;
use oximla::case_file::Case;
use serde::{Deserialize, Serialize};

pub use self::dense_decode::DenseDecodeShape;
pub use self::sparse_decode::SparseDecodeShape;
pub use self::sparse_prefill::SparsePrefillShape;

/// Elements of a value, and of an output row.
const HEAD_DIM_V: usize = 512;

/// The operation and its sizes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Shape {
    DenseDecode(DenseDecodeShape),
    SparseDecode(SparseDecodeShape),
    SparsePrefill(SparsePrefillShape),
}

impl Shape {
    /// The operation's name.
    pub fn op(&self) -> &'static str {
        match self {
            Self::DenseDecode(_) => "dense_decode",
            Self::SparseDecode(_) => "sparse_decode",
            Self::SparsePrefill(_) => "sparse_prefill",
        }
    }

    /// Floating-point operations of a call.
    pub fn flop(&self) -> f64 {
        match self {
            Self::DenseDecode(shape) => shape.problem().flop(shape.total_keys()),
            Self::SparseDecode(shape) => shape.problem().flop(),
            Self::SparsePrefill(shape) => shape.problem().flop(),
        }
    }

    /// Bytes that a call has to move: keys, queries and outputs once each; a selected key once for each query.
    pub fn bytes(&self) -> f64 {
        match self {
            Self::DenseDecode(shape) => shape.problem().bytes(shape.total_keys()),
            Self::SparseDecode(shape) => shape.problem().bytes(),
            Self::SparsePrefill(shape) => shape.problem().bytes(),
        }
    }

    /// Checks what sizes have to be to each other; each by itself is from 1 to a million.
    ///
    /// # Errors
    /// Where they contradict each other or no cache has them.
    pub fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::DenseDecode(_) => Ok(()),
            Self::SparseDecode(shape) => shape.check(),
            Self::SparsePrefill(shape) => shape.check(),
        }
    }

    /// The problem with its inputs, all of them drawn.
    ///
    /// # Errors
    /// When the numbers do not describe a problem.
    pub fn case(&self) -> Result<Case, InvalidProblem> {
        match self {
            Self::DenseDecode(shape) => shape.case().map(Case::DenseDecode),
            Self::SparseDecode(shape) => shape.case().map(Case::SparseDecode),
            Self::SparsePrefill(shape) => shape.case().map(Case::SparsePrefill),
        }
    }
}

/// The usual factor on scores: `head_dim^-0.5`.
fn softmax_scale(head_dim: usize) -> f32 {
    (head_dim as f32).sqrt().recip()
}
