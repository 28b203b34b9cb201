//! The float64 oracle: multi-head latent attention as naive loops that follow the definitions.
//!
//! Nothing here is shared with the kernels or the host library, so that an error in a layout, a format or a
//! formula cannot cancel itself in a comparison. Inputs are contiguous row-major slices: bf16 and fp16
//! tensors widened to f64 by the caller, FP8 caches as raw bytes.
//!
//! | operation | input | keys of a query |
//! |---|---|---|
//! | [`DenseDecode`] | paged bf16/fp16 cache | a prefix of the request, through its page table |
//! | [`SparseDecode`] | paged FP8 cache ([`v32`] or [`model1`]), perhaps two | listed slots |
//! | [`SparsePrefill`] | contiguous bf16 keys | listed rows |
//! | [`MergeStates`] | results over disjoint keys | those of all |
//!
//! [`InverseRope`] turns outputs back by their positions, by itself or at the end of a [`SparseDecode`].
//!
//! Around sparse decode, [`KvInsert`] writes tokens into an FP8 cache, [`KvGather`] reads them back, and [`TopkToSlots`]
//! finds the slots of positions.
//!
//! Conventions common to all:
//! - The value of a key is its first `head_dim_v` elements.
//! - `lse` and `max_logits` are natural-log units and do not include the attention sink.
//! - A query without a key has `out` 0, `lse` +inf and `max_logits` -inf, with or without a sink.
//! - The data of a key that is masked or never named is not read: it may be NaN. A NaN in a key that takes
//!   part spreads as arithmetic has it.
//!
//! Shapes that contradict each other panic: this is a test oracle, its callers are tests.

mod attention;
mod dense_decode;
pub mod fp8;
mod inverse_rope;
mod kv_gather;
mod kv_insert;
mod merge_states;
pub mod model1;
mod sparse_decode;
mod sparse_prefill;
mod topk_to_slots;
pub mod v32;

pub use attention::Attention;
pub use dense_decode::DenseDecode;
pub use inverse_rope::{InverseRope, QueryAngles, RopeAngles};
pub use kv_gather::KvGather;
pub use kv_insert::KvInsert;
pub use merge_states::{MergeStates, State};
pub use sparse_decode::{Fp8Format, Scope, SparseDecode};
pub use sparse_prefill::SparsePrefill;
pub use topk_to_slots::{TopkToSlots, Translation};
