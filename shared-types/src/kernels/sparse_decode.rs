//! Sparse MLA decode over FP8 caches: what the host passes, and how the CTA uses its shared memory.
//!
//! To the kernel each query token is a request of its own: its keys are the first `topk_length` of its index list, then
//! those of its list into the second cache.

use super::combine::SPLITS_AT_ONCE;
use super::decode::{
    BLOCK_TOKENS_PER_WARP, DecodeParams, PART_TILES, SEGMENT_BYTES, SharedPlan, THREADS, TILE_COLUMNS,
    VALUE_PARTS, VALUES_REGISTERS, WARPGROUP_WARPS, WARPGROUPS,
};
use super::inverse_rope::RopeParams;
use super::{TENSOR_MAP_ALIGN, TensorMap};
use crate::kv_cache::KvFormat;
use crate::launch::LaunchContract;
use crate::schedule::{self, EqualSplit, MIN_PAYLOAD, Place, REQUEST_OVERHEAD};

/// Parts in shared memory at a time: two blocks of keys.
pub const PART_SLOTS: u32 = 2 * VALUE_PARTS;

/// Slots of tail tiles, each of which becomes its block's probabilities.
pub const TAIL_SLOTS: u32 = 2;

/// CTAs that share a query token's keys, of neighbouring tiles of heads.
pub const CLUSTER: u32 = 2;

/// Query tiles that stay in shared memory: as many as there is room for. The first ones are in registers.
pub const SHARED_QUERY_TILES: u32 = 6;

/// Registers of a thread of the scores warpgroup: 32 scores, 48 for three query tiles, and their bookkeeping.
pub const SCORES_REGISTERS: u32 = 112;

/// Registers of a thread of the loads warpgroup.
pub const LOADS_REGISTERS: u32 = 80;

/// Registers that threads of the scores have more, and those of the loads fewer, or the other way round, in kernels of which ptxas
/// spills some else.
pub const REGISTERS_MOVED: u32 = 8;

/// The shortest piece of the work line, in blocks, where the longest request takes `longest` units of it. To gather and convert a
/// block takes longer than to load another partial result, as long as those of a request are loaded all at once.
pub const fn min_payload(longest: u32) -> u32 {
    let all_at_once = longest.saturating_sub(REQUEST_OVERHEAD).div_ceil(SPLITS_AT_ONCE);
    let most = MIN_PAYLOAD.get();
    if all_at_once == 0 {
        1
    } else if all_at_once < most {
        all_at_once
    } else {
        most
    }
}

/// The loads keep the number of a query token in these bits of a word with five flags; where there is none, all are set.
pub const REQUEST_MASK: u32 = (1 << (u32::BITS - 5)) - 1;
const _: () = assert!(schedule::MAX_REQUESTS < REQUEST_MASK);

/// Caches whose tokens share the softmax, at most.
pub const SCOPES: usize = 2;

/// How a format's tokens lie in a cache, for those who gather and convert them.
#[derive(Clone, Copy, Debug)]
pub struct RawLayout {
    /// Bytes of a token's codes, one an element. They come first in its row.
    pub code_bytes: u32,
    /// Where in the row its RoPE elements are, [`TILE_COLUMNS`] of bf16.
    pub rope_offset: u32,
    /// Bytes of a token's row in its page.
    pub row_bytes: u32,
    /// Bytes of a token's scales.
    pub scale_bytes: u32,
    /// Where they are in the token's row, if there they are.
    pub scales_offset: u32,
}

impl RawLayout {
    /// V3.2: a scale a part; the RoPE elements are the tail.
    pub const V32: Self = Self::new(KvFormat::V32Fp8);
    /// MODEL1: two scales a part; the last part is 64 codes and the RoPE elements.
    pub const MODEL1: Self = Self::new(KvFormat::Model1Fp8);

    const fn new(format: KvFormat) -> Self {
        let page = format.page(1);
        let row = page.token_data(0);
        let rope_bytes = 2 * format.rope_dim();
        let scale_bytes = format.bytes_per_token() - format.nope_dim() - rope_bytes;
        assert!(page.nope(0).start == row.start && format.rope_dim() == TILE_COLUMNS);
        assert!(scale_bytes <= MAX_SCALE_BYTES);
        Self {
            code_bytes: format.nope_dim(),
            rope_offset: page.rope(0).start as u32,
            row_bytes: (row.end - row.start) as u32,
            scale_bytes,
            scales_offset: page.scales(0).start as u32,
        }
    }

    /// Tiles of a part that come from codes: of MODEL1's last part one, of what would come behind the last part none.
    pub const fn code_tiles(&self, part: usize) -> u32 {
        let tiles = (self.code_bytes / TILE_COLUMNS).saturating_sub(part as u32 * PART_TILES);
        if tiles < PART_TILES { tiles } else { PART_TILES }
    }
}

/// Bytes of a warp's staging of a part's codes.
pub const WARP_PART_BYTES: u32 = BLOCK_TOKENS_PER_WARP * PART_TILES * TILE_COLUMNS;

/// Bytes of a warp's staging of codes: of a block.
pub const WARP_CODES_BYTES: u32 = VALUE_PARTS * WARP_PART_BYTES;

/// Room for the scales of a token.
pub const MAX_SCALE_BYTES: u32 = 16;

/// Bytes of a warp's staging of scales.
pub const WARP_SCALES_BYTES: u32 = BLOCK_TOKENS_PER_WARP * MAX_SCALE_BYTES;

/// Bytes of what a warp of the loads knows of the rest of a segment.
pub const PIECE_BYTES: u32 = 16;

/// Bytes of what a warp of the loads knows of its next block: a [`Place`], the rest of the segment, and where the two caches'
/// index lists are.
pub const WARP_BLOCKS_BYTES: u32 = size_of::<Place>() as u32 + PIECE_BYTES + SCOPES as u32 * 8;

/// Where in the staging the scales lie, behind the codes of all warps.
pub const SCALES_OFFSET: u32 = WARPGROUP_WARPS * WARP_CODES_BYTES;

/// Where in the staging the warps' next blocks lie.
pub const BLOCKS_OFFSET: u32 = SCALES_OFFSET + WARPGROUP_WARPS * WARP_SCALES_BYTES;

/// Bytes of the addresses of a warp's rows of a block.
pub const WARP_ROWS_BYTES: u32 = BLOCK_TOKENS_PER_WARP * size_of::<u64>() as u32;

/// Where in the staging the warps' addresses of rows lie.
pub const ROWS_OFFSET: u32 = BLOCKS_OFFSET + WARPGROUP_WARPS * WARP_BLOCKS_BYTES;

/// Where in the staging the segments lie that are known, but not in the queue yet.
pub const PENDING_OFFSET: u32 = ROWS_OFFSET + WARPGROUP_WARPS * WARP_ROWS_BYTES;

/// Where in the staging it stands how many segments are in the queue, or were: a word.
pub const QUEUED_OFFSET: u32 = PENDING_OFFSET + PENDING_SEGMENTS * SEGMENT_BYTES;

/// Bytes of the staging of a loads warpgroup.
pub const STAGING_BYTES: u32 = QUEUED_OFFSET + 16;

/// The CTA's shared memory.
pub const PLAN: SharedPlan = SharedPlan::new(SHARED_QUERY_TILES, PART_SLOTS, TAIL_SLOTS, STAGING_BYTES);

/// Segments that are known, but not in the queue yet, at most: the loads know which block comes after the next, and each
/// may be of a segment of its own.
pub const PENDING_SEGMENTS: u32 = 4;

/// Exact division of numbers below 2³¹ by a number that is known to the host only: `n / d = (n·multiplier >> 31) >> shift`
/// (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994).
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Divisor {
    /// The divisor.
    pub divisor: u32,
    /// `⌈2^(31 + shift) / divisor⌉`, below 2³².
    pub multiplier: u32,
    /// Up to 31.
    pub shift: u32,
}

impl Divisor {
    /// For a divisor from 1 to 2³¹.
    pub const fn new(divisor: u32) -> Self {
        let divisor = if divisor == 0 { 1 } else { divisor };
        let shift = divisor.next_power_of_two().trailing_zeros();
        let multiplier = (1_u64 << (31 + shift)).div_ceil(divisor as u64) as u32;
        Self { divisor, multiplier, shift }
    }

    /// `n·multiplier >> 31`, for `n` below 2³¹.
    pub const fn multiply(self, n: u32) -> u32 {
        ((n as u64 * self.multiplier as u64) >> 31) as u32
    }

    /// Quotient and remainder of a number below 2³¹.
    pub const fn divide(self, n: u32) -> (u32, u32) {
        let quotient = self.multiply(n) >> self.shift;
        (quotient, n - quotient * self.divisor)
    }
}

/// A cache and the index lists into it. Addresses are generic device addresses.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct ScopeParams {
    /// Pages of tokens, of which there is at least one.
    pub kv_cache: u64,
    /// Tokens of each query `[batch, s_q, topk]` i32.
    pub indices: u64,
    /// Indices that count `[batch, s_q]` i32; 0: all do.
    pub topk_length: u64,
    /// Bytes from page to page.
    pub page_stride: i64,
    /// Strides of `indices` by batch and query token, in elements.
    pub indices_strides: [i64; 2],
    /// Strides of `topk_length` by batch and query token, in elements.
    pub topk_length_strides: [i64; 2],
    /// Tokens of a page.
    pub page_size: Divisor,
    /// Tokens in the cache, at most 2³¹ − 1.
    pub tokens: u32,
    /// Indices of a query; 0 where there is no such cache.
    pub topk: u32,
    /// Zero; fills the struct to its alignment.
    pub reserved: u32,
}

/// Parameters of the kernel.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SparseDecodeParams {
    /// The queries `[batch, s_q, h_q, head_dim]` bf16 in boxes of 64 columns of a tile's heads. First, where its alignment
    /// holds.
    pub q_map: TensorMap,
    /// The output as a tensor of the same dimensions, in the same boxes; for kernels whose CTAs do not share keys.
    pub out_map: TensorMap,
    /// What every decode kernel is told; requests are query tokens: `batch · s_q` of them, with an `s_q` of 1.
    pub decode: DecodeParams,
    /// The caches.
    pub scopes: [ScopeParams; SCOPES],
    /// Natural-log weights `[h_q]` f32 that join the denominator; 0: none.
    pub attn_sink: u64,
    /// Stride of `attn_sink`, in elements.
    pub attn_sink_stride: i64,
    /// Largest scaled scores `[batch · s_q, h_q]` f32, in a prefill; else 0.
    pub max_logits: u64,
    /// Strides of `max_logits`, in elements.
    pub max_logits_strides: [i64; 2],
    /// Query tokens that share a batch entry's lengths.
    pub queries: Divisor,
    /// 1 where all rows of all caches are aligned to 16 bytes, else 0: to 8.
    pub wide_rows: u32,
    /// How query tokens are divided, where it does not depend on lengths in memory; unknown in a prefill.
    pub equal: EqualSplit,
    /// Zero where the output is not rotated, as with V3.2.
    pub inverse_rope: RopeParams,
    /// The queries' first element, for kernels whose threads load them.
    pub q: u64,
    /// Strides of the queries by batch, query token and head, in elements.
    pub q_strides: [i64; 3],
}

/// The contract of a kernel over FP8 caches.
pub(super) const fn contract(entry: &'static str, cluster: u32) -> LaunchContract {
    let contract = LaunchContract {
        entry,
        threads: THREADS,
        min_ctas_per_sm: 1,
        cluster,
        shared_bytes: PLAN.bytes,
        param_align: TENSOR_MAP_ALIGN,
    };
    let registers = SCORES_REGISTERS + 2 * VALUES_REGISTERS + LOADS_REGISTERS;
    assert!(registers <= WARPGROUPS * contract.registers_at_entry());
    contract.checked()
}

/// The kernel for V3.2 caches on Hopper.
pub const V32_SM90: LaunchContract = contract("sparse_decode_v32_sm90", 1);

/// The kernel for MODEL1 caches on Hopper.
pub const MODEL1_SM90: LaunchContract = contract("sparse_decode_model1_sm90", 1);

/// The kernel for V3.2 caches on Hopper where two tiles of heads share the keys.
pub const V32_CLUSTER_SM90: LaunchContract = contract("sparse_decode_v32_cluster_sm90", CLUSTER);

/// The kernel for MODEL1 caches on Hopper where two tiles of heads share the keys.
pub const MODEL1_CLUSTER_SM90: LaunchContract = contract("sparse_decode_model1_cluster_sm90", CLUSTER);

/// Blocks of a split at most that are combined within a cluster. Longer ones were not measured.
pub const MAX_FUSED_BLOCKS: u32 = 2;

/// The kernel for V3.2 caches on Hopper where a cluster has all splits of a query token.
pub const V32_FUSED_SM90: LaunchContract = contract("sparse_decode_v32_fused_sm90", 1);

/// The kernel for MODEL1 caches on Hopper where a cluster has all splits of a query token.
pub const MODEL1_FUSED_SM90: LaunchContract = contract("sparse_decode_model1_fused_sm90", 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_is_exact() {
        let divisors =
            [1, 2, 3, 7, 53, 61, 64, 69, 255, 256, 576, 641, 65_537, 1 << 30, (1 << 31) - 1, 1 << 31];
        for divisor in divisors {
            let by = Divisor::new(divisor);
            let multiples = (0..100_u64).map(|i| i * u64::from(divisor)).chain((1..31).map(|bit| 1 << bit));
            for n in multiples.flat_map(|n| [n.saturating_sub(1), n, n + 1]).chain([(1 << 31) - 1]) {
                if n < 1 << 31 {
                    let n = n as u32;
                    assert_eq!(by.divide(n), (n / divisor, n % divisor), "{n} / {divisor}");
                }
            }
        }
    }

    #[test]
    fn pieces_are_short_where_all_fit_at_once() {
        let of_blocks = |blocks| min_payload(blocks + REQUEST_OVERHEAD);
        assert_eq!([0, 1, SPLITS_AT_ONCE].map(of_blocks), [1; 3]);
        assert_eq!([SPLITS_AT_ONCE + 1, 2 * SPLITS_AT_ONCE].map(of_blocks), [2; 2]);
        assert_eq!(min_payload(1 << 20), MIN_PAYLOAD.get());
    }

    #[test]
    fn parts_are_the_tokens() {
        for (layout, format) in [(RawLayout::V32, KvFormat::V32Fp8), (RawLayout::MODEL1, KvFormat::Model1Fp8)]
        {
            let tiles: u32 = (0..VALUE_PARTS as usize).map(|part| layout.code_tiles(part)).sum();
            assert_eq!(tiles * TILE_COLUMNS, format.nope_dim());
            let page = format.page(64);
            assert_eq!(page.nope(3).start, u64::from(3 * layout.row_bytes));
            assert_eq!(page.rope(3).start, u64::from(3 * layout.row_bytes + layout.rope_offset));
        }
    }
}
