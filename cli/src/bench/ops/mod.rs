//! The operations that are timed: sizes as the cases give them, the library's problems, and inputs on the host.

mod cached_tokens;
mod dense_decode;
mod sparse_decode;
mod sparse_prefill;
mod sparse_prefill_fp8;

use anyhow::ensure;
use oximla::case_file::Case;
use oximla::{Error, KvFormat};
use serde::{Deserialize, Serialize};

pub use self::cached_tokens::CachedTokensShape;
pub use self::dense_decode::DenseDecodeShape;
pub use self::sparse_decode::SparseDecodeShape;
pub use self::sparse_prefill::SparsePrefillShape;
pub use self::sparse_prefill_fp8::SparsePrefillFp8Shape;

/// Elements of a value, and of an output row.
const HEAD_DIM_V: usize = 512;

/// The formats of FP8 caches, which differ in the elements of their keys.
const FP8_FORMATS: [KvFormat; 2] = [KvFormat::V32Fp8, KvFormat::Model1Fp8];

/// The operation and its sizes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Shape {
    DenseDecode(DenseDecodeShape),
    SparseDecode(SparseDecodeShape),
    SparsePrefill(SparsePrefillShape),
    SparsePrefillFp8(SparsePrefillFp8Shape),
    /// The same over a copy of the cache in bf16, made in each call.
    GatherSparsePrefill(SparsePrefillFp8Shape),
    KvInsert(CachedTokensShape),
    KvGather(CachedTokensShape),
}

impl Shape {
    /// The operation's name.
    pub fn op(&self) -> &'static str {
        match self {
            Self::DenseDecode(_) => "dense_decode",
            Self::SparseDecode(_) => "sparse_decode",
            Self::SparsePrefill(_) => "sparse_prefill",
            Self::SparsePrefillFp8(_) => "sparse_prefill_fp8",
            Self::GatherSparsePrefill(_) => "gather_sparse_prefill",
            Self::KvInsert(_) => "kv_insert",
            Self::KvGather(_) => "kv_gather",
        }
    }

    /// Floating-point operations of a call; none where it only moves bytes, however they change on the way.
    pub fn flop(&self) -> f64 {
        match self {
            Self::DenseDecode(shape) => shape.problem().flop(shape.total_keys()),
            Self::SparseDecode(shape) => shape.problem().flop(),
            Self::SparsePrefill(shape) => shape.problem().flop(),
            Self::SparsePrefillFp8(shape) | Self::GatherSparsePrefill(shape) => shape.problem().flop(),
            Self::KvInsert(_) | Self::KvGather(_) => 0.0,
        }
    }

    /// Bytes that a call has to move: keys, queries and outputs once each; a selected key once for each query; tokens of a
    /// cache and their elements once each.
    pub fn bytes(&self) -> f64 {
        match self {
            Self::DenseDecode(shape) => shape.problem().bytes(shape.total_keys()),
            Self::SparseDecode(shape) => shape.problem().bytes(),
            Self::SparsePrefill(shape) => shape.problem().bytes(),
            Self::SparsePrefillFp8(shape) => shape.problem().bytes(),
            Self::GatherSparsePrefill(shape) => shape.bytes_with_copy(),
            Self::KvInsert(shape) => shape.insertion().bytes(),
            Self::KvGather(shape) => shape.gathering().bytes(),
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
            Self::SparsePrefillFp8(shape) | Self::GatherSparsePrefill(shape) => shape.check(),
            Self::KvInsert(shape) | Self::KvGather(shape) => shape.check(),
        }
    }

    /// The problem with its inputs, all of them drawn.
    ///
    /// # Errors
    /// When the numbers do not describe a problem; [`Error::Unsupported`] where case files hold no such operation.
    pub fn case(&self) -> Result<Case, Error> {
        match self {
            Self::DenseDecode(shape) => Ok(shape.case().map(Case::DenseDecode)?),
            Self::SparseDecode(shape) => Ok(shape.case().map(Case::SparseDecode)?),
            Self::SparsePrefill(shape) => Ok(shape.case().map(Case::SparsePrefill)?),
            Self::SparsePrefillFp8(_)
            | Self::GatherSparsePrefill(_)
            | Self::KvInsert(_)
            | Self::KvGather(_) => Err(Error::Unsupported {
                what: self.op(),
                need: "a GPU to time it on".into(),
                have: "the CPU".into(),
            }),
        }
    }
}

/// The format of FP8 caches whose keys have `head_dim` elements.
fn fp8_format(head_dim: usize) -> Option<KvFormat> {
    FP8_FORMATS.into_iter().find(|format| format.head_dim() as usize == head_dim)
}

/// Checks that there is a format for keys of `d` elements.
fn check_head_dim(d: usize) -> anyhow::Result<()> {
    let [v32, model1] = FP8_FORMATS.map(KvFormat::head_dim);
    ensure!(fp8_format(d).is_some(), "d is {d}; needed is {v32} or {model1}");
    Ok(())
}

/// The usual factor on scores: `head_dim^-0.5`.
fn softmax_scale(head_dim: usize) -> f32 {
    (head_dim as f32).sqrt().recip()
}
