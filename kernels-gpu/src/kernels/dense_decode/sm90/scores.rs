//! The scores role: S = Q·Kᵀ and the softmax, one block ahead of the values.

use super::super::segments::{NO_REQUEST, Segment};
use super::keys::{self, BlockPlace};
use super::{Cta, TILE};
use crate::attention::element::Element;
use crate::attention::softmax::{ColumnLimits, OnlineSoftmax};
use crate::attention::unroll;
use crate::ptx::{copy, fence, matrix, memory, special, warp, wgmma};
use crate::sync::warpgroup_barrier;
use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::kernels::dense_decode::{
    REGISTER_QUERY_TILES, SHARED_QUERY_TILES, SharedPlan, SplitRecord, TILE_BYTES, TILE_COLUMNS, TILE_ROWS,
    VALUE_TILES,
};
use oximla_types::launch::WARP_THREADS;
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
    // A thread holds parts of two rows, this one and the one 8 below.
    let row = fragment::accumulator(thread, 0).row;
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let mut segment_count = 0;
        let mut segments = cta.segments(lane);
        let mut request = segments.peek_request();
        ask_for_queries(cta, request, thread);
        let mut queries = load_queries(cta, request);
        let mut place = BlockPlace::first();
        while let Some(segment) = segments.next() {
            request = segments.peek_request();
            wait_for_queries();
            // The tile's first row sees the fewest keys: blocks below them need no mask.
            let all_see = cta.rows.visible_keys(cta.first_row, segment.len);
            let mut softmax = OnlineSoftmax::new();
            let mut block = segment.blocks.begin;
            while block < segment.blocks.end {
                let page = keys::page_of(cta.params, segment.request, block);
                let mut scores: [f32; 32] = core::mem::zeroed();
                multiply::<E>(place, &queries, &mut scores);
                // The values of the last block start behind the scores of this one: the tensor cores multiply them
                // during the softmax.
                if block > segment.blocks.begin {
                    place.earlier(1).values_may(0).barrier.arrive();
                }
                wgmma::wgmma_wait_all_32(&mut scores);
                // Behind this no warp multiplies any more, so that queries and tail may be overwritten.
                warpgroup_barrier::<BARRIER>();
                block += 1;
                if block == segment.blocks.end {
                    ask_for_queries(cta, request, thread);
                }

                let scale = cta.params.scale_log2;
                if !keys::is_present(page) || block * BLOCK_KEYS > all_see || scale < 0.0 {
                    let cta = &Cta::new(cta.params, cta.kv_map);
                    let Position { row, column } = fragment::accumulator(special::thread_x(), 0);
                    let limit = |row: u32| {
                        let visible = cta.rows.visible_keys(cta.first_row + row, segment.len);
                        if keys::is_present(page) {
                            visible.saturating_sub((block - 1) * BLOCK_KEYS)
                        } else {
                            0
                        }
                    };
                    ColumnLimits([limit(row), limit(row + 8)]).mask(
                        &mut scores,
                        column,
                        1_f32.copysign(scale),
                    );
                }
                // Not 0, which would make NaN of −∞.
                let correction = softmax.update(&mut scores, scale.abs().max(f32::MIN_POSITIVE));
                store_probabilities::<E>(place.tail(), thread, &scores);
                store_rows(place.row_scales(), row, lane, correction);
                fence::fence_proxy_async_shared();
                place.probabilities_full().barrier.arrive();
                place = place.later(1);
            }
            if segment.blocks.is_empty() {
                ask_for_queries(cta, request, thread);
            } else {
                place.earlier(1).values_may(0).barrier.arrive();
            }
            queries = load_queries(cta, request);
            // Made anew, so that the loop need not keep what only this takes.
            let cta = &Cta::new(cta.params, cta.kv_map);
            let thread = special::thread_x();
            let (lane, row) = (thread % WARP_THREADS, fragment::accumulator(thread, 0).row);
            let [(sum_0, log_0), (sum_1, log_1)] = softmax.finish();
            keys::norms_free(segment_count).wait_for_last();
            store_rows(
                special::dynamic_shared() + SharedPlan::ROW_NORM,
                row,
                lane,
                [reciprocal(sum_0), reciprocal(sum_1)],
            );
            keys::norms_full(segment_count).barrier.arrive();
            segment_count += 1;
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

/// Starts `scores = Q·Kᵀ`; returns once it is all on its way.
///
/// `queries` are the left tiles, the others are in shared memory.
#[inline(always)]
unsafe fn multiply<E: Element>(place: BlockPlace, queries: &[u32; QUERY_REGISTERS], scores: &mut [f32; 32]) {
    // The exchange makes the addresses the same in all lanes for ptxas to see, which then computes the descriptors in
    // its uniform registers, where `wgmma` wants them. Shared memory's address is taken anew, so that it does not keep
    // the descriptors of all steps in registers from block to block.
    // SAFETY: the query tiles are visible to the tensor cores since `wait_for_queries`, the key tiles since they landed.
    // In a loop ptxas would wait for the tensor cores after each round.
    unsafe {
        let a = SharedDescriptor::k_major_sw128(special::dynamic_shared() + SharedPlan::Q);
        let left = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.half(0), 0));
        let right = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.half(1), 0));
        let tail = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.tail(), 0));
        const { assert!(REGISTER_QUERY_TILES == VALUE_TILES && VALUE_TILES == 4) };

        place.half_full(0).wait();
        wgmma::wgmma_fence_32(scores);
        unroll!(STEP in 16 => {
            let a = [queries[4 * STEP], queries[4 * STEP + 1], queries[4 * STEP + 2], queries[4 * STEP + 3]];
            E::multiply_scores_registers(scores, a, left.advance(step_offset(STEP as u32)));
        });
        wgmma::wgmma_commit_group();

        place.half_full(1).wait();
        wgmma::wgmma_fence();
        unroll!(STEP in 16 => {
            const OFFSET: u32 = step_offset(STEP as u32);
            E::multiply_scores(scores, a.advance(OFFSET), right.advance(OFFSET));
        });
        wgmma::wgmma_commit_group();

        place.tail_full().wait();
        let a = a.advance(VALUE_TILES * TILE_BYTES);
        wgmma::wgmma_fence();
        unroll!(STEP in 4 => {
            const OFFSET: u32 = step_offset(STEP as u32);
            E::multiply_scores(scores, a.advance(OFFSET), tail.advance(OFFSET));
        });
        wgmma::wgmma_commit_group();
    }
}

/// Where step `step` of 16 columns begins in a row of tiles.
const fn step_offset(step: u32) -> u32 {
    const STEPS: u32 = TILE_COLUMNS / 16;
    step / STEPS * TILE_BYTES + TILE.column_offset(step % STEPS * 16)
}

/// Registers of the query tiles that stay in them: for each step of 16 columns a first operand.
const QUERY_REGISTERS: usize = (REGISTER_QUERY_TILES * TILE_COLUMNS / 16) as usize * A_REGISTERS;

/// Loads this thread's part of the left query tiles of a request.
#[inline(always)]
unsafe fn load_queries(cta: &Cta, request: u32) -> [u32; QUERY_REGISTERS] {
    // SAFETY: numbers may be zero.
    let mut queries: [u32; QUERY_REGISTERS] = unsafe { core::mem::zeroed() };
    if request == NO_REQUEST {
        return queries;
    }
    // SAFETY: as for the first one.
    let cta = &unsafe { Cta::new(cta.params, cta.kv_map) };
    let position = fragment::accumulator(special::thread_x(), 0);
    let address = |row: u32| {
        // What rows past the end compute is not stored.
        let row = if row < cta.rows.count { row } else { 0 };
        cta.query_row(request, row) + (position.column * 2) as u64
    };
    let rows = [address(cta.first_row + position.row), address(cta.first_row + position.row + 8)];
    // SAFETY: rows within `count` are within the tensor.
    unsafe {
        unroll!(STEP in 16 => {
            const { assert!(4 * 16 == QUERY_REGISTERS) };
            const BYTES: u64 = STEP as u64 * 16 * 2;
            queries[4 * STEP] = memory::ld_global_u32(rows[0] + BYTES);
            queries[4 * STEP + 1] = memory::ld_global_u32(rows[1] + BYTES);
            queries[4 * STEP + 2] = memory::ld_global_u32(rows[0] + BYTES + 16);
            queries[4 * STEP + 3] = memory::ld_global_u32(rows[1] + BYTES + 16);
        });
    }
    queries
}

/// Starts to copy the tile's query rows of a request to shared memory, swizzled, but for the columns that stay in
/// registers; rows past the end become zeros.
#[inline(always)]
unsafe fn ask_for_queries(cta: &Cta, request: u32, thread: u32) {
    const CHUNK_BYTES: u32 = 16;
    const CHUNKS: u32 = 8;
    const ROWS_AT_A_TIME: u32 = 16;
    const FIRST_COLUMN_BYTES: u64 = (REGISTER_QUERY_TILES * TILE_COLUMNS * 2) as u64;
    let chunk = thread % CHUNKS;
    if request == NO_REQUEST {
        return;
    }
    // SAFETY: as for the first one. Made anew, so that the loop need not keep what only this takes.
    let cta = &unsafe { Cta::new(cta.params, cta.kv_map) };
    // SAFETY: rows within `count` are within the tensor.
    unsafe {
        let mut tile_row = thread / CHUNKS;
        while tile_row < TILE_ROWS {
            let row = cta.first_row + tile_row;
            let bytes = if row < cta.rows.count { CHUNK_BYTES } else { 0 };
            let row = if row < cta.rows.count { row } else { 0 };
            let source = cta.query_row(request, row) + FIRST_COLUMN_BYTES + (chunk * CHUNK_BYTES) as u64;
            let target = special::dynamic_shared() + SharedPlan::Q + TILE.chunk(tile_row, chunk);
            unroll!(TILE in 5 => {
                const { assert!(SHARED_QUERY_TILES == 5) };
                copy::cp_async_16(target + TILE as u32 * TILE_BYTES, source + TILE as u64 * 128, bytes);
            });
            tile_row += ROWS_AT_A_TIME;
        }
    }
}

/// Waits until the queries that were asked for are there, for all of the warpgroup.
#[inline(always)]
unsafe fn wait_for_queries() {
    copy::cp_async_wait_all();
    fence::fence_proxy_async_shared();
    // SAFETY: the whole warpgroup is here.
    unsafe { warpgroup_barrier::<BARRIER>() };
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
unsafe fn store_lse(cta: &Cta, segment: &Segment, tile_row: u32, log: f32) {
    let row = cta.first_row + tile_row;
    if row >= cta.rows.count {
        return;
    }
    // SAFETY: the row is within the tensors.
    unsafe {
        if segment.splits.count == 1 {
            let [batch_stride, head_stride, token_stride] = cta.params.lse_strides;
            let head = cta.kv_head * cta.rows.group.get() + cta.rows.head(row);
            let offset = segment.request as i64 * batch_stride
                + head as i64 * head_stride
                + cta.rows.token(row) as i64 * token_stride;
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
    if cta.kv_head == 0 && cta.first_row == 0 {
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
    /// Address of a query.
    #[inline(always)]
    fn query_row(&self, request: u32, row: u32) -> u64 {
        let [batch_stride, token_stride, head_stride] = self.params.q_strides;
        let head = self.kv_head * self.rows.group.get() + self.rows.head(row);
        let offset = request as i64 * batch_stride
            + self.rows.token(row) as i64 * token_stride
            + head as i64 * head_stride;
        self.params.q.wrapping_add((offset * 2) as u64)
    }

    /// Index of a row's partial result.
    #[inline(always)]
    pub(super) fn partial_row(&self, segment: &Segment, row: u32) -> u64 {
        let total_rows = self.params.total_rows as u64;
        segment.slot as u64 * total_rows + (self.kv_head * self.rows.count + row) as u64
    }
}
