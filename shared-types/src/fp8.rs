//! Scales of FP8 tiles, exactly and from the bits: what readers and writers of a cache must agree on.
//!
//! A scale is a power of two, so that dividing by it loses nothing and both formats of [`kv_cache`](crate::kv_cache) can
//! hold it.

/// Explicit mantissa bits of an f32.
const MANTISSA_BITS: u32 = f32::MANTISSA_DIGITS - 1;

/// What is above the mantissa where only the exponent field is set: an infinity, and in NaNs more.
const EXPONENT_MASK: u32 = f32::INFINITY.to_bits();

/// Exponent of 448, the largest e4m3 value: 448 = 1.75 · 2⁸.
const LARGEST_EXPONENT: u32 = 8;

/// What added to an f32's bits carries into the exponent exactly where the mantissa is above 1.75.
const CARRY_ABOVE_LARGEST_MANTISSA: u32 =
    (1 << MANTISSA_BITS) - 1 - (0.75 * (1_u32 << MANTISSA_BITS) as f32) as u32;

/// Exponent field of the least scale: 2⁻¹³, the power of two above 10⁻⁴.
const LEAST_SCALE_FIELD: u32 = 127 - 13;

/// `2^ceil(log2(max(amax / 448, 1e-4)))`: the scale of a tile whose largest magnitude is `amax`, a number that bf16 has.
/// NaN where `amax` is not finite.
///
/// `amax = m · 2^e` needs `2^(e − 8)` where `m` is at most 1.75, and twice as much above, which takes no logarithm and no
/// division.
#[inline(always)]
pub const fn tile_scale(amax: f32) -> f32 {
    let bits = amax.to_bits();
    if bits >= EXPONENT_MASK {
        return f32::NAN;
    }
    let field = (bits + CARRY_ABOVE_LARGEST_MANTISSA) >> MANTISSA_BITS;
    let least = LEAST_SCALE_FIELD + LARGEST_EXPONENT;
    let field = if field > least { field } else { least } - LARGEST_EXPONENT;
    f32::from_bits(field << MANTISSA_BITS)
}

/// `1 / scale` of a [`tile_scale`], exactly; NaN of NaN.
#[inline(always)]
pub const fn inverse_scale(scale: f32) -> f32 {
    // Exponents are biased by 127: those of a number and of its inverse add up to twice that.
    const BOTH_FIELDS: u32 = (2 * 127) << MANTISSA_BITS;
    if scale.is_nan() { scale } else { f32::from_bits(BOTH_FIELDS - scale.to_bits()) }
}

/// The `ue8m0` byte of a [`tile_scale`]: its exponent field, which in a NaN is 255.
#[inline(always)]
pub const fn ue8m0(scale: f32) -> u8 {
    (scale.to_bits() >> MANTISSA_BITS) as u8
}

/// The scale that a `ue8m0` byte means: `2^(byte − 127)`; NaN for 255.
#[inline(always)]
pub const fn ue8m0_value(byte: u8) -> f32 {
    // 2^-127 is subnormal, with the uppermost bit of the mantissa alone; that bit also tells NaN from an infinity.
    let uppermost = (byte == 0 || byte == u8::MAX) as u32;
    f32::from_bits((byte as u32) << MANTISSA_BITS | uppermost << (MANTISSA_BITS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every magnitude that bf16 has, against the definition in f64.
    #[test]
    fn scales_of_every_bf16() {
        for high in 0..=0x7fff_u32 {
            let amax = f32::from_bits(high << 16);
            let scale = tile_scale(amax);
            if !amax.is_finite() {
                assert!(scale.is_nan() && inverse_scale(scale).is_nan() && ue8m0(scale) == u8::MAX);
                continue;
            }
            let needed = (f64::from(amax) / 448.0).max(1e-4);
            let exponent = (-13..=120).find(|&exponent| 2_f64.powi(exponent) >= needed).unwrap();
            assert_eq!(f64::from(scale), 2_f64.powi(exponent), "{amax:e}");
            assert_eq!(scale * inverse_scale(scale), 1.0);
            assert_eq!(ue8m0_value(ue8m0(scale)).to_bits(), scale.to_bits());
        }
    }

    #[test]
    fn every_ue8m0() {
        for byte in 0..u8::MAX {
            assert_eq!(f64::from(ue8m0_value(byte)), 2_f64.powi(i32::from(byte) - 127));
        }
        assert!(ue8m0_value(u8::MAX).is_nan());
    }
}
