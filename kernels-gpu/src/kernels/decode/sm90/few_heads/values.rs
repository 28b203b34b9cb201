//! The values of few heads, transposed: `Oᵀ = Oᵀ·scale + Vᵀ·Pᵀ`.

use super::super::keys::{self, BlockPlace};
use super::super::outputs::{CHUNK_BYTES, SIDE_BYTES, store_nothing};
use super::super::queue::Reader;
use super::super::{Decode, TILE, VALUES_BARRIERS, WARPGROUP_WARPS};
use super::{THREAD_HEADS, TILE_REGISTERS, head_of, load_heads};
use crate::attention::element::{Bf16, Element, Fp16};
use crate::attention::unroll;
use crate::kernels::decode::segments::Segment;
use crate::ptx::{copy, fence, matrix, memory, special, warp, wgmma};
use crate::sync::warpgroup_barrier;
use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::kernels::decode::{
    FEW_HEADS, HEAD_DIM_V, PART_TILES, PartialSide, SIDES, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::fragment::{self, ROW_LANES};
use oximla_types::layout::partial;

/// Tiles of all value columns.
const VALUE_TILES: usize = (VALUE_PARTS * PART_TILES) as usize;

/// A thread's accumulators, tile by tile: rows are columns of the output.
type Output = [[f32; TILE_REGISTERS]; VALUE_TILES];

const _: () = assert!(TILE_REGISTERS == 8 && VALUE_TILES == 8 && VALUE_PARTS == 4 && PART_TILES == 2);

/// Runs the values role.
///
/// # Safety
/// All threads of the warpgroup call it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<D: Decode<Element = Bf16>>(kernel: &D) {
    const { assert!(D::FEW_HEADS && D::ZERO_FILLED && !D::FUSED && !D::TURNS) };
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let mut segments = Reader::<D>::new();
        let mut place = BlockPlace::<D>::first();
        while let Some(segment) = segments.peek() {
            let mut output: Output = core::mem::zeroed();
            let mut remaining = segment.blocks.end.saturating_sub(segment.blocks.begin);
            while remaining > 0 {
                place.probabilities_full().wait();
                rescale(place, &mut output);
                multiply(place, &mut output);
                // Where the last block's values were the output is put.
                if remaining > 1 {
                    // Row scales are read by all lanes.
                    warp::warp_sync();
                    place.probabilities_free().arrive_in_cluster::<D>();
                }
                place = place.next();
                remaining -= 1;
            }
            let kernel = &kernel.again();
            kernel.rotate_columns_back(&segments.reread(), &mut output[VALUE_TILES - 1]);
            let number = segments.peeked();
            keys::norms_full::<D>(number).wait();
            let segment = segments.reread();
            let norms = load_heads(special::dynamic_shared() + D::PLAN.row_norm, special::thread_x());
            keys::norms_free::<D>(number).barrier.arrive();
            if segment.splits.count != 1 {
                // Each part of what is split has blocks.
                store_partial(kernel, &segment, place.last(), &output, norms);
            } else if segment.blocks.is_empty() {
                store_nothing::<D, 0>(kernel, &segment);
                store_nothing::<D, 1>(kernel, &segment);
            } else {
                copy_out(kernel, &segment, place.last(), &output, norms);
            }
            segments.release();
        }
        segments.release();
    }
}

/// Multiplies the output by the row scales; skipped where no head of the warp has a new maximum.
#[inline(always)]
unsafe fn rescale<D: Decode>(place: BlockPlace<D>, output: &mut Output) {
    // SAFETY: the row scales are full; the whole warp is here.
    unsafe {
        let scales = load_heads(place.row_scales(), special::thread_x());
        if warp::ballot(scales.iter().any(|scale| *scale != 1.0)) != 0 {
            unroll!(TILE_NUMBER in 8 => { unroll!(I in 8 => {
                output[TILE_NUMBER][I] *= scales[head_of(I)];
            }); });
        }
    }
}

/// `output += Vᵀ·Pᵀ`.
#[inline(always)]
unsafe fn multiply<D: Decode<Element = Bf16>>(place: BlockPlace<D>, output: &mut Output) {
    /// Bytes of 16 keys of a tile, and of 16 of a row of probabilities: one step of `wgmma`.
    const V_STEP_BYTES: u32 = TILE.row_offset(16);
    const P_STEP_BYTES: u32 = TILE.column_offset(16);
    // The exchange makes the addresses the same in all lanes for ptxas to see.
    // SAFETY: the whole warpgroup is here. P is full and fenced; the tiles landed before the scores of this block were computed.
    unsafe {
        let p = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.tail(), 0));
        wgmma::wgmma_fence();
        unroll!(PART in 4 => {
            let part = warp::shfl_idx(place.part(PART as u32), 0);
            unroll!(TILE_OF_PART in 2 => {
                // One panel of 64 columns: its stride to the next one is not used.
                let v = SharedDescriptor::mn_major_sw128(part + TILE_OF_PART as u32 * TILE_BYTES, TILE_BYTES);
                unroll!(STEP in 4 => {
                    let (v, p) = (v.advance(STEP as u32 * V_STEP_BYTES), p.advance(STEP as u32 * P_STEP_BYTES));
                    wgmma::wgmma_m64n16k16_bf16_at(&mut output[2 * PART + TILE_OF_PART], v, p);
                });
            });
        });
        wgmma::wgmma_commit_group();
        unroll!(TILE_NUMBER in 8 => { wgmma::wgmma_wait_8::<0>(&mut output[TILE_NUMBER]); });
    }
}

/// Puts a tile of the output where the values of the last block were, its heads multiplied by `scales`: a row is a head's 64 columns.
/// The thread has a part of it.
///
/// # Safety
/// The whole warpgroup calls it, done with the values.
#[inline(always)]
unsafe fn put<D: Decode, E: Element>(
    place: BlockPlace<D>,
    number: usize,
    tile: &[f32; TILE_REGISTERS],
    scales: [f32; THREAD_HEADS],
) {
    let thread = special::thread_x() % WARPGROUP_THREADS;
    let (warp, lane) = (thread / WARP_THREADS, thread % WARP_THREADS);
    // A warp has 16 columns of each tile. A lane gives the address of one head of one of four matrices: eight columns and the next ones
    // of the first eight heads, then of the others.
    let row = TILE.chunk(lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2);
    let matrices = [0, 2, 4, 6].map(|i| {
        let [low, high] = [i, i + 1].map(|i| tile[i] * scales[head_of(i)]);
        E::pack(low, high)
    });
    // SAFETY: nobody else uses the parts; whole warps are here.
    unsafe { matrix::stmatrix_x4_trans(output_tile(place, number as u32) + row, matrices) };
}

/// Where a tile of the output is put.
#[inline(always)]
fn output_tile<D: Decode>(place: BlockPlace<D>, tile: u32) -> u32 {
    place.part(tile / PART_TILES) + tile % PART_TILES * TILE_BYTES
}

/// Puts the normalised output where the values of the last block were, and lets the copy engine store it; lets go of the parts when it
/// has read them.
///
/// # Safety
/// The whole warpgroup calls it; the map is that of the output.
#[inline(always)]
unsafe fn copy_out<D: Decode>(
    kernel: &D,
    segment: &Segment,
    place: BlockPlace<D>,
    output: &Output,
    norms: [f32; THREAD_HEADS],
) {
    let thread = special::thread_x() % WARPGROUP_THREADS;
    let (warp, lane) = (thread / WARP_THREADS, thread % WARP_THREADS);
    let [head, token, batch] = kernel.out_coordinates(segment.request);
    // SAFETY: nobody else uses the parts once all warps are done with them; whole warps are here.
    unsafe {
        warpgroup_barrier::<{ VALUES_BARRIERS[0] }>();
        unroll!(TILE_NUMBER in 8 => { put::<D, D::Element>(place, TILE_NUMBER, &output[TILE_NUMBER], norms); });
        fence::fence_proxy_async_shared();
        warpgroup_barrier::<{ VALUES_BARRIERS[0] }>();
        // Each warp sees to a part's copies.
        if lane == 0 {
            let part = place.part(warp);
            unroll!(TILE_OF_PART in 2 => {
                let number = PART_TILES * warp + TILE_OF_PART as u32;
                let coordinates = [(number * TILE_COLUMNS) as i32, head, token, batch];
                let source = part + TILE_OF_PART as u32 * TILE_BYTES;
                copy::cp_async_bulk_tensor_4d_store(kernel.out_map(), coordinates, source);
            });
            copy::cp_async_bulk_commit_group();
            copy::cp_async_bulk_wait_group_read::<0>();
        }
        warp::warp_sync();
        place.probabilities_free().arrive_in_cluster::<D>();
    }
}

/// Heads of the output that a warp stores.
const WARP_HEADS: u32 = FEW_HEADS / WARPGROUP_WARPS;

/// Lanes that store a head's columns of a tile, 16 bytes each.
const HEAD_LANES: u32 = TILE_COLUMNS / partial::STORED_PLACES;

const _: () = assert!(WARP_HEADS * HEAD_LANES == WARP_THREADS);
const _: () = assert!(partial::STORED_PLACES * partial::COLUMN_BYTES == CHUNK_BYTES);

/// Puts a split request's output where the values of the last block were, from where it is stored in fp16
/// (`shared-types/src/layout/partial.rs`); lets go of the parts.
///
/// # Safety
/// The whole warpgroup calls it.
#[inline(always)]
unsafe fn store_partial<D: Decode>(
    kernel: &D,
    segment: &Segment,
    place: BlockPlace<D>,
    output: &Output,
    norms: [f32; THREAD_HEADS],
) {
    let thread = special::thread_x() % WARPGROUP_THREADS;
    let (warp, lane) = (thread / WARP_THREADS, thread % WARP_THREADS);
    let (cta, results) = (kernel.cta(), &kernel.cta().params.partial);
    // SAFETY: nobody else uses the parts once all warps are done with them; heads that there are lie within the partial results.
    unsafe {
        warpgroup_barrier::<{ VALUES_BARRIERS[0] }>();
        // One side after the other, which takes fewer registers.
        unroll!(SIDE in 2 => {
            let exponents = exponents::<D, SIDE>(place, output);
            // The first lanes have all heads.
            if thread < ROW_LANES {
                unroll!(HEAD in 4 => {
                    let head = fragment::accumulator(thread, head_register(HEAD)).column;
                    if cta.tile.has(head) {
                        let side = cta.partial_row::<D>(segment, head) * SIDES as u64 + SIDE as u64;
                        let scale = side * SIDE_BYTES + core::mem::offset_of!(PartialSide, scale) as u64;
                        let unscale = partial::unscale(exponents[HEAD]);
                        memory::st_global_f32(results.sides + scale, norms[HEAD] * unscale);
                    }
                });
            }
            let scales = exponents.map(partial::scale);
            unroll!(TILE_NUMBER in 8 => {
                if side_of(TILE_NUMBER) == SIDE {
                    put::<D, Fp16>(place, TILE_NUMBER, &output[TILE_NUMBER], scales);
                }
            });
        });
        warpgroup_barrier::<{ VALUES_BARRIERS[0] }>();
        let head = warp * WARP_HEADS + lane / HEAD_LANES;
        let chunk = lane % HEAD_LANES;
        let has = cta.tile.has(head);
        let column = cta.partial_row::<D>(segment, head) * HEAD_DIM_V as u64;
        let columns = results.out + column * partial::COLUMN_BYTES as u64 + (chunk * CHUNK_BYTES) as u64;
        unroll!(TILE_NUMBER in 8 => {
            let tile = output_tile(place, TILE_NUMBER as u32);
            let mut words = [0; 4];
            // A lane's columns of a group are two of each eight.
            unroll!(EIGHT in 4 => {
                const WORDS: u32 = partial::STORED_PLACES / 2;
                let eight = chunk / WORDS * WORDS + EIGHT as u32;
                words[EIGHT] = memory::ld_shared_u32(tile + TILE.chunk(head, eight) + chunk % WORDS * 4);
            });
            const TILE_OFFSET: u32 = TILE_NUMBER as u32 * TILE_COLUMNS * partial::COLUMN_BYTES;
            memory::st_global_u32x4_if(has, columns + TILE_OFFSET as u64, words);
        });
        warp::warp_sync();
        place.probabilities_free().arrive_in_cluster::<D>();
    }
}

/// The side of a tile's columns: of every other part.
const fn side_of(tile: usize) -> usize {
    tile / PART_TILES as usize % SIDES as usize
}

/// The first accumulator of one of the thread's heads.
const fn head_register(head: usize) -> u32 {
    (head / 2 * 4 + head % 2) as u32
}

/// The exponents by which one side of the thread's heads is stored.
///
/// # Safety
/// The whole warpgroup calls it, done with the values at `place`, and nobody else uses them.
#[inline(always)]
unsafe fn exponents<D: Decode, const SIDE: usize>(
    place: BlockPlace<D>,
    output: &Output,
) -> [u32; THREAD_HEADS] {
    let mut largest = [0; THREAD_HEADS];
    unroll!(TILE_NUMBER in 8 => {
        if side_of(TILE_NUMBER) == SIDE {
            unroll!(I in 8 => {
                let known = largest[head_of(I)];
                largest[head_of(I)] = partial::magnitude(output[TILE_NUMBER][I]).max(known);
            });
        }
    });
    let thread = special::thread_x() % WARPGROUP_THREADS;
    let (warp, lane) = (thread / WARP_THREADS, thread % WARP_THREADS);
    // What each warp has found, behind the rows where the side's first tile is put: the heads of each of four lanes.
    let found = place.part(SIDE as u32) + TILE.row_offset(FEW_HEADS) + lane % ROW_LANES * HEADS_BYTES;
    // SAFETY: nobody else uses the parts; whole warps are here.
    unsafe {
        // Among the lanes with the same heads.
        largest = largest.map(|own| {
            let own = own.max(warp::shfl_bfly::<4>(own));
            let own = own.max(warp::shfl_bfly::<8>(own));
            own.max(warp::shfl_bfly::<16>(own))
        });
        if lane < ROW_LANES {
            memory::st_shared_u32x4(found + warp * WARP_FOUND_BYTES, largest);
        }
        warpgroup_barrier::<{ VALUES_BARRIERS[0] }>();
        unroll!(WARP in 4 => {
            let other = memory::ld_shared_u32x4(found + WARP as u32 * WARP_FOUND_BYTES);
            unroll!(HEAD in 4 => { largest[HEAD] = other[HEAD].max(largest[HEAD]); });
        });
    }
    largest.map(partial::exponent)
}

/// Bytes of a word for each of a thread's heads.
const HEADS_BYTES: u32 = size_of::<[u32; THREAD_HEADS]>() as u32;

/// Bytes of a word for each head.
const WARP_FOUND_BYTES: u32 = ROW_LANES * HEADS_BYTES;
