//! Rounding once: exact values in f64 "rounded to odd", and from there to any narrower format.
//!
//! Rounding to odd takes, of the two f64 that enclose an exact value, the one whose last bit is 1. A value so rounded
//! can be rounded again, in any direction, to a format at least two bits shorter with the result that the exact value
//! would have had (S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 57, 2008).

use std::cmp::Ordering;

/// Direction of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// `.rn`: to nearest, ties to even.
    Nearest,
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
    /// `.rz`: towards zero.
    Zero,
    /// `.rm`: towards minus infinity.
    Down,
    /// `.rp`: towards plus infinity.
    Up,
}

impl Rounding {
    /// The modifiers of arithmetic.
    pub const MODIFIERS: [(&'static str, Self); 4] =
        [("rn", Self::Nearest), ("rz", Self::Zero), ("rm", Self::Down), ("rp", Self::Up)];

    /// Whether a magnitude is increased: `odd` says whether its last bit is 1, `rest` how the part cut off compares with
    /// half a unit of it (`None`: nothing was cut off).
    fn increases(self, negative: bool, odd: bool, rest: Option<Ordering>) -> bool {
        let Some(rest) = rest else { return false };
        match self {
            Self::Nearest => rest.is_gt() || rest.is_eq() && odd,
            Self::NearestAway => rest.is_ge(),
            Self::Zero => false,
            Self::Down => negative,
            Self::Up => !negative,
        }
    }

    /// Whether a value beyond the largest finite one becomes infinite.
    fn overflows_to_infinity(self, negative: bool) -> bool {
        match self {
            Self::Nearest | Self::NearestAway => true,
            Self::Zero => false,
            Self::Down => negative,
            Self::Up => !negative,
        }
    }
}

/// A binary floating-point format with a sign, laid out as IEEE 754 does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// Bits of the fraction.
    pub fraction_bits: u32,
    /// Exponent of the smallest normal value.
    pub minimum_exponent: i32,
    /// Largest finite magnitude, as its code without the sign.
    pub largest: u64,
    /// The next code: infinity, or NaN in a format without it.
    pub infinity: u64,
    /// The canonical NaN.
    pub nan: u64,
    /// Bits below the sign.
    pub sign_shift: u32,
}

impl Format {
    /// IEEE 754 with `exponent_bits` and `fraction_bits`, and a canonical NaN of all ones.
    const fn ieee(exponent_bits: u32, fraction_bits: u32) -> Self {
        let infinity = ((1 << exponent_bits) - 1) << fraction_bits;
        let sign_shift = exponent_bits + fraction_bits;
        Self {
            fraction_bits,
            minimum_exponent: 2 - (1 << (exponent_bits - 1)),
            largest: infinity - 1,
            infinity,
            nan: (1 << sign_shift) - 1,
            sign_shift,
        }
    }

    /// binary16.
    pub const F16: Self = Self::ieee(5, 10);
    /// bfloat16.
    pub const BF16: Self = Self::ieee(8, 7);
    /// binary32.
    pub const F32: Self = Self::ieee(8, 23);
    /// binary64; its NaN is the usual quiet one.
    pub const F64: Self = Self { nan: f64::NAN.to_bits(), ..Self::ieee(11, 52) };
    /// FP8 with 5 bits of exponent.
    pub const E5M2: Self = Self::ieee(5, 2);
    /// FP8 with 4 bits of exponent, which spends only one code a sign on NaN and has no infinity (OCP 8-bit
    /// floating-point specification, section 5).
    pub const E4M3: Self = Self { largest: 0x7e, infinity: 0x7f, nan: 0x7f, ..Self::ieee(4, 3) };

    /// f32 with the fraction of f16, for tensor cores.
    pub const TF32: Self = Self::ieee(8, 10);

    /// Code of `significand * 2^exponent`, rounded. A value below the normal numbers has at most 53 bits, as an f64 does.
    pub fn round(self, negative: bool, significand: u64, exponent: i32, rounding: Rounding) -> u64 {
        let sign = u64::from(negative) << self.sign_shift;
        if significand == 0 {
            return sign;
        }
        let leading = exponent + (u64::BITS - 1 - significand.leading_zeros()) as i32;
        let binade = leading.max(self.minimum_exponent);
        let cut = binade - self.fraction_bits as i32 - exponent;
        let (kept, rest) = split(significand, cut);
        // The leading bit of a normal number adds one to the exponent field.
        let code = (((binade - self.minimum_exponent) as u64) << self.fraction_bits) + kept;
        let code = code + u64::from(rounding.increases(negative, kept & 1 != 0, rest));
        let overflow = if rounding.overflows_to_infinity(negative) { self.infinity } else { self.largest };
        sign | if code > self.largest { overflow } else { code }
    }

    /// Code of an f64 that is exact or rounded to odd.
    pub fn round_f64(self, value: f64, rounding: Rounding) -> u64 {
        let bits = value.to_bits();
        let negative = bits >> 63 != 0;
        if value.is_nan() {
            return self.nan;
        }
        if value.is_infinite() {
            return u64::from(negative) << self.sign_shift | self.infinity;
        }
        let field = (bits >> F64_FRACTION_BITS & F64_EXPONENT_MASK) as i32;
        let fraction = bits & ((1 << F64_FRACTION_BITS) - 1);
        let significand = if field == 0 { fraction } else { fraction | 1 << F64_FRACTION_BITS };
        self.round(negative, significand, field.max(1) - F64_EXPONENT_OFFSET, rounding)
    }

    /// As [`Self::round_f64`], but what would be infinite is the largest finite number.
    pub fn round_finite(self, value: f64, rounding: Rounding) -> u64 {
        let code = self.round_f64(value, rounding);
        let sign = code >> self.sign_shift << self.sign_shift;
        if value.is_nan() { self.nan } else { sign | (code - sign).min(self.largest) }
    }

    /// The value of a code, exactly; formats of at most 32 bits.
    pub fn decode(self, code: u64) -> f64 {
        let magnitude = code & ((1 << self.sign_shift) - 1);
        let field = (magnitude >> self.fraction_bits) as i32;
        let fraction = magnitude & ((1 << self.fraction_bits) - 1);
        let significand = if field == 0 { fraction } else { fraction | 1 << self.fraction_bits };
        let exponent = self.minimum_exponent + field.max(1) - 1 - self.fraction_bits as i32;
        let value = match magnitude {
            finite if finite <= self.largest => significand as f64 * 2.0f64.powi(exponent),
            infinite if infinite == self.infinity && self.infinity != self.nan => f64::INFINITY,
            _ => f64::NAN,
        };
        if code >> self.sign_shift & 1 != 0 { -value } else { value }
    }
}

/// Fraction bits of an f64.
const F64_FRACTION_BITS: u32 = 52;
/// Mask of its exponent field, once shifted down.
const F64_EXPONENT_MASK: u64 = 0x7ff;
/// What its exponent field exceeds the exponent of the last fraction bit by.
const F64_EXPONENT_OFFSET: i32 = 1023 + F64_FRACTION_BITS as i32;

/// `value / 2^cut` without its fraction, and how the fraction compares with one half (`None`: it is zero).
fn split(value: u64, cut: i32) -> (u64, Option<Ordering>) {
    if cut <= 0 {
        return (value << -cut, None);
    }
    if cut >= u64::BITS as i32 {
        return (0, Some(Ordering::Less));
    }
    let half = 1 << (cut - 1);
    let rest = value & ((half << 1) - 1);
    (value >> cut, (rest != 0).then(|| rest.cmp(&half)))
}

/// Rounds an f64 that is exact or rounded to odd.
pub(super) fn to_f32(value: f64, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::Nearest => value as f32,
        _ => f32::from_bits(Format::F32.round_f64(value, rounding) as u32),
    }
}

/// `rounded`, the f64 nearest to a value, turned into the value rounded to odd. `error` has the sign of what the value
/// exceeds `rounded` by, zero if nothing.
fn to_odd(rounded: f64, error: f64) -> f64 {
    let bits = rounded.to_bits();
    if bits & 1 != 0 || error == 0.0 || !error.is_finite() || !rounded.is_finite() {
        return rounded;
    }
    // An even f64 next to the value: its neighbour on the other side is odd. Never zero: a sum of f64 that is not zero
    // does not round to zero.
    let away = (error > 0.0) == (rounded > 0.0);
    f64::from_bits(if away { bits + 1 } else { bits - 1 })
}

/// `a + b`, rounded to odd (D. Knuth's exact error of a sum).
pub(super) fn sum_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    to_odd(sum, (a - (sum - b_part)) + (b - b_part))
}

/// `a + b`, rounded to odd, and with the sign of zero that `rounding` gives to an exact zero.
pub(super) fn sum(a: f64, b: f64, rounding: Rounding) -> f64 {
    let sum = sum_to_odd(a, b);
    let cancelled = sum == 0.0 && (a.is_sign_negative() != b.is_sign_negative());
    if cancelled && rounding == Rounding::Down { -0.0 } else { sum }
}
