//! What a kernel did: how often each instruction ran, and what it moved.

use std::collections::{BTreeMap, BTreeSet};

use crate::arithmetic::LANES;
use crate::machine::Context;
use crate::program::dynamic_shared;

/// Counts of one instruction in one warp, summed over the CTAs of a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times a warp executed it.
    pub warps: u64,
    /// Threads that executed it.
    pub threads: u64,
    /// Bytes of shared memory that threads or asynchronous operations read or wrote.
    pub shared_bytes: u64,
    /// Shared-memory cycles beyond the fewest that these bytes take: bank conflicts.
    pub bank_conflicts: u64,
    /// Bytes of global memory that threads or asynchronous operations read or wrote.
    pub global_bytes: u64,
    /// 32-byte sectors of global memory touched.
    pub sectors: u64,
    /// Sectors beyond the fewest that these bytes take: uncoalesced access.
    pub excess_sectors: u64,
    /// Floating-point operations of matrix instructions.
    pub tensor_flop: u64,
    /// Times a warp had to wait here.
    pub waits: u64,
}

/// Counts of one launch.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The entry's instructions: their text and line.
    pub instructions: Vec<(String, u32)>,
    /// For each warp of a CTA, counts in the order of `instructions`.
    pub warps: Vec<Vec<Counts>>,
    /// For each instruction on mbarriers, by its number in `instructions`: which ones.
    pub mbarriers: BTreeMap<u32, MbarrierUse>,
    /// Where dynamic shared memory begins, as an address of shared memory.
    pub dynamic_shared: u32,
}

/// The mbarriers that an instruction was executed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MbarrierUse {
    /// Their addresses in shared memory.
    pub addresses: BTreeSet<u32>,
    /// Of a test or wait: whether it was ever for a phase that somebody had to complete. One for the phase before the first
    /// passes at once, and orders nothing.
    pub waits: bool,
}

impl Profile {
    /// Zeros for each warp and instruction of a launch; nothing where no counts were asked for.
    pub(crate) fn new(context: &Context<'_>) -> Self {
        if !context.options.checks.profile {
            return Self::default();
        }
        let instructions: Vec<_> = context
            .program
            .instructions
            .iter()
            .map(|instruction| (instruction.text.clone(), instruction.position.line))
            .collect();
        let warps = context.threads().div_ceil(LANES as u32) as usize;
        Self {
            warps: vec![vec![Counts::default(); instructions.len()]; warps],
            instructions,
            mbarriers: BTreeMap::new(),
            dynamic_shared: dynamic_shared(context.program.static_shared, context.program.dynamic_align),
        }
    }

    /// Adds what some CTAs did.
    pub(crate) fn add(&mut self, counts: &[Vec<Counts>], mbarriers: &BTreeMap<u32, MbarrierUse>) {
        for (sums, counts) in self.warps.iter_mut().zip(counts) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += *count);
        }
        for (at, MbarrierUse { addresses, waits }) in mbarriers {
            let known = self.mbarriers.entry(*at).or_default();
            known.addresses.extend(addresses);
            known.waits |= waits;
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let Self {
            warps,
            threads,
            shared_bytes,
            bank_conflicts,
            global_bytes,
            sectors,
            excess_sectors,
            tensor_flop,
            waits,
        } = other;
        self.warps += warps;
        self.threads += threads;
        self.shared_bytes += shared_bytes;
        self.bank_conflicts += bank_conflicts;
        self.global_bytes += global_bytes;
        self.sectors += sectors;
        self.excess_sectors += excess_sectors;
        self.tensor_flop += tensor_flop;
        self.waits += waits;
    }
}
