//! What two runs of a case disagree about.

use half::{bf16, f16};

use super::case::{Bound, Case, SLOT_BYTES, Type};

/// Places named in a message; the others are counted.
const NAMED: usize = 6;

/// What differs between known words and an output; `None` where nothing does.
pub fn with_expected(case: &Case, who: &str, output: &[u8]) -> Option<String> {
    let wrong = case
        .expected
        .iter()
        .filter(|known| output.get(known.offset..known.offset + known.bytes.len()) != Some(&known.bytes));
    let lines: Vec<String> = wrong
        .map(|known| {
            let found = output.get(known.offset..known.offset + known.bytes.len()).unwrap_or_default();
            let place = case.describe(known.offset / case.place_bytes());
            format!("{place}: {who} has {}, expected is {}", hex(found), hex(&known.bytes))
        })
        .collect();
    summary(&lines, case.expected.len())
}

/// What two outputs disagree about beyond the case's bound.
pub fn outputs(case: &Case, names: [&str; 2], outputs: [&[u8]; 2]) -> Option<String> {
    let bytes = case.place_bytes();
    let mut lines = Vec::new();
    for place in 0..case.places() {
        let [first, second] = outputs.map(|output| &output[place * bytes..][..bytes]);
        if first == second || within(case, first, second) {
            continue;
        }
        let [first, second] = [first, second].map(|part| values(case, part));
        lines.push(format!("{}: {} {first}, {} {second}", case.describe(place), names[0], names[1]));
    }
    summary(&lines, case.places())
}

/// The largest difference between two outputs in the unit of the case's bound; pairs that are both NaN or both infinite
/// count as 0.
pub fn largest_difference(case: &Case, outputs: [&[u8]; 2]) -> f64 {
    let Some(table) = &case.table else { return 0.0 };
    let [first, second] = outputs.map(|output| output.as_chunks::<SLOT_BYTES>().0);
    let types = table.results.iter().cycle();
    first
        .iter()
        .zip(second)
        .zip(types)
        .map(|((a, b), ty)| slot_difference(case.bound, *ty, a, b))
        .fold(0.0, f64::max)
}

fn within(case: &Case, first: &[u8], second: &[u8]) -> bool {
    let Some(table) = &case.table else { return false };
    let limit = match case.bound {
        Bound::Exact => return false,
        Bound::Number => 0.0,
        Bound::Ulp(limit) | Bound::Absolute(limit) | Bound::Relative(limit) | Bound::Scaled(limit) => limit,
    };
    let slots = first.as_chunks::<SLOT_BYTES>().0.iter().zip(second.as_chunks::<SLOT_BYTES>().0);
    slots.zip(&table.results).all(|((a, b), ty)| slot_difference(case.bound, *ty, a, b) <= limit)
}

fn slot_difference(bound: Bound, ty: Type, a: &[u8; SLOT_BYTES], b: &[u8; SLOT_BYTES]) -> f64 {
    let [a, b] = [a, b].map(|slot| u64::from_le_bytes(*slot));
    let halves = if matches!(ty, Type::F16x2 | Type::Bf16x2) { 2 } else { 1 };
    let bits = ty.bits() / halves;
    let part = |value: u64, half: u32| value >> (bits * half) & (u64::MAX >> (u64::BITS - bits));
    (0..halves).map(|half| difference(bound, ty, part(a, half), part(b, half))).fold(0.0, f64::max)
}

fn difference(bound: Bound, ty: Type, a: u64, b: u64) -> f64 {
    let (x, y) = (value(ty, a), value(ty, b));
    let are_equal = x == y && (x != 0.0 || bound != Bound::Number);
    if a == b || are_equal || x.is_nan() && y.is_nan() {
        return 0.0;
    }
    let apart = (x - y).abs();
    if apart.is_nan() || apart.is_infinite() {
        return f64::INFINITY;
    }
    match bound {
        Bound::Exact | Bound::Number => f64::INFINITY,
        Bound::Absolute(_) => apart,
        Bound::Scaled(_) => apart / x.abs().max(y.abs()).max(1.0),
        Bound::Relative(_) => apart / x.abs().max(y.abs()),
        Bound::Ulp(_) => {
            let largest = x.abs().max(y.abs());
            let (mantissa, least) = ty.precision();
            let exponent = (((largest.to_bits() >> 52) as i32) - 1023).max(least);
            apart / f64::from(exponent - mantissa).exp2()
        }
    }
}

impl Type {
    /// Bits of the mantissa, and the exponent of the least normal number.
    fn precision(self) -> (i32, i32) {
        match self {
            Self::F64 => (52, -1022),
            Self::F16 | Self::F16x2 => (10, -14),
            Self::Bf16 | Self::Bf16x2 => (7, -126),
            _ => (23, -126),
        }
    }
}

/// The number that the low bits are.
fn value(ty: Type, bits: u64) -> f64 {
    match ty {
        Type::F64 => f64::from_bits(bits),
        Type::F16 | Type::F16x2 => f16::from_bits(bits as u16).to_f64(),
        Type::Bf16 | Type::Bf16x2 => bf16::from_bits(bits as u16).to_f64(),
        _ => f32::from_bits(bits as u32).into(),
    }
}

fn values(case: &Case, part: &[u8]) -> String {
    let Some(table) = &case.table else { return hex(part) };
    let slots = part.chunks_exact(SLOT_BYTES).zip(&table.results);
    let values: Vec<String> = slots.map(|(slot, ty)| hex(&slot[..ty.bits() as usize / 8])).collect();
    values.join(", ")
}

/// Little-endian bytes as one number.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn summary(lines: &[String], of: usize) -> Option<String> {
    let named = lines.iter().take(NAMED).map(|line| format!("\n    {line}")).collect::<String>();
    (!lines.is_empty()).then(|| format!("{} of {of}{named}", lines.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_in_every_unit() {
        let (one, next) = (u64::from(1f32.to_bits()), u64::from(1f32.to_bits() + 3));
        assert_eq!(difference(Bound::Ulp(1.0), Type::F32, one, next), 3.0);
        assert_eq!(difference(Bound::Absolute(1.0), Type::F32, one, next), 3.0 * f64::from(f32::EPSILON));
        assert!(difference(Bound::Relative(1.0), Type::F32, one, u64::from(2f32.to_bits())) == 0.5);
        assert_eq!(
            difference(Bound::Ulp(1.0), Type::F32, one, u64::from(f32::INFINITY.to_bits())),
            f64::INFINITY
        );
        assert_eq!(difference(Bound::Ulp(1.0), Type::F32, 0x7fff_ffff, 0xffc0_0000), 0.0);
        assert_eq!(difference(Bound::Ulp(1.0), Type::F32, one, 0x7fff_ffff), f64::INFINITY);
        assert_eq!(difference(Bound::Ulp(1.0), Type::F16, 0, 2), 2.0);
        assert_eq!(difference(Bound::Number, Type::F32, 0x7fff_ffff, 0xffc0_0000), 0.0);
        assert_eq!(difference(Bound::Number, Type::F32, 0, 1 << 31), f64::INFINITY);
    }
}
