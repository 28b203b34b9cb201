//! Merging the results of attention over disjoint keys by their log-sum-exp: `lse = log₂ Σ 2^lse_i` and
//! `out = Σ 2^(lse_i − lse)·out_i`.

use super::unroll;
use crate::ptx::{math, warp};

/// Parts whose loads are on their way together.
pub const PARTS_AT_ONCE: u32 = 10;

/// Repeats a block for each part, but for the second half of them where there are no more than the first: often there are few.
macro_rules! each_part {
    ($i:ident of $count:expr => $body:block) => {
        unroll!(FIRST in 5 => { const $i: usize = FIRST; $body });
        if $count > PARTS_AT_ONCE / 2 {
            unroll!(SECOND in 5 => { const $i: usize = SECOND + 5; $body });
        }
    };
}
const _: () = assert!(PARTS_AT_ONCE == 10, "twice five");

/// Values of a lane of [`log_sum_exp2`], at most.
pub const LANE_VALUES: usize = 8;

/// `log₂ Σ 2^lse` over the values of all lanes: −∞ where all are, NaN where one is. Every lane gets the same.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
pub unsafe fn log_sum_exp2<const N: usize>(lses: [f32; N]) -> f32 {
    const { assert!(N <= LANE_VALUES && LANE_VALUES == 8) };
    let mut max = f32::NEG_INFINITY;
    unroll!(I in 8 => { if I < N { max = math::max(max, lses[I]); } });
    // SAFETY: the whole warp is here.
    let base = finite_base(unsafe { largest(max) });
    let mut sum = 0.0;
    unroll!(I in 8 => { if I < N { sum += math::ex2(lses[I] - base); } });
    // SAFETY: as above.
    math::lg2(unsafe { across_warp(sum, |a, b| a + b) }) + base
}

/// [`log_sum_exp2`] of the values of one lane.
#[inline(always)]
pub fn log_sum_exp2_of_lane<const N: usize>(lses: [f32; N]) -> f32 {
    const { assert!(N <= PARTS_AT_ONCE as usize) };
    let mut max = f32::NEG_INFINITY;
    unroll!(I in 10 => { if I < N { max = math::max(max, lses[I]); } });
    let base = finite_base(max);
    let mut sum = 0.0;
    unroll!(I in 10 => { if I < N { sum += math::ex2(lses[I] - base); } });
    math::lg2(sum) + base
}

/// `log₂ (2^a + 2^b)`, with the same care for −∞ and NaN as [`log_sum_exp2`].
#[inline(always)]
pub fn log_add_exp2(a: f32, b: f32) -> f32 {
    let base = finite_base(math::max(a, b));
    math::lg2(math::ex2(a - base) + math::ex2(b - base)) + base
}

/// The largest value of any lane; NaN is passed over.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
pub unsafe fn largest(value: f32) -> f32 {
    // SAFETY: the whole warp is here.
    unsafe { across_warp(value, math::max) }
}

/// What to take off values of which `max` is the largest before they are exponents: −∞ less −∞ would be NaN.
#[inline(always)]
pub fn finite_base(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// What a part counts for of whose sum `lse` is the logarithm, `log` being that of all parts' sum: 0 for one without keys.
#[inline(always)]
pub fn weight(lse: f32, log: f32) -> f32 {
    math::ex2(lse - finite_base(log))
}

/// Adds a part's columns by its [`weight`]; one without weight counts for nothing, whatever its values are.
#[inline(always)]
pub fn add(columns: &mut [f32; 4], weight: f32, values: [f32; 4]) {
    if weight != 0.0 {
        unroll!(J in 4 => { columns[J] = math::fma(weight, values[J], columns[J]); });
    }
}

/// Columns of up to [`PARTS_AT_ONCE`] parts, on their way from memory.
pub struct Parts<V> {
    count: u32,
    values: [V; PARTS_AT_ONCE as usize],
}

impl<V: Copy + Default> Parts<V> {
    /// Asks for the values of the parts from 0 on, `count` or as many as there may be.
    #[inline(always)]
    pub fn load(count: u32, mut values: impl FnMut(u32) -> V) -> Self {
        let mut parts = Self { count, values: [V::default(); PARTS_AT_ONCE as usize] };
        each_part!(I of count => {
            if (I as u32) < count {
                parts.values[I] = values(I as u32);
            }
        });
        parts
    }

    /// Gives each part's values to `add`, with what `ask` asks memory for of it. Where there is no such part, `nothing` stands for that.
    #[inline(always)]
    pub fn add<A: Copy>(self, nothing: A, mut ask: impl FnMut(u32) -> A, mut add: impl FnMut(A, V)) {
        let mut asked = [nothing; PARTS_AT_ONCE as usize];
        each_part!(I of self.count => {
            if (I as u32) < self.count {
                asked[I] = ask(I as u32);
            }
        });
        each_part!(I of self.count => {
            add(asked[I], self.values[I]);
        });
    }
}

/// Reduces the values of all lanes; every lane gets the result.
#[inline(always)]
unsafe fn across_warp(mut value: f32, op: impl Fn(f32, f32) -> f32) -> f32 {
    macro_rules! step {
        ($($mask:literal)*) => { $({
            // SAFETY: the whole warp is here.
            value = op(value, f32::from_bits(unsafe { warp::shfl_bfly::<$mask>(value.to_bits()) }));
        })* };
    }
    step!(16 8 4 2 1);
    value
}
