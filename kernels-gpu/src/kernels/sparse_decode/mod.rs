//! Sparse MLA decode over FP8 caches: each query token attends to the tokens that its index lists name.

pub mod sm90;

use crate::attention::divide::divide;
use crate::kernels::decode::segments::Requests;
use crate::ptx::memory;
use oximla_types::kernels::sparse_decode::{self, ScopeParams, SparseDecodeParams};

/// The query tokens of a sparse decode.
#[derive(Clone, Copy)]
struct Queries<'a>(&'a SparseDecodeParams);

impl Requests for Queries<'_> {
    #[inline(always)]
    fn min_payload(longest: u32) -> u32 {
        sparse_decode::min_payload(longest)
    }

    #[inline(always)]
    unsafe fn keys(self, request: u32) -> u32 {
        let (batch, query) = divide(request, &self.0.queries);
        // SAFETY: as the caller promises.
        unsafe { self.scope_keys(0, batch, query) + self.scope_keys(1, batch, query) }
    }
}

impl Queries<'_> {
    /// How many of a query token's indices into a cache count.
    ///
    /// # Safety
    /// The parameters describe live tensors, and there is such a token of such a batch entry.
    #[inline(always)]
    unsafe fn scope_keys(self, scope: usize, batch: u32, query: u32) -> u32 {
        let ScopeParams { topk, topk_length, topk_length_strides, .. } = self.0.scopes[scope];
        if topk_length == 0 {
            return topk;
        }
        let [batch_stride, query_stride] = topk_length_strides;
        let offset = (batch as i64 * batch_stride + query as i64 * query_stride) * 4;
        // SAFETY: as the caller promises.
        let length = unsafe { memory::ld_global_i32(topk_length.wrapping_add(offset as u64)) };
        let length = if length < 0 { 0 } else { length as u32 };
        if length < topk { length } else { topk }
    }
}
