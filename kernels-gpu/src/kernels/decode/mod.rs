//! What all decode kernels have in common.

pub mod segments;
pub mod sm90;
