//! Online softmax over accumulator fragments (Milakov and Gimelshein, 2018), in powers of two.
//!
//! A thread holds two rows of a 64×64 block of scores, 16 columns each; the four lanes of a quad hold a whole row. The
//! maximum starts at a finite floor instead of −∞, so that a fully masked row leaves 0 and never −∞ − −∞.

use super::unroll;
use crate::ptx::{math, warp};
use oximla_types::layout::fragment;

/// Where the running maximum starts: below any score that occurs, and finite.
pub const MAX_FLOOR: f32 = -1e30;

/// By how much a score may exceed the running maximum before the maximum follows it. As all is relative to the
/// maximum, a stale one costs no precision, and whoever multiplies by the corrections seldom has to; probabilities stay
/// below 2^8, far from the end of any 16-bit type.
const MAX_LAG: f32 = 8.0;

/// The log-sum-exp of a row as callers get it, of which `log` is the base-2 logarithm: in natural units, and ∞ where there was no key,
/// as FlashMLA has it.
#[inline(always)]
pub fn final_lse(log: f32) -> f32 {
    if log == f32::NEG_INFINITY { f32::INFINITY } else { log * core::f32::consts::LN_2 }
}

/// Running softmax state of the two rows of a thread.
pub struct OnlineSoftmax {
    /// Maximum of the scaled scores up to [`MAX_LAG`], the same in all lanes of a quad.
    max: [f32; 2],
    /// This thread's share of the denominator.
    sum: [f32; 2],
}

/// Which columns of a block each of a thread's two rows sees: those below the limit.
#[derive(Clone, Copy)]
pub struct ColumnLimits(pub [u32; 2]);

impl ColumnLimits {
    /// Multiplies the scores by `sign`, and makes those from the limits on −∞.
    #[inline(always)]
    pub fn mask(self, scores: &mut [f32; 32], first_column: u32, sign: f32) {
        unroll!(E in 32 => {
            let is_visible = first_column + fragment_column(E) < self.0[fragment_row(E)];
            scores[E] = if is_visible { scores[E] * sign } else { f32::NEG_INFINITY };
        });
    }
}

/// Row (0 or 1) of element `e` of an accumulator fragment.
pub const fn fragment_row(e: usize) -> usize {
    (fragment::accumulator(0, e as u32).row / 8) as usize
}

/// Column of element `e` for quad lane 0.
pub const fn fragment_column(e: usize) -> u32 {
    fragment::accumulator(0, e as u32).column
}

impl OnlineSoftmax {
    /// Before the first block.
    #[inline(always)]
    pub fn new() -> Self {
        Self { max: [MAX_FLOOR; 2], sum: [0.0; 2] }
    }

    /// Turns a block of raw scores into probabilities relative to the new maximum. Returns per row what everything before
    /// this block has to be multiplied by, and the block's largest scaled score. `scale_log2` is positive.
    ///
    /// # Safety
    /// The whole warp executes it.
    #[inline(always)]
    pub unsafe fn update(&mut self, scores: &mut [f32; 32], scale_log2: f32) -> ([f32; 2], [f32; 2]) {
        // SAFETY: the whole warp is here.
        let largest = unsafe { row_maxima(scores, scale_log2) };
        let max = follow(self.max, largest);
        let correction = [math::ex2(self.max[0] - max[0]), math::ex2(self.max[1] - max[1])];
        let mut sum = [self.sum[0] * correction[0], self.sum[1] * correction[1]];
        exponentials(scores, scale_log2, max, &mut sum);
        *self = Self { max, sum };
        (correction, largest)
    }

    /// Per row, the softmax denominator relative to the maximum, and its base-2 logarithm plus the maximum.
    /// Without any key the denominator is 0 and the logarithm −∞.
    ///
    /// # Safety
    /// The whole warp executes it.
    #[inline(always)]
    pub unsafe fn finish(&self) -> [(f32, f32); 2] {
        // SAFETY: the whole warp is here.
        let total = unsafe { [quad_sum(self.sum[0]), quad_sum(self.sum[1])] };
        [(total[0], math::lg2(total[0]) + self.max[0]), (total[1], math::lg2(total[1]) + self.max[1])]
    }
}

/// The largest scaled score of each of the thread's rows.
///
/// # Safety
/// The whole warp executes it.
#[inline(always)]
pub unsafe fn row_maxima(scores: &[f32; 32], scale_log2: f32) -> [f32; 2] {
    let mut largest = [f32::NEG_INFINITY; 2];
    unroll!(E in 32 => { largest[fragment_row(E)] = math::max(largest[fragment_row(E)], scores[E]); });
    // SAFETY: the whole warp is here.
    unsafe { [quad_max(largest[0]) * scale_log2, quad_max(largest[1]) * scale_log2] }
}

/// The running maxima with those of another block, which they follow beyond [`MAX_LAG`] only.
#[inline(always)]
pub fn follow(max: [f32; 2], largest: [f32; 2]) -> [f32; 2] {
    let mut followed = max;
    unroll!(ROW in 2 => { followed[ROW] = follow_one(followed[ROW], largest[ROW]); });
    followed
}

/// As [`follow`], one maximum.
#[inline(always)]
pub fn follow_one(max: f32, largest: f32) -> f32 {
    if largest > max + MAX_LAG { largest } else { max }
}

/// Turns scores into probabilities relative to `max`, and adds them to the sums.
#[inline(always)]
pub fn exponentials(scores: &mut [f32; 32], scale_log2: f32, max: [f32; 2], sum: &mut [f32; 2]) {
    unroll!(E in 32 => {
        scores[E] = math::ex2(math::fma(scores[E], scale_log2, -max[fragment_row(E)]));
        sum[fragment_row(E)] += scores[E];
    });
}

/// Maximum over the four lanes of a quad.
#[inline(always)]
unsafe fn quad_max(value: f32) -> f32 {
    // SAFETY: the whole warp is here.
    unsafe {
        let pair = math::max(value, f32::from_bits(warp::shfl_bfly::<1>(value.to_bits())));
        math::max(pair, f32::from_bits(warp::shfl_bfly::<2>(pair.to_bits())))
    }
}

/// Sum over the four lanes of a quad.
///
/// # Safety
/// The whole warp executes it.
#[inline(always)]
pub unsafe fn quad_sum(value: f32) -> f32 {
    // SAFETY: the whole warp is here.
    unsafe {
        let pair = value + f32::from_bits(warp::shfl_bfly::<1>(value.to_bits()));
        pair + f32::from_bits(warp::shfl_bfly::<2>(pair.to_bits()))
    }
}
