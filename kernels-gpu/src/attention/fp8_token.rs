//! A token of a paged FP8 cache, as a warp reads or writes it.
//!
//! Eight NoPE elements in a row are a *group*. Lane `l` has the groups `l` and `l + 32`, as far as the token goes, and the
//! elements `2l` and `2l + 1` of the RoPE part. Of groups, 16 bytes of bf16 stand against 8 bytes of codes: accesses of
//! both sides are coalesced, and those of the cache ask for no more than the 8 bytes that pages of MODEL1 are aligned to.

use super::element::{Bf16, Element};
use super::unroll;
use crate::ptx::{math, memory, warp};
use core::num::NonZeroU32;
use oximla_types::fp8;
use oximla_types::kernels::PagedCache;
use oximla_types::kv_cache::KvFormat;
use oximla_types::launch::WARP_THREADS;

/// Groups of a lane.
pub const GROUPS: usize = 2;

/// Elements of a group.
pub const GROUP_ELEMENTS: u32 = 8;

/// Bytes of a group's bf16.
pub const GROUP_BYTES: u64 = 2 * GROUP_ELEMENTS as u64;

/// Bytes of a lane's RoPE elements.
pub const PAIR_BYTES: u64 = 4;

/// An FP8 cache format. Its scales are those of a lane's groups.
pub trait Fp8Format {
    /// The format.
    const FORMAT: KvFormat;

    /// Lanes whose groups of one number share a tile, and so a scale.
    const LANES_PER_TILE: u32 = match Self::FORMAT.quant_tile() {
        Some(tile) => tile / GROUP_ELEMENTS,
        None => panic!("a format with scales"),
    };

    /// Asks for the words that hold a lane's scales.
    ///
    /// # Safety
    /// The address is that of the scales of a token.
    unsafe fn load_scales(address: u64, lane: u32) -> [u32; GROUPS];

    /// The scale in such a word, rounded to bf16.
    fn scale(word: u32, lane: u32) -> f32;

    /// Stores the scales of all lanes, and what padding there is as zeros.
    ///
    /// # Safety
    /// As for [`Self::load_scales`]; the whole warp is here, and no other writes them. Lanes of a tile have the same scale.
    unsafe fn store_scales(address: u64, lane: u32, scales: [f32; GROUPS]);
}

/// DeepSeek V3.2: each scale is an f32.
pub struct V32;

/// DeepSeek V4: each scale is a byte.
pub struct Model1;

impl Fp8Format for V32 {
    const FORMAT: KvFormat = KvFormat::V32Fp8;

    #[inline(always)]
    unsafe fn load_scales(address: u64, lane: u32) -> [u32; GROUPS] {
        // SAFETY: as the caller promises.
        [0, 1].map(|group| unsafe { memory::ld_global_u32(Self::scale_address(address, lane, group)) })
    }

    #[inline(always)]
    fn scale(word: u32, _lane: u32) -> f32 {
        let [rounded, _] = Bf16::unpack(math::cvt_bf16x2(f32::from_bits(word), 0.0));
        rounded
    }

    #[inline(always)]
    unsafe fn store_scales(address: u64, lane: u32, scales: [f32; GROUPS]) {
        if lane.is_multiple_of(Self::LANES_PER_TILE) {
            unroll!(G in 2 => {
                // SAFETY: as the caller promises.
                unsafe { memory::st_global_f32(Self::scale_address(address, lane, G as u64), scales[G]) }
            });
        }
    }
}

impl V32 {
    /// Bytes of the scales of all lanes' groups of one number.
    const SCALE_BYTES: u64 = (WARP_THREADS / Self::LANES_PER_TILE) as u64 * size_of::<f32>() as u64;

    #[inline(always)]
    fn scale_address(scales: u64, lane: u32, group: u64) -> u64 {
        scales + group * Self::SCALE_BYTES + (lane / Self::LANES_PER_TILE) as u64 * size_of::<f32>() as u64
    }
}

impl Fp8Format for Model1 {
    const FORMAT: KvFormat = KvFormat::Model1Fp8;

    #[inline(always)]
    unsafe fn load_scales(address: u64, _lane: u32) -> [u32; GROUPS] {
        // SAFETY: as the caller promises; scales and padding are 8 bytes, and aligned to them.
        unsafe { memory::ld_global_u32x2(address) }
    }

    #[inline(always)]
    fn scale(word: u32, lane: u32) -> f32 {
        fp8::ue8m0_value((word >> Self::shift(lane)) as u8)
    }

    #[inline(always)]
    unsafe fn store_scales(address: u64, lane: u32, scales: [f32; GROUPS]) {
        let words = [0, 1].map(|group| {
            let exists = has_group::<Self>(lane, group);
            let byte = if exists { fp8::ue8m0(scales[group]) as u32 } else { 0 };
            let mut word = byte << Self::shift(lane);
            // The lanes that differ in these bits of their number have the other tiles' scales.
            const { assert!(Self::LANES_PER_TILE == 8, "tiles of 8 lanes") };
            // SAFETY: the whole warp is here.
            unsafe {
                word |= warp::shfl_bfly::<8>(word);
                word |= warp::shfl_bfly::<16>(word);
            }
            word
        });
        if lane == 0 {
            // SAFETY: as the caller promises; scales and padding are 8 bytes, and aligned to them.
            unsafe { memory::st_global_u32x2(address, words) }
        }
    }
}

impl Model1 {
    /// Where a word of scales has that of a lane.
    #[inline(always)]
    fn shift(lane: u32) -> u32 {
        lane / Self::LANES_PER_TILE * u8::BITS
    }
}

/// Whether a token has that group of a lane.
#[inline(always)]
pub fn has_group<F: Fp8Format>(lane: u32, group: usize) -> bool {
    group_number(lane, group) < (F::FORMAT.nope_dim() / GROUP_ELEMENTS) as u64
}

/// The number of a lane's group among those of a token.
#[inline(always)]
pub fn group_number(lane: u32, group: usize) -> u64 {
    lane as u64 + (group as u32 * WARP_THREADS) as u64
}

/// Where the parts of a token are.
pub struct TokenAddresses {
    /// The codes of its NoPE elements.
    pub nope: u64,
    /// Its RoPE elements.
    pub rope: u64,
    /// Its scales.
    pub scales: u64,
}

impl TokenAddresses {
    /// Those of a token of the cache.
    #[inline(always)]
    pub fn new<F: Fp8Format>(cache: &PagedCache, slot: u32) -> Self {
        // SAFETY: the host launches with pages of at least one token.
        let page_size = unsafe { NonZeroU32::new_unchecked(cache.page_size) };
        let (page, offset) = (slot / page_size, slot % page_size);
        let page = cache.pages.wrapping_add((page as i64 * cache.page_stride) as u64);
        let layout = F::FORMAT.page(cache.page_size);
        Self {
            nope: page + layout.nope(offset).start,
            rope: page + layout.rope(offset).start,
            scales: page + layout.scales(offset).start,
        }
    }
}

/// The token of the cache that a number names, if it names one.
#[inline(always)]
pub fn slot_in_cache(cache: &PagedCache, number: i64) -> Option<u32> {
    (0 <= number && number < cache.tokens as i64).then_some(number as u32)
}
