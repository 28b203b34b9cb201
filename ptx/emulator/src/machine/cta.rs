//! A CTA: shared memory, barriers, warps.

use std::collections::BTreeMap;

use crate::order::{Agent, Epoch, SharedShadow, View};
use crate::program::{SHARED_BASE, dynamic_shared};

use super::Context;
use super::barriers::NamedBarrier;
use super::mbarriers::Mbarrier;
use super::tensor::Warpgroup;
use super::warp::{WARP, Warp};

/// Named barriers of a CTA (PTX ISA, "bar{.cta}").
pub(super) const NAMED_BARRIERS: usize = 16;

/// Warps of a warpgroup.
pub(super) const WARPGROUP_WARPS: usize = 4;

/// One CTA.
#[derive(Debug)]
pub(super) struct Cta {
    /// `%ctaid`
    pub(super) id: [u32; 3],
    pub(super) threads: u32,
    pub(super) warps: Vec<Warp>,
    /// From address 0 on; what lies below [`SHARED_BASE`] is nobody's.
    pub(super) shared: Vec<u8>,
    /// Which bytes have been written.
    pub(super) written: Vec<bool>,
    pub(super) shadow: SharedShadow,
    /// Local memory of each thread, once it has been used.
    pub(super) local: Vec<Vec<u8>>,
    pub(super) mbarriers: BTreeMap<u32, Mbarrier>,
    /// For each address where there has been an mbarrier: its number as an agent, and the phases of those that are gone.
    pub(super) mbarrier_agents: BTreeMap<u32, (u32, u32)>,
    pub(super) barriers: Vec<NamedBarrier>,
    pub(super) warpgroups: Vec<Warpgroup>,
    /// Registers that warpgroups have given back.
    pub(super) free_registers: u32,
    /// Once dependent grids may begin as far as this CTA is concerned: whether it had waited for earlier ones before.
    pub(super) released_after_wait: Option<bool>,
    pub(super) cleaned: bool,
}

impl Cta {
    pub(super) fn new(context: &Context<'_>, id: [u32; 3]) -> Self {
        let program = context.program;
        let threads = context.threads();
        let dynamic = dynamic_shared(program.static_shared, program.dynamic_align);
        let bytes = (dynamic + context.shared_bytes) as usize;
        let entry_registers = program.registers_at_entry(threads);
        let warps = (0..threads.div_ceil(WARP))
            .map(|warp| Warp::new(program, threads - warp * WARP, &View::default(), entry_registers))
            .collect::<Vec<_>>();
        Self {
            id,
            threads,
            warpgroups: (0..warps.len().div_ceil(WARPGROUP_WARPS)).map(|_| Warpgroup::default()).collect(),
            warps,
            shared: vec![0xa5; bytes],
            written: vec![false; bytes],
            shadow: SharedShadow::new(bytes as u32),
            local: vec![Vec::new(); threads as usize],
            mbarriers: BTreeMap::new(),
            mbarrier_agents: BTreeMap::new(),
            barriers: (0..NAMED_BARRIERS).map(|_| NamedBarrier::default()).collect(),
            free_registers: 0,
            released_after_wait: None,
            cleaned: false,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.warps.iter().all(|warp| warp.live == 0)
    }

    /// `wgmma`s that all warps of their warpgroup have issued.
    pub(super) fn warpgroups_issued(&self) -> u64 {
        self.warpgroups.iter().map(|group| group.issued).sum()
    }

    /// Whether these bytes of shared memory exist.
    pub(super) fn has_shared(&self, address: u32, bytes: u32) -> bool {
        address >= SHARED_BASE && u64::from(address) + u64::from(bytes) <= self.shared.len() as u64
    }
}

/// The agents of a CTA: threads first, then what they have under way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Actor {
    Thread(u32),
    /// The `cp.async`s of a thread.
    Copies(u32),
    /// The reads, and the writes, of a thread's bulk groups.
    BulkReads(u32),
    BulkWrites(u32),
    /// The `wgmma`s of a warp.
    Multiply(u32),
    /// What completes on an mbarrier.
    Mbarrier(u32),
}

impl Actor {
    /// The agent in a CTA of `threads` threads.
    pub(super) fn agent(self, cta: usize, threads: u32) -> Agent {
        let index = match self {
            Self::Thread(thread) => thread,
            Self::Copies(thread) => threads + thread,
            Self::BulkReads(thread) => 2 * threads + thread,
            Self::BulkWrites(thread) => 3 * threads + thread,
            Self::Multiply(warp) => 4 * threads + warp,
            Self::Mbarrier(number) => 4 * threads + threads.div_ceil(WARP) + number,
        };
        Agent { cta: cta as u16, index: index as u16 }
    }

    /// Who an agent is.
    pub(super) fn of(agent: Agent, threads: u32) -> Self {
        let index = u32::from(agent.index);
        match index / threads {
            0 => Self::Thread(index),
            1 => Self::Copies(index - threads),
            2 => Self::BulkReads(index - 2 * threads),
            3 => Self::BulkWrites(index - 3 * threads),
            _ => {
                let (rest, warps) = (index - 4 * threads, threads.div_ceil(WARP));
                if rest < warps { Self::Multiply(rest) } else { Self::Mbarrier(rest - warps) }
            }
        }
    }

    /// A thread to name, if one is known.
    pub(super) fn thread(self) -> Option<u32> {
        match self {
            Self::Thread(thread)
            | Self::Copies(thread)
            | Self::BulkReads(thread)
            | Self::BulkWrites(thread) => Some(thread),
            Self::Multiply(warp) => Some(warp * WARP),
            Self::Mbarrier(_) => None,
        }
    }

    /// A moment of the agent.
    pub(super) fn at(self, cta: usize, threads: u32, time: u32) -> Epoch {
        Epoch { agent: self.agent(cta, threads), time }
    }
}
