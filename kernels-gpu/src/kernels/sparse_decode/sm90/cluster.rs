//! A cluster of two CTAs that have neighbouring tiles of heads, and so the same keys: each converts half of each block's and hands
//! them over to the other.
//!
//! Of the 16 keys of a block that a warp knows, the first eight are those of the first CTA's warp, the others those of the
//! second's: eight rows of each tile, 1 KiB in a row. When the warp has stored its rows of a part, it fences them, and the copy engine
//! copies them to the same place of the other CTA, whose barrier for the part waits for the bytes as well.
//!
//! RoPE elements need no conversion, but room: probabilities come to where a tail was while the other CTA's copy may be under
//! way. So they come to the staging, and the copy engine brings them to both CTAs from there.

use super::loads::Thread;
use super::{Format, Sparse};
use crate::kernels::decode::sm90::TILE;
use crate::kernels::decode::sm90::keys::{BlockPlace, Phase};
use crate::ptx::{copy, special, warp};
use oximla_types::kernels::decode::{PART_TILES, TILE_BYTES, VALUE_PARTS};
use oximla_types::kernels::sparse_decode::{WARP_CODES_BYTES, WARP_PART_BYTES};

/// What a warp knows to hand its keys over to the other CTA.
#[derive(Clone, Copy)]
pub struct Other {
    /// Where in a tile the keys lie that the warp converts.
    rows: u32,
    /// From an address in this CTA to the same one in the other.
    distance: u32,
}

impl Other {
    /// The other CTA of the cluster; of no use where there is none.
    #[inline(always)]
    pub fn new<F: Format>(thread: Thread) -> Self {
        if !F::SHARES {
            return Self { rows: 0, distance: 0 };
        }
        let shared = thread.staging(0);
        let distance = special::mapa(shared, thread.rank() ^ 1).wrapping_sub(shared);
        Self { rows: own_rows::<F>(thread), distance }
    }

    /// Copies the warp's keys of a part's tile, if they come from codes. Arrives with the first tile, once for the warp, for the
    /// part.
    ///
    /// # Safety
    /// The whole warp calls it, in both CTAs, when it has stored its keys and fenced them; the protocol expects it.
    #[inline(always)]
    pub unsafe fn hand_over<F: Format>(
        self,
        thread: Thread,
        place: BlockPlace<Sparse<F>>,
        part: u32,
        tile: u32,
    ) {
        let (bytes, tiles) = (row_bytes::<F>(), F::RAW.code_tiles(part as usize));
        let full = place.part_full(part);
        // SAFETY: as the caller promises. What is copied is free in the other CTA, as its values arrive here, too.
        unsafe {
            if tile == 0 {
                // What is no code are RoPE elements, which both CTAs copy.
                arrive_expecting(thread, full, (tiles + F::CTAS * (PART_TILES - tiles)) * bytes);
            }
            if tile < tiles {
                let keys = place.part(part) + tile * TILE_BYTES + self.rows;
                self.copy(keys, keys, bytes, full);
            }
        }
    }

    /// Copies the warp's RoPE elements of a block from the staging to where they belong, in both CTAs. Arrives for the tail,
    /// if they are one.
    ///
    /// # Safety
    /// As for [`Self::hand_over`], which comes first.
    #[inline(always)]
    pub unsafe fn hand_over_rope<F: Format>(self, thread: Thread, place: BlockPlace<Sparse<F>>) {
        let (bytes, from) = (row_bytes::<F>(), staged_rope::<F>(thread, place.number()));
        let (tile, full) = rope_tile(place);
        let to = tile + self.rows;
        // SAFETY: as the caller promises.
        unsafe {
            if F::TAIL {
                arrive_expecting(thread, full, F::CTAS * bytes);
            }
            copy::cp_async_bulk_to_cluster(to, from, bytes, full.barrier.address());
            self.copy(to, from, bytes, full);
        }
    }

    /// Copies bytes to what lies in the other CTA where `to` is in this one, and completes on its barrier.
    ///
    /// # Safety
    /// As of [`copy::cp_async_bulk_to_cluster`].
    #[inline(always)]
    unsafe fn copy(self, to: u32, from: u32, bytes: u32, full: Phase) {
        let there = |address: u32| address.wrapping_add(self.distance);
        // SAFETY: as the caller promises.
        unsafe { copy::cp_async_bulk_to_cluster(there(to), from, bytes, there(full.barrier.address())) };
    }
}

/// Where in a tile the keys lie that the warp converts.
#[inline(always)]
fn own_rows<F: Format>(thread: Thread) -> u32 {
    TILE.row_offset(thread.key(thread.first_token::<F>()))
}

/// Bytes of the warp's rows of a tile.
#[inline(always)]
fn row_bytes<F: Format>() -> u32 {
    TILE.row_offset(F::WARP_TOKENS)
}

/// Where a warp's RoPE elements are staged for the block of a place, as its rows of a tile: as the other CTA has half of the keys,
/// half of each part's staging is free.
///
/// Of four in turns: one is asked for when the block before it is converted, and the place before may be its queries'; by then the tail
/// of the second block before that is free, and what has been copied from there for it and all earlier ones.
#[inline(always)]
pub fn staged_rope<F: Format>(thread: Thread, place: u32) -> u32 {
    let offset = place % VALUE_PARTS * WARP_PART_BYTES + WARP_PART_BYTES / F::CTAS;
    thread.warp_staging(offset, WARP_CODES_BYTES)
}

/// The tile that RoPE elements go to, and the phase that they make full.
#[inline(always)]
pub fn rope_tile<F: Format>(place: BlockPlace<Sparse<F>>) -> (u32, Phase) {
    if F::TAIL {
        (place.tail(), place.tail_full())
    } else {
        (place.part(F::WHOLE_PARTS) + TILE_BYTES, place.part_full(F::WHOLE_PARTS))
    }
}

/// Arrives, once for the warp, and makes the phase wait for copied bytes as well.
///
/// # Safety
/// The whole warp calls it; the protocol expects it.
#[inline(always)]
unsafe fn arrive_expecting(thread: Thread, full: Phase, bytes: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        warp::warp_sync();
        if thread.lane() == 0 {
            full.barrier.arrive_expecting(bytes);
        }
    }
}
