//! What all decode kernels for Hopper have in common: roles, shared memory, parameters.

use crate::launch::{MAX_SHARED_BYTES, WARP_THREADS, WARPGROUP_THREADS};
use crate::schedule::{BLOCK_KEYS, Determinism};
use core::num::NonZeroU32;

/// Elements of a value: the head of each key.
pub const HEAD_DIM_V: u32 = 512;

/// Query rows a CTA computes, the M of `wgmma`.
pub const TILE_ROWS: u32 = 64;

/// Columns of a shared-memory tile: one 128-byte swizzle row of 16-bit elements.
pub const TILE_COLUMNS: u32 = 64;

/// Parts that the value tiles of a key block are divided into, by columns: what one `wgmma` multiplies.
pub const VALUE_PARTS: u32 = 4;

/// Tiles of a part.
pub const PART_TILES: u32 = HEAD_DIM_V / TILE_COLUMNS / VALUE_PARTS;

/// Columns of a part.
pub const PART_COLUMNS: u32 = PART_TILES * TILE_COLUMNS;

/// Warpgroups that multiply values, each a *side* of the columns: every other part.
pub const SIDES: u32 = 2;

/// The side of a value column.
pub const fn side(column: u32) -> u32 {
    column / PART_COLUMNS % SIDES
}

/// Bytes of a tile of 16-bit elements.
pub const TILE_BYTES: u32 = TILE_ROWS * TILE_COLUMNS * 2;

/// The tile without values: the last one.
pub const TAIL_TILE: u32 = VALUE_PARTS * PART_TILES;

/// Bytes of a part of a key block.
pub const PART_BYTES: u32 = PART_TILES * TILE_BYTES;

/// Segments, the parts of requests that a CTA computes, in its queue at a time.
pub const SEGMENT_SLOTS: u32 = 2;

/// Bytes of a segment in the queue.
pub const SEGMENT_BYTES: u32 = 32;

/// Warpgroups of a CTA: one for scores, two for values, one for loads.
pub const WARPGROUPS: u32 = 4;

/// Registers of a thread of a values warpgroup: 128 accumulators and their bookkeeping.
pub const VALUES_REGISTERS: u32 = 160;

/// Heads of a tile at most in the kernels for few heads: the rows of `mma`.
pub const FEW_HEADS: u32 = 16;

/// CTAs of a cluster at most: those of neighbouring row tiles, which fetch the keys together.
pub const MAX_CLUSTER: u32 = 2;

/// CTAs of a cluster that has all splits of a request, one each, in fused kernels: as many as a GPU may grant (CUDA C++ Programming
/// Guide, "Thread Block Clusters"). Also those without a block combine rows.
pub const FUSED_CTAS: u32 = 16;

/// Warps of a warpgroup.
pub const WARPGROUP_WARPS: u32 = WARPGROUP_THREADS / WARP_THREADS;

/// Keys of a block that each warp of a loads warpgroup sees to, where its threads load them.
pub const BLOCK_TOKENS_PER_WARP: u32 = BLOCK_KEYS / WARPGROUP_WARPS;

/// Threads of a CTA.
pub const THREADS: u32 = WARPGROUPS * WARPGROUP_THREADS;

/// Bytes of an mbarrier.
pub const BARRIER_BYTES: u32 = 8;

/// Byte offsets in the CTA's shared memory, and how much there is of what.
///
/// Tiles come first, as their 128-byte swizzle needs them aligned to 1024 bytes.
#[derive(Clone, Copy, Debug)]
pub struct SharedPlan {
    /// Parts of key blocks at a time.
    pub part_slots: u32,
    /// Tail tiles at a time, each of which becomes its block's probabilities.
    pub tail_slots: u32,
    /// The query tiles that are not in registers.
    pub q: u32,
    /// Value tiles of the keys, part by part.
    pub v: u32,
    /// Tail tiles of the keys; once a block's scores are computed, its probabilities lie where its tail was.
    pub tail: u32,
    /// What only the loads of the kernel know the use of; aligned to 1024 bytes.
    pub staging: u32,
    /// Per tail slot and row, f32: what the output so far is multiplied by before the block is added.
    pub row_scale: u32,
    /// Per tail slot, u64: which keys of the block there are. What that means the kernel's loads and masks agree upon.
    pub key_mask: u32,
    /// The queue of segments.
    pub segments: u32,
    /// Per row, f32: the reciprocal of the softmax denominator.
    pub row_norm: u32,
    /// A part of the value tiles has landed: one barrier a slot.
    pub part_full: u32,
    /// A part of the value tiles is used up: one barrier a slot.
    pub part_free: u32,
    /// Tail tiles have landed: one barrier a slot.
    pub tail_full: u32,
    /// Probabilities and row scales are written: one barrier a tail slot.
    pub p_full: u32,
    /// Probabilities and row scales are used up: one barrier a tail slot.
    pub p_free: u32,
    /// A segment is in its slot of the queue: one barrier a slot.
    pub segment_full: u32,
    /// A segment has been read by all threads: one barrier a slot.
    pub segment_free: u32,
    /// Row norms are written.
    pub norm_full: u32,
    /// Row norms are used up.
    pub norm_free: u32,
    /// Bytes in all.
    pub bytes: u32,
}

impl SharedPlan {
    /// Room for so many query tiles, parts, tails and bytes of staging.
    pub const fn new(query_tiles: u32, part_slots: u32, tail_slots: u32, staging_bytes: u32) -> Self {
        let q = 0;
        let v = q + query_tiles * TILE_BYTES;
        let tail = v + part_slots * PART_BYTES;
        let staging = tail + tail_slots * TILE_BYTES;
        let row_scale = staging + staging_bytes;
        let key_mask = row_scale + tail_slots * TILE_ROWS * 4;
        let segments = (key_mask + tail_slots * 8).next_multiple_of(16);
        let row_norm = segments + SEGMENT_SLOTS * SEGMENT_BYTES;
        let part_full = row_norm + TILE_ROWS * 4;
        let part_free = part_full + part_slots * BARRIER_BYTES;
        let tail_full = part_free + part_slots * BARRIER_BYTES;
        let p_full = tail_full + tail_slots * BARRIER_BYTES;
        let p_free = p_full + tail_slots * BARRIER_BYTES;
        let segment_full = p_free + tail_slots * BARRIER_BYTES;
        let segment_free = segment_full + SEGMENT_SLOTS * BARRIER_BYTES;
        let norm_full = segment_free + SEGMENT_SLOTS * BARRIER_BYTES;
        let norm_free = norm_full + BARRIER_BYTES;
        let bytes = norm_free + BARRIER_BYTES;
        assert!(v.is_multiple_of(1024) && tail.is_multiple_of(1024) && staging.is_multiple_of(1024));
        assert!(key_mask.is_multiple_of(8) && part_full.is_multiple_of(BARRIER_BYTES));
        assert!(bytes <= MAX_SHARED_BYTES);
        Self {
            part_slots,
            tail_slots,
            q,
            v,
            tail,
            staging,
            row_scale,
            key_mask,
            segments,
            row_norm,
            part_full,
            part_free,
            tail_full,
            p_full,
            p_free,
            segment_full,
            segment_free,
            norm_full,
            norm_free,
            bytes,
        }
    }
}

/// Scores warpgroups that take turns.
pub const TURNS: u32 = 2;

/// Registers of a thread of a scores warpgroup that takes turns: 32 scores and their bookkeeping.
pub const TURNS_REGISTERS: u32 = 64;

/// Warpgroups of a CTA whose scores take turns: two for scores, two for values, one for loads.
pub const TURNS_WARPGROUPS: u32 = TURNS + 3;

/// Threads of such a CTA.
pub const TURNS_THREADS: u32 = TURNS_WARPGROUPS * WARPGROUP_THREADS;

/// Byte offsets of what two scores warpgroups need that take turns, block by block.
///
/// Rows' maxima and sums go from one to the other, in two slots: one for blocks of each.
#[derive(Clone, Copy, Debug)]
pub struct TurnsPlan {
    /// Per slot and row, f32: the maximum of the segment's scaled scores so far.
    pub row_max: u32,
    /// Per slot and row, f32: the softmax denominator so far.
    pub row_sum: u32,
    /// Per slot and row, f32: the largest scaled score so far, in kernels that tell it; the maximum may lag behind.
    pub row_largest: u32,
    /// A segment's queries have landed.
    pub q_full: u32,
    /// A segment's queries are used up.
    pub q_free: u32,
    /// Row maxima are written: one barrier a slot.
    pub max_full: u32,
    /// Row sums are written: one barrier a slot.
    pub sum_full: u32,
    /// Bytes in all.
    pub bytes: u32,
}

impl TurnsPlan {
    /// Registers of a thread of each warpgroup but the loads', together.
    pub const REGISTERS: u32 = TURNS * TURNS_REGISTERS + 2 * VALUES_REGISTERS;

    /// Behind what all decode kernels have.
    pub const fn behind(plan: SharedPlan) -> Self {
        let q_full = plan.bytes;
        let q_free = q_full + BARRIER_BYTES;
        let max_full = q_free + BARRIER_BYTES;
        let sum_full = max_full + TURNS * BARRIER_BYTES;
        let row_max = sum_full + TURNS * BARRIER_BYTES;
        let row_sum = row_max + TURNS * TILE_ROWS * 4;
        let row_largest = row_sum + TURNS * TILE_ROWS * 4;
        let bytes = row_largest + TURNS * TILE_ROWS * 4;
        assert!(q_full.is_multiple_of(BARRIER_BYTES) && bytes <= MAX_SHARED_BYTES);
        Self { row_max, row_sum, row_largest, q_full, q_free, max_full, sum_full, bytes }
    }
}

const _: () = {
    assert!(HEAD_DIM_V.is_multiple_of(VALUE_PARTS * TILE_COLUMNS));
    assert!(BLOCK_KEYS == TILE_ROWS, "a key block is a column of square tiles");
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

    /// Some heads of a single token each.
    ///
    /// `group` heads share a key/value head.
    pub const fn of_single_tokens(group: NonZeroU32) -> Self {
        let group = group.get();
        let heads = if group < TILE_ROWS { group } else { TILE_ROWS };
        Self { heads, tokens: 1, head_tiles: group.div_ceil(heads) }
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

/// What every decode kernel is told, whatever its keys. Addresses are generic device addresses; strides are in elements.
///
/// A *request* is here what has keys of its own: a dense decode's request with its query tokens, or one query token of
/// a sparse decode.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct DecodeParams {
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
    /// Requests.
    pub requests: u32,
    /// Query tokens of a request.
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
    /// Partitions of the work line.
    pub partitions: u32,
    /// [`Determinism::chunk_slots`]: 0 for [`Determinism::RunToRun`].
    pub chunk_slots: u32,
    /// Softmax scale times log₂ e, so that the kernel can use powers of two.
    pub scale_log2: f32,
}

impl DecodeParams {
    /// What the division of requests may depend on.
    pub const fn determinism(&self) -> Determinism {
        if self.chunk_slots == 0 { Determinism::RunToRun } else { Determinism::BatchInvariant }
    }
}

/// Where partial results of split requests lie, in the workspace. `rows` counts `h_q · s_q` rows.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PartialResults {
    /// Partial outputs `[slots, h_kv · rows, 512]` fp16, a row's columns in the order of [`partial`](crate::layout::partial).
    pub out: u64,
    /// What else there is of each row: `[slots, h_kv · rows, 2]` of [`PartialSide`].
    pub sides: u64,
    /// Where each request's partial results are `[batch]` of [`SplitRecord`].
    pub splits: u64,
}

/// What there is of one side of a row of a partial result, besides its columns.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct PartialSide {
    /// Base-2 logarithm of the row's partial denominator, the same on both sides; −∞ where there was no key.
    pub lse: f32,
    /// What makes the side's columns the normalised output.
    pub scale: f32,
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
