//! Fields of bits: counting, searching, extracting, permuting (PTX ISA, "Integer Arithmetic Instructions").

use super::mnemonic::{Mnemonic, for_type};
use super::{DecodeError, Operation};

/// The operation for words of 32 and 64 bits, as `T`.
macro_rules! words {
    ($m:expr, $ty:expr, $T:ident => $operation:expr) => {
        for_type!($m, $ty, {"b32" => u32, "b64" => u64}, $T => $operation)
    };
}

/// Bit fields.
pub(super) fn decode(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    Ok(match m.opcode() {
        "popc" => words!(m, ty, T => Operation::unary(T::count_ones)),
        "clz" => words!(m, ty, T => Operation::unary(T::leading_zeros)),
        "brev" => words!(m, ty, T => Operation::unary(T::reverse_bits)),
        "bfind" => {
            let from_top = m.take("shiftamt");
            for_type!(m, ty, {"u32" => u32, "u64" => u64, "s32" => i32, "s64" => i64}, T => {
                Operation::unary(move |a: T| {
                    find_highest(a.without_sign().leading_zeros(), T::BITS, from_top)
                })
            })
        }
        "bfe" => for_type!(m, ty, {"u32" => u32, "u64" => u64, "s32" => i32, "s64" => i64}, T => {
            Operation::ternary(T::extract)
        }),
        "bfi" => words!(m, ty, T => Operation::lanewise(|(a, b, start, length): (T, T, u32, u32)| {
            let mask = T::field_mask(start, length);
            let field = a.checked_shl(start & BYTE).unwrap_or(0);
            (field & mask | b & !mask,)
        })),
        "bmsk" => {
            let wraps = m.require(&WRAP_OR_CLAMP)?;
            for_type!(m, ty, {"b32" => u32}, T => Operation::binary(move |start: T, length: T| {
                let limit = |value| if wraps { value % T::BITS } else { value };
                T::field_mask(limit(start).min(BYTE), limit(length).min(BYTE))
            }))
        }
        "szext" => {
            let wraps = m.require(&WRAP_OR_CLAMP)?;
            let limit = move |length: u32| if wraps { length % u32::BITS } else { length.min(u32::BITS) };
            for_type!(m, ty, {"u32" => u32, "s32" => i32}, T => {
                Operation::binary(move |a: T, length| a.extract(0, limit(length)))
            })
        }
        _ => permute(m, ty)?,
    })
}

/// Whether `.wrap` stands there.
const WRAP_OR_CLAMP: [(&str, bool); 2] = [("wrap", true), ("clamp", false)];

/// Positions and lengths of fields are the lowest byte of their operand.
const BYTE: u32 = 0xff;

/// Words that have fields.
trait Fields: Sized {
    /// The word, inverted if it is negative: its highest bit is then the highest that differs from the sign.
    fn without_sign(self) -> Self;
    /// The field from bit `start` on, extended to a word. Signed: the sign is the field's highest bit, or the word's if
    /// the field ends beyond it; an empty field is zero.
    fn extract(self, start: u32, length: u32) -> Self;
}

macro_rules! fields {
    (unsigned $($ty:ty),+) => {$(
        impl Fields for $ty {
            fn without_sign(self) -> Self {
                self
            }
            fn extract(self, start: u32, length: u32) -> Self {
                self.checked_shr(start & BYTE).unwrap_or(0) & Self::field_mask(0, length)
            }
        }
    )+};
    (signed $($ty:ty),+) => {$(
        impl Fields for $ty {
            fn without_sign(self) -> Self {
                if self < 0 { !self } else { self }
            }
            fn extract(self, start: u32, length: u32) -> Self {
                let (start, length) = (start & BYTE, length & BYTE);
                let sign = self >> (Self::BITS - 1);
                let shifted = self.checked_shr(start).unwrap_or(sign);
                match length {
                    0 => 0,
                    _ if start + length >= Self::BITS => shifted,
                    _ => shifted << (Self::BITS - length) >> (Self::BITS - length),
                }
            }
        }
    )+};
}
fields!(unsigned u32, u64);
fields!(signed i32, i64);

/// Words of which a field can be masked.
trait FieldMask {
    /// Ones from bit `start` on, `length` of them, as far as they lie in the word.
    fn field_mask(start: u32, length: u32) -> Self;
}

macro_rules! field_mask {
    ($($ty:ty),+) => {$(
        impl FieldMask for $ty {
            fn field_mask(start: u32, length: u32) -> Self {
                let ones = <$ty>::MAX.checked_shl(length & BYTE).map_or(<$ty>::MAX, |rest| !rest);
                ones.checked_shl(start & BYTE).unwrap_or(0)
            }
        }
    )+};
}
field_mask!(u32, u64);

/// Position of the highest one below `leading_zeros` zeros, or how far it must be shifted to the top; all ones if there
/// is none.
fn find_highest(leading_zeros: u32, bits: u32, from_top: bool) -> u32 {
    match leading_zeros {
        none if none == bits => u32::MAX,
        zeros if from_top => zeros,
        zeros => bits - 1 - zeros,
    }
}

/// `prmt`: four bytes of the eight in `b:a`.
fn permute(m: &mut Mnemonic<'_>, ty: &str) -> Result<Operation, DecodeError> {
    if ty != "b32" {
        return Err(m.unsupported_type(ty));
    }
    /// In the special modes, byte `i` of the result is byte `sources[c & 3][i]`.
    type Sources = [[u8; 4]; 4];
    const MODES: [(&str, Sources); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    let mode = m.choose(&MODES);
    Ok(Operation::ternary(move |a: u32, b: u32, c: u32| {
        let bytes = (u64::from(b) << u32::BITS | u64::from(a)).to_le_bytes();
        u32::from_le_bytes(std::array::from_fn(|index| match mode {
            Some(sources) => bytes[usize::from(sources[(c & 3) as usize][index])],
            None => select_byte(bytes, c >> (4 * index)),
        }))
    }))
}

/// The byte that the lowest three bits of a selector name; the fourth asks for copies of its sign instead.
fn select_byte(bytes: [u8; 8], selector: u32) -> u8 {
    let byte = bytes[(selector & 7) as usize];
    if selector & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte }
}
