//! The loads role: fetches queries and asks the copy engine for key tiles, as far ahead as there is room, across requests.
//!
//! Each warp sees to its own share of each block, so that it seldom waits for room for another one's.

use super::super::segments::Segment;
use super::keys::{self, BlockPlace, NO_PAGE, Phase};
use super::queue::{Reader, Writer};
use super::{Cta, TILE};
use crate::ptx::{copy, memory, warp};
use oximla_types::kernels::dense_decode::{
    PART_TILES, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, TILE_ROWS, VALUE_PARTS,
};
use oximla_types::launch::WARP_THREADS;

/// Bytes of what one lane copies at a time.
const CHUNK_BYTES: u32 = 16;

/// Chunks across a tile.
const TILE_CHUNKS: u32 = TILE_COLUMNS * 2 / CHUNK_BYTES;

/// Runs the role.
///
/// # Safety
/// All threads of the warpgroup call it, `thread` being the number in the warpgroup, after the barriers are
/// initialised.
#[inline(always)]
pub unsafe fn run(cta: &Cta, thread: u32) {
    let lane = thread % WARP_THREADS;
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        match thread / WARP_THREADS {
            0 => load_all(cta, lane, Parts::<0>),
            1 => load_all(cta, lane, Parts::<1>),
            2 => load_all(cta, lane, Tail),
            _ => write_queue(cta, lane),
        }
    }
}

/// Finds the CTA's segments for all roles.
#[inline(always)]
unsafe fn write_queue(cta: &Cta, lane: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        let mut writer = Writer::new(cta.segments(lane));
        let mut reader = Reader::new();
        loop {
            writer.write_next(lane);
            if reader.next().is_none() {
                break;
            }
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
            share.load_queries(cta, &segment, place, lane);
            place = place.next();
            let mut block = segment.blocks.begin;
            // Each lane fetches the page of another block.
            let mut pages = NO_PAGE;
            while block < segment.blocks.end {
                let ahead = (block - segment.blocks.begin) % WARP_THREADS;
                if ahead == 0 && block + lane < segment.blocks.end {
                    pages = keys::page_of(cta.params, segment.request, block + lane);
                }
                share.load_keys(cta, place, warp::shfl_idx(pages, ahead), lane);
                place = place.next();
                block += 1;
            }
        }
    }
}

/// A warp's share of what there is to load.
trait Share: Copy {
    /// Fetches its tiles of the queries, as soon as there is room for them; rows past the end become zeros.
    ///
    /// # Safety
    /// As for [`Share::load_keys`].
    unsafe fn load_queries(self, cta: &Cta, segment: &Segment, place: BlockPlace, lane: u32);

    /// Asks for its tiles of a page, as soon as there is room for them.
    ///
    /// # Safety
    /// The whole warp calls it, once for each place, in order.
    unsafe fn load_keys(self, cta: &Cta, place: BlockPlace, page: u32, lane: u32);
}

/// Every other part from `FIRST` on.
#[derive(Clone, Copy)]
struct Parts<const FIRST: u32>;

/// The tails.
#[derive(Clone, Copy)]
struct Tail;

impl<const FIRST: u32> Share for Parts<FIRST> {
    #[inline(always)]
    unsafe fn load_queries(self, cta: &Cta, segment: &Segment, place: BlockPlace, lane: u32) {
        let mut part = FIRST;
        while part < VALUE_PARTS {
            // SAFETY: what lay in the place is used up.
            unsafe {
                place.part_free(part).wait_for_last();
                copy_queries(cta, segment, place.part(part), part * PART_TILES, PART_TILES, lane);
                arrive_with_queries(place.part_full(part), lane);
            }
            part += 2;
        }
    }

    #[inline(always)]
    unsafe fn load_keys(self, cta: &Cta, place: BlockPlace, page: u32, lane: u32) {
        let mut part = FIRST;
        while part < VALUE_PARTS {
            // SAFETY: what lay in the place is used up.
            unsafe {
                place.part_free(part).wait_for_last();
                load(cta, place.part(part), place.part_full(part), part * PART_TILES, PART_TILES, page, lane);
            }
            part += 2;
        }
    }
}

impl Share for Tail {
    #[inline(always)]
    unsafe fn load_queries(self, cta: &Cta, segment: &Segment, place: BlockPlace, lane: u32) {
        // SAFETY: what lay in the place is used up.
        unsafe {
            place.probabilities_free().wait_for_last();
            copy_queries(cta, segment, place.tail(), TAIL_TILE, 1, lane);
            arrive_with_queries(place.tail_full(), lane);
        }
    }

    #[inline(always)]
    unsafe fn load_keys(self, cta: &Cta, place: BlockPlace, page: u32, lane: u32) {
        // SAFETY: what lay in the place is used up.
        unsafe {
            place.probabilities_free().wait_for_last();
            if lane == 0 {
                memory::st_shared_u32(place.is_present(), (page != NO_PAGE) as u32);
            }
            load(cta, place.tail(), place.tail_full(), TAIL_TILE, 1, page, lane);
        }
    }
}

/// Has the copies of the whole warp complete `full`.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn arrive_with_queries(full: Phase, lane: u32) {
    // SAFETY: as the caller promises; the phase waits for the first lane, which comes last.
    unsafe {
        copy::cp_async_mbarrier_arrive(full.barrier.address());
        warp::warp_sync();
        if lane == 0 {
            full.barrier.arrive();
        }
    }
}

/// Starts to copy `tiles` tiles of query rows from `first_tile` on, swizzled.
///
/// # Safety
/// There is room for them at `address`.
#[inline(always)]
unsafe fn copy_queries(cta: &Cta, segment: &Segment, address: u32, first_tile: u32, tiles: u32, lane: u32) {
    const ROWS_AT_A_TIME: u32 = WARP_THREADS / TILE_CHUNKS;
    let group = cta.rows.group.get();
    let chunk = lane % TILE_CHUNKS;
    let mut tile_row = lane / TILE_CHUNKS;
    let mut row = cta.first_row + tile_row;
    let (mut token, mut head) = (cta.rows.token(row), cta.rows.head(row));
    let [batch_stride, token_stride, head_stride] = cta.params.q_strides;
    let first_byte = (first_tile * TILE_CHUNKS + chunk) * CHUNK_BYTES;
    let head_0 = segment.request as i64 * batch_stride + (cta.kv_head * group) as i64 * head_stride;
    let queries = cta.params.q.wrapping_add((head_0 * 2) as u64) + first_byte as u64;
    while tile_row < TILE_ROWS {
        let is_row = row < cta.rows.count;
        let offset = token as i64 * token_stride + head as i64 * head_stride;
        let mut source = queries.wrapping_add(if is_row { (offset * 2) as u64 } else { 0 });
        let mut target = address + TILE.chunk(tile_row, chunk);
        let mut tile = 0;
        while tile < tiles {
            // SAFETY: rows within `count` are within the tensor.
            unsafe { copy::cp_async_16(target, source, if is_row { CHUNK_BYTES } else { 0 }) };
            source += (TILE_CHUNKS * CHUNK_BYTES) as u64;
            target += TILE_BYTES;
            tile += 1;
        }
        tile_row += ROWS_AT_A_TIME;
        row += ROWS_AT_A_TIME;
        head += ROWS_AT_A_TIME;
        while head >= group {
            head -= group;
            token += 1;
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
