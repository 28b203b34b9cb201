//! The scores role: S = Q·Kᵀ and the softmax, one block ahead of the values.

use super::super::segments::Segment;
use super::keys::{self, BlockPlace};
use super::queue::Reader;
use super::{Decode, SCORES_BARRIERS, TILE, TILE_STEPS};
use crate::attention::element::Element;
use crate::attention::sink;
use crate::attention::softmax::{self, OnlineSoftmax};
use crate::attention::unroll;
use crate::ptx::{fence, math, matrix, memory, special, warp, wgmma};
use crate::sync::warpgroup_barrier;
use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::kernels::decode::{
    PART_TILES, PartialSide, SIDES, SplitRecord, TILE_BYTES, TILE_COLUMNS, TILE_ROWS, VALUE_PARTS,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::fragment::{self, A_REGISTERS};
use oximla_types::layout::tile::Position;

/// The named barrier of this warpgroup.
const BARRIER: u32 = SCORES_BARRIERS[0];

/// Natural logarithm of 2.
const LN_2: f32 = core::f32::consts::LN_2;

/// Runs the role.
///
/// # Safety
/// All threads of the warpgroup call it, `thread` being the number in the warpgroup, after the barriers are
/// initialised.
#[inline(always)]
pub unsafe fn run<D: Decode>(kernel: &D, thread: u32) {
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let mut segments = Reader::<D>::new();
        let mut place = BlockPlace::<D>::first();
        while let Some(segment) = if D::SPARES_REGISTERS { segments.peek() } else { segments.next() } {
            let mut softmax = RowsSoftmax::new();
            if !segment.blocks.is_empty() {
                let queries = take_queries(kernel, place, thread);
                place = place.next();
                let mut remaining = segment.blocks.end - segment.blocks.begin;
                let mut scores: [f32; 32] = core::mem::zeroed();
                multiply(place, &queries, &mut scores);
                wgmma::wgmma_wait_32::<0>(&mut scores);
                while remaining > 1 {
                    let block = segment.blocks.end - remaining;
                    probabilities(kernel, &segment, &mut softmax, place, block, &mut scores);
                    remaining -= 1;
                    multiply(place.next(), &queries, &mut scores);
                    place = place.next();
                    wgmma::wgmma_wait_32::<0>(&mut scores);
                }
                probabilities(kernel, &segment, &mut softmax, place, segment.blocks.end - 1, &mut scores);
                place = place.next();
            }
            // Made anew, so that the loop need not keep what only this takes.
            let kernel = &kernel.again();
            let (segment, number) = if D::SPARES_REGISTERS {
                (segments.reread(), segments.peeked())
            } else {
                (segment, segments.number())
            };
            let thread = special::thread_x();
            let (lane, row) = (thread % WARP_THREADS, fragment::accumulator(thread, 0).row);
            let sinks = sinks(kernel, &segment, row);
            let rows = softmax.online.finish();
            keys::norms_free::<D>(number).wait_for_last();
            finish(kernel, &segment, number, lane, row, sinks, rows, softmax.largest);
            if D::SPARES_REGISTERS {
                segments.release();
            }
        }
        if D::SPARES_REGISTERS {
            segments.release();
        }
    }
}

/// The sinks that count for a thread's two rows: in final results. Asked for before anyone must know.
#[inline(always)]
pub fn sinks<D: Decode>(kernel: &D, segment: &Segment, row: u32) -> [f32; 2] {
    if D::SINKS && !D::FUSED && segment.splits.count == 1 {
        [kernel.sink(row), kernel.sink(row + 8)]
    } else {
        [sink::NONE; 2]
    }
}

/// Tells what came of a segment's rows: norms to the values, denominators to the caller. A row is its softmax denominator and
/// that one's logarithm with the maximum.
#[inline(always)]
pub(super) unsafe fn finish<D: Decode>(
    kernel: &D,
    segment: &Segment,
    number: u32,
    lane: u32,
    row: u32,
    sinks: [f32; 2],
    [(sum_0, log_0), (sum_1, log_1)]: [(f32, f32); 2],
    largest: [f32; 2],
) {
    // SAFETY: the norms before have been read; rows are stored by one warpgroup.
    unsafe {
        let norms = [norm::<D>(sum_0, log_0, sinks[0]), norm::<D>(sum_1, log_1, sinks[1])];
        store_rows(special::dynamic_shared() + D::PLAN.row_norm, row, lane, norms);
        keys::norms_full::<D>(number).barrier.arrive();
        if lane % 4 == 0 {
            store_lse(kernel, segment, row, log_0);
            store_lse(kernel, segment, row + 8, log_1);
            if D::MAX_LOGITS {
                store_max_logit(kernel, segment, row, largest[0], log_0);
                store_max_logit(kernel, segment, row + 8, largest[1], log_1);
            }
        }
        if D::SPLITS && !D::FUSED && lane == 0 && row == 0 && segment.blocks.begin == 0 {
            record_splits(kernel, segment);
        }
    }
}

/// The softmax of a thread's two rows.
struct RowsSoftmax {
    online: OnlineSoftmax,
    /// The largest scores so far, scaled as the softmax has them, in kernels that tell them: its own maximum may lag behind.
    largest: [f32; 2],
}

impl RowsSoftmax {
    /// Before the first block.
    #[inline(always)]
    fn new() -> Self {
        Self { online: OnlineSoftmax::new(), largest: [f32::NEG_INFINITY; 2] }
    }

    /// As of [`OnlineSoftmax::update`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn update<D: Decode>(&mut self, scores: &mut [f32; 32], scale_log2: f32) -> [f32; 2] {
        // SAFETY: as the caller promises.
        let (correction, max) = unsafe { self.online.update(scores, scale_log2) };
        if D::MAX_LOGITS {
            self.largest = [math::max(self.largest[0], max[0]), math::max(self.largest[1], max[1])];
        }
        correction
    }
}

/// The softmax of a block: turns scores into probabilities and hands them to the values.
#[inline(always)]
unsafe fn probabilities<D: Decode>(
    kernel: &D,
    segment: &Segment,
    softmax: &mut RowsSoftmax,
    place: BlockPlace<D>,
    block: u32,
    scores: &mut [f32; 32],
) {
    // SAFETY: the whole warpgroup is here, and none of it multiplies the block's tail any more.
    unsafe {
        // Behind this no warp multiplies the block any more, so that its tail may be overwritten.
        warpgroup_barrier::<BARRIER>();
        let thread = special::thread_x();
        let first = fragment::accumulator(thread, 0);
        let scale = kernel.cta().params.scale_log2;
        kernel.mask(segment, place, block, first, scores);
        let Position { row, .. } = first;
        // Not 0, which would make NaN of −∞.
        let correction = softmax.update::<D>(scores, scale.abs().max(f32::MIN_POSITIVE));
        // In either order, but not for ptxas.
        if D::SPARES_REGISTERS {
            store_rows(place.row_scales(), row, thread % WARP_THREADS, correction);
        }
        store_probabilities::<D::Element>(place.tail(), thread, scores);
        if !D::SPARES_REGISTERS {
            store_rows(place.row_scales(), row, thread % WARP_THREADS, correction);
        }
        fence::fence_proxy_async_shared();
        place.probabilities_full().barrier.arrive();
    }
}

/// Starts `scores = Q·Kᵀ`; returns once it is all on its way.
///
/// The first query tiles are in registers, the others in shared memory.
#[inline(always)]
pub(super) unsafe fn multiply<D: Decode>(
    place: BlockPlace<D>,
    queries: &[u32; QUERY_REGISTERS],
    scores: &mut [f32; 32],
) {
    // The exchange makes the addresses the same in all lanes for ptxas to see, which then computes the descriptors in
    // its uniform registers, where `wgmma` wants them. Shared memory's address is taken anew, so that it does not keep
    // the descriptors of all steps in registers from block to block. In a loop ptxas would wait for the tensor cores
    // after each round.
    // SAFETY: the query tiles are visible to the tensor cores since `take_queries`, the key tiles since they landed.
    unsafe {
        let shared_queries = SharedDescriptor::k_major_sw128(special::dynamic_shared() + D::PLAN.q);
        *scores = core::mem::zeroed();
        wgmma::wgmma_fence_32(scores);
        unroll!(PART in 4 => {
            let keys = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.part(PART as u32), 0));
            place.part_full(PART as u32).wait();
            see_keys::<D>();
            wgmma::wgmma_fence();
            unroll!(STEP in 8 => {
                let keys = keys.advance(step_offset(STEP as u32));
                const TILE: usize = PART * PART_TILES as usize + STEP / TILE_STEPS;
                if TILE < D::REGISTER_QUERY_TILES {
                    let queries = register_step(queries, TILE_STEPS * TILE + STEP % TILE_STEPS);
                    D::Element::multiply_scores_registers(scores, queries, keys);
                } else {
                    let tile = (TILE - D::REGISTER_QUERY_TILES) as u32;
                    let queries = shared_queries.advance(tile * TILE_BYTES + step_offset((STEP % TILE_STEPS) as u32));
                    D::Element::multiply_scores(scores, queries, keys);
                }
            });
            if !D::TURNS {
                wgmma::wgmma_commit_group();
            }
        });
        place.tail_full().wait();
        if D::TAIL {
            see_keys::<D>();
            const TAIL_TILE: usize = (VALUE_PARTS * PART_TILES) as usize;
            let tiles = TAIL_TILE.saturating_sub(D::REGISTER_QUERY_TILES) as u32;
            let shared_queries = shared_queries.advance(tiles * TILE_BYTES);
            let keys = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.tail(), 0));
            wgmma::wgmma_fence();
            unroll!(STEP in 4 => {
                const OFFSET: u32 = step_offset(STEP as u32);
                if TAIL_TILE < D::REGISTER_QUERY_TILES {
                    let queries = register_step(queries, TILE_STEPS * TAIL_TILE + STEP);
                    D::Element::multiply_scores_registers(scores, queries, keys.advance(OFFSET));
                } else {
                    D::Element::multiply_scores(scores, shared_queries.advance(OFFSET), keys.advance(OFFSET));
                }
            });
            if !D::TURNS {
                wgmma::wgmma_commit_group();
            }
        }
        if D::TURNS {
            wgmma::wgmma_commit_group();
        }
    }
}

/// Makes keys that threads have stored visible to the tensor cores; to those of the values, too, which multiply them after
/// this warpgroup.
#[inline(always)]
pub(super) fn see_keys<D: Decode>() {
    if D::UNFENCED_KEYS {
        fence::fence_proxy_async_shared();
    }
}

/// A step's first operand.
#[inline(always)]
fn register_step(queries: &[u32; QUERY_REGISTERS], step: usize) -> [u32; A_REGISTERS] {
    let first = if step < QUERY_REGISTERS / A_REGISTERS { A_REGISTERS * step } else { 0 };
    [queries[first], queries[first + 1], queries[first + 2], queries[first + 3]]
}

/// Where step `step` of 16 columns begins in a row of tiles.
const fn step_offset(step: u32) -> u32 {
    const STEPS: u32 = TILE_STEPS as u32;
    step / STEPS * TILE_BYTES + TILE.column_offset(step % STEPS * 16)
}

/// Chunks of 16 bytes across a tile.
const TILE_CHUNKS: u32 = TILE_COLUMNS * 2 / 16;

/// Query tiles in registers at most.
const MAX_REGISTER_TILES: usize = 9;

/// Registers of the query tiles that stay in them: for each step of 16 columns a first operand. Kernels that keep fewer
/// tiles there leave the last ones unused.
pub(super) const QUERY_REGISTERS: usize = MAX_REGISTER_TILES * TILE_STEPS * A_REGISTERS;

/// Takes the tile's query rows from where the loads have put them: some tiles to registers, the others to where they stay.
#[inline(always)]
unsafe fn take_queries<D: Decode>(kernel: &D, place: BlockPlace<D>, thread: u32) -> [u32; QUERY_REGISTERS] {
    const { assert!(D::REGISTER_QUERY_TILES <= MAX_REGISTER_TILES) };
    let rows = kernel.cta().tile.rows();
    // SAFETY: the tiles have landed; the whole warpgroup is here. Each warp has waited for its last scores.
    unsafe {
        // Behind this no warp multiplies the queries before any more.
        warpgroup_barrier::<BARRIER>();
        let mut queries: [u32; QUERY_REGISTERS] = core::mem::zeroed();
        let target = special::dynamic_shared() + D::PLAN.q;
        // Where the thread's chunk of a tile's first step lies. Those of the others follow from it.
        let is_asked_anew = D::SPARES_REGISTERS || D::FUSED && D::TAIL;
        let asked_anew = if is_asked_anew { warp::shfl_bfly::<0>(thread) } else { thread };
        let (row, chunk) = fragment::matrix_chunk(asked_anew, 0);
        // Rows that nothing was copied to repeat the first one.
        let first_chunk = TILE.chunk(if row < rows { row } else { 0 }, chunk);
        unroll!(PART in 4 => {
            place.part_full(PART as u32).wait();
            let part = place.part(PART as u32);
            const TILES: usize = PART_TILES as usize;
            unroll!(STEP in 8 => {
                const TILE_NUMBER: usize = TILES * PART + STEP / TILE_STEPS;
                if TILE_NUMBER < D::REGISTER_QUERY_TILES && TILE_NUMBER < MAX_REGISTER_TILES {
                    let tile = part + STEP as u32 / TILE_STEPS as u32 * TILE_BYTES;
                    let step = TILE.column_offset(16 * (STEP % TILE_STEPS) as u32);
                    let first_chunk = if D::KEEPS_CHUNKS { first_chunk } else { special::again(first_chunk) };
                    let registers = matrix::ldmatrix_x4(tile + (first_chunk ^ step));
                    const FIRST: usize = if TILE_NUMBER < MAX_REGISTER_TILES {
                        A_REGISTERS * (TILE_STEPS * TILE_NUMBER + STEP % TILE_STEPS)
                    } else {
                        0
                    };
                    unroll!(I in 4 => { queries[FIRST + I] = registers[I]; });
                }
            });
            let in_registers = D::REGISTER_QUERY_TILES.saturating_sub(TILES * PART);
            if in_registers < TILES {
                let first = (TILES * PART + in_registers - D::REGISTER_QUERY_TILES) as u32 * TILE_BYTES;
                let copied = part + in_registers as u32 * TILE_BYTES;
                copy_tiles(rows, copied, target + first, (TILES - in_registers) as u32, thread);
            }
        });
        place.tail_full().wait();
        if D::TAIL {
            let tail = (VALUE_PARTS * PART_TILES) as usize - D::REGISTER_QUERY_TILES;
            copy_tiles(rows, place.tail(), target + tail as u32 * TILE_BYTES, 1, thread);
        }
        fence::fence_proxy_async_shared();
        warpgroup_barrier::<BARRIER>();
        let mut part = 0;
        while part < VALUE_PARTS {
            place.part_free(part).arrive_in_cluster::<D>();
            part += 1;
        }
        // Once for each value warpgroup, which would have the probabilities there.
        place.probabilities_free().arrive_in_cluster::<D>();
        place.probabilities_free().arrive_in_cluster::<D>();
        // No probabilities come to this place, but its barriers take part in all places.
        place.probabilities_full().barrier.arrive();
        queries
    }
}

/// Copies tiles of queries within shared memory.
#[inline(always)]
unsafe fn copy_tiles(rows: u32, source: u32, target: u32, tiles: u32, thread: u32) {
    const ROWS: u32 = WARPGROUP_THREADS / TILE_CHUNKS;
    let (chunk, mut row) = (thread % TILE_CHUNKS, thread / TILE_CHUNKS);
    while row < tiles * TILE_ROWS {
        // Two at a time: neither waits for the other.
        let mut words = [[0; 4]; 2];
        // SAFETY: both have room for the tiles.
        unsafe {
            unroll!(I in 2 => {
                let row = row + I as u32 * ROWS;
                let (tile, tile_row) = (row / TILE_ROWS * TILE_BYTES, row % TILE_ROWS);
                let copied = if tile_row < rows { tile_row } else { 0 };
                words[I] = memory::ld_shared_u32x4(source + tile + TILE.chunk(copied, chunk));
            });
            unroll!(I in 2 => {
                let row = row + I as u32 * ROWS;
                let (tile, tile_row) = (row / TILE_ROWS * TILE_BYTES, row % TILE_ROWS);
                memory::st_shared_u32x4(target + tile + TILE.chunk(tile_row, chunk), words[I]);
            });
        }
        row += 2 * ROWS;
    }
}

/// Rounds the probabilities and stores them as one swizzled tile.
#[inline(always)]
pub(super) unsafe fn store_probabilities<E: Element>(tile: u32, thread: u32, p: &[f32; 32]) {
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
pub(super) unsafe fn store_rows(rows: u32, row: u32, lane: u32, values: [f32; 2]) {
    if lane % 4 == 0 {
        let address = rows + row * 4;
        // SAFETY: within the plan's 64 rows.
        unsafe {
            memory::st_shared_f32(address, values[0]);
            memory::st_shared_f32(address + 8 * 4, values[1]);
        }
    }
}

/// What a row of the output is multiplied by: 1 by its sum, of which `log` is the base-2 logarithm, and what the sink makes of it;
/// 0 where there was no key.
#[inline(always)]
pub fn norm<D: Decode>(sum: f32, log: f32, sink: f32) -> f32 {
    if sum == 0.0 {
        0.0
    } else if D::SINKS {
        math::rcp(sum) * sink::factor(sink, log)
    } else {
        math::rcp(sum)
    }
}

/// Bytes of what is told of a row's sides.
const SIDES_BYTES: u64 = SIDES as u64 * size_of::<PartialSide>() as u64;

/// Stores a row's log-sum-exp: the final one in natural units, a partial one in base 2.
///
/// # Safety
/// The segment is one of the kernel's, whose outputs are live tensors.
#[inline(always)]
pub unsafe fn store_lse<D: Decode>(kernel: &D, segment: &Segment, row: u32, log: f32) {
    let cta = kernel.cta();
    if !cta.tile.has(row) {
        return;
    }
    // SAFETY: the row is within the tensors.
    unsafe {
        if !D::FUSED && segment.splits.count == 1 {
            let offset = kernel.lse_offset(segment.request, cta.tile.token(row), cta.head(row));
            let lse = softmax::final_lse(log);
            memory::st_global_f32(cta.params.lse.wrapping_add((offset * 4) as u64), lse);
        } else {
            let sides = cta.params.partial.sides + cta.partial_row::<D>(segment, row) * SIDES_BYTES;
            memory::st_global_f32(sides, log);
            memory::st_global_f32(sides + size_of::<PartialSide>() as u64, log);
        }
    }
}

/// Stores a row's largest scaled score, in natural units; NaN where the row's sum, whose base-2 logarithm is `log`, is.
#[inline(always)]
unsafe fn store_max_logit<D: Decode>(kernel: &D, segment: &Segment, row: u32, largest: f32, log: f32) {
    let cta = kernel.cta();
    if cta.tile.has(row) {
        let address = kernel.max_logit_address(segment.request, cta.tile.token(row), cta.head(row));
        // A maximum drops a NaN, a sum does not.
        let max_logit = if log.is_nan() { log } else { largest * LN_2 };
        // SAFETY: the row is within the tensor.
        unsafe { memory::st_global_f32(address, max_logit) };
    }
}

/// What the loads have stored as a block's key mask.
///
/// # Safety
/// It is there.
#[inline(always)]
pub unsafe fn key_mask<D: Decode>(place: BlockPlace<D>) -> [u32; 2] {
    // SAFETY: as the caller promises.
    unsafe { [memory::ld_shared_u32(place.key_mask()), memory::ld_shared_u32(place.key_mask() + 4)] }
}

/// Masks by a bit a key: multiplies the scores by the sign of the scale, and makes those of keys that there are not −∞. As of
/// [`Decode::mask`], where all rows see the same keys.
#[inline(always)]
pub fn mask_absent_keys<D: Decode>(
    kernel: &D,
    [low, high]: [u32; 2],
    first: Position,
    scores: &mut [f32; 32],
) {
    let mut scale = kernel.cta().params.scale_log2;
    if D::TURNS {
        // Looked at here, not before the roles part.
        scale = f32::from_bits(special::again(scale.to_bits()));
    }
    if low & high != u32::MAX || scale < 0.0 {
        let sign = 1_f32.copysign(scale);
        // A bit a column, the thread's first one lowest.
        let own = [low >> first.column, high >> first.column];
        unroll!(E in 32 => {
            const COLUMN: u32 = softmax::fragment_column(E);
            let is_valid = own[(COLUMN / 32) as usize] >> (COLUMN % 32) & 1 != 0;
            scores[E] = if is_valid { scores[E] * sign } else { f32::NEG_INFINITY };
        });
    }
}

/// Tells the combine kernel how the request was split.
///
/// # Safety
/// As for [`store_lse`].
#[inline(always)]
pub unsafe fn record_splits<D: Decode>(kernel: &D, segment: &Segment) {
    if special::cta_x() == 0 {
        let record = segment.request as u64 * size_of::<SplitRecord>() as u64;
        // SAFETY: there is a record for each request.
        unsafe {
            memory::st_global_u32x2(
                kernel.cta().params.partial.splits + record,
                [segment.splits.first, segment.splits.count],
            );
        }
    }
}
