//! Matrix instructions as functions of values: shapes, descriptors, fragments. Nothing here knows registers or memory
//! of a running kernel.
//!
//! * [`wgmma`]: `wgmma.mma_async` of a warpgroup; [`mma`]: `mma.sync` of a warp;
//! * [`transfer`]: `ldmatrix`, `stmatrix`;
//! * [`descriptor`], [`tile`], [`swizzle`]: where an operand of `wgmma` stands in shared memory;
//! * [`fragment`]: which thread holds which element; [`element`]: what the bits of an element mean;
//! * [`accumulator`]: the arithmetic that the multiplications share.
//!
//! All formulas follow the PTX ISA, sections "Warp Level Matrix Instructions" and "Asynchronous Warpgroup Level Matrix
//! Instructions".

pub mod accumulator;
pub mod descriptor;
pub mod element;
pub mod fragment;
pub mod mma;
pub mod swizzle;
pub mod tile;
pub mod transfer;
pub mod wgmma;

use ptx_syntax::ast::{Instruction, Operand};

/// Why a matrix instruction cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{instruction}`: {part} is {found}; needed is {needed}")]
pub struct DecodeError {
    /// Opcode and modifiers.
    pub instruction: String,
    /// The part of the instruction that is wrong.
    pub part: &'static str,
    /// What stands there.
    pub found: String,
    /// What would be right.
    pub needed: String,
}

impl DecodeError {
    fn new(
        instruction: &Instruction,
        part: &'static str,
        found: impl ToString,
        needed: impl ToString,
    ) -> Self {
        Self {
            instruction: instruction.mnemonic(),
            part,
            found: found.to_string(),
            needed: needed.to_string(),
        }
    }
}

/// `m`, `n` and `k` of a modifier such as `m64n256k16`.
fn shape(modifier: &str) -> Option<[u32; 3]> {
    let (m, rest) = modifier.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
}

/// Checks that an instruction has so many operands.
fn require_operands(instruction: &Instruction, needed: usize) -> Result<(), DecodeError> {
    match instruction.operands.len() {
        found if found == needed => Ok(()),
        found => Err(DecodeError::new(instruction, "the number of operands", found, needed)),
    }
}

/// Checks that an operand is a vector of so many registers; one register may stand without braces.
fn require_registers(
    instruction: &Instruction,
    operand: usize,
    part: &'static str,
    needed: usize,
) -> Result<(), DecodeError> {
    let wrong = |found: String| DecodeError::new(instruction, part, found, format!("{needed} registers"));
    match &instruction.operands[operand] {
        Operand::Name(_) if needed == 1 => Ok(()),
        Operand::Vector(registers) if registers.len() != needed => {
            Err(wrong(format!("{} registers", registers.len())))
        }
        Operand::Vector(registers) => match registers.iter().find(|r| !matches!(r, Operand::Name(_))) {
            None => Ok(()),
            Some(other) => Err(wrong(format!("a vector with {other:?}"))),
        },
        other => Err(wrong(format!("{other:?}"))),
    }
}
