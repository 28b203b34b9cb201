//! Dense MLA decode: what the host passes, and how the CTA uses its shared memory.

use super::{TENSOR_MAP_ALIGN, TensorMap};
use crate::launch::{LaunchContract, MAX_SHARED_BYTES, WARP_THREADS, WARPGROUP_THREADS};
use crate::schedule::{BLOCK_KEYS, Determinism};
use core::num::NonZeroU32;

/// Elements of a query and of a key.
pub const HEAD_DIM: u32 = 576;

/// Elements of a value: the head of each key.
pub const HEAD_DIM_V: u32 = 512;

/// Query rows a CTA computes, the M of `wgmma`.
pub const TILE_ROWS: u32 = 64;

/// Columns of a shared-memory tile: one 128-byte swizzle row of 16-bit elements.
pub const TILE_COLUMNS: u32 = 64;

/// Tiles across a query or a key.
pub const TILES: u32 = HEAD_DIM / TILE_COLUMNS;

/// Parts that the value tiles of a key block are divided into, by columns: what one `wgmma` multiplies.
pub const VALUE_PARTS: u32 = 4;

/// Tiles of a part.
pub const PART_TILES: u32 = HEAD_DIM_V / TILE_COLUMNS / VALUE_PARTS;

/// Bytes of a tile of 16-bit elements.
pub const TILE_BYTES: u32 = TILE_ROWS * TILE_COLUMNS * 2;

/// The tile without values: the last one.
pub const TAIL_TILE: u32 = VALUE_PARTS * PART_TILES;

/// Bytes of a part of a key block.
pub const PART_BYTES: u32 = PART_TILES * TILE_BYTES;

/// Query tiles in shared memory: the last ones. The others stay in registers of the scores warpgroup, which makes room for
/// more keys.
pub const SHARED_QUERY_TILES: u32 = TILES - REGISTER_QUERY_TILES;

/// Query tiles in registers: those that go with all parts but the last.
pub const REGISTER_QUERY_TILES: u32 = (VALUE_PARTS - 1) * PART_TILES;

/// Parts in shared memory at a time: two and three quarters of a key block.
pub const PART_SLOTS: u32 = 11;

/// Slots of tail tiles, each of which becomes its block's probabilities.
pub const TAIL_SLOTS: u32 = 3;

/// Segments, the parts of requests that a CTA computes, in its queue at a time.
pub const SEGMENT_SLOTS: u32 = 2;

/// Bytes of a segment in the queue.
pub const SEGMENT_BYTES: u32 = 32;

/// Warpgroups of a CTA: one for scores, two for values, one for loads.
pub const WARPGROUPS: u32 = 4;

/// CTAs of a cluster at most: those of neighbouring row tiles, which fetch the keys together.
pub const MAX_CLUSTER: u32 = 2;

/// Registers of a thread of the scores warpgroup, once roles have parted: 32 scores, 96 queries and their bookkeeping.
pub const SCORES_REGISTERS: u32 = 168;

/// Registers of a thread of a values warpgroup: 128 accumulators and their bookkeeping.
pub const VALUES_REGISTERS: u32 = 160;

/// Registers of a thread of the loads warpgroup.
pub const LOADS_REGISTERS: u32 = 24;

const THREADS: u32 = WARPGROUPS * WARPGROUP_THREADS;

/// Byte offsets in the CTA's shared memory.
///
/// Tiles come first, as their 128-byte swizzle needs them aligned to 1024 bytes.
#[derive(Clone, Copy, Debug)]
pub struct SharedPlan;

impl SharedPlan {
    /// The query tiles that are not in registers.
    pub const Q: u32 = 0;
    /// Value tiles of the keys, part by part.
    pub const V: u32 = Self::Q + SHARED_QUERY_TILES * TILE_BYTES;
    /// Tail tiles of the keys; once a block's scores are computed, its probabilities lie where its tail was.
    pub const TAIL: u32 = Self::V + PART_SLOTS * PART_BYTES;
    /// Per tail slot and row, f32: what the output so far is multiplied by before the block is added.
    pub const ROW_SCALE: u32 = Self::TAIL + TAIL_SLOTS * TILE_BYTES;
    /// Per tail slot, u32: whether the block's page is one of the cache's, else 0.
    pub const IS_PRESENT: u32 = Self::ROW_SCALE + TAIL_SLOTS * TILE_ROWS * 4;
    /// The queue of segments.
    pub const SEGMENTS: u32 = (Self::IS_PRESENT + TAIL_SLOTS * 4).next_multiple_of(16);
    /// Per row, f32: the reciprocal of the softmax denominator.
    pub const ROW_NORM: u32 = Self::SEGMENTS + SEGMENT_SLOTS * SEGMENT_BYTES;
    /// A part of the value tiles has landed: one barrier a slot.
    pub const PART_FULL: u32 = Self::ROW_NORM + TILE_ROWS * 4;
    /// A part of the value tiles is used up: one barrier a slot.
    pub const PART_FREE: u32 = Self::PART_FULL + PART_SLOTS * BARRIER_BYTES;
    /// Tail tiles have landed: one barrier a slot.
    pub const TAIL_FULL: u32 = Self::PART_FREE + PART_SLOTS * BARRIER_BYTES;
    /// Probabilities and row scales are written: one barrier a tail slot.
    pub const P_FULL: u32 = Self::TAIL_FULL + TAIL_SLOTS * BARRIER_BYTES;
    /// Probabilities and row scales are used up: one barrier a tail slot.
    pub const P_FREE: u32 = Self::P_FULL + TAIL_SLOTS * BARRIER_BYTES;
    /// Probabilities may be multiplied, as the next block's scores are under way: one barrier a tail slot.
    pub const P_MAY: u32 = Self::P_FREE + TAIL_SLOTS * BARRIER_BYTES;
    /// A segment is in its slot of the queue: one barrier a slot.
    pub const SEGMENT_FULL: u32 = Self::P_MAY + TAIL_SLOTS * BARRIER_BYTES;
    /// A segment has been read by all threads: one barrier a slot.
    pub const SEGMENT_FREE: u32 = Self::SEGMENT_FULL + SEGMENT_SLOTS * BARRIER_BYTES;
    /// Row norms are written.
    pub const NORM_FULL: u32 = Self::SEGMENT_FREE + SEGMENT_SLOTS * BARRIER_BYTES;
    /// Row norms are used up.
    pub const NORM_FREE: u32 = Self::NORM_FULL + BARRIER_BYTES;
    /// Bytes in all.
    pub const BYTES: u32 = Self::NORM_FREE + BARRIER_BYTES;
}

/// Bytes of an mbarrier.
pub const BARRIER_BYTES: u32 = 8;

const _: () = {
    assert!(HEAD_DIM.is_multiple_of(TILE_COLUMNS) && HEAD_DIM_V.is_multiple_of(VALUE_PARTS * TILE_COLUMNS));
    assert!(PART_TILES.is_multiple_of(MAX_CLUSTER), "CTAs of a cluster fetch as many tiles of a part");
    assert!(BLOCK_KEYS == TILE_ROWS, "a key block is a column of square tiles");
    assert!(TILES == TAIL_TILE + 1, "one tile of a key has no values");
    assert!(SharedPlan::V.is_multiple_of(1024) && SharedPlan::TAIL.is_multiple_of(1024));
    assert!(SharedPlan::PART_FULL.is_multiple_of(BARRIER_BYTES));
    assert!(SharedPlan::BYTES <= MAX_SHARED_BYTES);
};

/// How the query rows that share a key/value head are divided into tiles of at most [`TILE_ROWS`] rows: a tile has some heads
/// of each of some tokens, as a box of the copy engine. Its rows go head by head, token by token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct QueryTiling {
    /// Heads of a tile.
    pub heads: u32,
    /// Query tokens of a tile.
    pub tokens: u32,
    /// Tiles side by side along the heads that share a key/value head.
    pub head_tiles: u32,
}

impl QueryTiling {
    /// As many whole tokens as fit into a tile; where the heads of one do not, some of its heads.
    ///
    /// `group` heads share a key/value head.
    pub const fn new(group: NonZeroU32) -> Self {
        let group = group.get();
        if group <= TILE_ROWS {
            Self { heads: group, tokens: TILE_ROWS / group, head_tiles: 1 }
        } else {
            Self { heads: TILE_ROWS, tokens: 1, head_tiles: group.div_ceil(TILE_ROWS) }
        }
    }

    /// Rows of a tile, not all of which need exist.
    pub const fn rows(self) -> u32 {
        self.heads * self.tokens
    }

    /// Tiles for `s_q` query tokens.
    pub const fn tiles(self, s_q: u32) -> u32 {
        s_q.div_ceil(self.tokens) * self.head_tiles
    }
}

/// Parameters of the kernel. Addresses are generic device addresses; strides are in elements.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct DenseDecodeParams {
    /// The cache `[num_pages, h_kv, 64 keys, 576]` in boxes of one tile. First, where its alignment holds.
    pub kv_map: TensorMap,
    /// The queries `[batch, s_q, h_q, 576]` in boxes of one tile's columns and rows, see [`QueryTiling`].
    pub q_map: TensorMap,
    /// Page table `[batch, max_pages]` i32.
    pub block_table: u64,
    /// Keys of each request `[batch]` i32.
    pub cache_seqlens: u64,
    /// Where each partition starts `[partitions]` of [`Place`](crate::schedule::Place), which the schedule kernel writes;
    /// 0 where each CTA of the decode finds out by itself.
    pub places: u64,
    /// Output `[batch, s_q, h_q, 512]`.
    pub out: u64,
    /// Natural log of the softmax denominators `[batch, h_q, s_q]` f32.
    pub lse: u64,
    /// Partial results of split requests.
    pub partial: PartialResults,
    /// Strides of `out` by batch, query token, head.
    pub out_strides: [i64; 3],
    /// Strides of `lse` by batch, head, query token.
    pub lse_strides: [i64; 3],
    /// Stride of `block_table` by batch.
    pub block_table_stride: i64,
    /// Stride of `cache_seqlens`.
    pub cache_seqlens_stride: i64,
    /// Requests.
    pub batch: u32,
    /// Query tokens per request.
    pub s_q: u32,
    /// Query heads that share a key/value head.
    pub group: u32,
    /// Query rows that share a key/value head: `s_q · group`.
    pub rows: u32,
    /// Query rows of a request: `h_kv · rows`.
    pub total_rows: u32,
    /// Tiles of query rows, see [`QueryTiling`].
    pub row_tiles: u32,
    /// How tiles of query rows are made up.
    pub tiling: QueryTiling,
    /// Pages in the cache.
    pub num_pages: u32,
    /// Pages in a row of the page table.
    pub max_pages: u32,
    /// Partitions of the work line.
    pub partitions: u32,
    /// Softmax scale times log₂ e, so that the kernel can use powers of two.
    pub scale_log2: f32,
    /// 1 for causal masking, else 0.
    pub causal: u32,
    /// [`Determinism::chunk_slots`]: 0 for [`Determinism::RunToRun`].
    pub chunk_slots: u32,
    /// Zero; fills the struct to its alignment.
    pub reserved: u32,
}

impl DenseDecodeParams {
    /// What the division of requests may depend on.
    pub const fn determinism(&self) -> Determinism {
        if self.chunk_slots == 0 { Determinism::RunToRun } else { Determinism::BatchInvariant }
    }
}

/// Where partial results of split requests lie, in the workspace. `rows` counts `h_q · s_q` rows.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PartialResults {
    /// Normalised partial outputs `[slots, h_kv · rows, 512]` f32.
    pub out: u64,
    /// Base-2 logarithms of the partial denominators `[slots, h_kv · rows]` f32; −∞ where there was no key.
    pub lse: u64,
    /// Where each request's partial results are `[batch]` of [`SplitRecord`].
    pub splits: u64,
}

/// Where the partial results of a request are, as the decode kernel tells the combine kernel.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SplitRecord {
    /// Slot of the first one; the others follow.
    pub first: u32,
    /// How many there are; 1 for a request that is not split, whose slot is empty.
    pub count: u32,
}

/// How the CTAs of a launch cover the query rows and the keys; a pure function of problem and multiprocessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridShape {
    /// Query rows that share a key/value head: `s_q · h_q / h_kv`.
    pub rows: u32,
    /// Tiles of those rows.
    pub row_tiles: u32,
    /// Query rows of a request.
    pub total_rows: u32,
    /// CTAs side by side that take the same keys: a tile of rows each.
    pub columns: u32,
    /// Partitions of the work line.
    pub partitions: u32,
}

impl GridShape {
    /// One CTA a multiprocessor: the rows' tiles side by side, the rest of the GPU split along the keys.
    ///
    /// `h_q` is a multiple of `h_kv`, and `s_q · h_q` rows can be counted.
    pub const fn new(s_q: u32, h_q: u32, h_kv: NonZeroU32, multiprocessors: u32) -> Self {
        let total_rows = s_q * h_q;
        let rows = total_rows / h_kv.get();
        let row_tiles = match NonZeroU32::new(h_q / h_kv.get()) {
            Some(group) if s_q > 0 => QueryTiling::new(group).tiles(s_q),
            _ => 1,
        };
        let columns = row_tiles.saturating_mul(h_kv.get());
        let partitions = multiprocessors / columns;
        Self {
            rows,
            row_tiles,
            total_rows,
            columns,
            partitions: if partitions == 0 { 1 } else { partitions },
        }
    }

    /// Neighbouring tiles of rows whose CTAs fetch the keys together, as a cluster.
    pub const fn cluster(&self) -> u32 {
        if self.row_tiles.is_multiple_of(MAX_CLUSTER) { MAX_CLUSTER } else { 1 }
    }
}

const fn contract(entry: &'static str) -> LaunchContract {
    let contract = LaunchContract {
        entry,
        threads: THREADS,
        min_ctas_per_sm: 1,
        cluster: 1,
        shared_bytes: SharedPlan::BYTES,
        param_align: TENSOR_MAP_ALIGN,
    };
    let registers = SCORES_REGISTERS + 2 * VALUES_REGISTERS + LOADS_REGISTERS;
    assert!(registers <= WARPGROUPS * contract.registers_at_entry());
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
