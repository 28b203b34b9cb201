//! The values role: O = O·scale + P·V for one half of the columns, and the copies of that half's tiles.

use super::super::segments::Segment;
use super::keys::{self, BlockPlace, Loader};
use super::{Cta, TILE};
use crate::attention::element::Element;
use crate::attention::unroll;
use crate::ptx::{fence, memory, special, warp, wgmma};
use crate::sync::warpgroup_barrier;
use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::kernels::dense_decode::{
    HALF_SLOTS, HEAD_DIM_V, SharedPlan, TILE_BYTES, TILE_ROWS, VALUE_TILES,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::fragment;
use oximla_types::schedule::BLOCK_KEYS;

/// Bytes of 16 keys of a tile: one step of `wgmma` along V.
const STEP_BYTES: u32 = TILE.row_offset(16);

/// Runs the role for the left (0) or right (1) half of the value columns.
///
/// # Safety
/// All threads of the warpgroup call it, `thread` being the number in the warpgroup, after the barriers are
/// initialised.
#[inline(always)]
pub unsafe fn run<E: Element, const HALF: u32>(cta: &Cta, thread: u32) {
    let lane = thread % WARP_THREADS;
    let row = fragment::accumulator(thread, 0).row;
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let mut segment_count = 0;
        let mut segments = cta.segments(lane);
        let mut loader = Loader::new(cta, segments.clone());
        let mut place = BlockPlace::first();
        let mut ahead = 0;
        while ahead < blocks_ahead::<HALF>() {
            issue::<HALF>(&mut loader, cta, place.later(ahead), thread);
            ahead += 1;
        }
        while let Some(segment) = segments.next() {
            let mut output: [f32; 128] = core::mem::zeroed();
            // Only the request's last block may have keys that are not the request's.
            let unused_keys = (segment.blocks.end * BLOCK_KEYS).saturating_sub(segment.len);
            let mut remaining = segment.blocks.end.saturating_sub(segment.blocks.begin);
            while remaining > 0 {
                place.probabilities_full().wait();
                rescale(place, row, &mut output);
                if remaining == 1 && unused_keys > 0 {
                    clear_unused_values::<HALF>(place, BLOCK_KEYS - unused_keys, thread);
                }
                multiply::<E, HALF>(place, &mut output);
                barrier::<HALF>();
                if thread == 0 {
                    place.probabilities_free().barrier.arrive();
                }
                issue::<HALF>(&mut loader, cta, place.later(blocks_ahead::<HALF>()), thread);
                place = place.later(1);
                remaining -= 1;
            }
            keys::norms_full(segment_count).wait();
            let norm = load_rows(special::dynamic_shared() + SharedPlan::ROW_NORM, row);
            keys::norms_free(segment_count).barrier.arrive();
            segment_count += 1;
            // Made anew, so that the loop need not keep what only this takes.
            let cta = &Cta::new(cta.params, cta.kv_map);
            store::<E, HALF>(cta, &segment, row, lane, &output, norm);
        }
    }
}

/// How many blocks ahead of its own this half's warpgroup asks for the other half. What it asks for takes the slot that it
/// has just let go of: half `2·j + HALF` makes room for half `2·j + HALF + 5`.
const fn blocks_ahead<const HALF: u32>() -> u32 {
    HALF.div_ceil(2) + HALF_SLOTS / 2
}

/// Asks for the other half of the block that goes to `place`.
#[inline(always)]
unsafe fn issue<const HALF: u32>(loader: &mut Loader, cta: &Cta, place: BlockPlace, thread: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        if HALF == 0 {
            loader.issue::<1>(cta, place, thread);
        } else {
            loader.issue::<0>(cta, place, thread);
        }
    }
}

/// Multiplies the output by the row scales; skipped where no row of the warp has a new maximum.
#[inline(always)]
unsafe fn rescale(place: BlockPlace, row: u32, output: &mut [f32; 128]) {
    // SAFETY: the row scales are full; the whole warp is here.
    unsafe {
        let scale = load_rows(place.row_scales(), row);
        if warp::ballot(scale[0] != 1.0 || scale[1] != 1.0) != 0 {
            unroll!(I in 32 => {
                output[4 * I] *= scale[0];
                output[4 * I + 1] *= scale[0];
                output[4 * I + 2] *= scale[1];
                output[4 * I + 3] *= scale[1];
            });
        }
    }
}

/// Zeroes the values of keys past the request's end in this half: their probability is 0, but 0·NaN is not.
#[inline(always)]
unsafe fn clear_unused_values<const HALF: u32>(place: BlockPlace, used_keys: u32, thread: u32) {
    const CHUNKS: u32 = 8;
    // SAFETY: whole rows of 128 bytes within this half's tiles; only this warpgroup reads them from here on.
    unsafe {
        let mut key = used_keys + thread / CHUNKS;
        while key < BLOCK_KEYS {
            let mut tile = 0;
            while tile < VALUE_TILES {
                let base = place.half(HALF) + tile * TILE_BYTES;
                memory::st_shared_zero_x4(base + TILE.chunk(key, thread % CHUNKS));
                tile += 1;
            }
            key += WARPGROUP_THREADS / CHUNKS;
        }
        fence::fence_proxy_async_shared();
        barrier::<HALF>();
    }
}

/// `output += P·V`.
#[inline(always)]
unsafe fn multiply<E: Element, const HALF: u32>(place: BlockPlace, output: &mut [f32; 128]) {
    const P_STEP_BYTES: u32 = TILE.column_offset(16);
    // SAFETY: the whole warp is here. The exchange makes the addresses the same in all lanes for ptxas to see.
    let (p, v) = unsafe { (warp::shfl_idx(place.tail(), 0), warp::shfl_idx(place.half(HALF), 0)) };
    let a = SharedDescriptor::k_major_sw128(p);
    let b = SharedDescriptor::mn_major_sw128(v, TILE_BYTES);
    // SAFETY: P is full and fenced; the tiles landed before the scores of this block were computed.
    unsafe {
        // Behind the next block's scores, which would not get far beside the values; and the left half before the right
        // one, not side by side, so that its slot is free early.
        place.values_may(HALF).wait();
        wgmma::wgmma_fence();
        E::multiply_values(output, a, b);
        E::multiply_values(output, a.advance(P_STEP_BYTES), b.advance(STEP_BYTES));
        E::multiply_values(output, a.advance(2 * P_STEP_BYTES), b.advance(2 * STEP_BYTES));
        E::multiply_values(output, a.advance(3 * P_STEP_BYTES), b.advance(3 * STEP_BYTES));
        wgmma::wgmma_commit_group();
        wgmma::wgmma_wait_all_128(output);
        if HALF == 0 {
            place.values_may(1).barrier.arrive();
        }
    }
}

/// Stores this thread's part of the normalised output: final, or partial where the request is split.
#[inline(always)]
unsafe fn store<E: Element, const HALF: u32>(
    cta: &Cta,
    segment: &Segment,
    tile_row: u32,
    lane: u32,
    output: &[f32; 128],
    norm: [f32; 2],
) {
    let column = HALF * (HEAD_DIM_V / 2) + 2 * (lane % 4);
    let rows = [cta.first_row + tile_row, cta.first_row + tile_row + 8];
    let stored = [rows[0] < cta.rows.count, rows[1] < cta.rows.count];
    // SAFETY: stored rows are within the tensors.
    unsafe {
        if segment.splits.count == 1 {
            let base = [cta.output_row(segment, rows[0], column), cta.output_row(segment, rows[1], column)];
            if stored[0] {
                unroll!(I in 32 => {
                    let pair = E::pack(output[4 * I] * norm[0], output[4 * I + 1] * norm[0]);
                    memory::st_global_u32(base[0] + 16 * I as u64, pair);
                });
            }
            if stored[1] {
                unroll!(I in 32 => {
                    let pair = E::pack(output[4 * I + 2] * norm[1], output[4 * I + 3] * norm[1]);
                    memory::st_global_u32(base[1] + 16 * I as u64, pair);
                });
            }
        } else {
            let partial = |row| {
                let element = cta.partial_row(segment, row) * HEAD_DIM_V as u64 + column as u64;
                cta.params.partial.out + 4 * element
            };
            let base = [partial(rows[0]), partial(rows[1])];
            if stored[0] {
                unroll!(I in 32 => {
                    let pair = [output[4 * I] * norm[0], output[4 * I + 1] * norm[0]];
                    memory::st_global_f32x2(base[0] + 32 * I as u64, pair);
                });
            }
            if stored[1] {
                unroll!(I in 32 => {
                    let pair = [output[4 * I + 2] * norm[1], output[4 * I + 3] * norm[1]];
                    memory::st_global_f32x2(base[1] + 32 * I as u64, pair);
                });
            }
        }
    }
}

/// This thread's two of 64 per-row values.
#[inline(always)]
unsafe fn load_rows(rows: u32, row: u32) -> [f32; 2] {
    const { assert!(TILE_ROWS == 64) };
    let address = rows + row * 4;
    // SAFETY: within the plan's 64 rows.
    unsafe { [memory::ld_shared_f32(address), memory::ld_shared_f32(address + 8 * 4)] }
}

/// Waits for this half's warpgroup.
#[inline(always)]
unsafe fn barrier<const HALF: u32>() {
    // SAFETY: barrier 1 is the scores warpgroup's, 2 and 3 are the halves'.
    unsafe {
        if HALF == 0 {
            warpgroup_barrier::<2>();
        } else {
            warpgroup_barrier::<3>();
        }
    }
}

impl Cta<'_> {
    /// Address of an output element.
    #[inline(always)]
    fn output_row(&self, segment: &Segment, row: u32, column: u32) -> u64 {
        let [batch_stride, token_stride, head_stride] = self.params.out_strides;
        let head = self.kv_head * self.rows.group.get() + self.rows.head(row);
        let offset = segment.request as i64 * batch_stride
            + self.rows.token(row) as i64 * token_stride
            + head as i64 * head_stride
            + column as i64;
        self.params.out.wrapping_add((offset * 2) as u64)
    }
}
