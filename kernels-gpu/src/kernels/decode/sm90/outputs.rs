//! What becomes of one half of the output columns, a *side*, at a segment's end: a final output of a whole request, or a partial one.

use super::super::segments::Segment;
use super::keys::BlockPlace;
use super::values::{own_part, side_barrier};
use super::{Decode, TILE};
use crate::attention::element::{Element, Fp16};
use crate::attention::unroll;
use crate::ptx::{copy, fence, matrix, memory, special, warp};
use oximla_types::kernels::decode::{
    HEAD_DIM_V, PART_COLUMNS, PART_TILES, PartialSide, SIDES, TILE_BYTES, TILE_COLUMNS, TILE_ROWS,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::fragment::ROW_LANES;
use oximla_types::layout::partial;

/// Bytes that a lane stores at a time.
pub(super) const CHUNK_BYTES: u32 = 16;

/// Columns of them.
const CHUNK_COLUMNS: u32 = CHUNK_BYTES / 2;

/// Stores this thread's part of a split request's output, 16 bytes at a time: its columns of 32 next to each other, in fp16
/// (`shared-types/src/layout/partial.rs`).
///
/// # Safety
/// The whole warpgroup calls it.
#[inline(always)]
pub(super) unsafe fn store_partial<D: Decode, const SIDE: u32>(
    kernel: &D,
    segment: &Segment,
    tile_row: u32,
    output: &[[f32; 64]; 2],
    norms: [f32; 2],
) {
    let cta = kernel.cta();
    let thread = special::thread_x();
    let rows = [tile_row, tile_row + 8];
    let has = rows.map(|row| cta.tile.has(row));
    let numbers = rows.map(|row| cta.partial_row::<D>(segment, row));
    let first = own_part::<SIDE>(0) * PART_COLUMNS + partial::first_place(thread);
    let base = numbers.map(|row| {
        let column = row * HEAD_DIM_V as u64 + first as u64;
        cta.params.partial.out + column * partial::COLUMN_BYTES as u64
    });
    // SAFETY: the whole warp is here; rows that there are lie within the partial results.
    unsafe {
        let exponents = exponents(output);
        unroll!(HALF in 2 => {
            if thread.is_multiple_of(ROW_LANES) && has[HALF] {
                let side = cta.params.partial.sides + (numbers[HALF] * SIDES as u64 + SIDE as u64) * SIDE_BYTES;
                let scale = side + core::mem::offset_of!(PartialSide, scale) as u64;
                memory::st_global_f32(scale, norms[HALF] * partial::unscale(exponents[HALF]));
            }
        });
        let scales = again(exponents.map(partial::scale));
        unroll!(PART in 2 => { unroll!(GROUP in 4 => {
            const COLUMNS: u32 = SIDES * PART_COLUMNS * PART as u32 + partial::GROUP_COLUMNS * GROUP as u32;
            unroll!(HALF in 2 => {
                let words = partial::REGISTER_PAIRS.map(|pair| {
                    let register = partial::GROUP_REGISTERS * GROUP + 2 * HALF + pair;
                    let [low, high] = [output[PART][register], output[PART][register + 1]];
                    Fp16::pack(low * scales[HALF], high * scales[HALF])
                });
                let at = base[HALF] + (COLUMNS * partial::COLUMN_BYTES) as u64;
                memory::st_global_u32x4_if(has[HALF], at, words);
            });
        }); });
    }
}

/// Bytes of what is told of a side.
const SIDE_BYTES: u64 = size_of::<PartialSide>() as u64;

/// The exponents by which the thread's two rows are stored, as far as this side goes.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn exponents(output: &[[f32; 64]; 2]) -> [u32; 2] {
    const { assert!(ROW_LANES == 4) };
    let mut largest = [0; 2];
    unroll!(PART in 2 => { unroll!(I in 16 => { unroll!(HALF in 2 => {
        let register = 4 * I + 2 * HALF;
        let [low, high] = [output[PART][register], output[PART][register + 1]].map(partial::magnitude);
        largest[HALF] = largest[HALF].max(low).max(high);
    }); }); });
    largest.map(|own| {
        // SAFETY: as the caller promises.
        unsafe {
            let own = own.max(warp::shfl_bfly::<1>(own));
            partial::exponent(own.max(warp::shfl_bfly::<2>(own)))
        }
    })
}

/// Puts the normalised output where the values of the last block were, which this side has kept, and lets the copy engine store it; lets
/// go of the parts when it has read them.
///
/// # Safety
/// The whole warpgroup calls it, for an output that is not split; the map is that of the output.
#[inline(always)]
pub(super) unsafe fn copy_out<D: Decode, const SIDE: u32>(
    kernel: &D,
    segment: &Segment,
    place: BlockPlace<D>,
    output: &[[f32; 64]; 2],
    norm: [f32; 2],
) {
    const { assert!(PART_TILES == 2 && TILE_COLUMNS == 64, "four steps of 16 columns a tile") };
    let (norm, thread) = (again(norm), special::thread_x() % WARPGROUP_THREADS);
    let (warp, lane) = (thread / WARP_THREADS, thread % WARP_THREADS);
    // A lane gives the address of one row of one of four matrices: rows 0 to 7 and 8 to 15 of the warp's, of eight columns and the
    // next ones.
    let row = TILE.chunk(MATRIX_ROWS * 2 * warp + lane % (2 * MATRIX_ROWS), lane / (2 * MATRIX_ROWS));
    let [head, token, batch] = kernel.out_coordinates(segment.request);
    // A warp for each part sees to its copies.
    let copies = |part: usize| thread == part as u32 * WARP_THREADS;
    // SAFETY: nobody else uses the parts once all warps of this side are done with them; whole warps are here.
    unsafe {
        side_barrier::<SIDE>();
        unroll!(PART in 2 => {
            let part = place.part(own_part::<SIDE>(PART as u32));
            unroll!(STEP in 8 => {
                const TILE_OF_PART: u32 = STEP as u32 / 4;
                const CHUNK: u32 = STEP as u32 % 4 * 2 * CHUNK_BYTES;
                let matrices = [[0, 0], [2, 1], [4, 0], [6, 1]].map(|[pair, half]| {
                    let [low, high] = [0, 1].map(|i| output[PART][8 * STEP + pair + i] * norm[half]);
                    D::Element::pack(low, high)
                });
                matrix::stmatrix_x4((part + row + TILE_OF_PART * TILE_BYTES) ^ CHUNK, matrices);
            });
            fence::fence_proxy_async_shared();
            side_barrier::<SIDE>();
            if copies(PART) {
                unroll!(TILE_OF_PART in 2 => {
                    let number = own_part::<SIDE>(PART as u32) * PART_TILES + TILE_OF_PART as u32;
                    let coordinates = [(number * TILE_COLUMNS) as i32, head, token, batch];
                    let source = part + TILE_OF_PART as u32 * TILE_BYTES;
                    copy::cp_async_bulk_tensor_4d_store(kernel.out_map(), coordinates, source);
                });
                copy::cp_async_bulk_commit_group();
            }
        });
        unroll!(PART in 2 => {
            if copies(PART) {
                copy::cp_async_bulk_wait_group_read::<0>();
            }
            warp::warp_sync();
            place.part_free(own_part::<SIDE>(PART as u32)).arrive_in_cluster::<D>();
        });
    }
}

/// Rows of a matrix that `stmatrix` stores.
const MATRIX_ROWS: u32 = 8;

/// Stores this thread's part of the normalised output, 16 bytes at a time: the four lanes of a row first share out its columns.
///
/// # Safety
/// The whole warpgroup calls it; stored rows are within the tensors.
#[inline(always)]
pub(super) unsafe fn store<D: Decode, const SIDE: u32>(
    kernel: &D,
    segment: &Segment,
    tile_row: u32,
    output: &[[f32; 64]; 2],
    norm: [f32; 2],
) {
    let (norm, lane) = (again(norm), special::thread_x() % ROW_LANES);
    let first = own_part::<SIDE>(0) * PART_COLUMNS + lane * CHUNK_COLUMNS;
    let rows = [tile_row, tile_row + 8];
    let has = rows.map(|row| kernel.cta().tile.has(row));
    let base = rows.map(|row| row_address(kernel, segment.request, row) + (first * 2) as u64);
    unroll!(PART in 2 => { unroll!(STEP in 4 => {
        const COLUMNS: u32 = 2 * PART_COLUMNS * PART as u32 + ROW_LANES * CHUNK_COLUMNS * STEP as u32;
        unroll!(HALF in 2 => {
            let mut words = [0; 4];
            unroll!(GROUP in 4 => {
                const FIRST: usize = 16 * STEP + 4 * GROUP + 2 * HALF;
                words[GROUP] =
                    D::Element::pack(output[PART][FIRST] * norm[HALF], output[PART][FIRST + 1] * norm[HALF]);
            });
            // SAFETY: as the caller promises; the whole warp is here.
            unsafe {
                let words = share_out(words, lane);
                memory::st_global_u32x4_if(has[HALF], base[HALF] + (COLUMNS * 2) as u64, words);
            }
        });
    }); });
}

/// Of four lanes that have a word of each of four chunks, gives each lane one chunk, its own number's, with the words in the lanes'
/// order.
///
/// # Safety
/// The whole warp calls it; `lane` is the number among the four.
#[inline(always)]
pub(super) unsafe fn share_out(words: [u32; 4], lane: u32) -> [u32; 4] {
    // In each lane, register `i` is for what goes to or comes from the lane whose number differs by the bits of `i`.
    let [own, a, b, c] = xor_order(words, lane);
    // SAFETY: as the caller promises.
    let shared = unsafe { [own, warp::shfl_bfly::<1>(a), warp::shfl_bfly::<2>(b), warp::shfl_bfly::<3>(c)] };
    xor_order(shared, lane)
}

/// Brings element `i ^ lane` to place `i`.
#[inline(always)]
fn xor_order([a, b, c, d]: [u32; 4], lane: u32) -> [u32; 4] {
    let [a, b, c, d] = if lane & 1 != 0 { [b, a, d, c] } else { [a, b, c, d] };
    if lane & 2 != 0 { [c, d, a, b] } else { [a, b, c, d] }
}

/// The same factors, so that nothing is multiplied by them before it is stored.
#[inline(always)]
fn again(factors: [f32; 2]) -> [f32; 2] {
    factors.map(|x| f32::from_bits(special::again(x.to_bits())))
}

/// Address of a row of the output.
#[inline(always)]
pub fn row_address<D: Decode>(kernel: &D, request: u32, row: u32) -> u64 {
    let cta = kernel.cta();
    let offset = kernel.output_offset(request, cta.tile.token(row), cta.head(row));
    cta.params.out.wrapping_add((offset * 2) as u64)
}

/// Stores zeros for a request without keys.
///
/// # Safety
/// The whole warpgroup calls it.
#[inline(always)]
pub(super) unsafe fn store_nothing<D: Decode, const SIDE: u32>(kernel: &D, segment: &Segment) {
    /// Of a part.
    const CHUNKS: u32 = PART_COLUMNS * 2 / CHUNK_BYTES;
    let thread = special::thread_x() % WARPGROUP_THREADS;
    let mut row = thread / CHUNKS;
    while row < TILE_ROWS {
        if kernel.cta().tile.has(row) {
            let at = row_address(kernel, segment.request, row) + (thread % CHUNKS * CHUNK_BYTES) as u64;
            unroll!(PART in 2 => {
                let columns = own_part::<SIDE>(PART as u32) * PART_COLUMNS;
                // SAFETY: the row is within the tensor.
                unsafe { memory::st_global_u32x4(at + (columns * 2) as u64, [0; 4]) };
            });
        }
        row += WARPGROUP_THREADS / CHUNKS;
    }
}
