//! The operations of the machine, one variant for each kind of instruction.

use super::Instruction;
use super::flow::{END, RegisterUse, Successors};
use super::operand::{Address, Register, Source, Space};
use crate::arithmetic;
use crate::matrix::{mma, transfer, wgmma};
use crate::order::Scope;

/// Registers that take results; `None` for `_`.
pub(crate) type Results = Vec<Option<Register>>;

/// What an instruction does.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Computes within each thread.
    Compute(Compute),
    Load(Load),
    Store(Store),
    Atomic(Atomic),
    /// Does nothing that shows: hints and prefetches.
    Hint,
    /// Produces a cache policy, which means nothing here.
    Policy {
        result: Register,
    },
    /// Address of a state space to generic address or back.
    ConvertAddress {
        result: Register,
        source: Source,
        space: Space,
        to_generic: bool,
    },
    /// Whether a generic address is in a space.
    IsSpace {
        result: Register,
        source: Source,
        space: Space,
    },
    /// Address of another CTA's shared memory.
    MapShared {
        result: Register,
        source: Source,
        rank: Source,
        generic: bool,
    },
    /// Rank of the CTA whose shared memory holds an address.
    CtaRank {
        result: Register,
        source: Source,
        generic: bool,
    },

    /// `uniform`: with a promise that the threads of a warp do not part.
    Branch {
        target: u32,
        uniform: bool,
    },
    /// `brx.idx`: to one of several targets.
    BranchByIndex {
        index: Source,
        targets: Vec<u32>,
        uniform: bool,
    },
    Return,
    Trap,

    /// `bar`/`barrier.cta`
    Barrier(NamedBarrier),
    /// `bar.warp.sync`
    WarpSync {
        mask: Source,
    },
    ClusterArrive {
        releases: bool,
        aligned: bool,
    },
    ClusterWait {
        acquires: bool,
        aligned: bool,
    },
    Fence(Fence),

    Shuffle(Shuffle),
    Vote {
        kind: Vote,
        result: Register,
        predicate: Source,
        mask: Source,
    },
    Match {
        all: bool,
        result: Register,
        predicate: Option<Register>,
        value: Source,
        mask: Source,
    },
    Reduce {
        operation: Reduction,
        signed: bool,
        result: Register,
        value: Source,
        mask: Source,
    },
    ActiveMask {
        result: Register,
    },
    Elect {
        result: Option<Register>,
        predicate: Register,
        mask: Source,
    },

    Mbarrier(Mbarrier),
    /// Arrivals that were left before the arrival that gave the state.
    PendingCount {
        result: Register,
        state: Source,
    },
    CopyAsync(CopyAsync),
    CopyAsyncCommit,
    /// Waits until at most `pending` groups are left; `None` for `wait_all`.
    CopyAsyncWait {
        pending: Option<u32>,
    },
    /// Arrives at a barrier once all earlier copies of the thread are done.
    CopyAsyncArrive {
        address: Address,
        space: Space,
        counts: bool,
    },
    Bulk(Bulk),
    BulkCommit,
    BulkWait {
        pending: u32,
        read_only: bool,
    },
    StoreAsync {
        address: Address,
        values: Vec<Source>,
        bytes: u32,
        barrier: Address,
    },

    MultiplyFence,
    MultiplyCommit,
    MultiplyWait {
        pending: u32,
    },
    Multiply(Box<Multiply>),
    LoadMatrix {
        transfer: transfer::Transfer,
        results: Vec<Register>,
        address: Address,
        space: Space,
    },
    StoreMatrix {
        transfer: transfer::Transfer,
        values: Vec<Source>,
        address: Address,
        space: Space,
    },
    WarpMultiply {
        mma: mma::Multiply,
        results: Vec<Register>,
        a: Vec<Source>,
        b: Vec<Source>,
        c: Vec<Source>,
    },

    SetRegisters {
        increase: bool,
        count: u32,
    },
    DependencyWait,
    DependencyLaunch,
}

#[derive(Debug)]
pub(crate) struct Compute {
    pub(crate) operation: arithmetic::Operation,
    pub(crate) results: Results,
    pub(crate) operands: Vec<Source>,
    /// Bits of the result of a `cvt` to a signed type: in a wider register its sign is extended.
    pub(crate) signed_bits: Option<u32>,
}

/// How a memory access is ordered with others (PTX ISA, "Memory Consistency Model").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Not weak: relaxed, volatile or stronger, so that it does not race with its like.
    pub(crate) strong: bool,
    pub(crate) acquires: bool,
    pub(crate) releases: bool,
    /// For whom it is meant.
    pub(crate) scope: Scope,
}

impl Order {
    /// The scope, if the access is strong.
    pub(crate) fn strength(self) -> Option<Scope> {
        self.strong.then_some(self.scope)
    }
}

#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) space: Space,
    /// Bytes of an element.
    pub(crate) bytes: u32,
    pub(crate) signed: bool,
    pub(crate) results: Results,
    pub(crate) address: Address,
    pub(crate) order: Order,
}

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) space: Space,
    pub(crate) bytes: u32,
    pub(crate) values: Vec<Source>,
    pub(crate) address: Address,
    pub(crate) order: Order,
}

/// `atom`, and `red` without a result.
#[derive(Debug)]
pub(crate) struct Atomic {
    pub(crate) space: Space,
    pub(crate) operation: AtomicOperation,
    /// Type of the elements.
    pub(crate) ty: ptx_syntax::ast::Type,
    pub(crate) results: Results,
    pub(crate) address: Address,
    /// The operand of each element; for compare-and-swap, what it is compared with.
    pub(crate) values: Vec<Source>,
    /// What compare-and-swap stores.
    pub(crate) swap: Option<Source>,
    pub(crate) order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOperation {
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Add,
    Increment,
    Decrement,
    Min,
    Max,
}

#[derive(Debug)]
pub(crate) struct NamedBarrier {
    pub(crate) waits: bool,
    pub(crate) aligned: bool,
    pub(crate) id: Source,
    pub(crate) threads: Option<Source>,
    /// `barrier.red`: what to do with the predicates, where the result goes.
    pub(crate) reduction: Option<BarrierReduction>,
}

#[derive(Debug)]
pub(crate) struct BarrierReduction {
    pub(crate) kind: Reduction,
    pub(crate) result: Register,
    pub(crate) predicate: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// `fence.acq_rel`, `fence.sc`, `membar`
    Memory { acquires: bool, releases: bool, scope: Scope },
    /// `fence.proxy.async`
    AsyncProxy,
    /// `fence.mbarrier_init`
    MbarrierInit,
    /// Other proxies: of no consequence here.
    Other,
}

#[derive(Debug)]
pub(crate) struct Shuffle {
    pub(crate) mode: ShuffleMode,
    pub(crate) result: Option<Register>,
    pub(crate) predicate: Option<Register>,
    pub(crate) value: Source,
    pub(crate) lane: Source,
    pub(crate) clamp: Source,
    pub(crate) mask: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    /// Population count, of barriers.
    Count,
}

#[derive(Debug)]
pub(crate) struct Mbarrier {
    pub(crate) space: Space,
    pub(crate) address: Address,
    pub(crate) operation: MbarrierOperation,
    pub(crate) relaxed: bool,
    /// `.cluster`: whether other CTAs of the cluster are to see what was written before.
    pub(crate) for_cluster: bool,
}

#[derive(Debug)]
pub(crate) enum MbarrierOperation {
    Init {
        count: Source,
    },
    Invalidate,
    ExpectTransactions {
        bytes: Source,
    },
    CompleteTransactions {
        bytes: Source,
    },
    /// `state` gets the phase; `drop` lowers the expected count of later phases.
    Arrive {
        state: Option<Register>,
        count: Option<Source>,
        expect: Option<Source>,
        drop: bool,
    },
    /// `phase` is a parity, or a state of an arrival.
    Test {
        done: Register,
        phase: Source,
        is_parity: bool,
        waits: bool,
    },
}

/// `cp.async` of 4, 8 or 16 bytes.
#[derive(Debug)]
pub(crate) struct CopyAsync {
    pub(crate) destination: Address,
    pub(crate) source: Address,
    pub(crate) bytes: u32,
    /// Bytes to read; the others become zeros.
    pub(crate) source_bytes: Option<Source>,
    /// A predicate that makes it write zeros only.
    pub(crate) ignore: Option<Source>,
}

/// `cp.async.bulk`, `cp.reduce.async.bulk`, with or without a tensor map.
#[derive(Debug)]
pub(crate) struct Bulk {
    pub(crate) direction: Direction,
    pub(crate) shared: Address,
    /// In global memory: the address or the tensor map; for copies between CTAs, the source.
    pub(crate) other: Address,
    /// Coordinates of the box, innermost first, where there is a tensor map.
    pub(crate) coordinates: Option<Vec<Source>>,
    /// Bytes, where there is none.
    pub(crate) bytes: Option<Source>,
    /// Barrier that counts the bytes; none for bulk groups.
    pub(crate) barrier: Option<Address>,
    /// CTAs of the cluster that get the data.
    pub(crate) multicast: Option<Source>,
    /// What to do with what is there already; a tensor's type is in its map.
    pub(crate) reduction: Option<(AtomicOperation, Option<ptx_syntax::ast::Type>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    GlobalToShared,
    SharedToGlobal,
    SharedToShared,
}

#[derive(Debug)]
pub(crate) struct Multiply {
    pub(crate) multiply: wgmma::Multiply,
    pub(crate) accumulators: Vec<Register>,
    /// A in registers; empty where it is in shared memory.
    pub(crate) a_registers: Vec<Register>,
    pub(crate) a_descriptor: Option<Source>,
    pub(crate) b_descriptor: Source,
    /// Whether the accumulators are added to.
    pub(crate) scale_d: Source,
}

impl Operation {
    /// Whether threads of different CTAs can agree on something through it.
    pub(crate) fn communicates(&self) -> bool {
        let reaches_global = |space: Space| matches!(space, Space::Generic | Space::Global);
        match self {
            Self::Load(load) => reaches_global(load.space) && load.order.strength() == Some(Scope::Device),
            Self::Store(store) => {
                reaches_global(store.space) && store.order.strength() == Some(Scope::Device)
            }
            Self::Atomic(atomic) => reaches_global(atomic.space) && atomic.order.scope == Scope::Device,
            Self::Bulk(bulk) => bulk.reduction.is_some() && bulk.direction == Direction::SharedToGlobal,
            _ => false,
        }
    }

    /// Calls `visit` with every operand that is read.
    fn visit_sources(&self, visit: &mut impl FnMut(Source)) {
        let mut all = |sources: &[Source]| sources.iter().for_each(|source| visit(*source));
        match self {
            Self::Compute(compute) => all(&compute.operands),
            Self::Load(load) => all(&[load.address.base]),
            Self::Store(store) => {
                all(&[store.address.base]);
                all(&store.values);
            }
            Self::Atomic(atomic) => {
                all(&[atomic.address.base]);
                all(&atomic.values);
                all(atomic.swap.as_slice());
            }
            Self::ConvertAddress { source, .. }
            | Self::IsSpace { source, .. }
            | Self::CtaRank { source, .. } => {
                all(&[*source]);
            }
            Self::MapShared { source, rank, .. } => all(&[*source, *rank]),
            Self::Barrier(barrier) => {
                all(&[barrier.id]);
                all(barrier.threads.as_slice());
                if let Some(reduction) = &barrier.reduction {
                    all(&[reduction.predicate]);
                }
            }
            Self::BranchByIndex { index, .. } => all(&[*index]),
            Self::WarpSync { mask } => all(&[*mask]),
            Self::Shuffle(shuffle) => all(&[shuffle.value, shuffle.lane, shuffle.clamp, shuffle.mask]),
            Self::Vote { predicate, mask, .. } => all(&[*predicate, *mask]),
            Self::Match { value, mask, .. } | Self::Reduce { value, mask, .. } => all(&[*value, *mask]),
            Self::Elect { mask, .. } => all(&[*mask]),
            Self::PendingCount { state, .. } => all(&[*state]),
            Self::Mbarrier(mbarrier) => {
                all(&[mbarrier.address.base]);
                match &mbarrier.operation {
                    MbarrierOperation::Init { count } => all(&[*count]),
                    MbarrierOperation::Invalidate => {}
                    MbarrierOperation::ExpectTransactions { bytes }
                    | MbarrierOperation::CompleteTransactions { bytes } => all(&[*bytes]),
                    MbarrierOperation::Arrive { count, expect, .. } => {
                        all(count.as_slice());
                        all(expect.as_slice());
                    }
                    MbarrierOperation::Test { phase, .. } => all(&[*phase]),
                }
            }
            Self::CopyAsync(copy) => {
                all(&[copy.destination.base, copy.source.base]);
                all(copy.source_bytes.as_slice());
                all(copy.ignore.as_slice());
            }
            Self::CopyAsyncArrive { address, .. } => all(&[address.base]),
            Self::Bulk(bulk) => {
                all(&[bulk.shared.base, bulk.other.base]);
                all(bulk.coordinates.as_deref().unwrap_or_default());
                all(bulk.bytes.as_slice());
                all(bulk.multicast.as_slice());
                if let Some(barrier) = bulk.barrier {
                    all(&[barrier.base]);
                }
            }
            Self::StoreAsync { address, values, barrier, .. } => {
                all(&[address.base, barrier.base]);
                all(values);
            }
            Self::Multiply(multiply) => {
                let registers = multiply.accumulators.iter().chain(&multiply.a_registers);
                registers.for_each(|register| visit(Source::Register(*register)));
                multiply.a_descriptor.into_iter().for_each(&mut *visit);
                [multiply.b_descriptor, multiply.scale_d].into_iter().for_each(visit);
            }
            Self::LoadMatrix { address, .. } => all(&[address.base]),
            Self::StoreMatrix { address, values, .. } => {
                all(&[address.base]);
                all(values);
            }
            Self::WarpMultiply { a, b, c, .. } => [a, b, c].into_iter().for_each(|sources| all(sources)),
            Self::Hint
            | Self::Policy { .. }
            | Self::Branch { .. }
            | Self::Return
            | Self::Trap
            | Self::ClusterArrive { .. }
            | Self::ClusterWait { .. }
            | Self::Fence(_)
            | Self::ActiveMask { .. }
            | Self::CopyAsyncCommit
            | Self::CopyAsyncWait { .. }
            | Self::BulkCommit
            | Self::BulkWait { .. }
            | Self::MultiplyFence
            | Self::MultiplyCommit
            | Self::MultiplyWait { .. }
            | Self::SetRegisters { .. }
            | Self::DependencyWait
            | Self::DependencyLaunch => {}
        }
    }

    /// Registers that are written.
    fn results(&self) -> Vec<Register> {
        match self {
            Self::Compute(compute) => compute.results.iter().flatten().copied().collect(),
            Self::Load(load) => load.results.iter().flatten().copied().collect(),
            Self::Atomic(atomic) => atomic.results.iter().flatten().copied().collect(),
            Self::Policy { result }
            | Self::ConvertAddress { result, .. }
            | Self::IsSpace { result, .. }
            | Self::MapShared { result, .. }
            | Self::CtaRank { result, .. }
            | Self::Vote { result, .. }
            | Self::Reduce { result, .. }
            | Self::PendingCount { result, .. }
            | Self::ActiveMask { result } => vec![*result],
            Self::Barrier(barrier) => barrier.reduction.iter().map(|reduction| reduction.result).collect(),
            Self::Shuffle(shuffle) => shuffle.result.into_iter().chain(shuffle.predicate).collect(),
            Self::Match { result, predicate, .. } => [*result].into_iter().chain(*predicate).collect(),
            Self::Elect { result, predicate, .. } => result.iter().copied().chain([*predicate]).collect(),
            Self::Mbarrier(mbarrier) => match &mbarrier.operation {
                MbarrierOperation::Arrive { state, .. } => state.iter().copied().collect(),
                MbarrierOperation::Test { done, .. } => vec![*done],
                _ => Vec::new(),
            },
            Self::Multiply(multiply) => multiply.accumulators.clone(),
            Self::LoadMatrix { results, .. } | Self::WarpMultiply { results, .. } => results.clone(),
            _ => Vec::new(),
        }
    }
}

impl Instruction {
    /// Where control goes from here.
    pub(super) fn successors(&self) -> Successors {
        let guarded = self.guard.is_some();
        match &self.operation {
            Operation::Branch { target, .. } => Successors { falls_through: guarded, targets: vec![*target] },
            Operation::BranchByIndex { targets, .. } => {
                Successors { falls_through: guarded, targets: targets.clone() }
            }
            Operation::Return | Operation::Trap => Successors { falls_through: guarded, targets: vec![END] },
            _ => Successors { falls_through: true, targets: Vec::new() },
        }
    }

    /// What registers it reads and writes. Written under a guard, a register keeps its value in some threads, so it
    /// counts as read too.
    pub(super) fn registers(&self) -> RegisterUse {
        let mut reads = Vec::new();
        self.operation.visit_sources(&mut |source| {
            if let Source::Register(register) | Source::Not(register) = source {
                reads.push(register);
            }
        });
        let writes = self.operation.results();
        if let Some(guard) = self.guard {
            reads.push(guard.register);
            reads.extend(&writes);
        }
        RegisterUse { reads, writes }
    }
}
