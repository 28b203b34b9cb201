//! The key tiles in shared memory: who has them, who asks for them.

use super::super::segments::{NO_REQUEST, Segments};
use super::{Cta, P_READERS};
use crate::ptx::{copy, memory, special};
use crate::sync::Barrier;
use oximla_types::kernels::dense_decode::{
    BARRIER_BYTES, DenseDecodeParams, HALF_SLOTS, SharedPlan, TAIL_SLOTS, TAIL_TILE, TILE_BYTES,
    TILE_COLUMNS, TILE_ROWS, VALUE_TILES,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::schedule::BlockRange;

/// A page that no cache has; the copy engine delivers zeros for it.
const NO_PAGE: u32 = u32::MAX;

/// Initialises the barriers of tiles and probabilities.
///
/// # Safety
/// One thread calls it, before anyone uses them.
#[inline(always)]
pub unsafe fn init_barriers(shared: u32) {
    let init = |offset, count, arrivals| {
        let mut i = 0;
        while i < count {
            // SAFETY: the plan sets them aside.
            unsafe { Barrier::at(shared + offset + i * BARRIER_BYTES).init(arrivals) };
            i += 1;
        }
    };
    init(SharedPlan::HALF_FULL, HALF_SLOTS, VALUE_TILES);
    init(SharedPlan::NORM_FULL, 1, WARPGROUP_THREADS);
    init(SharedPlan::NORM_FREE, 1, P_READERS * WARPGROUP_THREADS);
    init(SharedPlan::TAIL_FULL, TAIL_SLOTS, 1);
    init(SharedPlan::P_FULL, TAIL_SLOTS, WARPGROUP_THREADS);
    init(SharedPlan::P_FREE, TAIL_SLOTS, P_READERS);
    init(SharedPlan::LEFT_MAY, TAIL_SLOTS, WARPGROUP_THREADS);
    init(SharedPlan::RIGHT_MAY, TAIL_SLOTS, WARPGROUP_THREADS);
}

/// A barrier, and the parity of the phase that is meant.
#[derive(Clone, Copy)]
pub struct Phase {
    pub barrier: Barrier,
    parity: u32,
}

impl Phase {
    /// The phase of use `number` of `slots` slots, each with a barrier at `offset`.
    #[inline(always)]
    fn of(offset: u32, slots: u32, number: u32) -> Self {
        // SAFETY: `init_barriers` initialised it.
        let barrier =
            unsafe { Barrier::at(special::dynamic_shared() + offset + number % slots * BARRIER_BYTES) };
        Self { barrier, parity: number / slots & 1 }
    }

    /// Waits until the phase is complete.
    #[inline(always)]
    pub fn wait(self) {
        self.barrier.wait(self.parity);
    }

    /// Waits until the phase before is complete; there is none before the first.
    #[inline(always)]
    pub fn wait_for_last(self) {
        self.barrier.wait(self.parity ^ 1);
    }
}

/// Completes when the row norms of segment `number`, counted by the CTA, are written.
#[inline(always)]
pub fn norms_full(number: u32) -> Phase {
    Phase::of(SharedPlan::NORM_FULL, 1, number)
}

/// Completes when the row norms of segment `number` have been read.
#[inline(always)]
pub fn norms_free(number: u32) -> Phase {
    Phase::of(SharedPlan::NORM_FREE, 1, number)
}

/// Where block number `number`, counted by the CTA, lies in shared memory.
#[derive(Clone, Copy)]
pub struct BlockPlace {
    number: u32,
}

impl BlockPlace {
    /// The place of the CTA's first block.
    #[inline(always)]
    pub fn first() -> Self {
        Self { number: 0 }
    }

    /// The place of the block `count` blocks later.
    #[inline(always)]
    pub fn later(self, count: u32) -> Self {
        Self { number: self.number + count }
    }

    /// The place of the block `count` blocks earlier.
    #[inline(always)]
    pub fn earlier(self, count: u32) -> Self {
        Self { number: self.number - count }
    }

    /// Address of the block's left or right value tiles.
    #[inline(always)]
    pub fn half(self, half: u32) -> u32 {
        let slot = (2 * self.number + half) % HALF_SLOTS;
        special::dynamic_shared() + SharedPlan::V + slot * VALUE_TILES * TILE_BYTES
    }

    /// Completes when the left or right value tiles have landed.
    #[inline(always)]
    pub fn half_full(self, half: u32) -> Phase {
        Phase::of(SharedPlan::HALF_FULL, HALF_SLOTS, 2 * self.number + half)
    }

    /// Address of the block's tail, and later of its probabilities.
    #[inline(always)]
    pub fn tail(self) -> u32 {
        special::dynamic_shared() + SharedPlan::TAIL + self.number % TAIL_SLOTS * TILE_BYTES
    }

    /// Completes when the tail has landed.
    #[inline(always)]
    pub fn tail_full(self) -> Phase {
        Phase::of(SharedPlan::TAIL_FULL, TAIL_SLOTS, self.number)
    }

    /// Completes when probabilities and row scales are written.
    #[inline(always)]
    pub fn probabilities_full(self) -> Phase {
        Phase::of(SharedPlan::P_FULL, TAIL_SLOTS, self.number)
    }

    /// Completes when all [`P_READERS`] are done with probabilities and row scales.
    #[inline(always)]
    pub fn probabilities_free(self) -> Phase {
        Phase::of(SharedPlan::P_FREE, TAIL_SLOTS, self.number)
    }

    /// Completes when half `half` of the values may be multiplied.
    #[inline(always)]
    pub fn values_may(self, half: u32) -> Phase {
        let offset = if half == 0 { SharedPlan::LEFT_MAY } else { SharedPlan::RIGHT_MAY };
        Phase::of(offset, TAIL_SLOTS, self.number)
    }

    /// Address of the block's row scales.
    #[inline(always)]
    pub fn row_scales(self) -> u32 {
        special::dynamic_shared() + SharedPlan::ROW_SCALE + self.number % TAIL_SLOTS * TILE_ROWS * 4
    }

    /// Asks the copy engine for tile `tile` of a page.
    ///
    /// # Safety
    /// One thread calls it, once a tile and block; nobody reads the old contents any more.
    #[inline(always)]
    unsafe fn load(self, cta: &Cta, tile: u32, page: u32) {
        let (address, full) = if tile == TAIL_TILE {
            (self.tail(), self.tail_full())
        } else {
            let half = tile / VALUE_TILES;
            (self.half(half) + tile % VALUE_TILES * TILE_BYTES, self.half_full(half))
        };
        let coordinates = [(tile * TILE_COLUMNS) as i32, 0, cta.kv_head as i32, page as i32];
        // SAFETY: the box is one tile, and the tile is free.
        unsafe {
            full.barrier.arrive_expecting(TILE_BYTES);
            copy::cp_async_bulk_tensor_4d(address, cta.kv_map, coordinates, full.barrier.address());
        }
    }
}

/// Page of a request's block, or [`NO_PAGE`] where the table names none of the cache's.
///
/// # Safety
/// The page table is readable as the parameters say; `block` lies within its row.
#[inline(always)]
pub unsafe fn page_of(params: &DenseDecodeParams, request: u32, block: u32) -> u32 {
    let entry = request as i64 * params.block_table_stride + block as i64;
    // SAFETY: as the caller promises.
    let page = unsafe { memory::ld_global_u32(params.block_table.wrapping_add((entry * 4) as u64)) };
    if page < params.num_pages { page } else { NO_PAGE }
}

/// Whether [`page_of`] found a page.
#[inline(always)]
pub fn is_present(page: u32) -> bool {
    page != NO_PAGE
}

/// Asks for one half of each block, ahead of its use and across requests: the warpgroup of the left values for the right
/// half, and the other way round, as the number of slots is odd.
///
/// Every thread of a value warpgroup has one. The first lane of each warp asks for one of the half's tiles, so that
/// they are all on their way at once.
pub struct Loader<'a> {
    segments: Segments<'a>,
    request: u32,
    blocks: BlockRange,
    /// Page of the next block, fetched a block ahead.
    page: u32,
}

impl<'a> Loader<'a> {
    /// Before the first block.
    ///
    /// # Safety
    /// The parameters describe live tensors.
    #[inline(always)]
    pub unsafe fn new(cta: &Cta, segments: Segments<'a>) -> Self {
        let blocks = BlockRange { begin: 0, end: 0 };
        let mut loader = Self { segments, request: 0, blocks, page: NO_PAGE };
        // SAFETY: as the caller promises.
        unsafe { loader.look_ahead(cta) };
        loader
    }

    /// Finds the page of the next block.
    #[inline(always)]
    unsafe fn look_ahead(&mut self, cta: &Cta) {
        // SAFETY: blocks within a segment lie within the page table.
        unsafe {
            while self.blocks.is_empty() {
                match self.segments.next() {
                    Some(segment) => (self.request, self.blocks) = (segment.request, segment.blocks),
                    None => {
                        self.request = NO_REQUEST;
                        return;
                    }
                }
            }
            self.page = page_of(cta.params, self.request, self.blocks.begin);
        }
        self.blocks.begin += 1;
    }

    /// Asks for the tiles of value half `HALF` of the next block, which goes to `place`; for the left half also for
    /// the tail. Does nothing once the partition is exhausted. `thread` is the number in the warpgroup.
    ///
    /// # Safety
    /// Once for each place, in order; the warpgroup is done with what lies in the half's slot.
    #[inline(always)]
    pub unsafe fn issue<const HALF: u32>(&mut self, cta: &Cta, place: BlockPlace, thread: u32) {
        const { assert!(WARPGROUP_THREADS / WARP_THREADS == VALUE_TILES, "a tile for each warp") };
        if self.request == NO_REQUEST {
            return;
        }
        // SAFETY: as the caller promises; a tail waits until the probabilities in its slot are used up.
        unsafe {
            if thread.is_multiple_of(WARP_THREADS) {
                let tile = HALF * VALUE_TILES + thread / WARP_THREADS;
                place.load(cta, tile, self.page);
                if tile == 0 {
                    place.probabilities_free().wait_for_last();
                    place.load(cta, TAIL_TILE, self.page);
                }
            }
            self.look_ahead(cta);
        }
    }
}
