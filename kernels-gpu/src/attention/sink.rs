//! Attention sinks: a weight a head that joins the softmax denominator, but no key.

use crate::ptx::{math, memory};

/// The sink of a head that has none: it adds nothing.
pub const NONE: f32 = f32::NEG_INFINITY;

/// A head's sink; [`NONE`] without sinks, which address 0 stands for.
///
/// # Safety
/// There is a sink for the head, `stride` elements of f32 apart.
#[inline(always)]
pub unsafe fn load(sinks: u64, stride: i64, head: u32) -> f32 {
    if sinks == 0 {
        return NONE;
    }
    let offset = head as i64 * stride * 4;
    // SAFETY: as the caller promises.
    unsafe { memory::ld_global_f32(sinks.wrapping_add(offset as u64)) }
}

/// What a head's output is multiplied by for its sink: `1 / (1 + e^sink / sum)`, where `log` is the base-2 logarithm of
/// the sum; 1 without keys, where the output is 0 in any case.
#[inline(always)]
pub fn factor(sink: f32, log: f32) -> f32 {
    if log == f32::NEG_INFINITY {
        return 1.0;
    }
    // An infinite sink leaves 1/∞ or 1/1.
    math::rcp(1.0 + math::ex2(math::fma(sink, core::f32::consts::LOG2_E, -log)))
}
