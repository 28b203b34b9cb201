//! The scales of tokens: from the cache to the warp's staging, from there to the lanes.

use super::Format;
use super::codes::{copy_or_zeros, staged_row};
use super::loads::Thread;
use crate::attention::dequant::{self, Scale};
use crate::ptx::{copy, math, memory, warp};
use oximla_types::kernels::decode::BLOCK_TOKENS_PER_WARP;
use oximla_types::kernels::sparse_decode::{MAX_SCALE_BYTES, SCALES_OFFSET, WARP_SCALES_BYTES};

/// Where the scales of a token of the warp are in the staging: of a scale plane's tokens there are those of a pair of blocks.
#[inline(always)]
fn staged_scales<F: Format>(thread: Thread, token: u32) -> u32 {
    const { assert!(!F::SCALE_PLANE || 2 * F::RAW.scale_bytes <= MAX_SCALE_BYTES) };
    let bytes = if F::SCALE_PLANE { MAX_SCALE_BYTES / 2 } else { MAX_SCALE_BYTES };
    thread.warp_staging(SCALES_OFFSET, WARP_SCALES_BYTES) + token * bytes
}

/// The scales of a lane's token: two of four bf16 a word, or four of eight bytes. Lanes from 16 on have the same tokens as
/// those before.
#[derive(Clone, Copy, Default)]
pub struct Scales {
    words: [u32; 2],
    /// One of the bits of [`dequant::FOUND`] is set if one of them is large.
    pub(super) large: u32,
}

/// The scales of a lane's token as they are in the cache, on their way from the staging.
#[derive(Clone, Copy, Default)]
pub struct RawScales(pub(super) [u32; 4]);

impl Scales {
    /// Asks for those of each lane's token, from a scale plane, for the warp's staging.
    ///
    /// # Safety
    /// As for [`Rows::copy_codes`](super::codes::Rows::copy_codes).
    #[inline(always)]
    pub unsafe fn copy_of_plane<F: Format>(thread: Thread, scales: u64, valid: u32) {
        let lane = thread.lane();
        let is_valid = thread.converts::<F>(lane) && valid >> lane & 1 != 0;
        // SAFETY: as the caller promises.
        unsafe { copy::cp_async_8(staged_scales::<F>(thread, lane), scales, if is_valid { 8 } else { 0 }) };
    }

    /// Asks for those of the tokens in whose rows they are, for the warp's staging: zeros where there is no token by the mask `valid`.
    ///
    /// # Safety
    /// As for [`Rows::copy_codes`](super::codes::Rows::copy_codes); the rows are staged.
    #[inline(always)]
    pub unsafe fn copy_of_rows<F: Format, const WIDE: bool>(thread: Thread, valid: u32) {
        let lane = thread.lane();
        if lane < BLOCK_TOKENS_PER_WARP {
            let is_valid = thread.converts::<F>(lane) && valid >> lane & 1 != 0;
            // SAFETY: as the caller promises.
            unsafe {
                let row = memory::ld_shared_u64(staged_row(thread, lane));
                copy_or_zeros::<WIDE>(
                    staged_scales::<F>(thread, lane),
                    row + F::RAW.scales_offset as u64,
                    is_valid,
                );
            }
        }
    }

    /// As the conversion takes them.
    #[inline(always)]
    pub fn of_raw<F: Format>(RawScales([a, b, c, d]): RawScales) -> Self {
        let (words, find_large): (_, fn(u32) -> u32) = if F::SCALE_PLANE {
            // The last byte is padding.
            ([a, b & 0x00ff_ffff], dequant::find_large_ue8m0)
        } else {
            let [a, b, c, d] = [a, b, c, d].map(f32::from_bits);
            ([math::cvt_bf16x2(a, b), math::cvt_bf16x2(c, d)], dequant::find_large_bf16)
        };
        Self { words, large: find_large(words[0]) | find_large(words[1]) }
    }

    /// The word with those of a part.
    #[inline(always)]
    pub(super) fn word(self, part: u32) -> u32 {
        if part < 2 { self.words[0] } else { self.words[1] }
    }

    /// That of a tile of a token's part.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub(super) unsafe fn of<F: Format>(self, part: u32, token: u32, tile: u32) -> Scale {
        // SAFETY: as the caller promises.
        let word = unsafe { warp::shfl_idx(self.word(part), token) };
        let first = 16 * (part % 2);
        if F::SCALE_PLANE {
            Scale::from_ue8m0(word >> (first + 8 * tile) & 0xff)
        } else {
            Scale::from_bf16(word >> first)
        }
    }
}

impl RawScales {
    /// From the staging: of a block that a half of the lanes knows. Nothing here waits for what it reads.
    ///
    /// # Safety
    /// Its copy has come.
    #[inline(always)]
    pub unsafe fn load<F: Format>(thread: Thread, half: u32) -> Self {
        let first = if F::SCALE_PLANE { half * BLOCK_TOKENS_PER_WARP } else { 0 };
        let from = staged_scales::<F>(thread, first + thread.lane() % BLOCK_TOKENS_PER_WARP);
        // SAFETY: as the caller promises.
        unsafe {
            if F::SCALE_PLANE {
                let [a, b] = memory::ld_shared_u32x2(from);
                Self([a, b, 0, 0])
            } else {
                Self(memory::ld_shared_u32x4(from))
            }
        }
    }
}
