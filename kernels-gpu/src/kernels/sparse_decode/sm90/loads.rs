//! The loads role: gathers tokens, converts them, and asks the copy engine for queries.

use super::super::Queries;
use super::codes::{Lane, Rows};
use super::convert::Converter;
use super::gather::{Blocks, LookedUp};
use super::scales::{RawScales, Scales};
use super::start::Start;
use super::{Format, Sparse};
use crate::attention::divide::divide;
use crate::attention::unroll;
use crate::kernels::decode::segments::Segments;
use crate::kernels::decode::sm90::keys::{BlockPlace, Phase};
use crate::kernels::decode::sm90::{Decode, TILE, WARPGROUP_WARPS, queries};
use crate::ptx::{copy, memory, special, warp};
use core::hint::cold_path;
use oximla_types::kernels::decode::{BLOCK_TOKENS_PER_WARP, PART_BYTES, THREADS, TILE_BYTES, VALUE_PARTS};
use oximla_types::kernels::few_heads;
use oximla_types::kernels::sparse_decode::{BLOCKS_OFFSET, PART_SLOTS, PLAN};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};

/// Runs the role where no cluster shares the keys; `segments` are the CTA's. With `WIDE`, the rows of all caches are aligned to 16 bytes, else to 8.
///
/// # Safety
/// All threads of the warpgroup call it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<F: Format, const WIDE: bool>(kernel: &Sparse<'_, F>, segments: Segments<'_, Queries<'_>>) {
    // SAFETY: the roles follow one protocol, told at the top of the kernel. Tokens lie within the caches.
    unsafe {
        let thread = Thread::this::<F>();
        let mut blocks = Blocks::<F, WIDE>::new(thread, segments);
        let lane = Lane::this::<F>(thread);
        let mut place = BlockPlace::<Sparse<F>>::first_in(thread.shared);
        // The first time around, there is no block yet, but the first one is asked for.
        let (mut start, mut rows) = (Start::NONE, Rows::none(kernel.params));
        let first = blocks.find(kernel);
        blocks.publish();
        let begins = first.start.uniform::<F, WIDE>();
        if begins.is_end() {
            return;
        }
        special::griddepcontrol_wait();
        // The indices are on their way while the copy engine is asked for queries.
        let mut next = blocks.ask_published(first);
        if !begins.is_empty() {
            place = load_queries(kernel, begins, place);
        }
        // Which lanes have looked up a token: a half of them those of each of two blocks.
        let mut rows_valid = 0;
        while !start.is_end() {
            // Copies are waited for in the order in which they were asked for: a block's scales, its codes part by part, its
            // RoPE elements, between those of the block before and of the next. Groups that may still be under way are those
            // behind what is waited for.
            let is_block = !start.is_empty();
            let thread = if F::UNIFORM { thread.anew() } else { thread };
            let mut raw_scales = RawScales::default();
            if is_block {
                copy::cp_async_wait_group::<4>();
                warp::warp_sync();
                place.probabilities_free().wait_for_last();
                let valid = start.of_warp(rows_valid);
                if thread.lane() == 0 {
                    memory::st_shared_u16(key_mask(thread, place), valid as u16);
                }
                let tile = if F::TAIL {
                    place.tail()
                } else {
                    place.part_free(F::WHOLE_PARTS).wait_for_last();
                    place.part(F::WHOLE_PARTS) + TILE_BYTES
                };
                raw_scales = RawScales::load::<F>(thread, start.half());
                rows.copy_rope::<F, WIDE>(thread, valid, tile, |token| thread.key(token));
            } else {
                // Nobody takes what was asked for, but it must not land on what comes next.
                copy::cp_async_wait_group::<0>();
            }
            warp::warp_sync();

            let (mut next_start, mut row) = (Start::SECOND, 0);
            if !start.is_of_two() {
                // The indices have come during the last blocks.
                LookedUp { start: next_start, row, valid: rows_valid } =
                    blocks.look_up(kernel, thread, &mut next);
            }
            let next_valid = next_start.of_warp(rows_valid);
            if !F::SCALE_PLANE {
                Scales::copy_of_rows::<F, WIDE>(thread, next_valid);
            }
            copy::cp_async_commit_group();
            rows = Rows::staged::<F>(thread);
            if !start.is_of_two() {
                Rows::stage(thread, row, 1);
            }

            // All parts in a row, not in a loop: a jump takes longer than to read on, and the copies' addresses differ by
            // constants, so that no register of one is written while an earlier copy has yet to read it.
            if is_block {
                copy::cp_async_wait_group::<5>();
                let converter = Converter::<F>::new(thread, lane, raw_scales);
                let rope_rows = || {
                    let tile = if F::TAIL { place.tail() } else { place.part(F::WHOLE_PARTS) + TILE_BYTES };
                    tile + TILE.row_offset(thread.key(0))
                };
                if !converter.is_any() {
                    const { assert!(PART_SLOTS.is_multiple_of(VALUE_PARTS), "a block's parts lie in a row") };
                    let mut taken = converter.take(0);
                    let parts = place.part(0);
                    unroll!(PART in 4 => {
                        const NUMBER: u32 = PART as u32;
                        place.part_free(NUMBER).wait_for_last();
                        // The next part's codes have come.
                        copy::cp_async_wait_group::<4>();
                        converter.convert(&mut taken, NUMBER, parts + NUMBER * PART_BYTES);
                        converter.take_scales(&mut taken, NUMBER + 1);
                        if NUMBER < F::WHOLE_PARTS {
                            arrive(thread, place.part_full(NUMBER));
                        }
                        rows.copy_codes::<F, WIDE>(thread, lane, next_valid, NUMBER);
                    });
                    copy::cp_async_wait_group::<5>();
                    converter.poison(&taken, rope_rows);
                } else {
                    cold_path();
                    // Of a number that ptxas does not know, so that it computes no addresses ahead for what is rare.
                    let mut next = 0;
                    while next < VALUE_PARTS {
                        let part = special::again(next);
                        place.part_free(part).wait_for_last();
                        copy::cp_async_wait_group::<4>();
                        converter.convert_any(part, place.part(part));
                        if part < F::WHOLE_PARTS {
                            arrive(thread, place.part_full(part));
                        }
                        rows.copy_codes::<F, WIDE>(thread, lane, next_valid, part);
                        next += 1;
                    }
                    copy::cp_async_wait_group::<5>();
                }
                if !F::TAIL {
                    arrive(thread, place.part_full(F::WHOLE_PARTS));
                }
                arrive(thread, place.tail_full());
                place = place.next();
            } else {
                let rows = rows.again();
                unroll!(PART in 4 => { rows.copy_codes::<F, WIDE>(thread, lane, next_valid, PART as u32); });
            }
            start = next_start;
            if start.is_segment() && !start.is_end() {
                blocks.publish();
                if !start.is_empty() {
                    place = load_queries(kernel, start, place);
                }
            }
        }
        blocks.publish();
        // What was asked for behind the last block must land before the CTA ends.
        copy::cp_async_wait_group::<0>();
    }
}

/// Asks for the queries of a segment that begins, for a place, and gives the one behind.
///
/// # Safety
/// The whole warp calls it, as all warps of the role do.
#[inline(always)]
pub unsafe fn load_queries<'a, F: Format>(
    kernel: &Sparse<'a, F>,
    start: Start,
    place: BlockPlace<Sparse<'a, F>>,
) -> BlockPlace<Sparse<'a, F>> {
    // Made anew, so that the loop need not keep what only this takes.
    let kernel = &kernel.again();
    let (batch, query) = divide(start.request(), &kernel.params.queries);
    // SAFETY: as the caller promises.
    unsafe { queries::load(kernel, kernel.q_map, place, query, batch) };
    place.next()
}

/// Address of the mask of the warp's keys of a block.
#[inline(always)]
pub fn key_mask<F: Format>(thread: Thread, place: BlockPlace<Sparse<F>>) -> u32 {
    place.key_mask() + BLOCK_TOKENS_PER_WARP / 8 * thread.warp()
}

/// The CTA's number in its cluster stands above the thread's in the CTA.
const RANK: u32 = 1 << 16;
const _: () = assert!(THREADS <= RANK);

/// A thread of the role. It is asked for a lot: kept in registers, but nothing that follows from it.
#[derive(Clone, Copy)]
pub struct Thread {
    /// Address of shared memory, or where it would begin for what the warps know of blocks to be where the plan of one loads warpgroup has it.
    pub shared: u32,
    thread: u32,
}

impl Thread {
    /// The calling one.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn this<F: Format>() -> Self {
        // Exchanged with itself, as ptxas would read the special register anew each time, which takes as long as all stores
        // before.
        // SAFETY: as the caller promises.
        let rank = if F::SHARES { special::cluster_rank() * RANK } else { 0 };
        let thread = unsafe { warp::shfl_bfly::<0>(special::thread_x() | rank) };
        let mut this = Self { shared: special::dynamic_shared(), thread };
        if F::FEW_HEADS {
            // What the warps that gather know lies elsewhere.
            let blocks = few_heads::PLAN.staging + few_heads::STAGING.blocks;
            this.shared = this.shared.wrapping_add(blocks.wrapping_sub(PLAN.staging + BLOCKS_OFFSET));
        }
        this
    }

    /// The same, of which ptxas does not know that, so that it does not compute all that follows from it before a loop and keep it in
    /// registers.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn anew(self) -> Self {
        // SAFETY: as the caller promises.
        Self { thread: unsafe { warp::shfl_bfly::<0>(self.thread) }, ..self }
    }

    /// Its number in the warpgroup.
    #[inline(always)]
    pub fn number(self) -> u32 {
        special::again(self.thread) % WARPGROUP_THREADS
    }

    /// Number of its warp in the warpgroup.
    #[inline(always)]
    pub fn warp(self) -> u32 {
        special::again(self.thread) / WARP_THREADS % WARPGROUP_WARPS
    }

    /// Its CTA's number in the cluster.
    #[inline(always)]
    pub fn rank(self) -> u32 {
        special::again(self.thread) / RANK
    }

    /// The first token that its warp converts, of the block's tokens that it knows.
    #[inline(always)]
    pub fn first_token<F: Format>(self) -> u32 {
        if F::SHARES { self.rank() * F::WARP_TOKENS } else { 0 }
    }

    /// The key of a block that is token number `token` of those that its warp knows.
    #[inline(always)]
    pub fn key(self, token: u32) -> u32 {
        self.warp() * BLOCK_TOKENS_PER_WARP + token
    }

    /// Whether its warp converts the token that a lane has looked up.
    #[inline(always)]
    pub fn converts<F: Format>(self, lane: u32) -> bool {
        !F::SHARES || lane / F::WARP_TOKENS % F::CTAS == self.rank()
    }

    /// Its number in the warp.
    #[inline(always)]
    pub fn lane(self) -> u32 {
        special::again(self.thread) % WARP_THREADS
    }

    /// Address of something in the staging.
    #[inline(always)]
    pub fn staging(self, offset: u32) -> u32 {
        special::again(self.shared) + PLAN.staging + offset
    }

    /// Address of its warp's piece of something in the staging.
    #[inline(always)]
    pub fn warp_staging(self, offset: u32, warp_bytes: u32) -> u32 {
        self.staging(offset) + self.warp() * warp_bytes
    }
}

/// Arrives, once for the warp, when all of it has stored what it has to.
///
/// # Safety
/// The whole warp calls it; the protocol expects it.
#[inline(always)]
pub unsafe fn arrive(thread: Thread, full: Phase) {
    // SAFETY: as the caller promises.
    unsafe {
        warp::warp_sync();
        if thread.lane() == 0 {
            full.barrier.arrive();
        }
    }
}
