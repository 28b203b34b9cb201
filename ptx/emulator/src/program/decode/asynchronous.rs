//! Asynchronous copies and `wgmma`.

use ptx_syntax::ast::Operand;

use super::memory::atomic_operation;
use super::operands::Arguments;
use super::{Decoder, Reason};
use crate::matrix::wgmma;
use crate::program::operand::Source;
use crate::program::operation::{Bulk, CopyAsync, Direction, Multiply, Operation};

impl Decoder<'_> {
    pub(super) fn copy(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let has = |modifier: &str| instruction.has(modifier);
        let pending = |index: usize| match arguments.get(index)? {
            Operand::Integer(count) => u32::try_from(*count).map_err(|_| "needs a small number".to_owned()),
            other => Err(format!("{other} is no number")),
        };
        if has("bulk") {
            if has("prefetch") {
                return Ok(Operation::Hint);
            }
            if has("commit_group") {
                return Ok(Operation::BulkCommit);
            }
            if has("wait_group") {
                return Ok(Operation::BulkWait { pending: pending(0)?, read_only: has("read") });
            }
            return self.bulk(arguments);
        }
        if has("commit_group") {
            return Ok(Operation::CopyAsyncCommit);
        }
        if has("wait_group") {
            return Ok(Operation::CopyAsyncWait { pending: Some(pending(0)?) });
        }
        if has("wait_all") {
            return Ok(Operation::CopyAsyncWait { pending: None });
        }
        if has("mbarrier") {
            let address = self.address(arguments.get(0)?)?;
            return Ok(Operation::CopyAsyncArrive {
                address,
                space: arguments.space(),
                counts: !has("noinc"),
            });
        }
        let (destination, source) = (self.address(arguments.get(0)?)?, self.address(arguments.get(1)?)?);
        let Operand::Integer(bytes @ (4 | 8 | 16)) = arguments.get(2)? else {
            return Err("copies 4, 8 or 16 bytes".into());
        };
        let (mut source_bytes, mut ignore) = (None, None);
        // A predicate or a number of bytes; a cache policy, of 64 bits, may follow.
        if let Some(operand) =
            arguments.operands.get(3).filter(|_| !(has("L2::cache_hint") && arguments.operands.len() == 4))
        {
            match self.source(operand, 1) {
                Ok(predicate @ (Source::Register(_) | Source::Not(_))) => ignore = Some(predicate),
                _ => source_bytes = Some(self.source(operand, 32)?),
            }
        }
        Ok(Operation::CopyAsync(CopyAsync {
            destination,
            source,
            bytes: *bytes as u32,
            source_bytes,
            ignore,
        }))
    }

    pub(super) fn bulk(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let has = |modifier: &str| instruction.has(modifier);
        let spaces: Vec<&str> = instruction
            .modifiers
            .iter()
            .map(String::as_str)
            .filter(|modifier| matches!(*modifier, "shared::cluster" | "shared::cta" | "global"))
            .collect();
        let direction = match spaces.as_slice() {
            ["shared::cluster" | "shared::cta", "global"] => Direction::GlobalToShared,
            ["global", "shared::cta"] => Direction::SharedToGlobal,
            ["shared::cluster", "shared::cta"] => Direction::SharedToShared,
            _ => return Err("copies between state spaces that are not supported".into()),
        };
        let is_tensor = has("tensor");
        if is_tensor
            && instruction.modifiers.iter().any(|m| m.starts_with("im2col") || m.starts_with("tile::"))
        {
            return Err("of tensor copies, only tiles are supported".into());
        }
        let coordinates = |operand: &Operand| match operand {
            Operand::Address(address) if !address.coordinates.is_empty() => {
                address.coordinates.iter().map(|x| self.source(x, 32)).collect::<Result<Vec<_>, _>>()
            }
            other => Err(format!("{other} has no coordinates")),
        };
        let (first, second) = (arguments.get(0)?, arguments.get(1)?);
        let (shared, other) = match direction {
            Direction::GlobalToShared | Direction::SharedToShared => (first, second),
            Direction::SharedToGlobal => (second, first),
        };
        let mut next = 2;
        let bytes = if is_tensor { None } else { Some(self.source(arguments.get(2)?, 32)?) };
        next += usize::from(bytes.is_some());
        let barrier = if has("mbarrier::complete_tx::bytes") {
            next += 1;
            Some(self.address(arguments.get(next - 1)?)?)
        } else {
            None
        };
        let multicast =
            if has("multicast::cluster") { Some(self.source(arguments.get(next)?, 16)?) } else { None };
        let reduction = if instruction.has("reduce") {
            let ty = if is_tensor { None } else { Some(arguments.ty()?) };
            Some((atomic_operation(instruction)?, ty))
        } else {
            None
        };
        Ok(Operation::Bulk(Bulk {
            direction,
            shared: self.address(shared)?,
            other: self.address(other)?,
            coordinates: if is_tensor { Some(coordinates(other)?) } else { None },
            bytes,
            barrier,
            multicast,
            reduction,
        }))
    }

    pub(super) fn store_async(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let bytes = arguments.memory_type()?.bytes();
        Ok(Operation::StoreAsync {
            address: self.address(arguments.get(0)?)?,
            values: self.sources(arguments.get(1)?, bytes * 8)?,
            bytes,
            barrier: self.address(arguments.get(2)?)?,
        })
    }

    pub(super) fn multiply(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        match instruction.modifiers.first().map(String::as_str) {
            Some("fence") => Ok(Operation::MultiplyFence),
            Some("commit_group") => Ok(Operation::MultiplyCommit),
            Some("wait_group") => match arguments.get(0)? {
                Operand::Integer(pending @ 0..=7) => Ok(Operation::MultiplyWait { pending: *pending as u32 }),
                other => Err(format!("{other} is no number in 0..=7")),
            },
            _ => {
                let multiply = wgmma::Multiply::decode(instruction).map_err(|error| error.to_string())?;
                let from_registers = multiply.a_registers().is_some();
                let a = arguments.get(1)?;
                Ok(Operation::Multiply(Box::new(Multiply {
                    accumulators: self.registers_of(arguments.get(0)?)?,
                    a_registers: if from_registers { self.registers_of(a)? } else { Vec::new() },
                    a_descriptor: if from_registers { None } else { Some(self.source(a, 64)?) },
                    b_descriptor: self.source(arguments.get(2)?, 64)?,
                    scale_d: self.source(arguments.get(3)?, 1)?,
                    multiply,
                })))
            }
        }
    }
}
