//! The entry points, one module a kernel.

pub mod combine;
pub mod dense_decode;
pub mod merge_states;
