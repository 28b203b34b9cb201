//! The modifiers of an instruction, taken one by one while it is decoded, so that none goes unnoticed.

use ptx_syntax::ast::{Instruction, Operand, Type};

use super::DecodeError;

/// Types that stand in mnemonics without being types of registers.
const PACKED_TYPES: [&str; 6] = ["u16x2", "s16x2", "tf32", "e4m3x2", "e5m2x2", "ue8m0x2"];

/// An instruction's opcode, types and other modifiers.
pub(super) struct Mnemonic<'a> {
    instruction: &'a Instruction,
    types: Vec<&'a str>,
    flags: Vec<&'a str>,
}

impl<'a> Mnemonic<'a> {
    /// Tells types from other modifiers.
    pub fn new(instruction: &'a Instruction) -> Self {
        let is_type = |name: &&str| Type::from_name(name).is_some() || PACKED_TYPES.contains(name);
        let (types, flags) = instruction.modifiers.iter().map(String::as_str).partition(is_type);
        Self { instruction, types, flags }
    }

    /// The opcode.
    pub fn opcode(&self) -> &'a str {
        &self.instruction.opcode
    }

    /// The type of the sources, which stands last; empty where there is no type.
    pub fn last_type(&self) -> &'a str {
        self.types.last().copied().unwrap_or_default()
    }

    /// All types; as many as `N`.
    pub fn types<const N: usize>(&self) -> Result<[&'a str; N], DecodeError> {
        self.types.as_slice().try_into().map_err(|_| DecodeError::TypeCount {
            instruction: self.instruction.mnemonic(),
            needed: N,
            found: self.types.len(),
        })
    }

    /// How many types there are.
    pub fn type_count(&self) -> usize {
        self.types.len()
    }

    /// Takes a modifier; whether it was there.
    pub fn take(&mut self, flag: &str) -> bool {
        let position = self.flags.iter().position(|f| *f == flag);
        position.map(|index| self.flags.remove(index)).is_some()
    }

    /// Takes the first of the modifiers in the table that is there, and says what it stands for.
    pub fn choose<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        table.iter().find(|(flag, _)| self.take(flag)).map(|(_, value)| *value)
    }

    /// As [`Self::choose`], where the instruction must have one of them.
    pub fn require<T: Copy>(&mut self, table: &[(&str, T)]) -> Result<T, DecodeError> {
        self.choose(table).ok_or_else(|| DecodeError::MissingModifier {
            instruction: self.instruction.mnemonic(),
            needed: table.iter().map(|(flag, _)| format!("`.{flag}`")).collect::<Vec<_>>().join(", "),
        })
    }

    /// The error for a type that the instruction does not compute with.
    pub fn unsupported_type(&self, ty: &str) -> DecodeError {
        DecodeError::Type { instruction: self.instruction.mnemonic(), ty: ty.to_owned() }
    }

    /// The error for a modifier that the instruction cannot have.
    pub fn unsupported_modifier(&self, modifier: &str) -> DecodeError {
        DecodeError::Modifier { instruction: self.instruction.mnemonic(), modifier: modifier.to_owned() }
    }

    /// Whether the result is a pair `d|p`.
    pub fn has_result_pair(&self) -> bool {
        matches!(self.instruction.operands.first(), Some(Operand::Pair(..)))
    }

    /// Elements of the operand at `index`: `Some` for a vector.
    pub fn vector_length(&self, index: usize) -> Option<usize> {
        match self.instruction.operands.get(index) {
            Some(Operand::Vector(elements)) => Some(elements.len()),
            _ => None,
        }
    }

    /// Complains about a modifier that nobody took.
    pub fn finish(self) -> Result<(), DecodeError> {
        self.flags.first().map_or(Ok(()), |flag| Err(self.unsupported_modifier(flag)))
    }
}

/// The operation for the Rust type that stands for a PTX type: `for_type!(mnemonic, ty, {"u32" => u32}, T => …)`.
macro_rules! for_type {
    ($mnemonic:expr, $ty:expr, {$($name:pat => $rust:ty),+ $(,)?}, $T:ident => $operation:expr) => {
        match $ty {
            $($name => {
                type $T = $rust;
                $operation
            })+
            _ => return Err($mnemonic.unsupported_type($ty)),
        }
    };
}
pub(super) use for_type;
