//! Attention of a tile of query rows over blocks of keys, with online softmax (Milakov and Gimelshein, 2018).
//!
//! ```text
//! for each block:  S = softmax_scale · Q·Kᵀ
//!                  m' = max(m, max S)             per row
//!                  P = exp(S − m')
//!                  l = l · exp(m − m') + Σ P
//!                  O = O · exp(m − m') + P·V
//! at the end:      out = O / l, lse = m + ln l
//! ```
//!
//! Q and K are as they were given, not scaled: products of 16-bit numbers are exact in f32.
//!
//! Partial results (O, m, l) of disjoint keys merge by the same rule.

use super::exp2::exp2;
use super::matrix::{Matrix, multiply, multiply_precisely};
use std::f32::consts::LOG2_E;
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

    /// Writes a query.
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

/// Attention of a row, the operation's to work on.
#[derive(Debug)]
pub(super) struct RowResult<'a> {
    pub out: &'a mut [f32],
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

/// What a thread computes with.
pub(super) struct Scratch<'a> {
    tile: TileBuffers<'a>,
    total: Partial<'a>,
    part: Partial<'a>,
}

/// Q of a tile, K of a block, and S, which turns into P.
struct TileBuffers<'a> {
    q: &'a mut [f32],
    keys: &'a mut [f32],
    scores: &'a mut [f32],
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
            let (own, others) = (exp(self.max[row] - base), exp(other.max[row] - base));
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
                let lse = f64::from(max) + f64::from(sum).ln();
                let kept =
                    operation.sink(tile, row).map_or(1.0, |sink| 1.0 / (1.0 + (f64::from(sink) - lse).exp()));
                let norm = (kept / f64::from(sum)) as f32;
                out.iter_mut().for_each(|o| *o *= norm);
                let max_logit = if sum.is_nan() { f32::NAN } else { max };
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
        let tile = TileBuffers { q, keys, scores };
        Self { tile, total: Partial::in_memory(dims, total), part: Partial::in_memory(dims, part) }
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
        let Self { tile: buffers, total, part } = self;
        let positions = operation.positions(tile);
        buffers.load_queries(dims, operation, tile);
        buffers.attend(dims, operation, tile, 0..positions.min(chunk), total);
        for start in (chunk..positions).step_by(chunk) {
            buffers.attend(dims, operation, tile, start..positions.min(start + chunk), part);
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
        self.tile.load_queries(dims, operation, tile);
        self.tile.attend(dims, operation, tile, positions, to);
    }
}

impl TileBuffers<'_> {
    fn load_queries(&mut self, dims: &TileDims, operation: &impl Operation, tile: usize) {
        for (row, q) in self.q.chunks_exact_mut(dims.head_dim).take(operation.rows(tile)).enumerate() {
            operation.load_query(tile, row, q);
        }
    }

    fn attend(
        &mut self,
        dims: &TileDims,
        operation: &impl Operation,
        tile: usize,
        positions: Range<usize>,
        partial: &mut Partial<'_>,
    ) {
        let rows = operation.rows(tile);
        partial.clear();
        for start in positions.clone().step_by(BLOCK_KEYS) {
            let end = positions.end.min(start + BLOCK_KEYS);
            let count = operation.load_keys(tile, start..end, self.keys);
            if count == 0 {
                continue;
            }
            let q = Matrix::new(self.q, rows, dims.head_dim, dims.head_dim);
            let keys = Matrix::new(self.keys, count, dims.head_dim, dims.head_dim);
            multiply_precisely(q, keys.transposed(), self.scores, BLOCK_KEYS);

            // Rows that see the same keys go together; what a row does not see it does not multiply, not even by 0.
            let seen = |row| operation.visible(tile, row).saturating_sub(start).min(count);
            let mut first = 0;
            while first < rows {
                let seen_by_all = seen(first);
                let end = (first + 1..rows).find(|&row| seen(row) != seen_by_all).unwrap_or(rows);
                self.add(dims, first..end, seen_by_all, partial);
                first = end;
            }
        }
    }

    /// Adds the block's first `count` keys, their products with Q computed, to the results of some rows.
    fn add(&mut self, dims: &TileDims, rows: Range<usize>, count: usize, partial: &mut Partial<'_>) {
        if count == 0 {
            return;
        }
        let out = &mut partial.out[rows.start * dims.head_dim_v..rows.end * dims.head_dim_v];
        let scores = &mut self.scores[rows.start * BLOCK_KEYS..rows.end * BLOCK_KEYS];
        let row_slices = out.chunks_exact_mut(dims.head_dim_v).zip(scores.chunks_exact_mut(BLOCK_KEYS));
        for (row, (out, scores)) in rows.clone().zip(row_slices) {
            let scores = &mut scores[..count];
            scores.iter_mut().for_each(|score| *score *= dims.softmax_scale);
            let rescale = softmax(scores, &mut partial.max[row], &mut partial.sum[row]);
            if rescale != 1.0 {
                out.iter_mut().for_each(|o| *o *= rescale);
            }
        }
        let weights = Matrix::new(scores, rows.len(), count, BLOCK_KEYS);
        let values = Matrix::new(self.keys, count, dims.head_dim_v, dims.head_dim);
        multiply(weights, values, out, dims.head_dim_v, true);
    }
}

/// Turns a row of scores into weights relative to the new maximum, and returns what everything before them has to be
/// multiplied by.
fn softmax(scores: &mut [f32], max: &mut f32, sum: &mut f32) -> f32 {
    let new_max = lanes(scores, *max, larger);
    let base = finite_base(new_max);
    for score in scores.iter_mut() {
        *score = exp(*score - base);
    }
    let rescale = exp(*max - base);
    *sum = *sum * rescale + lanes(scores, 0.0, |a, b| a + b);
    *max = new_max;
    rescale
}

#[inline(always)]
fn exp(x: f32) -> f32 {
    exp2(x * LOG2_E)
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
mod tests;
