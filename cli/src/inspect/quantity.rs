//! What is counted: warp instructions by class, and what they move.

use std::ops::{AddAssign, Div, Mul, Sub};

use oximla::ptx_emulator::profile::Counts;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    Instructions,
    Tensor,
    SharedMemory,
    GlobalMemory,
    AsyncCopy,
    Synchronisation,
    Exchange,
    Float,
    Special,
    Conversion,
    Integer,
    Move,
    ControlFlow,
    TensorFlop,
    SharedBytes,
    BankConflicts,
    GlobalBytes,
    Sectors,
    ExcessSectors,
    Waits,
}

/// Each quantity, its name in JSON and for people, in the order of [`Quantity`]. Those up to control flow count warp
/// instructions, the first of them all.
pub const QUANTITIES: [(Quantity, &str, &str); 20] = [
    (Quantity::Instructions, "instructions", "warp instructions"),
    (Quantity::Tensor, "tensor", "  tensor"),
    (Quantity::SharedMemory, "shared_memory", "  shared memory"),
    (Quantity::GlobalMemory, "global_memory", "  global memory"),
    (Quantity::AsyncCopy, "async_copy", "  asynchronous copy"),
    (Quantity::Synchronisation, "synchronisation", "  synchronisation"),
    (Quantity::Exchange, "exchange", "  warp exchange"),
    (Quantity::Float, "float", "  float arithmetic"),
    (Quantity::Special, "special", "  special functions"),
    (Quantity::Conversion, "conversion", "  conversions"),
    (Quantity::Integer, "integer", "  integers, addresses"),
    (Quantity::Move, "move", "  moves, parameters"),
    (Quantity::ControlFlow, "control_flow", "  control flow"),
    (Quantity::TensorFlop, "tensor_flop", "tensor FLOP"),
    (Quantity::SharedBytes, "shared_bytes", "shared bytes"),
    (Quantity::BankConflicts, "bank_conflicts", "bank conflicts"),
    (Quantity::GlobalBytes, "global_bytes", "global bytes"),
    (Quantity::Sectors, "sectors", "sectors"),
    (Quantity::ExcessSectors, "excess_sectors", "sectors in excess"),
    (Quantity::Waits, "waits", "waits"),
];

/// What a mnemonic's modifiers have to say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Types {
    Any,
    Float,
}

/// The class of an instruction: the first row whose mnemonic it begins with.
const CLASSES: &[(&str, Types, Quantity)] = &[
    ("wgmma.mma_async", Types::Any, Quantity::Tensor),
    ("wgmma", Types::Any, Quantity::Synchronisation),
    ("mma", Types::Any, Quantity::Tensor),
    ("ldmatrix", Types::Any, Quantity::SharedMemory),
    ("stmatrix", Types::Any, Quantity::SharedMemory),
    ("ld.shared", Types::Any, Quantity::SharedMemory),
    ("st.shared", Types::Any, Quantity::SharedMemory),
    ("ld.shared::cta", Types::Any, Quantity::SharedMemory),
    ("st.shared::cta", Types::Any, Quantity::SharedMemory),
    ("atom.shared", Types::Any, Quantity::SharedMemory),
    ("red.shared", Types::Any, Quantity::SharedMemory),
    ("ld.param", Types::Any, Quantity::Move),
    ("ld", Types::Any, Quantity::GlobalMemory),
    ("st", Types::Any, Quantity::GlobalMemory),
    ("atom", Types::Any, Quantity::GlobalMemory),
    ("red", Types::Any, Quantity::GlobalMemory),
    ("prefetch", Types::Any, Quantity::GlobalMemory),
    ("cp.async.commit_group", Types::Any, Quantity::Synchronisation),
    ("cp.async.wait_group", Types::Any, Quantity::Synchronisation),
    ("cp.async.wait_all", Types::Any, Quantity::Synchronisation),
    ("cp.async.mbarrier", Types::Any, Quantity::Synchronisation),
    ("cp.async.bulk.commit_group", Types::Any, Quantity::Synchronisation),
    ("cp.async.bulk.wait_group", Types::Any, Quantity::Synchronisation),
    ("cp", Types::Any, Quantity::AsyncCopy),
    ("mbarrier", Types::Any, Quantity::Synchronisation),
    ("bar", Types::Any, Quantity::Synchronisation),
    ("barrier", Types::Any, Quantity::Synchronisation),
    ("fence", Types::Any, Quantity::Synchronisation),
    ("membar", Types::Any, Quantity::Synchronisation),
    ("griddepcontrol", Types::Any, Quantity::Synchronisation),
    ("setmaxnreg", Types::Any, Quantity::Synchronisation),
    ("shfl", Types::Any, Quantity::Exchange),
    ("vote", Types::Any, Quantity::Exchange),
    ("match", Types::Any, Quantity::Exchange),
    ("redux", Types::Any, Quantity::Exchange),
    ("elect", Types::Any, Quantity::Exchange),
    ("ex2", Types::Any, Quantity::Special),
    ("lg2", Types::Any, Quantity::Special),
    ("rcp", Types::Any, Quantity::Special),
    ("rsqrt", Types::Any, Quantity::Special),
    ("sqrt", Types::Any, Quantity::Special),
    ("sin", Types::Any, Quantity::Special),
    ("cos", Types::Any, Quantity::Special),
    ("tanh", Types::Any, Quantity::Special),
    ("div", Types::Float, Quantity::Special),
    ("cvt", Types::Float, Quantity::Conversion),
    ("mov", Types::Any, Quantity::Move),
    ("selp", Types::Any, Quantity::Integer),
    ("bra", Types::Any, Quantity::ControlFlow),
    ("brx", Types::Any, Quantity::ControlFlow),
    ("ret", Types::Any, Quantity::ControlFlow),
    ("exit", Types::Any, Quantity::ControlFlow),
    ("trap", Types::Any, Quantity::ControlFlow),
    ("", Types::Float, Quantity::Float),
    ("", Types::Any, Quantity::Integer),
];

const FLOAT_TYPES: &[&str] = &["f16", "f16x2", "bf16", "bf16x2", "f32", "f32x2", "f64", "e4m3x2", "e5m2x2"];

/// The class of an instruction, from its text.
pub fn class(instruction: &str) -> Quantity {
    let mnemonic = mnemonic(instruction);
    let begins_with = |prefix: &str| match mnemonic.strip_prefix(prefix) {
        Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with('.'),
        None => false,
    };
    let is_float = mnemonic.split('.').any(|modifier| FLOAT_TYPES.contains(&modifier));
    let row =
        CLASSES.iter().find(|(prefix, types, _)| begins_with(prefix) && (*types == Types::Any || is_float));
    row.map_or(Quantity::Integer, |(_, _, class)| *class)
}

/// Opcode and modifiers, without guard and operands.
pub fn mnemonic(instruction: &str) -> &str {
    let mut words = instruction.trim_end_matches(';').split_whitespace();
    words.find(|word| !word.starts_with('@')).unwrap_or("")
}

/// A number for each quantity.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally([f64; QUANTITIES.len()]);

impl Tally {
    /// Counts of an instruction of a class.
    pub fn new(class: Quantity, counts: &Counts) -> Self {
        let mut tally = Self::default();
        let numbers = [
            (Quantity::Instructions, counts.warps),
            (class, counts.warps),
            (Quantity::TensorFlop, counts.tensor_flop),
            (Quantity::SharedBytes, counts.shared_bytes),
            (Quantity::BankConflicts, counts.bank_conflicts),
            (Quantity::GlobalBytes, counts.global_bytes),
            (Quantity::Sectors, counts.sectors),
            (Quantity::ExcessSectors, counts.excess_sectors),
            (Quantity::Waits, counts.waits),
        ];
        numbers.into_iter().for_each(|(quantity, number)| tally.0[quantity as usize] = number as f64);
        tally
    }

    /// How much of a quantity.
    pub fn get(&self, quantity: Quantity) -> f64 {
        self.0[quantity as usize]
    }

    fn zip(self, other: Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self(std::array::from_fn(|index| combine(self.0[index], other.0[index])))
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = self.zip(other, |a, b| a + b);
    }
}

impl Sub for Tally {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
}

impl Mul<f64> for Tally {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self(self.0.map(|number| number * factor))
    }
}

impl Div<f64> for Tally {
    type Output = Self;

    fn div(self, divisor: f64) -> Self {
        Self(self.0.map(|number| number / divisor))
    }
}

impl Serialize for Tally {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(QUANTITIES.len()))?;
        QUANTITIES
            .iter()
            .try_for_each(|(quantity, key, _)| map.serialize_entry(key, &self.get(*quantity)))?;
        map.end()
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(QUANTITIES[*self as usize].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_follows_the_enumeration() {
        assert!(QUANTITIES.iter().enumerate().all(|(index, (quantity, ..))| *quantity as usize == index));
    }

    #[test]
    fn instructions_have_classes() {
        let cases = [
            ("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, 1;", Quantity::Tensor),
            ("wgmma.wait_group.sync.aligned 0", Quantity::Synchronisation),
            ("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r1], {%r2}", Quantity::SharedMemory),
            ("cp.async.bulk.tensor.4d.shared::cluster.global.tile [%r1]", Quantity::AsyncCopy),
            ("cp.async.wait_all", Quantity::Synchronisation),
            ("ld.global.v4.b32 {%r1}, [%rd1]", Quantity::GlobalMemory),
            ("ld.param.b64 %rd1, [p]", Quantity::Move),
            ("@!%p1 ex2.approx.ftz.f32 %f1, %f2", Quantity::Special),
            ("div.u32 %r1, %r2, %r3", Quantity::Integer),
            ("cvt.rn.bf16x2.f32 %r1, %f1, %f2", Quantity::Conversion),
            ("cvt.u64.u32 %rd1, %r1", Quantity::Integer),
            ("setp.neu.f32 %p1, %f1, %f2", Quantity::Float),
            ("min.u32 %r1, %r2, %r3", Quantity::Integer),
            ("bra.uni $L1", Quantity::ControlFlow),
            ("barrier.sync 0", Quantity::Synchronisation),
        ];
        for (text, expected) in cases {
            assert_eq!(class(text), expected, "{text}");
        }
    }
}
