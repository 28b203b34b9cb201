//! Queries, for kernels whose loads arrive once a warp: each warp asks the copy engine for a part's tiles.

use super::keys::BlockPlace;
use super::{Decode, WARPGROUP_WARPS};
use crate::ptx::{copy, fence, special, warp};
use oximla_types::kernels::decode::{PART_TILES, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS};
use oximla_types::launch::WARP_THREADS;

/// Asks for the rows of a query token of the tensor of rank 4 (columns, heads, tokens, batch) whose map is at `map`.
///
/// # Safety
/// Each whole warp of the loads warpgroup calls it, once for each segment's first place; a box of the map is one tile, of the
/// rows there are, and the token is one of the tensor's.
#[inline(always)]
pub unsafe fn load<D: Decode>(kernel: &D, map: u64, place: BlockPlace<D>, token: u32, batch: u32) {
    const { assert!(WARPGROUP_WARPS == VALUE_PARTS && D::KEY_ARRIVALS == WARPGROUP_WARPS) };
    let thread = special::thread_x();
    // SAFETY: as the caller promises.
    let of_warp = if D::UNIFORM_LOADS { unsafe { warp::shfl_idx(thread, 0) } } else { thread };
    let number = of_warp / WARP_THREADS % WARPGROUP_WARPS;
    // Asked for anew each time: rustc's jump threading would lead lanes from one condition to the next, past a barrier between.
    let lane = || special::again(thread) % WARP_THREADS;
    let tile = kernel.cta().tile;
    let tile_bytes = tile.heads.get() * TILE_COLUMNS * 2;
    let load = |address: u32, barrier: u32, number: u32| {
        let coordinates =
            [(number * TILE_COLUMNS) as i32, tile.first_head as i32, token as i32, batch as i32];
        let policy = copy::createpolicy_evict_normal();
        // SAFETY: what lay there is used up; a box is one tile, of the rows there are.
        unsafe { copy::cp_async_bulk_tensor_4d(address, map, coordinates, barrier, policy) }
    };
    // SAFETY: as the caller promises.
    unsafe {
        let mut part = 0;
        while part < VALUE_PARTS {
            let full = place.part_full(part).barrier;
            place.part_free(part).wait_for_last();
            if lane() == 0 && number != part {
                full.arrive();
            }
            if number == part {
                // Threads have stored what lay there.
                fence::fence_proxy_async_shared();
                if lane() == 0 {
                    full.arrive_expecting(PART_TILES * tile_bytes);
                }
                warp::warp_sync();
                if lane() < PART_TILES {
                    load(place.part(part) + lane() * TILE_BYTES, full.address(), part * PART_TILES + lane());
                }
            }
            part += 1;
        }
        let full = place.tail_full().barrier;
        place.probabilities_free().wait_for_last();
        if lane() == 0 {
            if D::TAIL && number == 0 {
                fence::fence_proxy_async_shared();
                full.arrive_expecting(tile_bytes);
                load(place.tail(), full.address(), TAIL_TILE);
            } else {
                full.arrive();
            }
        }
    }
}
