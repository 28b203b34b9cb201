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

pub fn barrier_cluster_arrive(kernel: &Kernel) {
    exchanges_words(kernel);
    kernel.must_fail_without("barrier.cluster.arrive", &exchange(), Check::Barrier);
}

pub fn barrier_cluster_wait(kernel: &Kernel) {
    exchanges_words(kernel);
    kernel.must_fail_without("barrier.cluster.wait", &exchange(), Check::DataRace);
}

/// A word a lane of the two CTAs of a cluster; the output has as many more, through which they pass.
fn exchange() -> Work {
    Work::new(words(2 * 32), 2 * 2 * 32).on_grid([2, 1])
}

/// Each CTA gets the other's words.
fn exchanges_words(kernel: &Kernel) {
    let input = words(2 * 32);
    let exchanged = [&input[32..], &input[..32], &input].concat();
    assert_eq!(kernel.run(&exchange()), exchanged);
}
