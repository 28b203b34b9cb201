//! f16 and bf16 arithmetic, single and in pairs (PTX ISA, "Half Precision Floating Point Instructions").
//!
//! Everything is computed exactly, or rounded to odd, in f64, and rounded to the format once.

use ::half::{bf16, f16};

use super::float::{Extremum, Float};
use super::lanes::Packed;
use super::mnemonic::{Mnemonic, for_type};
use super::rounding::{self, Rounding};
use super::{DecodeError, Operation};

/// Half-precision arithmetic.
pub(super) fn decode(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    let element = ty.trim_end_matches("x2");
    let packed = element != ty;
    for_type!(m, element, {"f16" => f16, "bf16" => bf16}, T => decode_for::<T>(m, ty, packed))
}

/// How an instruction treats its operands and result.
#[derive(Clone, Copy)]
struct Mode {
    ftz: bool,
    saturates: bool,
    rectifies: bool,
}

impl Mode {
    fn operand<T: Float>(self, value: T) -> f64 {
        value.flushed_if(self.ftz).to_f64()
    }

    fn result<T: Float>(self, value: f64) -> T {
        let rounding = Rounding::Nearest;
        let rounded = T::rounded(T::tiny_flushed_if(self.ftz, value, rounding), rounding);
        if self.saturates {
            rounded.saturated()
        } else if self.rectifies {
            rounded.rectified()
        } else {
            rounded
        }
    }
}

fn decode_for<T: Float>(m: &mut Mnemonic<'_>, ty: &str, packed: bool) -> Result<Operation, DecodeError> {
    if let "min" | "max" = m.opcode() {
        let extremum = Extremum::take(m, ty)?;
        return Ok(binary(packed, move |a: T, b: T| extremum.of(a, b)));
    }
    let is_f16 = ty.starts_with('f');
    let ftz = is_f16 && m.take("ftz");
    match m.opcode() {
        "abs" => return Ok(unary(packed, move |a: T| a.flushed_if(ftz).magnitude().canonical())),
        "neg" => return Ok(unary(packed, move |a: T| a.flushed_if(ftz).negated().canonical())),
        _ => {}
    }
    m.take("rn");
    let mode =
        Mode { ftz, saturates: is_f16 && m.take("sat"), rectifies: m.opcode() == "fma" && m.take("relu") };
    Ok(match m.opcode() {
        "add" => binary(packed, move |a: T, b: T| {
            mode.result(rounding::sum_to_odd(mode.operand(a), mode.operand(b)))
        }),
        "sub" => binary(packed, move |a: T, b: T| {
            mode.result(rounding::sum_to_odd(mode.operand(a), -mode.operand(b)))
        }),
        "mul" => binary(packed, move |a: T, b: T| mode.result(mode.operand(a) * mode.operand(b))),
        "fma" => ternary(packed, move |a: T, b: T, c: T| {
            mode.result(rounding::sum_to_odd(mode.operand(a) * mode.operand(b), mode.operand(c)))
        }),
        _ => return Err(m.unsupported_type(ty)),
    })
}

/// An operation on one element or on both of a pair.
pub(super) fn unary<T: Float>(packed: bool, f: impl Fn(T) -> T + Send + Sync + 'static) -> Operation {
    if packed { Operation::unary(move |a: Packed<T>| a.map(&f)) } else { Operation::unary(f) }
}

fn binary<T: Float>(packed: bool, f: impl Fn(T, T) -> T + Send + Sync + 'static) -> Operation {
    if packed { Operation::binary(move |a: Packed<T>, b| a.zip(b, &f)) } else { Operation::binary(f) }
}

fn ternary<T: Float>(packed: bool, f: impl Fn(T, T, T) -> T + Send + Sync + 'static) -> Operation {
    if packed {
        Operation::ternary(move |a: Packed<T>, b: Packed<T>, c: Packed<T>| {
            Packed(f(a.0, b.0, c.0), f(a.1, b.1, c.1))
        })
    } else {
        Operation::ternary(f)
    }
}
