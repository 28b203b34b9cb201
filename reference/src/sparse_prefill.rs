//! Prefill over selected keys of a contiguous tensor.

use rayon::prelude::*;

use crate::attention::{Attention, Row, attend, checked_index, clamp_length};

/// Sparse prefill: each query attends to the rows of `kv` that its index list names, with one KV head.
#[derive(Clone, Debug)]
pub struct SparsePrefill<'a> {
    /// Queries.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Elements of a query and of a key.
    pub head_dim: usize,
    /// Elements of a value, the first of its key.
    pub head_dim_v: usize,
    /// Keys.
    pub s_kv: usize,
    /// Indices of a query.
    pub topk: usize,
    /// `[s_q, h_q, head_dim]`
    pub q: &'a [f64],
    /// `[s_kv, head_dim]`
    pub kv: &'a [f64],
    /// `[s_q, topk]`; below 0 or from `s_kv` on: no key. A key named twice counts twice.
    pub indices: &'a [i32],
    /// `[s_q]`, clamped to `0..=topk`; positions of the list from here on are not read.
    pub topk_length: Option<&'a [i32]>,
    /// `[h_q]`, logits that take part in the denominator of `out` only.
    pub attn_sink: Option<&'a [f32]>,
    /// Factor on q · k.
    pub softmax_scale: f64,
}

impl SparsePrefill<'_> {
    /// Computes `out [s_q, h_q, head_dim_v]`, `lse [s_q, h_q]` and `max_logits [s_q, h_q]`.
    pub fn run(&self) -> Attention {
        self.check_shapes();
        let rows: Vec<Row> =
            (0..self.s_q).into_par_iter().flat_map_iter(|query| self.query_rows(query)).collect();
        Attention::from_prefill_rows(&rows)
    }

    fn query_rows(&self, query: usize) -> Vec<Row> {
        let keys = self.keys(query);
        (0..self.h_q)
            .map(|head| {
                let start = (query * self.h_q + head) * self.head_dim;
                let q = &self.q[start..start + self.head_dim];
                let sink = self.attn_sink.map(|sinks| sinks[head]);
                attend(q, &keys, self.head_dim_v, self.softmax_scale, sink)
            })
            .collect()
    }

    fn keys(&self, query: usize) -> Vec<&[f64]> {
        let length = self.topk_length.map_or(self.topk, |lengths| clamp_length(lengths[query], self.topk));
        self.indices[query * self.topk..][..length]
            .iter()
            .filter_map(|&index| checked_index(index, self.s_kv))
            .map(|row| &self.kv[row * self.head_dim..][..self.head_dim])
            .collect()
    }

    fn check_shapes(&self) {
        assert_eq!(self.q.len(), self.s_q * self.h_q * self.head_dim, "q");
        assert_eq!(self.kv.len(), self.s_kv * self.head_dim, "kv");
        assert_eq!(self.indices.len(), self.s_q * self.topk, "indices");
        assert!(self.topk_length.is_none_or(|lengths| lengths.len() == self.s_q), "topk_length");
        assert!(self.attn_sink.is_none_or(|sinks| sinks.len() == self.h_q), "attn_sink");
        assert!(self.head_dim_v <= self.head_dim, "head_dim_v must not exceed head_dim");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;

    /// Three queries of two heads over four keys, of which key 2 is never selected. Every query element is 1,
    /// so the score of a key is `0.5 · (value + second element)`.
    const PROBLEM: SparsePrefill<'static> = SparsePrefill {
        s_q: 3,
        h_q: 2,
        head_dim: 2,
        head_dim_v: 1,
        s_kv: 4,
        topk: 2,
        q: &[1.0; 12],
        kv: &[2.0, -2.0, 6.0, -6.0, NAN, NAN, 10.0, -6.0],
        indices: &[0, 1, 3, -1, 4, i32::MIN],
        topk_length: None,
        attn_sink: None,
        softmax_scale: 0.5,
    };

    #[test]
    fn invalid_indices_are_skipped() {
        let attention = PROBLEM.run();
        let (inf, ln2) = (f64::INFINITY, 2f64.ln());
        assert_eq!(attention.out, [4.0, 4.0, 10.0, 10.0, 0.0, 0.0]);
        assert_eq!(attention.lse, [ln2, ln2, 2.0, 2.0, inf, inf]);
        assert_eq!(attention.max_logits, [0.0, 0.0, 2.0, 2.0, -inf, -inf]);
    }

    #[test]
    fn every_kind_of_invalid_index() {
        for index in [-1, -123_456, i32::MIN, 4, 114_514, 2_147_480_000, i32::MAX] {
            let indices = [index, 1, index, 1, index, 1];
            assert_eq!(SparsePrefill { indices: &indices, ..PROBLEM }.run().out, [6.0; 6], "index {index}");
        }
    }

    #[test]
    fn positions_past_topk_length_are_not_read() {
        // Key 2 holds NaN.
        let indices = [0, 2, 3, 0, 2, 2];
        let attention = SparsePrefill { indices: &indices, topk_length: Some(&[1, 99, -5]), ..PROBLEM }.run();
        let weight = 2f64.exp() / (2f64.exp() + 1.0);
        let mixed = 10.0 * weight + 2.0 * (1.0 - weight);
        assert_eq!(attention.out[..2], [2.0, 2.0]);
        assert!((attention.out[2] - mixed).abs() < 1e-14, "{} != {mixed}", attention.out[2]);
        assert_eq!(attention.out[4..], [0.0, 0.0]);
        assert_eq!(attention.max_logits, [0.0, 0.0, 2.0, 2.0, f64::NEG_INFINITY, f64::NEG_INFINITY]);
    }

    #[test]
    fn a_key_named_twice_counts_twice() {
        let attention = SparsePrefill { indices: &[1, 1, 1, -1, 1, 1], ..PROBLEM }.run();
        assert_eq!(attention.lse, [2f64.ln(), 2f64.ln(), 0.0, 0.0, 2f64.ln(), 2f64.ln()]);
    }

    #[test]
    fn sinks_are_per_head_and_leave_lse_alone() {
        let plain = PROBLEM.run();
        let sunk = SparsePrefill { attn_sink: Some(&[f32::INFINITY, 2.0]), ..PROBLEM }.run();
        // Head 1 of query 1 has lse 2: a sink of 2 takes half.
        assert_eq!([sunk.out[0], sunk.out[2], sunk.out[3], sunk.out[5]], [0.0, 0.0, 5.0, 0.0]);
        assert_eq!((&sunk.lse, &sunk.max_logits), (&plain.lse, &plain.max_logits));
        let unmoved = SparsePrefill { attn_sink: Some(&[f32::NEG_INFINITY; 2]), ..PROBLEM }.run();
        assert_eq!(unmoved, plain);
    }

    #[test]
    fn nan_in_a_selected_key_spreads() {
        let attention = SparsePrefill { indices: &[0, 2, 0, 1, 0, 1], ..PROBLEM }.run();
        assert!(attention.out[0].is_nan() && attention.lse[0].is_nan());
        assert_eq!(attention.out[2..], [4.0; 4]);
    }
}
