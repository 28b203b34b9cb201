//! The scores role: S = Q·Kᵀ and the softmax, one block ahead of the values.

use super::super::segments::Segment;
use super::keys::{self, BlockPlace};
use super::queue::Reader;
use super::{Cta, TILE};
use crate::attention::element::Element;
use crate::attention::softmax::{ColumnLimits, OnlineSoftmax};
use crate::attention::unroll;
use crate::ptx::{fence, matrix, memory, special, warp, wgmma};
use crate::sync::warpgroup_barrier;
use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::kernels::dense_decode::{
    PART_BYTES, PART_TILES, REGISTER_QUERY_TILES, SharedPlan, SplitRecord, TILE_BYTES, TILE_COLUMNS, TILE_ROWS,
    VALUE_PARTS,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::fragment::{self, A_REGISTERS};
use oximla_types::layout::tile::Position;
use oximla_types::schedule::BLOCK_KEYS;

/// The named barrier of this warpgroup; the value warpgroups have the next two.
const BARRIER: u32 = 1;

/// Natural logarithm of 2.
const LN_2: f32 = core::f32::consts::LN_2;

/// Runs the role.
///
/// # Safety
/// All threads of the warpgroup call it, `thread` being the number in the warpgroup, after the barriers are
/// initialised.
#[inline(always)]
pub unsafe fn run<E: Element>(cta: &Cta, thread: u32) {
    let lane = thread % WARP_THREADS;
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let mut segments = Reader::new();
        let mut place = BlockPlace::first();
        while let Some(segment) = segments.next() {
            let mut softmax = OnlineSoftmax::new();
            if !segment.blocks.is_empty() {
                let queries = take_queries(cta, place, thread);
                place = place.next();
                let mut block = segment.blocks.begin;
                let last = segment.blocks.end - 1;
                let mut scores: [f32; 32] = core::mem::zeroed();
                multiply::<E>(place, &queries, &mut scores);
                wgmma::wgmma_wait_32::<0>(&mut scores);
                while block < last {
                    probabilities::<E>(cta, &segment, &mut softmax, place, block, &mut scores);
                    block += 1;
                    multiply::<E>(place.next(), &queries, &mut scores);
                    // The values of a block start behind the scores of the next one: the tensor cores multiply them
                    // during its softmax.
                    if lane == 0 {
                        place.probabilities_may().barrier.arrive();
                    }
                    place = place.next();
                    wgmma::wgmma_wait_32::<0>(&mut scores);
                }
                probabilities::<E>(cta, &segment, &mut softmax, place, block, &mut scores);
                if lane == 0 {
                    place.probabilities_may().barrier.arrive();
                }
                place = place.next();
            }
            // Made anew, so that the loop need not keep what only this takes.
            let cta = &Cta::new(cta.params, cta.maps);
            let thread = special::thread_x();
            let (lane, row) = (thread % WARP_THREADS, fragment::accumulator(thread, 0).row);
            let [(sum_0, log_0), (sum_1, log_1)] = softmax.finish();
            keys::norms_free(segments.number()).wait_for_last();
            store_rows(
                special::dynamic_shared() + SharedPlan::ROW_NORM,
                row,
                lane,
                [reciprocal(sum_0), reciprocal(sum_1)],
            );
            keys::norms_full(segments.number()).barrier.arrive();
            if lane % 4 == 0 {
                store_lse(cta, &segment, row, log_0);
                store_lse(cta, &segment, row + 8, log_1);
            }
            if thread == 0 && segment.blocks.begin == 0 {
                record_splits(cta, &segment);
            }
        }
    }
}

/// The softmax of a block: turns scores into probabilities and hands them to the values.
#[inline(always)]
unsafe fn probabilities<E: Element>(
    cta: &Cta,
    segment: &Segment,
    softmax: &mut OnlineSoftmax,
    place: BlockPlace,
    block: u32,
    scores: &mut [f32; 32],
) {
    // SAFETY: the whole warpgroup is here, and none of it multiplies the block's tail any more.
    unsafe {
        // Behind this no warp multiplies the block any more, so that its tail may be overwritten.
        warpgroup_barrier::<BARRIER>();
        let thread = special::thread_x();
        let Position { row, column } = fragment::accumulator(thread, 0);
        let scale = cta.params.scale_log2;
        let is_present = memory::ld_shared_u32(place.is_present()) != 0;
        // The tile's first token sees the fewest keys: blocks below them need no mask.
        let all_see = cta.tile.visible_keys(cta.tile.first_token, segment.len);
        if !is_present || (block + 1) * BLOCK_KEYS > all_see || scale < 0.0 {
            let cta = &Cta::new(cta.params, cta.maps);
            let limit = |row: u32| {
                let visible = cta.tile.visible_keys(cta.tile.token(row), segment.len);
                if is_present { visible.saturating_sub(block * BLOCK_KEYS) } else { 0 }
            };
            ColumnLimits([limit(row), limit(row + 8)]).mask(scores, column, 1_f32.copysign(scale));
        }
        // Not 0, which would make NaN of −∞.
        let correction = softmax.update(scores, scale.abs().max(f32::MIN_POSITIVE));
        store_probabilities::<E>(place.tail(), thread, scores);
        store_rows(place.row_scales(), row, thread % WARP_THREADS, correction);
        fence::fence_proxy_async_shared();
        place.probabilities_full().barrier.arrive();
    }
}

/// Starts `scores = Q·Kᵀ`; returns once it is all on its way.
///
/// The queries of the last part and of the tail are in shared memory, the others in registers.
#[inline(always)]
unsafe fn multiply<E: Element>(place: BlockPlace, queries: &[u32; QUERY_REGISTERS], scores: &mut [f32; 32]) {
    // The exchange makes the addresses the same in all lanes for ptxas to see, which then computes the descriptors in
    // its uniform registers, where `wgmma` wants them. Shared memory's address is taken anew, so that it does not keep
    // the descriptors of all steps in registers from block to block. In a loop ptxas would wait for the tensor cores
    // after each round.
    // SAFETY: the query tiles are visible to the tensor cores since `take_queries`, the key tiles since they landed.
    unsafe {
        let shared_queries = SharedDescriptor::k_major_sw128(special::dynamic_shared() + SharedPlan::Q);
        *scores = core::mem::zeroed();
        wgmma::wgmma_fence_32(scores);
        unroll!(PART in 4 => {
            let keys = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.part(PART as u32), 0));
            place.part_full(PART as u32).wait();
            wgmma::wgmma_fence();
            unroll!(STEP in 8 => {
                const OFFSET: u32 = step_offset(STEP as u32);
                if PART < 3 {
                    const FIRST: usize = if PART < 3 { A_REGISTERS * (8 * PART + STEP) } else { 0 };
                    let queries = [queries[FIRST], queries[FIRST + 1], queries[FIRST + 2], queries[FIRST + 3]];
                    E::multiply_scores_registers(scores, queries, keys.advance(OFFSET));
                } else {
                    E::multiply_scores(scores, shared_queries.advance(OFFSET), keys.advance(OFFSET));
                }
            });
            wgmma::wgmma_commit_group();
        });
        let shared_queries = shared_queries.advance(PART_TILES * TILE_BYTES);
        let keys = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.tail(), 0));
        place.tail_full().wait();
        wgmma::wgmma_fence();
        unroll!(STEP in 4 => {
            const OFFSET: u32 = step_offset(STEP as u32);
            E::multiply_scores(scores, shared_queries.advance(OFFSET), keys.advance(OFFSET));
        });
        wgmma::wgmma_commit_group();
    }
}

/// Where step `step` of 16 columns begins in a row of tiles.
const fn step_offset(step: u32) -> u32 {
    const STEPS: u32 = TILE_COLUMNS / 16;
    step / STEPS * TILE_BYTES + TILE.column_offset(step % STEPS * 16)
}

/// Chunks of 16 bytes across a tile.
const TILE_CHUNKS: u32 = TILE_COLUMNS * 2 / 16;

/// Registers of the query tiles that stay in them: for each step of 16 columns a first operand.
const QUERY_REGISTERS: usize = (REGISTER_QUERY_TILES * TILE_COLUMNS / 16) as usize * A_REGISTERS;

/// Takes the tile's query rows from where the loads have put them: some tiles to registers, the others to where they stay.
#[inline(always)]
unsafe fn take_queries(cta: &Cta, place: BlockPlace, thread: u32) -> [u32; QUERY_REGISTERS] {
    let lane = thread % WARP_THREADS;
    // SAFETY: the tiles have landed; the whole warpgroup is here. Each warp has waited for its last scores.
    unsafe {
        // Behind this no warp multiplies the queries before any more.
        warpgroup_barrier::<BARRIER>();
        let mut queries: [u32; QUERY_REGISTERS] = core::mem::zeroed();
        unroll!(PART in 3 => {
            const { assert!(REGISTER_QUERY_TILES == 3 * PART_TILES) };
            place.part_full(PART as u32).wait();
            let part = place.part(PART as u32);
            unroll!(STEP in 8 => {
                let (row, chunk) = fragment::matrix_chunk(thread, STEP as u32 % 4);
                // Rows that nothing was copied to repeat the first one.
                let row = if row < cta.tile.rows() { row } else { 0 };
                let tile = part + STEP as u32 / 4 * TILE_BYTES;
                let registers = matrix::ldmatrix_x4(tile + TILE.chunk(row, chunk));
                unroll!(I in 4 => { queries[A_REGISTERS * (8 * PART + STEP) + I] = registers[I]; });
            });
        });
        let target = special::dynamic_shared() + SharedPlan::Q;
        place.part_full(VALUE_PARTS - 1).wait();
        copy_tiles(cta, place.part(VALUE_PARTS - 1), target, PART_TILES, thread);
        place.tail_full().wait();
        copy_tiles(cta, place.tail(), target + PART_BYTES, 1, thread);
        fence::fence_proxy_async_shared();
        warpgroup_barrier::<BARRIER>();
        let mut part = 0;
        while part < VALUE_PARTS {
            place.part_free(part).arrive_in_cluster();
            part += 1;
        }
        // Once for each value warpgroup, which would have the probabilities there.
        place.probabilities_free().arrive_in_cluster();
        place.probabilities_free().arrive_in_cluster();
        // No probabilities come to this place, but its barriers take part in all places.
        place.probabilities_full().barrier.arrive();
        if lane == 0 {
            place.probabilities_may().barrier.arrive();
        }
        queries
    }
}

/// Copies tiles of queries within shared memory.
#[inline(always)]
unsafe fn copy_tiles(cta: &Cta, source: u32, target: u32, tiles: u32, thread: u32) {
    let (chunk, mut row) = (thread % TILE_CHUNKS, thread / TILE_CHUNKS);
    while row < tiles * TILE_ROWS {
        let (tile, tile_row) = (row / TILE_ROWS * TILE_BYTES, row % TILE_ROWS);
        let copied = if tile_row < cta.tile.rows() { tile_row } else { 0 };
        // SAFETY: both have room for the tiles.
        unsafe {
            let words = memory::ld_shared_u32x4(source + tile + TILE.chunk(copied, chunk));
            memory::st_shared_u32x4(target + tile + TILE.chunk(tile_row, chunk), words);
        }
        row += WARPGROUP_THREADS / TILE_CHUNKS;
    }
}

/// Rounds the probabilities and stores them as one swizzled tile.
#[inline(always)]
unsafe fn store_probabilities<E: Element>(tile: u32, thread: u32, p: &[f32; 32]) {
    unroll!(STEP in 4 => {
        const PAIRS: [[usize; 2]; 4] = fragment::a_pairs(STEP);
        let matrices = [
            E::pack(p[PAIRS[0][0]], p[PAIRS[0][1]]),
            E::pack(p[PAIRS[1][0]], p[PAIRS[1][1]]),
            E::pack(p[PAIRS[2][0]], p[PAIRS[2][1]]),
            E::pack(p[PAIRS[3][0]], p[PAIRS[3][1]]),
        ];
        let (row, chunk) = fragment::matrix_chunk(thread, STEP as u32);
        let address = tile + TILE.chunk(row, chunk);
        // SAFETY: the address lies in the P tile, which this role owns until it publishes.
        unsafe { matrix::stmatrix_x4(address, matrices) };
    });
}

/// Stores one value a row; the four lanes of a quad hold the same.
#[inline(always)]
unsafe fn store_rows(rows: u32, row: u32, lane: u32, values: [f32; 2]) {
    if lane % 4 == 0 {
        let address = rows + row * 4;
        // SAFETY: within the plan's 64 rows.
        unsafe {
            memory::st_shared_f32(address, values[0]);
            memory::st_shared_f32(address + 8 * 4, values[1]);
        }
    }
}

/// 1/x, and 0 where there was no key: the output then is 0.
#[inline(always)]
fn reciprocal(sum: f32) -> f32 {
    if sum == 0.0 { 0.0 } else { crate::ptx::math::rcp(sum) }
}

/// Stores a row's log-sum-exp: the final one in natural units, a partial one in base 2.
#[inline(always)]
unsafe fn store_lse(cta: &Cta, segment: &Segment, row: u32, log: f32) {
    if !cta.tile.has(row) {
        return;
    }
    // SAFETY: the row is within the tensors.
    unsafe {
        if segment.splits.count == 1 {
            let [batch_stride, head_stride, token_stride] = cta.params.lse_strides;
            let head = cta.kv_head * cta.tile.group + cta.tile.head(row);
            let offset = segment.request as i64 * batch_stride
                + head as i64 * head_stride
                + cta.tile.token(row) as i64 * token_stride;
            let lse = if log == f32::NEG_INFINITY { f32::INFINITY } else { log * LN_2 };
            memory::st_global_f32(cta.params.lse.wrapping_add((offset * 4) as u64), lse);
        } else {
            let address = cta.params.partial.lse + 4 * cta.partial_row(segment, row);
            memory::st_global_f32(address, log);
        }
    }
}

/// Tells the combine kernel how the request was split.
#[inline(always)]
unsafe fn record_splits(cta: &Cta, segment: &Segment) {
    if special::cta_x() == 0 {
        let record = segment.request as u64 * size_of::<SplitRecord>() as u64;
        // SAFETY: there is a record for each request.
        unsafe {
            memory::st_global_u32x2(
                cta.params.partial.splits + record,
                [segment.splits.first, segment.splits.count],
            );
        }
    }
}

impl Cta<'_> {
    /// Index of a row's partial result.
    #[inline(always)]
    pub(super) fn partial_row(&self, segment: &Segment, row: u32) -> u64 {
        let total_rows = self.params.total_rows as u64;
        segment.slot as u64 * total_rows + (self.kv_head * self.params.rows + self.tile.number(row)) as u64
    }
}
