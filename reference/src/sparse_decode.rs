//! Decode over selected keys of one or two paged FP8 caches.

use half::bf16;
use rayon::prelude::*;

use crate::QueryAngles;
use crate::attention::{Attention, Row, attend, checked_index, clamp_length};
use crate::{model1, v32};

/// Elements of a value, the first of its key, in both formats.
const HEAD_DIM_V: usize = 512;

/// How the bytes of a cache read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fp8Format {
    /// [`v32`]: keys of 576, 656 bytes a token.
    V32,
    /// [`model1`]: keys of 512, 584 bytes a token.
    Model1,
}

impl Fp8Format {
    /// Elements of a query and of a key.
    pub fn head_dim(self) -> usize {
        match self {
            Self::V32 => v32::HEAD_DIM,
            Self::Model1 => model1::HEAD_DIM,
        }
    }

    /// Bytes of a page, without padding after it.
    pub fn page_bytes(self, page_size: usize) -> usize {
        page_size
            * match self {
                Self::V32 => v32::TOKEN_BYTES,
                Self::Model1 => model1::TOKEN_BYTES,
            }
    }

    /// The bytes of a page of tokens, `[page_size, head_dim]`, without padding after it.
    pub fn quantise_page(self, tokens: &[bf16]) -> Vec<u8> {
        match self {
            Self::V32 => v32::quantise_page(tokens),
            Self::Model1 => model1::quantise_page(tokens),
        }
    }

    /// Writes a token, `[head_dim]`, at `offset` in a page of `page_size` tokens.
    pub fn write_token(self, page: &mut [u8], page_size: usize, offset: usize, token: &[bf16]) {
        match self {
            Self::V32 => page[offset * v32::TOKEN_BYTES..][..v32::TOKEN_BYTES]
                .copy_from_slice(&v32::quantise_token(token)),
            Self::Model1 => model1::write_token(page, page_size, offset, token),
        }
    }

    /// The elements of the token at `offset` in a page of `page_size` tokens, each a bf16 value.
    pub fn dequantise_token(self, page: &[u8], page_size: usize, offset: usize) -> Vec<f64> {
        match self {
            Self::V32 => v32::dequantise_token(&page[offset * v32::TOKEN_BYTES..][..v32::TOKEN_BYTES]),
            Self::Model1 => model1::dequantise_token(page, page_size, offset),
        }
    }
}

/// A cache and the keys selected from it.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// Pages, `page_stride` bytes apart; the last one may lack its padding.
    pub kv_cache: &'a [u8],
    /// Tokens of a page.
    pub page_size: usize,
    /// Bytes from one page to the next.
    pub page_stride: usize,
    /// `[batch, s_q, topk]`, each `page * page_size + offset`; any that names no token of the cache: no key.
    /// A key named twice counts twice.
    pub indices: &'a [i32],
    /// Indices of a query.
    pub topk: usize,
    /// `[batch, s_q]`, or `[batch]` for all of a request's lists; clamped to `0..=topk`. Positions of the lists from there on are not
    /// read.
    pub topk_length: Option<&'a [i32]>,
}

/// Sparse decode: each query attends to the cache slots that its index list names, with one KV head.
#[derive(Clone, Debug)]
pub struct SparseDecode<'a> {
    /// Requests.
    pub batch: usize,
    /// Queries of a request.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Format of the cache, or of both.
    pub format: Fp8Format,
    /// `[batch, s_q, h_q, head_dim]`
    pub q: &'a [f64],
    /// The cache.
    pub scope: Scope<'a>,
    /// A second cache whose keys join the same softmax.
    pub extra: Option<Scope<'a>>,
    /// `[h_q]`, logits that take part in the denominator of `out` only.
    pub attn_sink: Option<&'a [f32]>,
    /// Factor on q · k.
    pub softmax_scale: f64,
    /// By what the rows of `out` are turned back at the end, as of [`InverseRope`](crate::InverseRope).
    pub inverse_rope: Option<QueryAngles<'a>>,
}

impl SparseDecode<'_> {
    /// Computes `out [batch, s_q, h_q, 512]` and `lse [batch, h_q, s_q]`.
    pub fn run(&self) -> Attention {
        Attention::from_decode_rows(&self.rows(), self.s_q, self.h_q)
    }

    /// Computes what a prefill of the query tokens gives, `batch · s_q` of them: `out`, `lse` and `max_logits` as of
    /// [`SparsePrefill`](crate::SparsePrefill).
    pub fn run_as_prefill(&self) -> Attention {
        Attention::from_prefill_rows(&self.rows())
    }

    /// One row per `[batch, s_q, h_q]`.
    fn rows(&self) -> Vec<Row> {
        self.check_shapes();
        (0..self.batch * self.s_q)
            .into_par_iter()
            .flat_map_iter(|row| self.query_rows(row / self.s_q, row % self.s_q))
            .collect()
    }

    fn query_rows(&self, request: usize, query: usize) -> Vec<Row> {
        let row = request * self.s_q + query;
        let keys: Vec<Vec<f64>> = self
            .scopes()
            .flat_map(|scope| scope.keys(self.format, self.length(scope, request, row), row))
            .collect();
        let head_dim = self.format.head_dim();
        (0..self.h_q)
            .map(|head| {
                let q = &self.q[(row * self.h_q + head) * head_dim..][..head_dim];
                let sink = self.attn_sink.map(|sinks| sinks[head]);
                let mut result = attend(q, &keys, HEAD_DIM_V, self.softmax_scale, sink);
                if let Some(queries) = &self.inverse_rope {
                    queries.turn_back(row, &mut result.out);
                }
                result
            })
            .collect()
    }

    /// How many indices of a query's list count.
    fn length(&self, scope: &Scope<'_>, request: usize, row: usize) -> usize {
        let by_request = |lengths: &[i32]| lengths.len() == self.batch;
        scope.topk_length.map_or(scope.topk, |lengths| {
            clamp_length(lengths[if by_request(lengths) { request } else { row }], scope.topk)
        })
    }

    fn scopes(&self) -> impl Iterator<Item = &Scope<'_>> {
        std::iter::once(&self.scope).chain(&self.extra)
    }

    fn check_shapes(&self) {
        assert_eq!(self.q.len(), self.batch * self.s_q * self.h_q * self.format.head_dim(), "q");
        assert!(self.attn_sink.is_none_or(|sinks| sinks.len() == self.h_q), "attn_sink");
        for scope in self.scopes() {
            assert_eq!(scope.indices.len(), self.batch * self.s_q * scope.topk, "indices");
            let counts = [self.batch, self.batch * self.s_q];
            assert!(scope.topk_length.is_none_or(|lengths| counts.contains(&lengths.len())), "topk_length");
            assert!(scope.page_stride >= self.format.page_bytes(scope.page_size), "page_stride");
        }
    }
}

impl Scope<'_> {
    /// The keys of the `row`-th query, of whose list `length` indices count.
    fn keys(&self, format: Fp8Format, length: usize, row: usize) -> Vec<Vec<f64>> {
        let page_bytes = format.page_bytes(self.page_size);
        let slots = self.pages(page_bytes) * self.page_size;
        self.indices[row * self.topk..][..length]
            .iter()
            .filter_map(|&index| checked_index(index, slots))
            .map(|slot| {
                let page = &self.kv_cache[slot / self.page_size * self.page_stride..][..page_bytes];
                format.dequantise_token(page, self.page_size, slot % self.page_size)
            })
            .collect()
    }

    fn pages(&self, page_bytes: usize) -> usize {
        self.kv_cache.len().checked_sub(page_bytes).map_or(0, |rest| rest / self.page_stride + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InverseRope, RopeAngles};

    const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];
    const PAGE_SIZE: usize = 3;
    const H_Q: usize = 2;
    const NAN_BYTE: u8 = 0xff; // NaN as e4m3, as ue8m0, and as every byte of an f32 or a bf16

    /// Values that differ in every dimension and from token to token.
    fn token(format: Fp8Format, seed: usize) -> Vec<bf16> {
        let value = |dim: usize| ((dim * 37 + seed * 101) % 61) as f32 / 16.0 - 2.0;
        (0..format.head_dim()).map(value).map(bf16::from_f32).collect()
    }

    fn queries(format: Fp8Format, count: usize) -> Vec<f64> {
        (0..count * H_Q).flat_map(|row| token(format, 1000 + row)).map(bf16::to_f64).collect()
    }

    /// A cache of `pages` pages that is NaN but for `tokens`, given by slot.
    fn cache(
        format: Fp8Format,
        page_size: usize,
        stride: usize,
        pages: usize,
        tokens: &[(usize, usize)],
    ) -> Vec<u8> {
        let nan = vec![bf16::NAN; format.head_dim()];
        let mut bytes = Vec::new();
        for page in 0..pages {
            let page_tokens: Vec<bf16> = (page * page_size..(page + 1) * page_size)
                .flat_map(|slot| match tokens.iter().find(|(at, _)| *at == slot) {
                    Some(&(_, seed)) => token(format, seed),
                    None => nan.clone(),
                })
                .collect();
            bytes.extend(format.quantise_page(&page_tokens));
            bytes.resize((page + 1) * stride, NAN_BYTE);
        }
        bytes
    }

    fn scope<'a>(format: Fp8Format, kv_cache: &'a [u8], indices: &'a [i32]) -> Scope<'a> {
        let page_stride = format.page_bytes(PAGE_SIZE);
        Scope { kv_cache, page_size: PAGE_SIZE, page_stride, indices, topk: indices.len(), topk_length: None }
    }

    fn one_query<'a>(format: Fp8Format, q: &'a [f64], scope: Scope<'a>) -> SparseDecode<'a> {
        SparseDecode {
            batch: 1,
            s_q: 1,
            h_q: H_Q,
            format,
            q,
            scope,
            extra: None,
            attn_sink: None,
            softmax_scale: 0.01,
            inverse_rope: None,
        }
    }

    #[test]
    fn one_key_is_its_dequantised_value() {
        for format in FORMATS {
            let kv_cache = cache(format, PAGE_SIZE, format.page_bytes(PAGE_SIZE), 2, &[(4, 7)]);
            let key = format.dequantise_token(&kv_cache[format.page_bytes(PAGE_SIZE)..], PAGE_SIZE, 1);
            let q = queries(format, 1);
            let attention = one_query(format, &q, scope(format, &kv_cache, &[4])).run();
            for head in 0..H_Q {
                let q = &q[head * format.head_dim()..][..format.head_dim()];
                let score: f64 = q.iter().zip(&key).map(|(a, b)| a * b).sum();
                assert_eq!(attention.out[head * 512..][..512], key[..512], "{format:?}");
                assert!((attention.lse[head] - 0.01 * score).abs() < 1e-12, "{format:?}");
            }
            assert!(attention.max_logits.is_empty());
        }
    }

    #[test]
    fn invalid_indices_and_lengths_hide_nan() {
        for format in FORMATS {
            let kv_cache = cache(format, PAGE_SIZE, format.page_bytes(PAGE_SIZE), 2, &[(0, 1), (5, 2)]);
            let q = queries(format, 1);
            let expected = one_query(format, &q, scope(format, &kv_cache, &[5, 0])).run();
            assert!(expected.out.iter().chain(&expected.lse).all(|x| x.is_finite()));

            let invalid = [5, -1, 6, i32::MIN, i32::MAX, 2_147_480_000, 0];
            assert_eq!(one_query(format, &q, scope(format, &kv_cache, &invalid)).run(), expected);

            let garbage = [5, 0, 1, 2, -7, i32::MAX];
            let garbage = Scope { topk_length: Some(&[2]), ..scope(format, &kv_cache, &garbage) };
            assert_eq!(one_query(format, &q, garbage).run(), expected);

            let too_long = Scope { topk_length: Some(&[i32::MAX]), ..scope(format, &kv_cache, &[5, 0]) };
            assert_eq!(one_query(format, &q, too_long).run(), expected);
        }
    }

    #[test]
    fn nan_in_a_selected_key_spreads() {
        for format in FORMATS {
            let kv_cache = cache(format, PAGE_SIZE, format.page_bytes(PAGE_SIZE), 1, &[(0, 1)]);
            let q = queries(format, 1);
            let attention = one_query(format, &q, scope(format, &kv_cache, &[0, 1])).run();
            assert!(attention.out.iter().chain(&attention.lse).all(|x| x.is_nan()));
        }
    }

    #[test]
    fn queries_without_keys_are_empty_whatever_the_sink() {
        for format in FORMATS {
            let kv_cache = vec![NAN_BYTE; format.page_bytes(PAGE_SIZE)];
            let q = queries(format, 1);
            for length in [0, -1] {
                let empty = Scope { topk_length: Some(&[length]), ..scope(format, &kv_cache, &[0, 1]) };
                for sinks in [None, Some(&[0.0, f32::INFINITY][..]), Some(&[f32::NEG_INFINITY; 2])] {
                    let problem = SparseDecode { attn_sink: sinks, ..one_query(format, &q, empty.clone()) };
                    let attention = problem.run();
                    assert_eq!(attention.out, vec![0.0; H_Q * 512]);
                    assert_eq!(attention.lse, [f64::INFINITY; H_Q]);
                }
            }
        }
    }

    #[test]
    fn sinks_are_per_head_and_leave_lse_alone() {
        for format in FORMATS {
            let kv_cache = cache(format, PAGE_SIZE, format.page_bytes(PAGE_SIZE), 1, &[(0, 1), (2, 2)]);
            let q = queries(format, 1);
            let plain = one_query(format, &q, scope(format, &kv_cache, &[0, 2]));
            let expected = plain.run();
            let sunk =
                SparseDecode { attn_sink: Some(&[f32::INFINITY, f32::NEG_INFINITY]), ..plain.clone() }.run();
            assert_eq!(sunk.out[..512], [0.0; 512]);
            assert_eq!(sunk.out[512..], expected.out[512..]);
            assert_eq!(sunk.lse, expected.lse);
        }
    }

    #[test]
    fn two_scopes_are_one_softmax() {
        for format in FORMATS {
            let tokens = [(1, 11), (2, 12), (4, 13), (7, 14), (8, 15)];
            let q = queries(format, 1);
            let together = cache(format, PAGE_SIZE, format.page_bytes(PAGE_SIZE), 3, &tokens);
            let expected = one_query(format, &q, scope(format, &together, &[4, 1, 8, 7, 2])).run();

            // The first two keys from one cache, the others from another with other pages and a page stride.
            let first = cache(format, PAGE_SIZE, format.page_bytes(PAGE_SIZE), 1, &[(0, 13), (2, 11)]);
            let stride = format.page_bytes(2) + 560;
            let mut second = cache(format, 2, stride, 2, &[(0, 14), (2, 15), (3, 12)]);
            second.truncate(stride + format.page_bytes(2));
            let extra = Scope {
                kv_cache: &second,
                page_size: 2,
                page_stride: stride,
                indices: &[2, 0, -1, 3, 1],
                topk: 5,
                topk_length: Some(&[4]),
            };
            let split = SparseDecode {
                extra: Some(extra.clone()),
                ..one_query(format, &q, scope(format, &first, &[0, 2]))
            };
            assert_eq!(split.run(), expected, "{format:?}");

            // An empty first scope leaves the second alone in the softmax.
            let alone = one_query(format, &q, scope(format, &together, &[8, 7, 2])).run();
            let nothing = Scope { topk_length: Some(&[0]), ..scope(format, &first, &[0, 2]) };
            let only_extra = SparseDecode { extra: Some(extra), ..one_query(format, &q, nothing) };
            assert_eq!(only_extra.run(), alone, "{format:?}");
        }
    }

    #[test]
    fn outputs_are_turned_back_by_their_positions() {
        let format = Fp8Format::Model1;
        let kv_cache = cache(format, PAGE_SIZE, format.page_bytes(PAGE_SIZE), 1, &[(0, 1), (2, 2)]);
        let q = queries(format, 4);
        let plain = SparseDecode {
            batch: 2,
            s_q: 2,
            scope: Scope { topk: 1, ..scope(format, &kv_cache, &[0, 2, 2, 0]) },
            ..one_query(format, &q, scope(format, &kv_cache, &[]))
        };
        let queries = QueryAngles { positions: &[0, 5, -7, 1 << 20], angles: RopeAngles::Theta(1e4) };
        let turned = SparseDecode { inverse_rope: Some(queries), ..plain.clone() }.run();
        let plain = plain.run();
        let (batch, s_q) = (2, 2);
        let out = InverseRope { batch, s_q, h_q: H_Q, head_dim_v: 512, out: &plain.out, queries }.run();
        assert_eq!((turned.out, turned.lse), (out, plain.lse));
    }

    #[test]
    fn requests_and_queries_keep_apart() {
        for format in FORMATS {
            let kv_cache =
                cache(format, PAGE_SIZE, format.page_bytes(PAGE_SIZE), 1, &[(0, 1), (1, 2), (2, 3)]);
            let q = queries(format, 4);
            let indices = [0, 1, 2, 0, 1, 2, 2, 2];
            let lengths = [2, 1];
            let all = SparseDecode {
                batch: 2,
                s_q: 2,
                scope: Scope { topk: 2, topk_length: Some(&lengths), ..scope(format, &kv_cache, &indices) },
                ..one_query(format, &q, scope(format, &kv_cache, &[]))
            }
            .run();
            for (row, indices) in indices.chunks(2).enumerate() {
                let (request, query) = (row / 2, row % 2);
                let used = &indices[..lengths[request] as usize];
                let q = &q[row * H_Q * format.head_dim()..][..H_Q * format.head_dim()];
                let one = one_query(format, q, scope(format, &kv_cache, used)).run();
                assert_eq!(all.out[row * H_Q * 512..][..H_Q * 512], one.out);
                for head in 0..H_Q {
                    assert_eq!(all.lse[(request * H_Q + head) * 2 + query], one.lse[head]);
                }
            }
        }
    }
}
