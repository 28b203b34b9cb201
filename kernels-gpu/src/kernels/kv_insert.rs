//! Quantises tokens into a paged FP8 cache.
//!
//! A warp takes some tokens, all of whose loads are on their way together.

use crate::attention::element::{Bf16, Element};
use crate::attention::fp8_token::{
    Fp8Format, GROUP_BYTES, GROUP_ELEMENTS, GROUPS, Model1, PAIR_BYTES, TokenAddresses, V32, group_number,
    has_group, slot_in_cache,
};
use crate::attention::unroll;
use crate::ptx::{math, memory, special, warp};
use oximla_types::fp8;
use oximla_types::kernels::kv_insert::{KvInsertParams, TOKENS_PER_WARP, WARPS};
use oximla_types::launch::WARP_THREADS;

/// What names no token.
const NO_SLOT: i64 = -1;

/// The kernel for the cache of DeepSeek V3.2.
///
/// # Safety
/// Launched under its contract, grid `⌈tokens / TOKENS_PER_CTA⌉`, with parameters that describe live tensors; rows of the
/// inputs are aligned to 16 bytes, pages to 8. Slots are distinct.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn kv_insert_v32(params: KvInsertParams) {
    // SAFETY: as the caller promises.
    unsafe { kv_insert::<V32>(&params) }
}

/// The kernel for the cache of DeepSeek V4.
///
/// # Safety
/// As for [`kv_insert_v32`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn kv_insert_model1(params: KvInsertParams) {
    // SAFETY: as the caller promises.
    unsafe { kv_insert::<Model1>(&params) }
}

#[inline(always)]
unsafe fn kv_insert<F: Fp8Format>(params: &KvInsertParams) {
    special::griddepcontrol_launch_dependents();
    special::griddepcontrol_wait();
    let (warp, lane) = (special::thread_x() / WARP_THREADS, special::thread_x() % WARP_THREADS);
    let first = (special::cta_x() * WARPS + warp) as u64 * TOKENS_PER_WARP as u64;
    let mut tokens = [Token::NONE; TOKENS_PER_WARP as usize];
    // SAFETY: the whole warp is here.
    unsafe {
        unroll!(I in 2 => { tokens[I] = Token::load::<F>(params, first + I as u64, lane); });
        unroll!(I in 2 => { tokens[I].insert::<F>(params, lane); });
    }
}

/// What a lane has of a token.
#[derive(Clone, Copy)]
struct Token {
    /// The number of where it goes, which may be none of the cache's.
    number: i64,
    /// Its groups, pairs of bf16.
    groups: [[u32; 4]; GROUPS],
    /// Its pair of the RoPE part.
    rope: u32,
}

impl Token {
    const NONE: Self = Self { number: NO_SLOT, groups: [[0; 4]; GROUPS], rope: 0 };

    /// Asks for a token. One past the last is none.
    ///
    /// # Safety
    /// The tensors are live.
    #[inline(always)]
    unsafe fn load<F: Fp8Format>(params: &KvInsertParams, index: u64, lane: u32) -> Self {
        let mut token = Self::NONE;
        if index >= params.tokens {
            return token;
        }
        let address = |tensor: u64, stride: i64, element_bytes: i64| {
            tensor.wrapping_add((index as i64 * stride * element_bytes) as u64)
        };
        let latent = address(params.latent, params.latent_stride, 2);
        let rope = address(params.rope, params.rope_stride, 2);
        let slot = address(params.slots, params.slots_stride, 8);
        // SAFETY: the token is one of the tensors', and its parts are aligned as its rows are.
        unsafe {
            token.number = memory::ld_global_i64(slot);
            unroll!(G in 2 => {
                if has_group::<F>(lane, G) {
                    let address = latent + group_number(lane, G) * GROUP_BYTES;
                    token.groups[G] = memory::ld_global_u32x4(address);
                }
            });
            token.rope = memory::ld_global_u32(rope + lane as u64 * PAIR_BYTES);
        }
        token
    }

    /// Quantises it and stores it.
    ///
    /// # Safety
    /// The whole warp calls it; the cache is live, and no other warp has this token of it.
    #[inline(always)]
    unsafe fn insert<F: Fp8Format>(self, params: &KvInsertParams, lane: u32) {
        // The same in all lanes: what follows is uniform.
        let Some(slot) = slot_in_cache(&params.cache, self.number) else { return };
        let to = TokenAddresses::new::<F>(&params.cache, slot);
        // SAFETY: the whole warp is here; the token is one of the cache's, and its parts are aligned.
        unsafe {
            let scales =
                self.groups.map(|group| fp8::tile_scale(f32::from_bits(tile_amax::<F>(magnitude(group)))));
            unroll!(G in 2 => {
                if has_group::<F>(lane, G) {
                    let codes = quantise(self.groups[G], fp8::inverse_scale(scales[G]));
                    memory::st_global_u32x2(to.nope + group_number(lane, G) * GROUP_ELEMENTS as u64, codes);
                }
            });
            memory::st_global_u32(to.rope + lane as u64 * PAIR_BYTES, self.rope);
            F::store_scales(to.scales, lane, scales);
        }
    }
}

/// The largest magnitude of a group's elements, in the bits of an f32: as integers, magnitudes are in order of value, and
/// NaN is above all.
#[inline(always)]
fn magnitude(group: [u32; 4]) -> u32 {
    const MAGNITUDE: u32 = 0x7fff_0000;
    let mut largest = 0;
    unroll!(I in 4 => { largest = largest.max(group[I] & MAGNITUDE).max(group[I] << 16 & MAGNITUDE); });
    largest
}

/// The largest of the values that the lanes of a tile have.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn tile_amax<F: Fp8Format>(mut value: u32) -> u32 {
    const { assert!(F::LANES_PER_TILE == 8 || F::LANES_PER_TILE == 16, "tiles of 8 or 16 lanes") };
    // SAFETY: the whole warp is here.
    unsafe {
        value = value.max(warp::shfl_bfly::<1>(value));
        value = value.max(warp::shfl_bfly::<2>(value));
        value = value.max(warp::shfl_bfly::<4>(value));
        if F::LANES_PER_TILE == 16 {
            value = value.max(warp::shfl_bfly::<8>(value));
        }
    }
    value
}

/// The codes of a group. The product is exact, or too small to matter.
#[inline(always)]
fn quantise(group: [u32; 4], inverse_scale: f32) -> [u32; 2] {
    let [a, b, c, d] = group.map(|pair| {
        let [low, high] = Bf16::unpack(pair);
        math::cvt_e4m3x2(low * inverse_scale, high * inverse_scale) as u32
    });
    [a | b << 16, c | d << 16]
}
