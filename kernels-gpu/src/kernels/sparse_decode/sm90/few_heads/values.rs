//! The values: `O = O·correction + P·V` of a part, and what becomes of it at a segment's end.

use super::super::{Format, Sparse};
use super::attend::{Lane, of_head, staging, store_of_heads};
use super::scales::{self, Units};
use super::scores::HeadSoftmax;
use super::stages::Stage;
use crate::attention::element::{Bf16, Element, Fp16};
use crate::attention::rope;
use crate::attention::unroll;
use crate::kernels::decode::segments::Segment;
use crate::kernels::decode::sm90::scores::{norm, record_splits, sinks, store_lse};
use crate::kernels::decode::sm90::{Decode, outputs};
use crate::ptx::{math, matrix, memory, warp};
use oximla_types::kernels::decode::{HEAD_DIM_V, PART_TILES, PartialSide, SIDES, TILE_COLUMNS, VALUE_PARTS};
use oximla_types::kernels::few_heads::{
    self, GROUP, LARGEST_OUTPUTS_BYTES, STAGING, TOKEN_BYTES, slot_of_eight,
};
use oximla_types::launch::WARP_THREADS;
use oximla_types::layout::partial;

const _: () = assert!(VALUE_PARTS == 4 && PART_TILES == 2 && SIDES == 2 && partial::LOADED_PLACES == 4);

/// The codes of a lane of a slab of a block: of each eight keys, eight columns of two.
type Codes = [[[u32; 2]; 2]; 8];

/// Where the lane's two keys of the first eight are, those of the next ones `8 · TOKEN_BYTES` further.
#[inline(always)]
fn rows(stage: Stage, lane: Lane) -> [u32; 2] {
    [0, 1].map(|odd| stage.row(slot_of_eight(lane.of_row(), odd)))
}

/// The lane's codes of a slab.
///
/// # Safety
/// The tokens have come.
#[inline(always)]
unsafe fn load_codes(stage: Stage, lane: Lane, slab: u32) -> Codes {
    let column = lane.first_column() + slab * TILE_COLUMNS + 8 * lane.row();
    let rows = rows(stage, lane).map(|row| row + column);
    let mut codes = [[[0; 2]; 2]; 8];
    unroll!(EIGHT in 8 => {
        // SAFETY: as the caller promises.
        codes[EIGHT] = rows.map(|row| unsafe { memory::ld_shared_u32x2(row + EIGHT as u32 * 8 * TOKEN_BYTES) });
    });
    codes
}

/// Accumulators of a slab, of eight `mma`s: number `n` has column `n` of each eight. So the lane has 16 neighbouring columns of both of its
/// heads.
type Columns = [[f32; 4]; 8];

/// The output of a warp's part.
pub struct Output {
    slabs: [Columns; 2],
}

impl Output {
    /// Before the first block.
    #[inline(always)]
    pub fn new() -> Self {
        Self { slabs: [[[0.0; 4]; 8]; 2] }
    }

    /// Adds a block, when what there is is multiplied by `ratios` for its scales.
    ///
    /// # Safety
    /// The whole warp calls it, when all warps of the warpgroup have stored probabilities.
    #[inline(always)]
    pub unsafe fn add<F: Format>(&mut self, stage: Stage, lane: Lane, ratios: [f32; 2]) {
        // SAFETY: as the caller promises.
        unsafe {
            let corrections =
                lane.heads().map(|head| memory::ld_shared_f32(lane.own(GROUP.corrections) + head * 4));
            let p = probabilities(lane);
            self.rescale::<0>(corrections, ratios[0]);
            self.rescale::<1>(corrections, ratios[1]);
            let relative = scaled(&p, scales::relative(lane, 0));
            add_codes(&mut self.slabs[0], &relative, &load_codes(stage, lane, 0));
            if lane.has_elements::<F>() {
                add_elements::<F>(&mut self.slabs[1], &p, stage, lane);
            } else {
                let relative = if F::SCALE_PLANE { scaled(&p, scales::relative(lane, 1)) } else { relative };
                add_codes(&mut self.slabs[1], &relative, &load_codes(stage, lane, 1));
            }
        }
    }

    /// Multiplies a slab by a correction of each head and a ratio; skipped where all are 1.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn rescale<const SLAB: usize>(&mut self, corrections: [f32; 2], ratio: f32) {
        let factors = corrections.map(|correction| correction * ratio);
        // SAFETY: as the caller promises.
        if unsafe { warp::ballot(factors[0] != 1.0 || factors[1] != 1.0) } != 0 {
            unroll!(N in 8 => { unroll!(I in 4 => { self.slabs[SLAB][N][I] *= factors[I / 2]; }); });
        }
    }

    /// Stores what came of a segment: with what the other warpgroup has, if `both` have some of its blocks, a slab of each part.
    ///
    /// # Safety
    /// All warps of the warpgroup, or of both, call it, when they have told what came of the softmax.
    #[inline(always)]
    pub unsafe fn finish<F: Format>(
        mut self,
        kernel: &Sparse<'_, F>,
        segment: &Segment,
        lane: Lane,
        units: Units,
        both: bool,
    ) {
        let heads = lane.heads();
        // SAFETY: as the caller promises.
        unsafe {
            // Early, as they may come from memory.
            let sinks = sinks(kernel, segment, heads[0]);
            // Of no unit any more: each slab has its own.
            unroll!(SLAB in 2 => {
                let unit = units.absolute(SLAB);
                unroll!(N in 8 => { unroll!(I in 4 => { self.slabs[SLAB][N][I] *= unit; }); });
            });
            let mut slab = 0;
            if both {
                // The first warpgroup stores first slabs, the second one second ones.
                if lane.group == 1 {
                    self.slabs.swap(0, 1);
                    slab = 1;
                }
                let to = exchanged(lane.own(GROUP.partial_scores), lane);
                unroll!(N in 8 => {
                    let words = self.slabs[1][N].map(f32::to_bits);
                    memory::st_shared_u32x4(to + N as u32 * EXCHANGE_BYTES, words);
                });
            }
            lane.meet_all(both);
            let load = |table: u32| heads.map(|head| HeadSoftmax::load(table, head));
            let mut softmax = load(lane.own(GROUP.softmax));
            if both {
                let others = load(lane.others(GROUP.softmax));
                let from = exchanged(lane.others(GROUP.partial_scores), lane);
                let merged = [0, 1].map(|row| softmax[row].merge(others[row]));
                softmax = merged.map(|(softmax, _)| softmax);
                unroll!(N in 8 => {
                    let theirs = memory::ld_shared_u32x4(from + N as u32 * EXCHANGE_BYTES).map(f32::from_bits);
                    unroll!(I in 4 => {
                        let [own, other] = merged[I / 2].1;
                        self.slabs[0][N][I] = math::fma(self.slabs[0][N][I], own, theirs[I] * other);
                    });
                });
            }
            let sums = softmax.map(HeadSoftmax::sum_and_log);
            if lane.group == 0 || !both {
                tell(kernel, segment, lane, sums.map(|(_, log)| log));
            }
            let norms = [0, 1].map(|row| {
                let (sum, log) = sums[row];
                norm::<Sparse<F>>(sum, log, sinks[row])
            });
            let slabs = if both { slab + 1 } else { PART_TILES };
            while slab < slabs {
                let columns = &mut self.slabs[0];
                if lane.has_elements::<F>() && slab == PART_TILES - 1 {
                    rotate_back(kernel, segment, columns);
                }
                if segment.splits.count == 1 {
                    store(kernel, segment, lane, slab, columns, norms);
                } else {
                    let largest = largest(columns);
                    store_of_heads(largest_outputs(lane, both), PART_TILES * lane.part + slab, lane, largest);
                }
                self.slabs.swap(0, 1);
                slab += 1;
            }
            if segment.splits.count != 1 {
                lane.meet_all(both);
                let table = largest_outputs(lane, both);
                let exponents = heads.map(|head| exponent(table, lane.part % SIDES, head));
                slab = slabs - if both { 1 } else { PART_TILES };
                if both {
                    self.slabs.swap(0, 1);
                }
                while slab < slabs {
                    store_partial(kernel, segment, lane, slab, &self.slabs[0], norms, exponents);
                    self.slabs.swap(0, 1);
                    slab += 1;
                }
            }
            // What was told and exchanged has been read.
            lane.meet_all(both);
        }
    }
}

/// Where the lane's output of a slab is for the other warpgroup: 16 bytes, and more of them each [`EXCHANGE_BYTES`] further.
#[inline(always)]
fn exchanged(from: u32, lane: Lane) -> u32 {
    from + (lane.part * 8 * WARP_THREADS + lane.number) * 16
}

/// Bytes that a warp exchanges at a time.
const EXCHANGE_BYTES: u32 = WARP_THREADS * 16;
const _: () = assert!(VALUE_PARTS * 8 * EXCHANGE_BYTES <= GROUP.probabilities - GROUP.partial_scores);

/// Tells the caller of the denominators of the lane's heads, by their logarithms, and the combination of splits.
///
/// # Safety
/// All warps of a warpgroup call it; the segment is one of the kernel's.
#[inline(always)]
unsafe fn tell<F: Format>(kernel: &Sparse<'_, F>, segment: &Segment, lane: Lane, logs: [f32; 2]) {
    if lane.part == 0 && lane.of_row() == 0 {
        let heads = lane.heads();
        // SAFETY: as the caller promises.
        unsafe {
            unroll!(ROW in 2 => { store_lse(kernel, segment, heads[ROW], logs[ROW]); });
            if lane.number == 0 && segment.blocks.begin == 0 {
                record_splits(kernel, segment);
            }
        }
    }
}

/// Adds a block whose slab are codes.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn add_codes(columns: &mut Columns, p: &[[u32; 4]; 4], codes: &Codes) {
    unroll!(STEP in 4 => {
        let mut pairs = [[0; 2]; 8];
        unroll!(HALF in 2 => {
            let [even, odd] = codes[2 * STEP + HALF];
            unroll!(WORD in 2 => {
                // The codes of both keys, column by column.
                let two = [
                    math::prmt::<0x5140>(even[WORD], odd[WORD]),
                    math::prmt::<0x7362>(even[WORD], odd[WORD]),
                ];
                unroll!(I in 4 => {
                    let codes = two[I / 2] >> (16 * (I as u32 % 2));
                    pairs[4 * WORD + I][HALF] = math::cvt_f16x2_e4m3x2(codes as u16);
                });
            });
        });
        // SAFETY: as the caller promises.
        unroll!(N in 8 => { unsafe { matrix::mma_m16n8k16_f16(&mut columns[N], p[STEP], pairs[N]) }; });
    });
}

/// Adds a block whose slab are elements.
///
/// # Safety
/// The whole warp calls it; the tokens have come.
#[inline(always)]
unsafe fn add_elements<F: Format>(columns: &mut Columns, p: &[[u32; 4]; 4], stage: Stage, lane: Lane) {
    let rows = rows(stage, lane).map(|row| row + F::RAW.rope_offset + 16 * lane.row());
    // SAFETY: as the caller promises.
    unsafe {
        unroll!(STEP in 4 => {
            let p = p[STEP].map(|pair| {
                math::cvt_bf16x2(math::cvt_f32_f16(pair as u16), math::cvt_f32_f16((pair >> 16) as u16))
            });
            let mut pairs = [[0; 2]; 8];
            unroll!(HALF in 2 => {
                const KEYS: u32 = (2 * STEP as u32 + HALF as u32) * 8 * TOKEN_BYTES;
                let [even, odd] = rows.map(|row| memory::ld_shared_u32x4(row + KEYS));
                unroll!(WORD in 4 => {
                    pairs[2 * WORD][HALF] = math::prmt::<0x5410>(even[WORD], odd[WORD]);
                    pairs[2 * WORD + 1][HALF] = math::prmt::<0x7632>(even[WORD], odd[WORD]);
                });
            });
            unroll!(N in 8 => { matrix::mma_m16n8k16_bf16(&mut columns[N], p, pairs[N]); });
        });
    }
}

/// The probabilities of the lane's keys, step by step: of both heads those of two keys of the first eight, then those of the others.
///
/// # Safety
/// All warps of the warpgroup have stored them.
#[inline(always)]
unsafe fn probabilities(lane: Lane) -> [[u32; 4]; 4] {
    [0, 1, 2, 3].map(|step| {
        let from =
            lane.own(GROUP.probabilities) + few_heads::probabilities(lane.row(), 4 * step + lane.of_row());
        // SAFETY: as the caller promises.
        let [a, c, b, d] = unsafe { memory::ld_shared_u32x4(from) };
        [a, b, c, d]
    })
}

/// First operands of all steps: probabilities by the keys' relative scales.
#[inline(always)]
fn scaled(p: &[[u32; 4]; 4], scales: [[u32; 2]; 4]) -> [[u32; 4]; 4] {
    let mut operands = *p;
    unroll!(STEP in 4 => { unroll!(I in 4 => {
        operands[STEP][I] = math::mul_f16x2(operands[STEP][I], scales[STEP][I / 2]);
    }); });
    operands
}

/// Takes the values' position embedding back, if it is asked for.
///
/// # Safety
/// The whole warp calls it; the segment is one of this CTA's.
#[inline(always)]
unsafe fn rotate_back<F: Format>(kernel: &Sparse<'_, F>, segment: &Segment, columns: &mut Columns) {
    // SAFETY: as the caller promises.
    unsafe {
        kernel.rotate(segment, |params, position| {
            let mut rows = [0, 1].map(|row| row_of(columns, row));
            let [first, second] = &mut rows;
            rope::rotate_columns_back(params, position, [first, second]);
            unroll!(COLUMN in 16 => { unroll!(ROW in 2 => {
                columns[COLUMN % 8][2 * ROW + COLUMN / 8] = rows[ROW][COLUMN];
            }); });
        })
    };
}

/// The lane's columns of one of its heads.
#[inline(always)]
fn row_of(columns: &Columns, row: usize) -> [f32; 16] {
    let mut of_row = [0.0; 16];
    unroll!(COLUMN in 16 => {
        let [a, b, c, d] = columns[COLUMN % 8];
        let [low, high] = if row == 0 { [a, b] } else { [c, d] };
        of_row[COLUMN] = if COLUMN < 8 { low } else { high };
    });
    of_row
}

/// The first of a lane's columns of a slab.
#[inline(always)]
fn first_column(lane: Lane, slab: u32) -> u32 {
    lane.first_column() + slab * TILE_COLUMNS + 16 * lane.of_row()
}

/// Stores a final output, multiplied by a factor of each head.
///
/// # Safety
/// The whole warp calls it; the output is a live tensor.
#[inline(always)]
unsafe fn store<F: Format>(
    kernel: &Sparse<'_, F>,
    segment: &Segment,
    lane: Lane,
    slab: u32,
    columns: &Columns,
    norms: [f32; 2],
) {
    let heads = lane.heads();
    unroll!(ROW in 2 => {
        let has = kernel.cta().tile.has(heads[ROW]);
        let to = outputs::row_address(kernel, segment.request, heads[ROW]);
        let to = to.wrapping_add((first_column(lane, slab) * 2) as u64);
        let of_row = row_of(columns, ROW);
        unroll!(EIGHT in 2 => {
            let mut words = [0; 4];
            unroll!(I in 4 => {
                const FIRST: usize = 8 * EIGHT + 2 * I;
                words[I] = Bf16::pack(of_row[FIRST] * norms[ROW], of_row[FIRST + 1] * norms[ROW]);
            });
            // SAFETY: as the caller promises.
            unsafe { memory::st_global_u32x4_if(has, to + 16 * EIGHT as u64, words) };
        });
    });
}

/// Stores the output of a part of a request, in fp16 by the power of two of its side (`shared-types/src/layout/partial.rs`).
///
/// # Safety
/// The whole warp calls it; the partial results are live.
#[inline(always)]
unsafe fn store_partial<F: Format>(
    kernel: &Sparse<'_, F>,
    segment: &Segment,
    lane: Lane,
    slab: u32,
    columns: &Columns,
    norms: [f32; 2],
    exponents: [u32; 2],
) {
    let (cta, results, heads) = (kernel.cta(), &kernel.cta().params.partial, lane.heads());
    let side = lane.part % SIDES;
    let first = first_column(lane, slab);
    let group = first / partial::GROUP_COLUMNS * partial::GROUP_COLUMNS;
    unroll!(ROW in 2 => {
        if cta.tile.has(heads[ROW]) {
            let number = cta.partial_row::<Sparse<F>>(segment, heads[ROW]);
            // SAFETY: heads that there are lie within the partial results.
            unsafe {
                // One warp of a side tells it.
                if lane.of_row() == 0 && lane.part == side && slab == 0 {
                    let side = (number * SIDES as u64 + side as u64) * size_of::<PartialSide>() as u64;
                    let scale = side + core::mem::offset_of!(PartialSide, scale) as u64;
                    memory::st_global_f32(results.sides + scale, norms[ROW] * partial::unscale(exponents[ROW]));
                }
                let scale = partial::scale(exponents[ROW]);
                let of_row = row_of(columns, ROW);
                let row = (number * HEAD_DIM_V as u64 + group as u64) * partial::COLUMN_BYTES as u64;
                // Of a group's places, four of each eight: two columns of each of the lane's eights.
                let half = lane.of_row() % 2 * partial::LOADED_PLACES;
                unroll!(I in 4 => {
                    const PLACE: u32 = I as u32 * partial::STORED_PLACES;
                    let words = [0, 8].map(|eight| {
                        Fp16::pack(of_row[eight + 2 * I] * scale, of_row[eight + 2 * I + 1] * scale)
                    });
                    let at = row + ((PLACE + half) * partial::COLUMN_BYTES) as u64;
                    memory::st_global_u32x2(results.out + at, words);
                });
            }
        }
    });
}

/// The largest magnitudes of a slab's columns, of both heads.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn largest(columns: &Columns) -> [u32; 2] {
    let mut largest = [0; 2];
    unroll!(N in 8 => { unroll!(I in 4 => {
        largest[I / 2] = partial::magnitude(columns[N][I]).max(largest[I / 2]);
    }); });
    largest.map(|own| {
        // SAFETY: as the caller promises.
        unsafe {
            let own = own.max(warp::shfl_bfly::<1>(own));
            own.max(warp::shfl_bfly::<2>(own))
        }
    })
}

/// The table of the largest outputs of a segment that `both` warpgroups have some blocks of, or that the lane's has by itself, as the other one
/// may be at another such segment.
#[inline(always)]
fn largest_outputs(lane: Lane, both: bool) -> u32 {
    let number = if both { 0 } else { 1 + lane.group };
    staging(STAGING.largest_outputs) + number * LARGEST_OUTPUTS_BYTES
}

/// The exponent by which a side of a head is stored, by the table of all slabs.
///
/// # Safety
/// All warps have stored the largest magnitudes.
#[inline(always)]
unsafe fn exponent(table: u32, side: u32, head: u32) -> u32 {
    let mut largest = 0;
    unroll!(I in 4 => {
        let part = SIDES * (I as u32 / PART_TILES) + side;
        let at = of_head(table, PART_TILES * part + I as u32 % PART_TILES, head);
        // SAFETY: as the caller promises.
        largest = unsafe { memory::ld_shared_u32(at) }.max(largest);
    });
    partial::exponent(largest)
}
