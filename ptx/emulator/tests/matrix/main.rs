//! Matrix instructions against layouts and products that are written out here, apart from the code under test.

mod decode;
mod layouts;
mod products;

use ptx_syntax::ast::{Instruction, Operand, Position};

/// `wgmma.mma_async…` and the like, without positions.
fn instruction(mnemonic: &str, operands: Vec<Operand>) -> Instruction {
    let mut words = mnemonic.split('.').map(String::from);
    Instruction {
        position: Position::default(),
        guard: None,
        opcode: words.next().unwrap_or_default(),
        modifiers: words.collect(),
        operands,
    }
}

fn name(text: &str) -> Operand {
    Operand::Name(text.into())
}

/// A vector of so many registers.
fn registers(count: usize) -> Operand {
    Operand::Vector((0..count).map(|i| name(&format!("%r{i}"))).collect())
}

/// A `wgmma` with n columns; `immediates` are the operands from imm-scale-a on.
fn wgmma(n: usize, k: usize, types: &str, a_in_registers: bool, immediates: &[i64]) -> Instruction {
    let d = if types.starts_with("f16") { n / 4 } else { n / 2 };
    let a = if a_in_registers { registers(4) } else { name("%a") };
    let mut operands = vec![registers(d), a, name("%b"), name("%p")];
    operands.extend(immediates.iter().map(|value| Operand::Integer(*value)));
    instruction(&format!("wgmma.mma_async.sync.aligned.m64n{n}k{k}.{types}"), operands)
}
