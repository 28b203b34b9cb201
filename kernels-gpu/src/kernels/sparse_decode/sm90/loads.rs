//! The loads role: gathers tokens, converts them, and asks the copy engine for queries.

use super::super::Queries;
use super::gather::Blocks;
use super::{Format, Sparse};
use crate::attention::dequant::{self, Scale};
use crate::attention::divide::divide;
use crate::attention::unroll;
use crate::kernels::decode::segments::Segments;
use crate::kernels::decode::sm90::keys::BlockPlace;
use crate::kernels::decode::sm90::{Decode, TILE, WARPGROUP_WARPS};
use crate::ptx::{copy, fence, math, memory, special, warp};
use oximla_types::kernels::decode::{
    BLOCK_TOKENS_PER_WARP, PART_TILES, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS,
};
use oximla_types::kernels::sparse_decode::{PIECES, Piece, SparseDecodeParams};
use oximla_types::launch::WARP_THREADS;

/// Bytes of a chunk: one access of a thread.
const CHUNK_BYTES: u32 = 16;

/// Chunks of a row of a tile.
const TILE_CHUNKS: u32 = TILE_COLUMNS * 2 / CHUNK_BYTES;

/// Runs the role; `segments` are the CTA's.
///
/// # Safety
/// All threads of the warpgroup call it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<'a, F: Format>(kernel: &Sparse<'a, F>, segments: Segments<'a, Queries<'a>>) {
    let params = kernel.params;
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let mut blocks = Blocks::<F>::new(segments);
        let mut place = BlockPlace::<Sparse<F>>::first();
        let block = blocks.next(params);
        // Nothing is converted before the first block has been asked for.
        let (token, mut valid) = block.token::<F>(params);
        gather_scales::<F>(params, token.scales, valid);
        unroll!(PIECE in 5 => { gather::<F>(params, PIECE, token.row, valid); });
        let mut next = blocks.next(params);
        let mut start = block.start;
        while !start.is_end() {
            if start.is_segment() {
                blocks.publish();
                if !start.is_empty() {
                    load_queries(kernel, place, start.request());
                    place = place.next();
                }
            }
            let mut scales = Scales::default();
            let (mut row, mut next_valid, mut behind) = (0, 0, next);
            unroll!(PIECE in 5 => {
                // All but the block's other pieces, and the next one's that came after them.
                copy::cp_async_wait_group::<{ PIECES as u32 - 1 }>();
                warp::warp_sync();
                if start.is_empty() {
                    // Zeros have landed for tokens that there are not.
                } else if PIECE < VALUE_PARTS as usize {
                    if PIECE == 0 {
                        scales = Scales::take::<F>();
                    }
                    let part = PIECE as u32;
                    place.part_free(part).wait_for_last();
                    convert_part::<F>(PIECE, scales, place.part(part));
                    warp::warp_sync();
                    if warp_lane().1 == 0 {
                        place.part_full(part).barrier.arrive();
                    }
                } else {
                    place.probabilities_free().wait_for_last();
                    if F::TAIL {
                        copy_tile::<F>(PIECE, 0, place.tail());
                    }
                    let (number, lane) = warp_lane();
                    if lane == 0 {
                        memory::st_shared_u16(place.key_mask() + 2 * number, valid as u16);
                    }
                    warp::warp_sync();
                    if warp_lane().1 == 0 {
                        place.tail_full().barrier.arrive();
                    }
                }
                if PIECE == 0 {
                    // The indices have come during the last block.
                    let (token, valid) = next.token::<F>(params);
                    gather_scales::<F>(params, token.scales, valid);
                    behind = blocks.next(params);
                    (row, next_valid) = (token.row, valid);
                }
                gather::<F>(params, PIECE, row, next_valid);
            });
            if !start.is_empty() {
                place = place.next();
            }
            (start, valid, next) = (next.start, next_valid, behind);
        }
        blocks.publish();
        // What was asked for behind the last block is zeros, but must land before the CTA ends.
        copy::cp_async_wait_group::<0>();
    }
}

/// This warp's number in the warpgroup, and this thread's in the warp. Asked for anew each time, so that nothing that
/// follows from it stays in registers.
#[inline(always)]
pub fn warp_lane() -> (u32, u32) {
    let thread = special::thread_x();
    (thread / WARP_THREADS % WARPGROUP_WARPS, thread % WARP_THREADS)
}

/// A warp's staging.
#[derive(Clone, Copy)]
struct Staging {
    address: u32,
}

impl Staging {
    /// Of warp `number`.
    #[inline(always)]
    fn of<F: Format>(number: u32) -> Self {
        Self { address: special::dynamic_shared() + F::PLAN.staging + number * F::RAW.warp_bytes() }
    }

    /// Address of a chunk of a piece of a token. Where two tokens' rows would lie in the same banks, those of every other
    /// one are turned by half a row, so that threads may read four chunks of each of two tokens at a time.
    #[inline(always)]
    fn chunk<F: Format>(self, piece: usize, token: u32, chunk: u32) -> u32 {
        let Piece { bytes, .. } = F::RAW.pieces[piece];
        let turned = if bytes == TURNED_BYTES { chunk ^ token % 2 * 4 } else { chunk };
        self.address + F::RAW.staged(piece) + token * bytes + turned * CHUNK_BYTES
    }

    /// Address of a token's scales.
    #[inline(always)]
    fn scales<F: Format>(self, token: u32) -> u32 {
        self.address + F::RAW.staged_scales() + token * F::RAW.scale_bytes
    }
}

/// Bytes of a row that takes all banks.
const TURNED_BYTES: u32 = 128;

/// Asks for the scales of the warp's 16 tokens, as part of the group of copies that comes next.
///
/// # Safety
/// As for [`gather`].
#[inline(always)]
unsafe fn gather_scales<F: Format>(params: &SparseDecodeParams, scales: u64, valid: u32) {
    let (number, lane) = warp_lane();
    if lane < BLOCK_TOKENS_PER_WARP {
        let to = Staging::of::<F>(number).scales::<F>(lane);
        let is_valid = valid >> lane & 1 != 0;
        // SAFETY: as the caller promises; tokens lie within the cache.
        unsafe { copy_bytes(to, scales, F::RAW.scale_bytes, is_valid, params.wide_rows != 0) };
    }
}

/// Asks for a piece of the warp's 16 tokens, of which each lane has a row; zeros stand for tokens that there are not. Always
/// one group of copies.
///
/// # Safety
/// The whole warp calls it; nobody reads what lay there any more.
#[inline(always)]
unsafe fn gather<F: Format>(params: &SparseDecodeParams, piece: usize, row: u64, valid: u32) {
    let (number, lane) = warp_lane();
    let staging = Staging::of::<F>(number);
    let wide = params.wide_rows != 0;
    let Piece { offset, bytes } = F::RAW.pieces[piece];
    let chunks = bytes / CHUNK_BYTES;
    // SAFETY: as the caller promises; tokens lie within the cache.
    unsafe {
        // A loop, as unrolled it would keep more addresses than there are registers for.
        let mut n = lane;
        while n < BLOCK_TOKENS_PER_WARP * chunks {
            let (of, chunk) = (n / chunks, n % chunks);
            let from = shfl_u64(row, of) + (offset + chunk * CHUNK_BYTES) as u64;
            let is_valid = valid >> of & 1 != 0;
            copy_bytes(staging.chunk::<F>(piece, of, chunk), from, CHUNK_BYTES, is_valid, wide);
            n += WARP_THREADS;
        }
        copy::cp_async_commit_group();
    }
}

/// Copies 16 or 8 bytes, or zeros.
#[inline(always)]
unsafe fn copy_bytes(to: u32, from: u64, bytes: u32, is_valid: bool, wide: bool) {
    let whole = if is_valid { u32::MAX } else { 0 };
    // SAFETY: as the caller promises.
    unsafe {
        if bytes == 8 {
            copy::cp_async_8(to, from, 8 & whole);
        } else if wide {
            copy::cp_async_16(to, from, 16 & whole);
        } else {
            copy::cp_async_8(to, from, 8 & whole);
            copy::cp_async_8(to + 8, from + 8, 8 & whole);
        }
    }
}

/// The value of lane `lane`.
#[inline(always)]
unsafe fn shfl_u64(value: u64, lane: u32) -> u64 {
    // SAFETY: as the caller promises.
    unsafe {
        let low = warp::shfl_idx(value as u32, lane);
        let high = warp::shfl_idx((value >> 32) as u32, lane);
        (high as u64) << 32 | low as u64
    }
}

/// Converts a staged piece to the warp's rows of a part.
///
/// Eight lanes have four neighbouring chunks of codes of each of two neighbouring tokens: they read from all banks at a
/// time, and write to all. Two such groups have both tiles of two tokens, or, where only one tile is of codes, that of two
/// more tokens. The next tokens are as many rows further in both places.
///
/// # Safety
/// The whole warp calls it; the piece has landed, and nobody else uses the rows.
#[inline(always)]
unsafe fn convert_part<F: Format>(piece: usize, scales: Scales, part: u32) {
    let is_all_codes = F::RAW.pieces[piece].bytes == TURNED_BYTES;
    // SAFETY: as the caller promises.
    unsafe {
        let (number, lane) = warp_lane();
        let staging = Staging::of::<F>(number);
        let (chunk, odd, group, pair) = (lane % 4, lane / 4 % 2, lane / 8 % 2, lane / 16);
        let (tile, token) = if is_all_codes { (group, 2 * pair + odd) } else { (0, 2 * (lane / 8) + odd) };
        let tokens = if is_all_codes { 4 } else { 8 };
        let from = staging.chunk::<F>(piece, token, 4 * tile + chunk);
        let row = number * BLOCK_TOKENS_PER_WARP + token;
        let to = part + tile * TILE_BYTES + TILE.chunk(row, 2 * chunk);
        unroll!(I in 4 => {
            let further = I as u32 * tokens;
            if further < BLOCK_TOKENS_PER_WARP {
                let words = memory::ld_shared_u32x4(from + further * F::RAW.pieces[piece].bytes);
                let scale = scales.of::<F>(piece, token + further, tile);
                let to = rows_further(to, further);
                // The halves go to both chunks of a pair of them.
                dequant::dequantise_16(words, scale, |half, values| {
                    memory::st_shared_u32x4(to ^ half as u32 * CHUNK_BYTES, values);
                });
            }
        });
        if !is_all_codes {
            copy_tile::<F>(piece, TILE_COLUMNS / CHUNK_BYTES, part + TILE_BYTES);
        }
    }
}

/// From the address of a chunk in a tile, the address of the same chunk `rows` rows further, 4 or a multiple, where the
/// row of the first is one of the first four of eight.
#[inline(always)]
fn rows_further(chunk: u32, rows: u32) -> u32 {
    // Within eight rows the swizzle turns chunks: by 4 of them, four rows further.
    (chunk ^ TILE.chunk(rows, 0) % TILE.row_offset(1)) + TILE.row_offset(rows)
}

/// Copies a staged tile of bf16, from chunk `first` of a piece on, to the warp's rows of a tile.
///
/// # Safety
/// As for [`convert_part`].
#[inline(always)]
unsafe fn copy_tile<F: Format>(piece: usize, first: u32, to: u32) {
    const TOKENS: u32 = WARP_THREADS / TILE_CHUNKS;
    const { assert!(4 * TOKENS == BLOCK_TOKENS_PER_WARP) };
    // SAFETY: as the caller promises.
    unsafe {
        let (number, lane) = warp_lane();
        let (chunk, token) = (lane % TILE_CHUNKS, lane / TILE_CHUNKS);
        let from = Staging::of::<F>(number).chunk::<F>(piece, token, first + chunk);
        let to = to + TILE.chunk(number * BLOCK_TOKENS_PER_WARP + token, chunk);
        unroll!(I in 4 => {
            let further = I as u32 * TOKENS;
            let words = memory::ld_shared_u32x4(from + further * F::RAW.pieces[piece].bytes);
            memory::st_shared_u32x4(rows_further(to, further), words);
        });
    }
}

/// The scales of a lane's token, of a block that is being converted: two of four bf16 a word, or four of eight bytes. Lanes
/// from 16 on have the same tokens as those before.
#[derive(Clone, Copy, Default)]
struct Scales([u32; 2]);

impl Scales {
    /// Takes them from the staging.
    ///
    /// # Safety
    /// They have landed.
    #[inline(always)]
    unsafe fn take<F: Format>() -> Self {
        let (number, lane) = warp_lane();
        let address = Staging::of::<F>(number).scales::<F>(lane % BLOCK_TOKENS_PER_WARP);
        // SAFETY: as the caller promises.
        unsafe {
            if F::SCALE_PLANE {
                Self([memory::ld_shared_u32(address), memory::ld_shared_u32(address + 4)])
            } else {
                let [a, b, c, d] = memory::ld_shared_u32x4(address).map(f32::from_bits);
                Self([math::cvt_bf16x2(a, b), math::cvt_bf16x2(c, d)])
            }
        }
    }

    /// That of a tile of a token's part.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn of<F: Format>(self, part: usize, token: u32, tile: u32) -> Scale {
        // SAFETY: as the caller promises.
        let word = unsafe { warp::shfl_idx(self.0[part / 2], token) };
        if F::SCALE_PLANE {
            Scale::from_ue8m0(word >> (8 * (PART_TILES * (part as u32 % 2) + tile)) & 0xff)
        } else {
            Scale::from_bf16(if part % 2 == 0 { word } else { word >> 16 })
        }
    }
}

/// Asks for a query token's rows, each warp for a part's tiles.
///
/// # Safety
/// The whole warp calls it, once for each segment's first place.
#[inline(always)]
unsafe fn load_queries<F: Format>(kernel: &Sparse<F>, place: BlockPlace<Sparse<F>>, request: u32) {
    let (number, lane) = warp_lane();
    const { assert!(WARPGROUP_WARPS == VALUE_PARTS) };
    // Made anew, so that the loop need not keep what only this takes.
    let kernel = &kernel.again();
    let (batch, query) = divide(request, &kernel.params.queries);
    let tile = kernel.cta.tile;
    let load = |address: u32, barrier: u32, number: u32| {
        let coordinates =
            [(number * TILE_COLUMNS) as i32, tile.first_head as i32, query as i32, batch as i32];
        let policy = copy::createpolicy_evict_normal();
        // SAFETY: what lay there is used up; a box is one tile, of the rows there are.
        unsafe { copy::cp_async_bulk_tensor_4d(address, kernel.q_map, coordinates, barrier, policy) }
    };
    let tile_bytes = tile.heads.get() * TILE_COLUMNS * 2;
    // SAFETY: as the caller promises.
    unsafe {
        let mut part = 0;
        while part < VALUE_PARTS {
            let full = place.part_full(part).barrier;
            place.part_free(part).wait_for_last();
            if lane == 0 && number != part {
                full.arrive();
            }
            if number == part {
                // Threads have stored what lay there.
                fence::fence_proxy_async_shared();
                if lane == 0 {
                    full.arrive_expecting(PART_TILES * tile_bytes);
                }
                warp::warp_sync();
                if lane < PART_TILES {
                    load(place.part(part) + lane * TILE_BYTES, full.address(), part * PART_TILES + lane);
                }
            }
            part += 1;
        }
        let full = place.tail_full().barrier;
        place.probabilities_free().wait_for_last();
        if lane == 0 {
            if F::TAIL && number == 0 {
                fence::fence_proxy_async_shared();
                full.arrive_expecting(tile_bytes);
                load(place.tail(), full.address(), TAIL_TILE);
            } else {
                full.arrive();
            }
        }
    }
}
