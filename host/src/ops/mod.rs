//! The operations: problem, plan, run.

pub mod dense_decode;
pub mod sparse_decode;
pub mod sparse_prefill;
mod validate;
