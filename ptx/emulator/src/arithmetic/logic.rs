//! Words of bits: logic and shifts (PTX ISA, "Logic and Shift Instructions").

use super::lanes::Value;
use super::mnemonic::{Mnemonic, for_type};
use super::{DecodeError, Operation};

/// The operation for each type of bits, as `T`.
macro_rules! words {
    ($m:expr, $ty:expr, $T:ident => $operation:expr) => {
        for_type!($m, $ty, {"b16" => u16, "b32" => u32, "b64" => u64}, $T => $operation)
    };
}

/// The operation for each type of bits and for predicates, as `T`.
macro_rules! words_and_predicates {
    ($m:expr, $ty:expr, $T:ident => $operation:expr) => {
        for_type!($m, $ty, {"pred" => bool, "b16" => u16, "b32" => u32, "b64" => u64}, $T => $operation)
    };
}

/// Logic and shifts.
pub(super) fn decode(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    match m.opcode() {
        "lop3" => lookup(m),
        "shf" => funnel_shift(m),
        opcode => {
            let [ty] = m.types()?;
            Ok(match opcode {
                "and" => words_and_predicates!(m, ty, T => Operation::binary(|a: T, b: T| a & b)),
                "or" => words_and_predicates!(m, ty, T => Operation::binary(|a: T, b: T| a | b)),
                "xor" => words_and_predicates!(m, ty, T => Operation::binary(|a: T, b: T| a ^ b)),
                "not" => words_and_predicates!(m, ty, T => Operation::unary(|a: T| !a)),
                "cnot" => words!(m, ty, T => Operation::unary(|a: T| T::from(a == 0))),
                "shl" => words!(m, ty, T => Operation::binary(T::shift_left)),
                _ => for_type!(m, ty, {
                    "b16" | "u16" => u16, "b32" | "u32" => u32, "b64" | "u64" => u64,
                    "s16" => i16, "s32" => i32, "s64" => i64,
                }, T => Operation::binary(T::shift_right)),
            })
        }
    }
}

/// Shifts by any amount.
trait Shift: Value {
    /// Zeros from the right; zero from the width on.
    fn shift_left(self, amount: u32) -> Self;
    /// Zeros from the left, or copies of the sign; nothing but those from the width on.
    fn shift_right(self, amount: u32) -> Self;
}

macro_rules! shift {
    ($($ty:ty, $beyond:expr;)+) => {$(
        impl Shift for $ty {
            fn shift_left(self, amount: u32) -> Self {
                self.checked_shl(amount).unwrap_or(0)
            }
            fn shift_right(self, amount: u32) -> Self {
                let beyond: fn(Self) -> Self = $beyond;
                self.checked_shr(amount).unwrap_or(beyond(self))
            }
        }
    )+};
}
shift! {
    u16, |_| 0;
    u32, |_| 0;
    u64, |_| 0;
    i16, |value| value >> 15;
    i32, |value| value >> 31;
    i64, |value| value >> 63;
}

/// `shf`: a window of 32 bits into `b:a`.
fn funnel_shift(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    if ty != "b32" {
        return Err(m.unsupported_type(ty));
    }
    let left = m.require(&[("l", true), ("r", false)])?;
    let wraps = m.require(&[("wrap", true), ("clamp", false)])?;
    Ok(Operation::ternary(move |a: u32, b: u32, c: u32| {
        let amount = if wraps { c % u32::BITS } else { c.min(u32::BITS) };
        let window = u64::from(b) << u32::BITS | u64::from(a);
        (if left { window << amount >> u32::BITS } else { window >> amount }) as u32
    }))
}

/// `lop3`: any function of three bits, by its table of eight results. With `.and`, `.or`, `.xor` also whether the result
/// is not zero, combined with a predicate.
fn lookup(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    if ty != "b32" {
        return Err(m.unsupported_type(ty));
    }
    let combine: Option<fn(bool, bool) -> bool> = m.choose(&[
        ("and", (|p, q| p & q) as fn(bool, bool) -> bool),
        ("or", |p, q| p | q),
        ("xor", |p, q| p ^ q),
    ]);
    Ok(match combine {
        None => Operation::lanewise(|(a, b, c, table): (u32, u32, u32, u32)| (lookup_bits(a, b, c, table),)),
        Some(combine) => Operation::lanewise(move |(a, b, c, table, q): (u32, u32, u32, u32, bool)| {
            let bits = lookup_bits(a, b, c, table);
            (bits, combine(bits != 0, q))
        }),
    })
}

/// Bit `4 a + 2 b + c` of the table, for each bit of the words.
fn lookup_bits(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let select = |word: u32, index: u32, bit: u32| if index & bit != 0 { word } else { !word };
    (0..8u32)
        .filter(|index| table >> index & 1 != 0)
        .fold(0, |bits, index| bits | select(a, index, 4) & select(b, index, 2) & select(c, index, 1))
}
