//! Atomic operations: `atom`, `red`, and what reductions of copies do with each element.

use super::access::little_endian;
use super::addresses::{Location, unique};
use super::{Place, Unit};
use crate::diagnostic::Check;
use crate::order::Kind;
use crate::program::{Atomic, AtomicOperation, sign_extend, truncate};
use ptx_syntax::ast::Type;

impl Unit<'_> {
    pub(super) fn atomic(&mut self, place: Place, mask: u32, atomic: &Atomic) {
        let bytes = atomic.ty.bytes();
        let total = bytes * atomic.values.len() as u32;
        let kind = Kind { strong: atomic.order.strength(), ..Kind::WRITE };
        let values: Vec<_> = atomic.values.iter().map(|value| self.read(place, *value)).collect();
        let swap = atomic.swap.map(|swap| self.read(place, swap));
        let locations = self.locations(place, mask, atomic.space, atomic.address);
        self.count_access(place, &locations, total);
        for (lane, location) in locations {
            if !self.check_access(place, lane, location, total, kind) {
                continue;
            }
            self.synchronize_at(place, lane, unique(location), atomic.order, true, true);
            if !self.is_written(location, total) {
                let message =
                    format!("an atomic operation at {:#x}, which nothing has written", location.address());
                self.report(place, Some(lane), Check::Uninitialized, message);
            }
            let mut data = vec![0; total as usize];
            let thread = (place.cta, self.thread(place, lane));
            self.fetch(thread, location, &mut data);
            for (index, element) in data.chunks_exact_mut(bytes as usize).enumerate() {
                let old = little_endian(element);
                let new = apply(
                    atomic.operation,
                    atomic.ty,
                    old,
                    values[index][lane],
                    swap.as_ref().map(|swap| swap[lane]),
                    matches!(location, Location::Global(_)),
                );
                element.copy_from_slice(&new.to_le_bytes()[..bytes as usize]);
                if let Some(Some(register)) = atomic.results.get(index) {
                    self.warp(place).registers[*register as usize][lane] = old;
                }
            }
            self.put(thread, location, &data);
        }
    }
}

/// What an atomic operation leaves behind. In global memory sums of f32 are without subnormal numbers, which `flushes`
/// tells (PTX ISA, "atom"). NaN of 16 and 32 bits is canonical, as the hardware writes it.
pub(super) fn apply(
    operation: AtomicOperation,
    ty: Type,
    old: u64,
    value: u64,
    swap: Option<u64>,
    flushes: bool,
) -> u64 {
    const NAN: f32 = f32::from_bits(0x7fff_ffff);
    const HALF_NAN: u16 = 0x7fff;
    let bits = ty.bytes() * 8;
    let signed = matches!(ty, Type::S32 | Type::S64 | Type::S16 | Type::S8);
    let less = |a: u64, b: u64| {
        if signed { (sign_extend(a, bits) as i64) < sign_extend(b, bits) as i64 } else { a < b }
    };
    let pair = |combine: fn(f32, f32) -> f32, widen: fn(u16) -> f32, narrow: fn(f32) -> u16| {
        (0..bits / 16).fold(0, |result, half| {
            let part = |value: u64| widen((value >> (16 * half)) as u16);
            let combined = combine(part(old), part(value));
            let bits = if combined.is_nan() { HALF_NAN } else { narrow(combined) };
            result | u64::from(bits) << (16 * half)
        })
    };
    let float = |f32_op: fn(f32, f32) -> f32, f64_op: fn(f64, f64) -> f64| match ty {
        Type::F32 => {
            let flushed = |x: f32| if flushes && x.is_subnormal() { 0.0_f32.copysign(x) } else { x };
            let part = |value: u64| flushed(f32::from_bits(value as u32));
            let result = flushed(f32_op(part(old), part(value)));
            Some(u64::from(if result.is_nan() { NAN } else { result }.to_bits()))
        }
        Type::F64 => Some(f64_op(f64::from_bits(old), f64::from_bits(value)).to_bits()),
        Type::F16 | Type::F16x2 => {
            Some(pair(f32_op, |x| half::f16::from_bits(x).to_f32(), |x| half::f16::from_f32(x).to_bits()))
        }
        Type::Bf16 | Type::Bf16x2 => {
            Some(pair(f32_op, |x| half::bf16::from_bits(x).to_f32(), |x| half::bf16::from_f32(x).to_bits()))
        }
        _ => None,
    };
    let new = match operation {
        AtomicOperation::And => old & value,
        AtomicOperation::Or => old | value,
        AtomicOperation::Xor => old ^ value,
        AtomicOperation::Exchange => value,
        AtomicOperation::CompareAndSwap => {
            if old == value {
                swap.unwrap_or(old)
            } else {
                old
            }
        }
        AtomicOperation::Add => float(|a, b| a + b, |a, b| a + b).unwrap_or_else(|| old.wrapping_add(value)),
        AtomicOperation::Increment => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        AtomicOperation::Decrement => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        AtomicOperation::Min => {
            float(smaller, f64::min).unwrap_or_else(|| if less(value, old) { value } else { old })
        }
        AtomicOperation::Max => {
            float(larger, f64::max).unwrap_or_else(|| if less(old, value) { value } else { old })
        }
    };
    truncate(new, bits)
}

/// The smaller of two numbers, where -0 is smaller than +0; of a number and NaN the number.
fn smaller(a: f32, b: f32) -> f32 {
    if a < b || b.is_nan() || a == b && a.is_sign_negative() { a } else { b }
}

fn larger(a: f32, b: f32) -> f32 {
    -smaller(-a, -b)
}
