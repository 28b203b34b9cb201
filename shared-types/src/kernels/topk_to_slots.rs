//! From positions in a request to slots of the cache.

use crate::launch::{LaunchContract, WARP_THREADS};

/// Warps of a CTA, which takes one query's list.
pub const WARPS: u32 = 8;

/// Threads of a CTA.
pub const THREADS: u32 = WARPS * WARP_THREADS;

/// Parameters of the kernel. All tensors are i32; strides are in elements, and innermost dimensions are contiguous.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct TopkToSlotsParams {
    /// Positions in the request `[batch, s_q, topk]`.
    pub positions: u64,
    /// Pages of each request `[batch, max_pages]`.
    pub page_table: u64,
    /// Tokens of each request `[batch]`.
    pub seqlens: u64,
    /// The result `[batch, s_q, topk]`.
    pub slots: u64,
    /// How many slots of each list are tokens `[batch, s_q]`.
    pub counts: u64,
    /// Strides of `positions` by batch and query.
    pub positions_strides: [i64; 2],
    /// From request to request of `page_table`.
    pub page_table_stride: i64,
    /// From request to request of `seqlens`.
    pub seqlens_stride: i64,
    /// Strides of `slots` by batch and query.
    pub slots_strides: [i64; 2],
    /// From request to request of `counts`.
    pub counts_stride: i64,
    /// Positions of a list.
    pub topk: u32,
    /// Pages of a request at most.
    pub max_pages: u32,
    /// Tokens of a page.
    pub page_size: u32,
    /// Pages of the cache.
    pub num_pages: u32,
}

/// Dynamic shared memory: each warp's count.
const SHARED_BYTES: u32 = WARPS * size_of::<u32>() as u32;

/// The kernel.
pub const CONTRACT: LaunchContract = LaunchContract {
    entry: "topk_to_slots",
    threads: THREADS,
    min_ctas_per_sm: 1,
    cluster: 1,
    shared_bytes: SHARED_BYTES,
    param_align: 8,
}
.checked();
