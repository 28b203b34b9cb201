//! The 16-bit element types, as the tensor cores see them.

use crate::ptx::{math, wgmma};
use oximla_types::descriptor::wgmma::SharedDescriptor;

/// A 16-bit floating-point type that `wgmma` multiplies.
pub trait Element {
    /// Two values rounded to this type, `low` in the lower half.
    fn pack(low: f32, high: f32) -> u32;

    /// Two values of this type, the lower half first.
    fn unpack(pair: u32) -> [f32; 2];

    /// `scores += A·Bᵀ` for 64 query rows, 64 keys and 16 columns, both operands K-major in shared memory.
    ///
    /// # Safety
    /// As for the `wgmma` wrappers.
    unsafe fn multiply_scores(scores: &mut [f32; 32], queries: SharedDescriptor, keys: SharedDescriptor);

    /// The same with the queries in registers: one step's first operand, as `fragment::a_operand` says.
    ///
    /// # Safety
    /// As for the `wgmma` wrappers.
    unsafe fn multiply_scores_registers(scores: &mut [f32; 32], queries: [u32; 4], keys: SharedDescriptor);

    /// `output += A·B` for 64 query rows, 16 keys and 128 columns, A K-major and B MN-major in shared memory.
    ///
    /// # Safety
    /// As for the `wgmma` wrappers.
    unsafe fn multiply_values(
        output: &mut [f32; 64],
        probabilities: SharedDescriptor,
        values: SharedDescriptor,
    );
}

/// bfloat16.
pub struct Bf16;

/// IEEE half precision.
pub struct Fp16;

macro_rules! element {
    ($ty:ty, $pack:ident, $unpack:expr, $scores:ident, $scores_registers:ident, $values:ident) => {
        impl Element for $ty {
            #[inline(always)]
            fn pack(low: f32, high: f32) -> u32 {
                math::$pack(low, high)
            }

            #[inline(always)]
            fn unpack(pair: u32) -> [f32; 2] {
                [$unpack(pair as u16), $unpack((pair >> 16) as u16)]
            }

            #[inline(always)]
            unsafe fn multiply_scores(
                scores: &mut [f32; 32],
                queries: SharedDescriptor,
                keys: SharedDescriptor,
            ) {
                // SAFETY: as the caller promises.
                unsafe { wgmma::$scores(scores, queries, keys) }
            }

            #[inline(always)]
            unsafe fn multiply_scores_registers(
                scores: &mut [f32; 32],
                queries: [u32; 4],
                keys: SharedDescriptor,
            ) {
                // SAFETY: as the caller promises.
                unsafe { wgmma::$scores_registers(scores, queries, keys) }
            }

            #[inline(always)]
            unsafe fn multiply_values(
                output: &mut [f32; 64],
                probabilities: SharedDescriptor,
                values: SharedDescriptor,
            ) {
                // SAFETY: as the caller promises.
                unsafe { wgmma::$values(output, probabilities, values) }
            }
        }
    };
}

element!(
    Bf16,
    cvt_bf16x2,
    bf16_value,
    wgmma_m64n64k16_bf16,
    wgmma_m64n64k16_bf16_ra,
    wgmma_m64n128k16_bf16_bt
);
element!(
    Fp16,
    cvt_f16x2,
    math::cvt_f32_f16,
    wgmma_m64n64k16_f16,
    wgmma_m64n64k16_f16_ra,
    wgmma_m64n128k16_f16_bt
);

/// A bf16 is the upper half of an f32.
#[inline(always)]
fn bf16_value(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}
