//! [`ptx/barrier.rs`](../../../kernels-gpu/src/ptx/barrier.rs)

use ptx_emulator::diagnostic::Check;

use crate::kernel::{Kernel, Work, words};

/// The halves of a CTA, 64 threads each, reverse their words through shared memory.
pub fn barrier_cta_sync(kernel: &Kernel) {
    let input = words(128);
    let work = Work::new(input.clone(), input.len());
    let reversed = input.chunks(64).flat_map(|half| half.iter().rev().copied());
    assert_eq!(kernel.run(&work), reversed.collect::<Vec<_>>());
    kernel.must_fail_without("bar.sync", &work, Check::DataRace);
}
