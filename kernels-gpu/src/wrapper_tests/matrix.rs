//! Kernels for [`ptx::matrix`](crate::ptx::matrix).

use super::kernel;
use crate::ptx::barrier::barrier_cta_sync;
use crate::ptx::matrix::{ldmatrix_x4, mma_m16n8k16_bf16, mma_m16n8k16_f16, stmatrix_x4};
use crate::ptx::memory::{ld_shared_u32, st_shared_u32};
use crate::ptx::special::dynamic_shared;
use oximla_types::launch::WARP_THREADS;

/// Words of a row of a matrix: eight elements of 16 bits.
const ROW_WORDS: usize = 4;

// The words of the four matrices, lane by lane for each, then each lane's row: the 16-byte slot it is stored to. The
// output is the slots in order.
kernel!(wrapper_stmatrix_x4, |lane, input, output| {
    let (lanes, shared) = (WARP_THREADS as usize, dynamic_shared());
    let matrices = [0, 1, 2, 3].map(|matrix| *input.add(matrix * lanes + lane));
    let slot = *input.add(matrices.len() * lanes + lane);
    stmatrix_x4(shared + slot * ROW_WORDS as u32 * 4, matrices);
    barrier_cta_sync::<0>(WARP_THREADS);
    for word in lane * ROW_WORDS..(lane + 1) * ROW_WORDS {
        *output.add(word) = ld_shared_u32(shared + word as u32 * 4);
    }
});

// The slots in order, then each lane's: the 16 bytes it names as a row. The output is the words of the four matrices, lane by
// lane for each.
kernel!(wrapper_ldmatrix_x4, |lane, input, output| {
    let (lanes, shared) = (WARP_THREADS as usize, dynamic_shared());
    for word in lane * ROW_WORDS..(lane + 1) * ROW_WORDS {
        st_shared_u32(shared + word as u32 * 4, *input.add(word));
    }
    barrier_cta_sync::<0>(WARP_THREADS);
    let slot = *input.add(lanes * ROW_WORDS + lane);
    let matrices = ldmatrix_x4(shared + slot * ROW_WORDS as u32 * 4);
    for (matrix, word) in matrices.into_iter().enumerate() {
        *output.add(matrix * lanes + lane) = word;
    }
});

// Of each lane the words of the accumulator, then those of A, then those of B, lane by lane for each. The output is the accumulator, alike.
kernel!(wrapper_mma_m16n8k16_f16, |lane, input, output| {
    multiply(lane, input, output, |c, a, b| mma_m16n8k16_f16(c, a, b))
});
kernel!(wrapper_mma_m16n8k16_bf16, |lane, input, output| {
    multiply(lane, input, output, |c, a, b| mma_m16n8k16_bf16(c, a, b))
});

#[inline(always)]
unsafe fn multiply(
    lane: usize,
    input: *const u32,
    output: *mut u32,
    mma: impl Fn(&mut [f32; 4], [u32; 4], [u32; 2]),
) {
    // SAFETY: as the caller promises.
    unsafe {
        let word = |number: usize| *input.add(number * WARP_THREADS as usize + lane);
        let mut accumulator = [0, 1, 2, 3].map(|number| f32::from_bits(word(number)));
        mma(&mut accumulator, [4, 5, 6, 7].map(word), [8, 9].map(word));
        for (number, value) in accumulator.into_iter().enumerate() {
            *output.add(number * WARP_THREADS as usize + lane) = value.to_bits();
        }
    }
}
