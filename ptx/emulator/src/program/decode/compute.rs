//! Instructions that compute within each thread.

use ptx_syntax::ast::{self, Operand, Type};

use super::{Decoder, Reason};
use crate::arithmetic::{self, Width};
use crate::program::operand::{Register, Source};
use crate::program::operation::{Compute, Operation, Results};

impl Decoder<'_> {
    pub(super) fn compute(&mut self, instruction: &ast::Instruction) -> Result<Operation, Reason> {
        let operation = arithmetic::Operation::decode(instruction)
            .map_err(|error| error.to_string())?
            .ok_or("this instruction is not supported")?;
        let flat: Vec<&Operand> = instruction.operands.iter().flat_map(flatten).collect();
        let written = operation.results().len() - usize::from(operation.writes_carry());
        let read = operation.operands().len() - usize::from(operation.reads_carry());
        if flat.len() != written + read {
            return Err(format!("has {} operands, needs {}", flat.len(), written + read));
        }
        let mut results: Results = flat[..written]
            .iter()
            .zip(operation.results())
            .map(|(operand, width)| self.result(operand, width_bits(*width)))
            .collect::<Result<_, _>>()?;
        let widths = operation.operands();
        let mut operands: Vec<Source> = flat[written..]
            .iter()
            .zip(widths)
            .map(|(operand, width)| self.source(operand, width_bits(*width)))
            .collect::<Result<_, _>>()?;
        if operation.writes_carry() || operation.reads_carry() {
            let carry = match self.carry {
                Some(carry) => carry,
                None => *self.carry.insert(self.registers.len() as Register),
            };
            if carry as usize == self.registers.len() {
                self.new_register(1);
            }
            if operation.writes_carry() {
                results.push(Some(carry));
            }
            if operation.reads_carry() {
                operands.push(Source::Register(carry));
            }
        }
        let signed_bits = instruction
            .modifiers
            .iter()
            .find_map(|modifier| Type::from_name(modifier))
            .filter(|_| instruction.opcode == "cvt" && !instruction.has("pack"))
            .filter(|ty| matches!(ty, Type::S8 | Type::S16 | Type::S32))
            .map(|ty| ty.bytes() * 8);
        Ok(Operation::Compute(Compute { operation, results, operands, signed_bits }))
    }
}

fn flatten(operand: &Operand) -> Vec<&Operand> {
    match operand {
        Operand::Vector(elements) => elements.iter().collect(),
        Operand::Pair(first, second) => vec![first, second],
        single => vec![single],
    }
}

fn width_bits(width: Width) -> u32 {
    match width {
        Width::Pred => 1,
        Width::B8 => 8,
        Width::B16 => 16,
        Width::B32 => 32,
        Width::B64 => 64,
    }
}
