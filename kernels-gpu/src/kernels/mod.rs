//! The entry points, one module a kernel, and what they share.

pub mod combine;
pub mod decode;
pub mod dense_decode;
pub mod inverse_rope;
pub mod kv_gather;
pub mod kv_insert;
pub mod merge_states;
pub mod sparse_decode;
pub mod sparse_prefill;
pub mod topk_to_slots;
