//! The scores of few heads, transposed: `Sᵀ = K·Qᵀ` and the softmax, one block ahead of the values.
//!
//! A warp has sixteen keys of a block, and a thread the scores of two of them with four heads. Of a head's largest score the warps tell each
//! other through shared memory, where the queries are as well.

use super::super::keys::{self, BlockPlace};
use super::super::outputs::CHUNK_COLUMNS;
use super::super::queue::Reader;
use super::super::{Decode, SCORES_BARRIERS, TILE, TILE_STEPS, WARPGROUP_WARPS, scores};
use super::{OfHeads, THREAD_HEADS, TILE_REGISTERS, head_of, load_heads, store_heads};
use crate::attention::element::{Bf16, Element};
use crate::attention::softmax::{self, MAX_FLOOR};
use crate::attention::unroll;
use crate::ptx::{fence, math, matrix, memory, special, warp, wgmma};
use crate::sync::warpgroup_barrier;
use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::kernels::decode::{
    FEW_HEADS_MAXIMA_OFFSET, FEW_HEADS_QUERY_TILE_BYTES, FEW_HEADS_SUMS_OFFSET, FEW_HEADS_WARPS_BYTES,
    PART_TILES, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS,
};
use oximla_types::launch::WARP_THREADS;
use oximla_types::layout::fragment::{self, ROW_LANES};

/// The named barrier of this warpgroup.
const BARRIER: u32 = SCORES_BARRIERS[0];

/// A thread's scores: rows are keys.
type Scores = [f32; TILE_REGISTERS];

/// Runs the role.
///
/// # Safety
/// All threads of the warpgroup call it, `thread` being the number in the warpgroup, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<D: Decode<Element = Bf16>>(kernel: &D, thread: u32) {
    const { assert!(D::FEW_HEADS && !D::MAX_LOGITS && !D::TURNS && !D::FUSED) };
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let mut segments = Reader::<D>::new();
        let mut place = BlockPlace::<D>::first();
        while let Some(segment) = segments.next() {
            let mut softmax = Softmax::new();
            let mut remaining = segment.blocks.end.saturating_sub(segment.blocks.begin);
            if remaining > 0 {
                take_queries(kernel, segment.request, thread);
            }
            while remaining > 0 {
                let mut scores: Scores = core::mem::zeroed();
                multiply(place, &mut scores);
                wgmma::wgmma_wait_8::<0>(&mut scores);
                probabilities(kernel, &mut softmax, place, thread, &mut scores);
                place = place.next();
                remaining -= 1;
            }
            // Made anew, so that the loop need not keep what only this takes.
            let kernel = &kernel.again();
            let number = segments.number();
            let (lane, row) = (thread % WARP_THREADS, fragment::accumulator(thread, 0).row);
            let sinks = scores::sinks(kernel, &segment, row);
            // Behind this all warps have read what they told each other of the segment before.
            keys::norms_free::<D>(number).wait_for_last();
            let rows = softmax.finish::<D>(thread);
            scores::finish(kernel, &segment, number, lane, row, sinks, rows, [f32::NEG_INFINITY; 2]);
        }
    }
}

/// Puts a request's queries where they stay; zeros in rows that there are not.
///
/// # Safety
/// The whole warpgroup calls it. The request is one of the kernel's; the queries are a live tensor whose rows are aligned to 4 bytes.
#[inline(always)]
unsafe fn take_queries<D: Decode>(kernel: &D, request: u32, thread: u32) {
    const ROW_CHUNKS: u32 = TILE_COLUMNS / CHUNK_COLUMNS;
    let (head, chunk) = (thread / ROW_CHUNKS, thread % ROW_CHUNKS);
    let has = kernel.cta().tile.has(head);
    let columns = kernel.query_row(request, head).wrapping_add((chunk * CHUNK_COLUMNS * 2) as u64);
    let to = special::dynamic_shared() + D::PLAN.q + TILE.chunk(head, chunk);
    let mut words = [[0; 4]; MAX_QUERY_TILES];
    // SAFETY: as the caller promises. Each warp has waited for its last scores.
    unsafe {
        if has {
            unroll!(THREE in 3 => { unroll!(TILE_OF_THREE in 3 => {
                const NUMBER: usize = 3 * THREE + TILE_OF_THREE;
                if NUMBER < query_tiles::<D>() {
                    const BYTES: u64 = (NUMBER as u32 * TILE_COLUMNS * 2) as u64;
                    words[NUMBER] = [0, 4, 8, 12].map(|byte| memory::ld_global_u32(columns + BYTES + byte));
                }
            }); });
        }
        // Behind this no warp multiplies the queries before any more.
        warpgroup_barrier::<BARRIER>();
        unroll!(THREE in 3 => { unroll!(TILE_OF_THREE in 3 => {
            const NUMBER: usize = 3 * THREE + TILE_OF_THREE;
            if NUMBER < query_tiles::<D>() {
                memory::st_shared_u32x4(to + NUMBER as u32 * FEW_HEADS_QUERY_TILE_BYTES, words[NUMBER]);
            }
        }); });
        fence::fence_proxy_async_shared();
        warpgroup_barrier::<BARRIER>();
    }
}

/// Query tiles at most.
const MAX_QUERY_TILES: usize = (VALUE_PARTS * PART_TILES) as usize + 1;

/// Query tiles of a kernel.
const fn query_tiles<D: Decode>() -> usize {
    MAX_QUERY_TILES - 1 + D::TAIL as usize
}

/// Starts `scores = K·Qᵀ`; returns once it is all on its way. Waits for the whole block at first: it takes longer to begin with each part anew
/// than the tensor cores take for it.
#[inline(always)]
unsafe fn multiply<D: Decode<Element = Bf16>>(place: BlockPlace<D>, scores: &mut Scores) {
    // The exchange makes the addresses the same in all lanes for ptxas to see.
    // SAFETY: the query tiles are visible to the tensor cores since `take_queries`, the key tiles since they landed.
    unsafe {
        place.tail_full().wait();
        scores::see_keys::<D>();
        let queries = SharedDescriptor::k_major_sw128(special::dynamic_shared() + D::PLAN.q);
        wgmma::wgmma_fence_8(scores);
        unroll!(PART in 4 => {
            let part = warp::shfl_idx(place.part(PART as u32), 0);
            unroll!(TILE_OF_PART in 2 => {
                let keys = SharedDescriptor::k_major_sw128(part + TILE_OF_PART as u32 * TILE_BYTES);
                multiply_tile(scores, keys, queries, 2 * PART as u32 + TILE_OF_PART as u32);
            });
        });
        if D::TAIL {
            let keys = SharedDescriptor::k_major_sw128(warp::shfl_idx(place.tail(), 0));
            multiply_tile(scores, keys, queries, MAX_QUERY_TILES as u32 - 1);
        }
        wgmma::wgmma_commit_group();
    }
}

/// The product of a tile of keys and one of queries.
#[inline(always)]
unsafe fn multiply_tile(scores: &mut Scores, keys: SharedDescriptor, queries: SharedDescriptor, tile: u32) {
    let queries = queries.advance(tile * FEW_HEADS_QUERY_TILE_BYTES);
    const { assert!(TILE_STEPS == 4) };
    unroll!(STEP in 4 => {
        const OFFSET: u32 = TILE.column_offset(16 * STEP as u32);
        // SAFETY: as the caller promises.
        unsafe { wgmma::wgmma_m64n16k16_bf16(scores, keys.advance(OFFSET), queries.advance(OFFSET)) };
    });
}

/// The softmax of a block: turns scores into probabilities and hands them to the values.
#[inline(always)]
unsafe fn probabilities<D: Decode<Element = Bf16>>(
    kernel: &D,
    softmax: &mut Softmax,
    place: BlockPlace<D>,
    thread: u32,
    scores: &mut Scores,
) {
    let (warp, lane) = (thread / WARP_THREADS, thread % WARP_THREADS);
    let scale = kernel.cta().params.scale_log2;
    // SAFETY: the whole warpgroup is here, and the key mask has come with the keys.
    unsafe {
        let own_keys = memory::ld_shared_u32(place.key_mask() + warp / 2 * 4) >> (warp % 2 * WARP_KEYS);
        let sign = 1_f32.copysign(scale);
        unroll!(I in 8 => {
            let key = lane / ROW_LANES + 8 * half_of(I);
            scores[I] = if own_keys >> key & 1 != 0 { scores[I] * sign } else { f32::NEG_INFINITY };
        });
        // Not 0, which would make NaN of −∞.
        let correction =
            softmax.update::<D>(scores, scale.abs().max(f32::MIN_POSITIVE), thread, place.number());
        // Behind the warps' exchange nobody multiplies the block any more, so that its tail may be overwritten.
        let row = TILE.chunk(lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2);
        let matrices = [0, 2, 4, 6].map(|i| D::Element::pack(scores[i], scores[i + 1]));
        matrix::stmatrix_x4_trans(place.tail() + row, matrices);
        if thread < ROW_LANES {
            store_heads(place.row_scales(), thread, correction);
        }
        fence::fence_proxy_async_shared();
        place.probabilities_full().barrier.arrive();
    }
}

/// Keys of a block that a warp has.
const WARP_KEYS: u32 = 16;

/// Of an accumulator, of which half of the warp's keys it is.
const fn half_of(register: usize) -> u32 {
    (register / 2 % 2) as u32
}

/// Online softmax of a thread's four heads (see [`softmax`]).
struct Softmax {
    /// Maxima of the scaled scores, up to what they may lag; the same in all threads that have the heads.
    max: OfHeads,
    /// The thread's shares of the denominators.
    sum: OfHeads,
}

impl Softmax {
    /// Before the first block.
    #[inline(always)]
    fn new() -> Self {
        Self { max: [MAX_FLOOR; THREAD_HEADS], sum: [0.0; THREAD_HEADS] }
    }

    /// Turns the scores of block number `number` into probabilities relative to the new maxima. Returns what everything before has to be
    /// multiplied by.
    ///
    /// # Safety
    /// The whole warpgroup calls it, block by block.
    #[inline(always)]
    unsafe fn update<D: Decode>(
        &mut self,
        scores: &mut Scores,
        scale_log2: f32,
        thread: u32,
        number: u32,
    ) -> OfHeads {
        let mut largest = [f32::NEG_INFINITY; THREAD_HEADS];
        unroll!(I in 8 => { largest[head_of(I)] = math::max(largest[head_of(I)], scores[I]); });
        // In two places by turns: who writes to one has met those who have read it.
        let place = FEW_HEADS_MAXIMA_OFFSET + number % 2 * FEW_HEADS_WARPS_BYTES;
        // SAFETY: as the caller promises.
        let largest = unsafe {
            exchange::<D>(thread, place, over_keys(largest, |a, b| math::max(a, b)), |a, b| math::max(a, b))
        };
        let mut correction = [0.0; THREAD_HEADS];
        unroll!(HEAD in 4 => {
            let max = softmax::follow_one(self.max[HEAD], largest[HEAD] * scale_log2);
            correction[HEAD] = math::ex2(self.max[HEAD] - max);
            self.max[HEAD] = max;
            self.sum[HEAD] *= correction[HEAD];
        });
        unroll!(I in 8 => {
            scores[I] = math::ex2(math::fma(scores[I], scale_log2, -self.max[head_of(I)]));
            self.sum[head_of(I)] += scores[I];
        });
        correction
    }

    /// As [`OnlineSoftmax::finish`](softmax::OnlineSoftmax::finish), of the rows of the thread's scores if they were not transposed: of
    /// heads in the first warp, of nothing in others.
    ///
    /// # Safety
    /// The whole warpgroup calls it; all of it has read what it told last time.
    #[inline(always)]
    unsafe fn finish<D: Decode>(&self, thread: u32) -> [(f32, f32); 2] {
        // SAFETY: as the caller promises.
        unsafe {
            let sum =
                exchange::<D>(thread, FEW_HEADS_SUMS_OFFSET, over_keys(self.sum, |a, b| a + b), |a, b| a + b);
            let lane = thread % WARP_THREADS;
            let mut rows = [(0.0, f32::NEG_INFINITY); 2];
            // The first warp's lanes of one key have all heads between them.
            unroll!(EIGHT in 2 => {
                let row = lane / ROW_LANES;
                let from = |values: OfHeads| {
                    let [even, odd] = [0, 1].map(|i| {
                        f32::from_bits(warp::shfl_idx(values[2 * EIGHT + i].to_bits(), row / 2))
                    });
                    if row.is_multiple_of(2) { even } else { odd }
                };
                let (sum, max) = (from(sum), from(self.max));
                if thread < WARP_THREADS {
                    rows[EIGHT] = (sum, math::lg2(sum) + max);
                }
            });
            rows
        }
    }
}

/// Combines one value for each head and key over all keys of the warp.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn over_keys(values: OfHeads, combine: impl Fn(f32, f32) -> f32) -> OfHeads {
    values.map(|value| {
        // SAFETY: as the caller promises.
        unsafe {
            let value = combine(value, f32::from_bits(warp::shfl_bfly::<4>(value.to_bits())));
            let value = combine(value, f32::from_bits(warp::shfl_bfly::<8>(value.to_bits())));
            combine(value, f32::from_bits(warp::shfl_bfly::<16>(value.to_bits())))
        }
    })
}

/// Combines what the warps have of their keys, at a place for it behind the queries.
///
/// # Safety
/// The whole warpgroup calls it; nobody uses the place.
#[inline(always)]
unsafe fn exchange<D: Decode>(
    thread: u32,
    place: u32,
    values: OfHeads,
    combine: impl Fn(f32, f32) -> f32,
) -> OfHeads {
    const WARP_BYTES: u32 = FEW_HEADS_WARPS_BYTES / WARPGROUP_WARPS;
    let (warp, lane) = (thread / WARP_THREADS, thread % WARP_THREADS);
    let place = special::dynamic_shared() + D::PLAN.q + place;
    // SAFETY: as the caller promises.
    unsafe {
        if lane < ROW_LANES {
            store_heads(place + warp * WARP_BYTES, lane, values);
        }
        warpgroup_barrier::<BARRIER>();
        let mut all = load_heads(place, lane);
        unroll!(OTHER in 3 => {
            let other = load_heads(place + (1 + OTHER as u32) * WARP_BYTES, lane);
            unroll!(HEAD in 4 => { all[HEAD] = combine(all[HEAD], other[HEAD]); });
        });
        all
    }
}
