//! For each kernel: parameters, shared-memory plan, launch contract.

pub mod combine;
pub mod decode;
pub mod dense_decode;
pub mod few_heads;
pub mod inverse_rope;
pub mod kv_gather;
pub mod kv_insert;
pub mod merge_states;
pub mod sparse_decode;
pub mod sparse_prefill;
pub mod topk_to_slots;
pub mod wrapper_tests;

use crate::launch::LaunchContract;

/// A `CUtensorMap`, opaque to everything but the driver that encodes it and the copy engine that reads it.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct TensorMap(pub [u64; 16]);

/// Alignment of a tensor map (PTX ISA, "Tensor-map"), and so of a parameter block that opens with one.
pub const TENSOR_MAP_ALIGN: u32 = 64;

/// A paged cache of one key/value head.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PagedCache {
    /// The first page.
    pub pages: u64,
    /// Bytes from page to page.
    pub page_stride: i64,
    /// Tokens of the cache, which are `page · page_size + offset` from 0 on.
    pub tokens: u32,
    /// Tokens of a page.
    pub page_size: u32,
}

/// Every entry of the sm_90a module.
pub const SM90A_CONTRACTS: &[LaunchContract] = &[
    dense_decode::SM90_BF16,
    dense_decode::SM90_FP16,
    dense_decode::D512_SM90_BF16,
    dense_decode::D512_SM90_FP16,
    dense_decode::FUSED_SM90_BF16,
    dense_decode::FUSED_SM90_FP16,
    dense_decode::D512_FUSED_SM90_BF16,
    dense_decode::D512_FUSED_SM90_FP16,
    dense_decode::SCHEDULE,
    sparse_decode::V32_SM90,
    sparse_decode::MODEL1_SM90,
    sparse_decode::V32_CLUSTER_SM90,
    sparse_decode::MODEL1_CLUSTER_SM90,
    sparse_decode::V32_FUSED_SM90,
    sparse_decode::MODEL1_FUSED_SM90,
    few_heads::V32_SM90,
    few_heads::MODEL1_SM90,
    sparse_prefill::SM90_BF16,
    sparse_prefill::D512_SM90_BF16,
    sparse_prefill::V32_SM90,
    sparse_prefill::MODEL1_SM90,
    sparse_prefill::V32_CLUSTER_SM90,
    sparse_prefill::MODEL1_CLUSTER_SM90,
    combine::BF16.few,
    combine::FP16.few,
    combine::BF16.many,
    combine::FP16.many,
    merge_states::BF16,
    merge_states::FP16,
    merge_states::F32,
    inverse_rope::BF16,
    inverse_rope::FP16,
    inverse_rope::F32,
    kv_insert::V32,
    kv_insert::MODEL1,
    kv_gather::V32,
    kv_gather::MODEL1,
    topk_to_slots::CONTRACT,
];
