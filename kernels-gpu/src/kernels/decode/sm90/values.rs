//! The values role: O = O·scale + P·V for one half of the columns, and the copies of that half's tiles.

use super::super::segments::Segment;
use super::keys::{self, BlockPlace};
use super::queue::Reader;
use super::{Decode, TILE, TILE_STEPS, VALUES_BARRIERS, WARPGROUP_WARPS};
use crate::attention::element::Element;
use crate::attention::unroll;
use crate::ptx::{fence, matrix, memory, special, warp, wgmma};
use crate::sync::warpgroup_barrier;
use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::kernels::decode::{
    HEAD_DIM_V, PART_TILES, TILE_BYTES, TILE_COLUMNS, TILE_ROWS, VALUE_PARTS,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::{fragment, partial};
use oximla_types::schedule::BLOCK_KEYS;

/// Bytes of 16 keys of a tile: one step of `wgmma` along V.
const STEP_BYTES: u32 = TILE.row_offset(16);

/// Columns of a part.
const PART_COLUMNS: u32 = PART_TILES * TILE_COLUMNS;

/// Rows of a warp.
const WARP_ROWS: u32 = TILE_ROWS / WARPGROUP_WARPS;

/// Bytes of a lane's share of a line.
const CHUNK_BYTES: u32 = 16;

/// Lanes that write a line: a tile's row.
const LINE_LANES: u32 = TILE.row_offset(1) / CHUNK_BYTES;

const _: () = assert!(VALUE_PARTS == 4 && PART_COLUMNS == 128, "two parts a side, of 64 accumulators each");

/// Runs the role for the left (0) or right (1) half of the value columns.
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
                multiply::<D, SIDE>(place, &mut output, D::STORES_DIRECTLY || remaining > 1);
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
            if segment.splits.count != 1 {
                let norms = take_norms();
                if !D::STORES_DIRECTLY && !segment.blocks.is_empty() {
                    let_go::<D, SIDE>(place.before());
                }
                store_partial::<D, SIDE>(kernel, &segment, row, &output, norms);
            } else if D::STORES_DIRECTLY {
                store_directly::<D, SIDE>(kernel, &segment, row, &output, take_norms());
            } else if segment.blocks.is_empty() {
                take_norms();
                store_nothing::<D, SIDE>(kernel, &segment);
            } else {
                store::<D, SIDE>(kernel, &segment, place.before(), &output, take_norms());
            }
            segments.release();
        }
        segments.release();
    }
}

/// Number of the first (0) or second (1) part that this side multiplies: every other one.
const fn own_part<const SIDE: u32>(part: u32) -> u32 {
    2 * part + SIDE
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
        barrier::<SIDE>();
    }
}

/// `output += P·V`, part by part; lets go of each, but for the last ones of a segment.
#[inline(always)]
unsafe fn multiply<D: Decode, const SIDE: u32>(
    place: BlockPlace<D>,
    output: &mut [[f32; 64]; 2],
    lets_go: bool,
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
        if lets_go {
            place.part_free(own_part::<SIDE>(0)).arrive_in_cluster::<D>();
        }
        wgmma::wgmma_wait_64::<0>(&mut output[1]);
        if lets_go {
            place.part_free(own_part::<SIDE>(1)).arrive_in_cluster::<D>();
        }
    }
}

/// Lets go of this side's parts of a segment's last block.
///
/// # Safety
/// The whole warp calls it, with the place of the segment's last block, whose own parts it has kept.
#[inline(always)]
unsafe fn let_go<D: Decode, const SIDE: u32>(last: BlockPlace<D>) {
    // SAFETY: as the caller promises.
    unsafe {
        last.part_free(own_part::<SIDE>(0)).arrive_in_cluster::<D>();
        last.part_free(own_part::<SIDE>(1)).arrive_in_cluster::<D>();
    }
}

/// Stores this thread's part of a split request's normalised output, 16 bytes at a time: its columns of 16 next to each other
/// (`shared-types/src/layout/partial.rs`).
///
/// # Safety
/// The whole warpgroup calls it.
#[inline(always)]
unsafe fn store_partial<D: Decode, const SIDE: u32>(
    kernel: &D,
    segment: &Segment,
    tile_row: u32,
    output: &[[f32; 64]; 2],
    norm: [f32; 2],
) {
    let cta = kernel.cta();
    let first = own_part::<SIDE>(0) * PART_COLUMNS + partial::first_place(special::thread_x());
    let rows = [tile_row, tile_row + 8];
    let has = rows.map(|row| cta.tile.has(row));
    let base = rows.map(|row| {
        let element = cta.partial_row(segment, row) * HEAD_DIM_V as u64 + first as u64;
        cta.params.partial.out + 4 * element
    });
    unroll!(PART in 2 => { unroll!(I in 8 => {
        const GROUP: u32 = 2 * PART_COLUMNS * PART as u32 + partial::GROUP_COLUMNS * I as u32;
        unroll!(HALF in 2 => {
            let columns = partial::REGISTERS.map(|register| {
                let register = partial::GROUP_REGISTERS * I + 2 * HALF + register;
                (output[PART][register] * norm[HALF]).to_bits()
            });
            // SAFETY: rows that there are lie within the partial results.
            unsafe { memory::st_global_u32x4_if(has[HALF], base[HALF] + 4 * GROUP as u64, columns) };
        });
    }); });
}

/// Stores this side's columns of the normalised output. They go by way of the segment's last parts, so that whole lines are
/// written, and those are let go of then.
///
/// # Safety
/// The whole warpgroup calls it, with the place of the segment's last block, whose own parts it has kept.
#[inline(always)]
unsafe fn store<D: Decode, const SIDE: u32>(
    kernel: &D,
    segment: &Segment,
    last: BlockPlace<D>,
    output: &[[f32; 64]; 2],
    norm: [f32; 2],
) {
    let thread = special::thread_x() % WARPGROUP_THREADS;
    let parts = [last.part(own_part::<SIDE>(0)), last.part(own_part::<SIDE>(1))];
    let tiles = |tile: u32| parts[(tile / PART_TILES) as usize] + tile % PART_TILES * TILE_BYTES;
    // SAFETY: each warp stores its own rows of the tiles and reads those; stored rows are within the tensors.
    unsafe {
        // Behind this no warp multiplies the parts any more.
        barrier::<SIDE>();
        let norm = again(norm);
        let (row, chunk) = fragment::matrix_chunk(thread, 0);
        let first = TILE.chunk(row, chunk);
        unroll!(PART in 2 => { unroll!(STEP in 8 => {
            let within = special::again(first) ^ TILE.column_offset(16 * (STEP % TILE_STEPS) as u32);
            let of_step = |e: usize| output[PART][8 * STEP + e] * norm[e / 2 % 2];
            let matrices = [
                D::Element::pack(of_step(0), of_step(1)),
                D::Element::pack(of_step(2), of_step(3)),
                D::Element::pack(of_step(4), of_step(5)),
                D::Element::pack(of_step(6), of_step(7)),
            ];
            let tile = tiles(PART_TILES * PART as u32 + (STEP / TILE_STEPS) as u32);
            matrix::stmatrix_x4(tile + within, matrices);
        }); });
        write_lines::<D, SIDE>(kernel, segment, tiles);
        // The copy engine may write there next.
        fence::fence_proxy_async_shared();
        warp::warp_sync();
        let_go::<D, SIDE>(last);
    }
}

/// The same norms, so that nothing is multiplied by them before it is stored.
#[inline(always)]
fn again(norm: [f32; 2]) -> [f32; 2] {
    norm.map(|x| f32::from_bits(special::again(x.to_bits())))
}

/// Writes what this warp has stored in its 16 rows of this side's four tiles to the output, line by line.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn write_lines<D: Decode, const SIDE: u32>(kernel: &D, segment: &Segment, tiles: impl Fn(u32) -> u32) {
    let thread = special::thread_x() % WARPGROUP_THREADS;
    let column_bytes = |tile: u32| {
        let columns = own_part::<SIDE>(tile / PART_TILES) * PART_COLUMNS + tile % PART_TILES * TILE_COLUMNS;
        (columns * 2) as u64
    };
    // SAFETY: as the caller promises; rows that there are lie within the tensor.
    unsafe {
        warp::warp_sync();
        unroll!(STEP in 4 => {
            let row = thread / WARP_THREADS * WARP_ROWS
                + STEP as u32 * (WARP_THREADS / LINE_LANES)
                + thread % WARP_THREADS / LINE_LANES;
            let chunk = TILE.chunk(row, thread % LINE_LANES);
            let mut words = [[0; 4]; 4];
            unroll!(I in 4 => { words[I] = memory::ld_shared_u32x4(tiles(I as u32) + chunk); });
            if kernel.cta().tile.has(row) {
                let at = row_address(kernel, segment, row) + (thread % LINE_LANES * CHUNK_BYTES) as u64;
                unroll!(I in 4 => { memory::st_global_u32x4(at + column_bytes(I as u32), words[I]); });
            }
        });
    }
}

/// Address of a row of the output.
#[inline(always)]
fn row_address<D: Decode>(kernel: &D, segment: &Segment, row: u32) -> u64 {
    let cta = kernel.cta();
    let offset = kernel.output_offset(segment.request, cta.tile.token(row), cta.head(row));
    cta.params.out.wrapping_add((offset * 2) as u64)
}

/// Stores zeros for a request without keys.
///
/// # Safety
/// The whole warpgroup calls it.
#[inline(always)]
unsafe fn store_nothing<D: Decode, const SIDE: u32>(kernel: &D, segment: &Segment) {
    /// Of a part.
    const CHUNKS: u32 = PART_COLUMNS * 2 / CHUNK_BYTES;
    let thread = special::thread_x() % WARPGROUP_THREADS;
    let mut row = thread / CHUNKS;
    while row < TILE_ROWS {
        if kernel.cta().tile.has(row) {
            let at = row_address(kernel, segment, row) + (thread % CHUNKS * CHUNK_BYTES) as u64;
            unroll!(PART in 2 => {
                let columns = own_part::<SIDE>(PART as u32) * PART_COLUMNS;
                // SAFETY: the row is within the tensor.
                unsafe { memory::st_global_u32x4(at + (columns * 2) as u64, [0; 4]) };
            });
        }
        row += WARPGROUP_THREADS / CHUNKS;
    }
}

/// Stores this thread's part of the normalised output. Each warp's stores touch eight lines however narrow they are; for kernels
/// that may not write to their parts.
///
/// # Safety
/// The whole warpgroup calls it.
#[inline(always)]
unsafe fn store_directly<D: Decode, const SIDE: u32>(
    kernel: &D,
    segment: &Segment,
    tile_row: u32,
    output: &[[f32; 64]; 2],
    norm: [f32; 2],
) {
    let column = own_part::<SIDE>(0) * PART_COLUMNS + 2 * (special::thread_x() % 4);
    unroll!(HALF in 2 => {
        let row = tile_row + 8 * HALF as u32;
        if kernel.cta().tile.has(row) {
            let base = row_address(kernel, segment, row) + (column * 2) as u64;
            let norm = again(norm);
            unroll!(PART in 2 => { unroll!(I in 16 => {
                const FIRST: usize = 4 * I + 2 * HALF;
                let [a, b] = [output[PART][FIRST] * norm[HALF], output[PART][FIRST + 1] * norm[HALF]];
                const COLUMNS: u32 = 2 * PART_COLUMNS * PART as u32 + 8 * I as u32;
                // SAFETY: the row is within the tensor.
                unsafe { memory::st_global_u32(base + (COLUMNS * 2) as u64, D::Element::pack(a, b)) };
            }); });
        }
    });
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
unsafe fn barrier<const SIDE: u32>() {
    // SAFETY: each is one warpgroup's.
    unsafe {
        if SIDE == 0 {
            warpgroup_barrier::<{ VALUES_BARRIERS[0] }>();
        } else {
            warpgroup_barrier::<{ VALUES_BARRIERS[1] }>();
        }
    }
}
