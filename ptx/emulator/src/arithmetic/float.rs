//! f32 and f64 arithmetic, and what all floating-point types share (PTX ISA, "Floating Point Instructions").
//!
//! Results that are NaN are canonical. Division, roots and transcendental functions are in [`super::approximate`].

use ::half::{bf16, f16};

use super::lanes::Value;
use super::mnemonic::{Mnemonic, for_type};
use super::rounding::{self, Format, Rounding};
use super::{DecodeError, Operation};

/// A floating-point type.
pub(super) trait Float: Value + PartialOrd + 'static {
    /// Its layout.
    const FORMAT: Format;
    /// Its exact value.
    fn to_f64(self) -> f64;

    /// From its code.
    fn from_code(code: u64) -> Self {
        Self::from_lane(code)
    }

    /// An exact or odd-rounded f64, rounded.
    fn rounded(value: f64, rounding: Rounding) -> Self {
        Self::from_code(Self::FORMAT.round_f64(value, rounding))
    }

    /// The canonical NaN.
    fn nan() -> Self {
        Self::from_code(Self::FORMAT.nan)
    }

    /// Whether it is NaN. Of its bits, as here and in [`Self::canonical`] the compiler would take one NaN for another.
    fn is_nan(self) -> bool {
        self.into_lane() & !Self::sign() > Self::FORMAT.infinity
    }

    /// Bit of the sign.
    fn sign() -> u64 {
        1 << Self::FORMAT.sign_shift
    }

    /// If `ftz`, a subnormal number becomes the zero of its sign.
    fn flushed_if(self, ftz: bool) -> Self {
        let code = self.into_lane();
        if ftz && code & Self::FORMAT.infinity == 0 { Self::from_code(code & Self::sign()) } else { self }
    }

    /// If `ftz`, a result below the normal numbers becomes the zero of its sign. What counts is the result as it would
    /// be with all bits of a normal number's fraction; rounded to the coarser steps of subnormal numbers it might reach
    /// the smallest normal one.
    fn tiny_flushed_if(ftz: bool, exact: f64, rounding: Rounding) -> f64 {
        let smallest = f64::from_bits(((Self::FORMAT.minimum_exponent + 1023) as u64) << 52);
        let is_tiny = || {
            // Twice as large it is rounded as a normal number.
            exact.abs() < smallest && Self::rounded(2.0 * exact, rounding).to_f64().abs() < 2.0 * smallest
        };
        if ftz && is_tiny() { 0.0_f64.copysign(exact) } else { exact }
    }

    /// The sign inverted, also of NaN.
    fn negated(self) -> Self {
        Self::from_code(self.into_lane() ^ Self::sign())
    }

    /// The sign removed, also of NaN.
    fn magnitude(self) -> Self {
        Self::from_code(self.into_lane() & !Self::sign())
    }

    /// Its magnitude with another's sign.
    fn with_sign_of(self, other: Self) -> Self {
        Self::from_code(self.magnitude().into_lane() | other.into_lane() & Self::sign())
    }

    /// Clamped to [0, 1]; NaN becomes +0.
    fn saturated(self) -> Self {
        let (zero, one) = (Self::from_code(0), Self::rounded(1.0, Rounding::Nearest));
        if self > one {
            one
        } else if self > zero {
            self
        } else {
            zero
        }
    }

    /// Negative numbers and -0 become +0.
    fn rectified(self) -> Self {
        if self.is_nan() || self.into_lane() & Self::sign() == 0 { self } else { Self::from_code(0) }
    }

    /// The canonical NaN if it is one, else `self`.
    fn canonical(self) -> Self {
        if self.is_nan() { Self::nan() } else { self }
    }
}

macro_rules! float {
    ($($ty:ty, $format:ident $(, $faster:item)?;)+) => {$(
        impl Float for $ty {
            const FORMAT: Format = Format::$format;
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            $($faster)?
        }
    )+};
}
float! {
    f16, F16;
    bf16, BF16;
    f32, F32, fn rounded(value: f64, rounding: Rounding) -> Self { rounding::to_f32(value, rounding) };
    f64, F64;
}

/// `min`, `max` of any floating-point type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extremum {
    smaller: bool,
    ftz: bool,
    propagates_nan: bool,
    exclusive_sign: bool,
}

impl Extremum {
    /// Takes the modifiers that a type has. `xorsign` stands with `abs`.
    pub fn take(m: &mut Mnemonic<'_>, ty: &str) -> Result<Self, DecodeError> {
        let smaller = m.opcode() == "min";
        if ty == "f64" {
            return Ok(Self { smaller, ftz: false, propagates_nan: false, exclusive_sign: false });
        }
        let exclusive_sign = m.take("xorsign");
        if exclusive_sign && !m.take("abs") {
            return Err(m.unsupported_modifier("xorsign"));
        }
        let ftz = !ty.starts_with("bf16") && m.take("ftz");
        Ok(Self { smaller, ftz, propagates_nan: m.take("NaN"), exclusive_sign })
    }

    /// The smaller or larger; -0 is smaller than +0. Of a number and NaN the number, unless NaN propagates.
    pub fn of<T: Float>(self, a: T, b: T) -> T {
        let (a, b) = (a.flushed_if(self.ftz), b.flushed_if(self.ftz));
        if !self.exclusive_sign {
            return self.pick(a, b);
        }
        let sign = (a.into_lane() ^ b.into_lane()) & T::sign();
        let picked = self.pick(a.magnitude(), b.magnitude());
        if picked.is_nan() { picked } else { T::from_code(picked.into_lane() | sign) }
    }

    fn pick<T: Float>(self, a: T, b: T) -> T {
        if a.is_nan() || b.is_nan() {
            let neither = self.propagates_nan || a.is_nan() && b.is_nan();
            return if neither {
                T::nan()
            } else if a.is_nan() {
                b
            } else {
                a
            };
        }
        let a_is_smaller = a < b || a == b && a.into_lane() & T::sign() != 0;
        if a_is_smaller == self.smaller { a } else { b }
    }
}

/// How an f32 instruction treats its operands and result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// `.rn` unless another is named.
    pub rounding: Rounding,
    /// Subnormal operands and results are flushed.
    pub ftz: bool,
    /// The result is clamped to [0, 1].
    pub saturates: bool,
}

impl Mode {
    /// What stands there when nothing does.
    const DEFAULT: Self = Self { rounding: Rounding::Nearest, ftz: false, saturates: false };

    /// Takes the modifiers.
    pub fn take(m: &mut Mnemonic<'_>) -> Self {
        let rounding = m.choose(&Rounding::MODIFIERS).unwrap_or(Rounding::Nearest);
        Self { rounding, ftz: m.take("ftz"), saturates: m.take("sat") }
    }

    /// An operand.
    pub fn operand(self, value: f32) -> f64 {
        f64::from(value.flushed_if(self.ftz))
    }

    /// The result, of a value that is exact or rounded to odd.
    pub fn result(self, value: f64) -> f32 {
        let rounded = rounding::to_f32(f32::tiny_flushed_if(self.ftz, value, self.rounding), self.rounding);
        if self.saturates { rounded.saturated() } else { rounded.canonical() }
    }
}

/// f32 and f64 arithmetic.
pub(super) fn decode(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    match (m.opcode(), m.last_type()) {
        ("add" | "sub" | "mul" | "mad" | "fma", "f32") => single(m),
        ("add" | "sub" | "mul" | "mad" | "fma", _) => double(m),
        _ => either(m),
    }
}

fn single(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [_] = m.types()?;
    let mode = Mode::take(m);
    let rounding = mode.rounding;
    if mode == Mode::DEFAULT {
        return Ok(match m.opcode() {
            "add" => Operation::binary(|a: f32, b: f32| (a + b).canonical()),
            "sub" => Operation::binary(|a: f32, b: f32| (a - b).canonical()),
            "mul" => Operation::binary(|a: f32, b: f32| (a * b).canonical()),
            _ => Operation::ternary(|a: f32, b: f32, c: f32| {
                let product = f64::from(a) * f64::from(b);
                (rounding::sum_to_odd(product, c.into()) as f32).canonical()
            }),
        });
    }
    Ok(match m.opcode() {
        "add" => Operation::binary(move |a, b| {
            mode.result(rounding::sum(mode.operand(a), mode.operand(b), rounding))
        }),
        "sub" => Operation::binary(move |a, b| {
            mode.result(rounding::sum(mode.operand(a), -mode.operand(b), rounding))
        }),
        "mul" => Operation::binary(move |a, b| mode.result(mode.operand(a) * mode.operand(b))),
        _ => Operation::ternary(move |a, b, c| {
            let product = mode.operand(a) * mode.operand(b);
            mode.result(rounding::sum(product, mode.operand(c), rounding))
        }),
    })
}

/// f64 rounds to nearest only.
fn double(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [_] = m.types()?;
    m.take("rn");
    Ok(match m.opcode() {
        "add" => Operation::binary(|a: f64, b: f64| (a + b).canonical()),
        "sub" => Operation::binary(|a: f64, b: f64| (a - b).canonical()),
        "mul" => Operation::binary(|a: f64, b: f64| (a * b).canonical()),
        _ => Operation::ternary(|a: f64, b: f64, c: f64| a.mul_add(b, c).canonical()),
    })
}

/// What f32 and f64 have alike.
fn either(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    Ok(match m.opcode() {
        "min" | "max" => {
            let extremum = Extremum::take(m, ty)?;
            for_type!(m, ty, {"f32" => f32, "f64" => f64}, T => {
                Operation::binary(move |a: T, b| extremum.of(a, b))
            })
        }
        "abs" => {
            let ftz = ty == "f32" && m.take("ftz");
            for_type!(m, ty, {"f32" => f32, "f64" => f64}, T => {
                Operation::unary(move |a: T| a.flushed_if(ftz).magnitude().canonical())
            })
        }
        "neg" => {
            let ftz = ty == "f32" && m.take("ftz");
            for_type!(m, ty, {"f32" => f32, "f64" => f64}, T => {
                Operation::unary(move |a: T| a.flushed_if(ftz).negated().canonical())
            })
        }
        // The sign comes from the first operand.
        "copysign" => for_type!(m, ty, {"f32" => f32, "f64" => f64}, T => {
            Operation::binary(|a: T, b: T| b.with_sign_of(a))
        }),
        "testp" => {
            let property = m.require(&PROPERTIES)?;
            for_type!(m, ty, {"f32" => f32, "f64" => f64}, T => {
                Operation::unary(move |a: T| property & (1 << a.classify() as u32) != 0)
            })
        }
        _ => return Err(m.unsupported_type(ty)),
    })
}

/// Properties that `testp` asks for, as sets of categories.
const PROPERTIES: [(&str, u32); 6] = {
    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
    let (infinite, nan, subnormal) = (1 << Infinite as u32, 1 << Nan as u32, 1 << Subnormal as u32);
    // Zero counts as normal.
    let normal = 1 << Normal as u32 | 1 << Zero as u32;
    let finite = normal | subnormal;
    [
        ("finite", finite),
        ("infinite", infinite),
        ("number", finite | infinite),
        ("notanumber", nan),
        ("normal", normal),
        ("subnormal", subnormal),
    ]
};
