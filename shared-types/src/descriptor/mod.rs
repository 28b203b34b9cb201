//! Descriptors of operands that tensor-core instructions read from shared memory.

pub mod wgmma;
