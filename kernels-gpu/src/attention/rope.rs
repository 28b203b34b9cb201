//! Taking rotary position embedding back: rotations by minus a position's angles.

use super::unroll;
use crate::ptx::{math, memory, special, warp};
use oximla_types::kernels::inverse_rope::RopeParams;
use oximla_types::launch::WARP_THREADS;
use oximla_types::layout::fragment::ROW_LANES;
use oximla_types::rope::{ROPE_PAIRS, Rotation, turns};

/// Pairs of a group of eight columns of an accumulator: four lanes have one each.
const GROUP_PAIRS: u32 = 4;

const _: () = assert!(ROPE_PAIRS == 8 * GROUP_PAIRS, "the second half of 16 groups is rotated");
const _: () = assert!(ROPE_PAIRS == WARP_THREADS, "a lane finds the rotation of one pair");

/// Position of a query token.
///
/// # Safety
/// The parameters describe live positions, and there is such a token.
#[inline(always)]
pub unsafe fn position(params: &RopeParams, request: u32, token: u32) -> i32 {
    let [batch_stride, token_stride] = params.positions_strides;
    let offset = request as i64 * batch_stride + token as i64 * token_stride;
    // SAFETY: as the caller promises.
    unsafe { memory::ld_global_i32(params.positions.wrapping_add((offset * 4) as u64)) }
}

/// By what the pair with this number, below [`ROPE_PAIRS`], was turned at a position; NaN where the table has no such
/// position.
///
/// # Safety
/// The table, if there is one, is live.
#[inline(always)]
pub unsafe fn rotation(params: &RopeParams, position: i32, pair: u32) -> Rotation {
    if params.cos_sin == 0 {
        // The remainder changes nothing, but shows the compiler that the index is within bounds.
        return Rotation::of_turns(turns(params.frequencies[(pair % ROPE_PAIRS) as usize], position));
    }
    // Negative positions are above all others.
    if position as u32 >= params.max_positions {
        return Rotation::NAN;
    }
    let offset = position as i64 * params.cos_sin_stride + pair as i64;
    let address = params.cos_sin.wrapping_add((offset * 4) as u64);
    // SAFETY: the table has the position, and the pair's sine as far behind its cosine as there are pairs.
    unsafe {
        Rotation {
            cos: memory::ld_global_f32(address),
            sin: memory::ld_global_f32(address + 4 * ROPE_PAIRS as u64),
        }
    }
}

/// Turns a pair back.
#[inline(always)]
pub fn inverse(Rotation { cos, sin }: Rotation, [even, odd]: [f32; 2]) -> [f32; 2] {
    [math::fma(odd, sin, even * cos), math::fma(-even, sin, odd * cos)]
}

/// Turns the last 64 of 128 columns of two rows of an accumulator back. Each lane finds the rotation of one pair, for all.
///
/// # Safety
/// As for [`rotation`]; the whole warp calls it, for the same position.
#[inline(always)]
pub unsafe fn rotate_back(params: &RopeParams, position: i32, output: &mut [f32; 64]) {
    // SAFETY: as the caller promises.
    let own = unsafe { rotation(params, position, special::thread_x() % WARP_THREADS) };
    unroll!(GROUP in 8 => {
        const FIRST_LANE: u32 = GROUP as u32 * GROUP_PAIRS;
        // SAFETY: the whole warp is here.
        let [cos, sin] = [own.cos, own.sin].map(|value| unsafe {
            f32::from_bits(warp::shfl_idx_among::<GROUP_PAIRS, FIRST_LANE>(value.to_bits()))
        });
        let rotation = Rotation { cos, sin };
        // Of each group of eight columns a thread has a pair of its first row, then the same pair of its second one.
        const FIRST: usize = (8 + GROUP) * 4;
        let [a, b] = inverse(rotation, [output[FIRST], output[FIRST + 1]]);
        let [c, d] = inverse(rotation, [output[FIRST + 2], output[FIRST + 3]]);
        (output[FIRST], output[FIRST + 1], output[FIRST + 2], output[FIRST + 3]) = (a, b, c, d);
    });
}

/// Turns 16 neighbouring columns of two rows back, of which the thread has these: lanes of a quad, 64 columns in all. Each lane finds the
/// rotation of one pair, for all.
///
/// # Safety
/// As for [`rotate_back`].
#[inline(always)]
pub unsafe fn rotate_columns_back(params: &RopeParams, position: i32, rows: [&mut [f32; 16]; 2]) {
    let lane = special::thread_x() % WARP_THREADS;
    // SAFETY: as the caller promises.
    let own = unsafe { rotation(params, position, lane) };
    let [first, second] = rows;
    unroll!(PAIR in 8 => {
        let from = lane % ROW_LANES * 8 + PAIR as u32;
        // SAFETY: the whole warp is here.
        let [cos, sin] = [own.cos, own.sin]
            .map(|value| f32::from_bits(unsafe { warp::shfl_idx(value.to_bits(), from) }));
        let rotation = Rotation { cos, sin };
        const FIRST: usize = 2 * PAIR;
        [first[FIRST], first[FIRST + 1]] = inverse(rotation, [first[FIRST], first[FIRST + 1]]);
        [second[FIRST], second[FIRST + 1]] = inverse(rotation, [second[FIRST], second[FIRST + 1]]);
    });
}
