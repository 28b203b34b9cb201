//! The 8-bit formats of the quantised caches, and how a tile of values goes into them and back.
//!
//! - e4m3 (`float8_e4m3fn`): sign, 4 exponent bits of bias 7, 3 mantissa bits; subnormals, no infinity, NaN only
//!   where all bits but the sign are set; largest value 448.
//! - ue8m0: a power of two, `2^(byte - 127)`; byte 255 is NaN.

use half::bf16;

/// Largest finite e4m3 value.
pub const E4M3_MAX: f64 = 448.0;

const SIGN: u8 = 0x80;
const NAN: u8 = 0x7f;

/// Codes of one power of two, that is, one value of the exponent field.
const CODES_PER_BINADE: u8 = 8;
/// `log2` of the step between neighbours in the lowest binade, subnormals included.
const LOWEST_STEP: i32 = -9;
/// Exponent of the smallest normal value.
const LOWEST_NORMAL: i32 = -6;
const UE8M0_BIAS: i32 = 127;
const UE8M0_NAN: u8 = 0xff;

/// The tile's largest magnitude over 448 is raised to this, so that a tile of zeros has a usable scale.
const SCALE_FLOOR: f32 = 1e-4;

/// The value of an e4m3 code, exactly.
pub fn e4m3_decode(code: u8) -> f64 {
    let magnitude = code & !SIGN;
    let sign = if code & SIGN == 0 { 1.0 } else { -1.0 };
    if magnitude == NAN {
        return f64::NAN;
    }
    // Subnormals (exponent field 0) have the step of the first normal binade (field 1).
    let binade = (magnitude / CODES_PER_BINADE).max(1) - 1;
    let steps = magnitude - CODES_PER_BINADE * binade;
    sign * f64::from(steps) * power_of_two(i32::from(binade) + LOWEST_STEP)
}

/// The e4m3 code nearest to `x`, ties to even, larger magnitudes than 448 (infinity too) saturated.
///
/// PyTorch's cast agrees up to a magnitude of 464; beyond, it yields NaN. Quantised tiles stay within 448.
pub fn e4m3_encode(x: f64) -> u8 {
    let sign = if x.is_sign_negative() { SIGN } else { 0 };
    if x.is_nan() {
        return sign | NAN;
    }
    let magnitude = x.abs().min(E4M3_MAX);
    let binade = (exponent(magnitude) - LOWEST_NORMAL).max(0);
    let steps = (magnitude / power_of_two(binade + LOWEST_STEP)).round_ties_even();
    // Codes are in order of value: steps past the end of a binade run on into the next one.
    let code = binade * i32::from(CODES_PER_BINADE) + steps as i32;
    sign | code as u8
}

/// The power of two that a ue8m0 byte stands for; NaN for 255.
pub fn ue8m0_decode(byte: u8) -> f32 {
    if byte == UE8M0_NAN { f32::NAN } else { power_of_two(i32::from(byte) - UE8M0_BIAS) as f32 }
}

/// The ue8m0 byte of a power of two, or 255 for NaN.
///
/// # Panics
/// If `scale` is neither NaN nor one of the 255 values that ue8m0 has.
pub fn ue8m0_encode(scale: f32) -> u8 {
    if scale.is_nan() {
        return UE8M0_NAN;
    }
    let byte = (exponent(f64::from(scale)) + UE8M0_BIAS) as u8;
    assert_eq!(ue8m0_decode(byte), scale, "ue8m0 holds powers of two only");
    byte
}

/// The scale of a tile whose largest magnitude is `amax`: `2^ceil(log2(max(amax / 448, 1e-4)))`.
///
/// The exponent is read from the bits (plus one unless the mantissa is zero), so it is exact where a computed
/// logarithm may round across a power of two. NaN for a tile that is not finite.
pub fn tile_scale(amax: f32) -> f32 {
    if !amax.is_finite() {
        return f32::NAN;
    }
    const MANTISSA_BITS: u32 = f32::MANTISSA_DIGITS - 1;
    let bits = (amax / E4M3_MAX as f32).max(SCALE_FLOOR).to_bits();
    let has_mantissa = bits & ((1 << MANTISSA_BITS) - 1) != 0;
    f32::from_bits(((bits >> MANTISSA_BITS) + u32::from(has_mantissa)) << MANTISSA_BITS)
}

/// Quantises a tile: its scale, and the e4m3 code of each `value / scale`.
pub fn quantise_tile(tile: &[bf16]) -> (f32, Vec<u8>) {
    let amax =
        tile.iter().map(|x| x.to_f32().abs()).fold(0.0, |a: f32, b| if b > a || b.is_nan() { b } else { a });
    let scale = tile_scale(amax);
    let codes = tile.iter().map(|x| e4m3_encode(x.to_f64() / f64::from(scale))).collect();
    (scale, codes)
}

/// The value that kernels compute with: `e4m3 · bf16(scale)`, rounded to bf16.
pub fn dequantise(code: u8, scale: f32) -> f64 {
    let product = e4m3_decode(code) * bf16::from_f32(scale).to_f64();
    // 4 by 8 significant bits: f32 holds the product exactly, so there is one rounding only.
    bf16::from_f32(product as f32).to_f64()
}

/// Little-endian bf16 bytes, widened.
pub(crate) fn bf16_values(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f64())
}

/// Values as little-endian bf16 bytes.
pub(crate) fn bf16_bytes(values: &[bf16]) -> impl Iterator<Item = u8> {
    values.iter().flat_map(|value| value.to_le_bytes())
}

fn power_of_two(exponent: i32) -> f64 {
    2f64.powi(exponent)
}

/// `floor(log2(x))` of a normal, positive `x`; far below every format here for 0.
fn exponent(x: f64) -> i32 {
    const MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS - 1;
    (x.to_bits() >> MANTISSA_BITS) as i32 + 1 - f64::MAX_EXP
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// IEEE-754's formula on the fields of a code.
    fn e4m3_by_fields(code: u8) -> f64 {
        let (sign, exponent, mantissa) = (code >> 7, (code >> 3) & 15, code & 7);
        let fraction = f64::from(mantissa) / 8.0;
        let magnitude = match (exponent, mantissa) {
            (15, 7) => f64::NAN,
            (0, _) => fraction / 64.0,
            _ => (1.0 + fraction) * 2f64.powf(f64::from(exponent) - 7.0),
        };
        if sign == 1 { -magnitude } else { magnitude }
    }

    /// The nearest finite code by trying them all; of two at the same distance, the one with an even mantissa.
    fn nearest(x: f64) -> u8 {
        let distance = |code: &u8| (e4m3_by_fields(*code) - x.abs()).abs();
        let best = (0..=0x7eu8)
            .min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
            .expect("there are codes");
        if x.is_sign_negative() { best | 0x80 } else { best }
    }

    #[test]
    fn e4m3_decodes_every_code() {
        for code in 0..=u8::MAX {
            let (actual, expected) = (e4m3_decode(code), e4m3_by_fields(code));
            assert!(
                actual.to_bits() == expected.to_bits() || actual.is_nan() && expected.is_nan(),
                "code {code:#04x}: {actual} != {expected}"
            );
        }
        let landmarks = [0x01, 0x08, 0x38, 0x7e, 0xfe].map(e4m3_decode);
        assert_eq!(landmarks, [1.0 / 512.0, 1.0 / 64.0, 1.0, 448.0, -448.0]);
    }

    #[test]
    fn e4m3_encodes_what_it_decodes() {
        for code in 0..=u8::MAX {
            if code & 0x7f == 0x7f {
                assert_eq!(e4m3_encode(e4m3_by_fields(code)) & 0x7f, 0x7f);
            } else {
                assert_eq!(e4m3_encode(e4m3_by_fields(code)), code);
            }
        }
    }

    #[test]
    fn e4m3_rounds_at_every_midpoint() {
        for code in 0..0x7eu8 {
            let midpoint = (e4m3_by_fields(code) + e4m3_by_fields(code + 1)) / 2.0;
            let even = code + (code & 1);
            assert_eq!(e4m3_encode(midpoint), even, "tie above {code:#04x}");
            assert_eq!(e4m3_encode(midpoint.next_down()), code);
            assert_eq!(e4m3_encode(midpoint.next_up()), code + 1);
            assert_eq!(e4m3_encode(-midpoint), even | 0x80);
            assert_eq!(e4m3_encode((-midpoint).next_up()), code | 0x80);
            assert_eq!(e4m3_encode((-midpoint).next_down()), (code + 1) | 0x80);
        }
    }

    #[test]
    fn e4m3_saturates_and_keeps_nan() {
        for large in [448.0, 449.0, 464.0, 480.0, 1e300, f64::INFINITY] {
            assert_eq!([e4m3_encode(large), e4m3_encode(-large)], [0x7e, 0xfe]);
        }
        for tiny in [0.0, f64::from_bits(1), f64::MIN_POSITIVE, 1.0 / 1024.0] {
            assert_eq!([e4m3_encode(tiny), e4m3_encode(-tiny)], [0x00, 0x80]);
        }
        assert_eq!(e4m3_encode(f64::NAN) & 0x7f, 0x7f);
    }

    #[test]
    fn ue8m0_every_byte() {
        // Powers of two by doubling from the smallest.
        let mut value = 1.0 / 2f64.powf(127.0);
        for byte in 0..255u8 {
            assert_eq!(f64::from(ue8m0_decode(byte)), value, "byte {byte}");
            assert_eq!(ue8m0_encode(ue8m0_decode(byte)), byte);
            value *= 2.0;
        }
        assert!(ue8m0_decode(255).is_nan());
        assert_eq!(ue8m0_encode(f32::NAN), 255);
        assert_eq!(ue8m0_decode(127), 1.0);
    }

    #[test]
    fn ue8m0_refuses_other_values() {
        for scale in [0.75, 0.0, -1.0, f32::INFINITY, ue8m0_decode(0) / 2.0] {
            assert!(std::panic::catch_unwind(|| ue8m0_encode(scale)).is_err(), "{scale}");
        }
    }

    #[test]
    fn tile_scale_at_powers_of_two() {
        assert_eq!(tile_scale(448.0), 1.0);
        assert_eq!(tile_scale(450.0), 2.0);
        assert_eq!(tile_scale(446.0), 1.0);
        assert_eq!(tile_scale(224.0), 0.5);
        // The floor of 1e-4 lies between 2^-14 and 2^-13.
        for small in [0.0, 1e-30, 448.0 / 8192.0] {
            assert_eq!(tile_scale(small), 1.0 / 8192.0);
        }
        assert_eq!(tile_scale(448.5 / 8192.0), 1.0 / 4096.0);
        assert!(tile_scale(f32::NAN).is_nan() && tile_scale(f32::INFINITY).is_nan());
    }

    #[test]
    fn dequantise_rounds_the_scale_and_then_the_product() {
        // bf16(1/3) = 171/512. 1.75 · 171/512 = 149.625/256 rounds to 150/256; 1.75/3 would round to 149/256.
        assert_eq!(dequantise(0x3e, 1.0 / 3.0), 150.0 / 256.0);
        // Ties go to even: 1.5 · 129/128 = 193.5/128 up to 194, 1.5 · 131/128 = 196.5/128 down to 196.
        assert_eq!(dequantise(0x3c, 129.0 / 128.0), 194.0 / 128.0);
        assert_eq!(dequantise(0x3c, 131.0 / 128.0), 196.0 / 128.0);
        // Subnormal bf16 results have a step of 2^-133: 1.125 · 2^-127 is 72 of them, 7/512 · 2^-127 is 7/8.
        assert_eq!(dequantise(0x39, ue8m0_decode(0)), 72.0 * 2f64.powi(-133));
        assert_eq!(dequantise(0x07, ue8m0_decode(0)), 2f64.powi(-133));
        assert!(dequantise(0x38, f32::NAN).is_nan() && dequantise(0x7f, 1.0).is_nan());
    }

    #[test]
    fn dequantise_is_exact_for_powers_of_two() {
        for code in (0..=u8::MAX).filter(|code| code & 0x7f != 0x7f) {
            for exponent in -13..=20 {
                let scale = 2f32.powi(exponent);
                assert_eq!(dequantise(code, scale), e4m3_by_fields(code) * f64::from(scale));
            }
        }
    }

    #[test]
    fn nan_spoils_its_whole_tile() {
        let (scale, codes) = quantise_tile(&[bf16::ONE, bf16::NAN, bf16::ONE]);
        assert!(scale.is_nan());
        assert!(codes.iter().all(|code| code & 0x7f == 0x7f));
    }

    /// Finite values over most of bf16's range, away from overflow of the quantised value.
    fn any_value() -> impl Strategy<Value = bf16> {
        (-1.0f32..1.0, -120i32..100).prop_map(|(x, exponent)| bf16::from_f32(x * 2f32.powi(exponent)))
    }

    /// Values around 1, where tiles hold codes of every size.
    fn usual_value() -> impl Strategy<Value = bf16> {
        (-4.0f32..4.0).prop_map(bf16::from_f32)
    }

    proptest! {
        #[test]
        fn e4m3_encodes_to_the_nearest(x in -500.0f64..500.0, exponent in -12i32..1) {
            let x = x * 2f64.powi(exponent);
            prop_assert_eq!(e4m3_encode(x), nearest(x));
        }

        #[test]
        fn scale_is_the_least_power_of_two(tile in prop_oneof![
            prop::collection::vec(any_value(), 1..128),
            prop::collection::vec(usual_value(), 1..128),
        ]) {
            let (scale, _) = quantise_tile(&tile);
            let scale = f64::from(scale);
            let amax = tile.iter().map(|x| x.to_f64().abs()).fold(0.0, f64::max);
            prop_assert_eq!(scale.log2().fract(), 0.0);
            prop_assert!(scale >= 1e-4 && amax <= 448.0 * scale);
            prop_assert!(scale / 2.0 < 1e-4 || amax > 448.0 * (scale / 2.0));
        }

        #[test]
        fn round_trip_is_within_half_a_step(tile in prop_oneof![
            prop::collection::vec(any_value(), 1..128),
            prop::collection::vec(usual_value(), 1..128),
        ]) {
            let (scale, codes) = quantise_tile(&tile);
            for (&code, value) in codes.iter().zip(&tile) {
                let value = value.to_f64();
                // Three mantissa bits: half a step is 1/16 of the power of two below, or half of 2^-9.
                let bound = (value.abs() / 16.0).max(f64::from(scale) / 1024.0);
                prop_assert!((dequantise(code, scale) - value).abs() <= bound);
            }
        }
    }
}
