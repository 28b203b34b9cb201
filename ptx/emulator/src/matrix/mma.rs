//! `mma.sync`: D = A·B + C of a warp, 16 × 8 × k, with elements of 16 bits and sums in f32 (PTX ISA, "mma").

use ptx_syntax::ast::Instruction;

use super::accumulator::Accumulator;
use super::element::Element;
use super::fragment::{self, WARP};
use super::{DecodeError, require_operands, require_registers, shape};

/// Rows of A and D.
pub const M: u32 = 16;

/// Columns of B and D.
pub const N: u32 = 8;

/// Registers of a thread that hold C, and D.
pub const ACCUMULATORS: usize = 4;

/// Position of D among the operands of the instruction.
pub const D_OPERAND: usize = 0;
/// Position of A.
pub const A_OPERAND: usize = 1;
/// Position of B.
pub const B_OPERAND: usize = 2;
/// Position of C.
pub const C_OPERAND: usize = 3;

/// Elements in a register.
const IN_REGISTER: usize = 2;

/// One `mma.sync.aligned.m16n8k{8,16}.row.col.f32.{f16.f16,bf16.bf16}.f32`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multiply {
    k: u32,
    element: Element,
}

impl Multiply {
    /// Decodes an instruction.
    ///
    /// # Errors
    /// If it is another form of `mma`, or its operands do not fit.
    pub fn decode(instruction: &Instruction) -> Result<Self, DecodeError> {
        let modifiers: Vec<&str> = instruction.modifiers.iter().map(String::as_str).collect();
        let (size, element) = match (instruction.opcode.as_str(), modifiers.as_slice()) {
            ("mma", ["sync", "aligned", size, "row", "col", "f32", "f16", "f16", "f32"]) => {
                (*size, Element::F16)
            }
            ("mma", ["sync", "aligned", size, "row", "col", "f32", "bf16", "bf16", "f32"]) => {
                (*size, Element::Bf16)
            }
            _ => {
                let needed = "mma.sync.aligned.m16n8kK.row.col.f32 with f16.f16.f32 or bf16.bf16.f32";
                return Err(DecodeError::new(instruction, "the instruction", instruction.mnemonic(), needed));
            }
        };
        let Some([M, N, k @ (8 | 16)]) = shape(size) else {
            return Err(DecodeError::new(instruction, "the shape", size, "m16n8k8 or m16n8k16"));
        };
        let decoded = Self { k, element };
        require_operands(instruction, C_OPERAND + 1)?;
        require_registers(instruction, D_OPERAND, "D", ACCUMULATORS)?;
        require_registers(instruction, A_OPERAND, "A", decoded.a_registers())?;
        require_registers(instruction, B_OPERAND, "B", decoded.b_registers())?;
        require_registers(instruction, C_OPERAND, "C", ACCUMULATORS)?;
        Ok(decoded)
    }

    /// Columns of A, rows of B.
    pub fn k(&self) -> u32 {
        self.k
    }

    /// Registers of a thread that hold A: 2 or 4.
    pub fn a_registers(&self) -> usize {
        2 * self.b_registers()
    }

    /// Registers of a thread that hold B: 1 or 2.
    pub fn b_registers(&self) -> usize {
        self.k as usize / 8
    }

    /// Floating-point operations of the warp.
    pub fn flop(&self) -> u64 {
        2 * u64::from(M * N * self.k)
    }

    /// D = A·B + C, from and to the registers of the 32 threads; of A and B the first
    /// [`a_registers`](Self::a_registers) and [`b_registers`](Self::b_registers) count. The arithmetic is that of
    /// [`Accumulator`], the layouts are in [`fragment`].
    pub fn multiply(
        &self,
        a: &[[u32; 4]; WARP],
        b: &[[u32; 2]; WARP],
        c: &[[u32; ACCUMULATORS]; WARP],
    ) -> [[u32; ACCUMULATORS]; WARP] {
        let a = self.values(M, a, self.a_registers(), fragment::a);
        let b = self.values(N, b, self.b_registers(), fragment::b);
        let mut d = *c;
        Accumulator::F32.multiply(&a, &b, self.k as usize, d.as_flattened_mut(), true);
        d
    }

    /// A matrix with k elements a row, from its fragments.
    fn values<const R: usize>(
        &self,
        rows: u32,
        registers: &[[u32; R]; WARP],
        count: usize,
        place: fn(usize, usize) -> (usize, usize),
    ) -> Vec<f32> {
        let words_of_row = self.k as usize / IN_REGISTER;
        let mut words = vec![[0; 4]; rows as usize * words_of_row];
        for (lane, registers) in registers.iter().enumerate() {
            for (register, value) in registers.iter().take(count).enumerate() {
                let (row, word) = place(lane, register);
                words[row * words_of_row + word] = value.to_le_bytes();
            }
        }
        self.element.values(words.as_flattened())
    }
}
