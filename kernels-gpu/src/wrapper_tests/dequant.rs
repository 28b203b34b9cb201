//! Kernels for [`attention::dequant`](crate::attention::dequant). Each thread has 16 codes of its own, under a scale of
//! its own: it reads the scale and four words of codes, and writes eight words of values.

use super::kernel;
use crate::attention::dequant::{Scale, dequantise_16};
use crate::ptx::special::cta_x;
use oximla_types::launch::WARP_THREADS;

kernel!(dequantise_f32, |lane, input, output| {
    dequantise(lane, input, output, |scale| Scale::from_f32(f32::from_bits(scale)))
});
kernel!(dequantise_ue8m0, |lane, input, output| { dequantise(lane, input, output, Scale::from_ue8m0) });

#[inline(always)]
unsafe fn dequantise(lane: usize, input: *const u32, output: *mut u32, scale: impl Fn(u32) -> Scale) {
    let thread = cta_x() as usize * WARP_THREADS as usize + lane;
    // SAFETY: as the caller promises.
    unsafe {
        let input = input.add(5 * thread);
        let codes = [1, 2, 3, 4].map(|word| *input.add(word));
        dequantise_16(codes, scale(*input), |half, values| {
            for (word, pair) in values.into_iter().enumerate() {
                *output.add(8 * thread + 4 * half + word) = pair;
            }
        });
    }
}
