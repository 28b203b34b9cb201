//! The codes of tokens, a part's at a time: which lane has which, and their way from the cache to the warp's staging. From there they
//! go to where the tensor cores want them as bf16 (`convert.rs`).
//!
//! Eight lanes have four neighbouring chunks of one tile of each of two neighbouring tokens: they store to all banks at a
//! time. The next eight have the same of the part's other tile, and the upper half of the warp of two more tokens. A
//! lane's next chunk is that of the fourth token from there. Where only one of the tiles comes from codes, the lanes of the
//! other one take every other of these chunks. A lane converts what it has copied itself. Of a block whose keys two CTAs
//! share, it has half as many. Of few heads the copy engine brings them (`few_heads/stages.rs`).

use super::Format;
use super::loads::Thread;
use crate::attention::unroll;
use crate::kernels::decode::sm90::TILE;
use crate::ptx::{copy, memory, special, warp};
use oximla_types::kernels::decode::{BLOCK_TOKENS_PER_WARP, PART_TILES, TILE_BYTES, TILE_COLUMNS};
use oximla_types::kernels::sparse_decode::{
    ROWS_OFFSET, SparseDecodeParams, WARP_CODES_BYTES, WARP_PART_BYTES, WARP_ROWS_BYTES,
};
use oximla_types::launch::WARP_THREADS;

/// Bytes of a chunk: one access of a thread.
pub(super) const CHUNK_BYTES: u32 = 16;

/// Codes of a lane: those of a part that stand in a row.
pub(super) type Chunk = [u32; 4];

/// Chunks of a part that a lane has, at most.
pub(super) const CHUNKS: usize = 4;

/// Chunks of a part that a lane has of a format's tokens, at most.
pub(super) const fn chunks<F: Format>() -> usize {
    CHUNKS / F::CTAS as usize
}

/// From a lane's token to that of its next chunk.
const TOKEN_STEP: u32 = BLOCK_TOKENS_PER_WARP / CHUNKS as u32;

/// Tiles of a part that come from codes; of what would come behind the last part, none.
#[inline(always)]
pub(super) fn code_tiles<F: Format>(part: u32) -> u32 {
    F::RAW.code_tiles(part as usize)
}

/// Which chunks of a part a lane has: of every so many tokens one.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// The chunk, of the tile's codes.
    pub(super) chunk: u32,
    /// The tile, of the part's.
    pub(super) tile: u32,
    /// The first token, of the warp's.
    token: u32,
    /// From one token to the next one.
    pub(super) step: u32,
    /// How many there are.
    pub(super) count: usize,
}

impl Share {
    /// Of a part with so many tiles of codes.
    #[inline(always)]
    pub(super) fn new<F: Format>(thread: Thread, tiles: u32) -> Self {
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
    pub(super) const fn count<F: Format>(tiles: u32) -> usize {
        chunks::<F>() * tiles as usize / PART_TILES as usize
    }

    /// The lane's `i`-th token, of the warp's.
    #[inline(always)]
    pub(super) fn token(self, i: usize) -> u32 {
        self.token + i as u32 * self.step
    }

    /// Where the RoPE elements of its first token are in the warp's rows at `staged`.
    #[inline(always)]
    fn staged_rope<F: Format>(self, thread: Thread, staged: u32, chunk: u32) -> u32 {
        staged + TILE.chunk(self.token - thread.first_token::<F>(), chunk)
    }

    /// Where they are in the tile at `tile`.
    #[inline(always)]
    fn rope(self, thread: Thread, tile: u32, chunk: u32) -> u32 {
        tile + TILE.chunk(thread.key(self.token), chunk)
    }

    /// The chunks of two tokens, the first one's at an address.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn load_two(self, from: u32) -> [Chunk; 2] {
        // SAFETY: as the caller promises.
        [0, 1].map(|i| unsafe { memory::ld_shared_u32x4(TILE.rows_further(from, i * self.step)) })
    }

    /// Stores the chunks of two tokens, the first one's at an address.
    ///
    /// # Safety
    /// Nobody else uses the places.
    #[inline(always)]
    unsafe fn store_two(self, to: u32, chunks: [Chunk; 2]) {
        unroll!(I in 2 => {
            // SAFETY: as the caller promises.
            unsafe { memory::st_shared_u32x4(TILE.rows_further(to, I as u32 * self.step), chunks[I]) };
        });
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
    pub(super) fn chunk_of_row(self) -> u32 {
        self.tile * (TILE_COLUMNS / CHUNK_BYTES) + self.chunk
    }

    /// Not zero if there is the lane's `i`-th token.
    #[inline(always)]
    pub(super) fn flag(self, valid: u32, i: usize) -> u32 {
        valid >> self.token & 1 << (i as u32 * self.step)
    }
}

/// Where a warp's codes are in the staging.
#[inline(always)]
fn staged_codes(thread: Thread) -> u32 {
    thread.warp_staging(0, WARP_CODES_BYTES)
}

/// What stays the same for a lane, block after block, and is kept in registers.
#[derive(Clone, Copy)]
pub struct Lane {
    /// Address of its first place for codes in the staging. It has one alone for each chunk, so that it need not wait for
    /// other lanes.
    staged: u32,
    /// Where the values of its first chunk of a whole part go, from the part's address on.
    pub(super) values: u32,
}

impl Lane {
    /// The calling one.
    #[inline(always)]
    pub fn this<F: Format>(thread: Thread) -> Self {
        let staged = staged_codes(thread) + thread.lane() * CHUNK_BYTES;
        Self { staged, values: first_row(Share::new::<F>(thread, PART_TILES), thread, 0) }
    }

    /// Its place for a part's `i`-th chunk.
    #[inline(always)]
    pub(super) fn place(self, part: u32, i: usize) -> u32 {
        self.staged + part * WARP_PART_BYTES + i as u32 * WARP_THREADS * CHUNK_BYTES
    }
}

/// Where the first chunks are that a lane has of its tokens' rows in whole parts.
#[derive(Clone, Copy)]
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
/// As for [`load_rope`] and [`store_rope`].
#[inline(always)]
pub unsafe fn move_rope<F: Format>(thread: Thread, staged: u32, tile: u32) {
    let share = Share::new::<F>(thread, PART_TILES);
    let chunk = share.chunk_of_row();
    let (from, to) = (share.staged_rope::<F>(thread, staged, chunk), share.rope(thread, tile, chunk));
    // SAFETY: as the caller promises.
    unsafe { share.store_two(to, share.load_two(from)) };
}

/// Copies 16 bytes to shared memory, or zeros.
///
/// # Safety
/// As for [`Rows::copy_codes`].
#[inline(always)]
pub(super) unsafe fn copy_or_zeros<const WIDE: bool>(to: u32, from: u64, is_valid: bool) {
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
pub(super) fn staged_row(thread: Thread, token: u32) -> u32 {
    thread.warp_staging(ROWS_OFFSET, WARP_ROWS_BYTES) + token * ROW_BYTES
}

/// Where the values of a lane's first chunk go, in a part at `to`.
#[inline(always)]
pub(super) fn first_row(share: Share, thread: Thread, to: u32) -> u32 {
    let row = thread.key(share.token);
    to + share.tile * TILE_BYTES + TILE.chunk(row, 2 * share.chunk)
}
