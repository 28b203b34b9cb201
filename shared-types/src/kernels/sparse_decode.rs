//! Sparse MLA decode over FP8 caches: what the host passes, and how the CTA uses its shared memory.
//!
//! To the kernel each query token is a request of its own: its keys are the first `topk_length` of its index list, then
//! those of its list into the second cache.

use super::decode::{
    BLOCK_TOKENS_PER_WARP, DecodeParams, SEGMENT_BYTES, SharedPlan, THREADS, VALUE_PARTS, VALUES_REGISTERS,
    WARPGROUP_WARPS, WARPGROUPS,
};
use super::{TENSOR_MAP_ALIGN, TensorMap};
use crate::kv_cache::KvFormat;
use crate::launch::LaunchContract;

/// Parts in shared memory at a time: two blocks of keys.
pub const PART_SLOTS: u32 = 2 * VALUE_PARTS;

/// Slots of tail tiles, each of which becomes its block's probabilities.
pub const TAIL_SLOTS: u32 = 2;

/// What a format's kernel keeps in registers, once roles have parted.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// Query tiles in registers of the scores warpgroup: the first ones.
    pub query_tiles: u32,
    /// Registers of a thread of the scores warpgroup: 32 scores, 16 for each query tile, and their bookkeeping.
    pub scores: u32,
    /// Registers of a thread of the loads warpgroup, which gathers tokens and converts them.
    pub loads: u32,
}

/// With V3.2 caches, where shared memory is short.
pub const V32_REGISTERS: Registers = Registers { query_tiles: 4, scores: 144, loads: 48 };

/// With MODEL1 caches, whose conversion takes more registers.
pub const MODEL1_REGISTERS: Registers = Registers { query_tiles: 3, scores: 136, loads: 56 };

/// Caches whose tokens share the softmax, at most.
pub const SCOPES: usize = 2;

/// What of a token a warp converts at a time: the raw bytes of a part, or of the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first byte, in the token's row.
    pub offset: u32,
    /// How many; a multiple of 16.
    pub bytes: u32,
}

/// How a format's tokens are gathered and converted.
#[derive(Clone, Copy, Debug)]
pub struct RawLayout {
    /// The pieces: one a part, and the tail if there is one.
    pub pieces: [Piece; PIECES],
    /// Bytes of a token's row in its page.
    pub row_bytes: u32,
    /// Bytes of a token's scales.
    pub scale_bytes: u32,
    /// Where they are in the token's row, if there they are.
    pub scales_offset: u32,
    /// Columns that share a scale.
    pub quant_tile: u32,
}

/// Pieces of a token; the last one is empty where there is no tail.
pub const PIECES: usize = VALUE_PARTS as usize + 1;

impl RawLayout {
    /// V3.2: a scale a part; the RoPE elements are the tail.
    pub const V32: Self = Self::new(KvFormat::V32Fp8, [128, 128, 128, 128, 128], [0, 128, 256, 384, 528]);
    /// MODEL1: two scales a part; the last part is 64 codes and the RoPE elements.
    pub const MODEL1: Self = Self::new(KvFormat::Model1Fp8, [128, 128, 128, 192, 0], [0, 128, 256, 384, 576]);

    const fn new(format: KvFormat, bytes: [u32; PIECES], offsets: [u32; PIECES]) -> Self {
        let mut pieces = [Piece { offset: 0, bytes: 0 }; PIECES];
        let mut i = 0;
        while i < PIECES {
            pieces[i] = Piece { offset: offsets[i], bytes: bytes[i] };
            i += 1;
        }
        let quant_tile = match format.quant_tile() {
            Some(columns) => columns,
            None => panic!("an FP8 format"),
        };
        let page = format.page(1);
        let row = page.token_data(0);
        let row_bytes = (row.end - row.start) as u32;
        let rope_bytes = 2 * format.rope_dim();
        Self {
            pieces,
            row_bytes,
            scale_bytes: format.bytes_per_token() - format.nope_dim() - rope_bytes,
            scales_offset: page.scales(0).start as u32,
            quant_tile,
        }
    }

    /// Where in a warp's staging a piece of its tokens lies.
    pub const fn staged(&self, piece: usize) -> u32 {
        let mut offset = 0;
        let mut i = 0;
        while i < piece {
            offset += self.pieces[i].bytes * BLOCK_TOKENS_PER_WARP;
            i += 1;
        }
        offset
    }

    /// Where in a warp's staging the scales of its tokens lie.
    pub const fn staged_scales(&self) -> u32 {
        self.staged(PIECES)
    }

    /// Bytes of a warp's staging, in multiples of 256.
    pub const fn warp_bytes(&self) -> u32 {
        let bytes = self.staged_scales() + self.scale_bytes * BLOCK_TOKENS_PER_WARP;
        bytes.next_multiple_of(256)
    }

    /// Where in the staging the segments lie that are known, but not in the queue yet.
    pub const fn pending(&self) -> u32 {
        WARPGROUP_WARPS * self.warp_bytes()
    }

    /// Bytes of the staging: all warps', and the pending segments.
    pub const fn bytes(&self) -> u32 {
        self.pending() + PENDING_SEGMENTS * SEGMENT_BYTES
    }
}

/// The CTA's shared memory with V3.2 caches.
pub const V32_PLAN: SharedPlan =
    SharedPlan::new(9 - V32_REGISTERS.query_tiles, PART_SLOTS, TAIL_SLOTS, RawLayout::V32.bytes());

/// The CTA's shared memory with MODEL1 caches.
pub const MODEL1_PLAN: SharedPlan =
    SharedPlan::new(8 - MODEL1_REGISTERS.query_tiles, PART_SLOTS, TAIL_SLOTS, RawLayout::MODEL1.bytes());

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
    /// Pages of tokens.
    pub kv_cache: u64,
    /// Tokens of each query `[batch, s_q, topk]` i32.
    pub indices: u64,
    /// Indices that count `[batch]` i32; 0: all do.
    pub topk_length: u64,
    /// Bytes from page to page.
    pub page_stride: i64,
    /// Strides of `indices` by batch and query token, in elements.
    pub indices_strides: [i64; 2],
    /// Stride of `topk_length` by batch, in elements.
    pub topk_length_stride: i64,
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
    /// What every decode kernel is told; requests are query tokens: `batch · s_q` of them, with an `s_q` of 1.
    pub decode: DecodeParams,
    /// The caches.
    pub scopes: [ScopeParams; SCOPES],
    /// Natural-log weights `[h_q]` f32 that join the denominator; 0: none.
    pub attn_sink: u64,
    /// Stride of `attn_sink`, in elements.
    pub attn_sink_stride: i64,
    /// Query tokens that share a batch entry's lengths.
    pub queries: Divisor,
    /// 1 where all rows of all caches are aligned to 16 bytes, else 0: to 8.
    pub wide_rows: u32,
}

const fn contract(entry: &'static str, plan: &SharedPlan, registers: Registers) -> LaunchContract {
    let contract = LaunchContract {
        entry,
        threads: THREADS,
        min_ctas_per_sm: 1,
        cluster: 1,
        shared_bytes: plan.bytes,
        param_align: TENSOR_MAP_ALIGN,
    };
    let registers = registers.scores + 2 * VALUES_REGISTERS + registers.loads;
    assert!(registers <= WARPGROUPS * contract.registers_at_entry());
    contract.checked()
}

/// The kernel for V3.2 caches on Hopper.
pub const V32_SM90: LaunchContract = contract("sparse_decode_v32_sm90", &V32_PLAN, V32_REGISTERS);

/// The kernel for MODEL1 caches on Hopper.
pub const MODEL1_SM90: LaunchContract = contract("sparse_decode_model1_sm90", &MODEL1_PLAN, MODEL1_REGISTERS);

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
    fn pieces_are_the_tokens() {
        for (layout, format) in [(RawLayout::V32, KvFormat::V32Fp8), (RawLayout::MODEL1, KvFormat::Model1Fp8)]
        {
            let staged: u32 = layout.pieces.iter().map(|piece| piece.bytes).sum();
            assert_eq!(staged, format.nope_dim() + 2 * format.rope_dim());
            let page = format.page(64);
            assert_eq!(u64::from(layout.pieces[0].offset), page.nope(0).start);
            let last = layout.pieces.iter().rev().find(|piece| piece.bytes > 0).unwrap();
            assert_eq!(u64::from(last.offset + last.bytes), page.rope(0).end);
        }
    }
}
