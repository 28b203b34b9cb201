//! Merging the results of attention over disjoint keys by their log-sum-exp: `lse = log₂ Σ 2^lse_i` and
//! `out = Σ 2^(lse_i − lse)·out_i`.

use super::unroll;
use crate::ptx::{math, warp};
use oximla_types::launch::WARP_THREADS;

/// Parts whose loads are on their way together.
const PARTS_AT_ONCE: u32 = 8;

/// `log₂ Σ 2^lse` over `count` parts: −∞ where none had a key, NaN where one is.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
pub unsafe fn log_sum_exp2(count: u32, lane: u32, lse: impl Fn(u32) -> f32) -> f32 {
    let sum = |a, b| a + b;
    // SAFETY: the whole warp is here; the maximum is the same in all lanes, so that they take one branch.
    unsafe {
        let max = largest(count, lane, &lse);
        if max == f32::NEG_INFINITY {
            // The maximum passes over NaN, the sum does not.
            return reduce(count, lane, f32::NEG_INFINITY, sum, &lse);
        }
        math::lg2(reduce(count, lane, 0.0, sum, |part| math::ex2(lse(part) - max))) + max
    }
}

/// The largest lse of `count` parts: −∞ where none had a key; NaN is passed over.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
pub unsafe fn largest(count: u32, lane: u32, lse: impl Fn(u32) -> f32) -> f32 {
    // SAFETY: the whole warp is here.
    unsafe { reduce(count, lane, f32::NEG_INFINITY, math::max, lse) }
}

/// Four columns of the merged output. `log` is the [`log_sum_exp2`] of the parts; the values of one without keys are zero.
#[inline(always)]
pub fn weighted_sum(
    count: u32,
    log: f32,
    lse: impl Fn(u32) -> f32,
    values: impl Fn(u32) -> [f32; 4],
) -> [f32; 4] {
    let mut columns = [0.0; 4];
    let mut part = 0;
    while part < count {
        let mut part_lse = [f32::NEG_INFINITY; 8];
        let mut part_values = [[0.0; 4]; 8];
        unroll!(I in 8 => {
            const { assert!(PARTS_AT_ONCE == 8) };
            let part = part + I as u32;
            if part < count {
                part_lse[I] = lse(part);
                part_values[I] = values(part);
            }
        });
        unroll!(I in 8 => {
            let weight = if part_lse[I] == f32::NEG_INFINITY { 0.0 } else { math::ex2(part_lse[I] - log) };
            unroll!(J in 4 => { columns[J] += weight * part_values[I][J]; });
        });
        part += PARTS_AT_ONCE;
    }
    columns
}

/// Reduces the values of all parts, spread over the warp; every lane gets the result.
#[inline(always)]
unsafe fn reduce(
    count: u32,
    lane: u32,
    start: f32,
    op: impl Fn(f32, f32) -> f32,
    value: impl Fn(u32) -> f32,
) -> f32 {
    let mut result = start;
    let mut part = lane;
    while part < count {
        result = op(result, value(part));
        part += WARP_THREADS;
    }
    macro_rules! step {
        ($($mask:literal)*) => { $({
            // SAFETY: the whole warp is here.
            result = op(result, f32::from_bits(unsafe { warp::shfl_bfly::<$mask>(result.to_bits()) }));
        })* };
    }
    step!(16 8 4 2 1);
    result
}
