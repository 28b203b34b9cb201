//! [`ptx/special.rs`](../../../kernels-gpu/src/ptx/special.rs)

use ptx_emulator::diagnostic::Check;

use crate::copy::{box_at, fetch};
use crate::kernel::{Kernel, Work, words};

/// What the module promises of the address: panels with 128-byte swizzle fit there.
const ALIGNMENT: u32 = 1024;

/// Shared memory begins at an aligned address, and can be used to its end.
pub fn dynamic_shared(kernel: &Kernel) {
    let input = words(32);
    let found = kernel.run(&Work::new(input.clone(), 2 * 32));
    let (addresses, passed_on) = found.split_at(32);
    assert!(addresses[0].is_multiple_of(ALIGNMENT), "{:#x}", addresses[0]);
    assert_eq!(addresses, [addresses[0]; 32]);
    assert_eq!(passed_on, input.into_iter().rev().collect::<Vec<_>>());
}

pub fn again(kernel: &Kernel) {
    let input = words(32);
    assert_eq!(kernel.run(&Work::new(input.clone(), 32)), input);
}

pub fn again_u64(kernel: &Kernel) {
    let input = words(2 * 32);
    assert_eq!(kernel.run(&Work::new(input.clone(), 2 * 32)), input);
}

pub fn thread_x(kernel: &Kernel) {
    check_register(kernel, |_, thread| thread);
}

pub fn cta_x(kernel: &Kernel) {
    check_register(kernel, |[x, _], _| x);
}

pub fn cta_y(kernel: &Kernel) {
    check_register(kernel, |[_, y], _| y);
}

/// Neighbouring CTAs are a cluster.
pub fn cluster_rank(kernel: &Kernel) {
    check_register(kernel, |[x, _], _| x % 2);
}

pub fn cluster_ctas(kernel: &Kernel) {
    check_register(kernel, |_, _| 2);
}

/// The words of a CTA go to the other one of its cluster.
pub fn mapa(kernel: &Kernel) {
    let input = words(2 * 32);
    let work = Work::new(input.clone(), input.len()).on_grid([2, 1]);
    let (first, second) = input.split_at(32);
    assert_eq!(kernel.run(&work), [second, first].concat());
}

/// Two warpgroups get more registers than there are, until the third one gives some back.
pub fn setmaxnreg_inc(kernel: &Kernel) {
    moves_registers(kernel);
}

pub fn setmaxnreg_dec(kernel: &Kernel) {
    moves_registers(kernel);
}

/// Passes where no lane traps.
pub fn trap(kernel: &Kernel) {
    let work = |lane| Work::new(vec![lane], 32);
    assert_eq!(kernel.run(&work(32)), (0..32).collect::<Vec<_>>());
    kernel.must_fail(&work(5), Check::Trap);
}

pub fn griddepcontrol_wait(kernel: &Kernel) {
    copies_words(kernel);
}

pub fn griddepcontrol_launch_dependents(kernel: &Kernel) {
    copies_words(kernel);
}

/// The parameters hold a tensor map, which a copy finds by its address.
pub fn parameter_address(kernel: &Kernel) {
    let coordinates = [64, 0, 1, 0];
    assert_eq!(kernel.run(&fetch(coordinates)), box_at(coordinates));
}

/// On a grid of 3 by 2 clusters, what a register holds in each CTA and thread.
fn check_register(kernel: &Kernel, value: impl Fn([u32; 2], u32) -> u32) {
    let (grid, threads) = ([3 * kernel.entry.cluster, 2], kernel.entry.threads);
    let mut expected = Vec::new();
    for (y, x) in (0..grid[1]).flat_map(|y| (0..grid[0]).map(move |x| (y, x))) {
        expected.extend((0..threads).map(|thread| value([x, y], thread)));
    }
    let work = Work::new(vec![grid[0], threads], expected.len()).on_grid(grid);
    assert_eq!(kernel.run(&work), expected);
}

fn copies_words(kernel: &Kernel) {
    let input = words(32);
    assert_eq!(kernel.run(&Work::new(input.clone(), input.len())), input);
}

fn moves_registers(kernel: &Kernel) {
    let input: Vec<u32> = (0..3 * 128).collect();
    let expected: Vec<_> = input.iter().map(|word| if *word < 128 { word + 1 } else { word + 2 }).collect();
    let work = Work::new(input, expected.len());
    assert_eq!(kernel.run(&work), expected);
    kernel.must_fail_without("setmaxnreg.dec", &work, Check::Deadlock);
}
