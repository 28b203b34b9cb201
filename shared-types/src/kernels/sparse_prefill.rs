//! Sparse MLA prefill: what the host passes, and how the CTA uses its shared memory. Over FP8 caches both are sparse decode's.
//!
//! To the kernel each query token is a request of its own: its keys are the first `topk_length` of its index list. There are so
//! many of them that none is split.

use super::decode::{
    DecodeParams, SharedPlan, TAIL_TILE, TURNS_THREADS, TURNS_WARPGROUPS, TurnsPlan, VALUE_PARTS,
    WARPGROUP_WARPS,
};
use super::sparse_decode;
use super::{TENSOR_MAP_ALIGN, TensorMap};
use crate::launch::LaunchContract;

/// Registers of a thread of the loads warpgroup.
pub const LOADS_REGISTERS: u32 = 32;

/// Arrivals that make keys full: each warp's of the loads, behind its copies.
pub const KEY_ARRIVALS: u32 = WARPGROUP_WARPS;

/// The CTA's shared memory where keys have a tail: two blocks, and a third tail, for probabilities to be ahead of the values.
pub const PLAN: SharedPlan = SharedPlan::new(TAIL_TILE + 1, 2 * VALUE_PARTS, 3, 0);

/// The same where they have none.
pub const PLAN_WITHOUT_TAIL: SharedPlan = SharedPlan::new(TAIL_TILE, 2 * VALUE_PARTS, 3, 0);

/// What of it the scores need to take turns.
pub const TURNS_PLAN: TurnsPlan = TurnsPlan::behind(PLAN);

/// The same where keys have no tail.
pub const TURNS_PLAN_WITHOUT_TAIL: TurnsPlan = TurnsPlan::behind(PLAN_WITHOUT_TAIL);

/// Parameters of the kernel. Addresses are generic device addresses; strides are in elements.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SparsePrefillParams {
    /// The queries `[1, s_q, h_q, head_dim]` bf16 in boxes of 64 columns of a tile's heads. First, where its alignment holds.
    pub q_map: TensorMap,
    /// What every decode kernel is told; requests are query tokens, with an `s_q` of 1. Nothing is split.
    pub decode: DecodeParams,
    /// Keys `[s_kv, head_dim]` bf16, of which there is at least one.
    pub kv: u64,
    /// Keys of each query `[s_q, topk]` i32.
    pub indices: u64,
    /// Indices that count `[s_q]` i32; 0: all do.
    pub topk_length: u64,
    /// Natural-log weights `[h_q]` f32 that join the denominator; 0: none.
    pub attn_sink: u64,
    /// Largest scaled scores `[s_q, h_q]` f32.
    pub max_logits: u64,
    /// Bytes from key to key.
    pub kv_stride_bytes: i64,
    /// Stride of `indices` by query token.
    pub indices_stride: i64,
    /// Stride of `topk_length`.
    pub topk_length_stride: i64,
    /// Stride of `attn_sink`.
    pub attn_sink_stride: i64,
    /// Strides of `max_logits` by query token, head.
    pub max_logits_strides: [i64; 2],
    /// Keys, at most 2³¹ − 1.
    pub s_kv: u32,
    /// Indices of a query token.
    pub topk: u32,
}

const fn contract(entry: &'static str, plan: TurnsPlan) -> LaunchContract {
    let contract = LaunchContract {
        entry,
        threads: TURNS_THREADS,
        min_ctas_per_sm: 1,
        cluster: 1,
        shared_bytes: plan.bytes,
        param_align: TENSOR_MAP_ALIGN,
    };
    let registers = TurnsPlan::REGISTERS + LOADS_REGISTERS;
    assert!(registers <= TURNS_WARPGROUPS * contract.registers_at_entry());
    contract.checked()
}

/// The kernel for keys of 576 elements on Hopper.
pub const SM90_BF16: LaunchContract = contract("sparse_prefill_sm90_bf16", TURNS_PLAN);

/// The kernel for keys of 512 elements, all of them values, on Hopper.
pub const D512_SM90_BF16: LaunchContract = contract("sparse_prefill_d512_sm90_bf16", TURNS_PLAN_WITHOUT_TAIL);

/// The kernel for V3.2 caches on Hopper.
pub const V32_SM90: LaunchContract = sparse_decode::contract("sparse_prefill_v32_sm90", 1);

/// The kernel for MODEL1 caches on Hopper.
pub const MODEL1_SM90: LaunchContract = sparse_decode::contract("sparse_prefill_model1_sm90", 1);

/// The kernel for V3.2 caches on Hopper where two tiles of heads share the keys.
pub const V32_CLUSTER_SM90: LaunchContract =
    sparse_decode::contract("sparse_prefill_v32_cluster_sm90", sparse_decode::CLUSTER);

/// The kernel for MODEL1 caches on Hopper where two tiles of heads share the keys.
pub const MODEL1_CLUSTER_SM90: LaunchContract =
    sparse_decode::contract("sparse_prefill_model1_cluster_sm90", sparse_decode::CLUSTER);
