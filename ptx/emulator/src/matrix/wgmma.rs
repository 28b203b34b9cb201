//! `wgmma.mma_async`: D = A·B + D of a warpgroup, 64 × n × k (PTX ISA, "wgmma.mma_async").

use ptx_syntax::ast::{Instruction, Operand};

use super::accumulator::Accumulator;
use super::descriptor::DescriptorError;
use super::element::Element;
use super::fragment;
use super::tile::{Major, ROW_BYTES, Tile};
use super::{DecodeError, require_operands, require_registers, shape};

/// Threads of a warpgroup.
pub const THREADS: usize = 128;

/// Rows of A and D.
pub const M: u32 = 64;

/// Registers of a thread that hold A.
pub const A_REGISTERS: usize = 4;

/// Position of D among the operands of the instruction, a vector of registers.
pub const D_OPERAND: usize = 0;
/// Position of A: a vector of registers, or a register with a descriptor.
pub const A_OPERAND: usize = 1;
/// Position of the register with the descriptor of B.
pub const B_OPERAND: usize = 2;
/// Position of scale-d: a predicate (`p`, `!p`), or an integer; false means D = A·B.
pub const SCALE_D_OPERAND: usize = 3;

const MAX_N: u32 = 256;

/// One `wgmma.mma_async`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multiply {
    n: u32,
    a: Element,
    b: Element,
    accumulator: Accumulator,
    a_in_registers: bool,
    a_major: Major,
    b_major: Major,
    negated: bool,
}

impl Multiply {
    /// Decodes an instruction.
    ///
    /// # Errors
    /// If shape, types and operands do not fit each other. Sparse and single-bit forms are not supported.
    pub fn decode(instruction: &Instruction) -> Result<Self, DecodeError> {
        let error = |part, found: &str, needed: &str| DecodeError::new(instruction, part, found, needed);
        let modifiers: Vec<&str> = instruction.modifiers.iter().map(String::as_str).collect();
        let ("wgmma", ["mma_async", "sync", "aligned", size, rest @ ..]) =
            (instruction.opcode.as_str(), modifiers.as_slice())
        else {
            let needed = "wgmma.mma_async.sync.aligned.shape.…";
            return Err(error("the instruction", &instruction.mnemonic(), needed));
        };
        let (saturates, types) = match rest {
            ["satfinite", types @ ..] => (true, types),
            types => (false, types),
        };
        let &[d, a, b] = types else {
            return Err(error("the types", &types.join("."), "three of them, of D, A and B"));
        };
        let element = |part, name: &str| {
            Element::from_name(name)
                .ok_or_else(|| error(part, name, "one of f16, bf16, tf32, e4m3, e5m2, s8, u8"))
        };
        let (a, b) = (element("the type of A", a)?, element("the type of B", b)?);
        let mixable = a.bytes() == 1 && b.bytes() == 1 && a.is_integer() == b.is_integer();
        if a != b && !mixable {
            return Err(error("the type of B", types[2], "the type of A"));
        }
        let accumulator = match (d, a) {
            ("s32", Element::S8 | Element::U8) => Accumulator::S32 { saturates },
            ("f32", a) if !a.is_integer() && !saturates => Accumulator::F32,
            ("f16", Element::F16 | Element::E4m3 | Element::E5m2) if !saturates => Accumulator::F16,
            _ => {
                let needed = "s32 (alone with satfinite) for integers, f32, or f16 for f16, e4m3, e5m2";
                return Err(error("the type of D", &rest.join("."), needed));
            }
        };
        let k = ROW_BYTES / a.bytes();
        let n = match shape(size) {
            Some([M, n, found]) if found == k && valid_n(n, a) => n,
            _ => {
                let needed = format!("m64nNk{k}, N a multiple of 8 to {MAX_N} (integers: 8, 24, or of 16)");
                return Err(error("the shape", size, &needed));
            }
        };
        let a_in_registers = matches!(instruction.operands.get(A_OPERAND), Some(Operand::Vector(_)));
        let mut decoded = Self {
            n,
            a,
            b,
            accumulator,
            a_in_registers,
            a_major: Major::K,
            b_major: Major::K,
            negated: false,
        };
        decoded.operands(instruction)?;
        Ok(decoded)
    }

    /// Checks the operands, and reads those that are immediate.
    fn operands(&mut self, instruction: &Instruction) -> Result<(), DecodeError> {
        let scales = if self.a.is_integer() { 0 } else { 2 };
        let transposes = match (self.a.bytes(), self.a_in_registers) {
            (2, true) => 1,
            (2, false) => 2,
            _ => 0,
        };
        let first_scale = SCALE_D_OPERAND + 1;
        require_operands(instruction, first_scale + scales + transposes)?;
        require_registers(instruction, D_OPERAND, "D", self.accumulator_registers())?;
        if self.a_in_registers {
            require_registers(instruction, A_OPERAND, "A", A_REGISTERS)?;
        } else {
            require_registers(instruction, A_OPERAND, "the descriptor of A", 1)?;
        }
        require_registers(instruction, B_OPERAND, "the descriptor of B", 1)?;
        let operand = |index: usize| &instruction.operands[index];
        let wrong = |part, index, needed: &str| {
            DecodeError::new(instruction, part, format!("{:?}", operand(index)), needed)
        };
        if !matches!(operand(SCALE_D_OPERAND), Operand::Name(_) | Operand::Not(_) | Operand::Integer(0 | 1)) {
            return Err(wrong("scale-d", SCALE_D_OPERAND, "a predicate, 0 or 1"));
        }
        for (index, part) in (first_scale..).zip(["imm-scale-a", "imm-scale-b"]).take(scales) {
            match operand(index) {
                Operand::Integer(1) => {}
                Operand::Integer(-1) => self.negated = !self.negated,
                _ => return Err(wrong(part, index, "1 or -1")),
            }
        }
        let majors = [("imm-trans-a", &mut self.a_major), ("imm-trans-b", &mut self.b_major)];
        for (index, (part, major)) in (first_scale + scales..).zip(majors.into_iter().skip(2 - transposes)) {
            *major = match operand(index) {
                Operand::Integer(0) => Major::K,
                Operand::Integer(1) => Major::Mn,
                _ => return Err(wrong(part, index, "0 or 1")),
            };
        }
        Ok(())
    }

    /// Columns of B and D.
    pub fn n(&self) -> u32 {
        self.n
    }

    /// Columns of A, rows of B.
    pub fn k(&self) -> u32 {
        ROW_BYTES / self.a.bytes()
    }

    /// 32-bit registers of a thread that hold D.
    pub fn accumulator_registers(&self) -> usize {
        self.accumulator.registers(self.n as usize)
    }

    /// Registers of a thread that hold A; `None` where A is in shared memory.
    pub fn a_registers(&self) -> Option<usize> {
        self.a_in_registers.then_some(A_REGISTERS)
    }

    /// Floating-point (or integer) operations of the warpgroup: a multiplication and an addition a product.
    pub fn flop(&self) -> u64 {
        2 * u64::from(M) * u64::from(self.n) * u64::from(self.k())
    }

    /// Where A stands in shared memory, 64 rows. Of use only where A is not in registers.
    ///
    /// # Errors
    /// If the descriptor cannot describe A.
    pub fn a_tile(&self, descriptor: u64) -> Result<Tile, DescriptorError> {
        Tile::new(descriptor, M, self.a, self.a_major, true)
    }

    /// Where B stands in shared memory, n rows: a row is a column of B.
    ///
    /// # Errors
    /// If the descriptor cannot describe B.
    pub fn b_tile(&self, descriptor: u64) -> Result<Tile, DescriptorError> {
        Tile::new(descriptor, self.n, self.b, self.b_major, false)
    }

    /// A from the registers of the 128 threads: 64 × k, row-major. See [`fragment::a`].
    pub fn a_from_registers(&self, registers: &[[u32; A_REGISTERS]; THREADS]) -> Vec<f32> {
        let mut bytes = [0; (M * ROW_BYTES) as usize];
        let words = bytes.as_chunks_mut::<4>().0;
        for (thread, registers) in registers.iter().enumerate() {
            for (register, value) in registers.iter().enumerate() {
                let (row, word) = fragment::a(thread, register);
                words[row * ROW_BYTES as usize / 4 + word] = value.to_le_bytes();
            }
        }
        self.a.values(&bytes)
    }

    /// D = A·B + D, or D = A·B unless `add`; the arithmetic is that of [`Accumulator`].
    ///
    /// `a` is 64 × k and `b` n × k, both row-major, as they come from [`Tile::values`]. `accumulators` holds all
    /// registers of thread 0, then those of thread 1, to 127; see [`fragment::accumulator`].
    ///
    /// # Panics
    /// If a slice has another length.
    pub fn multiply(&self, a: &[f32], b: &[f32], accumulators: &mut [u32], add: bool) {
        let k = self.k() as usize;
        assert_eq!((a.len(), b.len()), (M as usize * k, self.n as usize * k), "elements of A and B");
        if self.negated {
            let negative: Vec<f32> = a.iter().map(|value| -value).collect();
            self.accumulator.multiply(&negative, b, k, accumulators, add);
        } else {
            self.accumulator.multiply(a, b, k, accumulators, add);
        }
    }
}

fn valid_n(n: u32, element: Element) -> bool {
    let multiple = if element.is_integer() && !matches!(n, 8 | 24) { 16 } else { 8 };
    (8..=MAX_N).contains(&n) && n.is_multiple_of(multiple)
}
