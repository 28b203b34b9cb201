//! The loads role: gathers tokens, converts them, and asks the copy engine for queries.

use super::super::Queries;
use super::codes::{self, Rows, Scales};
use super::gather::{Blocks, Start};
use super::{Format, Sparse};
use crate::attention::divide::divide;
use crate::kernels::decode::segments::Segments;
use crate::kernels::decode::sm90::keys::{BlockPlace, Phase};
use crate::kernels::decode::sm90::{Decode, WARPGROUP_WARPS, queries};
use crate::ptx::{copy, memory, special, warp};
use oximla_types::kernels::decode::{PART_TILES, TILE_BYTES};
use oximla_types::kernels::sparse_decode::PLAN;
use oximla_types::launch::WARP_THREADS;

/// Runs the role; `segments` are the CTA's. With `WIDE`, the rows of all caches are aligned to 16 bytes, else to 8.
///
/// # Safety
/// All threads of the warpgroup call it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<F: Format, const WIDE: bool>(kernel: &Sparse<'_, F>, segments: Segments<'_, Queries<'_>>) {
    let (params, thread) = (kernel.params, Thread::this());
    // SAFETY: the roles follow one protocol, told at the top of the kernel. Tokens lie within the caches.
    unsafe {
        let mut blocks = Blocks::<F>::new(thread, segments);
        let mut place = BlockPlace::<Sparse<F>>::first_in(thread.shared);
        // The first time around, there is no block yet, but the first one is asked for.
        let (mut start, mut valid, mut rows) = (Start::NONE, 0, Rows::none(params));
        let mut next = blocks.next(kernel);
        while !start.is_end() {
            // Copies are waited for in the order in which they were asked for: a block's scales, its codes part by part,
            // its RoPE elements. Behind the scales there are four groups more, behind each of the others five.
            let is_block = !start.is_empty();
            let mut scales = Scales::default();
            if is_block {
                copy::cp_async_wait_group::<4>();
                warp::warp_sync();
                scales = Scales::take::<F>(thread);
                let tile = if F::TAIL {
                    place.probabilities_free().wait_for_last();
                    place.tail()
                } else {
                    place.part_free(F::WHOLE_PARTS).wait_for_last();
                    place.part(F::WHOLE_PARTS) + TILE_BYTES
                };
                rows.copy_rope::<F, WIDE>(thread, valid, tile);
            } else {
                // Nobody takes what was asked for, but it must not land on what comes next.
                copy::cp_async_wait_group::<0>();
            }
            warp::warp_sync();

            // The indices have come during the last block.
            let (token, next_valid) = next.token::<F>(params);
            Scales::copy::<F, WIDE>(thread, token, next_valid);
            rows = Rows::of(thread, token);
            let behind = blocks.next(kernel);

            // A loop, as all parts in a row would be more instructions than are cached.
            let mut part = 0;
            while part < F::WHOLE_PARTS {
                if is_block {
                    convert(part, PART_TILES, thread, valid, scales, place);
                    arrive(thread, place.part_full(part));
                }
                rows.copy_codes::<WIDE>(thread, part, PART_TILES);
                part += 1;
            }
            if !F::TAIL {
                if is_block {
                    convert(part, PART_TILES - 1, thread, valid, scales, place);
                }
                rows.copy_codes::<WIDE>(thread, part, PART_TILES - 1);
            }
            if is_block {
                copy::cp_async_wait_group::<5>();
                if !F::TAIL {
                    arrive(thread, place.part_full(part));
                    place.probabilities_free().wait_for_last();
                }
                if thread.lane() == 0 {
                    memory::st_shared_u16(place.key_mask() + 2 * thread.warp(), valid as u16);
                }
                arrive(thread, place.tail_full());
                place = place.next();
            }
            (start, valid, next) = (next.start, next_valid, behind);
            if start.is_segment() && !start.is_end() {
                blocks.publish();
                if !start.is_empty() {
                    // Made anew, so that the loop need not keep what only this takes.
                    let kernel = &kernel.again();
                    let (batch, query) = divide(start.request(), &kernel.params.queries);
                    queries::load(kernel, kernel.q_map, place, query, batch);
                    place = place.next();
                }
            }
        }
        blocks.publish();
        // What was asked for behind the last block must land before the CTA ends.
        copy::cp_async_wait_group::<0>();
    }
}

/// Converts a part of a block with so many tiles of codes, once they have come and there is room for it.
///
/// # Safety
/// The whole warp calls it, once for each part.
#[inline(always)]
unsafe fn convert<F: Format>(
    part: u32,
    tiles: u32,
    thread: Thread,
    valid: u32,
    scales: Scales,
    place: BlockPlace<Sparse<F>>,
) {
    // SAFETY: as the caller promises.
    unsafe {
        copy::cp_async_wait_group::<5>();
        place.part_free(part).wait_for_last();
        codes::convert::<F>(part, tiles, thread, valid, scales, place.part(part));
    }
}

/// A thread of the role. It is asked for a lot: kept in registers, but nothing that follows from it.
#[derive(Clone, Copy)]
pub struct Thread {
    shared: u32,
    thread: u32,
}

impl Thread {
    /// The calling one.
    #[inline(always)]
    fn this() -> Self {
        Self { shared: special::dynamic_shared(), thread: special::thread_x() }
    }

    /// Number of its warp in the warpgroup.
    #[inline(always)]
    pub fn warp(self) -> u32 {
        special::again(self.thread) / WARP_THREADS % WARPGROUP_WARPS
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
unsafe fn arrive(thread: Thread, full: Phase) {
    // SAFETY: as the caller promises.
    unsafe {
        warp::warp_sync();
        if thread.lane() == 0 {
            full.barrier.arrive();
        }
    }
}
