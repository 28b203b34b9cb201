//! The loads role: asks the copy engine for queries and keys, as far ahead as there is room, across requests.
//!
//! Each warp sees to its own share of each block, so that it seldom waits for room for another one's. The last warp finds
//! out which segments there are.

use super::super::DenseRequests;
use super::Dense;
use crate::attention::element::Element;
use crate::kernels::decode::segments::Segments;
use crate::kernels::decode::sm90::keys::{BlockPlace, Phase};
use crate::kernels::decode::sm90::queue::{self, Reader};
use crate::ptx::{copy, memory, special, warp};
use oximla_types::kernels::decode::{PART_TILES, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS};
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
pub unsafe fn run<E: Element, const TAIL: bool>(
    kernel: &Dense<E, TAIL>,
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
            _ => queue::write_all::<Dense<E, TAIL>>(segments, lane),
        }
    }
}

/// Loads what `share` says of each segment's queries and keys.
#[inline(always)]
unsafe fn load_all<E: Element, const TAIL: bool>(
    kernel: &Dense<E, TAIL>,
    lane: u32,
    share: impl Share<E, TAIL>,
) {
    // SAFETY: blocks of a segment lie within the page table.
    unsafe {
        let mut place = BlockPlace::<Dense<E, TAIL>>::first();
        let mut segments = Reader::<Dense<E, TAIL>>::new();
        while let Some(segment) = segments.next() {
            if segment.blocks.is_empty() {
                continue;
            }
            share.load(kernel, place, Source::Queries { request: segment.request }, lane);
            place = place.next();
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
                share.load(kernel, place, Source::Keys { page }, lane);
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

/// What comes to a place.
#[derive(Clone, Copy)]
enum Source {
    /// The tile's query rows of a request.
    Queries { request: u32 },
    /// The keys of a page.
    Keys { page: u32 },
}

/// A warp's share of what there is to load.
trait Share<E: Element, const TAIL: bool>: Copy {
    /// Asks for its tiles, as soon as there is room for them.
    ///
    /// # Safety
    /// The whole warp calls it, once for each place, in order.
    unsafe fn load(
        self,
        kernel: &Dense<E, TAIL>,
        place: BlockPlace<Dense<E, TAIL>>,
        source: Source,
        lane: u32,
    );
}

/// The parts whose slots are even (0) or odd (1). By slots, not by parts: who waits for a slot to be free must be the one who
/// filled it last, as a phase is told from the one before it, but not from others.
#[derive(Clone, Copy)]
struct Parts<const PARITY: u32>;

/// The tails, if there are any, and word of the pages.
#[derive(Clone, Copy)]
struct Tail;

impl<E: Element, const TAIL: bool, const PARITY: u32> Share<E, TAIL> for Parts<PARITY> {
    #[inline(always)]
    unsafe fn load(
        self,
        kernel: &Dense<E, TAIL>,
        place: BlockPlace<Dense<E, TAIL>>,
        source: Source,
        lane: u32,
    ) {
        let mut part = 0;
        while part < VALUE_PARTS {
            if place.part_slot(part) % 2 == PARITY {
                // SAFETY: what lay in the place is used up.
                unsafe {
                    place.part_free(part).wait_for_last();
                    load(
                        kernel,
                        source,
                        place.part(part),
                        place.part_full(part),
                        part * PART_TILES,
                        PART_TILES,
                        lane,
                    );
                }
            }
            part += 1;
        }
    }
}

impl<E: Element, const TAIL: bool> Share<E, TAIL> for Tail {
    #[inline(always)]
    unsafe fn load(
        self,
        kernel: &Dense<E, TAIL>,
        place: BlockPlace<Dense<E, TAIL>>,
        source: Source,
        lane: u32,
    ) {
        // SAFETY: what lay in the place is used up.
        unsafe {
            place.probabilities_free().wait_for_last();
            if let Source::Keys { page } = source
                && lane == 0
            {
                memory::st_shared_u32(place.key_mask(), (page != NO_PAGE) as u32);
            }
            if TAIL {
                load(kernel, source, place.tail(), place.tail_full(), TAIL_TILE, 1, lane);
            } else if lane == 0 {
                place.tail_full().barrier.arrive();
            }
        }
    }
}

/// Asks for `tiles` tiles from `first_tile` on. Queries are this CTA's own; of keys each CTA of the cluster asks for some
/// tiles, which go to all of them.
///
/// # Safety
/// There is room for them at `address`, of keys in each CTA, and nobody reads the old contents any more.
#[inline(always)]
unsafe fn load<E: Element, const TAIL: bool>(
    kernel: &Dense<E, TAIL>,
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
                let cta = Dense::<E, TAIL>::new(kernel.params, kernel.maps).cta;
                if lane == 0 {
                    full.barrier.arrive_expecting(tiles * cta.tile.rows() * TILE_COLUMNS * 2);
                }
                if lane < tiles {
                    let head = cta.kv_head * cta.tile.group + cta.tile.first_head;
                    let coordinates = [column, head as i32, cta.tile.first_token as i32, request as i32];
                    let policy = copy::createpolicy_evict_normal();
                    copy::cp_async_bulk_tensor_4d(address, kernel.maps.q, coordinates, barrier, policy);
                }
            }
            Source::Keys { page } => {
                if lane == 0 {
                    full.barrier.arrive_expecting(tiles * TILE_BYTES);
                }
                if lane < tiles && lane & (special::cluster_ctas() - 1) == special::cluster_rank() {
                    let coordinates = [column, 0, kernel.cta.kv_head as i32, page as i32];
                    // Where the cluster has all tiles of rows, nobody else reads these keys.
                    let cluster = special::cluster_ctas();
                    let policy = if cluster == kernel.cta.params.row_tiles {
                        copy::createpolicy_evict_first()
                    } else {
                        copy::createpolicy_evict_normal()
                    };
                    if cluster == 1 {
                        copy::cp_async_bulk_tensor_4d(address, kernel.maps.kv, coordinates, barrier, policy);
                    } else {
                        let all = (1 << cluster) - 1;
                        copy::cp_async_bulk_tensor_4d_multicast(
                            address,
                            kernel.maps.kv,
                            coordinates,
                            barrier,
                            all,
                            policy,
                        );
                    }
                }
            }
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
