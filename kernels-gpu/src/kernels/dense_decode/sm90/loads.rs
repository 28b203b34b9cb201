//! The loads role: asks the copy engine for queries and keys, as far ahead as there is room, across requests.
//!
//! Each warp sees to its own share of each block, so that it seldom waits for room for another one's. The last warp finds
//! out which segments there are.

use super::super::segments::Segments;
use super::Cta;
use super::keys::{self, BlockPlace, NO_PAGE, Phase};
use super::queue::{self, Reader};
use crate::ptx::{copy, memory, warp};
use oximla_types::kernels::dense_decode::{PART_TILES, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS};
use oximla_types::launch::WARP_THREADS;

/// Runs the role; `segments` are the CTA's.
///
/// # Safety
/// All threads of the warpgroup call it, `thread` being the number in the warpgroup, after the barriers are
/// initialised.
#[inline(always)]
pub unsafe fn run(cta: &Cta, segments: Segments, thread: u32) {
    let lane = thread % WARP_THREADS;
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        match thread / WARP_THREADS {
            0 => load_all(cta, lane, Parts::<0>),
            1 => load_all(cta, lane, Parts::<1>),
            2 => load_all(cta, lane, Tail),
            _ => queue::write(segments, lane),
        }
    }
}

/// Loads what `share` says of each segment's queries and keys.
#[inline(always)]
unsafe fn load_all(cta: &Cta, lane: u32, share: impl Share) {
    // SAFETY: blocks of a segment lie within the page table.
    unsafe {
        let mut place = BlockPlace::first();
        let mut segments = Reader::new();
        while let Some(segment) = segments.next() {
            if segment.blocks.is_empty() {
                continue;
            }
            share.load(cta, place, Source::Queries { request: segment.request }, lane);
            place = place.next();
            let mut block = segment.blocks.begin;
            // Each lane fetches the page of another block.
            let mut pages = NO_PAGE;
            while block < segment.blocks.end {
                let ahead = (block - segment.blocks.begin) % WARP_THREADS;
                if ahead == 0 && block + lane < segment.blocks.end {
                    pages = keys::page_of(cta.params, segment.request, block + lane);
                }
                share.load(cta, place, Source::Keys { page: warp::shfl_idx(pages, ahead) }, lane);
                place = place.next();
                block += 1;
            }
        }
    }
}

/// What comes to a place.
#[derive(Clone, Copy)]
enum Source {
    /// The tile's query rows of a request.
    Queries { request: u32 },
    /// The keys of a page.
    Keys { page: u32 },
}

/// A warp's share of what there is to load.
trait Share: Copy {
    /// Asks for its tiles, as soon as there is room for them.
    ///
    /// # Safety
    /// The whole warp calls it, once for each place, in order.
    unsafe fn load(self, cta: &Cta, place: BlockPlace, source: Source, lane: u32);
}

/// Every other part from `FIRST` on.
#[derive(Clone, Copy)]
struct Parts<const FIRST: u32>;

/// The tails.
#[derive(Clone, Copy)]
struct Tail;

impl<const FIRST: u32> Share for Parts<FIRST> {
    #[inline(always)]
    unsafe fn load(self, cta: &Cta, place: BlockPlace, source: Source, lane: u32) {
        let mut part = FIRST;
        while part < VALUE_PARTS {
            // SAFETY: what lay in the place is used up.
            unsafe {
                place.part_free(part).wait_for_last();
                load(cta, source, place.part(part), place.part_full(part), part * PART_TILES, PART_TILES, lane);
            }
            part += 2;
        }
    }
}

impl Share for Tail {
    #[inline(always)]
    unsafe fn load(self, cta: &Cta, place: BlockPlace, source: Source, lane: u32) {
        // SAFETY: what lay in the place is used up.
        unsafe {
            place.probabilities_free().wait_for_last();
            if let Source::Keys { page } = source
                && lane == 0
            {
                memory::st_shared_u32(place.is_present(), (page != NO_PAGE) as u32);
            }
            load(cta, source, place.tail(), place.tail_full(), TAIL_TILE, 1, lane);
        }
    }
}

/// Asks for `tiles` tiles from `first_tile` on. Queries are this CTA's own; of keys each CTA of the cluster asks for some
/// tiles, which go to all of them.
///
/// # Safety
/// There is room for them at `address`, of keys in each CTA, and nobody reads the old contents any more.
#[inline(always)]
unsafe fn load(
    cta: &Cta,
    source: Source,
    address: u32,
    full: Phase,
    first_tile: u32,
    tiles: u32,
    lane: u32,
) {
    let column = ((first_tile + lane) * TILE_COLUMNS) as i32;
    let (address, barrier) = (address + lane * TILE_BYTES, full.barrier.address());
    // SAFETY: as the caller promises; a box is one tile, of the rows there are.
    unsafe {
        match source {
            Source::Queries { request } => {
                // Made anew, so that the loop need not keep what only this takes.
                let cta = &Cta::new(cta.params, cta.maps);
                if lane == 0 {
                    full.barrier.arrive_expecting(tiles * cta.tile.rows() * TILE_COLUMNS * 2);
                }
                if lane < tiles {
                    let head = cta.kv_head * cta.tile.group + cta.tile.first_head;
                    let coordinates = [column, head as i32, cta.tile.first_token as i32, request as i32];
                    copy::cp_async_bulk_tensor_4d(address, cta.maps.q, coordinates, barrier);
                }
            }
            Source::Keys { page } => {
                if lane == 0 {
                    full.barrier.arrive_expecting(tiles * TILE_BYTES);
                }
                if lane < tiles && lane & (cta.cluster - 1) == cta.cluster_rank {
                    let coordinates = [column, 0, cta.kv_head as i32, page as i32];
                    if cta.cluster == 1 {
                        copy::cp_async_bulk_tensor_4d(address, cta.maps.kv, coordinates, barrier);
                    } else {
                        let all = (1 << cta.cluster) - 1;
                        copy::cp_async_bulk_tensor_4d_multicast(
                            address,
                            cta.maps.kv,
                            coordinates,
                            barrier,
                            all,
                        );
                    }
                }
            }
        }
    }
}
