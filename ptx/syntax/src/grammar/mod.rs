//! Which instructions there are.
//!
//! The table is one text a chapter of the PTX ISA, in the ISA's own style; `notation.rs` explains the notation. To add
//! an instruction is to add a line; to add a chapter is to add a file and its line in `CHAPTERS`. [`check`] finds, for
//! every instruction of a module, a form in the table that it follows. What follows none is an error: an instruction
//! that is not understood must never be passed over.
//!
//! Names are not resolved. So a register is any name, and whether its type is the instruction's is not checked.

mod asynchronous_copy;
mod comparison;
mod control_flow;
mod conversion;
mod data_movement;
mod floating_point;
mod half_precision;
mod integer;
mod logic;
mod matching;
mod matrix;
mod mbarrier;
mod miscellaneous;
mod notation;
mod sets;
mod synchronisation;

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use crate::ParseError;
use crate::ast::{Function, Instruction, Module, Position};
use notation::Form;

const CHAPTERS: [&str; 13] = [
    integer::FORMS,
    floating_point::FORMS,
    half_precision::FORMS,
    comparison::FORMS,
    logic::FORMS,
    data_movement::FORMS,
    conversion::FORMS,
    asynchronous_copy::FORMS,
    control_flow::FORMS,
    synchronisation::FORMS,
    mbarrier::FORMS,
    matrix::FORMS,
    miscellaneous::FORMS,
];

/// The forms of each opcode.
static TABLE: LazyLock<HashMap<&str, Vec<Form>>> = LazyLock::new(|| {
    let sets = notation::sets(sets::SETS);
    let mut table: HashMap<_, Vec<_>> = HashMap::new();
    for line in CHAPTERS.iter().flat_map(|chapter| notation::lines(chapter)) {
        let form = Form::parse(line, &sets);
        table.entry(form.opcode).or_default().push(form);
    }
    table
});

/// An instruction that follows no form of the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: `{instruction}`: {problem}")]
pub struct GrammarError {
    /// Of the instruction.
    pub position: Position,
    /// The instruction with its modifiers.
    pub instruction: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is none of this name.
    UnknownInstruction,
    /// No form of the instruction has the modifier anywhere.
    UnknownModifier {
        /// The modifier.
        modifier: String,
        /// What could stand there.
        expected: Vec<String>,
    },
    /// The instruction has the modifier, but not there or not together with the ones before it.
    MisplacedModifier {
        /// The modifier.
        modifier: String,
        /// What could stand there.
        expected: Vec<String>,
    },
    /// Something has to follow the last modifier.
    MissingModifier {
        /// What could.
        expected: Vec<String>,
    },
    /// Too few or too many operands.
    OperandCount {
        /// How many there are.
        found: usize,
        /// The operands of the form, in its notation.
        expected: String,
    },
    /// An operand that is not what the form has in its place.
    OperandKind {
        /// Its place, counted from 1.
        place: usize,
        /// The operand.
        found: String,
        /// What should be there.
        expected: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_of = |expected: &[String]| match expected {
            [] => "nothing".to_owned(),
            [only] => format!("`.{only}`"),
            _ => format!("one of `.{}`", expected.join("`, `.")),
        };
        match self {
            Self::UnknownInstruction => f.write_str("unknown instruction"),
            Self::UnknownModifier { modifier, expected } => {
                write!(f, "unknown modifier `.{modifier}`, expected {}", one_of(expected))
            }
            Self::MisplacedModifier { modifier, expected } => {
                write!(f, "misplaced modifier `.{modifier}`, expected {}", one_of(expected))
            }
            Self::MissingModifier { expected } => {
                write!(f, "a modifier is missing, expected {}", one_of(expected))
            }
            Self::OperandCount { found, expected } => {
                write!(f, "found {found} operands, expected `{expected}`")
            }
            Self::OperandKind { place, found, expected } => {
                write!(f, "operand {place} is `{found}`, expected {expected}")
            }
        }
    }
}

impl From<GrammarError> for ParseError {
    fn from(error: GrammarError) -> Self {
        Self { position: error.position, message: format!("`{}`: {}", error.instruction, error.problem) }
    }
}

/// All instructions of a module that follow no form, in the order of the text.
pub fn check(module: &Module) -> Vec<GrammarError> {
    violations(module).collect()
}

/// As [`check`], one at a time.
pub(crate) fn violations(module: &Module) -> impl Iterator<Item = GrammarError> {
    module.functions().flat_map(Function::instructions).filter_map(|instruction| {
        let problem = check_instruction(instruction).err()?;
        Some(GrammarError { position: instruction.position, instruction: instruction.mnemonic(), problem })
    })
}

/// Finds a form that an instruction follows.
///
/// # Errors
/// Where there is none: what is wrong, by the form that comes nearest.
pub fn check_instruction(instruction: &Instruction) -> Result<(), Problem> {
    match TABLE.get(instruction.opcode.as_str()) {
        Some(forms) => matching::check(forms, instruction),
        None => Err(Problem::UnknownInstruction),
    }
}
