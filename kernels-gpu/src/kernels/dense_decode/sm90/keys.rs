//! The key tiles in shared memory: who has them, who asks for them.

use super::super::segments::Segments;
use super::Cta;
use crate::ptx::{copy, memory};
use crate::sync::Barrier;
use oximla_types::kernels::dense_decode::{
    DenseDecodeParams, STAGES, SharedPlan, TILE_BYTES, TILE_COLUMNS, TILES, VALUE_TILES,
};
use oximla_types::schedule::BlockRange;

/// A page that no cache has; the copy engine delivers zeros for it.
const NO_PAGE: u32 = u32::MAX;

/// Initialises the barriers of all tiles.
///
/// # Safety
/// One thread calls it, before anyone uses them.
#[inline(always)]
pub unsafe fn init_barriers(shared: u32) {
    let mut tile = 0;
    while tile < STAGES * TILES {
        // SAFETY: the plan sets them aside.
        unsafe { Barrier::at(shared + SharedPlan::KEYS_FULL + tile * 8).init(1) };
        tile += 1;
    }
}

/// Tile `tile` of the stage that block number `block` (counted by the CTA) lies in.
#[derive(Clone, Copy)]
pub struct KeyTile {
    /// Shared-memory address.
    pub address: u32,
    full: Barrier,
    parity: u32,
}

impl KeyTile {
    /// The tile.
    #[inline(always)]
    pub fn new(shared: u32, block: u32, tile: u32) -> Self {
        let slot = block % STAGES * TILES + tile;
        // SAFETY: `init_barriers` initialised it.
        let full = unsafe { Barrier::at(shared + SharedPlan::KEYS_FULL + slot * 8) };
        Self { address: shared + SharedPlan::K + slot * TILE_BYTES, full, parity: block / STAGES & 1 }
    }

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
/// Only one thread of a warpgroup uses its loader.
pub struct Loader<'a> {
    segments: Segments<'a>,
    request: u32,
    blocks: BlockRange,
    /// Blocks asked for so far.
    issued: u32,
}

impl<'a> Loader<'a> {
    /// Before the first block.
    #[inline(always)]
    pub fn new(segments: Segments<'a>) -> Self {
        Self { segments, request: 0, blocks: BlockRange { begin: 0, end: 0 }, issued: 0 }
    }

    /// Asks for the next block's tiles of value half `HALF`; the right half also takes the tiles without values.
    /// Does nothing once the partition is exhausted.
    ///
    /// # Safety
    /// The stage that the block goes to is no longer read.
    #[inline(always)]
    pub unsafe fn issue<const HALF: u32>(&mut self, cta: &Cta) {
        // SAFETY: as the caller promises; blocks within a segment lie within the page table.
        unsafe {
            while self.blocks.is_empty() {
                match self.segments.next() {
                    Some(segment) => (self.request, self.blocks) = (segment.request, segment.blocks),
                    None => return,
                }
            }
            let page = page_of(cta.params, self.request, self.blocks.begin);
            let mut tile = HALF * VALUE_TILES;
            let end = if HALF == 0 { VALUE_TILES } else { TILES };
            while tile < end {
                KeyTile::new(cta.shared, self.issued, tile).load(cta, tile, page);
                tile += 1;
            }
        }
        self.blocks.begin += 1;
        self.issued += 1;
    }
}
