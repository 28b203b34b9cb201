//! [`ptx/memory.rs`](../../../kernels-gpu/src/ptx/memory.rs)

use crate::kernel::{Kernel, Work, words};

pub fn ld_global_i32(kernel: &Kernel) {
    check(kernel, words(32), 1, |word| (word as i32 / 2) as u32);
}

/// Halved, rounded to zero.
pub fn ld_global_i64(kernel: &Kernel) {
    let input = words(2 * 32);
    let halved = |pair: &[u32]| {
        let half = (i64::from(pair[1] as i32) << 32 | i64::from(pair[0])) / 2;
        [half as u32, (half >> 32) as u32]
    };
    let expected: Vec<_> = input.chunks(2).rev().flat_map(halved).collect();
    assert_eq!(kernel.run(&Work::new(input, expected.len())), expected);
}

pub fn ld_global_u32(kernel: &Kernel) {
    check(kernel, words(32), 1, |word| word / 2);
}

pub fn ld_global_f32(kernel: &Kernel) {
    let numbers = (0..32).map(|i| (i as f32 - 15.5).to_bits()).collect();
    check(kernel, numbers, 1, |word| (f32::from_bits(word) / 2.0).to_bits());
}

pub fn ld_global_f32x4(kernel: &Kernel) {
    check(kernel, words(4 * 32), 4, |word| word);
}

pub fn ld_global_u32x2(kernel: &Kernel) {
    check(kernel, words(2 * 32), 2, |word| word);
}

pub fn ld_global_u32x4(kernel: &Kernel) {
    check(kernel, words(4 * 32), 4, |word| word);
}

/// Bytes as words.
pub fn ld_shared_u8(kernel: &Kernel) {
    let input = words(32);
    let expected: Vec<_> = input.iter().rev().flat_map(|word| word.to_le_bytes()).map(u32::from).collect();
    assert_eq!(kernel.run(&Work::new(input, expected.len())), expected);
}

/// Halves as words.
pub fn ld_shared_u16(kernel: &Kernel) {
    let input = words(32);
    let expected: Vec<_> = input.iter().rev().flat_map(|word| [word & 0xffff, word >> 16]).collect();
    assert_eq!(kernel.run(&Work::new(input, expected.len())), expected);
}

/// As for [`ld_shared_u16`].
pub fn st_shared_u16(kernel: &Kernel) {
    ld_shared_u16(kernel);
}

pub fn ld_shared_u64(kernel: &Kernel) {
    check(kernel, words(2 * 32), 2, |word| word);
}

pub fn st_shared_u64(kernel: &Kernel) {
    check(kernel, words(2 * 32), 2, |word| word);
}

pub fn ld_shared_u32x2(kernel: &Kernel) {
    check(kernel, words(2 * 32), 2, |word| word);
}

pub fn st_global_u32x4(kernel: &Kernel) {
    check(kernel, words(4 * 32), 4, |word| word);
}

/// Lanes of even numbers store what they have, the others its complement: each of them is told not to store the other one.
pub fn st_global_u32x4_if(kernel: &Kernel) {
    let input = words(4 * 32);
    let stored = |(lane, words): (usize, &[u32])| -> Vec<u32> {
        words.iter().map(|&word| if lane.is_multiple_of(2) { word } else { !word }).collect()
    };
    let expected: Vec<_> = input.chunks(4).enumerate().rev().flat_map(stored).collect();
    assert_eq!(kernel.run(&Work::new(input, expected.len())), expected);
}

pub fn st_global_u32(kernel: &Kernel) {
    check(kernel, words(32), 1, |word| word);
}

pub fn st_global_f32(kernel: &Kernel) {
    check(kernel, words(32), 1, |word| word);
}

pub fn st_global_f32x2(kernel: &Kernel) {
    check(kernel, words(2 * 32), 2, |word| word);
}

pub fn st_global_u32x2(kernel: &Kernel) {
    check(kernel, words(2 * 32), 2, |word| word);
}

pub fn ld_shared_u32(kernel: &Kernel) {
    check(kernel, words(32), 1, |word| word);
}

pub fn ld_shared_u32x4(kernel: &Kernel) {
    check(kernel, words(4 * 32), 4, |word| word);
}

pub fn ld_shared_f32(kernel: &Kernel) {
    check(kernel, words(32), 1, |word| word);
}

pub fn st_shared_u32(kernel: &Kernel) {
    check(kernel, words(32), 1, |word| word);
}

pub fn st_shared_u32x4(kernel: &Kernel) {
    check(kernel, words(4 * 32), 4, |word| word);
}

pub fn st_shared_f32(kernel: &Kernel) {
    check(kernel, words(32), 1, |word| word);
}

pub fn st_shared_f32x2(kernel: &Kernel) {
    check(kernel, words(2 * 32), 2, |word| word);
}

/// Odd lanes zero their four words.
pub fn st_shared_zero_x4(kernel: &Kernel) {
    let input = words(4 * 32);
    let expected: Vec<_> =
        input.iter().enumerate().map(|(i, word)| if i / 4 % 2 == 0 { *word } else { 0 }).collect();
    assert_eq!(kernel.run(&Work::new(input, expected.len())), expected);
}

/// Lanes exchange their `width` words with the lanes opposite, something done to each word.
fn check(kernel: &Kernel, input: Vec<u32>, width: usize, value: impl Fn(u32) -> u32) {
    let expected: Vec<_> = input.chunks(width).rev().flatten().map(|word| value(*word)).collect();
    assert_eq!(kernel.run(&Work::new(input, expected.len())), expected);
}
