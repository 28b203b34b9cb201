//! The scales of a block's keys, as a warp that attends needs them of its part: by themselves for scores; for values as fp16, relative to a
//! power of two, so that they neither overflow nor vanish.

use super::super::Format;
use super::attend::Lane;
use super::stages::Stage;
use crate::attention::dequant::Scale;
use crate::attention::unroll;
use crate::ptx::{math, memory, warp};
use oximla_types::kernels::decode::PART_TILES;
use oximla_types::kernels::few_heads::{
    GROUP, LANE_SCALES_BYTES, PLACES_BYTES, QUAD_BYTES, RELATIVE_SCALES_BYTES, place, relative_scale,
};
use oximla_types::launch::WARP_THREADS;

const _: () = assert!(PART_TILES == 2 && LANE_SCALES_BYTES == 32);

/// What relative scales are multiplied by, so that those far below the largest one keep their bits. The largest one becomes 8 at most, or 64
/// if it is 2¹²⁶ or more. Probabilities by [`PROBABILITY_HEADROOM`] are 2¹² at most: their products with such scales can become infinite.
const HEADROOM: f32 = 16.0;

/// The power of two that probabilities are multiplied by, for the same reason.
pub const PROBABILITY_HEADROOM_LOG2: u32 = 4;

/// What they are multiplied by.
pub const PROBABILITY_HEADROOM: f32 = (1_u32 << PROBABILITY_HEADROOM_LOG2) as f32;

/// The scales of a block's tokens that the warp's part has: of two of them, as they are in the cache.
#[derive(Clone, Copy)]
pub struct Cached([u32; 2]);

impl Cached {
    /// Those of the lane's two tokens.
    ///
    /// # Safety
    /// The tokens have come.
    #[inline(always)]
    pub unsafe fn load<F: Format>(stage: Stage, lane: Lane) -> Self {
        Self([0, 1].map(|half| {
            let slot = half * WARP_THREADS + lane.number;
            // SAFETY: as the caller promises.
            unsafe {
                if F::SCALE_PLANE {
                    memory::ld_shared_u16(stage.scales(slot) + PART_TILES * lane.part) as u32
                } else {
                    memory::ld_shared_u32(stage.row(slot) + F::RAW.scales_offset + 4 * lane.part)
                }
            }
        }))
    }

    /// Those of a slab of the part; with a scale for both slabs, of the first one.
    #[inline(always)]
    fn values<F: Format>(self, slab: u32, lane: Lane) -> [f32; 2] {
        self.0.map(|cached| {
            if !F::SCALE_PLANE {
                Scale::from_f32(f32::from_bits(cached)).value()
            } else if slab == 0 || !lane.has_elements::<F>() {
                Scale::from_ue8m0(cached >> (8 * slab) & 0xff).value()
            } else {
                // What is behind the last scale is padding.
                0.0
            }
        })
    }
}

/// The powers of two, above all scales so far, that values of a part's slabs are relative to; 0 before the first ones.
#[derive(Clone, Copy)]
pub struct Units([f32; 2]);

impl Units {
    /// Before the first block.
    #[inline(always)]
    pub fn new<F: Format>(lane: Lane) -> Self {
        // Elements have no scales.
        Self([0.0, if lane.has_elements::<F>() { HEADROOM } else { 0.0 }])
    }

    /// Takes a block's scales, and stores them for the warp. The units become larger, if scales are: returns what the output so far is
    /// multiplied by for it.
    ///
    /// # Safety
    /// The whole warp calls it, when it has read those of the block before.
    #[inline(always)]
    pub unsafe fn take<F: Format>(&mut self, cached: Cached, lane: Lane) -> [f32; 2] {
        let mut ratios = [1.0; 2];
        // SAFETY: as the caller promises.
        unsafe {
            warp::warp_sync();
            unroll!(SLAB in 2 => {
                if F::SCALE_PLANE || SLAB == 0 {
                    let values = cached.values::<F>(SLAB as u32, lane);
                    ratios[SLAB] = self.follow::<SLAB>(values);
                    let to = of_part(lane, SLAB as u32) + place(lane.number) * 4;
                    unroll!(HALF in 2 => { memory::st_shared_f32(to + HALF as u32 * PLACES_BYTES / 2, values[HALF]); });
                    let factor = inverse(self.0[SLAB]) * HEADROOM;
                    let [first, second] = values.map(|value| value * factor);
                    let relative = math::cvt_f16x2(first, second);
                    let to = relative_of_part(lane, SLAB as u32) + relative_scale(place(lane.number));
                    memory::st_shared_u16(to, relative as u16);
                    memory::st_shared_u16(to + relative_scale(place(WARP_THREADS)), (relative >> 16) as u16);
                }
            });
            warp::warp_sync();
        }
        if !F::SCALE_PLANE {
            self.0[1] = self.0[0];
            ratios[1] = ratios[0];
        }
        ratios
    }

    /// Makes the unit of a slab larger, if scales are. Returns what the output so far is multiplied by for it.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn follow<const SLAB: usize>(&mut self, values: [f32; 2]) -> f32 {
        // Magnitudes as their bits, by which NaN is the largest: it makes NaN of all that is relative to it anyhow.
        let [first, second] = values.map(|value| value.to_bits() & 0x7fff_ffff);
        // SAFETY: as the caller promises.
        let largest = unsafe { warp::redux_max(first.max(second)) };
        let exponent = (largest >> 23) + 1;
        let unit = f32::from_bits(exponent.clamp(8, 253) << 23);
        if unit <= self.0[SLAB] {
            return 1.0;
        }
        let ratio = self.0[SLAB] * inverse(unit);
        self.0[SLAB] = unit;
        ratio
    }

    /// What a slab's output is multiplied by so that it is relative to nothing any more.
    #[inline(always)]
    pub fn absolute(self, slab: usize) -> f32 {
        self.0[slab] * (1.0 / (HEADROOM * PROBABILITY_HEADROOM))
    }
}

/// Where the warp's scales of a slab are.
#[inline(always)]
fn of_part(lane: Lane, slab: u32) -> u32 {
    lane.own(GROUP.scales) + (lane.part * PART_TILES + slab) * PLACES_BYTES
}

/// Where its relative scales of a slab are.
#[inline(always)]
fn relative_of_part(lane: Lane, slab: u32) -> u32 {
    lane.own(GROUP.relative_scales) + (lane.part * PART_TILES + slab) * RELATIVE_SCALES_BYTES
}

/// The scales of the lane's four keys of a step, of a slab that has scales of its own.
///
/// # Safety
/// The warp has stored them.
#[inline(always)]
pub unsafe fn of_step(lane: Lane, slab: u32, step: u32) -> [f32; 4] {
    let from = of_part(lane, slab) + (4 * step + lane.of_row()) * QUAD_BYTES;
    // SAFETY: as the caller promises.
    unsafe { memory::ld_shared_u32x4(from) }.map(f32::from_bits)
}

/// The relative scales of the lane's keys, step by step: of two keys of the first eight and of the others.
///
/// # Safety
/// The warp has stored them.
#[inline(always)]
pub unsafe fn relative(lane: Lane, slab: u32) -> [[u32; 2]; 4] {
    let from = relative_of_part(lane, slab) + lane.of_row() * LANE_SCALES_BYTES;
    // SAFETY: as the caller promises.
    let [[a, b, c, d], [e, f, g, h]] = [0, 16].map(|half| unsafe { memory::ld_shared_u32x4(from + half) });
    [[a, b], [c, d], [e, f], [g, h]]
}

/// The inverse of a power of two, neither of them subnormal.
#[inline(always)]
fn inverse(unit: f32) -> f32 {
    f32::from_bits((2 * 127 << 23) - unit.to_bits())
}
