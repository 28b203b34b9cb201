//! Sparse MLA prefill: each query token attends to the keys that its index list names.

pub mod sm90;
