//! The codes of tokens, a part's at a time: from the cache to the warp's staging, from there to where the tensor cores want
//! them as bf16.
//!
//! Eight lanes have four neighbouring chunks of one tile of each of two neighbouring tokens: they store to all banks at a
//! time. The next eight have the same of the part's other tile, and the upper half of the warp of two more tokens. A
//! lane's next chunk is that of the fourth token from there. Where only one of the tiles comes from codes, the lanes of the
//! other one take every other of these chunks. A lane converts what it has copied itself.

use super::Format;
use super::gather::Token;
use super::loads::Thread;
use crate::attention::dequant::{self, FOUND, Scale};
use crate::attention::unroll;
use crate::kernels::decode::sm90::TILE;
use crate::ptx::{copy, math, memory, warp};
use core::hint::cold_path;
use oximla_types::kernels::decode::{BLOCK_TOKENS_PER_WARP, PART_TILES, TILE_BYTES, TILE_COLUMNS};
use oximla_types::kernels::sparse_decode::{
    MAX_SCALE_BYTES, SCALES_OFFSET, SparseDecodeParams, WARP_CODES_BYTES, WARP_PART_BYTES, WARP_SCALES_BYTES,
};
use oximla_types::launch::WARP_THREADS;

/// Bytes of a chunk: one access of a thread.
const CHUNK_BYTES: u32 = 16;

/// Codes of a lane: those of a part that stand in a row.
type Chunk = [u32; 4];

/// Chunks of a part that a lane has, at most.
const CHUNKS: usize = 4;

/// From a lane's token to that of its next chunk.
const TOKEN_STEP: u32 = BLOCK_TOKENS_PER_WARP / CHUNKS as u32;

/// Which chunks of a part a lane has: of every so many tokens one.
#[derive(Clone, Copy)]
struct Share {
    /// The chunk, of the tile's codes.
    chunk: u32,
    /// The tile, of the part's.
    tile: u32,
    /// The first token, of the warp's.
    token: u32,
    /// From one token to the next one.
    step: u32,
    /// How many there are.
    count: usize,
}

impl Share {
    /// Of a part with so many tiles of codes.
    #[inline(always)]
    fn new(thread: Thread, tiles: u32) -> Self {
        let lane = thread.lane();
        let (chunk, tile, token) = (lane % 4, lane / 8 % PART_TILES, 2 * (lane / 16) + lane / 4 % 2);
        if tiles == PART_TILES {
            Self { chunk, tile, token, step: TOKEN_STEP, count: CHUNKS }
        } else {
            let token = token + tile * TOKEN_STEP;
            Self { chunk, tile: 0, token, step: PART_TILES * TOKEN_STEP, count: CHUNKS / PART_TILES as usize }
        }
    }

    /// The lane's `i`-th token, of the warp's.
    #[inline(always)]
    fn token(self, i: usize) -> u32 {
        self.token + i as u32 * self.step
    }

    /// The row of the lane's `i`-th token.
    #[inline(always)]
    fn row(self, rows: &Rows, i: usize) -> u64 {
        if self.count == CHUNKS {
            rows.0[i]
        } else if self.token & TOKEN_STEP == 0 {
            rows.0[2 * i]
        } else {
            rows.0[2 * i + 1]
        }
    }

    /// Number of the chunk in a row of all tiles.
    #[inline(always)]
    fn chunk_of_row(self) -> u32 {
        self.tile * (TILE_COLUMNS / CHUNK_BYTES) + self.chunk
    }

    /// Not zero if there is the lane's `i`-th token.
    #[inline(always)]
    fn flag(self, valid: u32, i: usize) -> u32 {
        valid >> self.token & 1 << (i as u32 * self.step)
    }
}

/// The rows of the tokens that a lane has chunks of in whole parts.
pub struct Rows([u64; CHUNKS]);

impl Rows {
    /// Something readable.
    #[inline(always)]
    pub fn none(params: &SparseDecodeParams) -> Self {
        Self([params.scopes[0].kv_cache; CHUNKS])
    }

    /// Those of a warp's tokens, of which each lane knows its own: lanes from 16 on the same as those before.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn of(thread: Thread, token: Token) -> Self {
        let share = Share::new(thread, PART_TILES);
        let mut rows = [0; CHUNKS];
        unroll!(I in 4 => {
            // SAFETY: as the caller promises.
            let [low, high] = unsafe {
                let of_lane = share.token(I);
                [warp::shfl_idx(token.row as u32, of_lane), warp::shfl_idx((token.row >> 32) as u32, of_lane)]
            };
            rows[I] = (high as u64) << 32 | low as u64;
        });
        Self(rows)
    }

    /// Asks for a lane's chunks of a part with so many tiles of codes, for the staging; any stand for those of tokens that
    /// there are not. One group of copies.
    ///
    /// # Safety
    /// What the cache has may be read. With `WIDE`, rows are aligned to 16 bytes, else to 8. Nobody uses the lane's places
    /// in the staging.
    #[inline(always)]
    pub unsafe fn copy_codes<const WIDE: bool>(&self, thread: Thread, part: u32, tiles: u32) {
        let share = Share::new(thread, tiles);
        let offset = part * PART_TILES * TILE_COLUMNS + share.chunk_of_row() * CHUNK_BYTES;
        let to = staged_part(thread, part);
        unroll!(I in 4 => {
            if I < share.count {
                // SAFETY: as the caller promises.
                unsafe { copy_or_zeros::<WIDE>(place(to, I), share.row(self, I) + offset as u64, true) };
            }
        });
        copy::cp_async_commit_group();
    }

    /// Asks for the RoPE elements, for the warp's rows of a tile: zeros for tokens that there are not. One group of copies.
    ///
    /// # Safety
    /// As for [`Self::copy_codes`]; nobody else uses the rows.
    #[inline(always)]
    pub unsafe fn copy_rope<F: Format, const WIDE: bool>(&self, thread: Thread, valid: u32, tile: u32) {
        let share = Share::new(thread, PART_TILES);
        let chunk = share.chunk_of_row();
        let to = tile + TILE.chunk(thread.warp() * BLOCK_TOKENS_PER_WARP + share.token, chunk);
        unroll!(I in 4 => {
            let from = self.0[I] + (F::RAW.rope_offset + chunk * CHUNK_BYTES) as u64;
            // SAFETY: as the caller promises.
            unsafe { copy_or_zeros::<WIDE>(TILE.rows_further(to, I as u32 * share.step), from, share.flag(valid, I) != 0) };
        });
        copy::cp_async_commit_group();
    }
}

/// A lane's first place for the codes of a part in the staging.
#[inline(always)]
fn staged_part(thread: Thread, part: u32) -> u32 {
    thread.warp_staging(0, WARP_CODES_BYTES) + part * WARP_PART_BYTES + thread.lane() * CHUNK_BYTES
}

/// A lane's `i`-th place: its alone, so that it need not wait for other lanes.
#[inline(always)]
fn place(first: u32, i: usize) -> u32 {
    first + i as u32 * WARP_THREADS * CHUNK_BYTES
}

/// Copies 16 bytes to shared memory, or zeros.
///
/// # Safety
/// As for [`Rows::copy_codes`].
#[inline(always)]
unsafe fn copy_or_zeros<const WIDE: bool>(to: u32, from: u64, is_valid: bool) {
    let whole = if is_valid { u32::MAX } else { 0 };
    // SAFETY: as the caller promises.
    unsafe {
        if WIDE {
            copy::cp_async_16(to, from, 16 & whole);
        } else {
            copy::cp_async_8(to, from, 8 & whole);
            copy::cp_async_8(to + 8, from + 8, 8 & whole);
        }
    }
}

/// Where the scales of a token of the warp are in the staging.
#[inline(always)]
fn staged_scales(thread: Thread, token: u32) -> u32 {
    thread.warp_staging(SCALES_OFFSET, WARP_SCALES_BYTES) + token * MAX_SCALE_BYTES
}

/// The scales of a lane's token: two of four bf16 a word, or four of eight bytes. Lanes from 16 on have the same tokens as
/// those before.
#[derive(Clone, Copy, Default)]
pub struct Scales([u32; 2]);

impl Scales {
    /// Asks for those of a lane's token, for its place in the warp's staging. One group of copies.
    ///
    /// # Safety
    /// As for [`Rows::copy_codes`].
    #[inline(always)]
    pub unsafe fn copy<F: Format, const WIDE: bool>(thread: Thread, token: Token, valid: u32) {
        let lane = thread.lane();
        if lane < BLOCK_TOKENS_PER_WARP {
            let to = staged_scales(thread, lane);
            let is_valid = valid >> lane & 1 != 0;
            // SAFETY: as the caller promises.
            unsafe {
                if F::SCALE_PLANE {
                    copy::cp_async_8(to, token.scales, if is_valid { 8 } else { 0 });
                } else {
                    copy_or_zeros::<WIDE>(to, token.scales, is_valid);
                }
            }
        }
        copy::cp_async_commit_group();
    }

    /// From the staging, as the conversion takes them.
    ///
    /// # Safety
    /// The whole warp calls it; its copies are in the staging.
    #[inline(always)]
    pub unsafe fn take<F: Format>(thread: Thread) -> Self {
        let from = staged_scales(thread, thread.lane() % BLOCK_TOKENS_PER_WARP);
        // SAFETY: as the caller promises.
        unsafe {
            Self(if F::SCALE_PLANE {
                let [a, b] = memory::ld_shared_u32x2(from);
                // The last byte is padding.
                [a, b & 0x00ff_ffff]
            } else {
                let [a, b, c, d] = memory::ld_shared_u32x4(from).map(f32::from_bits);
                [math::cvt_bf16x2(a, b), math::cvt_bf16x2(c, d)]
            })
        }
    }

    /// The word with those of a part.
    #[inline(always)]
    fn word(self, part: u32) -> u32 {
        if part < 2 { self.0[0] } else { self.0[1] }
    }

    /// That of a tile of a token's part.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn of<F: Format>(self, part: u32, token: u32, tile: u32) -> Scale {
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

/// Converts a lane's chunks of a part with so many tiles of codes and stores them in the warp's rows of the part: for tokens
/// that there are not, any finite values, as their probabilities are 0.
///
/// # Safety
/// The whole warp calls it. The codes have come; nobody else uses the rows.
#[inline(always)]
pub unsafe fn convert<F: Format>(part: u32, tiles: u32, thread: Thread, valid: u32, scales: Scales, to: u32) {
    let is_large = if F::SCALE_PLANE { dequant::is_large_ue8m0 } else { dequant::is_large_bf16 };
    let mut found = if is_large(scales.word(part)) { FOUND } else { 0 };
    // SAFETY: as the caller promises.
    unsafe {
        let share = Share::new(thread, tiles);
        let chunks = staged_chunks(share, thread, part);
        let scale = lane_scales::<F>(share, part, scales);
        let first = first_row(share, thread, to);
        unroll!(I in 4 => {
            if I < share.count {
                found |= dequant::find_nan(chunks[I]);
                let to = TILE.rows_further(first, I as u32 * share.step);
                dequant::dequantise_16(chunks[I], scale[I], |half, values| store_half(to, half, values));
            }
        });
        // A lane knows only which of its own token's scales are large.
        if warp::ballot(found & FOUND != 0) != 0 {
            cold_path();
            // Once more, the long way; so nothing has to wait for the question whether it takes that.
            let share = Share::new(thread, tiles);
            let chunks = staged_chunks(share, thread, part);
            let scale = lane_scales::<F>(share, part, scales);
            let first = first_row(share, thread, to);
            unroll!(I in 4 => {
                if I < share.count {
                    // No token, no NaN.
                    let codes = if share.flag(valid, I) != 0 { chunks[I] } else { [0; 4] };
                    let to = TILE.rows_further(first, I as u32 * share.step);
                    dequant::dequantise_any_16(codes, scale[I], |half, values| store_half(to, half, values));
                }
            });
        }
    }
}

/// A lane's chunks of a part.
///
/// # Safety
/// They have come.
#[inline(always)]
unsafe fn staged_chunks(share: Share, thread: Thread, part: u32) -> [Chunk; CHUNKS] {
    let staged = staged_part(thread, part);
    let mut chunks: [Chunk; CHUNKS] = Default::default();
    unroll!(I in 4 => {
        if I < share.count {
            // SAFETY: as the caller promises.
            chunks[I] = unsafe { memory::ld_shared_u32x4(place(staged, I)) };
        }
    });
    chunks
}

/// The scales of a lane's chunks of a part.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn lane_scales<F: Format>(share: Share, part: u32, scales: Scales) -> [Scale; CHUNKS] {
    let mut scale = [Scale::from_bf16(0); CHUNKS];
    unroll!(I in 4 => {
        if I < share.count {
            // SAFETY: as the caller promises.
            scale[I] = unsafe { scales.of::<F>(part, share.token(I), share.tile) };
        }
    });
    scale
}

/// Where the values of a lane's first chunk go, in a part at `to`.
#[inline(always)]
fn first_row(share: Share, thread: Thread, to: u32) -> u32 {
    let row = thread.warp() * BLOCK_TOKENS_PER_WARP + share.token;
    to + share.tile * TILE_BYTES + TILE.chunk(row, 2 * share.chunk)
}

/// Stores half of a chunk's values: they take both chunks of a pair of them.
///
/// # Safety
/// As for [`convert`].
#[inline(always)]
unsafe fn store_half(to: u32, half: usize, values: [u32; 4]) {
    // SAFETY: as the caller promises.
    unsafe { memory::st_shared_u32x4(to ^ half as u32 * CHUNK_BYTES, values) }
}
