//! Kernels for [`ptx::math`](crate::ptx::math): the function of a word of each lane, or of two.

use super::kernel;
use crate::ptx::math;
use oximla_types::launch::WARP_THREADS;

macro_rules! unary {
    ($name:ident, $function:path) => {
        kernel!($name, |lane, input, output| {
            *output.add(lane) = $function(f32::from_bits(*input.add(lane))).to_bits()
        });
    };
}

macro_rules! binary {
    ($name:ident, $function:path, $bits:path) => {
        kernel!($name, |lane, input, output| {
            let operand = |at| f32::from_bits(*input.add(at));
            *output.add(lane) = $bits($function(operand(lane), operand(lane + WARP_THREADS as usize)))
        });
    };
}

kernel!(wrapper_fma, |lane, input, output| {
    let operand = |number: u32| f32::from_bits(*input.add(lane + (number * WARP_THREADS) as usize));
    *output.add(lane) = math::fma(operand(0), operand(1), operand(2)).to_bits()
});
unary!(wrapper_ex2, math::ex2);
unary!(wrapper_lg2, math::lg2);
unary!(wrapper_rcp, math::rcp);
binary!(wrapper_max, math::max, f32::to_bits);
binary!(wrapper_cvt_bf16x2, math::cvt_bf16x2, u32::from);
binary!(wrapper_cvt_f16x2, math::cvt_f16x2, u32::from);
kernel!(wrapper_mul_bf16x2, |lane, input, output| {
    *output.add(lane) = math::mul_bf16x2(*input.add(lane), *input.add(lane + WARP_THREADS as usize))
});
kernel!(wrapper_mul_f16x2, |lane, input, output| {
    *output.add(lane) = math::mul_f16x2(*input.add(lane), *input.add(lane + WARP_THREADS as usize))
});
kernel!(wrapper_shr, |lane, input, output| {
    *output.add(lane) = math::shr(*input.add(lane), *input.add(lane + WARP_THREADS as usize))
});
kernel!(wrapper_prmt, |lane, input, output| {
    let (a, b) = (*input.add(lane), *input.add(lane + WARP_THREADS as usize));
    let results = [math::prmt::<0x6420>(a, b), math::prmt::<0x17be>(a, b)];
    for (number, result) in results.into_iter().enumerate() {
        *output.add(2 * lane + number) = result;
    }
});
kernel!(wrapper_prmt_by, |lane, input, output| {
    let operand = |number: u32| *input.add(lane + (number * WARP_THREADS) as usize);
    *output.add(lane) = math::prmt_by(operand(0), operand(1), operand(2))
});
kernel!(wrapper_cvt_f32_f16, |lane, input, output| {
    *output.add(lane) = math::cvt_f32_f16(*input.add(lane) as u16).to_bits()
});
binary!(wrapper_cvt_e4m3x2, math::cvt_e4m3x2, u32::from);
kernel!(wrapper_cvt_f16x2_e4m3x2, |lane, input, output| {
    *output.add(lane) = math::cvt_f16x2_e4m3x2(*input.add(lane) as u16)
});
