//! Dense MLA decode: what the host passes, and how the CTA uses its shared memory.

use super::decode::{
    DecodeParams, HEAD_DIM_V, MAX_CLUSTER, PART_TILES, SharedPlan, SplitRecord, TAIL_TILE, TILE_COLUMNS,
    TURNS_THREADS, TURNS_WARPGROUPS, TurnsPlan, VALUE_PARTS,
};
use super::{TENSOR_MAP_ALIGN, TensorMap};
use crate::launch::{LaunchContract, WARP_THREADS};
use crate::schedule::Place;

/// Elements of a query and of a key.
pub const HEAD_DIM: u32 = 576;

/// Elements of a query and of a key where all of a key is value as well.
pub const HEAD_DIM_WITHOUT_TAIL: u32 = HEAD_DIM_V;

/// Tiles across a query or a key.
pub const TILES: u32 = HEAD_DIM / TILE_COLUMNS;

/// Parts in shared memory at a time: two key blocks.
pub const PART_SLOTS: u32 = 2 * VALUE_PARTS;

/// Slots of tail tiles, each of which becomes its block's probabilities.
pub const TAIL_SLOTS: u32 = 3;

/// Registers of a thread of the loads warpgroup.
pub const LOADS_REGISTERS: u32 = 32;

/// The CTA's shared memory.
pub const PLAN: SharedPlan = SharedPlan::new(TILES, PART_SLOTS, TAIL_SLOTS, 0);

/// What of it the scores need to take turns.
pub const TURNS_PLAN: TurnsPlan = TurnsPlan::behind(PLAN);

const _: () = {
    assert!(HEAD_DIM.is_multiple_of(TILE_COLUMNS));
    assert!(PART_TILES.is_multiple_of(MAX_CLUSTER), "CTAs of a cluster fetch as many tiles of a part");
    assert!(TILES == TAIL_TILE + 1, "one tile of a key has no values");
};

/// Parameters of the kernel. Addresses are generic device addresses; strides are in elements.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct DenseDecodeParams {
    /// The cache `[num_pages, h_kv, 64 keys, 576]` in boxes of one tile. First, where its alignment holds.
    pub kv_map: TensorMap,
    /// The queries `[batch, s_q, h_q, 576]` in boxes of one tile's columns and rows, see
    /// [`QueryTiling`](super::decode::QueryTiling).
    pub q_map: TensorMap,
    /// Page table `[batch, max_pages]` i32.
    pub block_table: u64,
    /// Keys of each request `[batch]` i32.
    pub cache_seqlens: u64,
    /// What every decode kernel is told.
    pub decode: DecodeParams,
    /// Stride of `block_table` by batch.
    pub block_table_stride: i64,
    /// Stride of `cache_seqlens`.
    pub cache_seqlens_stride: i64,
    /// Pages in the cache.
    pub num_pages: u32,
    /// Pages in a row of the page table.
    pub max_pages: u32,
    /// 1 for causal masking, else 0.
    pub causal: u32,
    /// Zero; fills the struct to its alignment.
    pub reserved: u32,
}

/// A schedule in memory: byte offsets from an address that is aligned to 16.
///
/// It tells all that decodes need to know of the requests' lengths, so that they need not wait for earlier kernels to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleLayout {
    /// The [`Place`] of each partition.
    pub places: u64,
    /// The [`SplitRecord`] of each request.
    pub splits: u64,
    /// Keys of each request, u32.
    pub lens: u64,
    /// Bytes in all.
    pub bytes: u64,
}

impl ScheduleLayout {
    /// Of so many requests and partitions.
    pub const fn new(requests: u32, partitions: u32) -> Self {
        let splits = partitions as u64 * size_of::<Place>() as u64;
        let lens = splits + requests as u64 * size_of::<SplitRecord>() as u64;
        Self { places: 0, splits, lens, bytes: lens + requests as u64 * size_of::<u32>() as u64 }
    }
}

const _: () = assert!(size_of::<Place>().is_multiple_of(size_of::<SplitRecord>()));

const fn contract(entry: &'static str) -> LaunchContract {
    let contract = LaunchContract {
        entry,
        threads: TURNS_THREADS,
        min_ctas_per_sm: 1,
        cluster: 1,
        shared_bytes: TURNS_PLAN.bytes,
        param_align: TENSOR_MAP_ALIGN,
    };
    let registers = TurnsPlan::REGISTERS + LOADS_REGISTERS;
    assert!(registers <= TURNS_WARPGROUPS * contract.registers_at_entry());
    contract.checked()
}

/// The kernel that computes the schedule of a step, for the decodes of all layers: a warp a partition.
pub const SCHEDULE: LaunchContract = LaunchContract {
    entry: "dense_decode_schedule",
    threads: WARP_THREADS,
    min_ctas_per_sm: 1,
    cluster: 1,
    shared_bytes: 0,
    param_align: TENSOR_MAP_ALIGN,
}
.checked();

/// The bf16 kernel for Hopper.
pub const SM90_BF16: LaunchContract = contract("dense_decode_sm90_bf16");

/// The fp16 kernel for Hopper.
pub const SM90_FP16: LaunchContract = contract("dense_decode_sm90_fp16");

/// The bf16 kernel for Hopper with keys of [`HEAD_DIM_WITHOUT_TAIL`] elements.
pub const D512_SM90_BF16: LaunchContract = contract("dense_decode_d512_sm90_bf16");

/// The fp16 kernel for Hopper with keys of [`HEAD_DIM_WITHOUT_TAIL`] elements.
pub const D512_SM90_FP16: LaunchContract = contract("dense_decode_d512_sm90_fp16");

/// Blocks of a split at most that are combined within a cluster: longer ones take less time spread all over the GPU, as a cluster's
/// CTAs share one way to the level-2 cache.
pub const MAX_FUSED_BLOCKS: u32 = 1;

/// The bf16 kernel for Hopper where a cluster has all splits of a request.
pub const FUSED_SM90_BF16: LaunchContract = contract("dense_decode_fused_sm90_bf16");

/// The fp16 kernel for Hopper where a cluster has all splits of a request.
pub const FUSED_SM90_FP16: LaunchContract = contract("dense_decode_fused_sm90_fp16");

/// The same for bf16 keys of [`HEAD_DIM_WITHOUT_TAIL`] elements.
pub const D512_FUSED_SM90_BF16: LaunchContract = contract("dense_decode_d512_fused_sm90_bf16");

/// The same for fp16 keys of [`HEAD_DIM_WITHOUT_TAIL`] elements.
pub const D512_FUSED_SM90_FP16: LaunchContract = contract("dense_decode_d512_fused_sm90_fp16");
