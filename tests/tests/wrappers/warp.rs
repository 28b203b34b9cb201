//! [`ptx/warp.rs`](../../../kernels-gpu/src/ptx/warp.rs)

use ptx_emulator::diagnostic::Check;

use crate::kernel::{Kernel, Work, words};

/// With the lane whose number differs by 5.
pub fn shfl_bfly(kernel: &Kernel) {
    check_lanes(kernel, &[], |lane| lane ^ 5);
}

/// With the lane three below; the first three keep theirs.
pub fn shfl_up(kernel: &Kernel) {
    check_lanes(kernel, &[], |lane| if lane < 3 { lane } else { lane - 3 });
}

/// With a lane that each names.
pub fn shfl_idx(kernel: &Kernel) {
    let from = |lane: usize| (lane * 7 + 3) % 32;
    check_lanes(kernel, &(0..32).map(|lane| from(lane) as u32).collect::<Vec<_>>(), from);
    check_lanes(kernel, &[13; 32], |_| 13);
}

/// With one of lanes 12 to 15: the one that is among them what the own lane is among four.
pub fn shfl_idx_among(kernel: &Kernel) {
    check_lanes(kernel, &[], |lane| 12 + lane % 4);
}

pub fn ballot(kernel: &Kernel) {
    for set in [0, 1, 0x8000_0000, 0xa5a5_1234, u32::MAX] {
        let predicates = (0..32).map(|lane| set >> lane & 1).collect();
        assert_eq!(kernel.run(&Work::new(predicates, 32)), [set; 32]);
    }
}

/// As words without a sign: the highest bit counts.
pub fn redux_max(kernel: &Kernel) {
    for (lane, largest) in [(0, 0x8000_0001), (13, 0xffff_ffff), (31, 0x7f80_0000)] {
        let mut values: Vec<u32> = (0..32).map(|lane| (lane * 0x0123_4567) & 0x7f7f_ffff).collect();
        values[lane] = largest;
        assert_eq!(kernel.run(&Work::new(values, 32)), [largest; 32]);
    }
    assert_eq!(kernel.run(&Work::new(vec![0; 32], 32)), [0; 32]);
}

/// With the lane opposite, through shared memory.
pub fn warp_sync(kernel: &Kernel) {
    check_lanes(kernel, &[], |lane| 31 - lane);
    kernel.must_fail_without("bar.warp.sync", &Work::new(words(32), 32), Check::DataRace);
}

/// Each lane gets the word of lane `from(lane)`.
fn check_lanes(kernel: &Kernel, more_input: &[u32], from: impl Fn(usize) -> usize) {
    let values = words(32);
    let expected: Vec<_> = (0..32).map(|lane| values[from(lane)]).collect();
    assert_eq!(kernel.run(&Work::new([&values, more_input].concat(), 32)), expected);
}
