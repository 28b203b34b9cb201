//! The values role: O = O·scale + P·V for one half of the columns. What becomes of that half at a segment's end: `outputs.rs`.

use super::fused;
use super::keys::{self, BlockPlace};
use super::outputs::{copy_out, store, store_nothing, store_partial};
use super::queue::Reader;
use super::{Decode, TILE, VALUES_BARRIERS};
use crate::attention::element::Element;
use crate::attention::unroll;
use crate::ptx::{fence, memory, special, warp, wgmma};
use crate::sync::warpgroup_barrier;
use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::kernels::decode::{PART_COLUMNS, PART_TILES, SIDES, TILE_BYTES, TILE_ROWS, VALUE_PARTS};
use oximla_types::launch::WARPGROUP_THREADS;
use oximla_types::layout::fragment;
use oximla_types::schedule::BLOCK_KEYS;

/// Bytes of 16 keys of a tile: one step of `wgmma` along V.
const STEP_BYTES: u32 = TILE.row_offset(16);

const _: () = assert!(VALUE_PARTS == 4 && PART_COLUMNS == 128, "two parts a side, of 64 accumulators each");

/// Runs the role for the even (0) or odd (1) parts of the value columns.
///
/// # Safety
/// All threads of the warpgroup call it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<D: Decode, const SIDE: u32>(kernel: &D) {
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let mut segments = Reader::<D>::new();
        let mut place = BlockPlace::<D>::first();
        while let Some(segment) = segments.peek() {
            let mut output: [[f32; 64]; 2] = core::mem::zeroed();
            // Only the request's last block may have keys that are not the request's.
            let unused_keys = (segment.blocks.end * BLOCK_KEYS).saturating_sub(segment.len);
            let mut remaining = segment.blocks.end.saturating_sub(segment.blocks.begin);
            if !D::TURNS && remaining > 0 {
                // No probabilities come to the place of the queries. Its barriers are complete before those of the next place
                // are, and not waited for: this warpgroup lets nobody wait who completes their next phase, so it might find them
                // two phases on.
                place = place.next();
            }
            while remaining > 0 {
                place.probabilities_full().wait();
                rescale(place, &mut output);
                if !D::ZERO_FILLED && remaining == 1 && unused_keys > 0 {
                    clear_unused_values::<D, SIDE>(place, BLOCK_KEYS - unused_keys);
                }
                let keeps = D::COPIES_OUTPUTS && remaining == 1 && segments.reread().splits.count == 1;
                multiply::<D, SIDE>(place, &mut output, keeps);
                // Row scales are read by all lanes, as well as the probabilities.
                warp::warp_sync();
                place.probabilities_free().arrive_in_cluster::<D>();
                place = place.next();
                remaining -= 1;
            }
            // Made anew, so that the loop need not keep what only this takes; the segment is read anew for each step.
            let kernel = &kernel.again();
            if SIDE == 1 {
                kernel.rotate_back(&segments.reread(), &mut output[1]);
            }
            let number = segments.peeked();
            keys::norms_full::<D>(number).wait();
            let segment = segments.reread();
            let row = fragment::accumulator(special::thread_x() % WARPGROUP_THREADS, 0).row;
            // Read by each way of storing itself, so that ptxas does not multiply by them before it is known which one it is.
            let take_norms = || {
                let norms = load_rows(special::dynamic_shared() + D::PLAN.row_norm, row);
                keys::norms_free::<D>(number).barrier.arrive();
                norms
            };
            if D::FUSED || segment.splits.count != 1 {
                store_partial::<D, SIDE>(kernel, &segment, row, &output, take_norms());
            } else if segment.blocks.is_empty() {
                take_norms();
                store_nothing::<D, SIDE>(kernel, &segment);
            } else {
                let norms = take_norms();
                if D::COPIES_OUTPUTS {
                    copy_out::<D, SIDE>(kernel, &segment, place.last(), &output, norms);
                } else {
                    store::<D, SIDE>(kernel, &segment, row, &output, norms);
                }
            }
            if D::FUSED {
                fused::combine::<D, SIDE>(kernel, &segments.reread());
                return;
            }
            segments.release();
        }
        segments.release();
    }
}

/// Number of the first (0) or second (1) part that this side multiplies: every other one.
pub(super) const fn own_part<const SIDE: u32>(part: u32) -> u32 {
    SIDES * part + SIDE
}

/// Multiplies the output by the row scales; skipped where no row of the warp has a new maximum.
#[inline(always)]
unsafe fn rescale<D: Decode>(place: BlockPlace<D>, output: &mut [[f32; 64]; 2]) {
    let row = fragment::accumulator(special::thread_x() % WARPGROUP_THREADS, 0).row;
    // SAFETY: the row scales are full; the whole warp is here.
    unsafe {
        let scale = load_rows(place.row_scales(), row);
        if warp::ballot(scale[0] != 1.0 || scale[1] != 1.0) != 0 {
            scale_rows(output, scale);
        }
    }
}

/// Multiplies the thread's two rows.
#[inline(always)]
fn scale_rows(output: &mut [[f32; 64]; 2], scale: [f32; 2]) {
    unroll!(PART in 2 => { unroll!(I in 16 => {
        output[PART][4 * I] *= scale[0];
        output[PART][4 * I + 1] *= scale[0];
        output[PART][4 * I + 2] *= scale[1];
        output[PART][4 * I + 3] *= scale[1];
    }); });
}

/// Zeroes the values of keys past the request's end in this half: their probability is 0, but 0·NaN is not.
#[inline(always)]
unsafe fn clear_unused_values<D: Decode, const SIDE: u32>(place: BlockPlace<D>, used_keys: u32) {
    const CHUNKS: u32 = 8;
    let thread = special::thread_x() % WARPGROUP_THREADS;
    // SAFETY: whole rows of 128 bytes within this half's tiles; only this warpgroup reads them from here on.
    unsafe {
        let mut key = used_keys + thread / CHUNKS;
        while key < BLOCK_KEYS {
            let mut tile = 0;
            while tile < 2 * PART_TILES {
                let part = place.part(own_part::<SIDE>(tile / PART_TILES));
                let base = part + tile % PART_TILES * TILE_BYTES;
                memory::st_shared_zero_x4(base + TILE.chunk(key, thread % CHUNKS));
                tile += 1;
            }
            key += WARPGROUP_THREADS / CHUNKS;
        }
        fence::fence_proxy_async_shared();
        side_barrier::<SIDE>();
    }
}

/// `output += P·V`, part by part; lets go of each, or keeps them.
#[inline(always)]
unsafe fn multiply<D: Decode, const SIDE: u32>(
    place: BlockPlace<D>,
    output: &mut [[f32; 64]; 2],
    keeps: bool,
) {
    const P_STEP_BYTES: u32 = TILE.column_offset(16);
    // The exchange makes the addresses the same in all lanes for ptxas to see.
    // SAFETY: the whole warpgroup is here. P is full and fenced; the tiles landed before the scores of this block were
    // computed.
    unsafe {
        let p = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.tail(), 0));
        wgmma::wgmma_fence();
        unroll!(PART in 2 => {
            let v = warp::shfl_idx(place.part(own_part::<SIDE>(PART as u32)), 0);
            let v = SharedDescriptor::mn_major_sw128(v, TILE_BYTES);
            unroll!(STEP in 4 => {
                let (p, v) = (p.advance(STEP as u32 * P_STEP_BYTES), v.advance(STEP as u32 * STEP_BYTES));
                D::Element::multiply_values(&mut output[PART], p, v);
            });
            wgmma::wgmma_commit_group();
        });
        wgmma::wgmma_wait_64::<1>(&mut output[0]);
        if !keeps {
            place.part_free(own_part::<SIDE>(0)).arrive_in_cluster::<D>();
        }
        wgmma::wgmma_wait_64::<0>(&mut output[1]);
        if !keeps {
            place.part_free(own_part::<SIDE>(1)).arrive_in_cluster::<D>();
        }
    }
}

/// This thread's two of 64 per-row values.
#[inline(always)]
pub(super) unsafe fn load_rows(rows: u32, row: u32) -> [f32; 2] {
    const { assert!(TILE_ROWS == 64) };
    let address = rows + row * 4;
    // SAFETY: within the plan's 64 rows.
    unsafe { [memory::ld_shared_f32(address), memory::ld_shared_f32(address + 8 * 4)] }
}

/// Waits for this half's warpgroup.
#[inline(always)]
pub(super) unsafe fn side_barrier<const SIDE: u32>() {
    // SAFETY: each is one warpgroup's.
    unsafe {
        if SIDE == 0 {
            warpgroup_barrier::<{ VALUES_BARRIERS[0] }>();
        } else {
            warpgroup_barrier::<{ VALUES_BARRIERS[1] }>();
        }
    }
}
