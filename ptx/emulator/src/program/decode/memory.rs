//! Loads, stores, atomic operations and addresses.

use ptx_syntax::ast::{self, Operand, Type};

use super::operands::Arguments;
use super::{Decoder, Reason};
use crate::program::operand::Space;
use crate::program::operation::{Atomic, AtomicOperation, Load, Operation, Order, Store};

impl Decoder<'_> {
    pub(super) fn load(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let ty = arguments.memory_type()?;
        let results = self.results(arguments.get(0)?, ty.bytes() * 8)?;
        Ok(Operation::Load(Load {
            space: self.space_of(arguments, arguments.get(1)?),
            bytes: ty.bytes(),
            signed: matches!(ty, Type::S8 | Type::S16 | Type::S32 | Type::S64),
            results,
            address: self.address(arguments.get(1)?)?,
            order: arguments.order(true, false),
        }))
    }

    pub(super) fn store(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let ty = arguments.memory_type()?;
        Ok(Operation::Store(Store {
            space: self.space_of(arguments, arguments.get(0)?),
            bytes: ty.bytes(),
            values: self.sources(arguments.get(1)?, ty.bytes() * 8)?,
            address: self.address(arguments.get(0)?)?,
            order: arguments.order(false, true),
        }))
    }

    /// The space an access names, or the one of the variable it accesses.
    pub(super) fn space_of(&self, arguments: &Arguments<'_>, operand: &Operand) -> Space {
        match (arguments.space(), operand) {
            (Space::Generic, Operand::Address(ast::Address { base: Some(name), .. })) => {
                self.symbol(name).map_or(Space::Generic, |(space, _)| space)
            }
            (space, _) => space,
        }
    }

    pub(super) fn atomic(&self, arguments: &Arguments<'_>, returns: bool) -> Result<Operation, Reason> {
        let first = usize::from(returns);
        let operation = atomic_operation(arguments.instruction)?;
        let ty = arguments.memory_type()?;
        let bits = ty.bytes() * 8;
        let is_swap = operation == AtomicOperation::CompareAndSwap;
        let order = arguments.order(true, true);
        Ok(Operation::Atomic(Atomic {
            space: arguments.space(),
            operation,
            ty,
            results: if returns { self.results(arguments.get(0)?, bits)? } else { Vec::new() },
            address: self.address(arguments.get(first)?)?,
            values: self.sources(arguments.get(first + 1)?, bits)?,
            swap: is_swap.then(|| self.source(arguments.get(first + 2)?, bits)).transpose()?,
            order: Order { strong: true, ..order },
        }))
    }

    pub(super) fn convert_address(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let spaces = ["const", "global", "local", "shared", "shared::cta", "shared::cluster", "param"];
        let written = instruction.modifiers.iter().find(|modifier| spaces.contains(&modifier.as_str()));
        written.ok_or("names no state space")?;
        Ok(Operation::ConvertAddress {
            result: self.target(arguments.get(0)?, arguments.address_bits())?,
            source: self.source(arguments.get(1)?, arguments.address_bits())?,
            space: arguments.space(),
            to_generic: !instruction.has("to"),
        })
    }
}

pub(super) fn atomic_operation(instruction: &ast::Instruction) -> Result<AtomicOperation, Reason> {
    let operations = [
        ("and", AtomicOperation::And),
        ("or", AtomicOperation::Or),
        ("xor", AtomicOperation::Xor),
        ("exch", AtomicOperation::Exchange),
        ("cas", AtomicOperation::CompareAndSwap),
        ("add", AtomicOperation::Add),
        ("inc", AtomicOperation::Increment),
        ("dec", AtomicOperation::Decrement),
        ("min", AtomicOperation::Min),
        ("max", AtomicOperation::Max),
    ];
    let found = operations.iter().find(|(name, _)| instruction.has(name));
    found.map(|(_, operation)| *operation).ok_or_else(|| "names no operation".into())
}
