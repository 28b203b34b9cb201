//! The scores: `S = Q·Kᵀ`, part by part, and the softmax of their sums.

use super::super::{Format, Sparse};
use super::attend::{Lane, of_head, quad, store_of_heads};
use super::scales::{self, Cached, PROBABILITY_HEADROOM, PROBABILITY_HEADROOM_LOG2, Units};
use super::stages::Stage;
use crate::attention::softmax::{self, MAX_FLOOR};
use crate::attention::unroll;
use crate::kernels::decode::sm90::Decode;
use crate::ptx::{math, matrix, memory, warp};
use oximla_types::kernels::decode::{HEAD_DIM_V, PART_TILES, TILE_COLUMNS, VALUE_PARTS};
use oximla_types::kernels::few_heads::{
    GROUP, HEADS_BYTES, PLACES_BYTES, TOKEN_BYTES, probabilities, slot_of_eight,
};

/// Steps of 16 columns of a slab.
const STEPS: usize = 4;

/// A lane's share of the queries of a slab, step by step: first operands of `mma`.
type Slab = [[u32; 4]; STEPS];

const _: () = assert!(PART_TILES == 2 && VALUE_PARTS == 4);

/// A segment's queries.
pub struct Queries {
    /// Of the slabs of codes of the warp's part, fp16 by the power of two of the head.
    codes: [Slab; 2],
    /// Of elements with position embedding, bf16.
    elements: Slab,
}

impl Queries {
    /// Those of a request.
    ///
    /// # Safety
    /// All warps of the warpgroup call it. The request is one of the kernel's; the queries are a live tensor whose rows are aligned to 16 bytes.
    #[inline(always)]
    pub unsafe fn take<F: Format>(kernel: &Sparse<'_, F>, request: u32, lane: Lane) -> Self {
        let heads = lane.heads();
        // SAFETY: as the caller promises.
        let load = |column: u32, second: u32| unsafe {
            heads.map(|head| load_columns(kernel, request, head, column, second))
        };
        let elements = load(elements_column::<F>() + 8 * lane.of_row(), ELEMENTS_APART / 2);
        let mut codes = [[[0; 8]; 2]; 2];
        unroll!(SLAB in 2 => {
            if SLAB == 0 || !lane.has_elements::<F>() {
                codes[SLAB] = load(lane.first_column() + SLAB as u32 * TILE_COLUMNS + 16 * lane.of_row(), 8);
            }
        });
        // SAFETY: all warps are here; nobody reads the largest elements of the segment before any more.
        unsafe {
            let largest = [0, 1].map(|row| largest(codes[0][row]).max(largest(codes[1][row])));
            let largest = largest.map(|own| {
                let own = own.max(warp::shfl_bfly::<1>(own));
                own.max(warp::shfl_bfly::<2>(own))
            });
            store_of_heads(lane.own(GROUP.largest_queries), lane.part, lane, largest);
            lane.meet();
            unroll!(ROW in 2 => {
                let scale = head_exponent(lane, heads[ROW]).scale();
                unroll!(SLAB in 2 => {
                    codes[SLAB][ROW] = codes[SLAB][ROW].map(|pair| {
                        let [low, high] = [pair << 16, pair & 0xffff_0000].map(f32::from_bits);
                        math::cvt_f16x2(low * scale, high * scale)
                    });
                });
            });
        }
        // Exchanged with itself: where they were loaded to they would lie in another order than `mma` wants, and be moved for each block.
        // SAFETY: as the caller promises.
        let elements = elements.map(|of_head| of_head.map(|pair| unsafe { warp::shfl_bfly::<0>(pair) }));
        Self { codes: codes.map(fragments), elements: fragments(elements) }
    }
}

/// The first column of elements with position embedding.
#[inline(always)]
const fn elements_column<F: Format>() -> u32 {
    if F::TAIL { HEAD_DIM_V } else { HEAD_DIM_V - TILE_COLUMNS }
}

/// Eight neighbouring columns of a head's queries, and the eight that begin `second` columns further; zeros of a head that there is not.
///
/// # Safety
/// As for [`Queries::take`].
#[inline(always)]
unsafe fn load_columns<F: Format>(
    kernel: &Sparse<'_, F>,
    request: u32,
    head: u32,
    column: u32,
    second: u32,
) -> [u32; 8] {
    let mut words = [0; 8];
    if kernel.cta().tile.has(head) {
        let from = kernel.query_row(request, head).wrapping_add((column * 2) as u64);
        unroll!(HALF in 2 => {
            // SAFETY: as the caller promises.
            let four = unsafe { memory::ld_global_u32x4(from + (2 * second) as u64 * HALF as u64) };
            unroll!(I in 4 => { words[4 * HALF + I] = four[I]; });
        });
    }
    words
}

/// Bytes from a lane's first chunk of 16 bytes of a slab of elements, of queries and of keys, to its second one.
const ELEMENTS_APART: u32 = 64;

/// The first operands of all steps: of each four columns of both heads.
#[inline(always)]
fn fragments([first, second]: [[u32; 8]; 2]) -> Slab {
    let mut slab = Slab::default();
    unroll!(STEP in 4 => {
        slab[STEP] = [first[2 * STEP], second[2 * STEP], first[2 * STEP + 1], second[2 * STEP + 1]];
    });
    slab
}

/// Lowest bit of the exponent of a bf16.
const BF16_EXPONENT_SHIFT: u32 = 7;

/// The largest magnitude among pairs of bf16, as their bits.
#[inline(always)]
fn largest(pairs: [u32; 8]) -> u32 {
    let mut largest = 0;
    unroll!(I in 8 => { largest = largest.max(pairs[I] & 0x7fff).max(pairs[I] >> 16 & 0x7fff); });
    largest
}

/// The exponent of the largest magnitude of a head's queries, as a bf16 has it.
#[derive(Clone, Copy)]
struct HeadExponent(u32);

/// That of a head.
///
/// # Safety
/// All warps have stored the largest magnitudes.
#[inline(always)]
unsafe fn head_exponent(lane: Lane, head: u32) -> HeadExponent {
    let mut largest = 0;
    unroll!(PART in 4 => {
        let at = of_head(lane.own(GROUP.largest_queries), PART as u32, head);
        // SAFETY: as the caller promises.
        largest = unsafe { memory::ld_shared_u32(at) }.max(largest);
    });
    HeadExponent(largest >> BF16_EXPONENT_SHIFT)
}

impl HeadExponent {
    /// The exponent of the power of two that the queries are multiplied by, so that the largest one becomes 2⁷ to 2⁸; both it and its inverse
    /// are normal numbers.
    #[inline(always)]
    fn of_scale(self) -> u32 {
        (2 * 127 + 7 - self.0).min(253)
    }

    /// That power of two.
    #[inline(always)]
    fn scale(self) -> f32 {
        f32::from_bits(self.of_scale() << 23)
    }

    /// Its inverse.
    #[inline(always)]
    fn unscale(self) -> f32 {
        f32::from_bits((2 * 127 - self.of_scale()) << 23)
    }
}

/// Multiplies the warp's part of the queries and of a block's keys, and stores what this adds to the scores; also what elements with position
/// embedding add to those of 16 keys. Returns what the output so far is multiplied by for the block's scales.
///
/// # Safety
/// The whole warp calls it; the tokens have come, and nobody reads what was stored before any more.
#[inline(always)]
pub unsafe fn multiply<F: Format>(
    queries: &Queries,
    units: &mut Units,
    stage: Stage,
    lane: Lane,
) -> [f32; 2] {
    let heads = lane.heads();
    let row = stage.row(slot_of_eight(lane.row() / 2, lane.row() % 2));
    // SAFETY: as the caller promises.
    unsafe {
        let cached = Cached::load::<F>(stage, lane);
        let mut of_elements = [[0.0; 4]; 2];
        multiply_elements::<F>(&queries.elements, row + lane.part * 16 * TOKEN_BYTES, lane, &mut of_elements);
        let codes = row + lane.first_column() + 16 * lane.of_row();
        let ratios = units.take::<F>(cached, lane);
        let partial = |part: u32, row: usize| {
            lane.own(GROUP.partial_scores) + part * HEADS_BYTES + heads[row] * PLACES_BYTES
        };
        unroll!(HALF in 2 => {
            let from = codes + HALF as u32 * EIGHTS as u32 * 8 * TOKEN_BYTES;
            let mut sums = [[[0.0; 4]; EIGHTS]; 2];
            multiply_codes::<F>(queries, from, lane, &mut sums);
            unroll!(STEP_OF_HALF in 2 => {
                const STEP: u32 = (2 * HALF + STEP_OF_HALF) as u32;
                let mut eights = [[0.0; 4]; 2];
                unroll!(SLAB in 2 => {
                    if SLAB == 0 || F::SCALE_PLANE {
                        let scales = scales::of_step(lane, SLAB as u32, STEP);
                        unroll!(EIGHT in 2 => { unroll!(I in 4 => {
                            let (sum, scale) = (sums[SLAB][2 * STEP_OF_HALF + EIGHT][I], scales[2 * EIGHT + I % 2]);
                            let eight = &mut eights[EIGHT][I];
                            *eight = if SLAB == 0 { sum * scale } else { math::fma(sum, scale, *eight) };
                        }); });
                    }
                });
                unroll!(ROW in 2 => {
                    let at = quad(heads[ROW], 4 * STEP + lane.of_row());
                    let words = quad_of::<ROW>(&eights[0], &eights[1]);
                    memory::st_shared_u32x4(partial(lane.part, ROW) + at, words);
                });
            });
        });
        unroll!(ROW in 2 => {
            let at = quad(heads[ROW], 4 * lane.part + lane.of_row());
            let words = quad_of::<ROW>(&of_elements[0], &of_elements[1]);
            memory::st_shared_u32x4(partial(VALUE_PARTS, ROW) + at, words);
        });
        ratios
    }
}

/// Of the scores of two eights of keys, those of one of the lane's heads, in the order of places.
#[inline(always)]
fn quad_of<const ROW: usize>(first: &[f32; 4], second: &[f32; 4]) -> [u32; 4] {
    [first[2 * ROW], first[2 * ROW + 1], second[2 * ROW], second[2 * ROW + 1]].map(f32::to_bits)
}

/// Eights of keys that are multiplied side by side, as a product waits for the one before that is added to the same sums.
const EIGHTS: usize = 4;

/// Multiplies the slabs of queries with the codes of so many eights of keys; the lane's codes of the first slab and its first key are at `from`.
/// Both slabs have the same sums, if they have the same scales.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn multiply_codes<F: Format>(
    queries: &Queries,
    from: u32,
    lane: Lane,
    sums: &mut [[[f32; 4]; EIGHTS]; 2],
) {
    let mut codes = [[[0; 4]; EIGHTS]; 2];
    // SAFETY: as the caller promises.
    unsafe {
        unroll!(EIGHT in 4 => { unroll!(SLAB in 2 => {
            // Zeros for what are no codes.
            if SLAB == 0 || !lane.has_elements::<F>() {
                let at = from + SLAB as u32 * TILE_COLUMNS + EIGHT as u32 * 8 * TOKEN_BYTES;
                codes[SLAB][EIGHT] = memory::ld_shared_u32x4(at);
            }
        }); });
        unroll!(STEP in 4 => { unroll!(SLAB in 2 => { unroll!(EIGHT in 4 => {
            let words = codes[SLAB][EIGHT][STEP];
            let pairs = [words, words >> 16].map(|codes| math::cvt_f16x2_e4m3x2(codes as u16));
            let sum = &mut sums[if F::SCALE_PLANE { SLAB } else { 0 }][EIGHT];
            matrix::mma_m16n8k16_f16(sum, queries.codes[SLAB][STEP], pairs);
        }); }); });
    }
}

/// Multiplies a slab of queries with the elements of 16 keys; the lane's row of the first eight is at `row`.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn multiply_elements<F: Format>(queries: &Slab, row: u32, lane: Lane, scores: &mut [[f32; 4]; 2]) {
    let from = row + F::RAW.rope_offset + 16 * lane.of_row();
    // SAFETY: as the caller promises.
    unsafe {
        let elements = [0, 1].map(|eight| {
            [0, 1]
                .map(|chunk| memory::ld_shared_u32x4(from + eight * 8 * TOKEN_BYTES + chunk * ELEMENTS_APART))
        });
        unroll!(STEP in 4 => { unroll!(EIGHT in 2 => {
            const FIRST: usize = 2 * (STEP % 2);
            let chunk = elements[EIGHT][STEP / 2];
            matrix::mma_m16n8k16_bf16(&mut scores[EIGHT], queries[STEP], [chunk[FIRST], chunk[FIRST + 1]]);
        }); });
    }
}

/// The head whose softmax a lane has a share of: a quarter of a warp has one.
#[inline(always)]
fn softmax_head(lane: Lane) -> u32 {
    4 * lane.part + lane.number / 8
}

/// The quads of places that it has of that head: this one, and the one eight further.
#[inline(always)]
fn softmax_quad(lane: Lane) -> u32 {
    lane.number % 8
}

/// Online softmax of a head (see [`softmax`]), which eight lanes share, over the warpgroup's blocks.
pub struct Softmax {
    /// The maximum of the scaled scores, up to what it may lag; the same in all of them.
    max: f32,
    /// The lane's share of the denominator, as probabilities are stored.
    sum: f32,
    /// What scores are multiplied by that come from codes.
    unscale: f32,
}

impl Softmax {
    /// Before the first block.
    #[inline(always)]
    pub fn new() -> Self {
        Self { max: MAX_FLOOR, sum: 0.0, unscale: 0.0 }
    }

    /// Takes note of the power of two of the head's queries.
    ///
    /// # Safety
    /// The queries have been taken.
    #[inline(always)]
    pub unsafe fn follow_queries(&mut self, lane: Lane) {
        // SAFETY: as the caller promises.
        self.unscale = unsafe { head_exponent(lane, softmax_head(lane)).unscale() };
    }

    /// Turns the scores of a block into probabilities relative to the new maximum, and stores them, and what everything before has to be
    /// multiplied by.
    ///
    /// # Safety
    /// The whole warp calls it, when all warps have multiplied the block's keys, and the values of the block before.
    #[inline(always)]
    pub unsafe fn update<F: Format>(&mut self, kernel: &Sparse<'_, F>, stage: Stage, lane: Lane) {
        let scale = kernel.cta().params.scale_log2;
        // Not 0, which would make NaN of −∞.
        let (sign, scale) = (1_f32.copysign(scale), scale.abs().max(f32::MIN_POSITIVE));
        let (head, first) = (softmax_head(lane), softmax_quad(lane));
        // SAFETY: as the caller promises.
        unsafe {
            let from = lane.own(GROUP.partial_scores) + head * PLACES_BYTES;
            // All loads are on their way before anyone waits for the first.
            let partial = [0, 1, 2, 3, VALUE_PARTS].map(|part| {
                [first, first + 8].map(|number| {
                    memory::ld_shared_u32x4(from + part * HEADS_BYTES + quad(head, number))
                        .map(f32::from_bits)
                })
            });
            let present = [first, first + 8].map(|number| memory::ld_shared_u32(stage.present(number / 4)));
            let mut scores = partial[VALUE_PARTS as usize];
            let mut largest = f32::NEG_INFINITY;
            unroll!(QUAD in 2 => { unroll!(I in 4 => {
                let [a, b] = [0, 2].map(|part| partial[part][QUAD][I] + partial[part + 1][QUAD][I]);
                let score = math::fma(a + b, self.unscale, scores[QUAD][I]);
                let slot = 8 * (I as u32 / 2) + slot_of_eight(first % 4, I as u32 % 2);
                scores[QUAD][I] = if present[QUAD] >> slot & 1 != 0 { score * sign } else { f32::NEG_INFINITY };
            }); });
            unroll!(I in 4 => { largest = math::max(largest, math::max(scores[0][I], scores[1][I])); });
            let max = softmax::follow_one(self.max, across(largest, math::max) * scale);
            let correction = math::ex2(self.max - max);
            let less = PROBABILITY_HEADROOM_LOG2 as f32 - max;
            let p = scores.map(|quad| quad.map(|score| math::ex2(math::fma(score, scale, less))));
            let sums = p.map(|[a, b, c, d]| (a + b) + (c + d));
            self.sum = math::fma(self.sum, correction, sums[0] + sums[1]);
            self.max = max;
            unroll!(QUAD in 2 => {
                let [a, b, c, d] = p[QUAD];
                let words = [math::cvt_f16x2(a, b), math::cvt_f16x2(c, d)].map(f32::from_bits);
                let to = lane.own(GROUP.probabilities) + probabilities(head, first + 8 * QUAD as u32);
                memory::st_shared_f32x2(to, words);
            });
            if first == 0 {
                memory::st_shared_f32(lane.own(GROUP.corrections) + head * 4, correction);
            }
        }
    }

    /// Tells all warps of both warpgroups what came of a segment.
    ///
    /// # Safety
    /// The whole warp calls it, when all have read what was told before.
    #[inline(always)]
    pub unsafe fn finish(&self, lane: Lane) {
        // SAFETY: as the caller promises.
        unsafe {
            let sum = across(self.sum, |a, b| a + b) * (1.0 / PROBABILITY_HEADROOM);
            if softmax_quad(lane) == 0 {
                memory::st_shared_f32x2(lane.own(GROUP.softmax) + softmax_head(lane) * 8, [self.max, sum]);
            }
        }
    }
}

/// What came of the softmax of a head: the maximum, and the denominator relative to it.
#[derive(Clone, Copy)]
pub struct HeadSoftmax {
    max: f32,
    sum: f32,
}

impl HeadSoftmax {
    /// What a warpgroup has told of a head, whose table is at `table`.
    ///
    /// # Safety
    /// It has been told.
    #[inline(always)]
    pub unsafe fn load(table: u32, head: u32) -> Self {
        // SAFETY: as the caller promises.
        let [max, sum] = unsafe { memory::ld_shared_u32x2(table + head * 8) }.map(f32::from_bits);
        Self { max, sum }
    }

    /// Of both warpgroups' blocks together, and what the outputs of this one and of the other one are multiplied by for it.
    #[inline(always)]
    pub fn merge(self, other: Self) -> (Self, [f32; 2]) {
        let max = math::max(self.max, other.max);
        let factors = [self, other].map(|of_one| math::ex2(of_one.max - max));
        (Self { max, sum: math::fma(self.sum, factors[0], other.sum * factors[1]) }, factors)
    }

    /// The denominator, and its base-2 logarithm plus the maximum: of no keys 0 and −∞.
    #[inline(always)]
    pub fn sum_and_log(self) -> (f32, f32) {
        (self.sum, math::lg2(self.sum) + self.max)
    }
}

/// Combines one value of each of the eight lanes that share a head.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn across(value: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    // SAFETY: as the caller promises.
    unsafe {
        let value = combine(value, f32::from_bits(warp::shfl_bfly::<1>(value.to_bits())));
        let value = combine(value, f32::from_bits(warp::shfl_bfly::<2>(value.to_bits())));
        combine(value, f32::from_bits(warp::shfl_bfly::<4>(value.to_bits())))
    }
}
