//! Conversions of pairs of 8-bit floating-point numbers (PTX ISA, `cvt`).

use ::half::f16;

use super::float::Float;
use super::lanes::Packed;
use super::mnemonic::Mnemonic;
use super::rounding::{Format, Rounding};
use super::{DecodeError, Operation};

/// The format of a pair's elements; `None` if the type is no pair of FP8.
pub(super) fn format(ty: &str) -> Option<Format> {
    match ty {
        "e4m3x2" => Some(Format::E4M3),
        "e5m2x2" => Some(Format::E5M2),
        _ => None,
    }
}

/// `cvt.rn.satfinite{.relu}.e4m3x2.f32 d, a, b` (`a` above), `cvt.rn.satfinite{.relu}.e4m3x2.f16x2 d, a`, and the same
/// for e5m2x2.
pub(super) fn narrow(m: &mut Mnemonic<'_>, format: Format, source: &str) -> Result<Operation, DecodeError> {
    m.require(&[("rn", ())])?;
    m.require(&[("satfinite", ())])?;
    let rectifies = m.take("relu");
    let code = move |value: f64| {
        let rectified = if rectifies { value.rectified() } else { value };
        format.round_finite(rectified, Rounding::Nearest)
    };
    match source {
        "f32" => Ok(Operation::binary(move |a: f32, b: f32| pack(code(b.into()), code(a.into())))),
        "f16x2" => Ok(Operation::unary(move |a: Packed<f16>| pack(code(a.0.to_f64()), code(a.1.to_f64())))),
        _ => Err(m.unsupported_type(source)),
    }
}

/// `cvt.rn{.relu}.f16x2.e4m3x2 d, a` and the same for e5m2x2: exact, as f16 has every number of both formats.
pub(super) fn widen(m: &mut Mnemonic<'_>, format: Format, result: &str) -> Result<Operation, DecodeError> {
    if result != "f16x2" {
        return Err(m.unsupported_type(result));
    }
    m.require(&[("rn", ())])?;
    let rectifies = m.take("relu");
    let value = move |code: u16| {
        let value = f16::rounded(format.decode((code & 0xff).into()), Rounding::Nearest);
        if rectifies { value.rectified() } else { value }
    };
    Ok(Operation::unary(move |a: u16| Packed(value(a), value(a >> 8))))
}

/// Two codes of eight bits.
fn pack(low: u64, high: u64) -> u16 {
    (high << 8 | low) as u16
}
