//! Rows of partial results: fp16, relative to a power of two, and in which order their columns lie.
//!
//! A row has a *side* of columns for each of the two warpgroups that multiply values, and a side its power of two
//! ([`exponent`]), which brings its largest column near to the largest fp16. So rounding changes a column by 2⁻¹² of it, and by no
//! more than 2⁻³⁹ of the largest one where that is 2²⁸ times as large.
//!
//! Each thread of an accumulator ([`fragment`](super::fragment)) has two of every eight neighbouring columns of a row. What it has of
//! 32 columns, a *group*, lies next to each other, so that it stores 16 bytes at a time:
//!
//! ```text
//! place   0 1 2 3  4  5  6  7    8 9 10 11 12 13 14 15   …
//! column  0 1 8 9 16 17 24 25    2 3 10 11 18 19 26 27   …
//! thread          0                        1             …
//! ```
//!
//! To combine, a thread loads four of them: half of what one thread has stored.

/// Columns of a group.
pub const GROUP_COLUMNS: u32 = 32;

/// Places of a thread that stores, in a group.
pub const STORED_PLACES: u32 = 8;

/// Places of a thread that loads.
pub const LOADED_PLACES: u32 = 4;

/// Bytes of a column.
pub const COLUMN_BYTES: u32 = 2;

/// Threads that share a group.
const GROUP_THREADS: u32 = GROUP_COLUMNS / STORED_PLACES;

/// By how much the numbers of two loading threads differ that exchange columns: they have the same half of what neighbours stored.
pub const NEIGHBOUR: u32 = STORED_PLACES / LOADED_PLACES;

/// Registers of an accumulator that hold a thread's columns of a group, in two rows.
pub const GROUP_REGISTERS: usize = 16;

/// Which of these registers those of the first row are, two columns a register pair, in the order of places.
pub const REGISTER_PAIRS: [usize; STORED_PLACES as usize / 2] = [0, 4, 8, 12];

/// The first place of a storing thread in each group.
pub const fn first_place(thread: u32) -> u32 {
    thread % GROUP_THREADS * STORED_PLACES
}

/// The column at a place of a row.
pub const fn column(place: u32) -> u32 {
    let (group, within) = (place / GROUP_COLUMNS, place % GROUP_COLUMNS);
    let (thread, own) = (within / STORED_PLACES, within % STORED_PLACES);
    GROUP_COLUMNS * group + 8 * (own / 2) + 2 * thread + own % 2
}

/// Whether a thread that loads from `place` on has the upper ones of the columns that it and its neighbour have together.
pub const fn is_upper(place: u32) -> bool {
    place / STORED_PLACES % 2 == 1
}

/// The first of the four neighbouring columns that a thread which loads from `place` on has when it has given two to its neighbour
/// and got two.
pub const fn exchanged_column(place: u32) -> u32 {
    let (group, within) = (place / GROUP_COLUMNS, place % GROUP_COLUMNS);
    let (thread, half) = (within / STORED_PLACES, within % STORED_PLACES / LOADED_PLACES);
    GROUP_COLUMNS * group + 16 * half + 8 * (thread % 2) + 4 * (thread / 2)
}

/// Bits of an f32 below its exponent.
const EXPONENT: u32 = 23;

/// What the exponent of 1 is in an f32.
const BIAS: u32 = 127;

/// Exponent of the power of two below the largest fp16.
const LARGEST: u32 = 15;

/// A number that is larger for a larger magnitude: its upper eight bits are the exponent of a finite value plus one, and 0 of
/// infinities and NaN, which have no part in the choice of a scale.
pub const fn magnitude(value: f32) -> u32 {
    // The exponent of infinities and NaN overflows.
    (value.to_bits() << 1).wrapping_add(1 << (EXPONENT + 1))
}

/// What [`scale`] and [`unscale`] of a side follow from, whose largest [`magnitude`] this is. Neither becomes a subnormal.
pub const fn exponent(magnitude: u32) -> u32 {
    let exponent = magnitude >> (EXPONENT + 1);
    if exponent > LARGEST + 1 { exponent } else { LARGEST + 1 }
}

/// What a side's columns are multiplied by when they are stored: the largest one is 2¹⁴ to 2¹⁵ then, or less if it is tiny.
pub const fn scale(exponent: u32) -> f32 {
    f32::from_bits((2 * BIAS + LARGEST - exponent) << EXPONENT)
}

/// What they are multiplied by when they are loaded.
pub const fn unscale(exponent: u32) -> f32 {
    f32::from_bits((exponent - LARGEST) << EXPONENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::fragment;

    #[test]
    fn a_thread_stores_what_it_has() {
        for (thread, group, half) in (0..128).flat_map(|t| (0..4).flat_map(move |g| [(t, g, 0), (t, g, 1)])) {
            for own in 0..STORED_PLACES {
                let register = REGISTER_PAIRS[own as usize / 2] as u32 + own % 2;
                let register = group * GROUP_REGISTERS as u32 + 2 * half + register;
                let position = fragment::accumulator(thread, register);
                let place = group * GROUP_COLUMNS + first_place(thread) + own;
                assert_eq!(column(place), position.column, "{thread} {group} {half} {own}");
                assert_eq!(position.row, fragment::accumulator(thread, 2 * half).row);
            }
        }
    }

    #[test]
    fn neighbours_exchange_two_columns() {
        for place in (0..512).step_by(LOADED_PLACES as usize) {
            let other = ((place / LOADED_PLACES) ^ NEIGHBOUR) * LOADED_PLACES;
            // The lower one keeps its first two columns, the other one its last two.
            let kept = if is_upper(place) { [other + 2, place + 2] } else { [place, other] };
            let columns = kept.map(|first| [column(first), column(first + 1)]);
            let first = exchanged_column(place);
            assert_eq!(columns, [[first, first + 1], [first + 2, first + 3]]);
        }
    }

    #[test]
    fn the_largest_column_comes_near_to_the_largest_fp16() {
        for value in [1.0, 1.999, 3.0e38, 65504.0, 1.0e-30, f32::powi(2.0, -112)] {
            let exponent = exponent(magnitude(-value));
            let scaled = value * scale(exponent);
            assert!((16384.0..32768.0).contains(&scaled), "{value}: {scaled}");
            assert_eq!(scaled * unscale(exponent), value);
        }
    }

    #[test]
    fn all_sides_have_a_scale() {
        let of = |values: &[f32]| exponent(values.iter().map(|&x| magnitude(x)).max().unwrap());
        let one = of(&[1.0]);
        assert_eq!(
            [&[1.0, f32::INFINITY], &[f32::NAN, -1.0], &[0.5, 1.0]].map(|values| of(values)),
            [one; 3]
        );
        for values in [[0.0, -0.0], [f32::MIN_POSITIVE / 2.0, 0.0], [f32::NAN, -f32::INFINITY]] {
            let exponent = of(&values);
            let scales = [scale(exponent), unscale(exponent)];
            assert!(
                scales.iter().all(|scale| scale.is_normal()) && scales[0] * scales[1] == 1.0,
                "{scales:?}"
            );
        }
    }
}
