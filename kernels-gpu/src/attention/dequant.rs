//! From e4m3 to bf16: the keys of a quantised cache as the tensor cores take them.
//!
//! The value of a code is `e4m3 · bf16(scale)`, rounded once to bf16, whatever code and scale are. An e4m3 becomes a bf16
//! by moving its bits: the three bits of its mantissa go to the top of bf16's seven, its exponent into the lowest four bits
//! of bf16's. As exponents are relative to 7 in an e4m3 and to 127 in a bf16, that is `e4m3 · 2⁻¹²⁰`, subnormals included.
//! The product of 2¹²⁰ and the scale is exact, the one with it is all that is rounded.
//!
//! Two things need more, as they are rare: NaN codes, whose bits would become 480, and scales from 2⁸ on, whose
//! product with 2¹²⁰ would overflow.

use crate::ptx::math::{cvt_bf16x2, mul_bf16x2, prmt, prmt_by};

/// The scale of a tile: two copies of a bf16, to multiply pairs with.
#[derive(Clone, Copy)]
pub struct Scale(u32);

impl Scale {
    /// Of a scale stored as f32, which is rounded to bf16 first.
    #[inline(always)]
    pub fn from_f32(scale: f32) -> Self {
        Self(cvt_bf16x2(scale, scale))
    }

    /// Of a scale that is a bf16 already, in the lower half of a word.
    #[inline(always)]
    pub fn from_bf16(word: u32) -> Self {
        Self(prmt::<0x1010>(word, 0))
    }

    /// Of a scale stored as a ue8m0 byte: 2^(byte − 127), or NaN for 255.
    #[inline(always)]
    pub fn from_ue8m0(byte: u32) -> Self {
        // The exponent field of a bf16 is the same, but 0 in it makes subnormals, and 255 an infinity if no other bit is set.
        let is_nan = (byte + 1) >> 8;
        Self(PAIR * (byte * BF16_EXPONENT + is_nan).max(SMALLEST_UE8M0))
    }

    /// Its value. Not infinite but NaN, which makes no difference to attention: an infinite key makes NaN of its own probability or of all.
    #[inline(always)]
    pub fn value(self) -> f32 {
        let value = f32::from_bits(self.0 << 16);
        if value.is_infinite() { f32::NAN } else { value }
    }
}

/// The scale of a tile by 2¹²⁰, twice: what the bits of an e4m3 in their place are multiplied with. Of a scale that is not
/// large.
#[derive(Clone, Copy)]
pub struct Factor(u32);

impl Factor {
    /// Those of a pair of scales stored as bf16, for [`Self::of_pair`].
    #[inline(always)]
    pub fn pair(scales: u32) -> u32 {
        mul_bf16x2(scales, UNBIAS)
    }

    /// The first (0) or second (1) of a pair.
    #[inline(always)]
    pub fn of_pair(pair: u32, number: u32) -> Self {
        Self(prmt_by(pair, 0, 0x1010 + 0x2222 * number))
    }

    /// That of one of four scales stored as ue8m0 bytes: their exponent is that of a bf16, and the least of them, 2⁻¹²⁷, which
    /// as a bf16 were a subnormal, makes a normal number.
    #[inline(always)]
    pub fn of_ue8m0(bytes: u32, number: u32) -> Self {
        let pair = prmt_by(bytes, 0, 0x4040 + 0x0101 * number);
        Self(BF16_EXPONENT * pair + PAIR * BF16_EXPONENT * 120)
    }
}

/// Gives `store` the values of 16 codes, eight at a time as pairs of bf16, with the number of the half: all in the codes'
/// order, the first one in the lowest bits. Not all at once, as few threads have so many registers left.
///
/// There is no NaN among the codes, and the scale is not large.
#[inline(always)]
pub fn dequantise_16(codes: [u32; 4], factor: Factor, store: impl Fn(usize, [u32; 4])) {
    each_half(codes, |pair| mul_bf16x2(pair, factor.0), store);
}

/// [`dequantise_16`] for any codes and any scale.
#[inline(always)]
pub fn dequantise_any_16(codes: [u32; 4], scale: Scale, store: impl Fn(usize, [u32; 4])) {
    each_half(codes, |pair| mul_bf16x2(mul_bf16x2(with_nan(pair), UNBIAS), scale.0), store);
}

/// Bits of which one in [`FOUND`] is set if there is a NaN among the codes: a code with all bits set but for the sign.
#[inline(always)]
pub fn find_nan([a, b, c, d]: [u32; 4]) -> u32 {
    // Adding 1 changes the sign of NaN alone. What 0xff carries over is wrong for the next code, but there is a NaN then.
    let changed = |codes: u32| codes ^ codes.wrapping_add(0x0101_0101);
    changed(a) | changed(b) | changed(c) | changed(d)
}

/// Bits of which one in [`FOUND`] is set if one of a pair of bf16 scales is large: 2⁸ or more, or NaN.
#[inline(always)]
pub fn find_large_bf16(pair: u32) -> u32 {
    const LARGE: u32 = (127 + 8) * BF16_EXPONENT;
    ((pair & PAIR * 0x7fff) + PAIR * (0x8000 - LARGE)) & PAIR * 0x8000
}

/// Bits of which one in [`FOUND`] is set if one of four ue8m0 scales is large: 2⁸ or more, or NaN.
#[inline(always)]
pub fn find_large_ue8m0(bytes: u32) -> u32 {
    // From 135 on: the highest bit is set, and the others are 7 or more.
    ((bytes & 0x7f7f_7f7f) + 0x0101_0101 * (128 - 7)) & bytes & FOUND
}

/// The bits that count of what is found.
pub const FOUND: u32 = 0x8080_8080;

/// Two copies of what it is multiplied with, 16 bits wide.
const PAIR: u32 = 0x0001_0001;

/// Lowest bit of the exponent of a bf16.
const BF16_EXPONENT: u32 = 1 << 7;

/// 2⁻¹²⁷ as a bf16, a subnormal.
const SMALLEST_UE8M0: u32 = 1 << 6;

/// Two copies of 2¹²⁰ as a bf16.
const UNBIAS: u32 = PAIR * (127 + 120) * BF16_EXPONENT;

/// Bits of a pair of bf16 that come from e4m3: sign, four of the exponent, three of the mantissa.
const E4M3_BITS: u32 = PAIR * 0x87f0;

/// Lowest bit of a pair of e4m3 as bf16.
const E4M3_LOWEST: u32 = PAIR * 0x0010;

/// The bit of the exponent above those that come from e4m3, the fifth of eight, in a pair of bf16.
const ABOVE_E4M3: u32 = PAIR * 0x0800;

/// Gives `store` each half of a function of the pairs of codes, as bf16 `e4m3 · 2⁻¹²⁰` that are 480 · 2⁻¹²⁰ for NaN.
#[inline(always)]
fn each_half([a, b, c, d]: [u32; 4], function: impl Fn(u32) -> u32, store: impl Fn(usize, [u32; 4])) {
    // Each half of a word gets a byte with eight copies of its sign in front. Masked is what the shift moves from the lower
    // half into the upper one, and all copies of the sign but one.
    let low = |codes| function((prmt::<0x9180>(codes, 0) << 4) & E4M3_BITS);
    let high = |codes| function((prmt::<0xb3a2>(codes, 0) << 4) & E4M3_BITS);
    store(0, [low(a), high(a), low(b), high(b)]);
    store(1, [low(c), high(c), low(d), high(d)]);
}

/// The pair with NaN instead of 480 · 2⁻¹²⁰.
#[inline(always)]
fn with_nan(pair: u32) -> u32 {
    // Only 480 carries over. Copied to the four highest bits of the exponent, of which the others are set, it makes a NaN.
    let carry = (pair + E4M3_LOWEST) & ABOVE_E4M3;
    pair | carry * 0xf
}
