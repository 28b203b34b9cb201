//! The machine: CTAs that run together, warp by warp, in an order drawn from the seed.
//!
//! A [`Unit`] holds the CTAs of a cluster, or all of a grid whose CTAs may speak to each other through global memory.
//! Fibers (lanes of a warp that execute together) run some instructions at a time; the effects of asynchronous
//! operations wait in `pending` and happen at any time between their issue and the wait that needs them.
//!
//! * `warp`, `cta`: state; `wait`: what stops a fiber;
//! * `step`: one instruction; `lanes`, `addresses`, `access`, `atomics`, `barriers`, `mbarriers`, `copies`, `bulk`,
//!   `tensor`: the families; `traffic`: what accesses cost;
//! * `ordering`: publishing and taking over views; `dependency`: grids that this one overlaps; `report`: findings.

mod access;
mod addresses;
mod atomics;
mod barriers;
mod bulk;
mod copies;
mod cta;
mod dependency;
mod lanes;
mod mbarriers;
mod ordering;
mod report;
mod step;
mod tensor;
mod traffic;
mod wait;
mod warp;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::diagnostic::{Check, Diagnostic};
use crate::launch::Options;
use crate::memory::Allocation;
use crate::order::{GlobalShadow, GroupFootprint, View};
use crate::profile::{Counts, MbarrierUse};
use crate::program::Program;
use crate::stream::Earlier;
use barriers::ClusterBarrier;
use copies::Pending;
use cta::Cta;
pub(crate) use dependency::Dependency;
use ordering::Published;
use wait::Wait;

/// Warps of a warpgroup.
const WARPGROUP_WARPS: usize = 4;

/// CTAs of a grid that run at the same time, if they speak to each other. More are started where all wait.
const RESIDENT: usize = 16;

/// Turns without a CTA beginning or ending after which one more cluster is started.
const PATIENCE: u64 = 256;

/// Turns, on average, for which one warpgroup of each CTA stays behind, or none does: warps of a kind that wait for each other
/// in small steps would hardly ever be far apart if every turn were anybody's.
const LAG: u32 = 256;

/// What all units of a launch share.
pub(crate) struct Context<'a> {
    pub(crate) program: &'a Program,
    pub(crate) options: &'a Options,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: [u32; 3],
    pub(crate) shared_bytes: u32,
    /// The parameter block.
    pub(crate) parameters: Vec<u8>,
    /// By address.
    pub(crate) allocations: Vec<Arc<Allocation>>,
    /// Grids that may still be running.
    pub(crate) earlier: &'a [Earlier],
}

/// CTAs that run together.
pub(crate) struct Unit<'a> {
    /// Among the units of the launch.
    number: u32,
    context: &'a Context<'a>,
    random: StdRng,
    /// The warpgroup of each CTA whose turn it is only where no other warp can go on.
    laggard: Option<usize>,
    ctas: Vec<Cta>,
    /// `%ctaid` of those that have not begun.
    waiting: VecDeque<[u32; 3]>,
    clusters: HashMap<usize, ClusterBarrier>,
    global: GlobalShadow,
    /// What was published at addresses in global and shared memory.
    published: HashMap<u64, Vec<Published>>,
    pending: Vec<Pending>,
    /// What a wait for earlier grids makes known.
    over_after_wait: View,
    dependency: Dependency,
    diagnostics: Vec<Diagnostic>,
    reported: HashSet<(Check, u32, u32)>,
    /// Counts by warp of a CTA and instruction.
    profile: Vec<Vec<Counts>>,
    mbarrier_uses: BTreeMap<u32, MbarrierUse>,
    stopped: bool,
}

/// What a unit leaves behind.
pub(crate) struct Finished {
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) profile: Vec<Vec<Counts>>,
    pub(crate) mbarrier_uses: BTreeMap<u32, MbarrierUse>,
    pub(crate) footprint: GroupFootprint,
    pub(crate) dependency: Dependency,
}

/// One fiber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    cta: usize,
    warp: usize,
    fiber: usize,
}

impl<'a> Unit<'a> {
    /// A unit of these CTAs. Number `index` makes its random order another one than its neighbours'.
    pub(crate) fn new(context: &'a Context<'a>, ctas: &[[u32; 3]], index: u64) -> Self {
        /// Any odd number that spreads consecutive indices.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let warps = context.threads().div_ceil(warp::WARP) as usize;
        let instructions =
            if context.options.checks.profile { context.program.instructions.len() } else { 0 };
        Self {
            number: index as u32,
            context,
            random: StdRng::seed_from_u64(context.options.seed ^ index.wrapping_mul(SPREAD)),
            laggard: None,
            ctas: Vec::new(),
            waiting: ctas.iter().copied().collect(),
            clusters: HashMap::new(),
            global: GlobalShadow::default(),
            published: HashMap::new(),
            pending: Vec::new(),
            over_after_wait: dependency::over_after_wait(context.earlier),
            dependency: Dependency::default(),
            diagnostics: Vec::new(),
            reported: HashSet::new(),
            profile: vec![vec![Counts::default(); instructions]; warps],
            mbarrier_uses: BTreeMap::new(),
            stopped: false,
        }
    }

    /// Runs all CTAs to their end, or until there is nothing that can go on.
    pub(crate) fn run(mut self) -> Finished {
        let mut ready = Vec::new();
        // Turns, and CTAs that are running, since the latter last changed.
        let (mut turns, mut running) = (0, 0);
        while !self.stopped {
            let resident = self.ctas.iter().filter(|cta| !cta.is_finished()).count();
            turns = if resident == running { turns + 1 } else { 0 };
            running = resident;
            // Those that run may be spinning until one that has not begun does something.
            if (resident < RESIDENT || turns > PATIENCE) && self.start_cluster() {
                continue;
            }
            ready.clear();
            self.ready_fibers(&mut ready);
            if ready.is_empty() {
                if self.complete_something() || self.start_cluster() {
                    continue;
                }
                if resident > 0 {
                    self.report_deadlock();
                }
                break;
            }
            if self.random.random_bool(0.25) {
                self.complete_something();
            }
            let place = self.draw(&ready);
            self.run_fiber(place);
            self.finish_ctas();
        }
        Finished {
            diagnostics: self.diagnostics,
            profile: self.profile,
            mbarrier_uses: self.mbarrier_uses,
            footprint: GroupFootprint::of(self.number, &self.global),
            dependency: self.dependency,
        }
    }

    /// Whose turn it is.
    fn draw(&mut self, ready: &[Place]) -> Place {
        if self.random.random_ratio(1, LAG) {
            let warpgroups = self.context.threads().div_ceil(warp::WARP * WARPGROUP_WARPS as u32) as usize;
            self.laggard =
                Some(self.random.random_range(0..2 * warpgroups)).filter(|&group| group < warpgroups);
        }
        let lags = |place: &Place| Some(place.warp / WARPGROUP_WARPS) == self.laggard;
        let ahead = ready.iter().filter(|place| !lags(place)).count();
        if ahead == 0 {
            return ready[self.random.random_range(0..ready.len())];
        }
        let drawn = self.random.random_range(0..ahead);
        *ready.iter().filter(|place| !lags(place)).nth(drawn).unwrap_or(&ready[0])
    }

    /// Begins the CTAs of one more cluster; false where there is none left.
    fn start_cluster(&mut self) -> bool {
        let size = self.context.cluster.iter().product::<u32>() as usize;
        if self.waiting.is_empty() {
            return false;
        }
        for id in self.waiting.drain(..size.min(self.waiting.len())) {
            self.ctas.push(Cta::new(self.context, id));
        }
        true
    }

    fn ready_fibers(&self, ready: &mut Vec<Place>) {
        for (number, cta) in self.ctas.iter().enumerate() {
            for (warp, state) in cta.warps.iter().enumerate() {
                for (fiber, state) in state.fibers.iter().enumerate() {
                    let waits = state.wait.as_ref().is_some_and(|wait| self.is_waiting(number, wait));
                    if !waits {
                        ready.push(Place { cta: number, warp, fiber });
                    }
                }
            }
        }
    }

    fn is_waiting(&self, cta: usize, wait: &Wait) -> bool {
        match wait {
            Wait::Barrier { id, round } => self.ctas[cta].barriers[*id as usize].round == *round,
            Wait::Cluster { round } => {
                self.clusters.get(&self.cluster_of(cta)).is_none_or(|barrier| barrier.round == *round)
            }
            Wait::Lanes { .. } => true,
            Wait::Mbarrier { barriers } => barriers.iter().all(|(cta, address, phase)| {
                self.ctas[*cta].mbarriers.get(address).is_some_and(|barrier| barrier.phase == *phase)
            }),
            Wait::Warpgroup { issued } => self.ctas[cta].warpgroups_issued() == *issued,
            Wait::Registers { needed } => self.ctas[cta].free_registers < *needed,
        }
    }

    /// Lets a fiber execute some instructions.
    fn run_fiber(&mut self, place: Place) {
        let budget = 1_u32 << self.random.random_range(0..9);
        for _ in 0..budget {
            if self.stopped || !self.step(place) {
                return;
            }
        }
    }

    /// Lets one pending asynchronous operation happen; false where there is none.
    fn complete_something(&mut self) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let index = self.random.random_range(0..self.pending.len());
        self.complete(index);
        true
    }

    /// Number of the first CTA of a CTA's cluster.
    fn cluster_of(&self, cta: usize) -> usize {
        let size = self.context.cluster.iter().product::<u32>() as usize;
        cta / size * size
    }
}

impl Context<'_> {
    /// Threads of a CTA.
    pub(crate) fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// The allocation that holds all of these bytes.
    pub(crate) fn allocation(&self, address: u64, bytes: u64) -> Option<&Allocation> {
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        let found = &self.allocations[after.checked_sub(1)?];
        found.contains(address, bytes).then_some(found)
    }
}
