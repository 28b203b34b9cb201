//! The loads role: asks the copy engine for the key tiles, as far ahead as there is room, across requests.
//!
//! Each warp asks for its own part of each block, so that none waits for room for another one's.

use super::Cta;
use super::keys::{self, BlockPlace, NO_PAGE, Phase};
use crate::ptx::{copy, memory, warp};
use oximla_types::kernels::dense_decode::{PART_TILES, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};

/// Runs the role.
///
/// # Safety
/// All threads of the warpgroup call it, `thread` being the number in the warpgroup, after the barriers are
/// initialised.
#[inline(always)]
pub unsafe fn run(cta: &Cta, thread: u32) {
    const { assert!(WARPGROUP_THREADS / WARP_THREADS == VALUE_PARTS, "a warp for each part") };
    let (warp, lane) = (thread / WARP_THREADS, thread % WARP_THREADS);
    // SAFETY: the roles follow one protocol, told at the top of the kernel; blocks of a segment lie within the page
    // table.
    unsafe {
        let mut place = BlockPlace::first();
        let mut segments = cta.segments(lane);
        while let Some(segment) = segments.next() {
            let mut block = segment.blocks.begin;
            // Each lane fetches the page of another block.
            let mut pages = NO_PAGE;
            while block < segment.blocks.end {
                let ahead = (block - segment.blocks.begin) % WARP_THREADS;
                if ahead == 0 && block + lane < segment.blocks.end {
                    pages = keys::page_of(cta.params, segment.request, block + lane);
                }
                load_part(cta, place, warp, warp::shfl_idx(pages, ahead), lane);
                place = place.next();
                block += 1;
            }
        }
    }
}

/// Asks for one part of a page, and with the first part for the tail, each as soon as there is room for it.
///
/// # Safety
/// Once for each place, in order.
#[inline(always)]
unsafe fn load_part(cta: &Cta, place: BlockPlace, part: u32, page: u32, lane: u32) {
    // SAFETY: what lay in each place is used up.
    unsafe {
        place.part_free(part).wait_for_last();
        load(cta, place.part(part), place.part_full(part), part * PART_TILES, PART_TILES, page, lane);
        if part == 0 {
            place.probabilities_free().wait_for_last();
            if lane == 0 {
                memory::st_shared_u32(place.is_present(), (page != NO_PAGE) as u32);
            }
            load(cta, place.tail(), place.tail_full(), TAIL_TILE, 1, page, lane);
        }
    }
}

/// Asks for `tiles` tiles of a page from `first_tile` on, or for this CTA's share of them: each goes to all CTAs of the
/// cluster.
///
/// # Safety
/// There is room for them at `address` in each CTA, and nobody reads the old contents any more.
#[inline(always)]
unsafe fn load(cta: &Cta, address: u32, full: Phase, first_tile: u32, tiles: u32, page: u32, lane: u32) {
    // SAFETY: as the caller promises; a box is one tile.
    unsafe {
        if lane == 0 {
            full.barrier.arrive_expecting(tiles * TILE_BYTES);
        }
        if lane < tiles && lane & (cta.cluster - 1) == cta.cluster_rank {
            let column = ((first_tile + lane) * TILE_COLUMNS) as i32;
            let coordinates = [column, 0, cta.kv_head as i32, page as i32];
            let (address, barrier) = (address + lane * TILE_BYTES, full.barrier.address());
            if cta.cluster == 1 {
                copy::cp_async_bulk_tensor_4d(address, cta.kv_map, coordinates, barrier);
            } else {
                let all = (1 << cta.cluster) - 1;
                copy::cp_async_bulk_tensor_4d_multicast(address, cta.kv_map, coordinates, barrier, all);
            }
        }
    }
}
