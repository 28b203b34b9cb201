//! `cvt` (PTX ISA, "Data Movement and Conversion Instructions").
//!
//! Integers of 8 bits live in registers of 16. Floating-point sources are exact in f64, from where they are rounded
//! once.

use ::half::{bf16, f16};

use super::float::Float;
use super::lanes::{Packed, Value};
use super::mnemonic::{Mnemonic, for_type};
use super::rounding::{Format, Rounding};
use super::{DecodeError, Operation, Width, fp8};

/// `cvt`.
pub(super) fn decode(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    if m.take("pack") {
        return pack(m);
    }
    let [result, source] = m.types()?;
    match (result, source) {
        ("f16x2" | "bf16x2", "f32") => float_pair(m, result),
        ("tf32", "f32") => tensor_float(m),
        _ => match (fp8::format(result), fp8::format(source)) {
            (Some(format), None) => fp8::narrow(m, format, source),
            (None, Some(format)) => fp8::widen(m, format, result),
            _ => match (is_float(result), is_float(source)) {
                (true, true) => float_to_float(m, result, source),
                (false, true) => float_to_integer(m, result, source),
                (true, false) => integer_to_float(m, result, source),
                (false, false) => integer_to_integer(m, result, source),
            },
        },
    }
}

fn is_float(ty: &str) -> bool {
    ty.contains('f')
}

/// The operation for each floating-point type, as `T`.
macro_rules! floats {
    ($m:expr, $ty:expr, $T:ident => $operation:expr) => {
        for_type!($m, $ty, {"f16" => f16, "bf16" => bf16, "f32" => f32, "f64" => f64}, $T => $operation)
    };
}

/// The operation for each integer type, as `T`.
macro_rules! integers {
    ($m:expr, $ty:expr, $T:ident => $operation:expr) => {
        for_type!($m, $ty, {
            "u8" => InWord<u8>, "s8" => InWord<i8>, "u16" => u16, "s16" => i16, "u32" => u32, "s32" => i32,
            "u64" => u64, "s64" => i64,
        }, $T => $operation)
    };
}

/// An 8-bit integer in a register of 16 bits, to which it is extended.
#[derive(Clone, Copy)]
struct InWord<T>(T);

impl Value for InWord<u8> {
    const WIDTH: Width = Width::B16;
    fn from_lane(lane: u64) -> Self {
        Self(lane as u8)
    }
    fn into_lane(self) -> u64 {
        self.0.into()
    }
}

impl Value for InWord<i8> {
    const WIDTH: Width = Width::B16;
    fn from_lane(lane: u64) -> Self {
        Self(lane as i8)
    }
    fn into_lane(self) -> u64 {
        i16::from(self.0).into_lane()
    }
}

/// An integer type.
trait Integer: Value {
    /// What NaN becomes where it does not become zero: the highest bit alone.
    const HIGHEST_BIT: i128;
    /// Whether it has 64 bits.
    const IS_LONG: bool;
    /// Its exact value.
    fn widened(self) -> i128;
    /// The lowest bits of a value.
    fn truncated(value: i128) -> Self;
    /// The nearest value of the type.
    fn clamped(value: i128) -> Self;
}

macro_rules! integer {
    ($($ty:ty, $element:ty, $wrap:expr, $unwrap:expr;)+) => {$(
        impl Integer for $ty {
            const HIGHEST_BIT: i128 = 1 << (<$element>::BITS - 1);
            const IS_LONG: bool = <$element>::BITS == 64;
            fn widened(self) -> i128 {
                let unwrap: fn($ty) -> $element = $unwrap;
                unwrap(self).into()
            }
            fn truncated(value: i128) -> Self {
                $wrap(value as $element)
            }
            fn clamped(value: i128) -> Self {
                $wrap(value.clamp(<$element>::MIN.into(), <$element>::MAX.into()) as $element)
            }
        }
    )+};
}
integer! {
    InWord<u8>, u8, InWord, |value| value.0;
    InWord<i8>, i8, InWord, |value| value.0;
    u16, u16, std::convert::identity, |value| value;
    i16, i16, std::convert::identity, |value| value;
    u32, u32, std::convert::identity, |value| value;
    i32, i32, std::convert::identity, |value| value;
    u64, u64, std::convert::identity, |value| value;
    i64, i64, std::convert::identity, |value| value;
}

fn integer_to_integer(m: &mut Mnemonic<'_>, result: &str, source: &str) -> Result<Operation, DecodeError> {
    let saturates = m.take("sat");
    Ok(integers!(m, source, S => integers!(m, result, R => if saturates {
        Operation::unary(|a: S| R::clamped(a.widened()))
    } else {
        Operation::unary(|a: S| R::truncated(a.widened()))
    })))
}

fn integer_to_float(m: &mut Mnemonic<'_>, result: &str, source: &str) -> Result<Operation, DecodeError> {
    let rounding = m.require(&Rounding::MODIFIERS)?;
    let options = FloatOptions::take(m, rounding, result, source);
    Ok(integers!(m, source, S => floats!(m, result, R => Operation::unary(move |a: S| {
        let value = a.widened();
        // No integer of at most 64 bits is beyond the significand.
        let magnitude = value.unsigned_abs() as u64;
        let rounded = R::from_code(R::FORMAT.round(value < 0, magnitude, 0, options.rounding));
        options.finish(rounded)
    }))))
}

/// Rounding to an integer.
#[derive(Clone, Copy)]
enum IntegerRounding {
    Nearest,
    Zero,
    Down,
    Up,
}

impl IntegerRounding {
    const MODIFIERS: [(&'static str, Self); 4] =
        [("rni", Self::Nearest), ("rzi", Self::Zero), ("rmi", Self::Down), ("rpi", Self::Up)];

    fn apply(self, value: f64) -> f64 {
        match self {
            Self::Nearest => value.round_ties_even(),
            Self::Zero => value.trunc(),
            Self::Down => value.floor(),
            Self::Up => value.ceil(),
        }
    }
}

/// Out of range, the nearest integer. NaN becomes zero, unless a type has 64 bits: then the highest bit alone.
fn float_to_integer(m: &mut Mnemonic<'_>, result: &str, source: &str) -> Result<Operation, DecodeError> {
    let rounding = m.require(&IntegerRounding::MODIFIERS)?;
    let ftz = source == "f32" && m.take("ftz");
    m.take("sat");
    Ok(floats!(m, source, S => integers!(m, result, R => {
        let nan = if source == "f64" || R::IS_LONG { R::HIGHEST_BIT } else { 0 };
        Operation::unary(move |a: S| {
            let value = a.flushed_if(ftz).to_f64();
            if value.is_nan() { R::truncated(nan) } else { R::clamped(rounding.apply(value) as i128) }
        })
    })))
}

/// How a floating-point result is made.
#[derive(Clone, Copy)]
struct FloatOptions {
    rounding: Rounding,
    /// Subnormal f32 are flushed, on either side.
    ftz: bool,
    saturates: bool,
    rectifies: bool,
    /// Infinity and beyond become the largest finite number.
    finite: bool,
}

impl FloatOptions {
    /// Takes the modifiers that a conversion between two types has; that of rounding is known.
    fn take(m: &mut Mnemonic<'_>, rounding: Rounding, result: &str, source: &str) -> Self {
        let is_pair = result.ends_with("x2");
        let narrows_f32 = source == "f32" && matches!(result, "f16" | "bf16" | "f16x2" | "bf16x2");
        Self {
            rounding,
            ftz: !is_pair && (result == "f32" || source == "f32") && m.take("ftz"),
            saturates: !is_pair && m.take("sat"),
            rectifies: narrows_f32 && m.take("relu"),
            finite: narrows_f32 && m.take("satfinite"),
        }
    }

    /// Converts a value.
    fn convert<R: Float>(self, value: f64) -> R {
        let code = if self.finite {
            R::FORMAT.round_finite(value, self.rounding)
        } else {
            R::FORMAT.round_f64(value, self.rounding)
        };
        self.finish(R::from_code(code))
    }

    /// Does what follows rounding.
    fn finish<R: Float>(self, rounded: R) -> R {
        let is_single = R::FORMAT.sign_shift == Format::F32.sign_shift;
        let rounded = rounded.flushed_if(self.ftz && is_single);
        if self.saturates {
            rounded.saturated()
        } else if self.rectifies {
            rounded.rectified()
        } else {
            rounded
        }
    }
}

/// Where the result has every number of the source, nothing is rounded; where both are the same, perhaps to an integer.
fn float_to_float(m: &mut Mnemonic<'_>, result: &str, source: &str) -> Result<Operation, DecodeError> {
    let same = result == source;
    let to_integer = if same { m.choose(&IntegerRounding::MODIFIERS) } else { None };
    let is_exact = same || matches!((result, source), ("f64" | "f32", "f16" | "bf16") | ("f64", "f32"));
    let rounding = if is_exact { Rounding::Nearest } else { m.require(&Rounding::MODIFIERS)? };
    let options = FloatOptions::take(m, rounding, result, source);
    let flushes_source = options.ftz && source == "f32";
    if (result, source) == ("f32", "bf16") && !options.saturates {
        // A bf16 is the upper half of an f32, NaN included.
        return Ok(Operation::unary(move |a: bf16| {
            f32::from_code(a.into_lane() << 16).flushed_if(options.ftz)
        }));
    }
    Ok(floats!(m, source, S => floats!(m, result, R => Operation::unary(move |a: S| {
        let value = a.flushed_if(flushes_source).to_f64();
        options.convert::<R>(to_integer.map_or(value, |rounding| rounding.apply(value)))
    }))))
}

/// `cvt.rn.f16x2.f32 d, a, b`: `a` becomes the upper element.
fn float_pair(m: &mut Mnemonic<'_>, result: &str) -> Result<Operation, DecodeError> {
    let rounding = m.require(&[("rn", Rounding::Nearest), ("rz", Rounding::Zero)])?;
    let options = FloatOptions::take(m, rounding, result, "f32");
    Ok(for_type!(m, result, {"f16x2" => f16, "bf16x2" => bf16}, R => {
        Operation::binary(move |a: f32, b: f32| {
            Packed(options.convert::<R>(b.into()), options.convert::<R>(a.into()))
        })
    }))
}

/// `cvt.rna.tf32.f32`: an f32 of which 10 bits of the fraction are used.
fn tensor_float(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let rounding =
        m.require(&[("rna", Rounding::NearestAway), ("rn", Rounding::Nearest), ("rz", Rounding::Zero)])?;
    let (rectifies, finite) = (m.take("relu"), m.take("satfinite"));
    Ok(Operation::unary(move |a: f32| {
        let value = f64::from(if rectifies { a.rectified() } else { a });
        let format = Format::TF32;
        if value.is_nan() {
            // The hardware cuts off what does not fit. `.rna` does so with the operand as it is, even where infinity is left.
            let nan = if rounding == Rounding::NearestAway { a } else { f32::nan() };
            return f32::from_code(
                nan.into_lane() & u64::MAX << (Format::F32.fraction_bits - format.fraction_bits),
            );
        }
        let code =
            if finite { format.round_finite(value, rounding) } else { format.round_f64(value, rounding) };
        f32::from_code(code << (Format::F32.fraction_bits - format.fraction_bits))
    }))
}

/// `cvt.pack.sat.s16.s32 d, a, b` and `cvt.pack.sat.s8.s32.b32 d, a, b, c`: `b` lowest, then `a`, then the lower half of
/// `c`.
fn pack(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    m.require(&[("sat", ())])?;
    if m.type_count() == 2 {
        let [result, source] = m.types()?;
        if source != "s32" {
            return Err(m.unsupported_type(source));
        }
        return Ok(for_type!(m, result, {"u16" => u16, "s16" => i16}, R => {
            Operation::binary(|a: i32, b: i32| Packed(R::clamped(b.into()), R::clamped(a.into())))
        }));
    }
    let [result, source, rest] = m.types()?;
    if (source, rest) != ("s32", "b32") {
        return Err(m.unsupported_type(if source == "s32" { rest } else { source }));
    }
    Ok(for_type!(m, result, {"u8" => InWord<u8>, "s8" => InWord<i8>}, R => {
        Operation::ternary(|a: i32, b: i32, c: u32| {
            let byte = |value: i32| R::clamped(value.into()).into_lane() as u32 & 0xff;
            c << 16 | byte(a) << 8 | byte(b)
        })
    }))
}
