//! Attention of a tile of query rows over blocks of keys, with online softmax (Milakov and Gimelshein, 2018) in powers
//! of two.
//!
//! ```text
//! for each block:  S = Q·Kᵀ               Q is scaled by softmax_scale · log₂ e
//!                  m' = max(m, max S)      per row
//!                  P = 2^(S − m')
//!                  l = l · 2^(m − m') + Σ P
//!                  O = O · 2^(m − m') + P·V
//! at the end:      out = O / l, lse = m · ln 2 + ln l
//! ```
//!
//! Partial results (O, m, l) of disjoint keys merge by the same rule.

use super::exp2::exp2;
use super::matrix::{Matrix, multiply};
use std::f64::consts::{LN_2, LOG2_E};
use std::ops::Range;

/// Query rows of a tile at most.
pub(super) const TILE_ROWS: usize = 64;

/// Keys of a block at most. A tile, a block and its results stay in a core's L2 cache.
pub(super) const BLOCK_KEYS: usize = 64;

/// What an operation tells about its tiles. A tile's *positions* are where it may have keys: the key list of its
/// rows, not all of which need be keys that take part.
pub(super) trait Operation: Sync {
    /// Query rows, at most [`TILE_ROWS`].
    fn rows(&self, tile: usize) -> usize;

    /// Positions of the tile's key list.
    fn positions(&self, tile: usize) -> usize;

    /// Writes a query, unscaled.
    fn load_query(&self, tile: usize, row: usize, to: &mut [f32]);

    /// Writes the keys that take part, without gaps, and returns their number.
    fn load_keys(&self, tile: usize, positions: Range<usize>, to: &mut [f32]) -> usize;

    /// How many positions, from the first, the row sees. Where that is not all, no position may lack its key.
    fn visible(&self, _tile: usize, _row: usize) -> usize {
        usize::MAX
    }

    /// The row's attention sink, a natural-log weight.
    fn sink(&self, _tile: usize, _row: usize) -> Option<f32> {
        None
    }

    /// Writes a result.
    ///
    /// # Safety
    /// One call at a time for a tile and row.
    unsafe fn store(&self, tile: usize, row: usize, result: RowResult<'_>);
}

/// Attention of a row.
#[derive(Debug)]
pub(super) struct RowResult<'a> {
    pub out: &'a [f32],
    pub lse: f32,
    pub max_logit: f32,
}

/// Sizes that all tiles of a problem share.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileDims {
    pub rows: usize,
    pub head_dim: usize,
    pub head_dim_v: usize,
    pub softmax_scale: f32,
}

impl TileDims {
    /// Numbers in a [`Scratch`].
    pub(super) fn scratch_len(&self) -> usize {
        let loaded = (self.rows + BLOCK_KEYS) * self.head_dim;
        loaded + self.rows * BLOCK_KEYS + 2 * self.partial_len()
    }

    /// Numbers in a [`Partial`].
    pub(super) fn partial_len(&self) -> usize {
        self.rows * (self.head_dim_v + 2)
    }
}

/// Unnormalised attention over some keys: O, m and l of each row.
pub(super) struct Partial<'a> {
    out: &'a mut [f32],
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

/// What a thread needs besides: Q, K, S, and two partial results.
pub(super) struct Scratch<'a> {
    q: &'a mut [f32],
    keys: &'a mut [f32],
    scores: &'a mut [f32],
    total: Partial<'a>,
    part: Partial<'a>,
}

impl<'a> Partial<'a> {
    /// Over no keys so far, or whatever `memory` holds.
    pub(super) fn in_memory(dims: &TileDims, memory: &'a mut [f32]) -> Self {
        let (out, memory) = memory.split_at_mut(dims.rows * dims.head_dim_v);
        let (max, sum) = memory.split_at_mut(dims.rows);
        Self { out, max, sum: &mut sum[..dims.rows] }
    }

    fn clear(&mut self) {
        self.out.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
    }

    /// Adds a partial result over other keys.
    pub(super) fn merge(&mut self, dims: &TileDims, other: &Partial<'_>) {
        let outs = self.out.chunks_exact_mut(dims.head_dim_v).zip(other.out.chunks_exact(dims.head_dim_v));
        for (row, (out, other_out)) in outs.enumerate() {
            let max = larger(self.max[row], other.max[row]);
            let base = finite_base(max);
            let (own, others) = (exp2(self.max[row] - base), exp2(other.max[row] - base));
            for (o, other) in out.iter_mut().zip(other_out) {
                *o = *o * own + other * others;
            }
            self.sum[row] = self.sum[row] * own + other.sum[row] * others;
            self.max[row] = max;
        }
    }

    /// Normalises and stores all rows of `tile`.
    ///
    /// # Safety
    /// One call at a time for a tile.
    pub(super) unsafe fn store(&mut self, dims: &TileDims, operation: &impl Operation, tile: usize) {
        let outs = self.out.chunks_exact_mut(dims.head_dim_v).take(operation.rows(tile));
        for (row, out) in outs.enumerate() {
            let (max, sum) = (self.max[row], self.sum[row]);
            let result = if sum == 0.0 {
                out.fill(0.0);
                RowResult { out, lse: f32::INFINITY, max_logit: f32::NEG_INFINITY }
            } else {
                let max_logit = f64::from(max) * LN_2;
                let lse = max_logit + f64::from(sum).ln();
                let kept =
                    operation.sink(tile, row).map_or(1.0, |sink| 1.0 / (1.0 + (f64::from(sink) - lse).exp()));
                let norm = (kept / f64::from(sum)) as f32;
                out.iter_mut().for_each(|o| *o *= norm);
                let max_logit = if sum.is_nan() { f32::NAN } else { max_logit as f32 };
                RowResult { out, lse: lse as f32, max_logit }
            };
            // SAFETY: the caller's promise.
            unsafe { operation.store(tile, row, result) };
        }
    }
}

impl<'a> Scratch<'a> {
    /// In memory of [`TileDims::scratch_len`] numbers, which may hold anything.
    pub(super) fn in_memory(dims: &TileDims, memory: &'a mut [f32]) -> Self {
        let (q, memory) = memory.split_at_mut(dims.rows * dims.head_dim);
        let (keys, memory) = memory.split_at_mut(BLOCK_KEYS * dims.head_dim);
        let (scores, memory) = memory.split_at_mut(dims.rows * BLOCK_KEYS);
        let (total, part) = memory.split_at_mut(dims.partial_len());
        Self { q, keys, scores, total: Partial::in_memory(dims, total), part: Partial::in_memory(dims, part) }
    }

    /// Attention over all positions, `chunk` at a time: the same numbers as [`Self::attend`] and [`Partial::merge`]
    /// of the chunks in order.
    pub(super) fn attend_in_chunks(
        &mut self,
        dims: &TileDims,
        operation: &impl Operation,
        tile: usize,
        chunk: usize,
    ) -> &mut Partial<'a> {
        let Self { q, keys, scores, total, part } = self;
        load_queries(dims, operation, tile, q);
        let positions = operation.positions(tile);
        attend(dims, operation, tile, 0..positions.min(chunk), (q, keys, scores), total);
        for start in (chunk..positions).step_by(chunk) {
            let end = positions.min(start + chunk);
            attend(dims, operation, tile, start..end, (q, keys, scores), part);
            total.merge(dims, part);
        }
        total
    }

    /// Attention over some positions.
    pub(super) fn attend(
        &mut self,
        dims: &TileDims,
        operation: &impl Operation,
        tile: usize,
        positions: Range<usize>,
        to: &mut Partial<'_>,
    ) {
        load_queries(dims, operation, tile, self.q);
        attend(dims, operation, tile, positions, (self.q, self.keys, self.scores), to);
    }
}

fn load_queries(dims: &TileDims, operation: &impl Operation, tile: usize, q: &mut [f32]) {
    let scale = (f64::from(dims.softmax_scale) * LOG2_E) as f32;
    for (row, q) in q.chunks_exact_mut(dims.head_dim).take(operation.rows(tile)).enumerate() {
        operation.load_query(tile, row, q);
        q.iter_mut().for_each(|x| *x *= scale);
    }
}

fn attend(
    dims: &TileDims,
    operation: &impl Operation,
    tile: usize,
    positions: Range<usize>,
    (q, keys, scores): (&[f32], &mut [f32], &mut [f32]),
    partial: &mut Partial<'_>,
) {
    let rows = operation.rows(tile);
    partial.clear();
    for start in positions.clone().step_by(BLOCK_KEYS) {
        let count = operation.load_keys(tile, start..positions.end.min(start + BLOCK_KEYS), keys);
        if count == 0 {
            continue;
        }
        let all_keys = Matrix::new(keys, count, dims.head_dim, dims.head_dim);
        multiply(
            Matrix::new(q, rows, dims.head_dim, dims.head_dim),
            all_keys.transposed(),
            scores,
            BLOCK_KEYS,
            false,
        );

        // Rows that see the same keys go together; what a row does not see it does not multiply, not even by 0.
        let seen = |row| operation.visible(tile, row).saturating_sub(start).min(count);
        let mut first = 0;
        while first < rows {
            let seen_by_all = seen(first);
            let end = (first + 1..rows).find(|&row| seen(row) != seen_by_all).unwrap_or(rows);
            if seen_by_all > 0 {
                let out = &mut partial.out[first * dims.head_dim_v..end * dims.head_dim_v];
                let scores = &mut scores[first * BLOCK_KEYS..end * BLOCK_KEYS];
                for (row, (out, scores)) in (first..end)
                    .zip(out.chunks_exact_mut(dims.head_dim_v).zip(scores.chunks_exact_mut(BLOCK_KEYS)))
                {
                    let rescale =
                        softmax(&mut scores[..seen_by_all], &mut partial.max[row], &mut partial.sum[row]);
                    if rescale != 1.0 {
                        out.iter_mut().for_each(|o| *o *= rescale);
                    }
                }
                let weights = Matrix::new(scores, end - first, seen_by_all, BLOCK_KEYS);
                let values = Matrix::new(keys, seen_by_all, dims.head_dim_v, dims.head_dim);
                multiply(weights, values, out, dims.head_dim_v, true);
            }
            first = end;
        }
    }
}

/// Turns a row of scores into weights relative to the new maximum, and returns what everything before them has to be
/// multiplied by.
fn softmax(scores: &mut [f32], max: &mut f32, sum: &mut f32) -> f32 {
    let new_max = lanes(scores, *max, larger);
    let base = finite_base(new_max);
    for score in scores.iter_mut() {
        *score = exp2(*score - base);
    }
    let rescale = exp2(*max - base);
    *sum = *sum * rescale + lanes(scores, 0.0, |a, b| a + b);
    *max = new_max;
    rescale
}

/// What exponents are relative to: the maximum, unless it is −∞, from which nothing can be subtracted.
fn finite_base(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// The larger of two numbers, `a` if one is NaN: a NaN score shows in the sum.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// A reduction in an order that compilers vectorise.
#[inline(always)]
fn lanes(values: &[f32], start: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut results = [start; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (result, &value) in results.iter_mut().zip(chunk) {
            *result = combine(*result, value);
        }
    }
    let result = results.into_iter().reduce(&combine).unwrap_or(start);
    rest.iter().copied().fold(result, combine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::schedule::Schedule;
    use crate::cpu::toy::{Toy, ToyResult};

    const EMPTY: ToyResult = ToyResult { out: 0.0, lse: f32::INFINITY, max_logit: f32::NEG_INFINITY };

    /// In a workspace full of NaN.
    fn run(toy: Toy) -> Vec<ToyResult> {
        let positions = toy.keys.iter().map(Vec::len).max().unwrap_or(0);
        let schedule = Schedule::new(toy.dims(), toy.queries.len(), positions);
        schedule.run(&toy, &mut vec![f32::NAN; schedule.workspace_bytes() / size_of::<f32>()]);
        toy.results()
    }

    fn assert_close(actual: f32, expected: f64) {
        let error = (f64::from(actual) - expected).abs();
        assert!(error <= 1e-6 * expected.abs().max(1.0), "{actual} is not {expected}");
    }

    #[test]
    fn one_key_is_copied() {
        let toy =
            Toy { queries: vec![vec![[2.0, 0.5]]], keys: vec![vec![Some([3.0, 4.0])]], ..Toy::default() };
        let [row] = run(toy)[..] else { panic!("one row") };
        assert_eq!(row.out, 3.0);
        assert_close(row.lse, 8.0);
        assert_close(row.max_logit, 8.0);
    }

    #[test]
    fn weights_are_normalised_exponentials() {
        // exp: 1, 3, 4 of 8.
        let (ln3, ln4) = (3_f64.ln(), 4_f64.ln());
        let [row] = run(Toy::of_scores(&[0.0, ln3 as f32, ln4 as f32]))[..] else { panic!("one row") };
        assert_close(row.out, 3.0 / 8.0 * ln3 + 4.0 / 8.0 * ln4);
        assert_close(row.lse, 8_f64.ln());
        assert_close(row.max_logit, ln4);
    }

    #[test]
    fn the_softmax_scale_is_a_factor_on_scores() {
        let toy = Toy::of_scores(&[0.0, 3_f32.ln() * -4.0]);
        let schedule = Schedule::new(TileDims { softmax_scale: -0.25, ..toy.dims() }, 1, 2);
        schedule.run(&toy, &mut vec![0.0; schedule.workspace_bytes() / size_of::<f32>()]);
        assert_close(toy.results()[0].lse, 4_f64.ln());
    }

    /// Scores that rise and fall over many blocks and chunks, against the definition in f64.
    #[test]
    fn long_lists() {
        for count in [1, 63, 64, 65, 127, 512, 513, 1500, 20_000] {
            let scores: Vec<f32> =
                (0..count).map(|i| 8.0 * (i as f32 / 300.0).sin() + (i % 7) as f32 / 4.0).collect();
            let weights: Vec<f64> = scores.iter().map(|&score| f64::from(score).exp()).collect();
            let total: f64 = weights.iter().sum();
            let sum: f64 =
                weights.iter().zip(&scores).map(|(weight, &score)| weight * f64::from(score)).sum();
            let [row] = run(Toy::of_scores(&scores))[..] else { panic!("one row") };
            assert_close(row.out, sum / total);
            assert_close(row.lse, total.ln());
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        for score in [5e3, -5e3, 1e30, -1e30] {
            let [row] = run(Toy::of_scores(&[score, score]))[..] else { panic!("one row") };
            assert_close(row.out, f64::from(score));
            assert_close(row.lse, f64::from(score) + 2_f64.ln());
        }
    }

    #[test]
    fn keys_that_take_no_part_leave_no_trace() {
        let mut keys = vec![None; 700];
        (keys[3], keys[64], keys[699]) = (Some([1.0, 0.0]), Some([2.0, 0.0]), Some([6.0, 0.0]));
        let toy = Toy { queries: vec![vec![[0.0, 0.0]]], keys: vec![keys], ..Toy::default() };
        let [row] = run(toy)[..] else { panic!("one row") };
        assert_close(row.out, 3.0);
        assert_close(row.lse, 3_f64.ln());
    }

    #[test]
    fn no_key_is_an_empty_row_whatever_the_sink() {
        for keys in [vec![], vec![None; 3], vec![None; 2000]] {
            for sink in [None, Some(0.0), Some(f32::INFINITY), Some(f32::NEG_INFINITY)] {
                let sinks = sink.map(|sink| vec![sink]);
                let keys = vec![keys.clone()];
                assert_eq!(
                    run(Toy { queries: vec![vec![[1.0, 1.0]]], keys, sinks, ..Toy::default() }),
                    [EMPTY]
                );
            }
        }
    }

    #[test]
    fn scores_of_minus_infinity_are_no_keys() {
        assert_eq!(run(Toy::of_scores(&[f32::NEG_INFINITY; 70])), [EMPTY]);
    }

    #[test]
    fn nan_in_a_key_spreads() {
        for scores in [[f32::NAN, 1.0], [1.0, f32::NAN], [f32::NAN; 2]] {
            let [row] = run(Toy::of_scores(&scores))[..] else { panic!("one row") };
            assert!(row.out.is_nan() && row.lse.is_nan() && row.max_logit.is_nan(), "{row:?}");
        }
    }

    /// A key that one row does not see may be NaN.
    #[test]
    fn rows_see_as_much_as_they_may() {
        let keys = vec![Some([1.0, 0.0]), Some([3.0, 0.0]), Some([f32::NAN, 0.0])];
        let queries = vec![vec![[0.0, 0.0]; 5]];
        let rows =
            run(Toy { queries, keys: vec![keys], visible: Some(vec![0, 1, 1, 2, 3]), ..Toy::default() });
        assert_eq!(rows[0], EMPTY);
        assert_eq!([rows[1].out, rows[2].out, rows[3].out], [1.0, 1.0, 2.0]);
        assert_close(rows[3].lse, 2_f64.ln());
        assert!(rows[4].out.is_nan());
    }

    #[test]
    fn sinks_take_their_share_of_out_only() {
        // exp: 1 and 1, sink 2: the keys keep half of the weight.
        let toy = Toy {
            queries: vec![vec![[0.0, 0.0]; 4]],
            keys: vec![vec![Some([6.0, 0.0]), Some([10.0, 0.0])]],
            sinks: Some(vec![2_f32.ln(), f32::INFINITY, f32::NEG_INFINITY, -1e30]),
            ..Toy::default()
        };
        let rows = run(toy);
        assert_close(rows[0].out, 4.0);
        assert_eq!([rows[1].out, rows[2].out, rows[3].out], [0.0, 8.0, 8.0]);
        for row in rows {
            assert_close(row.lse, 2_f64.ln());
            assert_eq!(row.max_logit, 0.0);
        }
    }
}
