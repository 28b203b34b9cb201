//! Dequantising tokens of an FP8 cache.

use super::PagedCache;
use crate::launch::{LaunchContract, WARP_THREADS};

/// Warps of a CTA.
pub const WARPS: u32 = 4;

/// Tokens that a warp has under way together.
pub const TOKENS_PER_WARP: u32 = 4;

/// Tokens of a CTA.
pub const TOKENS_PER_CTA: u32 = WARPS * TOKENS_PER_WARP;

/// Parameters of the kernel. Strides of `slots` and `out` are in elements.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct KvGatherParams {
    /// Where the tokens are.
    pub cache: PagedCache,
    /// Tokens of the cache `[tokens]` i32; rows of those that are not in the cache are zero.
    pub slots: u64,
    /// The result `[tokens, head_dim]` bf16.
    pub out: u64,
    /// From slot to slot.
    pub slots_stride: i64,
    /// From row to row of `out`.
    pub out_stride: i64,
    /// Tokens to gather.
    pub tokens: u64,
}

const fn contract(entry: &'static str) -> LaunchContract {
    LaunchContract {
        entry,
        threads: WARPS * WARP_THREADS,
        min_ctas_per_sm: 1,
        cluster: 1,
        shared_bytes: 0,
        param_align: 8,
    }
    .checked()
}

/// For [`KvFormat::V32Fp8`](crate::kv_cache::KvFormat::V32Fp8).
pub const V32: LaunchContract = contract("kv_gather_v32");

/// For [`KvFormat::Model1Fp8`](crate::kv_cache::KvFormat::Model1Fp8).
pub const MODEL1: LaunchContract = contract("kv_gather_model1");
