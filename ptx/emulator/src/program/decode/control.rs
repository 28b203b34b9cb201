//! Branches, barriers and exchange between threads.

use ptx_syntax::ast::{self, Operand};

use super::operands::{Arguments, scope};
use super::{Decoder, Reason};
use crate::program::operation::{
    BarrierReduction, Fence, Mbarrier, MbarrierOperation, NamedBarrier, Operation, Reduction, Shuffle,
    ShuffleMode, Vote,
};

impl Decoder<'_> {
    pub(super) fn branch(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let Operand::Name(label) = arguments.get(0)? else { return Err("needs a label".into()) };
        Ok(Operation::Branch { target: self.label(label)?, uniform: arguments.instruction.has("uni") })
    }

    pub(super) fn label(&self, name: &str) -> Result<u32, Reason> {
        self.find(|scope| scope.labels.get(name)).ok_or_else(|| format!("{name} is no label"))
    }

    pub(super) fn branch_by_index(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let Operand::Name(list) = arguments.get(1)? else { return Err("needs a list of labels".into()) };
        let labels = self.scopes.iter().rev().find_map(|scope| scope.branch_targets.get(list));
        let labels = labels.ok_or_else(|| format!("{list} is no list of labels"))?;
        Ok(Operation::BranchByIndex {
            index: self.source(arguments.get(0)?, 32)?,
            targets: labels.iter().map(|label| self.label(label)).collect::<Result<_, _>>()?,
            uniform: arguments.instruction.has("uni"),
        })
    }

    pub(super) fn barrier(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let has = |modifier: &str| instruction.has(modifier);
        // `bar` is `barrier.aligned` (PTX ISA, "bar{.cta}").
        let aligned = has("aligned") || instruction.opcode == "bar";
        if has("warp") {
            return Ok(Operation::WarpSync { mask: self.source(arguments.get(0)?, 32)? });
        }
        if has("cluster") {
            let relaxed = has("relaxed");
            return Ok(if has("arrive") {
                Operation::ClusterArrive { releases: !relaxed, aligned }
            } else {
                Operation::ClusterWait { acquires: !relaxed, aligned }
            });
        }
        let mut operands = arguments.operands;
        let mut reduction = None;
        if has("red") {
            let (Some(result), Some(predicate)) = (operands.first(), operands.last()) else {
                return Err("needs a result and a predicate".into());
            };
            let counts = has("popc");
            reduction = Some(BarrierReduction {
                kind: if counts { Reduction::Count } else { reduce_operation(instruction)? },
                result: self.target(result, if counts { 32 } else { 1 })?,
                predicate: self.source(predicate, 1)?,
            });
            operands = operands.get(1..operands.len() - 1).ok_or("needs the number of a barrier")?;
        }
        let id = operands.first().ok_or("needs the number of a barrier")?;
        Ok(Operation::Barrier(NamedBarrier {
            waits: !has("arrive"),
            aligned,
            id: self.source(id, 32)?,
            threads: operands.get(1).map(|threads| self.source(threads, 32)).transpose()?,
            reduction,
        }))
    }

    pub(super) fn shuffle(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let has = |modifier: &str| arguments.instruction.has(modifier);
        let modes = [
            ("up", ShuffleMode::Up),
            ("down", ShuffleMode::Down),
            ("bfly", ShuffleMode::Butterfly),
            ("idx", ShuffleMode::Index),
        ];
        let mode = modes.iter().find(|(name, _)| has(name)).ok_or("names no mode")?.1;
        let [result, predicate] = self.result_and_predicate(arguments.get(0)?, 32)?;
        let source = |index: usize| self.source(arguments.get(index)?, 32);
        Ok(Operation::Shuffle(Shuffle {
            mode,
            result,
            predicate,
            value: source(1)?,
            lane: source(2)?,
            clamp: source(3)?,
            mask: source(4)?,
        }))
    }

    pub(super) fn vote(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let kinds =
            [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)];
        let kind = kinds.iter().find(|(name, _)| arguments.instruction.has(name)).ok_or("names no mode")?.1;
        let bits = if kind == Vote::Ballot { 32 } else { 1 };
        Ok(Operation::Vote {
            kind,
            result: self.target(arguments.get(0)?, bits)?,
            predicate: self.source(arguments.get(1)?, 1)?,
            mask: self.source(arguments.get(2)?, 32)?,
        })
    }

    pub(super) fn mbarrier(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let has = |modifier: &str| instruction.has(modifier);
        let word = |index: usize| self.source(arguments.get(index)?, 32);
        let (at, operation) = match instruction.modifiers.first().map(String::as_str) {
            Some("init") => (0, MbarrierOperation::Init { count: word(1)? }),
            Some("inval") => (0, MbarrierOperation::Invalidate),
            Some("expect_tx") => (0, MbarrierOperation::ExpectTransactions { bytes: word(1)? }),
            Some("complete_tx") => (0, MbarrierOperation::CompleteTransactions { bytes: word(1)? }),
            Some("arrive" | "arrive_drop") => {
                // The state is left out where the barrier may be another CTA's.
                let at = usize::from(!matches!(arguments.get(0)?, Operand::Address(_)));
                let state = if at == 1 { self.result(arguments.get(0)?, 64)? } else { None };
                let operand = arguments.operands.get(at + 1).map(|_| word(at + 1)).transpose()?;
                let (count, expect) = if has("expect_tx") { (None, operand) } else { (operand, None) };
                (at, MbarrierOperation::Arrive { state, count, expect, drop: has("arrive_drop") })
            }
            Some("test_wait" | "try_wait") => {
                let is_parity = has("parity");
                let phase = self.source(arguments.get(2)?, if is_parity { 32 } else { 64 })?;
                let done = self.target(arguments.get(0)?, 1)?;
                (1, MbarrierOperation::Test { done, phase, is_parity, waits: has("try_wait") })
            }
            _ => return Err("this mbarrier operation is not supported".into()),
        };
        Ok(Operation::Mbarrier(Mbarrier {
            space: arguments.space(),
            address: self.address(arguments.get(at)?)?,
            operation,
            relaxed: has("relaxed"),
            for_cluster: has("cluster"),
        }))
    }
}

pub(super) fn fence(instruction: &ast::Instruction) -> Fence {
    let has = |modifier: &str| instruction.has(modifier);
    if has("mbarrier_init") {
        return Fence::MbarrierInit;
    }
    if has("proxy") || instruction.modifiers.iter().any(|modifier| modifier.starts_with("proxy")) {
        return if has("async") || has("proxy.async") { Fence::AsyncProxy } else { Fence::Other };
    }
    let (acquire, release) = (has("acquire"), has("release"));
    Fence::Memory { acquires: !release, releases: !acquire, scope: scope(instruction) }
}

pub(super) fn reduce_operation(instruction: &ast::Instruction) -> Result<Reduction, Reason> {
    let operations = [
        ("add", Reduction::Add),
        ("min", Reduction::Min),
        ("max", Reduction::Max),
        ("and", Reduction::And),
        ("or", Reduction::Or),
        ("xor", Reduction::Xor),
    ];
    let found = operations.iter().find(|(name, _)| instruction.has(name));
    found.map(|(_, operation)| *operation).ok_or_else(|| "names no operation".into())
}
