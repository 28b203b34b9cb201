//! [`ptx/mbarrier.rs`](../../../kernels-gpu/src/ptx/mbarrier.rs)

use ptx_emulator::diagnostic::Check;

use crate::copy::{box_at, fetch};
use crate::kernel::{Kernel, Work, words};

pub fn mbarrier_init(kernel: &Kernel) {
    passes_on(kernel);
    kernel.must_fail_without("mbarrier.init", &pass_on(), Check::Mbarrier);
}

pub fn mbarrier_arrive(kernel: &Kernel) {
    passes_on(kernel);
    kernel.must_fail_without("mbarrier.arrive", &pass_on(), Check::Deadlock);
}

/// Both parities are waited for, by either warp: the data would be wrong or a race if one did not wait.
pub fn mbarrier_try_wait_parity(kernel: &Kernel) {
    passes_on(kernel);
}

/// The bytes of a copy are expected.
pub fn mbarrier_arrive_expect_tx(kernel: &Kernel) {
    let coordinates = [0, 0, 1, 1];
    assert_eq!(kernel.run(&fetch(coordinates)), box_at(coordinates));
    kernel.must_fail_without("mbarrier.arrive.expect_tx", &fetch(coordinates), Check::Deadlock);
}

/// One CTA of a cluster waits for the arrivals of the other one, which must be at its barrier, not at their own.
pub fn mbarrier_arrive_cluster(kernel: &Kernel) {
    let input = words(2 * 32);
    let work = Work::new(input.clone(), input.len()).on_grid([2, 1]);
    assert_eq!(kernel.run(&work), input);
    kernel.must_fail_without("{ .reg .b32 remote", &work, Check::Deadlock);
}

/// Four rounds of a word a lane.
fn pass_on() -> Work {
    Work::new(words(4 * 32), 4 * 32)
}

/// One warp passes words on to the other, which reverses those of each round.
fn passes_on(kernel: &Kernel) {
    let input = words(4 * 32);
    let expected: Vec<_> = input.chunks(32).flat_map(|round| round.iter().rev().copied()).collect();
    assert_eq!(kernel.run(&pass_on()), expected);
}
