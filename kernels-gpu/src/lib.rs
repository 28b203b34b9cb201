//! oximla's GPU kernels, in Rust, compiled to PTX by rustc's own `nvptx64-nvidia-cuda` target.
//!
//! * `ptx`: one thin wrapper an instruction; the only place with `asm!`;
//! * `sync`: barriers as types;
//! * `attention`: the pieces of attention that kernels share;
//! * `kernels`: the entry points;
//! * `wrapper_tests`: one kernel for each wrapper in `ptx`, a module apart from the library's.
//!
//! For any other target the crate is empty, so that the workspace builds with stable Rust.
#![cfg(target_arch = "nvptx64")]
#![no_std]
#![feature(abi_ptx, asm_experimental_arch, link_llvm_intrinsics)]
#![allow(internal_features)]

pub mod attention;
#[cfg(not(feature = "wrapper-tests"))]
pub mod kernels;
pub mod ptx;
pub mod sync;
#[cfg(feature = "wrapper-tests")]
pub mod wrapper_tests;

/// Kernels have no bounds checks or unwraps left, so nothing reaches this; the PTX lint makes sure.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    ptx::special::trap()
}
