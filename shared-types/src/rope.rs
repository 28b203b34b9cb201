//! Angles of the rotary position embedding (Su et al., "RoFormer", 2021), and the rotations by them.
//!
//! RoPE takes the elements of a vector in pairs, here `(2i, 2i + 1)`, and turns pair `i` by `position · frequency_i`. Angles
//! are counted in turns, in units of 2⁻⁶⁴, so that whole turns drop out of a product by themselves: no position is too large
//! to reduce its angle exactly.

use crate::kv_cache::KvFormat;

/// Elements that are rotated: the last ones of a row.
pub const ROPE_DIM: u32 = KvFormat::Model1Fp8.rope_dim();

/// Where in a row they begin.
pub const ROPE_COLUMN: u32 = KvFormat::Model1Fp8.nope_dim();

/// Pairs of elements that are rotated.
pub const ROPE_PAIRS: u32 = ROPE_DIM / 2;

/// Cosine and sine of an angle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// The cosine.
    pub cos: f32,
    /// The sine.
    pub sin: f32,
}

impl Rotation {
    /// What stands for no angle: all that it rotates becomes NaN.
    pub const NAN: Self = Self { cos: f32::NAN, sin: f32::NAN };

    /// The rotation by so many 2⁻⁶⁴ of a turn; cosine and sine are within 2⁻²³ of the exact ones.
    #[inline(always)]
    pub fn of_turns(turns: u64) -> Self {
        const QUARTER_BITS: u32 = 30;
        const RADIANS: f32 = core::f32::consts::TAU / (1_u64 << 32) as f32;
        // The 32 bits that are left out are less than f32 resolves.
        let turns = (turns >> 32) as u32;
        // The nearest quarter of a turn, and what is left: an eighth of a turn at most on either side.
        let quarter = turns.wrapping_add(1 << (QUARTER_BITS - 1)) >> QUARTER_BITS;
        let x = turns.wrapping_sub(quarter << QUARTER_BITS) as i32 as f32 * RADIANS;
        let (sin, cos) = sin_cos_of_eighth(x);
        // A quarter makes sines of cosines, and cosines of negative sines.
        let (cos, sin) = if quarter & 1 == 0 { (cos, sin) } else { (sin, cos) };
        Self { cos: negate_if(quarter.wrapping_add(1) & 2 != 0, cos), sin: negate_if(quarter & 2 != 0, sin) }
    }
}

#[inline(always)]
fn negate_if(condition: bool, x: f32) -> f32 {
    f32::from_bits(x.to_bits() ^ ((condition as u32) << 31))
}

/// The angle of a position, in 2⁻⁶⁴ of a turn, where each position adds `frequency` of them.
#[inline(always)]
pub const fn turns(frequency: u64, position: i32) -> u64 {
    frequency.wrapping_mul(position as i64 as u64)
}

/// Sine and cosine of up to π/4 on either side of 0, by their Taylor series: the first terms left out are below 2⁻²⁵.
#[inline(always)]
fn sin_cos_of_eighth(x: f32) -> (f32, f32) {
    const fn one_over_factorial(n: u32) -> f32 {
        let (mut factorial, mut i) = (1, 2);
        while i <= n {
            factorial *= i;
            i += 1;
        }
        1.0 / factorial as f32
    }
    const SIN: [f32; 4] =
        [-one_over_factorial(3), one_over_factorial(5), -one_over_factorial(7), one_over_factorial(9)];
    const COS: [f32; 4] =
        [-one_over_factorial(2), one_over_factorial(4), -one_over_factorial(6), one_over_factorial(8)];
    let y = x * x;
    let tail = |[a, b, c, d]: [f32; 4]| y * (a + y * (b + y * (c + y * d)));
    (x + x * tail(SIN), 1.0 + tail(COS))
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;

    fn error(turns: u64) -> f64 {
        let angle = turns as f64 / (u64::MAX as f64) * core::f64::consts::TAU;
        let (sin, cos) = angle.sin_cos();
        let found = Rotation::of_turns(turns);
        (f64::from(found.sin) - sin).abs().max((f64::from(found.cos) - cos).abs())
    }

    #[test]
    fn all_around() {
        let steps = (0..1 << 16).map(|step| step << 48);
        let near_eighths = (0..8_u64).flat_map(|eighth| {
            (0..64).flat_map(move |bit| [1, u64::MAX].map(|by| (eighth << 61).wrapping_add(by << bit)))
        });
        for turns in steps.chain(near_eighths) {
            let error = error(turns);
            assert!(error < 1.0 / f64::from(1 << 23), "{turns:#x}: {error:e}");
        }
    }

    #[test]
    fn quarters_are_exact() {
        let quarters = [0, 1, 2, 3].map(|quarter: u64| Rotation::of_turns(quarter << 62));
        let expected =
            [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)].map(|(cos, sin)| Rotation { cos, sin });
        assert_eq!(quarters, expected);
    }

    #[test]
    fn whole_turns_drop_out() {
        // A third of a turn, as nearly as it can be said, times 3 · 2^k, is a whole number of turns but for 2^k units.
        let third = u64::MAX / 3;
        assert_eq!(turns(third, 3 << 20), 0_u64.wrapping_sub(1 << 20));
        assert_eq!(turns(third, -1), third.wrapping_neg());
        assert_eq!(turns(1 << 63, i32::MIN), 0);
        assert_eq!(turns(1 << 32, i32::MAX), (i32::MAX as u64) << 32);
    }
}
