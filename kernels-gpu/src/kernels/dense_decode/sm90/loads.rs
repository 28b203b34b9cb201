//! The loads role: asks the copy engine for queries and keys, as far ahead as there is room, across requests.
//!
//! Each warp sees to its own share of each block, so that it seldom waits for room for another one's. The last warp finds
//! out which segments there are.

use super::super::DenseRequests;
use super::Dense;
use crate::attention::element::Element;
use crate::kernels::decode::segments::{Segment, Segments};
use crate::kernels::decode::sm90::keys::{BlockPlace, Phase};
use crate::kernels::decode::sm90::queue::{self, Reader};
use crate::kernels::decode::sm90::turns;
use crate::ptx::{copy, memory, special, warp};
use oximla_types::kernels::decode::{
    MAX_CLUSTER, PART_TILES, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS,
};
use oximla_types::kernels::dense_decode::DenseDecodeParams;
use oximla_types::launch::WARP_THREADS;

/// A page that no cache has; the copy engine delivers zeros for it.
const NO_PAGE: u32 = u32::MAX;

/// Runs the role; `segments` are the CTA's.
///
/// # Safety
/// All threads of the warpgroup call it, `thread` being the number in the warpgroup, after the barriers are
/// initialised.
#[inline(always)]
pub unsafe fn run<E: Element, const TAIL: bool, const FUSED: bool>(
    kernel: &Dense<E, TAIL, FUSED>,
    segments: Segments<DenseRequests>,
    thread: u32,
) {
    let lane = thread % WARP_THREADS;
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        match thread / WARP_THREADS {
            0 => load_all(kernel, lane, Parts::<0>),
            1 => load_all(kernel, lane, Parts::<1>),
            2 => load_all(kernel, lane, Tail),
            _ => queue::write_all::<Dense<E, TAIL, FUSED>>(segments, lane),
        }
    }
}

/// Loads what `share` says of each segment's queries and keys.
#[inline(always)]
unsafe fn load_all<E: Element, const TAIL: bool, const FUSED: bool>(
    kernel: &Dense<E, TAIL, FUSED>,
    lane: u32,
    share: impl Share<E, TAIL, FUSED>,
) {
    // SAFETY: blocks of a segment lie within the page table.
    unsafe {
        let mut place = BlockPlace::<Dense<E, TAIL, FUSED>>::first();
        let mut segments = Reader::<Dense<E, TAIL, FUSED>>::new();
        while let Some(segment) = segments.next() {
            share.queries(kernel, segments.number(), &segment, lane);
            if segment.blocks.is_empty() {
                continue;
            }
            let mut block = segment.blocks.begin;
            // Each lane has the page of another block.
            let mut pages = lane_pages(
                kernel.params,
                segment.request,
                block - block % WARP_THREADS,
                segment.blocks.end,
                lane,
            );
            while block < segment.blocks.end {
                let page = warp::shfl_idx(pages, block % WARP_THREADS);
                share.keys(kernel, place, page, lane);
                place = place.next();
                block += 1;
                if block.is_multiple_of(WARP_THREADS) {
                    pages = lane_pages(kernel.params, segment.request, block, segment.blocks.end, lane);
                }
            }
        }
    }
}

/// The page of the block `lane` blocks after `first`, if that is before `end`.
///
/// # Safety
/// Blocks before `end` lie within the page table.
#[inline(always)]
unsafe fn lane_pages(params: &DenseDecodeParams, request: u32, first: u32, end: u32, lane: u32) -> u32 {
    if first + lane < end {
        // SAFETY: as the caller promises.
        unsafe { page_of(params, request, first + lane) }
    } else {
        NO_PAGE
    }
}

/// A warp's share of what there is to load.
trait Share<E: Element, const TAIL: bool, const FUSED: bool>: Copy {
    /// Asks for the queries of a segment, the CTA's number `number`, as soon as those before are used up.
    ///
    /// # Safety
    /// The whole warp calls it, once for each segment, in order.
    #[inline(always)]
    unsafe fn queries(self, _: &Dense<E, TAIL, FUSED>, _number: u32, _: &Segment, _lane: u32) {}

    /// Asks for its tiles of a page, as soon as there is room for them.
    ///
    /// # Safety
    /// The whole warp calls it, once for each place, in order.
    unsafe fn keys(
        self,
        kernel: &Dense<E, TAIL, FUSED>,
        place: BlockPlace<Dense<E, TAIL, FUSED>>,
        page: u32,
        lane: u32,
    );
}

/// The parts whose slots have numbers of `PARITY`: not every other part of a place, where the number of slots is odd. Who waits
/// for a slot to be free must be the one who filled it last, as a phase is told from the one before it, but not from others.
#[derive(Clone, Copy)]
struct Parts<const PARITY: u32>;

/// Queries, the tails, if there are any, and word of the pages.
#[derive(Clone, Copy)]
struct Tail;

impl<E: Element, const TAIL: bool, const FUSED: bool, const PARITY: u32> Share<E, TAIL, FUSED>
    for Parts<PARITY>
{
    #[inline(always)]
    unsafe fn keys(
        self,
        kernel: &Dense<E, TAIL, FUSED>,
        place: BlockPlace<Dense<E, TAIL, FUSED>>,
        page: u32,
        lane: u32,
    ) {
        let mut part = 0;
        while part < VALUE_PARTS {
            if place.part_slot(part) % 2 == PARITY {
                // SAFETY: what lay in the place is used up.
                unsafe {
                    place.part_free(part).wait_for_last();
                    let (address, full) = (place.part(part), place.part_full(part));
                    load_keys(kernel, page, address, full, part * PART_TILES, PART_TILES, lane);
                }
            }
            part += 1;
        }
    }
}

impl<E: Element, const TAIL: bool, const FUSED: bool> Share<E, TAIL, FUSED> for Tail {
    #[inline(always)]
    unsafe fn queries(self, kernel: &Dense<E, TAIL, FUSED>, number: u32, segment: &Segment, lane: u32) {
        // Made anew, so that the loop need not keep what only this takes.
        // SAFETY: as the caller promises.
        unsafe {
            let kernel = Dense::<E, TAIL, FUSED>::new(kernel.params, kernel.maps);
            let at = [kernel.cta.tile.first_token, segment.request];
            turns::load_queries(&kernel, kernel.maps.q, number, segment.blocks.is_empty(), at, lane);
        }
    }

    #[inline(always)]
    unsafe fn keys(
        self,
        kernel: &Dense<E, TAIL, FUSED>,
        place: BlockPlace<Dense<E, TAIL, FUSED>>,
        page: u32,
        lane: u32,
    ) {
        // SAFETY: what lay in the place is used up.
        unsafe {
            place.probabilities_free().wait_for_last();
            if lane == 0 {
                memory::st_shared_u32(place.key_mask(), (page != NO_PAGE) as u32);
            }
            if TAIL {
                load_keys(kernel, page, place.tail(), place.tail_full(), TAIL_TILE, 1, lane);
            } else if lane == 0 {
                place.tail_full().barrier.arrive();
            }
        }
    }
}

/// Asks for `tiles` tiles of a page from `first_tile` on: each CTA of the cluster for some, which go to all of them.
///
/// # Safety
/// There is room for them at `address` in each CTA, and nobody reads the old contents any more.
#[inline(always)]
unsafe fn load_keys<E: Element, const TAIL: bool, const FUSED: bool>(
    kernel: &Dense<E, TAIL, FUSED>,
    page: u32,
    address: u32,
    full: Phase,
    first_tile: u32,
    tiles: u32,
    lane: u32,
) {
    let (cluster, rank) = if FUSED { (1, 0) } else { (special::cluster_ctas(), special::cluster_rank()) };
    // Where the cluster has all tiles of rows, nobody else reads these keys.
    let policy = if cluster == kernel.cta.params.row_tiles {
        copy::createpolicy_evict_first()
    } else {
        copy::createpolicy_evict_normal()
    };
    let map = kernel.maps.kv;
    let of_tile = |tile: u32| {
        let column = ((first_tile + tile) * TILE_COLUMNS) as i32;
        (address + tile * TILE_BYTES, [column, 0, kernel.cta.kv_head as i32, page as i32])
    };
    // SAFETY: as the caller promises.
    unsafe {
        let barrier = full.barrier.address();
        if lane == 0 {
            full.barrier.arrive_expecting(tiles * TILE_BYTES);
        }
        if cluster == 1 {
            if lane < tiles {
                let (address, coordinates) = of_tile(lane);
                copy::cp_async_bulk_tensor_4d(address, map, coordinates, barrier, policy);
            }
        } else if rank < tiles {
            const { assert!(PART_TILES == MAX_CLUSTER) };
            let (address, coordinates) = of_tile(rank);
            let all = (1 << MAX_CLUSTER) - 1;
            copy::cp_async_bulk_tensor_4d_multicast(address, map, coordinates, barrier, all, policy);
        }
    }
}

/// Page of a request's block, or [`NO_PAGE`] where the table names none of the cache's.
///
/// # Safety
/// The page table is readable as the parameters say; `block` lies within its row.
#[inline(always)]
unsafe fn page_of(params: &DenseDecodeParams, request: u32, block: u32) -> u32 {
    let entry = request as i64 * params.block_table_stride + block as i64;
    // SAFETY: as the caller promises.
    let page = unsafe { memory::ld_global_u32(params.block_table.wrapping_add((entry * 4) as u64)) };
    if page < params.num_pages { page } else { NO_PAGE }
}
