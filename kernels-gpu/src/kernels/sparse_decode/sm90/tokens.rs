//! Whole tokens on their way from the cache to the warps that convert them, where heads are few.
//!
//! The copy engine brings a row as it lies in the cache. Asked for by lanes in pieces of 128 bytes, half of which begin in the middle of a sector,
//! the 656 bytes of V3.2 would take 32 sectors of the level-2 cache, as counted; so they take 24.
//!
//! Each warp that converts has a place for its tokens of one block:
//!
//! | barrier  | completes when                                     | arrivals                                    |
//! |----------|----------------------------------------------------|---------------------------------------------|
//! | `landed` | its tokens have come, and what it is told of them  | a lane of the warp that gathers, the copies |
//! | `taken`  | it has them in registers                           | a lane of the warp that converts            |

use super::Format;
use super::codes::{CHUNK_BYTES, Chunk, Share};
use super::gather::Tokens;
use super::loads::Thread;
use crate::attention::unroll;
use crate::kernels::decode::sm90::TILE;
use crate::kernels::decode::sm90::keys::Phase;
use crate::ptx::{copy, memory, special, warp};
use oximla_types::kernels::decode::{
    BARRIER_BYTES, BLOCK_TOKENS_PER_WARP, PART_TILES, TILE_COLUMNS, WARPGROUP_WARPS,
};
use oximla_types::kernels::sparse_decode::{
    FEW_HEADS_CONVERTERS, FEW_HEADS_PLAN, FEW_HEADS_SCALE_BYTES, FEW_HEADS_STAGING, FEW_HEADS_TOKEN_BYTES,
    FEW_HEADS_WARP_TOKENS,
};
use oximla_types::launch::WARP_THREADS;

/// Bits of all tokens of a warp that converts.
const ALL: u32 = (1 << FEW_HEADS_WARP_TOKENS) - 1;

/// What a warp is told when there is no block any more.
const END: u32 = u32::MAX;

/// The place of a warp that converts.
#[derive(Clone, Copy)]
pub struct Staged {
    /// Address of the staging.
    staging: u32,
    /// Number of the warp among those that convert.
    warp: u32,
}

/// Initialises the barriers.
///
/// # Safety
/// One thread calls it, before anyone uses them.
#[inline(always)]
pub unsafe fn init_barriers() {
    let mut warp = 0;
    while warp < FEW_HEADS_CONVERTERS * WARPGROUP_WARPS {
        let staged = Staged { warp, ..Staged::first() };
        // SAFETY: the plan sets them aside.
        unsafe {
            staged.landed(0).barrier.init(1);
            staged.taken(0).barrier.init(1);
        }
        warp += 1;
    }
}

impl Staged {
    /// That of the first warp.
    #[inline(always)]
    fn first() -> Self {
        Self { staging: special::dynamic_shared() + FEW_HEADS_PLAN.staging, warp: 0 }
    }

    /// That of the warp of a converting warpgroup that has the number of the calling one: of the calling warp itself, or of one to which the
    /// calling warp brings tokens.
    #[inline(always)]
    pub fn of(thread: Thread, converter: u32) -> Self {
        Self { warp: converter * WARPGROUP_WARPS + thread.warp(), ..Self::first() }
    }

    /// Completes when the tokens of a block, counted by the CTA, have come.
    #[inline(always)]
    fn landed(self, block: u32) -> Phase {
        Phase::at(self.staging, FEW_HEADS_STAGING.landed + self.warp * BARRIER_BYTES, 1, block)
    }

    /// Completes when the tokens of a block have been taken.
    #[inline(always)]
    fn taken(self, block: u32) -> Phase {
        Phase::at(self.staging, FEW_HEADS_STAGING.taken + self.warp * BARRIER_BYTES, 1, block)
    }

    /// Where what the warp is told lies.
    #[inline(always)]
    fn told(self) -> u32 {
        self.staging + FEW_HEADS_STAGING.told + self.warp * size_of::<u32>() as u32
    }

    /// Where the row of a token lies.
    #[inline(always)]
    fn row(self, token: u32) -> u32 {
        let token = self.warp * FEW_HEADS_WARP_TOKENS + token;
        self.staging + FEW_HEADS_STAGING.tokens + token * FEW_HEADS_TOKEN_BYTES
    }

    /// Where the scales of a token lie that are not in its row.
    #[inline(always)]
    fn scales_of(self, token: u32) -> u32 {
        let token = self.warp * FEW_HEADS_WARP_TOKENS + token;
        self.staging + FEW_HEADS_STAGING.scales + token * FEW_HEADS_SCALE_BYTES
    }

    /// Brings the tokens of a block: of a pair's first or second one those that are the warpgroup's. Where there is no token another one is
    /// brought, for the warp that converts to forget.
    ///
    /// # Safety
    /// A whole warp that gathers calls it, block by block; rows are aligned to 16 bytes and may be read.
    #[inline(always)]
    pub unsafe fn bring<F: Format>(
        self,
        thread: Thread,
        block: u32,
        pair: &Tokens,
        half: u32,
        converter: u32,
    ) {
        let valid = pair.valid >> (half * BLOCK_TOKENS_PER_WARP) & ((1 << BLOCK_TOKENS_PER_WARP) - 1);
        let first = converter * FEW_HEADS_WARP_TOKENS;
        let holder = half * BLOCK_TOKENS_PER_WARP + first;
        let (landed, to) = (self.landed(block).barrier, self.row(0));
        // SAFETY: as the caller promises.
        unsafe {
            // The exchange takes longer than the copies, so before the wait.
            let mut rows = [0; FEW_HEADS_WARP_TOKENS as usize];
            let [low, high] = [pair.token.row as u32, (pair.token.row >> 32) as u32];
            unroll!(TOKEN in 8 => {
                let [low, high] = [low, high].map(|word| warp::shfl_idx(word, holder + TOKEN as u32));
                rows[TOKEN] = (high as u64) << 32 | low as u64;
            });
            self.taken(block).wait_for_last();
            if F::SCALE_PLANE {
                let token = thread.lane().wrapping_sub(holder);
                if token < FEW_HEADS_WARP_TOKENS {
                    copy::cp_async_8(self.scales_of(token), pair.token.scales, FEW_HEADS_SCALE_BYTES);
                    landed.expect_copies();
                }
                warp::warp_sync();
            }
            if thread.lane() == 0 {
                memory::st_shared_u32(self.told(), valid);
                landed.arrive_expecting(FEW_HEADS_WARP_TOKENS * F::RAW.row_bytes);
            }
            // Bytes that come before they are expected may complete the phase too early, where lanes' own copies are waited for as well.
            warp::warp_sync();
            copy::cp_async_bulk_8::<FEW_HEADS_TOKEN_BYTES>(to, rows, F::RAW.row_bytes, landed.address());
        }
    }

    /// Tells the warp that there is no block any more.
    ///
    /// # Safety
    /// As for [`Self::bring`], once, behind all blocks.
    #[inline(always)]
    pub unsafe fn end(self, thread: Thread, block: u32) {
        self.taken(block).wait_for_last();
        // SAFETY: as the caller promises.
        unsafe {
            if thread.lane() == 0 {
                memory::st_shared_u32(self.told(), END);
                self.landed(block).barrier.arrive();
            }
        }
    }

    /// Waits for the tokens of a block, and gives a mask of those that there are: of this warp's and of those of the same warp of the other
    /// warpgroup. Nothing at the end.
    ///
    /// # Safety
    /// The whole warp that converts calls it, block by block.
    #[inline(always)]
    pub unsafe fn wait(self, block: u32) -> Option<u32> {
        self.landed(block).wait();
        // SAFETY: as the caller promises; it is there.
        unsafe {
            let told = memory::ld_shared_u32(self.told());
            (warp::ballot(told == END) == 0).then_some(told)
        }
    }

    /// Lets the next tokens come.
    ///
    /// # Safety
    /// The whole warp calls it, when it has taken those of a block.
    #[inline(always)]
    pub unsafe fn release(self, thread: Thread, block: u32) {
        // SAFETY: as the caller promises.
        unsafe {
            warp::warp_sync();
            if thread.lane() == 0 {
                self.taken(block).barrier.arrive();
            }
        }
    }

    /// A lane's codes of a part, of its `i`-th token.
    ///
    /// # Safety
    /// They have come.
    #[inline(always)]
    pub unsafe fn codes<F: Format>(self, thread: Thread, share: Share, part: u32, i: usize) -> Chunk {
        let token = share.token(i) - thread.first_token::<F>();
        let column = part * PART_TILES * TILE_COLUMNS + share.chunk_of_row() * CHUNK_BYTES;
        // SAFETY: as the caller promises.
        unsafe { memory::ld_shared_u32x4(self.row(token) + column) }
    }

    /// A lane's RoPE elements: a chunk of each of two tokens.
    ///
    /// # Safety
    /// They have come.
    #[inline(always)]
    pub unsafe fn rope<F: Format>(self, thread: Thread) -> [Chunk; 2] {
        let [token, chunk] = rope_place(thread);
        let from = self.row(token) + F::RAW.rope_offset + chunk * CHUNK_BYTES;
        // SAFETY: as the caller promises.
        [0, ROPE_STEP].map(|step| unsafe { memory::ld_shared_u32x4(from + step * FEW_HEADS_TOKEN_BYTES) })
    }

    /// The scales of the lane's token, if the warp converts it.
    ///
    /// # Safety
    /// They have come.
    #[inline(always)]
    pub unsafe fn scales<F: Format>(self, thread: Thread) -> [u32; 4] {
        let token = thread.lane().wrapping_sub(thread.first_token::<F>());
        // Other lanes would only take the banks' time.
        if token >= FEW_HEADS_WARP_TOKENS {
            return [0; 4];
        }
        // SAFETY: as the caller promises.
        unsafe {
            if F::SCALE_PLANE {
                let [a, b] = memory::ld_shared_u32x2(self.scales_of(token));
                [a, b, 0, 0]
            } else {
                memory::ld_shared_u32x4(self.row(token) + F::RAW.scales_offset)
            }
        }
    }
}

/// From a lane's first token of which it has RoPE elements to the second one.
const ROPE_STEP: u32 = FEW_HEADS_WARP_TOKENS / 2;

/// Of which of the warp's tokens a lane has RoPE elements, and which chunk: eight lanes have a token's, so that they load from and store to
/// all banks at a time.
#[inline(always)]
fn rope_place(thread: Thread) -> [u32; 2] {
    const ROW_CHUNKS: u32 = WARP_THREADS / ROPE_STEP;
    [thread.lane() / ROW_CHUNKS, thread.lane() % ROW_CHUNKS]
}

/// Stores a lane's RoPE elements in the rows of the tile at `tile`.
///
/// # Safety
/// Nobody else uses the rows.
#[inline(always)]
pub unsafe fn store_rope<F: Format>(thread: Thread, rope: [Chunk; 2], tile: u32) {
    let [token, chunk] = rope_place(thread);
    unroll!(I in 2 => {
        let row = thread.key(thread.first_token::<F>() + token + I as u32 * ROPE_STEP);
        // SAFETY: as the caller promises.
        unsafe { memory::st_shared_u32x4(tile + TILE.chunk(row, chunk), rope[I]) };
    });
}

/// Whether there are not all of a warp's tokens, by the mask that [`Staged::wait`] gives.
#[inline(always)]
pub fn some_absent<F: Format>(thread: Thread, valid: u32) -> bool {
    valid >> thread.first_token::<F>() & ALL != ALL
}

/// Makes zeros of the RoPE elements and scales that a lane has taken of tokens that there are not.
#[inline(always)]
pub fn clear_absent<F: Format>(thread: Thread, valid: u32, rope: &mut [Chunk; 2], scales: &mut [u32; 4]) {
    let [token, _] = rope_place(thread);
    unroll!(I in 2 => {
        if valid >> (thread.first_token::<F>() + token + I as u32 * ROPE_STEP) & 1 == 0 {
            rope[I] = [0; 4];
        }
    });
    if valid >> thread.lane() & 1 == 0 {
        *scales = [0; 4];
    }
}
