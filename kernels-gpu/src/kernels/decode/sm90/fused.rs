//! The combination within a decode: where a cluster has all splits of a request, a CTA each, and they are few.
//!
//! Each CTA leaves its partial results in the workspace, as for the combine kernel. When all of the cluster have, each combines its
//! share of the tile's rows, every sixteenth, and no other kernel need begin. CTAs of a cluster run side by side, so none waits for
//! one that cannot begin, and the cluster's barrier needs no memory that would have to be cleared.
//!
//! A warp of a values warpgroup has a row, as far as its side's columns go: each lane what one thread has stored of a group of columns
//! (`shared-types/src/layout/partial.rs`).

use super::super::segments::Segment;
use super::outputs::{CHUNK_BYTES, row_address, share_out};
use super::values::own_part;
use super::{Decode, WARPGROUP_WARPS};
use crate::attention::element::{Element, Fp16};
use crate::attention::merge;
use crate::attention::sink;
use crate::attention::softmax;
use crate::attention::unroll;
use crate::ptx::{math, memory, special, warp};
use crate::sync::cluster_barrier;
use oximla_types::kernels::decode::{FUSED_CTAS, HEAD_DIM_V, PART_COLUMNS, PartialSide, SIDES, TILE_ROWS};
use oximla_types::launch::WARP_THREADS;
use oximla_types::layout::fragment::ROW_LANES;
use oximla_types::layout::partial::{COLUMN_BYTES, STORED_PLACES};

const _: () = {
    assert!(STORED_PLACES * COLUMN_BYTES == CHUNK_BYTES && STORED_PLACES == 2 * ROW_LANES);
    assert!(WARP_THREADS * STORED_PLACES * SIDES == HEAD_DIM_V, "a lane has one chunk of a row's side");
    assert!(FUSED_CTAS == 2 * HALF && HALF == 8 && FUSED_CTAS <= WARP_THREADS);
    assert!(FUSED_CTAS * WARPGROUP_WARPS == TILE_ROWS, "a warp has one row");
};

/// Splits that are added without asking whether there are so many.
const HALF: u32 = FUSED_CTAS / 2;

/// Waits for the cluster's partial results. Threads that have stored none of them may have ended instead.
///
/// # Safety
/// Whole warps call it, all that have stored something of a partial result, once.
#[inline(always)]
pub unsafe fn meet() {
    // SAFETY: as the caller promises.
    unsafe { cluster_barrier() }
}

/// Combines this CTA's share of the rows, as far as the side's columns go. `segment` is the CTA's.
///
/// # Safety
/// The whole warpgroup calls it, when it has stored its partial results.
#[inline(always)]
pub(super) unsafe fn combine<D: Decode, const SIDE: u32>(kernel: &D, segment: &Segment) {
    // SAFETY: as the caller promises; warps are whole.
    unsafe {
        meet();
        // Exchanged, so that ptxas knows that all lanes go the same way.
        let warp = warp::shfl_idx(special::thread_x() / WARP_THREADS % WARPGROUP_WARPS, 0);
        let row = special::cta_y() % FUSED_CTAS + FUSED_CTAS * warp;
        if kernel.cta().tile.has(row) {
            combine_row::<D, SIDE>(kernel, segment, row);
        }
    }
}

/// Combines one row's side. All that it needs is asked for at once.
///
/// # Safety
/// The whole warp calls it; the partial results are there.
#[inline(always)]
unsafe fn combine_row<D: Decode, const SIDE: u32>(kernel: &D, segment: &Segment, row: u32) {
    const CHUNKS: u32 = PART_COLUMNS / STORED_PLACES;
    let cta = kernel.cta();
    let params = cta.params;
    let splits = segment.splits.count;
    let lane = special::thread_x() % WARP_THREADS;
    let first = cta.slot_row(special::cta_y() / FUSED_CTAS * FUSED_CTAS, row);
    let place = own_part::<SIDE>(lane / CHUNKS) * PART_COLUMNS + lane % CHUNKS * STORED_PLACES;
    let row_bytes = (HEAD_DIM_V * COLUMN_BYTES) as u64;
    let stride = params.total_rows as u64 * row_bytes;
    let mut address = params.partial.out + first * row_bytes + (place * COLUMN_BYTES) as u64;
    let (mut lse, mut scale) = (f32::NEG_INFINITY, 0.0);
    let mut chunks = [[0; 4]; FUSED_CTAS as usize];
    // SAFETY: as the caller promises; the row is within the tensors.
    unsafe {
        if lane < splits {
            let side = (first + lane as u64 * params.total_rows as u64) * SIDES as u64 + SIDE as u64;
            let side = params.partial.sides + side * size_of::<PartialSide>() as u64;
            [lse, scale] = memory::ld_global_u32x2(side).map(f32::from_bits);
        }
        let mut load = |split: usize| {
            if (split as u32) < splits {
                chunks[split] = memory::ld_global_u32x4(address);
            }
            address += stride;
        };
        unroll!(S in 8 => { load(S); });
        if splits > HALF {
            unroll!(S in 8 => { load(S + HALF as usize); });
        }
        let sink = kernel.sink(row);
        let log = merge::log_sum_exp2([lse]);
        let weight = merge::weight(lse, log);
        let own = if weight == 0.0 { 0.0 } else { weight * scale };
        let mut columns = [[0.0; 2]; 4];
        let mut add = |split: usize| {
            let weight = f32::from_bits(warp::shfl_idx(own.to_bits(), split as u32));
            unroll!(I in 4 => {
                // What has no weight counts for nothing, whatever it is.
                let pair = Fp16::unpack(if weight == 0.0 { 0 } else { chunks[split][I] });
                columns[I][0] = math::fma(weight, pair[0], columns[I][0]);
                columns[I][1] = math::fma(weight, pair[1], columns[I][1]);
            });
        };
        unroll!(S in 8 => { add(S); });
        if splits > HALF {
            unroll!(S in 8 => { add(S + HALF as usize); });
        }
        let factor = sink::factor(sink, log);
        let words = columns.map(|[low, high]| D::Element::pack(low * factor, high * factor));
        // The four lanes that have stored a group have each a pair of each eight columns.
        let words = share_out(words, lane % ROW_LANES);
        let at = row_address(kernel, segment.request, row) + (place * COLUMN_BYTES) as u64;
        memory::st_global_u32x4(at, words);
        if SIDE == 0 && lane == 0 {
            let offset = kernel.lse_offset(segment.request, cta.tile.token(row), cta.head(row));
            let lse = softmax::final_lse(log);
            memory::st_global_f32(params.lse.wrapping_add((offset * 4) as u64), lse);
        }
    }
}
