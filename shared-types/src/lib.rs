//! What the GPU kernels and the host library must agree on, written down once.
//!
//! * [`kv_cache`]: the formats of the paged KV cache, byte by byte;
//! * [`fp8`]: the scales of its FP8 tiles;
//! * [`rope`]: the angles of rotary position embedding;
//! * [`layout`]: how tiles lie in shared memory and fragments in registers;
//! * [`descriptor`]: the 64-bit operand descriptors of `wgmma`;
//! * [`schedule`]: how split-KV work is divided among CTAs;
//! * [`launch`]: what a kernel needs from whoever launches it;
//! * [`kernels`]: for each kernel its parameters, shared-memory plan and launch contract.
//!
//! The crate is `no_std`, has no panicking paths in what device code calls, and builds for the host and for `nvptx64`.
#![no_std]

pub mod descriptor;
pub mod fp8;
pub mod kernels;
pub mod kv_cache;
pub mod launch;
pub mod layout;
pub mod rope;
pub mod schedule;
