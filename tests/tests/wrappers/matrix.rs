//! [`ptx/matrix.rs`](../../../kernels-gpu/src/ptx/matrix.rs)

use crate::kernel::{Kernel, Work, words};

/// Lane `4r + w` holds word `w` of row `r` of each matrix, and lane `8i + r` says where row `r` of matrix `i` goes.
pub fn stmatrix_x4(kernel: &Kernel) {
    let matrices = words(4 * 32);
    // Odd factors permute the slots.
    let slots: Vec<u32> = (0..32).map(|lane| lane * 11 % 32).collect();
    let mut expected = vec![0; 32 * 4];
    for (matrix, row) in (0..4).flat_map(|matrix| (0..8).map(move |row| (matrix, row))) {
        let slot = slots[8 * matrix + row] as usize;
        for word in 0..4 {
            expected[slot * 4 + word] = matrices[matrix * 32 + 4 * row + word];
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
