//! Dense decode: one key/value head, paged bf16 keys of 576 elements.

use half::bf16;
use oximla::case_file::{DenseDecodeCase, HalfVec};
use oximla::{DenseDecode, InvalidProblem};
use serde::{Deserialize, Serialize};

use super::{HEAD_DIM_V, softmax_scale};
use crate::bench::inputs;

/// Standard deviation of queries and keys.
const SPREAD: f32 = 0.1;

/// Elements of a query and of a key.
const HEAD_DIM: usize = 576;

/// A step between lengths of varied requests: prime, so that they spread over the range.
const LENGTH_STEP: usize = 7919;

/// A dense decode step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DenseDecodeShape {
    /// Requests.
    pub b: usize,
    pub h_q: usize,
    /// Query tokens of a request.
    pub s_q: usize,
    /// Keys of a request; with `varlen` of the average one.
    pub s_k: usize,
    /// Keys of a page.
    pub page: usize,
    #[serde(default, skip_serializing_if = "is_false")]
    pub varlen: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub causal: bool,
}

impl DenseDecodeShape {
    /// Keys of each request.
    pub fn lengths(&self) -> Vec<usize> {
        let varied = |request: usize| (self.s_k / 2 + request * LENGTH_STEP % self.s_k).max(1);
        (0..self.b).map(|request| if self.varlen { varied(request) } else { self.s_k }).collect()
    }

    /// Keys of all requests.
    pub fn total_keys(&self) -> usize {
        self.lengths().iter().sum()
    }

    /// The problem as the library takes it; every request has pages for the longest one.
    pub fn problem(&self) -> DenseDecode {
        let longest = self.lengths().into_iter().max().unwrap_or(0);
        let max_pages = longest.div_ceil(self.page);
        DenseDecode {
            batch: self.b,
            s_q: self.s_q,
            h_q: self.h_q,
            h_kv: 1,
            head_dim: HEAD_DIM,
            head_dim_v: HEAD_DIM_V,
            page_size: self.page,
            num_pages: self.b * max_pages,
            max_pages,
            softmax_scale: softmax_scale(HEAD_DIM),
            causal: self.causal,
        }
    }

    /// `len` elements of queries or keys.
    pub fn elements(len: usize) -> Vec<bf16> {
        inputs::normal(SPREAD, len)
    }

    /// The problem with its inputs.
    pub fn case(&self) -> Result<DenseDecodeCase, InvalidProblem> {
        let problem = self.problem();
        problem.validate()?;
        let queries = problem.batch * problem.s_q * problem.h_q;
        let keys = problem.num_pages * problem.page_size * problem.h_kv;
        Ok(DenseDecodeCase {
            q: HalfVec::Bf16(Self::elements(queries * problem.head_dim)),
            kv_cache: HalfVec::Bf16(Self::elements(keys * problem.head_dim)),
            block_table: inputs::block_table(problem.num_pages),
            cache_seqlens: inputs::cache_seqlens(&self.lengths()),
            problem,
            expected: None,
        })
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_vary_where_the_case_says_so() {
        let mut shape =
            DenseDecodeShape { b: 4, h_q: 128, s_q: 2, s_k: 8192, page: 64, varlen: true, causal: true };
        // 4096 + 7919 i mod 8192: 7919 · 2 is 7646 above 8192, 7919 · 3 is 7373 above 2 · 8192.
        assert_eq!(shape.lengths(), [4096, 12_015, 11_742, 11_469]);
        assert!(shape.problem().causal && shape.problem().validate().is_ok());
        shape.varlen = false;
        assert_eq!(shape.lengths(), [8192; 4]);
        assert_eq!((shape.problem().num_pages, shape.problem().max_pages), (512, 128));
    }
}
