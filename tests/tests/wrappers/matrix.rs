//! [`ptx/matrix.rs`](../../../kernels-gpu/src/ptx/matrix.rs)

use std::array;

use crate::kernel::{Kernel, Work, words};

/// Lane `4r + w` holds word `w` of row `r` of each matrix, and lane `8i + r` says where row `r` of matrix `i` goes.
pub fn stmatrix_x4(kernel: &Kernel) {
    check_store(kernel, |rows| rows);
}

/// As [`stmatrix_x4`], but what lies in a row there is a column of the stored matrix.
pub fn stmatrix_x4_trans(kernel: &Kernel) {
    check_store(kernel, |rows| array::from_fn(|row| array::from_fn(|column| rows[column][row])));
}

/// A matrix of 16-bit elements.
type Matrix = [[u16; 8]; 8];

fn check_store(kernel: &Kernel, stored: impl Fn(Matrix) -> Matrix) {
    let matrices = words(4 * 32);
    // Odd factors permute the slots.
    let slots: Vec<u32> = (0..32).map(|lane| lane * 11 % 32).collect();
    let mut expected = vec![0; 32 * 4];
    for (matrix, words) in matrices.chunks(32).enumerate() {
        let held = |row: usize, column: usize| (words[4 * row + column / 2] >> (column % 2 * 16)) as u16;
        let rows = stored(array::from_fn(|row| array::from_fn(|column| held(row, column))));
        for (row, elements) in rows.iter().enumerate() {
            let slot = slots[8 * matrix + row] as usize;
            for (word, pair) in elements.chunks(2).enumerate() {
                expected[slot * 4 + word] = u32::from(pair[0]) | u32::from(pair[1]) << 16;
            }
        }
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
