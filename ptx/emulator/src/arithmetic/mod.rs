//! Instructions that compute in one thread: arithmetic, logic, comparison, conversion, moves.
//!
//! [`Operation::decode`] reads an instruction once and keeps the function that computes it for the 32 lanes of a warp.
//! What an instruction means stands in one place, next to its name, in the file of its concept:
//!
//! * `integer`, `logic`, `bits`: integers as numbers, as words, as fields of bits;
//! * `float` (f32, f64), `half` (f16, bf16), `approximate` (division, roots, transcendental functions);
//! * `compare`, `convert`, `fp8`, `moves`;
//! * `lanes`, `carry`, `mnemonic`, `rounding`: what they share.
//!
//! Semantics follow the PTX ISA 8.x. Where it leaves a result open, the choice is stated at the instruction.

mod approximate;
mod bits;
mod carry;
mod compare;
mod convert;
mod float;
mod fp8;
mod half;
mod integer;
mod lanes;
mod logic;
mod mnemonic;
mod moves;
mod rounding;

use std::fmt;
use std::sync::Arc;

use ptx_syntax::ast::{Instruction, Operand};

use mnemonic::Mnemonic;

/// Threads of a warp.
pub const LANES: usize = 32;

/// One register in the 32 lanes of a warp. A value sits in the low bits; bits above its width are zero. A predicate is
/// 0 or 1.
pub type Lanes = [u64; LANES];

/// Width of a register operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// A predicate.
    Pred,
    /// 8 bits, only as an element of a packed `mov`.
    B8,
    /// 16 bits.
    B16,
    /// 32 bits.
    B32,
    /// 64 bits.
    B64,
}

/// Why an instruction of this family cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A modifier that this instruction does not have, or that is not supported.
    #[error("`{instruction}`: modifier `.{modifier}` is not supported here")]
    Modifier {
        /// Opcode and modifiers.
        instruction: String,
        /// Without its dot.
        modifier: String,
    },
    /// None of the modifiers of which the instruction needs one.
    #[error("`{instruction}` needs one of {needed}")]
    MissingModifier {
        /// Opcode and modifiers.
        instruction: String,
        /// The modifiers it could have.
        needed: String,
    },
    /// A type that the instruction does not compute with.
    #[error("`{instruction}`: type `.{ty}` is not supported here")]
    Type {
        /// Opcode and modifiers.
        instruction: String,
        /// Without its dot.
        ty: String,
    },
    /// More or fewer types than the instruction has.
    #[error("`{instruction}` has {found} types, needs {needed}")]
    TypeCount {
        /// Opcode and modifiers.
        instruction: String,
        /// Types it needs.
        needed: usize,
        /// Types it has.
        found: usize,
    },
    /// More or fewer operands than the instruction has, vectors and pairs flattened.
    #[error(
        "`{instruction}` has {results} results and {operands} operands, needs {needed_results} and {needed_operands}"
    )]
    OperandCount {
        /// Opcode and modifiers.
        instruction: String,
        /// Results it has.
        results: usize,
        /// Operands it has.
        operands: usize,
        /// Results it needs.
        needed_results: usize,
        /// Operands it needs.
        needed_operands: usize,
    },
    /// An operand of a form that cannot stand there: an address, a vector outside `mov`, a sink that is no result.
    #[error("`{instruction}`: operand {index} has a form that cannot stand there: {form}")]
    OperandForm {
        /// Opcode and modifiers.
        instruction: String,
        /// Counts from 0, the result included.
        index: usize,
        /// What it is.
        form: &'static str,
    },
}

/// Computes a whole warp: operands, results.
type Kernel = dyn Fn(&[Lanes], &mut [Lanes]) + Send + Sync;

/// An instruction of this family, decoded. Cheap to clone.
#[derive(Clone)]
pub struct Operation {
    mnemonic: String,
    results: &'static [Width],
    operands: &'static [Width],
    reads_carry: bool,
    writes_carry: bool,
    kernel: Arc<Kernel>,
}

impl Operation {
    /// Decodes an instruction; `Ok(None)` where it is not of this family.
    ///
    /// Looks at the mnemonic and at the shape of the operands (vectors, pairs), never at their names or values.
    ///
    /// # Errors
    ///
    /// What is not supported or malformed.
    pub fn decode(instruction: &Instruction) -> Result<Option<Self>, DecodeError> {
        let mut mnemonic = Mnemonic::new(instruction);
        let Some(mut operation) = decode_family(&mut mnemonic)? else { return Ok(None) };
        mnemonic.finish()?;
        operation.mnemonic = instruction.mnemonic();
        operation.check_operands(instruction)?;
        Ok(Some(operation))
    }

    /// Widths of the results, in the order in which they stand once vectors `{a, b}` and pairs `d|p` are flattened.
    /// Sinks `_` count. The carry flag, where it is written, is an additional last result.
    pub fn results(&self) -> &[Width] {
        self.results
    }

    /// Widths of the operands, in their order once vectors are flattened. The carry flag, where it is read, is an
    /// additional last operand.
    ///
    /// `cvt` also takes registers wider than this: it reads the low bits.
    pub fn operands(&self) -> &[Width] {
        self.operands
    }

    /// Whether the last operand is the carry flag (`addc`, `subc`, `madc`).
    pub fn reads_carry(&self) -> bool {
        self.reads_carry
    }

    /// Whether the last result is the carry flag (`add.cc`, `sub.cc`, `mad.cc`, …). A subtraction's is its borrow.
    pub fn writes_carry(&self) -> bool {
        self.writes_carry
    }

    /// Computes all 32 lanes. Any value of an operand is allowed; bits above its width are ignored.
    ///
    /// # Panics
    ///
    /// If there are not as many `operands` and `results` as [`Self::operands`] and [`Self::results`] say.
    pub fn evaluate(&self, operands: &[Lanes], results: &mut [Lanes]) {
        (self.kernel)(operands, results);
    }

    /// Compares the instruction's operands with what the operation takes.
    fn check_operands(&self, instruction: &Instruction) -> Result<(), DecodeError> {
        let is_move = instruction.opcode == "mov";
        let (mut results, mut operands) = (0, 0);
        for (index, operand) in instruction.operands.iter().enumerate() {
            let is_result = index == 0;
            let count = flattened(operand, is_result, is_move).map_err(|form| DecodeError::OperandForm {
                instruction: instruction.mnemonic(),
                index,
                form,
            })?;
            *(if is_result { &mut results } else { &mut operands }) += count;
        }
        let needed_results = self.results.len() - usize::from(self.writes_carry);
        let needed_operands = self.operands.len() - usize::from(self.reads_carry);
        if (results, operands) == (needed_results, needed_operands) {
            return Ok(());
        }
        let instruction = instruction.mnemonic();
        Err(DecodeError::OperandCount { instruction, results, operands, needed_results, needed_operands })
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("mnemonic", &self.mnemonic)
            .field("results", &self.results)
            .field("operands", &self.operands)
            .finish_non_exhaustive()
    }
}

/// Finds the concept that an opcode belongs to; arithmetic is told apart by its type.
fn decode_family(mnemonic: &mut Mnemonic<'_>) -> Result<Option<Operation>, DecodeError> {
    let operation = match mnemonic.opcode() {
        "mov" => moves::decode(mnemonic)?,
        "cvt" => convert::decode(mnemonic)?,
        "setp" | "set" | "selp" | "slct" => compare::decode(mnemonic)?,
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" => logic::decode(mnemonic)?,
        "popc" | "clz" | "bfind" | "brev" | "bfe" | "bfi" | "bmsk" | "szext" | "prmt" => {
            bits::decode(mnemonic)?
        }
        "add" | "addc" | "sub" | "subc" | "mul" | "mad" | "madc" | "mul24" | "mad24" | "fma" | "sad"
        | "div" | "rem" | "min" | "max" | "abs" | "neg" | "dp4a" | "dp2a" | "rcp" | "sqrt" | "rsqrt"
        | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" | "testp" => {
            match (mnemonic.opcode(), mnemonic.last_type()) {
                ("div" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh", ty)
                    if !is_integer(ty) =>
                {
                    approximate::decode(mnemonic)?
                }
                (_, "f32" | "f64") => float::decode(mnemonic)?,
                (_, "f16" | "f16x2" | "bf16" | "bf16x2") => half::decode(mnemonic)?,
                _ => integer::decode(mnemonic)?,
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(operation))
}

/// Whether a type's name is that of an integer.
fn is_integer(ty: &str) -> bool {
    ty.starts_with(['u', 's'])
}

/// How many registers an operand is, or the form that cannot stand there.
fn flattened(operand: &Operand, is_result: bool, is_move: bool) -> Result<usize, &'static str> {
    match operand {
        Operand::Name(_) => Ok(1),
        Operand::Sink if is_result => Ok(1),
        Operand::Not(_) | Operand::Integer(_) | Operand::F32(_) | Operand::F64(_) | Operand::Symbol(_)
            if !is_result =>
        {
            Ok(1)
        }
        Operand::Vector(elements) if is_move => {
            elements.iter().map(|element| flattened(element, is_result, false)).sum()
        }
        Operand::Pair(first, second) if is_result => {
            Ok(flattened(first, true, false)? + flattened(second, true, false)?)
        }
        Operand::Sink => Err("a sink"),
        Operand::Not(_) => Err("a negated predicate"),
        Operand::Integer(_) | Operand::F32(_) | Operand::F64(_) | Operand::Symbol(_) => Err("a constant"),
        Operand::Vector(_) => Err("a vector"),
        Operand::Pair(..) => Err("a pair"),
        Operand::Address(_) => Err("an address"),
        Operand::List(_) => Err("a list"),
    }
}
