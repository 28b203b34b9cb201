//! Quantising tokens into an FP8 cache.

use super::PagedCache;
use crate::launch::{LaunchContract, WARP_THREADS};

/// Warps of a CTA.
pub const WARPS: u32 = 4;

/// Tokens that a warp has under way together.
pub const TOKENS_PER_WARP: u32 = 2;

/// Tokens of a CTA.
pub const TOKENS_PER_CTA: u32 = WARPS * TOKENS_PER_WARP;

/// Parameters of the kernel. Strides of `latent`, `rope` and `slots` are in elements.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct KvInsertParams {
    /// Where the tokens go.
    pub cache: PagedCache,
    /// Elements to quantise `[tokens, nope_dim]` bf16.
    pub latent: u64,
    /// Elements to copy `[tokens, 64]` bf16.
    pub rope: u64,
    /// The token of the cache that each becomes `[tokens]` i64; none where it is not in the cache.
    pub slots: u64,
    /// From token to token of `latent`.
    pub latent_stride: i64,
    /// From token to token of `rope`.
    pub rope_stride: i64,
    /// From slot to slot.
    pub slots_stride: i64,
    /// Tokens to insert.
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
pub const V32: LaunchContract = contract("kv_insert_v32");

/// For [`KvFormat::Model1Fp8`](crate::kv_cache::KvFormat::Model1Fp8).
pub const MODEL1: LaunchContract = contract("kv_insert_model1");
