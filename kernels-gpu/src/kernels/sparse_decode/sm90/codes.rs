//! The codes of tokens, a part's at a time: from the cache to the warp's staging, from there to where the tensor cores want
//! them as bf16.
//!
//! Eight lanes have four neighbouring chunks of one tile of each of two neighbouring tokens: they store to all banks at a
//! time. The next eight have the same of the part's other tile, and the upper half of the warp of two more tokens. A
//! lane's next chunk is that of the fourth token from there. Where only one of the tiles comes from codes, the lanes of the
//! other one take every other of these chunks. A lane converts what it has copied itself. Of a block whose keys two CTAs share, it has half as
//! many.

use super::Format;
use super::loads::Thread;
use crate::attention::dequant::{self, FOUND, Factor, Scale};
use crate::attention::unroll;
use crate::kernels::decode::sm90::TILE;
use crate::ptx::{copy, math, memory, special, warp};
use core::hint::cold_path;
use core::marker::PhantomData;
use oximla_types::kernels::decode::{BLOCK_TOKENS_PER_WARP, PART_TILES, TILE_BYTES, TILE_COLUMNS};
use oximla_types::kernels::sparse_decode::{
    MAX_SCALE_BYTES, ROWS_OFFSET, SCALES_OFFSET, SparseDecodeParams, WARP_CODES_BYTES, WARP_PART_BYTES,
    WARP_ROWS_BYTES, WARP_SCALES_BYTES,
};
use oximla_types::launch::WARP_THREADS;

/// A NaN as bf16.
const BF16_NAN: u16 = 0x7fff;

/// Bytes of a chunk: one access of a thread.
const CHUNK_BYTES: u32 = 16;

/// Codes of a lane: those of a part that stand in a row.
type Chunk = [u32; 4];

/// Chunks of a part that a lane has, at most.
const CHUNKS: usize = 4;

/// Chunks of a part that a lane has of a format's tokens, at most.
const fn chunks<F: Format>() -> usize {
    CHUNKS / F::CTAS as usize
}

/// Chunks of a part that are on their way to a lane's registers while it converts another one: as many as it has registers for.
const fn ahead<F: Format>() -> usize {
    if F::SHARES || F::PREFILL || F::SCALE_PLANE { 2 } else { 3 }
}

/// From a lane's token to that of its next chunk.
const TOKEN_STEP: u32 = BLOCK_TOKENS_PER_WARP / CHUNKS as u32;

/// Tiles of a part that come from codes; of what would come behind the last part, none.
#[inline(always)]
fn code_tiles<F: Format>(part: u32) -> u32 {
    F::RAW.code_tiles(part as usize)
}

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
    fn new<F: Format>(thread: Thread, tiles: u32) -> Self {
        let lane = thread.lane();
        let (chunk, tile, token) = (lane % 4, lane / 8 % PART_TILES, 2 * (lane / 16) + lane / 4 % 2);
        let token = token + thread.first_token::<F>();
        if tiles == PART_TILES {
            Self { chunk, tile, token, step: TOKEN_STEP, count: Self::count::<F>(tiles) }
        } else {
            let token = token + tile * TOKEN_STEP;
            Self { chunk, tile: 0, token, step: PART_TILES * TOKEN_STEP, count: Self::count::<F>(tiles) }
        }
    }

    /// How many chunks a lane has of a part with so many tiles of codes.
    #[inline(always)]
    const fn count<F: Format>(tiles: u32) -> usize {
        chunks::<F>() * tiles as usize / PART_TILES as usize
    }

    /// The lane's `i`-th token, of the warp's.
    #[inline(always)]
    fn token(self, i: usize) -> u32 {
        self.token + i as u32 * self.step
    }

    /// What [`Rows`] say of the lane's `i`-th token.
    #[inline(always)]
    fn row<F: Format>(self, rows: &Rows, i: usize) -> u64 {
        // The compiler sees that no index is too large.
        if self.step == TOKEN_STEP {
            rows.0[i]
        } else if self.token & TOKEN_STEP == 0 {
            rows.0[2 * i % CHUNKS]
        } else {
            rows.0[(2 * i + 1) % CHUNKS]
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

/// What stays the same for a lane, block after block, and is kept in registers.
#[derive(Clone, Copy)]
pub struct Lane {
    /// Address of its first place for codes in the staging. It has one alone for each chunk, so that it need not wait for
    /// other lanes.
    staged: u32,
    /// Where the values of its first chunk of a whole part go, from the part's address on.
    values: u32,
}

impl Lane {
    /// The calling one.
    #[inline(always)]
    pub fn this<F: Format>(thread: Thread) -> Self {
        let staged = thread.warp_staging(0, WARP_CODES_BYTES) + thread.lane() * CHUNK_BYTES;
        Self { staged, values: first_row(Share::new::<F>(thread, PART_TILES), thread, 0) }
    }

    /// Its place for a part's `i`-th chunk.
    #[inline(always)]
    fn place(self, part: u32, i: usize) -> u32 {
        self.staged + part * WARP_PART_BYTES + i as u32 * WARP_THREADS * CHUNK_BYTES
    }
}

/// Where the first chunks are that a lane has of its tokens' rows in whole parts.
pub struct Rows([u64; CHUNKS]);

impl Rows {
    /// Something readable.
    #[inline(always)]
    pub fn none(params: &SparseDecodeParams) -> Self {
        Self([params.scopes[0].kv_cache; CHUNKS])
    }

    /// Those of the warp's tokens of a block whose rows are staged.
    ///
    /// # Safety
    /// They are.
    #[inline(always)]
    pub unsafe fn staged<F: Format>(thread: Thread) -> Self {
        let share = Share::new::<F>(thread, PART_TILES);
        let from = staged_row(thread, share.token);
        let mut rows = [0; CHUNKS];
        unroll!(I in 4 => {
            if !F::SHARES || I < CHUNKS / 2 {
                // SAFETY: as the caller promises.
                let row = unsafe { memory::ld_shared_u64(from + I as u32 * share.step * ROW_BYTES) };
                rows[I] = row + (share.chunk_of_row() * CHUNK_BYTES) as u64;
            }
        });
        Self(rows)
    }

    /// Stages the rows of the warp's tokens of a block: those that the lanes of a half know.
    ///
    /// # Safety
    /// The whole warp calls it, when it has read those before.
    #[inline(always)]
    pub unsafe fn stage(thread: Thread, row: u64, half: u32) {
        let lane = thread.lane();
        // SAFETY: as the caller promises.
        unsafe {
            warp::warp_sync();
            if lane / BLOCK_TOKENS_PER_WARP == half {
                memory::st_shared_u64(staged_row(thread, lane % BLOCK_TOKENS_PER_WARP), row);
            }
            warp::warp_sync();
        }
    }

    /// The same, of which the compiler does not know that, so that addresses that follow from them are not kept in registers
    /// from one use to another.
    #[inline(always)]
    pub fn again(&self) -> Self {
        Self(self.0.map(special::again_u64))
    }

    /// Asks for a lane's chunks of a part, for the staging: zeros where there is no token by the mask `valid`. One group of copies.
    ///
    /// # Safety
    /// What the cache has may be read. With `WIDE`, rows are aligned to 16 bytes, else to 8. Nobody uses the lane's places
    /// in the staging.
    #[inline(always)]
    pub unsafe fn copy_codes<F: Format, const WIDE: bool>(
        &self,
        thread: Thread,
        lane: Lane,
        valid: u32,
        part: u32,
    ) {
        let tiles = code_tiles::<F>(part);
        let share = Share::new::<F>(thread, tiles);
        let mut offset = (part * PART_TILES * TILE_COLUMNS) as u64;
        if tiles != PART_TILES {
            // All lanes have chunks of the first tile.
            let others = Share::new::<F>(thread, PART_TILES).chunk_of_row() - share.chunk_of_row();
            offset -= (others * CHUNK_BYTES) as u64;
        }
        unroll!(I in 4 => {
            if I < share.count {
                // SAFETY: as the caller promises.
                unsafe {
                    let is_valid = share.flag(valid, I) != 0;
                    copy_or_zeros::<WIDE>(lane.place(part, I), share.row::<F>(self, I) + offset, is_valid);
                }
            }
        });
        copy::cp_async_commit_group();
    }

    /// Asks for the RoPE elements, for the rows of a tile at `to` that `row` tells of the warp's tokens: for tokens that there are not
    /// any, or zeros where they are of the values, too. One group of copies.
    ///
    /// # Safety
    /// As for [`Self::copy_codes`]; nobody else uses the rows.
    #[inline(always)]
    pub unsafe fn copy_rope<F: Format, const WIDE: bool>(
        &self,
        thread: Thread,
        valid: u32,
        to: u32,
        row: impl Fn(u32) -> u32,
    ) {
        let share = Share::new::<F>(thread, PART_TILES);
        let chunk = share.chunk_of_row();
        let to = to + TILE.chunk(row(share.token), chunk);
        unroll!(I in 4 => {
            if !F::SHARES || I < CHUNKS / 2 {
                let from = self.0[I] + F::RAW.rope_offset as u64;
                // A tail is only multiplied to scores, which are masked.
                let is_valid = F::TAIL || share.flag(valid, I) != 0;
                // SAFETY: as the caller promises.
                unsafe { copy_or_zeros::<WIDE>(TILE.rows_further(to, I as u32 * share.step), from, is_valid) };
            }
        });
        copy::cp_async_commit_group();
    }
}

/// Copies a lane's RoPE elements from the warp's rows at `staged` to those of the tile at `tile`.
///
/// # Safety
/// The lane's copies to `staged` have come; nobody else uses the tile's rows.
#[inline(always)]
pub unsafe fn store_rope<F: Format>(thread: Thread, staged: u32, tile: u32) {
    let share = Share::new::<F>(thread, PART_TILES);
    let chunk = share.chunk_of_row();
    let from = staged + TILE.chunk(share.token - thread.first_token::<F>(), chunk);
    let to = tile + TILE.chunk(thread.key(share.token), chunk);
    // SAFETY: as the caller promises.
    unsafe {
        let row = |i: u32| i * share.step;
        let words = [0, 1].map(|i| memory::ld_shared_u32x4(TILE.rows_further(from, row(i))));
        unroll!(I in 2 => { memory::st_shared_u32x4(TILE.rows_further(to, row(I as u32)), words[I]); });
    }
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

/// Bytes of the address of a row.
const ROW_BYTES: u32 = size_of::<u64>() as u32;

/// Where the address of the row of a token of the warp is in the staging.
#[inline(always)]
fn staged_row(thread: Thread, token: u32) -> u32 {
    thread.warp_staging(ROWS_OFFSET, WARP_ROWS_BYTES) + token * ROW_BYTES
}

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
    /// One of the bits of [`FOUND`] is set if one of them is large.
    large: u32,
}

/// The scales of a lane's token as they are in the cache, on their way from the staging.
#[derive(Clone, Copy, Default)]
pub struct RawScales([u32; 4]);

impl Scales {
    /// Asks for those of each lane's token, from a scale plane, for the warp's staging.
    ///
    /// # Safety
    /// As for [`Rows::copy_codes`].
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
    /// As for [`Rows::copy_codes`]; the rows are staged.
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
    fn word(self, part: u32) -> u32 {
        if part < 2 { self.words[0] } else { self.words[1] }
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

/// What a lane converts of a part, on its way from the staging to registers: of the codes the first chunks, later ones in
/// their places as soon as they are converted.
#[derive(Clone, Copy, Default)]
pub struct Taken {
    chunks: [Chunk; CHUNKS],
    /// Of each chunk, a word of its token's [`Scales`], or what the short way makes of it.
    scales: [u32; CHUNKS],
    /// One of the bits in [`FOUND`] is set if there was a NaN among the codes so far.
    nan: u32,
}

/// What a lane knows to convert a block.
#[derive(Clone, Copy)]
pub struct Converter<F> {
    thread: Thread,
    lane: Lane,
    scales: Scales,
    format: PhantomData<F>,
}

impl<F: Format> Converter<F> {
    /// Of a block with these scales.
    #[inline(always)]
    pub fn new(thread: Thread, lane: Lane, scales: RawScales) -> Self {
        Self { thread, lane, scales: Scales::of_raw::<F>(scales), format: PhantomData }
    }

    /// Whether the block has to be converted by [`Self::convert_any`], as a scale is large.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn is_any(&self) -> bool {
        // SAFETY: as the caller promises.
        unsafe { warp::ballot(self.scales.large & FOUND != 0) != 0 }
    }

    /// Takes the first chunks of a part, and all its scales. Nothing here waits for what it reads.
    ///
    /// # Safety
    /// The whole warp calls it. The part's codes have come.
    #[inline(always)]
    pub unsafe fn take(&self, part: u32) -> Taken {
        let mut taken = Taken::default();
        // SAFETY: as the caller promises.
        unsafe {
            unroll!(I in 4 => {
                if I < ahead::<F>() {
                    self.take_codes(&mut taken, part, I);
                }
            });
            self.take_scales(&mut taken, part);
        }
        taken
    }

    /// Takes the `i`-th chunk of a part, if there is one.
    ///
    /// # Safety
    /// The part's codes have come, if it has any.
    #[inline(always)]
    unsafe fn take_codes(&self, taken: &mut Taken, part: u32, i: usize) {
        if i < Share::count::<F>(code_tiles::<F>(part)) {
            // SAFETY: as the caller promises.
            taken.chunks[i] = unsafe { memory::ld_shared_u32x4(self.lane.place(part, i)) };
        }
    }

    /// Takes the scales of all chunks of a part, if it has any.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn take_scales(&self, taken: &mut Taken, part: u32) {
        let share = Share::new::<F>(self.thread, code_tiles::<F>(part));
        let word = self.scales.word(part);
        let word = if F::SCALE_PLANE { word } else { Factor::pair(word) };
        unroll!(I in 4 => {
            if I < share.count {
                // SAFETY: as the caller promises.
                taken.scales[I] = unsafe { warp::shfl_idx(word, share.token(I)) };
            }
        });
    }

    /// Converts a part that was taken and stores it in the warp's rows of the part, at `to`: for tokens that there are not,
    /// zeros. Takes the next part's first chunks meanwhile. What becomes of a NaN is wrong, but [`Self::poison`] comes later.
    ///
    /// # Safety
    /// The whole warp calls it. Nobody else uses the rows; the next part's codes have come, if it has any.
    #[inline(always)]
    pub unsafe fn convert(&self, taken: &mut Taken, part: u32, to: u32) {
        let tiles = code_tiles::<F>(part);
        let share = Share::new::<F>(self.thread, tiles);
        // SAFETY: as the caller promises.
        unsafe {
            let first =
                if tiles == PART_TILES { to + self.lane.values } else { first_row(share, self.thread, to) };
            unroll!(I in 4 => {
                if I < share.count {
                    let word = taken.scales[I];
                    let factor = if F::SCALE_PLANE {
                        Factor::of_ue8m0(word, 2 * (part % 2) + share.tile)
                    } else {
                        Factor::of_pair(word, part % 2)
                    };
                    dequant::dequantise_16(taken.chunks[I], factor, |half, values| {
                        store_half(first, half, I as u32 * share.step, values)
                    });
                    taken.nan |= dequant::find_nan(taken.chunks[I]);
                    let later = I + ahead::<F>();
                    if later < share.count {
                        self.take_codes(taken, part, later);
                    } else {
                        self.take_codes(taken, part + 1, later - share.count);
                    }
                }
            });
        }
    }

    /// When all parts are converted: if there was a NaN among the warp's codes, lets each of its tokens have a NaN among its RoPE
    /// elements, whose rows are from `rows` on. As all scores of one token are NaN either way, so are the sums of all
    /// probabilities and all outputs: it does not matter what the other tokens are, nor what has become of the code.
    ///
    /// # Safety
    /// The whole warp calls it. The RoPE elements have come, and nobody else uses them.
    #[inline(always)]
    pub unsafe fn poison(&self, taken: &Taken, rows: impl Fn() -> u32) {
        // SAFETY: as the caller promises.
        unsafe {
            if warp::ballot(taken.nan & FOUND != 0) != 0 {
                cold_path();
                // Also those elements have come that other lanes have asked for.
                warp::warp_sync();
                let lane = self.thread.lane();
                if lane < F::WARP_TOKENS {
                    memory::st_shared_u16(rows() + TILE.row_offset(lane), BF16_NAN);
                }
                warp::warp_sync();
            }
        }
    }

    /// [`Self::convert`] for any codes and any scales. Codes are taken from the staging as they are needed, in a loop, as this
    /// is rare.
    ///
    /// # Safety
    /// As there, with the codes in the staging.
    #[inline(always)]
    pub unsafe fn convert_any(&self, part: u32, to: u32) {
        let share = Share::new::<F>(self.thread, code_tiles::<F>(part));
        // SAFETY: as the caller promises.
        unsafe {
            let first = first_row(share, self.thread, to);
            let (mut i, count) = (0, special::again(share.count as u32));
            while i < count {
                let codes = memory::ld_shared_u32x4(self.lane.place(part, i as usize));
                let scale = self.scales.of::<F>(part, share.token(i as usize), share.tile);
                dequant::dequantise_any_16(codes, scale, |half, values| {
                    store_half(first, half, i * share.step, values)
                });
                i += 1;
            }
        }
    }
}

/// Where the values of a lane's first chunk go, in a part at `to`.
#[inline(always)]
fn first_row(share: Share, thread: Thread, to: u32) -> u32 {
    let row = thread.key(share.token);
    to + share.tile * TILE_BYTES + TILE.chunk(row, 2 * share.chunk)
}

/// Stores half of the values of a chunk, so many rows behind a first one whose values are at `first`: they take both chunks
/// of a pair of them.
///
/// # Safety
/// As for [`Converter::convert`].
#[inline(always)]
unsafe fn store_half(first: u32, half: usize, rows: u32, values: [u32; 4]) {
    let to = TILE.rows_further(first ^ half as u32 * CHUNK_BYTES, rows);
    // SAFETY: as the caller promises.
    unsafe { memory::st_shared_u32x4(to, values) }
}
