//! `mov`: copies, and packs or unpacks the elements of a register.

use super::lanes::{Registers, Value};
use super::mnemonic::{Mnemonic, for_type};
use super::{DecodeError, Operation};

/// `mov`.
pub(super) fn decode(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    match (m.vector_length(0), m.vector_length(1)) {
        (None, None) => Ok(for_type!(m, ty, {
            "pred" => bool,
            "b16" | "u16" | "s16" | "f16" | "bf16" => u16,
            "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => u32,
            "b64" | "u64" | "s64" | "f64" => u64,
        }, T => Operation::unary(|a: T| a))),
        (Some(length), None) => elements(m, ty, length, true),
        (_, Some(length)) => elements(m, ty, length, false),
    }
}

/// Elements of a register in their own registers, the lowest first.
fn elements(m: &Mnemonic<'_>, ty: &str, length: usize, unpacks: bool) -> Result<Operation, DecodeError> {
    match (ty, length) {
        ("b64", 2) => Ok(packed::<u64, (u32, u32)>(unpacks)),
        ("b64", 4) => Ok(packed::<u64, (u16, u16, u16, u16)>(unpacks)),
        ("b32", 2) => Ok(packed::<u32, (u16, u16)>(unpacks)),
        ("b32", 4) => Ok(packed::<u32, (u8, u8, u8, u8)>(unpacks)),
        ("b16", 2) => Ok(packed::<u16, (u8, u8)>(unpacks)),
        _ => Err(m.unsupported_type(&format!("{ty} of {length} elements"))),
    }
}

/// A register's elements.
trait Elements: Registers {
    /// From their bits, the first lowest.
    fn unpack(bits: u64) -> Self;
    /// Their bits.
    fn pack(self) -> u64;
}

macro_rules! elements {
    ($($ty:ident, $($index:tt: $element:ident),+;)+) => {$(
        impl Elements for ($($element,)+) {
            fn unpack(bits: u64) -> Self {
                ($((bits >> ($index * $ty::BITS)) as $ty,)+)
            }
            fn pack(self) -> u64 {
                $(u64::from(self.$index) << ($index * $ty::BITS))|+
            }
        }
    )+};
}
elements! {
    u8, 0: u8, 1: u8;
    u8, 0: u8, 1: u8, 2: u8, 3: u8;
    u16, 0: u16, 1: u16;
    u16, 0: u16, 1: u16, 2: u16, 3: u16;
    u32, 0: u32, 1: u32;
}

fn packed<Whole: Value + 'static, Parts: Elements + 'static>(unpacks: bool) -> Operation {
    if unpacks {
        Operation::lanewise(|(whole,): (Whole,)| Parts::unpack(whole.into_lane()))
    } else {
        Operation::lanewise(|parts: Parts| (Whole::from_lane(parts.pack()),))
    }
}
