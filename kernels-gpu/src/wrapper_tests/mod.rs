//! One tiny kernel for each wrapper in [`ptx`](crate::ptx), called `wrapper_` and the wrapper's name, in a file of the
//! same name as the wrapper's. Compiled to a module of its own, which `tests/tests/wrappers/` runs.
//!
//! A kernel reads words, uses the wrapper so that its effect shows, and writes words. What it needs besides the wrapper
//! it does in plain Rust as far as Rust can; what the words should be is for the test to know. To test a new wrapper,
//! add a kernel here, its launch contract in `oximla_types::kernels::wrapper_tests` and a test of its name.
//!
//! Pieces of [`attention`](crate::attention) that can be tried exhaustively have kernels here as well, without the prefix.

mod barrier;
mod copy;
mod dequant;
mod fence;
mod math;
mod matrix;
mod mbarrier;
mod memory;
mod special;
mod warp;
mod wgmma;

/// An entry with the words it reads and those it writes. The body is unsafe code.
macro_rules! kernel {
    ($name:ident, |$thread:ident, $input:ident, $output:ident| $body:block) => {
        /// # Safety
        /// Launched under its contract; `input` and `output` are as long as the body needs.
        #[unsafe(no_mangle)]
        pub unsafe extern "ptx-kernel" fn $name($input: *const u32, $output: *mut u32) {
            let $thread = $crate::ptx::special::thread_x() as usize;
            // SAFETY: as the caller promises.
            unsafe { $body }
        }
    };
}
use kernel;
