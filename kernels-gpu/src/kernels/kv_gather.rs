//! Dequantises tokens of a paged FP8 cache.
//!
//! A warp takes some tokens, all of whose loads are on their way together.

use crate::attention::element::{Element, Fp16};
use crate::attention::fp8_token::{
    Fp8Format, GROUP_BYTES, GROUP_ELEMENTS, GROUPS, Model1, PAIR_BYTES, TokenAddresses, V32, group_number,
    has_group, slot_in_cache,
};
use crate::attention::unroll;
use crate::ptx::{math, memory, special};
use oximla_types::kernels::kv_gather::{KvGatherParams, TOKENS_PER_WARP, WARPS};
use oximla_types::launch::WARP_THREADS;

/// What names no token.
const NO_SLOT: i32 = -1;

/// The kernel for the cache of DeepSeek V3.2.
///
/// # Safety
/// Launched under its contract, grid `⌈tokens / TOKENS_PER_CTA⌉`, with parameters that describe live tensors; rows of the
/// output are aligned to 16 bytes, pages to 8.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn kv_gather_v32(params: KvGatherParams) {
    // SAFETY: as the caller promises.
    unsafe { kv_gather::<V32>(&params) }
}

/// The kernel for the cache of DeepSeek V4.
///
/// # Safety
/// As for [`kv_gather_v32`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn kv_gather_model1(params: KvGatherParams) {
    // SAFETY: as the caller promises.
    unsafe { kv_gather::<Model1>(&params) }
}

#[inline(always)]
unsafe fn kv_gather<F: Fp8Format>(params: &KvGatherParams) {
    special::griddepcontrol_launch_dependents();
    special::griddepcontrol_wait();
    let (warp, lane) = (special::thread_x() / WARP_THREADS, special::thread_x() % WARP_THREADS);
    let first = (special::cta_x() * WARPS + warp) as u64 * TOKENS_PER_WARP as u64;
    let mut slots = [NO_SLOT; TOKENS_PER_WARP as usize];
    let mut tokens = [Token::ZERO; TOKENS_PER_WARP as usize];
    // SAFETY: the slots and rows are those of the tensors.
    unsafe {
        // First all slots, then all tokens: each is one wait for memory.
        unroll!(I in 4 => { slots[I] = load_slot(params, first + I as u64); });
        unroll!(I in 4 => { tokens[I] = Token::load::<F>(params, slots[I], lane); });
        unroll!(I in 4 => {
            if first + (I as u64) < params.tokens {
                tokens[I].store::<F>(params, first + I as u64, lane);
            }
        });
    }
}

/// The number of the cache's token that a row is of; of a row past the last, that of none.
///
/// # Safety
/// The slots are live.
#[inline(always)]
unsafe fn load_slot(params: &KvGatherParams, index: u64) -> i32 {
    if index >= params.tokens {
        return NO_SLOT;
    }
    let offset = (index as i64 * params.slots_stride * size_of::<i32>() as i64) as u64;
    // SAFETY: the row has a slot.
    unsafe { memory::ld_global_i32(params.slots.wrapping_add(offset)) }
}

/// What a lane has of a token.
#[derive(Clone, Copy)]
struct Token {
    /// The codes of its groups.
    codes: [[u32; 2]; GROUPS],
    /// Words that hold their scales.
    scales: [u32; GROUPS],
    /// Its pair of the RoPE part.
    rope: u32,
}

impl Token {
    /// What it has of none.
    const ZERO: Self = Self { codes: [[0; 2]; GROUPS], scales: [0; GROUPS], rope: 0 };

    /// Asks for a token.
    ///
    /// # Safety
    /// The cache is live.
    #[inline(always)]
    unsafe fn load<F: Fp8Format>(params: &KvGatherParams, slot: i32, lane: u32) -> Self {
        let mut token = Self::ZERO;
        let Some(slot) = slot_in_cache(&params.cache, slot as i64) else { return token };
        let from = TokenAddresses::new::<F>(&params.cache, slot);
        // SAFETY: the token is one of the cache's, and its parts are aligned.
        unsafe {
            unroll!(G in 2 => {
                if has_group::<F>(lane, G) {
                    let address = from.nope + group_number(lane, G) * GROUP_ELEMENTS as u64;
                    token.codes[G] = memory::ld_global_u32x2(address);
                }
            });
            token.scales = F::load_scales(from.scales, lane);
            token.rope = memory::ld_global_u32(from.rope + lane as u64 * PAIR_BYTES);
        }
        token
    }

    /// Dequantises it and stores it in a row of the output.
    ///
    /// # Safety
    /// The row is one of the output's, and no other warp writes it.
    #[inline(always)]
    unsafe fn store<F: Fp8Format>(self, params: &KvGatherParams, index: u64, lane: u32) {
        let row = params.out.wrapping_add((index as i64 * params.out_stride * 2) as u64);
        let rope = row + 2 * F::FORMAT.nope_dim() as u64;
        // SAFETY: as the caller promises; the parts of a row are aligned as it is.
        unsafe {
            unroll!(G in 2 => {
                if has_group::<F>(lane, G) {
                    let scale = F::scale(self.scales[G], lane);
                    let [[a, b], [c, d]] = self.codes[G].map(|codes| dequantise(codes, scale));
                    memory::st_global_u32x4(row + group_number(lane, G) * GROUP_BYTES, [a, b, c, d]);
                }
            });
            memory::st_global_u32(rope + lane as u64 * PAIR_BYTES, self.rope);
        }
    }
}

/// `bf16(e4m3 · scale)` of four codes. f32 holds the products exactly, so that they are rounded once.
#[inline(always)]
fn dequantise(codes: u32, scale: f32) -> [u32; 2] {
    [codes as u16, (codes >> 16) as u16].map(|pair| {
        let [low, high] = Fp16::unpack(math::cvt_f16x2_e4m3x2(pair));
        math::cvt_bf16x2(low * scale, high * scale)
    })
}
