//! What the conformance tests share: generated problems full of traps, strided tensors on every backend, the float64
//! oracle's answers and the tolerances to compare with.
//!
//! A test makes a *spec*, turns it into a case (the same type that case files are read into), runs it on a
//! [`Backend`](backend::Backend), and only then asks the oracle. The traps:
//!
//! * keys that no query may see are NaN, in FP8 caches too (NaN codes, NaN scales, NaN rotary part);
//! * page tables end in [`strided::Trap`] values far outside the cache, pages are shuffled;
//! * index lists hold the extreme integers, and point at NaN keys beyond their length;
//! * tensors may lie strided in buffers whose other elements are NaN or out of range;
//! * outputs and workspace are NaN before a run; afterwards each element must have been written and nothing around it.

pub mod backend;
pub mod dense_decode;
pub mod instructions;
pub mod inverse_rope;
pub mod kv_gather;
pub mod kv_insert;
pub mod merge_states;
pub mod mutation;
pub mod noise;
pub mod paged_cache;
pub mod sparse_decode;
pub mod sparse_prefill;
pub mod sparse_prefill_fp8;
pub mod strided;
pub mod sweep;
pub mod tolerance;
pub mod topk_to_slots;
