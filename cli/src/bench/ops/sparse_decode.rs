//! Sparse decode: each query token attends to selected tokens of one or two FP8 caches.

use anyhow::ensure;
use half::bf16;
use oximla::case_file::{ScopeCase, SparseDecodeCase};
use oximla::{InvalidProblem, KvFormat, KvScopeShape, SparseDecode};
use serde::{Deserialize, Serialize};

use super::{check_head_dim, fp8_format, softmax_scale};
use crate::bench::{fp8_pages, inputs};

/// Queries are normally distributed with this standard deviation, and cut off at this magnitude.
const QUERY_SPREAD: f32 = 1.0;
const QUERY_LIMIT: f32 = 1.0;

/// A sparse decode step. Selected tokens may be any of a cache's, as if its requests shared all pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SparseDecodeShape {
    /// Requests.
    pub b: usize,
    pub h_q: usize,
    /// Query tokens of a request.
    pub s_q: usize,
    /// Tokens of a request, in either cache.
    pub s_k: usize,
    /// Elements of a query and of a key: 576 in V3.2's format, 512 in MODEL1's.
    pub d: usize,
    /// Tokens that each query token selects.
    pub topk: usize,
    /// Tokens of a page.
    pub page: usize,
    /// The same for the second cache, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_topk: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_page: Option<usize>,
}

impl SparseDecodeShape {
    /// The problem as the library takes it. A `d` that no format has counts as MODEL1's; [`Self::check`] refuses it.
    pub fn problem(&self) -> SparseDecode {
        let scope = |page_size: usize, topk: usize| KvScopeShape {
            num_pages: self.b * self.s_k.div_ceil(page_size),
            page_size,
            topk,
        };
        SparseDecode {
            batch: self.b,
            s_q: self.s_q,
            h_q: self.h_q,
            format: fp8_format(self.d).unwrap_or(KvFormat::Model1Fp8),
            scope: scope(self.page, self.topk),
            extra: self.extra_page.zip(self.extra_topk).map(|(page_size, topk)| scope(page_size, topk)),
            softmax_scale: softmax_scale(self.d),
            inverse_rope: None,
        }
    }

    /// `len` elements of queries.
    pub fn queries(len: usize) -> Vec<bf16> {
        let limit = bf16::from_f32(QUERY_LIMIT);
        let mut queries = inputs::normal(QUERY_SPREAD, len);
        queries.iter_mut().for_each(|element| *element = element.clamp(-limit, limit));
        queries
    }

    /// The index lists `[b, s_q, topk]` into a cache.
    pub fn indices(&self, scope: &KvScopeShape) -> Vec<i32> {
        inputs::below(scope.num_pages * scope.page_size, self.b * self.s_q * scope.topk)
    }

    /// The problem with its inputs.
    pub fn case(&self) -> Result<SparseDecodeCase, InvalidProblem> {
        let problem = self.problem();
        problem.validate()?;
        let queries = self.b * self.s_q * self.h_q;
        let scope = |shape: KvScopeShape| ScopeCase {
            shape,
            kv_cache: fp8_pages::random(problem.format, shape.page_size, shape.num_pages),
            indices: self.indices(&shape),
            topk_length: None,
        };
        Ok(SparseDecodeCase {
            q: Self::queries(queries * self.d),
            scope: scope(problem.scope),
            extra: problem.extra.map(scope),
            attn_sink: Some(inputs::attn_sink(self.h_q)),
            problem,
            inverse_rope: None,
            expected: None,
        })
    }

    /// Checks that there is a format for the keys, and that a second cache has both of its sizes.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        check_head_dim(self.d)?;
        let has_both = self.extra_topk.is_some() == self.extra_page.is_some();
        ensure!(has_both, "one of extra_topk and extra_page is missing; needed are both or none");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_CACHES: SparseDecodeShape = SparseDecodeShape {
        b: 2,
        h_q: 4,
        s_q: 3,
        s_k: 100,
        d: 512,
        topk: 5,
        page: 64,
        extra_topk: Some(7),
        extra_page: Some(16),
    };

    #[test]
    fn each_cache_has_pages_for_all_requests() {
        let problem = TWO_CACHES.problem();
        assert_eq!((problem.scope.num_pages, problem.scope.topk), (4, 5));
        let extra = problem.extra.unwrap();
        assert_eq!((extra.num_pages, extra.page_size, extra.topk), (14, 16, 7));
        assert_eq!(problem.format, KvFormat::Model1Fp8);
        assert_eq!(SparseDecodeShape { d: 576, ..TWO_CACHES }.problem().format, KvFormat::V32Fp8);
    }

    #[test]
    fn inputs_have_the_problems_sizes_and_name_tokens() {
        let case = TWO_CACHES.case().unwrap();
        assert_eq!(case.q.len(), 2 * 3 * 4 * 512);
        assert!(case.q.iter().all(|element| element.to_f32().abs() <= 1.0));
        let extra = case.extra.unwrap();
        assert_eq!((case.scope.indices.len(), extra.indices.len()), (2 * 3 * 5, 2 * 3 * 7));
        assert_eq!((case.scope.kv_cache.len(), extra.kv_cache.len()), (4 * 64 * 584, 14 * 16 * 584));
        assert!(case.scope.indices.iter().all(|index| (0..4 * 64).contains(index)));
        assert!(extra.indices.iter().all(|index| (0..14 * 16).contains(index)));
        assert_eq!(case.attn_sink.map(|sink| sink.len()), Some(4));
    }

    #[test]
    fn sizes_that_contradict_each_other_are_refused() {
        assert!(TWO_CACHES.check().is_ok());
        let why = SparseDecodeShape { d: 500, ..TWO_CACHES }.check().unwrap_err().to_string();
        assert_eq!(why, "d is 500; needed is 576 or 512");
        let why = SparseDecodeShape { extra_page: None, ..TWO_CACHES }.check().unwrap_err().to_string();
        assert!(why.contains("needed are both or none"), "{why}");
    }
}
