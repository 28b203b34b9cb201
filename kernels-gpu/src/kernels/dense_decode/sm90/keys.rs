//! The key tiles in shared memory: who has them, who asks for them.

use super::super::segments::Segments;
use super::{Cta, TAIL_READERS};
use crate::ptx::{copy, memory};
use crate::sync::Barrier;
use oximla_types::kernels::dense_decode::{
    BARRIER_BYTES, DenseDecodeParams, STAGES, SharedPlan, TAIL_SLOTS, TAIL_TILE, TILE_BYTES, TILE_COLUMNS,
    TILE_ROWS, VALUE_TILES,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::schedule::BlockRange;

/// A page that no cache has; the copy engine delivers zeros for it.
const NO_PAGE: u32 = u32::MAX;

/// Initialises the barriers of all tiles.
///
/// # Safety
/// One thread calls it, before anyone uses them.
#[inline(always)]
pub unsafe fn init_barriers(shared: u32) {
    // SAFETY: the plan sets them aside.
    unsafe {
        let mut tile = 0;
        while tile < STAGES * 2 * VALUE_TILES {
            Barrier::at(shared + SharedPlan::VALUES_FULL + tile * BARRIER_BYTES).init(1);
            tile += 1;
        }
        let mut slot = 0;
        while slot < TAIL_SLOTS {
            Barrier::at(shared + SharedPlan::TAIL_FULL + slot * BARRIER_BYTES).init(1);
            Barrier::at(shared + SharedPlan::TAIL_FREE + slot * BARRIER_BYTES).init(TAIL_READERS);
            slot += 1;
        }
    }
}

/// Where block number `number`, counted by the CTA, lies in shared memory.
#[derive(Clone, Copy)]
pub struct BlockPlace {
    shared: u32,
    number: u32,
}

/// A key tile, and the barrier that completes when it has landed.
#[derive(Clone, Copy)]
pub struct KeyTile {
    /// Shared-memory address.
    pub address: u32,
    full: Barrier,
    parity: u32,
}

impl BlockPlace {
    /// The place of the CTA's first block.
    #[inline(always)]
    pub fn first(shared: u32) -> Self {
        Self { shared, number: 0 }
    }

    /// The place of the block `count` blocks later.
    #[inline(always)]
    pub fn later(self, count: u32) -> Self {
        Self { number: self.number + count, ..self }
    }

    /// Stage of the value tiles.
    #[inline(always)]
    pub fn stage(self) -> u32 {
        self.number % STAGES
    }

    /// Parity of the phase of the stage's barriers.
    #[inline(always)]
    pub fn stage_parity(self) -> u32 {
        self.number / STAGES & 1
    }

    /// Slot of the tail.
    #[inline(always)]
    fn slot(self) -> u32 {
        self.number % TAIL_SLOTS
    }

    /// Parity of the phase of the slot's barriers.
    #[inline(always)]
    fn slot_parity(self) -> u32 {
        self.number / TAIL_SLOTS & 1
    }

    /// Address of the block's probabilities, in the place of its tail.
    #[inline(always)]
    pub fn probabilities(self) -> u32 {
        self.shared + SharedPlan::TAIL + self.slot() * TILE_BYTES
    }

    /// Address of the block's row scales.
    #[inline(always)]
    pub fn row_scales(self) -> u32 {
        self.shared + SharedPlan::ROW_SCALE + self.stage() * TILE_ROWS * 4
    }

    /// Tile `tile` of the block.
    #[inline(always)]
    pub fn tile(self, tile: u32) -> KeyTile {
        // SAFETY: `init_barriers` initialised them.
        unsafe {
            if tile == TAIL_TILE {
                let full = self.shared + SharedPlan::TAIL_FULL + self.slot() * BARRIER_BYTES;
                return KeyTile {
                    address: self.probabilities(),
                    full: Barrier::at(full),
                    parity: self.slot_parity(),
                };
            }
            let place = self.stage() * 2 * VALUE_TILES + tile;
            KeyTile {
                address: self.shared + SharedPlan::V + place * TILE_BYTES,
                full: Barrier::at(self.shared + SharedPlan::VALUES_FULL + place * BARRIER_BYTES),
                parity: self.stage_parity(),
            }
        }
    }

    /// The barrier that completes when all readers are done with the block's probabilities.
    #[inline(always)]
    fn tail_free(self) -> Barrier {
        // SAFETY: `init_barriers` initialised it.
        unsafe { Barrier::at(self.shared + SharedPlan::TAIL_FREE + self.slot() * BARRIER_BYTES) }
    }

    /// Declares one of the [`TAIL_READERS`] done with the block's probabilities.
    ///
    /// # Safety
    /// Once a block for each reader.
    #[inline(always)]
    pub unsafe fn release_probabilities(self) {
        // SAFETY: as the caller promises.
        unsafe { self.tail_free().arrive() }
    }
}

impl KeyTile {
    /// Waits until the tile has landed.
    #[inline(always)]
    pub fn wait(self) {
        self.full.wait(self.parity);
    }

    /// Asks the copy engine for the tile's columns of a page.
    ///
    /// # Safety
    /// One thread calls it, once a use; nobody reads the tile's old contents any more.
    #[inline(always)]
    unsafe fn load(self, cta: &Cta, tile: u32, page: u32) {
        let coordinates = [(tile * TILE_COLUMNS) as i32, 0, cta.kv_head as i32, page as i32];
        // SAFETY: the box is one tile, and the tile is free.
        unsafe {
            self.full.arrive_expecting(TILE_BYTES);
            copy::cp_async_bulk_tensor_4d(self.address, cta.kv_map, coordinates, self.full.address());
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

/// Asks for one half of each block, ahead of its use and across requests.
///
/// Every thread of a value warpgroup has one. The first lane of each warp asks for one of the half's tiles, so that
/// they are all on their way at once.
pub struct Loader<'a> {
    segments: Segments<'a>,
    request: u32,
    blocks: BlockRange,
    /// Page of the next block, fetched a block ahead.
    page: u32,
    /// Whether there is no next block.
    is_done: bool,
}

impl<'a> Loader<'a> {
    /// Before the first block.
    ///
    /// # Safety
    /// The parameters describe live tensors.
    #[inline(always)]
    pub unsafe fn new(cta: &Cta, segments: Segments<'a>) -> Self {
        let blocks = BlockRange { begin: 0, end: 0 };
        let mut loader = Self { segments, request: 0, blocks, page: NO_PAGE, is_done: false };
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
                        self.is_done = true;
                        return;
                    }
                }
            }
            self.page = page_of(cta.params, self.request, self.blocks.begin);
        }
        self.blocks.begin += 1;
    }

    /// Asks for the tiles of value half `HALF` of the next block, which goes to `place`; for the right half also for
    /// the tail. Does nothing once the partition is exhausted. `thread` is the number in the warpgroup.
    ///
    /// # Safety
    /// Once for each place, in order; the warpgroup is done with the stage.
    #[inline(always)]
    pub unsafe fn issue<const HALF: u32>(&mut self, cta: &Cta, place: BlockPlace, thread: u32) {
        const { assert!(WARPGROUP_THREADS / WARP_THREADS == VALUE_TILES, "a tile for each warp") };
        if self.is_done {
            return;
        }
        // SAFETY: as the caller promises; a tail waits until its slot is free.
        unsafe {
            if thread.is_multiple_of(WARP_THREADS) {
                let tile = HALF * VALUE_TILES + thread / WARP_THREADS;
                place.tile(tile).load(cta, tile, self.page);
                if HALF == 1 && tile == TAIL_TILE - 1 {
                    place.tail_free().wait(place.slot_parity() ^ 1);
                    place.tile(TAIL_TILE).load(cta, TAIL_TILE, self.page);
                }
            }
            self.look_ahead(cta);
        }
    }
}
