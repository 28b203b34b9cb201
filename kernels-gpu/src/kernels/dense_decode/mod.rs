//! Dense MLA decode over a paged cache.

mod schedule;
pub mod sm90;

use crate::kernels::decode::segments::Requests;
use crate::ptx::memory;
use oximla_types::kernels::dense_decode::DenseDecodeParams;
use oximla_types::schedule::{BLOCK_KEYS, MIN_PAYLOAD};

/// The requests of a dense decode.
#[derive(Clone, Copy)]
struct DenseRequests<'a>(&'a DenseDecodeParams);

impl Requests for DenseRequests<'_> {
    #[inline(always)]
    fn min_payload(_: u32) -> u32 {
        MIN_PAYLOAD.get()
    }

    /// Never more than the request's row of the page table can name.
    #[inline(always)]
    unsafe fn keys(self, request: u32) -> u32 {
        let params = self.0;
        let offset = request as i64 * params.cache_seqlens_stride * 4;
        // SAFETY: as the caller promises.
        let len = unsafe { memory::ld_global_i32(params.cache_seqlens.wrapping_add(offset as u64)) };
        let capacity = params.max_pages * BLOCK_KEYS;
        let len = if len < 0 { 0 } else { len as u32 };
        if len < capacity { len } else { capacity }
    }
}
