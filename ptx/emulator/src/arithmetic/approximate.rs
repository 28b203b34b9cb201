//! Division, roots and transcendental functions (PTX ISA, "Floating Point Instructions").
//!
//! Approximations are computed in f64 and rounded once, well inside the bounds that the ISA sets on their errors.

use ::half::{bf16, f16};

use super::float::{Float, Mode};
use super::half::unary;
use super::mnemonic::{Mnemonic, for_type};
use super::rounding::Rounding;
use super::{DecodeError, Operation};

/// Division, roots and transcendental functions.
pub(super) fn decode(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    match (m.opcode(), ty) {
        ("div" | "rcp" | "sqrt", "f32") if !m.take("approx") => exact(m),
        ("div" | "rcp" | "sqrt", "f64") => double(m),
        ("div", "f32") => Ok(divide_approximately(m)),
        ("rsqrt", "f64") => {
            m.require(&[("approx", ())])?;
            let ftz = m.take("ftz");
            Ok(Operation::unary(move |a: f64| (1.0 / a.flushed_if(ftz).sqrt()).flushed_if(ftz).canonical()))
        }
        ("rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh", _) => {
            m.require(&[("approx", ())])?;
            transcendental(m, ty)
        }
        _ => transcendental(m, ty),
    }
}

/// f32 division, reciprocal and root rounded in a named direction, and `div.full`.
///
/// Rounding to f64 first does no harm: a quotient or root that is not itself an f32, or in the middle between two, is
/// further from those than f64 rounds by (S. Figueroa, "When is double rounding innocuous?", SIGNUM 30, 1995).
fn exact(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let rounding = if m.opcode() == "div" && m.take("full") {
        Rounding::Nearest
    } else {
        m.require(&Rounding::MODIFIERS)?
    };
    let mode = Mode { rounding, ftz: m.take("ftz"), saturates: false };
    Ok(match m.opcode() {
        "div" => Operation::binary(move |a, b| mode.result(mode.operand(a) / mode.operand(b))),
        "rcp" => Operation::unary(move |a| mode.result(1.0 / mode.operand(a))),
        _ => Operation::unary(move |a| mode.result(mode.operand(a).sqrt())),
    })
}

/// f64 rounds to nearest only.
fn double(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    m.require(&[("rn", ())])?;
    Ok(match m.opcode() {
        "div" => Operation::binary(|a: f64, b: f64| (a / b).canonical()),
        "rcp" => Operation::unary(|a: f64| (1.0 / a).canonical()),
        _ => Operation::unary(|a: f64| a.sqrt().canonical()),
    })
}

/// `div.approx` multiplies by the reciprocal, which is zero for divisors beyond 2^126.
fn divide_approximately(m: &mut Mnemonic<'_>) -> Operation {
    /// 2^126
    const LARGEST_DIVISOR: f64 = f32::from_bits(253 << 23) as f64;
    let mode = Mode { rounding: Rounding::Nearest, ftz: m.take("ftz"), saturates: false };
    Operation::binary(move |a, b| {
        let (a, b) = (mode.operand(a), mode.operand(b));
        let reciprocal_is_zero = b.abs() > LARGEST_DIVISOR;
        mode.result(if reciprocal_is_zero { a * 0.0f64.copysign(b) } else { a / b })
    })
}

/// Functions of one operand. Their value at f32's and f16's special numbers is that of the f64 functions.
fn transcendental(m: &mut Mnemonic<'_>, ty: &str) -> Result<Operation, DecodeError> {
    let ftz = m.opcode() != "tanh" && m.take("ftz");
    match (m.opcode(), ty) {
        ("ex2", _) => apply(m, ty, ftz, exp2),
        ("tanh", _) => apply(m, ty, ftz, f64::tanh),
        ("rcp", "f32") => apply(m, ty, ftz, |a| 1.0 / a),
        ("sqrt", "f32") => apply(m, ty, ftz, f64::sqrt),
        ("rsqrt", "f32") => apply(m, ty, ftz, |a| 1.0 / a.sqrt()),
        ("lg2", "f32") => apply(m, ty, ftz, log2),
        ("sin", "f32") => apply(m, ty, ftz, f64::sin),
        ("cos", "f32") => apply(m, ty, ftz, f64::cos),
        _ => Err(m.unsupported_type(ty)),
    }
}

fn apply(
    m: &Mnemonic<'_>,
    ty: &str,
    ftz: bool,
    f: impl Fn(f64) -> f64 + Send + Sync + 'static,
) -> Result<Operation, DecodeError> {
    let element = ty.trim_end_matches("x2");
    Ok(for_type!(m, element, {"f32" => f32, "f16" => f16, "bf16" => bf16}, T => {
        unary(element != ty, move |a: T| {
            T::rounded(f(a.flushed_if(ftz).to_f64()), Rounding::Nearest).flushed_if(ftz).canonical()
        })
    }))
}

/// 2^x for results in f32's range: 2^n from the exponent field, 2^(x - n) from the Taylor series of e^y, y at most
/// (ln 2) / 2, whose first omitted term is below 2^-43.
fn exp2(x: f64) -> f64 {
    /// Beyond, results are zero or infinite in f32.
    const RANGE: f64 = 200.0;
    /// Adding it rounds to an integer: it leaves no room for a fraction.
    const INTEGER_ROUNDER: f64 = 1.5 * (1u64 << 52) as f64;
    const INVERSE_FACTORIALS: [f64; 11] = {
        let mut terms = [1.0; 11];
        let mut n = 1;
        while n < terms.len() {
            terms[n] = terms[n - 1] / n as f64;
            n += 1;
        }
        terms
    };
    let x = x.clamp(-RANGE, RANGE);
    let integer = x + INTEGER_ROUNDER - INTEGER_ROUNDER;
    let y = (x - integer) * std::f64::consts::LN_2;
    let fraction = INVERSE_FACTORIALS.iter().rev().fold(0.0, |sum, term| sum * y + term);
    fraction * f64::from_bits(((integer as i64 + 1023) as u64) << 52)
}

/// log2; the logarithm of either zero is minus infinity.
fn log2(x: f64) -> f64 {
    if x == 0.0 { f64::NEG_INFINITY } else { x.log2() }
}
