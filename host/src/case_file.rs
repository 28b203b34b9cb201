//! Problems with their inputs, and optionally the answer, as [safetensors] files.
//!
//! The file's metadata holds `op` (`dense_decode`, `sparse_decode`, `sparse_prefill` or `sparse_prefill_fp8`), `kv_format` (a
//! [`KvFormat`] name), `softmax_scale`, `head_dim_v`, of a dense decode `causal`, and where outputs are turned back
//! by angles without a table their base `rope_theta`. Tensors are contiguous and little-endian; `?` marks those that may be absent:
//!
//! | op | inputs | answer, all or none |
//! |---|---|---|
//! | `dense_decode` | `q`, `kv_cache` (BF16 or F16), `block_table`, `cache_seqlens` (I32) | `out`, `lse` (F32) |
//! | `sparse_decode` | `q` (BF16), `kv_cache` (U8), `indices` (I32), `topk_length`? (I32), `attn_sink`? (F32); a second cache as `extra_kv_cache`, `extra_indices`, `extra_topk_length`?; to turn the output back `positions`? (I32), and `cos_sin` (F32) unless there is a `rope_theta` | `out`, `lse` |
//! | `sparse_prefill` | `q`, `kv` (BF16), `indices`, `topk_length`? (I32), `attn_sink`? (F32) | `out`, `lse`, `max_logits` |
//! | `sparse_prefill_fp8` | those of `sparse_decode` | `out`, `lse`, `max_logits` |
//!
//! Shapes are those of [`DenseDecodeInputs`](crate::DenseDecodeInputs),
//! [`SparseDecodeInputs`](crate::SparseDecodeInputs), [`SparsePrefillInputs`](crate::SparsePrefillInputs) and
//! [`SparsePrefillFp8Inputs`](crate::SparsePrefillFp8Inputs), and of the outputs of the same operations; a page of an FP8 cache has no padding,
//! and a `topk_length` by request alone is `[batch]`. A file with any other tensor is refused, as
//! that may be an optional one misspelt.
//!
//! [safetensors]: https://huggingface.co/docs/safetensors

mod buffer;
mod read;
mod run;
mod shapes;
#[cfg(test)]
mod tests;
mod write;

pub use buffer::Buffer;
pub use run::Prepared;

use crate::{DenseDecode, Error, KvFormat, KvScopeShape, SparseDecode, SparsePrefill, SparsePrefillFp8};
use half::{bf16, f16};
use std::path::Path;

// Elements are copied between files and memory as they are.
const _: () = assert!(cfg!(target_endian = "little"), "case files need a little-endian target");

/// A problem with its inputs, and its answer if that is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Case {
    /// Of [`crate::DenseDecodePlan`].
    DenseDecode(DenseDecodeCase),
    /// Of [`crate::SparseDecodePlan`].
    SparseDecode(SparseDecodeCase),
    /// Of [`crate::SparsePrefillPlan`].
    SparsePrefill(SparsePrefillCase),
    /// Of [`crate::SparsePrefillFp8Plan`].
    SparsePrefillFp8(SparsePrefillFp8Case),
}

/// An answer in f32, whatever the outputs' type; shapes as of the operation's outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Attention output.
    pub out: Vec<f32>,
    /// Natural logarithm of the softmax denominator.
    pub lse: Vec<f32>,
    /// Largest scaled score, of a sparse prefill; empty otherwise.
    pub max_logits: Vec<f32>,
}

/// Elements of either 16-bit floating-point type.
#[derive(Clone, Debug, PartialEq)]
pub enum HalfVec {
    /// bfloat16.
    Bf16(Vec<bf16>),
    /// IEEE half precision.
    Fp16(Vec<f16>),
}

/// A dense decode with its inputs, all contiguous and of the shapes in [`crate::DenseDecodeInputs`].
#[derive(Clone, Debug, PartialEq)]
pub struct DenseDecodeCase {
    /// The problem.
    pub problem: DenseDecode,
    /// Queries.
    pub q: HalfVec,
    /// Pages of keys, of the queries' type.
    pub kv_cache: HalfVec,
    /// Page table.
    pub block_table: Vec<i32>,
    /// Keys of each request.
    pub cache_seqlens: Vec<i32>,
    /// The answer.
    pub expected: Option<Expected>,
}

/// A cache and the index lists into it, all contiguous and of the shapes in [`crate::KvScope`].
#[derive(Clone, Debug, PartialEq)]
pub struct ScopeCase {
    /// Shape of the cache and of the lists; the same as in the problem.
    pub shape: KvScopeShape,
    /// Pages, without padding between them.
    pub kv_cache: Vec<u8>,
    /// Tokens of each query.
    pub indices: Vec<i32>,
    /// How many indices of each query token's list count, or of all of a request's.
    pub topk_length: Option<Vec<i32>>,
}

/// A sparse decode with its inputs, all contiguous and of the shapes in [`crate::SparseDecodeInputs`].
#[derive(Clone, Debug, PartialEq)]
pub struct SparseDecodeCase {
    /// The problem.
    pub problem: SparseDecode,
    /// Queries.
    pub q: Vec<bf16>,
    /// The cache.
    pub scope: ScopeCase,
    /// The second cache.
    pub extra: Option<ScopeCase>,
    /// Weights that join the softmax denominator.
    pub attn_sink: Option<Vec<f32>>,
    /// By what the output is turned back.
    pub inverse_rope: Option<InverseRopeCase>,
    /// The answer.
    pub expected: Option<Expected>,
}

/// The inputs of an inverse rotation, contiguous and of the shapes in [`crate::InverseRopeInputs`].
#[derive(Clone, Debug, PartialEq)]
pub struct InverseRopeCase {
    /// Positions of the query tokens.
    pub positions: Vec<i32>,
    /// Cosines and sines of each position, where the problem has a table.
    pub cos_sin: Option<Vec<f32>>,
}

/// A sparse prefill with its inputs, all contiguous and of the shapes in [`crate::SparsePrefillInputs`].
#[derive(Clone, Debug, PartialEq)]
pub struct SparsePrefillCase {
    /// The problem.
    pub problem: SparsePrefill,
    /// Queries.
    pub q: Vec<bf16>,
    /// Keys.
    pub kv: Vec<bf16>,
    /// Keys of each query.
    pub indices: Vec<i32>,
    /// How many indices of each list count.
    pub topk_length: Option<Vec<i32>>,
    /// Weights that join the softmax denominator.
    pub attn_sink: Option<Vec<f32>>,
    /// The answer.
    pub expected: Option<Expected>,
}

/// A sparse prefill over FP8 caches with its inputs, all contiguous and of the shapes in [`crate::SparsePrefillFp8Inputs`].
#[derive(Clone, Debug, PartialEq)]
pub struct SparsePrefillFp8Case {
    /// The problem.
    pub problem: SparsePrefillFp8,
    /// Queries.
    pub q: Vec<bf16>,
    /// The cache.
    pub scope: ScopeCase,
    /// The second cache.
    pub extra: Option<ScopeCase>,
    /// Weights that join the softmax denominator.
    pub attn_sink: Option<Vec<f32>>,
    /// By what the output is turned back.
    pub inverse_rope: Option<InverseRopeCase>,
    /// The answer.
    pub expected: Option<Expected>,
}

impl Case {
    /// Reads a file.
    ///
    /// Tensors are checked against each other and against the format; whether the problem makes sense is for the plan
    /// to say.
    ///
    /// # Errors
    /// [`Error::File`] where the file cannot be read or is not a safetensors file, [`Error::InvalidProblem`] naming
    /// the tensor or metadata key that is missing, superfluous, or not what the rest of the file asks for.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|error| file_error(&path.display(), error))?;
        Self::from_bytes(&path.display().to_string(), &bytes)
    }

    /// As [`Case::read`], of a file's contents; `name` is what errors call the file.
    ///
    /// # Errors
    /// As of [`Case::read`].
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        read::case(name, bytes)
    }

    /// Writes the inputs, and `answer` in place of [`Case::expected`].
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] naming the tensor whose length is not what the problem says, [`Error::File`] where the
    /// file cannot be written.
    pub fn write(&self, path: &Path, answer: &Expected) -> Result<(), Error> {
        let name = path.display();
        let bytes = write::to_bytes(&name, self, answer)?;
        std::fs::write(path, bytes).map_err(|error| file_error(&name, error))
    }

    /// Name of the operation, as in the file.
    pub fn op(&self) -> &'static str {
        match self {
            Self::DenseDecode(_) => "dense_decode",
            Self::SparseDecode(_) => "sparse_decode",
            Self::SparsePrefill(_) => "sparse_prefill",
            Self::SparsePrefillFp8(_) => "sparse_prefill_fp8",
        }
    }

    /// The answer that the file holds.
    pub fn expected(&self) -> Option<&Expected> {
        match self {
            Self::DenseDecode(case) => case.expected.as_ref(),
            Self::SparseDecode(case) => case.expected.as_ref(),
            Self::SparsePrefill(case) => case.expected.as_ref(),
            Self::SparsePrefillFp8(case) => case.expected.as_ref(),
        }
    }
}

impl HalfVec {
    /// The dense cache format of the elements.
    pub fn format(&self) -> KvFormat {
        match self {
            Self::Bf16(_) => KvFormat::Bf16,
            Self::Fp16(_) => KvFormat::Fp16,
        }
    }
}

fn file_error(path: &impl ToString, reason: impl ToString) -> Error {
    Error::File { path: path.to_string(), reason: reason.to_string() }
}
