//! Kernels for [`attention::dequant`](crate::attention::dequant). Each thread has 16 codes of its own, under a scale of
//! its own: it reads the scale and four words of codes, and writes eight words of values.

use super::kernel;
use crate::attention::dequant::{self, FOUND, Scale, dequantise_16, dequantise_any_16, find_nan};
use crate::ptx::math::cvt_bf16x2;
use crate::ptx::special::cta_x;
use oximla_types::launch::WARP_THREADS;

kernel!(dequantise_f32, |lane, input, output| {
    dequantise(lane, input, output, |scale| {
        let scale = f32::from_bits(scale);
        (Scale::from_f32(scale), dequant::is_large_bf16(cvt_bf16x2(scale, 0.0)))
    })
});
kernel!(dequantise_ue8m0, |lane, input, output| {
    dequantise(lane, input, output, |scale| (Scale::from_ue8m0(scale), dequant::is_large_ue8m0(scale << 16)))
});

/// As the decode does; `scale` tells whether it is large, too.
#[inline(always)]
unsafe fn dequantise(lane: usize, input: *const u32, output: *mut u32, scale: impl Fn(u32) -> (Scale, bool)) {
    let thread = cta_x() as usize * WARP_THREADS as usize + lane;
    // SAFETY: as the caller promises.
    unsafe {
        let input = input.add(5 * thread);
        let codes = [1, 2, 3, 4].map(|word| *input.add(word));
        let store = |half: usize, values: [u32; 4]| {
            for (word, pair) in values.into_iter().enumerate() {
                *output.add(8 * thread + 4 * half + word) = pair;
            }
        };
        let (scale, is_large) = scale(*input);
        if is_large || find_nan(codes) & FOUND != 0 {
            dequantise_any_16(codes, scale, store);
        } else {
            dequantise_16(codes, scale, store);
        }
    }
}
