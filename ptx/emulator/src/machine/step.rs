//! One instruction of one fiber.

use super::cta::WARPGROUP_WARPS;
use super::mbarriers::Arrival;
use super::tensor::IN_FLIGHT;
use super::wait::Wait;
use super::warp::{ALL_LANES, Fiber, WARP, Warp, lanes, to_mask};
use super::{Place, Unit};
use crate::arithmetic::{LANES, Lanes};
use crate::diagnostic::Check;
use crate::profile::Counts;
use crate::program::{Compute, Instruction, Operation, Register, Source, Special, sign_extend, truncate};

impl Unit<'_> {
    /// Executes the fiber's next instruction. False where the fiber does not go on: it waits, has returned, or is to
    /// meet others.
    pub(super) fn step(&mut self, place: Place) -> bool {
        let program = self.context.program;
        let warp = &mut self.ctas[place.cta].warps[place.warp];
        warp.steps += 1;
        let steps = warp.steps;
        let (at, mask) = (warp.fibers[place.fiber].at, warp.fibers[place.fiber].mask);
        let instruction = &program.instructions[at as usize];
        if steps > self.context.options.max_steps {
            let message = format!("the warp has executed {} instructions; is this loop endless?", steps - 1);
            self.report(place, None, Check::StepLimit, message);
            self.stopped = true;
            return false;
        }
        let mask = match instruction.guard {
            None => mask,
            Some(guard) => {
                let holds =
                    to_mask(&self.ctas[place.cta].warps[place.warp].registers[guard.register as usize]);
                mask & if guard.negated { !holds } else { holds }
            }
        };
        if self.ctas[place.cta].warps[place.warp].fibers[place.fiber].wait.is_none() {
            self.check_registers(place, instruction);
            self.count(place, |counts| {
                counts.warps += 1;
                counts.threads += u64::from(mask.count_ones());
            });
        }
        if mask == 0 {
            return self.advance(place);
        }
        self.execute(place, mask, instruction)
    }

    fn execute(&mut self, place: Place, mask: u32, instruction: &Instruction) -> bool {
        match &instruction.operation {
            Operation::Compute(compute) => self.compute(place, mask, compute),
            Operation::Load(load) => self.load(place, mask, load),
            Operation::Store(store) => self.store(place, mask, store),
            Operation::Atomic(atomic) => self.atomic(place, mask, atomic),
            Operation::Hint => {}
            Operation::Policy { result } => self.write(place, *result, &[0; LANES], mask),
            Operation::ConvertAddress { result, source, space, to_generic } => {
                self.convert_address(place, mask, *result, *source, *space, *to_generic);
            }
            Operation::IsSpace { result, source, space } => {
                self.is_space(place, mask, *result, *source, *space);
            }
            Operation::MapShared { result, source, rank, generic } => {
                self.map_shared(place, mask, *result, *source, *rank, *generic);
            }
            Operation::CtaRank { result, source, generic } => {
                self.cta_rank(place, mask, *result, *source, *generic);
            }
            Operation::Branch { target, uniform } => {
                let taken = [(mask, *target)];
                return self.branch(place, mask, &taken, *uniform);
            }
            Operation::BranchByIndex { index, targets, uniform } => {
                return self.branch_by_index(place, mask, *index, targets, *uniform);
            }
            Operation::Return => return self.end(place, mask),
            Operation::Trap => {
                self.report(place, None, Check::Trap, "the kernel trapped".into());
                self.stopped = true;
                return false;
            }
            Operation::Barrier(barrier) => {
                if let Some(Wait::Barrier { id, .. }) = self.fiber(place).wait {
                    return self.leave_barrier(place, mask, barrier, id);
                }
                if barrier.aligned && !self.check_converged(place, mask, Group::Warp) {
                    return self.advance(place);
                }
                return self.arrive_at_barrier(place, mask, barrier);
            }
            Operation::ClusterArrive { releases, aligned } => {
                if *aligned {
                    self.check_converged(place, mask, Group::Warp);
                }
                return self.arrive_at_cluster(place, mask, *releases);
            }
            Operation::ClusterWait { acquires, aligned } => {
                if *aligned {
                    self.check_converged(place, mask, Group::Warp);
                }
                return self.wait_for_cluster(place, mask, *acquires);
            }
            Operation::Fence(fence) => self.fence(place, mask, *fence),
            Operation::WarpSync { .. }
            | Operation::Shuffle(_)
            | Operation::Vote { .. }
            | Operation::Match { .. }
            | Operation::Reduce { .. }
            | Operation::Elect { .. } => return self.exchange(place, mask, &instruction.operation),
            Operation::PendingCount { result, state } => {
                let states = self.read(place, *state);
                self.write(
                    place,
                    *result,
                    &states.map(|state| Arrival::from_state(state).pending.into()),
                    mask,
                );
            }
            Operation::ActiveMask { result } => self.write(place, *result, &[u64::from(mask); LANES], mask),
            Operation::Mbarrier(mbarrier) => return self.mbarrier(place, mask, mbarrier),
            Operation::CopyAsync(copy) => self.copy_async(place, mask, copy),
            Operation::CopyAsyncCommit => self.commit_copies(place, mask),
            Operation::CopyAsyncWait { pending } => self.wait_for_copies(place, mask, *pending),
            Operation::CopyAsyncArrive { address, space, counts } => {
                self.arrive_after_copies(place, mask, *address, *space, *counts);
            }
            Operation::Bulk(bulk) => self.bulk(place, mask, bulk),
            Operation::BulkCommit => self.commit_bulk(place, mask),
            Operation::BulkWait { pending, read_only } => {
                self.wait_for_bulk(place, mask, *pending, *read_only)
            }
            Operation::StoreAsync { address, values, bytes, barrier } => {
                self.store_async(place, mask, *address, values, *bytes, *barrier);
            }
            Operation::MultiplyFence => {
                if self.check_converged(place, mask, Group::Warp) {
                    self.multiply_fence(place);
                }
            }
            Operation::MultiplyCommit => {
                if self.check_converged(place, mask, Group::Warp) {
                    self.ctas[place.cta].warps[place.warp].multiply_groups += 1;
                }
            }
            Operation::MultiplyWait { pending } => {
                if self.check_converged(place, mask, Group::Warp) {
                    return self.wait_for_multiply(place, *pending);
                }
            }
            Operation::Multiply(multiply) => {
                if self.check_converged(place, mask, Group::Warpgroup) {
                    self.issue_multiply(place, multiply);
                }
            }
            Operation::LoadMatrix { transfer, results, address, space } => {
                if self.check_converged(place, mask, Group::FullWarp) {
                    self.load_matrix(place, transfer, results, *address, *space);
                }
            }
            Operation::StoreMatrix { transfer, values, address, space } => {
                if self.check_converged(place, mask, Group::FullWarp) {
                    self.store_matrix(place, transfer, values, *address, *space);
                }
            }
            Operation::WarpMultiply { mma, results, a, b, c } => {
                if self.check_converged(place, mask, Group::FullWarp) {
                    self.warp_multiply(place, mma, results, [a, b, c]);
                }
            }
            Operation::SetRegisters { increase, count } => {
                if self.check_converged(place, mask, Group::Warpgroup) {
                    return self.set_registers(place, *increase, *count);
                }
            }
            Operation::DependencyWait => self.wait_for_grids(place, mask),
            Operation::DependencyLaunch => self.launch_dependents(place, mask),
        }
        self.advance(place)
    }

    pub(super) fn fiber(&mut self, place: Place) -> &mut Fiber {
        &mut self.ctas[place.cta].warps[place.warp].fibers[place.fiber]
    }

    pub(super) fn warp(&mut self, place: Place) -> &mut Warp {
        &mut self.ctas[place.cta].warps[place.warp]
    }

    pub(super) fn advance(&mut self, place: Place) -> bool {
        self.warp(place).advance(place.fiber)
    }

    /// Adds to the counts of the instruction a fiber is at.
    pub(super) fn count(&mut self, place: Place, add: impl FnOnce(&mut Counts)) {
        if self.context.options.checks.profile {
            let at = self.ctas[place.cta].warps[place.warp].fibers[place.fiber].at;
            add(&mut self.profile[place.warp][at as usize]);
        }
    }

    /// Notes which mbarrier the instruction a fiber is at was executed on.
    pub(super) fn count_mbarrier(&mut self, place: Place, address: u32, waits: bool) {
        if self.context.options.checks.profile {
            let at = self.ctas[place.cta].warps[place.warp].fibers[place.fiber].at;
            let known = self.mbarrier_uses.entry(at).or_default();
            known.addresses.insert(address);
            known.waits |= waits;
        }
    }

    pub(super) fn count_wait(&mut self, place: Place) {
        self.count(place, |counts| counts.waits += 1);
    }

    /// The value of an operand in all lanes.
    pub(super) fn read(&self, place: Place, source: Source) -> Lanes {
        let warp = &self.ctas[place.cta].warps[place.warp];
        match source {
            Source::Register(register) => warp.registers[register as usize],
            Source::Not(register) => warp.registers[register as usize].map(|value| value ^ 1),
            Source::Immediate(value) => [value; LANES],
            Source::Special(special) => self.special(place, special),
        }
    }

    pub(super) fn write(&mut self, place: Place, register: Register, value: &Lanes, mask: u32) {
        self.warp(place).write(register, value, mask);
    }

    fn compute(&mut self, place: Place, mask: u32, compute: &Compute) {
        /// The most operands and results of any instruction of the family.
        const MOST: usize = 8;
        let mut operands = [[0; LANES]; MOST];
        for (value, source) in operands.iter_mut().zip(&compute.operands) {
            *value = self.read(place, *source);
        }
        let mut results = [[0; LANES]; MOST];
        let count = compute.results.len();
        compute.operation.evaluate(&operands[..compute.operands.len()], &mut results[..count]);
        let program = self.context.program;
        let warp = self.warp(place);
        for (register, value) in compute.results.iter().zip(&results) {
            if let Some(register) = register {
                // A result of 8 bits may go to a wider register, and the other way round.
                let bits = program.registers[*register as usize];
                let extended = compute
                    .signed_bits
                    .filter(|signed| *signed < bits)
                    .map(|signed| value.map(|value| truncate(sign_extend(value, signed), bits)));
                let value = extended.as_ref().unwrap_or(value);
                debug_assert!(value.iter().all(|value| truncate(*value, bits) == *value));
                warp.write(*register, value, mask);
            }
        }
    }

    fn special(&self, place: Place, special: Special) -> Lanes {
        let context = self.context;
        let cta = &self.ctas[place.cta];
        let warp = place.warp as u32;
        let [x, y, z] = context.block;
        let thread = |lane: usize| warp * WARP + lane as u32;
        let per_lane = |value: &dyn Fn(usize) -> u32| std::array::from_fn(|lane| u64::from(value(lane)));
        let same = |value: u32| [u64::from(value); LANES];
        let cluster = context.cluster;
        let in_cluster = |axis: usize| cta.id[axis] % cluster[axis];
        match special {
            Special::Tid(0) => per_lane(&|lane| thread(lane) % x),
            Special::Tid(1) => per_lane(&|lane| thread(lane) / x % y),
            Special::Tid(_) => per_lane(&|lane| thread(lane) / (x * y) % z),
            Special::Ntid(axis) => same(context.block[axis]),
            Special::Ctaid(axis) => same(cta.id[axis]),
            Special::Nctaid(axis) => same(context.grid[axis]),
            Special::Clusterid(axis) => same(cta.id[axis] / cluster[axis]),
            Special::Nclusterid(axis) => same(context.grid[axis] / cluster[axis]),
            Special::ClusterCtaid(axis) => same(in_cluster(axis)),
            Special::ClusterNctaid(axis) => same(cluster[axis]),
            Special::ClusterCtarank => same(self.rank(place.cta)),
            Special::ClusterNctarank => same(cluster.iter().product()),
            Special::IsExplicitCluster => same(u32::from(cluster != [1; 3])),
            Special::Laneid => per_lane(&|lane| lane as u32),
            Special::Warpid => same(warp),
            Special::Nwarpid => same(cta.warps.len() as u32),
            Special::Smid => same(place.cta as u32),
            Special::Nsmid => same(context.grid.iter().product()),
            Special::Gridid => same(0),
            Special::LanemaskEq => per_lane(&|lane| 1 << lane),
            Special::LanemaskLe => per_lane(&|lane| u32::MAX >> (31 - lane)),
            Special::LanemaskLt => per_lane(&|lane| (1 << lane) - 1),
            Special::LanemaskGe => per_lane(&|lane| u32::MAX << lane),
            Special::LanemaskGt => per_lane(&|lane| (u32::MAX << lane) ^ 1 << lane),
            Special::Clock | Special::Globaltimer => [cta.warps[place.warp].steps; LANES],
            Special::TotalSharedBytes => same(context.program.static_shared + context.shared_bytes),
            Special::DynamicSharedBytes => same(context.shared_bytes),
        }
    }

    /// Lets lanes go to their targets, and those of the fiber that are not in `taken` to the next instruction.
    fn branch(&mut self, place: Place, taken: u32, targets: &[(u32, u32)], uniform: bool) -> bool {
        let program = self.context.program;
        let warp = self.warp(place);
        let Fiber { at, mask, .. } = warp.fibers[place.fiber];
        let others = (mask & !taken, at + 1);
        let ways: Vec<_> = [others].iter().chain(targets).copied().filter(|(mask, _)| *mask != 0).collect();
        if let [(_, target)] = ways.as_slice() {
            return warp.jump(place.fiber, *target);
        }
        if uniform {
            let message = "the threads of the warp part at a branch that says .uni".to_owned();
            self.report(place, None, Check::Diverged, message);
        }
        self.warp(place).part(place.fiber, &ways, program.reconvergence[at as usize]);
        false
    }

    fn branch_by_index(
        &mut self,
        place: Place,
        mask: u32,
        index: Source,
        targets: &[u32],
        uniform: bool,
    ) -> bool {
        let indices = self.read(place, index);
        let mut ways: Vec<(u32, u32)> = Vec::new();
        for lane in lanes(mask) {
            let Some(target) = usize::try_from(indices[lane]).ok().and_then(|index| targets.get(index))
            else {
                let message = format!("the index is {} in a list of {} labels", indices[lane], targets.len());
                self.report(place, Some(lane), Check::OutOfBounds, message);
                self.stopped = true;
                return false;
            };
            match ways.iter_mut().find(|(_, known)| known == target) {
                Some((mask, _)) => *mask |= 1 << lane,
                None => ways.push((1 << lane, *target)),
            }
        }
        self.branch(place, mask, &ways, uniform)
    }

    fn end(&mut self, place: Place, ending: u32) -> bool {
        self.warp(place).end(place.fiber, ending);
        self.complete_barriers(place.cta);
        let cluster = self.cluster_of(place.cta);
        self.complete_cluster(cluster);
        false
    }

    /// Checks that a whole warp is here, as `.aligned` asks.
    fn check_converged(&mut self, place: Place, mask: u32, group: Group) -> bool {
        let warp = &self.ctas[place.cta].warps[place.warp];
        let live = warp.live;
        if mask != live {
            let message = format!(
                "executed by the lanes {mask:#010x} of a warp whose lanes {live:#010x} are running; needed is the \
                 whole warp at once"
            );
            self.report(place, None, Check::Diverged, message);
            return false;
        }
        if group == Group::FullWarp && live != ALL_LANES {
            let message =
                format!("executed by the lanes {live:#010x}, which are all that are left; needed are 32");
            self.report(place, None, Check::Diverged, message);
            return false;
        }
        if group == Group::Warpgroup {
            let first = place.warp / WARPGROUP_WARPS * WARPGROUP_WARPS;
            if live != ALL_LANES || first + WARPGROUP_WARPS > self.ctas[place.cta].warps.len() {
                let message =
                    "needed are all 128 threads of the warpgroup, of which some are not there".to_owned();
                self.report(place, None, Check::Diverged, message);
                return false;
            }
        }
        true
    }

    /// Looks at the registers an instruction accesses: do they belong to a `wgmma` under way?
    fn check_registers(&mut self, place: Place, instruction: &Instruction) {
        let warp = &mut self.ctas[place.cta].warps[place.warp];
        let mut is_busy = false;
        for register in &instruction.matrix_registers {
            warp.unfenced[*register as usize] = true;
            is_busy |= warp.in_flight[*register as usize] != 0;
        }
        if is_busy {
            self.report(place, None, Check::AccumulatorInFlight, IN_FLIGHT.into());
        }
    }

    fn set_registers(&mut self, place: Place, increase: bool, count: u32) -> bool {
        let cta = &mut self.ctas[place.cta];
        let warp = &mut cta.warps[place.warp];
        let budget = warp.register_budget;
        if increase && count < budget || !increase && count > budget {
            let asked = if increase { "increased" } else { "decreased" };
            let message = format!("{budget} registers cannot be {asked} to {count}");
            self.report(place, None, Check::Registers, message);
            return self.advance(place);
        }
        if increase {
            let needed = (count - budget) * WARP;
            if cta.free_registers < needed {
                let is_new = warp.fibers[place.fiber].wait.replace(Wait::Registers { needed }).is_none();
                if is_new {
                    self.count_wait(place);
                }
                return false;
            }
            cta.free_registers -= needed;
        } else {
            cta.free_registers += (budget - count) * WARP;
        }
        cta.warps[place.warp].register_budget = count;
        self.advance(place)
    }
}

/// Who has to execute an instruction at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// The lanes that have not returned.
    Warp,
    /// All 32.
    FullWarp,
    Warpgroup,
}
