//! [`ptx/matrix.rs`](../../../kernels-gpu/src/ptx/matrix.rs)

use half::{bf16, f16};

use crate::kernel::{Kernel, Work, words};

/// Lane `4r + w` holds word `w` of row `r` of each matrix, and lane `8i + r` says where row `r` of matrix `i` goes.
pub fn stmatrix_x4(kernel: &Kernel) {
    let matrices = words(4 * 32);
    // Odd factors permute the slots.
    let slots: Vec<u32> = (0..32).map(|lane| lane * 11 % 32).collect();
    let mut expected = vec![0; 32 * 4];
    for (matrix, lane) in (0..4).flat_map(|matrix| (0..32).map(move |lane| (matrix, lane))) {
        let slot = slots[8 * matrix + lane / 4] as usize;
        expected[slot * 4 + lane % 4] = matrices[matrix * 32 + lane];
    }
    let work = Work::new([matrices, slots].concat(), expected.len());
    assert_eq!(kernel.run(&work), expected);
}

/// Lane `8i + r` says where row `r` of matrix `i` lies, and lane `4r + w` gets word `w` of row `r` of each matrix.
pub fn ldmatrix_x4(kernel: &Kernel) {
    let memory = words(32 * 4);
    let slots: Vec<u32> = (0..32).map(|lane| lane * 11 % 32).collect();
    let mut expected = vec![0; 4 * 32];
    for (matrix, lane) in (0..4).flat_map(|matrix| (0..32).map(move |lane| (matrix, lane))) {
        let slot = slots[8 * matrix + lane / 4] as usize;
        expected[matrix * 32 + lane] = memory[slot * 4 + lane % 4];
    }
    let work = Work::new([memory, slots].concat(), expected.len());
    assert_eq!(kernel.run(&work), expected);
}

pub fn mma_m16n8k16_f16(kernel: &Kernel) {
    check_product(kernel, |x| f16::from_f32(x).to_bits());
}

pub fn mma_m16n8k16_bf16(kernel: &Kernel) {
    check_product(kernel, |x| bf16::from_f32(x).to_bits());
}

/// D = C + A·B of small integers, which every format holds exactly.
fn check_product(kernel: &Kernel, bits: impl Fn(f32) -> u16) {
    let a = |row: usize, column: usize| ((7 * row + 3 * column) % 11) as f32 - 5.0;
    let b = |row: usize, column: usize| ((5 * row + 13 * column) % 9) as f32 - 4.0;
    let c = |row: usize, column: usize| (8 * row + column) as f32;
    let pair = |low: f32, high: f32| u32::from(bits(low)) | u32::from(bits(high)) << 16;
    // Row and column of a lane's accumulators, in order.
    let places = |lane: usize| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        [(row, column), (row, column + 1), (row + 8, column), (row + 8, column + 1)]
    };
    let (mut input, mut expected) = (vec![0; 10 * 32], vec![0; 4 * 32]);
    for lane in 0..32 {
        let (group, first) = (lane / 4, lane % 4 * 2);
        for (number, (row, column)) in places(lane).into_iter().enumerate() {
            let product: f32 = (0..16).map(|k| a(row, k) * b(k, column)).sum();
            input[number * 32 + lane] = c(row, column).to_bits();
            expected[number * 32 + lane] = (c(row, column) + product).to_bits();
        }
        let rows = [(group, first), (group + 8, first), (group, first + 8), (group + 8, first + 8)];
        for (number, (row, column)) in rows.into_iter().enumerate() {
            input[(4 + number) * 32 + lane] = pair(a(row, column), a(row, column + 1));
        }
        for (number, row) in [first, first + 8].into_iter().enumerate() {
            input[(8 + number) * 32 + lane] = pair(b(row, group), b(row + 1, group));
        }
    }
    let length = expected.len();
    assert_eq!(kernel.run(&Work::new(input, length)), expected);
}
