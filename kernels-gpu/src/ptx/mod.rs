//! PTX instructions as functions: one thin wrapper an instruction, named after its mnemonic.
//!
//! No loops, no policy, no tile types: those are built from these elsewhere. Shared-memory addresses are 32-bit
//! addresses of the `.shared` window, global addresses are 64-bit. Section names refer to the PTX ISA, version 8.4.
//!
//! Instructions that a whole warp or warpgroup must execute together say so; `asm!` is not convergent for LLVM, so
//! they must stand where control flow is uniform, and the PTX build pins how many of each a kernel has.

pub mod barrier;
pub mod copy;
pub mod fence;
pub mod math;
pub mod matrix;
pub mod mbarrier;
pub mod memory;
pub mod special;
pub mod warp;
pub mod wgmma;
