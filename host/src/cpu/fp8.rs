//! Tokens of the FP8 caches: widened to f32, and quantised from bf16.

use super::widen_bf16_bytes;
use half::bf16;
use oximla_types::fp8;
use oximla_types::kv_cache::KvFormat;
use std::ops::Range;

/// Writes token `token` of a page in f32: `bf16(e4m3 · bf16(scale))` and the bf16 tail.
pub(super) fn load_token(format: KvFormat, page: &[u8], page_size: usize, token: usize, to: &mut [f32]) {
    let layout = format.page(page_size as u32);
    let token = token as u32;
    let bytes = |range: Range<u64>| &page[range.start as usize..range.end as usize];
    let (nope, rope) = to.split_at_mut(format.nope_dim() as usize);
    let tile = format.quant_tile().unwrap_or(format.nope_dim()) as usize;
    let scales = bytes(layout.scales(token)).chunks_exact(format.scale_bytes() as usize);
    for ((to, codes), scale) in
        nope.chunks_exact_mut(tile).zip(bytes(layout.nope(token)).chunks_exact(tile)).zip(scales)
    {
        dequantise(codes, decode_scale(scale), to);
    }
    widen_bf16_bytes(bytes(layout.rope(token)), rope);
}

/// Writes token `token` of a page: `nope` in FP8 with a scale a tile, `rope` as it is, and padding as zeros.
pub(super) fn store_token(
    format: KvFormat,
    page: &mut [u8],
    page_size: usize,
    token: usize,
    nope: &[bf16],
    rope: &[bf16],
) {
    let layout = format.page(page_size as u32);
    let token = token as u32;
    let span = |range: Range<u64>| range.start as usize..range.end as usize;
    let tile = format.quant_tile().unwrap_or(format.nope_dim()) as usize;
    let scale_bytes = format.scale_bytes() as usize;
    let (codes, scales) =
        (span(layout.nope(token)).step_by(tile), span(layout.scales(token)).step_by(scale_bytes));
    for ((codes, scale_at), values) in codes.zip(scales).zip(nope.chunks_exact(tile)) {
        let scale = quantise(values, &mut page[codes..codes + tile]);
        encode_scale(scale, &mut page[scale_at..scale_at + scale_bytes]);
    }
    page[span(layout.padding(token))].fill(0);
    for (to, value) in page[span(layout.rope(token))].chunks_exact_mut(2).zip(rope) {
        to.copy_from_slice(&value.to_le_bytes());
    }
}

/// Writes the code of each value of a tile, and returns the scale.
fn quantise(values: &[bf16], codes: &mut [u8]) -> f32 {
    let magnitude = |value: &bf16| value.to_bits() & 0x7fff;
    // As integers, magnitudes are in order of value, and NaN is above all.
    let amax = bf16::from_bits(values.iter().map(magnitude).max().unwrap_or(0));
    let scale = fp8::tile_scale(amax.to_f32());
    let inverse = fp8::inverse_scale(scale);
    codes.iter_mut().zip(values).for_each(|(code, value)| *code = e4m3_code(value.to_f32() * inverse));
    scale
}

/// A scale as a cache holds it: 4 bytes are an f32, 1 byte is a ue8m0.
fn encode_scale(scale: f32, to: &mut [u8]) {
    match to {
        [exponent] => *exponent = fp8::ue8m0(scale),
        _ => to.copy_from_slice(&scale.to_le_bytes()),
    }
}

/// A scale as bf16, in f32: 4 bytes are an f32, 1 byte is a ue8m0.
fn decode_scale(bytes: &[u8]) -> f32 {
    match *bytes {
        [exponent] => fp8::ue8m0_value(exponent),
        [a, b, c, d] => bf16::from_f32(f32::from_le_bytes([a, b, c, d])).to_f32(),
        _ => unreachable!("scales have 1 or 4 bytes"),
    }
}

/// `bf16(e4m3 · scale)` of each code.
fn dequantise(codes: &[u8], scale: f32, to: &mut [f32]) {
    for (to, &code) in to.iter_mut().zip(codes) {
        *to = round_to_bf16(e4m3(code) * scale);
    }
}

/// The value of an e4m3 code.
///
/// Its exponent and mantissa are the top bits of an f32's, rebiased. Subnormals take the exponent of the least normal
/// number with the implicit one, which is then subtracted: processors are slow where an f32 operand is subnormal.
#[inline(always)]
fn e4m3(code: u8) -> f32 {
    const REBIAS: u32 = 120 << 23;
    const LEAST_NORMAL: u32 = 121 << 23;
    let magnitude = u32::from(code & 0x7f);
    let normal = f32::from_bits((magnitude << 20) + REBIAS);
    let subnormal = f32::from_bits((magnitude << 20) + LEAST_NORMAL) - f32::from_bits(LEAST_NORMAL);
    let value = if magnitude < 8 { subnormal } else { normal };
    let signed = f32::from_bits(value.to_bits() | u32::from(code & 0x80) << 24);
    if magnitude == 0x7f { f32::NAN } else { signed }
}

/// The code nearest to `value`, ties to even; the magnitude is at most 448, or it is NaN.
///
/// [`e4m3`] the other way around: where steps are those of a binade, the mantissa's upper bits are rounded; below, a number
/// whose last bit is worth the least step is added, so that the addition rounds.
#[inline(always)]
fn e4m3_code(value: f32) -> u8 {
    const LEAST_NORMAL: f32 = 1.0 / 64.0;
    const STEP_IS_LAST_BIT: f32 = 16_384.0;
    const REBIAS: u32 = 120 << 3;
    let magnitude = value.abs();
    let bits = magnitude.to_bits();
    let half_less_one_if_even = 0x7_ffff + (bits >> 20 & 1);
    let normal = (bits.wrapping_add(half_less_one_if_even) >> 20).wrapping_sub(REBIAS);
    let subnormal = (magnitude + STEP_IS_LAST_BIT).to_bits() - STEP_IS_LAST_BIT.to_bits();
    let code = if magnitude < LEAST_NORMAL { subnormal } else { normal };
    let signed = code as u8 | (value.to_bits() >> 24) as u8 & 0x80;
    if value.is_nan() { 0x7f } else { signed }
}

/// The nearest bf16, ties to even, in f32. `value` may be NaN, but not one whose upper mantissa bits are all set and
/// whose lower ones are not 0.
#[inline(always)]
fn round_to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let half_less_one_if_even = 0x7fff + (bits >> 16 & 1);
    f32::from_bits((bits.wrapping_add(half_less_one_if_even)) & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IEEE-754's formula on the fields of a code.
    fn e4m3_by_fields(code: u8) -> f64 {
        let (sign, exponent, mantissa) = (code >> 7, (code >> 3) & 15, f64::from(code & 7));
        let magnitude = match exponent {
            15 if mantissa == 7.0 => f64::NAN,
            0 => mantissa / 512.0,
            _ => (8.0 + mantissa) * 2_f64.powi(i32::from(exponent) - 10),
        };
        if sign == 1 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_code() {
        for code in 0..=u8::MAX {
            let (actual, expected) = (f64::from(e4m3(code)), e4m3_by_fields(code));
            assert!(
                actual.to_bits() == expected.to_bits() || actual.is_nan() && expected.is_nan(),
                "{code:#x}: {actual} is not {expected}"
            );
        }
    }

    /// All codes with all scales that there are. The product has 12 significant bits at most, so f64 holds it exactly
    /// and `half` rounds once.
    #[test]
    fn every_product() {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let values: Vec<f64> = codes.iter().map(|&code| e4m3_by_fields(code)).collect();
        let mut actual = vec![0.0; codes.len()];
        for bits in 0..=u16::MAX {
            let scale = bf16::from_bits(bits);
            dequantise(&codes, scale.to_f32(), &mut actual);
            for (&value, &actual) in values.iter().zip(&actual) {
                let expected = bf16::from_f64(value * scale.to_f64()).to_f32();
                assert!(
                    actual.to_bits() == expected.to_bits() || actual.is_nan() && expected.is_nan(),
                    "{value} · {scale}: {actual} is not {expected}"
                );
            }
        }
    }

    /// Each value that has a code, what lies halfway to the next one, and the numbers next to that.
    #[test]
    fn codes_are_the_nearest() {
        for code in 0..0x7e_u8 {
            let (value, next) = (e4m3_by_fields(code) as f32, e4m3_by_fields(code + 1) as f32);
            let halfway = (value + next) / 2.0;
            let even = if code & 1 == 0 { code } else { code + 1 };
            let cases = [(value, code), (next, code + 1), (halfway, even)];
            let around = [(halfway.next_down(), code), (halfway.next_up(), code + 1)];
            for (value, code) in cases.into_iter().chain(around) {
                assert_eq!((e4m3_code(value), e4m3_code(-value)), (code, code | 0x80), "{value:e}");
            }
        }
        assert_eq!([f32::MIN_POSITIVE, f32::NAN, -f32::NAN].map(e4m3_code), [0, 0x7f, 0x7f]);
    }

    #[test]
    fn f32_scales_are_rounded_first() {
        // 1/3 is 171/512 in bf16, and 1.75 · 171/512 = 149.625/256 rounds to 150/256; 1.75/3 would to 149/256.
        let third = decode_scale(&(1.0_f32 / 3.0).to_le_bytes());
        let mut to = [0.0];
        dequantise(&[0x3e], third, &mut to);
        assert_eq!(to, [150.0 / 256.0]);
    }

    #[test]
    fn tokens_of_a_page() {
        // Two MODEL1 tokens: rows of 576 bytes, then 8 bytes of scales each. The second: codes 1.0, scales 2^k, tail 3.
        let mut page = vec![0xff; 2 * 584];
        page[576..576 + 448].fill(0x38);
        for pair in page[576 + 448..1152].chunks_exact_mut(2) {
            pair.copy_from_slice(&bf16::from_f32(3.0).to_le_bytes());
        }
        page[1160..1167].copy_from_slice(&[127, 128, 129, 130, 131, 132, 133]);
        let mut to = [0.0; 512];
        load_token(KvFormat::Model1Fp8, &page, 2, 1, &mut to);
        let expected = |dim: usize| if dim < 448 { 2_f32.powi(dim as i32 / 64) } else { 3.0 };
        assert!((0..512).all(|dim| to[dim] == expected(dim)));

        // One V3.2 token: 512 codes, 4 scales, 64 bf16.
        let mut page = vec![0x38; 512];
        page.extend([0.5_f32, 1.0, 2.0, 4.0].iter().flat_map(|scale| scale.to_le_bytes()));
        page.extend((0..64).flat_map(|dim| bf16::from_f32(dim as f32).to_le_bytes()));
        let mut to = [0.0; 576];
        load_token(KvFormat::V32Fp8, &page, 1, 0, &mut to);
        let expected = |dim: usize| match dim {
            0..512 => 2_f32.powi(dim as i32 / 128 - 1),
            _ => (dim - 512) as f32,
        };
        assert!((0..576).all(|dim| to[dim] == expected(dim)));
    }
}
