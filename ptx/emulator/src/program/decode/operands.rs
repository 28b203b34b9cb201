//! Operands of instructions, resolved.

use ptx_syntax::ast::{self, Operand, Type};

use super::{Decoder, Names, Reason};
use crate::order::Scope;
use crate::program::operand::{Address, Register, Source, Space, Special};
use crate::program::operation::{Order, Results};
use crate::program::{Symbol, literal_bits};

impl Decoder<'_> {
    pub(super) fn find<T: Copy>(&self, look: impl Fn(&Names) -> Option<&T>) -> Option<T> {
        self.scopes.iter().rev().find_map(|scope| look(scope).copied())
    }

    pub(super) fn register(&self, name: &str) -> Result<Register, Reason> {
        self.find(|scope| scope.registers.get(name)).ok_or_else(|| format!("{name} is no register"))
    }

    /// State space and address of a variable or parameter.
    pub(super) fn symbol(&self, name: &str) -> Option<(Space, u64)> {
        let parameter = self.parameters.iter().find(|parameter| parameter.name == name);
        let symbol = self
            .find(|scope| scope.symbols.get(name))
            .or_else(|| self.globals.symbols.get(name).copied())
            .or_else(|| {
                parameter.map(|p| Symbol { space: Space::Param, address: Some(u64::from(p.offset)) })
            })?;
        Some((symbol.space, symbol.address.unwrap_or(u64::from(self.dynamic_shared))))
    }

    /// A predicate is one bit exactly; other values may stand in wider registers.
    pub(super) fn require_bits(&self, name: &str, register: Register, bits: u32) -> Result<(), Reason> {
        let found = self.registers[register as usize];
        if found == bits || found > bits && bits > 1 {
            return Ok(());
        }
        Err(format!("{name} is a register of {found} bits; needed are {bits}"))
    }

    /// An operand of `bits` bits.
    pub(super) fn source(&self, operand: &Operand, bits: u32) -> Result<Source, Reason> {
        match operand {
            Operand::Name(name) => {
                if let Ok(register) = self.register(name) {
                    self.require_bits(name, register, bits)?;
                    return Ok(Source::Register(register));
                }
                if let Some(special) = Special::from_name(name) {
                    return Ok(Source::Special(special));
                }
                let (_, address) = self.symbol(name).ok_or_else(|| format!("{name} is not declared"))?;
                Ok(Source::Immediate(address))
            }
            Operand::Not(name) => {
                let register = self.register(name)?;
                self.require_bits(name, register, 1)?;
                Ok(Source::Not(register))
            }
            literal => literal_bits(literal, bits.div_ceil(8))
                .map(|value| Source::Immediate(if bits == 1 { u64::from(value != 0) } else { value }))
                .ok_or_else(|| format!("{literal} is no value")),
        }
    }

    pub(super) fn sources(&self, operand: &Operand, bits: u32) -> Result<Vec<Source>, Reason> {
        match operand {
            Operand::Vector(elements) => elements.iter().map(|element| self.source(element, bits)).collect(),
            single => Ok(vec![self.source(single, bits)?]),
        }
    }

    /// A register that takes a result of `bits` bits, or `_`.
    pub(super) fn result(&self, operand: &Operand, bits: u32) -> Result<Option<Register>, Reason> {
        match operand {
            Operand::Name(name) => {
                let register = self.register(name)?;
                self.require_bits(name, register, bits)?;
                Ok(Some(register))
            }
            Operand::Sink => Ok(None),
            other => Err(format!("{other} cannot take a result")),
        }
    }

    /// Results of `bits` bits each.
    pub(super) fn results(&self, operand: &Operand, bits: u32) -> Result<Results, Reason> {
        match operand {
            Operand::Vector(elements) => elements.iter().map(|element| self.result(element, bits)).collect(),
            single => Ok(vec![self.result(single, bits)?]),
        }
    }

    /// `d|p`, or `d` alone: a result of `bits` bits and a predicate.
    pub(super) fn result_and_predicate(
        &self,
        operand: &Operand,
        bits: u32,
    ) -> Result<[Option<Register>; 2], Reason> {
        match operand {
            Operand::Pair(first, second) => Ok([self.result(first, bits)?, self.result(second, 1)?]),
            single => Ok([self.result(single, bits)?, None]),
        }
    }

    pub(super) fn target(&self, operand: &Operand, bits: u32) -> Result<Register, Reason> {
        self.result(operand, bits)?.ok_or_else(|| "a result is needed".into())
    }

    pub(super) fn registers_of(&self, operand: &Operand) -> Result<Vec<Register>, Reason> {
        let results = self.results(operand, 32)?;
        results.into_iter().map(|result| result.ok_or_else(|| "`_` cannot stand here".into())).collect()
    }

    pub(super) fn address(&self, operand: &Operand) -> Result<Address, Reason> {
        let Operand::Address(address) = operand else {
            return Err(format!("{operand} is no address"));
        };
        let base = match &address.base {
            None => Source::Immediate(0),
            // Shared memory may be addressed with 32 bits.
            Some(name) => self.source(&Operand::Name(name.clone()), 32)?,
        };
        let is_narrow = matches!(base, Source::Register(register) if self.registers[register as usize] == 32);
        Ok(Address { base, offset: address.offset, is_narrow })
    }
}

/// An instruction's operands and what its modifiers say.
pub(super) struct Arguments<'a> {
    pub(super) instruction: &'a ast::Instruction,
    pub(super) operands: &'a [Operand],
}

impl Arguments<'_> {
    pub(super) fn get(&self, index: usize) -> Result<&Operand, Reason> {
        self.operands.get(index).ok_or_else(|| format!("has {} operands, needs more", self.operands.len()))
    }

    /// The last type among the modifiers.
    pub(super) fn ty(&self) -> Result<Type, Reason> {
        let types = self.instruction.modifiers.iter().rev().filter_map(|modifier| Type::from_name(modifier));
        types.into_iter().next().ok_or_else(|| "names no type".into())
    }

    /// Likewise, of an access of memory.
    pub(super) fn memory_type(&self) -> Result<Type, Reason> {
        match self.ty()? {
            Type::B128 => Err("values of 128 bits are not supported".into()),
            ty => Ok(ty),
        }
    }

    pub(super) fn address_bits(&self) -> u32 {
        if self.instruction.has("u32") { 32 } else { 64 }
    }

    pub(super) fn space(&self) -> Space {
        let of = |modifier: &str| {
            Some(match modifier {
                "global" => Space::Global,
                "const" => Space::Const,
                "local" => Space::Local,
                "param" | "param::entry" | "param::func" => Space::Param,
                "shared" | "shared::cta" => Space::SharedCta,
                "shared::cluster" => Space::SharedCluster,
                _ => return None,
            })
        };
        self.instruction.modifiers.iter().find_map(|modifier| of(modifier)).unwrap_or(Space::Generic)
    }

    pub(super) fn order(&self, may_acquire: bool, may_release: bool) -> Order {
        let has = |modifier: &str| self.instruction.has(modifier);
        Order {
            strong: ["relaxed", "acquire", "release", "acq_rel", "volatile", "mmio"].into_iter().any(has),
            acquires: may_acquire && (has("acquire") || has("acq_rel")),
            releases: may_release && (has("release") || has("acq_rel")),
            scope: scope(self.instruction),
        }
    }
}

pub(super) fn scope(instruction: &ast::Instruction) -> Scope {
    if instruction.has("cta") {
        Scope::Cta
    } else if instruction.has("cluster") {
        Scope::Cluster
    } else {
        Scope::Device
    }
}
