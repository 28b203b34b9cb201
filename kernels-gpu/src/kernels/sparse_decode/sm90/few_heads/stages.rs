//! Blocks of tokens on their way from the cache to the warps that attend, and the role that gathers them.
//!
//! The copy engine brings a row as it lies in the cache. Asked for by lanes in pieces of 128 bytes, half of which begin in the middle of a
//! sector, the 656 bytes of V3.2 would take 32 sectors of the level-2 cache, as counted; so they take 24.

use super::super::gather::{Blocks, Tokens};
use super::super::loads::Thread;
use super::super::{Format, Queries, Sparse};
use crate::attention::unroll;
use crate::kernels::decode::segments::Segments;
use crate::kernels::decode::sm90::Decode;
use crate::kernels::decode::sm90::keys::Phase;
use crate::ptx::{copy, fence, memory, special, warp};
use core::hint::cold_path;
use oximla_types::kernels::decode::{
    BLOCK_TOKENS_PER_WARP, FEW_HEADS, HEAD_DIM_V, TILE_COLUMNS, WARPGROUP_WARPS,
};
use oximla_types::kernels::few_heads::{PLAN, ROW_ADDRESS_BYTES, SCALE_BYTES, STAGES, STAGING, TOKEN_BYTES};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::schedule::BLOCK_KEYS;

/// Bits of all tokens of a warp that gathers.
const ALL: u32 = (1 << BLOCK_TOKENS_PER_WARP) - 1;

/// Bytes that a lane copies at a time where tokens are missing.
const CHUNK_BYTES: u32 = 16;

/// All rows are aligned to 16 bytes.
const WIDE: bool = true;

/// Where a block's tokens come to.
#[derive(Clone, Copy)]
pub struct Stage {
    /// Address of the staging.
    staging: u32,
    /// Number of the block, counted by the CTA.
    block: u32,
}

/// The stages to which lanes have copied tokens themselves, a bit each.
struct StagesCopied(u32);

impl StagesCopied {
    /// Takes note that they have for a block.
    #[inline(always)]
    fn put(&mut self, block: u32) {
        self.0 |= 1 << (block % STAGES);
    }

    /// Whether they have for the block that was there before this one.
    #[inline(always)]
    fn take(&mut self, block: u32) -> bool {
        let bit = 1 << (block % STAGES);
        let was = self.0 & bit != 0;
        self.0 &= !bit;
        was
    }
}

/// Initialises the barriers.
///
/// # Safety
/// One thread calls it, before anyone uses them.
#[inline(always)]
pub unsafe fn init_barriers() {
    let mut block = 0;
    while block < STAGES {
        let stage = Stage::of(block);
        // SAFETY: the plan sets them aside.
        unsafe {
            stage.landed().barrier.init(WARPGROUP_WARPS);
            stage.taken().barrier.init(WARPGROUP_WARPS);
        }
        block += 1;
    }
}

impl Stage {
    /// That of a block, counted by the CTA.
    #[inline(always)]
    pub fn of(block: u32) -> Self {
        Self { staging: special::dynamic_shared() + PLAN.staging, block }
    }

    /// Completes when its tokens have come.
    #[inline(always)]
    pub fn landed(self) -> Phase {
        Phase::at(self.staging, STAGING.landed, STAGES, self.block)
    }

    /// Completes when they are used up.
    #[inline(always)]
    pub fn taken(self) -> Phase {
        Phase::at(self.staging, STAGING.taken, STAGES, self.block)
    }

    /// Number of a slot among those of all stages.
    #[inline(always)]
    fn number(self, slot: u32) -> u32 {
        self.block % STAGES * BLOCK_KEYS + slot
    }

    /// Where the row of a token lies.
    #[inline(always)]
    pub fn row(self, slot: u32) -> u32 {
        self.staging + STAGING.tokens + self.number(slot) * TOKEN_BYTES
    }

    /// Where the scales of a token lie that are not in its row.
    #[inline(always)]
    pub fn scales(self, slot: u32) -> u32 {
        self.staging + STAGING.scales + self.number(slot) * SCALE_BYTES
    }

    /// Where it stands which tokens there are of those that a warp gathers, a bit each.
    #[inline(always)]
    pub fn present(self, warp: u32) -> u32 {
        self.staging + STAGING.present + (self.block % STAGES * WARPGROUP_WARPS + warp) * 4
    }

    /// Brings the warp's tokens: of a pair's first or second block.
    ///
    /// # Safety
    /// A whole warp that gathers calls it, block by block; rows are aligned to 16 bytes and may be read.
    #[inline(always)]
    unsafe fn bring<F: Format>(self, thread: Thread, pair: &Tokens, half: u32, copied: &mut StagesCopied) {
        let valid = pair.valid >> (half * BLOCK_TOKENS_PER_WARP) & ALL;
        let holder = half * BLOCK_TOKENS_PER_WARP;
        let first = thread.warp() * BLOCK_TOKENS_PER_WARP;
        let landed = self.landed().barrier;
        let [low, high] = [pair.token.row as u32, (pair.token.row >> 32) as u32];
        // SAFETY: as the caller promises.
        unsafe {
            // By way of shared memory: what comes from one lane ptxas would move to uniform registers, back, and there again for the copies.
            let staged = self.staging + STAGING.rows + first * ROW_ADDRESS_BYTES;
            let token = thread.lane().wrapping_sub(holder);
            warp::warp_sync();
            if token < BLOCK_TOKENS_PER_WARP {
                memory::st_shared_u64(staged + token * ROW_ADDRESS_BYTES, pair.token.row);
            }
            warp::warp_sync();
            let mut rows = [0; BLOCK_TOKENS_PER_WARP as usize];
            unroll!(TWO in 8 => {
                let [a, b, c, d] = memory::ld_shared_u32x4(staged + 2 * TWO as u32 * ROW_ADDRESS_BYTES);
                rows[2 * TWO] = (b as u64) << 32 | a as u64;
                rows[2 * TWO + 1] = (d as u64) << 32 | c as u64;
            });
            self.taken().wait_for_last();
            if F::SCALE_PLANE {
                if token < BLOCK_TOKENS_PER_WARP {
                    let bytes = if valid >> token & 1 != 0 { SCALE_BYTES } else { 0 };
                    copy::cp_async_8(self.scales(first + token), pair.token.scales, bytes);
                    landed.expect_copies();
                }
            }
            if copied.take(self.block) {
                cold_path();
                // What lanes have copied the copy engine may overwrite.
                fence::fence_proxy_async_shared();
            }
            if valid != ALL {
                cold_path();
                copied.put(self.block);
                self.bring_some::<F>(thread, first, valid, [low, high], holder);
                return;
            }
            // Bytes that come before they are expected may complete the phase too early, where lanes' own copies are waited for as well.
            warp::warp_sync();
            if thread.lane() == 0 {
                memory::st_shared_u32(self.present(thread.warp()), valid);
                landed.arrive_expecting(BLOCK_TOKENS_PER_WARP * F::RAW.row_bytes);
            }
            warp::warp_sync();
            unroll!(EIGHT in 2 => {
                const FIRST: usize = 8 * EIGHT;
                let rows = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| rows[FIRST + i]);
                let to = self.row(first + FIRST as u32);
                copy::cp_async_bulk_8::<TOKEN_BYTES>(to, rows, F::RAW.row_bytes, landed.address());
            });
        }
    }

    /// Brings the warp's tokens of which some are missing: zeros in their stead. The lanes copy them, as a list ends here.
    ///
    /// # Safety
    /// As for [`Self::bring`], when the stage is free.
    #[inline(always)]
    unsafe fn bring_some<F: Format>(
        self,
        thread: Thread,
        first: u32,
        valid: u32,
        row: [u32; 2],
        holder: u32,
    ) {
        let (landed, chunks) = (self.landed().barrier, F::RAW.row_bytes / CHUNK_BYTES);
        // SAFETY: as the caller promises.
        unsafe {
            let mut token = 0;
            while token < BLOCK_TOKENS_PER_WARP {
                let [low, high] = row.map(|word| warp::shfl_idx(word, holder + token));
                let (from, to) = ((high as u64) << 32 | low as u64, self.row(first + token));
                let bytes = if valid >> token & 1 != 0 { CHUNK_BYTES } else { 0 };
                let mut chunk = thread.lane();
                while chunk < chunks {
                    let offset = chunk * CHUNK_BYTES;
                    copy::cp_async_16(to + offset, from + offset as u64, bytes);
                    chunk += WARP_THREADS;
                }
                warp::warp_sync();
                token += 1;
            }
            landed.expect_copies();
            warp::warp_sync();
            if thread.lane() == 0 {
                memory::st_shared_u32(self.present(thread.warp()), valid);
                landed.arrive();
            }
        }
    }

    /// Lets the next tokens come here.
    ///
    /// # Safety
    /// The whole warp that attends calls it, once it has multiplied the block.
    #[inline(always)]
    pub unsafe fn release(self, lane: u32) {
        // SAFETY: as the caller promises.
        unsafe {
            warp::warp_sync();
            if lane == 0 {
                self.taken().barrier.arrive();
            }
        }
    }
}

/// Runs the role that gathers: brings the tokens of all blocks, and queues the segments.
///
/// # Safety
/// All threads of the warpgroup call it, after the barriers are initialised; `segments` are the CTA's.
#[inline(always)]
pub unsafe fn gather<F: Format>(kernel: &Sparse<'_, F>, segments: Segments<'_, Queries<'_>>) {
    // SAFETY: the roles follow one protocol, told at the top of the kernel. Tokens lie within the caches.
    unsafe {
        let thread = Thread::this::<F>();
        let mut blocks = Blocks::<F, WIDE>::new(thread, segments);
        let (mut block, mut copied) = (0, StagesCopied(0));
        let first = blocks.find(kernel);
        blocks.publish();
        if first.start.uniform::<F, WIDE>().is_end() {
            return;
        }
        // What kernels before still write to memory gets to the level-2 cache as well.
        blocks.prefetch(&first);
        prefetch_queries(kernel, thread, first.start.request());
        special::griddepcontrol_wait();
        let mut next = blocks.ask_published(first);
        loop {
            let pair = blocks.look_up_tokens(kernel, thread, &mut next);
            if pair.start.is_end() {
                break;
            }
            if !pair.start.is_empty() {
                Stage::of(block).bring::<F>(thread, &pair, 0, &mut copied);
                block += 1;
            }
            // Tokens are asked for first, as the queue may be full.
            if pair.start.is_segment() {
                if !pair.start.is_empty() {
                    prefetch_queries(kernel, thread, pair.start.request());
                }
                blocks.publish();
            }
            if pair.start.is_of_two() {
                Stage::of(block).bring::<F>(thread, &pair, 1, &mut copied);
                block += 1;
            }
        }
        blocks.publish();
    }
}

/// Brings a request's queries to the level-2 cache, as those who attend ask for them when they are done with the segment before.
///
/// # Safety
/// The request is one of the kernel's, whose queries are a live tensor.
#[inline(always)]
unsafe fn prefetch_queries<F: Format>(kernel: &Sparse<'_, F>, thread: Thread, request: u32) {
    let head_lines = (HEAD_DIM_V + if F::TAIL { TILE_COLUMNS } else { 0 }) * 2 / LINE_BYTES;
    let mut line = thread.number();
    while line < FEW_HEADS * head_lines {
        let head = line / head_lines;
        if kernel.cta().tile.has(head) {
            let row = kernel.query_row(request, head);
            // SAFETY: as the caller promises.
            unsafe { copy::prefetch_l2(row.wrapping_add((line % head_lines * LINE_BYTES) as u64)) };
        }
        line += WARPGROUP_THREADS;
    }
}

/// Bytes of a line of the level-2 cache.
const LINE_BYTES: u32 = 128;
