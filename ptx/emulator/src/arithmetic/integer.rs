//! Integers as numbers (PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision Integer Arithmetic").
//!
//! Division by zero, which the ISA leaves open, gives all ones, and its remainder the dividend.

use super::lanes::{Packed, Value};
use super::mnemonic::{Mnemonic, for_type};
use super::{DecodeError, Operation};

/// Which part of a product is kept.
#[derive(Clone, Copy)]
enum Part {
    Low,
    High,
    Wide,
}

const PARTS: [(&str, Part); 3] = [("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)];

/// An integer type.
trait Integer: Value {
    /// A type of twice the width.
    type Wide;
    /// Exact product.
    fn product(self, other: Self) -> Self::Wide;
    /// Upper half of the exact product.
    fn product_high(self, other: Self) -> Self;
    /// Sum with a carry, and the carry out of the unsigned addition.
    fn add_carry(self, other: Self, carry: bool) -> (Self, bool);
    /// Difference with a borrow, and the borrow out of the unsigned subtraction.
    fn subtract_borrow(self, other: Self, borrow: bool) -> (Self, bool);
    /// Quotient; all ones where the divisor is zero.
    fn quotient(self, divisor: Self) -> Self;
    /// Remainder with the dividend's sign; the dividend where the divisor is zero.
    fn remainder(self, divisor: Self) -> Self;
    /// Absolute difference, as an unsigned number of the same width.
    fn distance(self, other: Self) -> Self;
}

macro_rules! integer {
    ($($ty:ty, $unsigned:ty, $wide:ty;)+) => {$(
        impl Integer for $ty {
            type Wide = $wide;
            fn product(self, other: Self) -> $wide {
                <$wide>::from(self) * <$wide>::from(other)
            }
            fn product_high(self, other: Self) -> Self {
                (self.product(other) >> Self::BITS) as Self
            }
            fn add_carry(self, other: Self, carry: bool) -> (Self, bool) {
                let (sum, first) = (self as $unsigned).overflowing_add(other as $unsigned);
                let (sum, second) = sum.overflowing_add(carry.into());
                (sum as Self, first | second)
            }
            fn subtract_borrow(self, other: Self, borrow: bool) -> (Self, bool) {
                let (difference, first) = (self as $unsigned).overflowing_sub(other as $unsigned);
                let (difference, second) = difference.overflowing_sub(borrow.into());
                (difference as Self, first | second)
            }
            fn quotient(self, divisor: Self) -> Self {
                if divisor == 0 { !0 } else { self.wrapping_div(divisor) }
            }
            fn remainder(self, divisor: Self) -> Self {
                if divisor == 0 { self } else { self.wrapping_rem(divisor) }
            }
            fn distance(self, other: Self) -> Self {
                self.abs_diff(other) as Self
            }
        }
    )+};
}
integer! {
    u16, u16, u32;
    i16, u16, i32;
    u32, u32, u64;
    i32, u32, i64;
    u64, u64, u128;
    i64, u64, i128;
}

/// The operation for each integer type, as `T`.
macro_rules! integers {
    ($m:expr, $ty:expr, $T:ident => $operation:expr) => {
        for_type!($m, $ty, {
            "u16" => u16, "s16" => i16, "u32" => u32, "s32" => i32, "u64" => u64, "s64" => i64
        }, $T => $operation)
    };
}

/// The operation for each signed type, as `T`.
macro_rules! signed {
    ($m:expr, $ty:expr, $T:ident => $operation:expr) => {
        for_type!($m, $ty, {"s16" => i16, "s32" => i32, "s64" => i64}, $T => $operation)
    };
}

/// The operation for each type that has a carry, as `T`.
macro_rules! carrying {
    ($m:expr, $ty:expr, $T:ident => $operation:expr) => {
        for_type!($m, $ty, {"u32" => u32, "s32" => i32, "u64" => u64, "s64" => i64}, $T => $operation)
    };
}

/// Integer arithmetic.
pub(super) fn decode(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    match m.opcode() {
        "add" | "addc" | "sub" | "subc" => sum(m),
        "mul" => multiply(m),
        "mad" | "madc" => multiply_add(m),
        "mul24" | "mad24" => multiply_24(m),
        "dp4a" | "dp2a" => dot_product(m),
        "min" | "max" => extremum(m),
        opcode => {
            let [ty] = m.types()?;
            Ok(match opcode {
                "sad" => {
                    integers!(m, ty, T => {
                        Operation::ternary(|a: T, b: T, c: T| c.wrapping_add(a.distance(b)))
                    })
                }
                "div" => integers!(m, ty, T => Operation::binary(T::quotient)),
                "rem" => integers!(m, ty, T => Operation::binary(T::remainder)),
                "abs" => signed!(m, ty, T => Operation::unary(T::wrapping_abs)),
                "neg" => signed!(m, ty, T => Operation::unary(T::wrapping_neg)),
                _ => return Err(m.unsupported_type(ty)),
            })
        }
    }
}

/// `add`, `sub` with or without carry.
fn sum(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    let adds = m.opcode().starts_with("add");
    let reads_carry = m.opcode().ends_with('c');
    let writes_carry = m.take("cc");
    if reads_carry || writes_carry {
        return Ok(carrying!(m, ty, T => {
            let step = if adds { T::add_carry } else { T::subtract_borrow };
            Operation::carrying(reads_carry, writes_carry, move |(a, b): (T, T), carry| step(a, b, carry))
        }));
    }
    if ty == "s32" && m.take("sat") {
        return Ok(Operation::binary(if adds { i32::saturating_add } else { i32::saturating_sub }));
    }
    Ok(match (ty, adds) {
        ("u16x2" | "s16x2", true) => {
            Operation::binary(|a: Packed<u16>, b: Packed<u16>| a.zip(b, u16::wrapping_add))
        }
        (_, true) => integers!(m, ty, T => Operation::binary(T::wrapping_add)),
        (_, false) => integers!(m, ty, T => Operation::binary(T::wrapping_sub)),
    })
}

fn multiply(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    Ok(match m.require(&PARTS)? {
        Part::Low => integers!(m, ty, T => Operation::binary(T::wrapping_mul)),
        Part::High => integers!(m, ty, T => Operation::binary(T::product_high)),
        Part::Wide => for_type!(m, ty, {"u16" => u16, "s16" => i16, "u32" => u32, "s32" => i32}, T => {
            Operation::binary(T::product)
        }),
    })
}

fn multiply_add(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    let part = m.require(&PARTS)?;
    let reads_carry = m.opcode() == "madc";
    let writes_carry = m.take("cc");
    if reads_carry || writes_carry {
        return Ok(carrying!(m, ty, T => {
            let product = match part {
                Part::Low => T::wrapping_mul,
                Part::High => T::product_high,
                Part::Wide => return Err(m.unsupported_modifier("wide")),
            };
            Operation::carrying(reads_carry, writes_carry, move |(a, b, c): (T, T, T), carry| {
                product(a, b).add_carry(c, carry)
            })
        }));
    }
    Ok(match part {
        Part::Low => {
            integers!(m, ty, T => Operation::ternary(|a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c)))
        }
        Part::High if ty == "s32" && m.take("sat") => {
            Operation::ternary(|a: i32, b: i32, c: i32| a.product_high(b).saturating_add(c))
        }
        Part::High => {
            integers!(m, ty, T => Operation::ternary(|a: T, b: T, c: T| a.product_high(b).wrapping_add(c)))
        }
        Part::Wide => for_type!(m, ty, {"u16" => u16, "s16" => i16, "u32" => u32, "s32" => i32}, T => {
            Operation::ternary(|a: T, b: T, c: <T as Integer>::Wide| a.product(b).wrapping_add(c))
        }),
    })
}

/// `mul24`, `mad24`: the product of the lower 24 bits, of which the lower or upper 32 of 48 bits are kept.
fn multiply_24(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    /// Bits that an operand loses.
    const UNUSED: u32 = 8;
    let [ty] = m.types()?;
    let product: fn(u32, u32) -> u64 = match ty {
        "u32" => |a, b| u64::from(a << UNUSED >> UNUSED) * u64::from(b << UNUSED >> UNUSED),
        "s32" => |a, b| {
            let extend = |value: u32| i64::from((value << UNUSED) as i32 >> UNUSED);
            (extend(a) * extend(b)) as u64
        },
        _ => return Err(m.unsupported_type(ty)),
    };
    let shift = m.require(&[("lo", 0), ("hi", 2 * UNUSED)])?;
    let part = move |a, b| (product(a, b) >> shift) as u32;
    Ok(if m.opcode() == "mul24" {
        Operation::binary(part)
    } else if shift != 0 && ty == "s32" && m.take("sat") {
        Operation::ternary(move |a, b, c: i32| (part(a, b) as i32).saturating_add(c))
    } else {
        Operation::ternary(move |a, b, c| part(a, b).wrapping_add(c))
    })
}

/// `dp4a`: four products of bytes; `dp2a`: two products of a half word of `a` and a byte of the half of `b` named.
fn dot_product(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [a_type, b_type] = m.types()?;
    let mut signs = [false; 2];
    for (signed, ty) in signs.iter_mut().zip([a_type, b_type]) {
        *signed = match ty {
            "u32" => false,
            "s32" => true,
            _ => return Err(m.unsupported_type(ty)),
        };
    }
    let [a_signed, b_signed] = signs;
    let (a_bits, b_shift) =
        if m.opcode() == "dp4a" { (8, 0) } else { (16, m.require(&[("lo", 0u32), ("hi", 16)])?) };
    Ok(Operation::ternary(move |a: u32, b: u32, c: u32| {
        let b = b >> b_shift;
        (0..u32::BITS / a_bits).fold(c, |sum, index| {
            let product = element(a, a_bits, index, a_signed).wrapping_mul(element(b, 8, index, b_signed));
            sum.wrapping_add(product)
        })
    }))
}

/// Element `index` of `bits` bits, extended to 32.
fn element(word: u32, bits: u32, index: u32, signed: bool) -> u32 {
    let unused = u32::BITS - bits;
    let top = word >> (index * bits) << unused;
    if signed { (top as i32 >> unused) as u32 } else { top >> unused }
}

/// `min`, `max`; `.relu` raises a negative result to zero.
fn extremum(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    let smaller = m.opcode() == "min";
    if matches!(ty, "s32" | "s16x2") && m.take("relu") {
        return Ok(match (ty, smaller) {
            ("s32", true) => Operation::binary(|a: i32, b: i32| a.min(b).max(0)),
            ("s32", false) => Operation::binary(|a: i32, b: i32| a.max(b).max(0)),
            (_, true) => Operation::binary(|a: Packed<i16>, b| a.zip(b, |a, b: i16| a.min(b).max(0))),
            (_, false) => Operation::binary(|a: Packed<i16>, b| a.zip(b, |a, b: i16| a.max(b).max(0))),
        });
    }
    Ok(match (ty, smaller) {
        ("u16x2", true) => Operation::binary(|a: Packed<u16>, b| a.zip(b, u16::min)),
        ("u16x2", false) => Operation::binary(|a: Packed<u16>, b| a.zip(b, u16::max)),
        ("s16x2", true) => Operation::binary(|a: Packed<i16>, b| a.zip(b, i16::min)),
        ("s16x2", false) => Operation::binary(|a: Packed<i16>, b| a.zip(b, i16::max)),
        (_, true) => integers!(m, ty, T => Operation::binary(T::min)),
        (_, false) => integers!(m, ty, T => Operation::binary(T::max)),
    })
}
