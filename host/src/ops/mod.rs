//! The operations: problem, plan, run.

pub mod dense_decode;
pub mod inverse_rope;
pub mod kv_gather;
pub mod kv_insert;
pub mod merge_states;
// Without the CPU nothing computes the sparse operations yet: their plans cannot be made, nor what they call be used.
#[cfg_attr(not(feature = "cpu"), allow(unused, unreachable_code))]
pub mod sparse_decode;
#[cfg_attr(not(feature = "cpu"), allow(unused, unreachable_code))]
pub mod sparse_prefill;
pub mod sparse_prefill_fp8;
pub mod topk_to_slots;
#[cfg_attr(not(feature = "cpu"), allow(dead_code))]
mod validate;
