//! Decode over every key of a paged cache.

use rayon::prelude::*;

use crate::attention::{Attention, Row, attend, checked_index, clamp_length};

/// Dense decode: each request attends to its own prefix of a paged cache.
///
/// Query head `h` reads KV head `h / (h_q / h_kv)`.
#[derive(Clone, Debug)]
pub struct DenseDecode<'a> {
    /// Requests.
    pub batch: usize,
    /// Queries of a request, the last ones of its sequence.
    pub s_q: usize,
    /// Query heads, a multiple of `h_kv`.
    pub h_q: usize,
    /// KV heads.
    pub h_kv: usize,
    /// Elements of a query and of a key.
    pub head_dim: usize,
    /// Elements of a value, the first of its key.
    pub head_dim_v: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Page-table entries of a request.
    pub max_pages: usize,
    /// `[batch, s_q, h_q, head_dim]`
    pub q: &'a [f64],
    /// `[pages, page_size, h_kv, head_dim]`
    pub kv_cache: &'a [f64],
    /// `[batch, max_pages]`; an entry that names no page masks the tokens of that page.
    pub block_table: &'a [i32],
    /// `[batch]`, tokens of each request, clamped to `0..=max_pages * page_size`.
    pub cache_seqlens: &'a [i32],
    /// Factor on q · k.
    pub softmax_scale: f64,
    /// Query `i` sees the keys below `len - s_q + i + 1`, instead of all `len`.
    pub causal: bool,
}

impl DenseDecode<'_> {
    /// Computes `out [batch, s_q, h_q, head_dim_v]` and `lse [batch, h_q, s_q]`.
    pub fn run(&self) -> Attention {
        self.check_shapes();
        let rows: Vec<Row> = (0..self.batch * self.s_q)
            .into_par_iter()
            .flat_map_iter(|row| self.query_rows(row / self.s_q, row % self.s_q))
            .collect();
        Attention::from_decode_rows(&rows, self.s_q, self.h_q)
    }

    fn query_rows(&self, request: usize, query: usize) -> Vec<Row> {
        let keys: Vec<Vec<&[f64]>> = (0..self.h_kv).map(|head| self.keys(request, query, head)).collect();
        let heads_per_kv_head = self.h_q / self.h_kv;
        (0..self.h_q)
            .map(|head| {
                let start = ((request * self.s_q + query) * self.h_q + head) * self.head_dim;
                let q = &self.q[start..start + self.head_dim];
                attend(q, &keys[head / heads_per_kv_head], self.head_dim_v, self.softmax_scale, None)
            })
            .collect()
    }

    fn keys(&self, request: usize, query: usize, kv_head: usize) -> Vec<&[f64]> {
        let pages = self.kv_cache.len() / (self.page_size * self.h_kv * self.head_dim);
        let len = clamp_length(self.cache_seqlens[request], self.max_pages * self.page_size);
        let visible = if self.causal { (len + query + 1).saturating_sub(self.s_q) } else { len };

        let mut keys = Vec::new();
        for position in 0..visible {
            let entry = self.block_table[request * self.max_pages + position / self.page_size];
            if let Some(page) = checked_index(entry, pages) {
                let token = page * self.page_size + position % self.page_size;
                let start = (token * self.h_kv + kv_head) * self.head_dim;
                keys.push(&self.kv_cache[start..start + self.head_dim]);
            }
        }
        keys
    }

    fn check_shapes(&self) {
        assert_eq!(self.q.len(), self.batch * self.s_q * self.h_q * self.head_dim, "q");
        assert_eq!(self.kv_cache.len() % (self.page_size * self.h_kv * self.head_dim), 0, "kv_cache");
        assert_eq!(self.block_table.len(), self.batch * self.max_pages, "block_table");
        assert_eq!(self.cache_seqlens.len(), self.batch, "cache_seqlens");
        assert_eq!(self.h_q % self.h_kv, 0, "h_q must be a multiple of h_kv");
        assert!(self.head_dim_v <= self.head_dim, "head_dim_v must not exceed head_dim");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;

    /// One request, one head, pages of two; a zero query, so that `out` is the mean of the visible values.
    fn means(kv_cache: &[f64], block_table: &[i32], len: i32, s_q: usize, causal: bool) -> Attention {
        DenseDecode {
            batch: 1,
            s_q,
            h_q: 1,
            h_kv: 1,
            head_dim: 1,
            head_dim_v: 1,
            page_size: 2,
            max_pages: block_table.len(),
            q: &vec![0.0; s_q],
            kv_cache,
            block_table,
            cache_seqlens: &[len],
            softmax_scale: 1.0,
            causal,
        }
        .run()
    }

    fn lse_of_counts(counts: &[f64]) -> Vec<f64> {
        counts.iter().map(|n| n.ln()).collect()
    }

    #[test]
    fn scores_scale_and_values() {
        // scores 0.5 · q·k = 0 and ln 3, values the first element: weights 1/4 and 3/4.
        let attention = DenseDecode {
            batch: 1,
            s_q: 1,
            h_q: 1,
            h_kv: 1,
            head_dim: 2,
            head_dim_v: 1,
            page_size: 2,
            max_pages: 1,
            q: &[0.0, 2.0],
            kv_cache: &[4.0, 0.0, 8.0, 3f64.ln()],
            block_table: &[0],
            cache_seqlens: &[2],
            softmax_scale: 0.5,
            causal: false,
        }
        .run();
        assert!((attention.out[0] - 7.0).abs() < 1e-14);
        assert!((attention.lse[0] - 4f64.ln()).abs() < 1e-14);
    }

    #[test]
    fn pages_are_looked_up_and_the_rest_is_not_read() {
        // Positions 0, 1 are in page 2, position 2 in page 0; padding of the table is out of range.
        let cache = [30.0, NAN, NAN, NAN, 10.0, 20.0];
        let attention = means(&cache, &[2, 0, 2_147_480_000], 3, 1, false);
        assert_eq!(attention.out, [20.0]);
        assert_eq!(attention.lse, lse_of_counts(&[3.0]));
    }

    #[test]
    fn causal_queries_end_at_their_own_position() {
        let cache = [1.0, 3.0, 5.0, 7.0];
        let attention = means(&cache, &[0, 1], 4, 3, true);
        assert_eq!(attention.out, [2.0, 3.0, 4.0]);
        assert_eq!(attention.lse, lse_of_counts(&[2.0, 3.0, 4.0]));
        let attention = means(&cache, &[0, 1], 4, 3, false);
        assert_eq!(attention.out, [4.0; 3]);
    }

    #[test]
    fn causal_queries_before_the_first_key_are_empty() {
        let attention = means(&[1.0, NAN], &[0], 1, 3, true);
        assert_eq!(attention.out, [0.0, 0.0, 1.0]);
        assert_eq!(attention.lse, [f64::INFINITY, f64::INFINITY, 0.0]);
    }

    #[test]
    fn lengths_are_clamped() {
        let cache = [1.0, 3.0, NAN, NAN];
        for len in [0, -1, i32::MIN] {
            let attention = means(&cache, &[0], len, 2, false);
            assert_eq!((attention.out, attention.lse), (vec![0.0; 2], vec![f64::INFINITY; 2]));
        }
        for len in [2, 3, i32::MAX] {
            assert_eq!(means(&cache, &[0], len, 1, true).out, [2.0]);
        }
    }

    #[test]
    fn entries_that_name_no_page_mask_their_tokens() {
        let cache = [1.0, 3.0, NAN, NAN];
        for absent in [-1, 2, i32::MIN, i32::MAX] {
            let attention = means(&cache, &[absent, 0], 4, 1, false);
            assert_eq!(attention.out, [2.0]);
            assert_eq!(attention.lse, lse_of_counts(&[2.0]));
        }
    }

    #[test]
    fn heads_requests_and_queries_keep_apart() {
        // [batch 2, s_q 2, h_q 4], two KV heads: heads 0, 1 read KV head 0. One key, value 10·page + kv_head.
        let attention = DenseDecode {
            batch: 2,
            s_q: 2,
            h_q: 4,
            h_kv: 2,
            head_dim: 1,
            head_dim_v: 1,
            page_size: 1,
            max_pages: 1,
            q: &(0..16).map(f64::from).collect::<Vec<_>>(),
            kv_cache: &[1.0, 2.0, 11.0, 12.0],
            block_table: &[1, 0],
            cache_seqlens: &[1, 1],
            softmax_scale: 1.0,
            causal: true,
        };
        // The first query of each request sees nothing, the second one key.
        let attention = attention.run();
        let inf = f64::INFINITY;
        assert_eq!(attention.out, [0., 0., 0., 0., 11., 11., 12., 12., 0., 0., 0., 0., 1., 1., 2., 2.]);
        assert_eq!(
            attention.lse,
            [inf, 44., inf, 55., inf, 72., inf, 84., inf, 12., inf, 13., inf, 28., inf, 30.]
        );
    }
}
