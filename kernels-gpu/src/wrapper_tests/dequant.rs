//! Kernels for [`attention::dequant`](crate::attention::dequant). Each thread has 16 codes of its own, under a scale of
//! its own: it reads the scale and four words of codes, and writes eight words of values.

use super::kernel;
use crate::attention::dequant::{self, FOUND, Factor, Scale, dequantise_16, dequantise_any_16, find_nan};
use crate::ptx::math::cvt_bf16x2;
use crate::ptx::special::cta_x;
use oximla_types::launch::WARP_THREADS;

kernel!(dequantise_f32, |lane, input, output| {
    dequantise(lane, input, output, |scale| {
        let scale = f32::from_bits(scale);
        // The second one of a pair.
        let pair = cvt_bf16x2(1.0, scale);
        let is_large = dequant::find_large_bf16(pair) & FOUND != 0;
        Prepared { scale: Scale::from_f32(scale), factor: Factor::of_pair(Factor::pair(pair), 1), is_large }
    })
});
kernel!(dequantise_ue8m0, |lane, input, output| {
    dequantise(lane, input, output, |scale| {
        // The third one of four.
        let bytes = scale << 16;
        let is_large = dequant::find_large_ue8m0(bytes) & FOUND != 0;
        Prepared { scale: Scale::from_ue8m0(scale), factor: Factor::of_ue8m0(bytes, 2), is_large }
    })
});

/// A scale, as either way takes it.
struct Prepared {
    scale: Scale,
    factor: Factor,
    is_large: bool,
}

/// As the decode does.
#[inline(always)]
unsafe fn dequantise(lane: usize, input: *const u32, output: *mut u32, prepare: impl Fn(u32) -> Prepared) {
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
        let Prepared { scale, factor, is_large } = prepare(*input);
        if is_large || find_nan(codes) & FOUND != 0 {
            dequantise_any_16(codes, scale, store);
        } else {
            dequantise_16(codes, factor, store);
        }
    }
}
