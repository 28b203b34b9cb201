//! Sparse prefill over an FP8 cache: from the cache as it is, or from a copy of it in bf16.

use anyhow::ensure;
use oximla::{KvFormat, KvGather, KvScopeShape, SparsePrefill, SparsePrefillFp8};
use serde::{Deserialize, Serialize};

use super::{SparsePrefillShape, check_head_dim, fp8_format, softmax_scale};

/// A prefill of one request, whose tokens fill a cache of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SparsePrefillFp8Shape {
    /// Query tokens.
    pub s_q: usize,
    pub h_q: usize,
    /// Tokens in the cache.
    pub s_k: usize,
    /// Elements of a query and of a key: 576 in V3.2's format, 512 in MODEL1's.
    pub d: usize,
    /// Tokens that each query token selects.
    pub topk: usize,
    /// Tokens of a page.
    pub page: usize,
}

impl SparsePrefillFp8Shape {
    /// The problem as the library takes it. A `d` that no format has counts as MODEL1's; [`Self::check`] refuses it.
    pub fn problem(&self) -> SparsePrefillFp8 {
        SparsePrefillFp8 {
            s_q: self.s_q,
            h_q: self.h_q,
            format: fp8_format(self.d).unwrap_or(KvFormat::Model1Fp8),
            scope: KvScopeShape { num_pages: self.s_k / self.page, page_size: self.page, topk: self.topk },
            extra: None,
            softmax_scale: softmax_scale(self.d),
            inverse_rope: None,
        }
    }

    /// The copy of all tokens in bf16.
    pub fn gathering(&self) -> KvGather {
        let SparsePrefillFp8 { format, scope, .. } = self.problem();
        KvGather { format, num_pages: scope.num_pages, page_size: scope.page_size, tokens: self.s_k }
    }

    /// The same prefill over the copy.
    pub fn over_copy(&self) -> SparsePrefillShape {
        let &Self { s_q, h_q, s_k, d, topk, .. } = self;
        SparsePrefillShape { s_q, h_q, s_k, d, topk }
    }

    /// Bytes that both together have to move.
    pub fn bytes_with_copy(&self) -> f64 {
        let prefill: SparsePrefill = self.over_copy().problem();
        self.gathering().bytes() + prefill.bytes()
    }

    /// Checks that there is a format for the keys, and that the tokens fill pages and can be selected.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        check_head_dim(self.d)?;
        let &Self { s_k, page, .. } = self;
        ensure!(s_k.is_multiple_of(page), "s_k is {s_k}; needed is a multiple of page, {page}");
        self.over_copy().check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: SparsePrefillFp8Shape =
        SparsePrefillFp8Shape { s_q: 3, h_q: 4, s_k: 128, d: 576, topk: 5, page: 64 };

    #[test]
    fn both_are_the_same_prefill() {
        let (direct, copied) = (SHAPE.problem(), SHAPE.over_copy().problem());
        assert_eq!((direct.format, direct.scope.num_pages), (KvFormat::V32Fp8, 2));
        assert_eq!(direct.flop(), copied.flop());
        // (128 · (656 + 576 · 2 + 4)) + (3 · 5 · 576 + 3 · 4 · 1088) · 2.
        assert_eq!(SHAPE.bytes_with_copy(), 231_936.0 + 43_392.0);
    }

    #[test]
    fn sizes_that_contradict_each_other_are_refused() {
        assert!(SHAPE.check().is_ok());
        let why = |shape: SparsePrefillFp8Shape| shape.check().unwrap_err().to_string();
        assert_eq!(why(SparsePrefillFp8Shape { d: 500, ..SHAPE }), "d is 500; needed is 576 or 512");
        let why_pages = why(SparsePrefillFp8Shape { page: 60, ..SHAPE });
        assert_eq!(why_pages, "s_k is 128; needed is a multiple of page, 60");
        assert!(why(SparsePrefillFp8Shape { topk: 129, ..SHAPE }).starts_with("topk is 129"));
    }
}
