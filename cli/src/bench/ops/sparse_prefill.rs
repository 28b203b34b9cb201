//! Sparse prefill: each query token attends to selected bf16 keys.

use anyhow::ensure;
use half::bf16;
use oximla::case_file::SparsePrefillCase;
use oximla::{InvalidProblem, SparsePrefill};
use serde::{Deserialize, Serialize};

use super::{HEAD_DIM_V, softmax_scale};
use crate::bench::inputs;

/// Standard deviation of queries and keys.
const SPREAD: f32 = 0.1;

/// A prefill.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SparsePrefillShape {
    /// Query tokens.
    pub s_q: usize,
    pub h_q: usize,
    /// Keys.
    pub s_k: usize,
    /// Elements of a query and of a key.
    pub d: usize,
    /// Keys that each query token selects.
    pub topk: usize,
}

impl SparsePrefillShape {
    /// The problem as the library takes it.
    pub fn problem(&self) -> SparsePrefill {
        SparsePrefill {
            s_q: self.s_q,
            h_q: self.h_q,
            head_dim: self.d,
            head_dim_v: HEAD_DIM_V,
            s_kv: self.s_k,
            topk: self.topk,
            softmax_scale: softmax_scale(self.d),
        }
    }

    /// `len` elements of queries or keys.
    pub fn elements(len: usize) -> Vec<bf16> {
        inputs::normal(SPREAD, len)
    }

    /// The index lists `[s_q, 1, topk]`: different keys in each.
    pub fn indices(&self) -> Vec<i32> {
        inputs::selections(self.s_k, self.topk, self.s_q)
    }

    /// The problem with its inputs.
    pub fn case(&self) -> Result<SparsePrefillCase, InvalidProblem> {
        let problem = self.problem();
        problem.validate()?;
        Ok(SparsePrefillCase {
            problem,
            q: Self::elements(self.s_q * self.h_q * self.d),
            kv: Self::elements(self.s_k * self.d),
            indices: self.indices(),
            topk_length: None,
            attn_sink: Some(inputs::attn_sink(self.h_q)),
            expected: None,
        })
    }

    /// Checks that a query token can select so many different keys.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.topk <= self.s_k, "topk is {}; needed is at most s_k, {}", self.topk, self.s_k);
        Ok(())
    }
}
