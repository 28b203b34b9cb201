//! Matrix instructions: `wgmma` and its groups, `ldmatrix`, `stmatrix`, `mma`.
//!
//! Each warp of a warpgroup issues a `wgmma` by itself. What its part reads is in use from then on; the product happens
//! once all four have issued it, at any time before the first `wgmma.wait_group` that covers it.

use std::collections::VecDeque;

use super::addresses::Location;
use super::cta::{Actor, WARPGROUP_WARPS};
use super::traffic::bank_conflicts;
use super::wait::Wait;
use super::warp::WARP;
use super::{Place, Unit};
use crate::arithmetic::LANES;
use crate::diagnostic::Check;
use crate::matrix::{mma, transfer, wgmma};
use crate::order::{Epoch, Kind, Observer, View};
use crate::program::{Address, Multiply, Operation, Register, Source, Space};

/// Bytes of a run of a matrix operand in shared memory.
const CHUNK_BYTES: u32 = 16;

/// What is wrong with an access of a register that a `wgmma` uses.
pub(super) const IN_FLIGHT: &str =
    "a register of a wgmma that is still under way; needed is wgmma.wait_group before this access";

/// The `wgmma`s of a warpgroup.
#[derive(Debug, Default)]
pub(super) struct Warpgroup {
    /// For each warp, what it has issued and not all others yet.
    waiting: [VecDeque<Issue>; WARPGROUP_WARPS],
    /// What all have issued, oldest first.
    queue: VecDeque<Issue>,
    /// How many all have issued.
    pub(super) issued: u64,
}

/// A `wgmma` as a warp has issued it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Issue {
    /// The instruction.
    at: u32,
    a_descriptor: Option<u64>,
    b_descriptor: u64,
    adds: bool,
    /// The group it belongs to, counted from 1.
    group: u32,
}

impl Unit<'_> {
    pub(super) fn multiply_fence(&mut self, place: Place) {
        self.warp(place).unfenced.fill(false);
    }

    /// A warp issues its part of a product.
    pub(super) fn issue_multiply(&mut self, place: Place, multiply: &Multiply) {
        let at = self.fiber(place).at;
        let uniform = |unit: &Self, source: Source| {
            let values = unit.read(place, source);
            (values[0], values.iter().all(|value| *value == values[0]))
        };
        let (b_descriptor, b_same) = uniform(self, multiply.b_descriptor);
        let (adds, adds_same) = uniform(self, multiply.scale_d);
        let a = multiply.a_descriptor.map(|a| uniform(self, a));
        if !b_same || !adds_same || a.is_some_and(|(_, same)| !same) {
            let message = "the threads of the warp give different descriptors or scales; needed are the same"
                .to_owned();
            self.report(place, None, Check::MatrixOperand, message);
        }
        let a_descriptor = a.map(|(descriptor, _)| descriptor);

        let n = multiply.multiply.n();
        let warp = self.warp(place);
        let group = warp.multiply_groups + 1;
        let accumulators = multiply.accumulators.iter().map(|register| *register as usize);
        let other_shape = |warp: &super::warp::Warp, register: usize| {
            let shape = warp.accumulator_shape[register];
            shape != 0 && shape != n && warp.in_flight[register] != 0
        };
        let unfenced =
            accumulators.clone().any(|register| warp.unfenced[register] || other_shape(warp, register))
                || multiply.a_registers.iter().any(|register| warp.unfenced[*register as usize]);
        // Only accumulating in turn is in order by itself.
        let is_busy = |warp: &super::warp::Warp, register: usize, accumulates: bool| {
            warp.in_flight[register] != 0 && (warp.accumulator_shape[register] != 0) != accumulates
        };
        let is_any_busy = accumulators.clone().any(|register| is_busy(warp, register, true))
            || multiply.a_registers.iter().any(|register| is_busy(warp, *register as usize, false));
        for register in accumulators {
            warp.in_flight[register] = group;
            warp.accumulator_shape[register] = n;
        }
        for register in &multiply.a_registers {
            warp.in_flight[*register as usize] = group;
            warp.accumulator_shape[*register as usize] = 0;
        }
        // What tensor cores work on has to be in registers, whatever the compiler does with the rest.
        let taken = warp.in_flight.iter().filter(|group| **group != 0).count();
        let budget = warp.register_budget as usize;
        if taken > budget {
            let message = format!("wgmmas under way take {taken} registers, and a thread has {budget} here");
            self.report(place, None, Check::Registers, message);
        }
        if is_any_busy {
            self.report(place, None, Check::AccumulatorInFlight, IN_FLIGHT.into());
        }
        if unfenced {
            let message = "a register of this wgmma was accessed before; needed is wgmma.fence in between";
            self.report(place, None, Check::MissingWgmmaFence, message.into());
        }

        self.check_operands(place, multiply, a_descriptor, b_descriptor, group);
        let issue = Issue { at, a_descriptor, b_descriptor, adds: adds != 0, group };
        let (index, member) = (place.warp / WARPGROUP_WARPS, place.warp % WARPGROUP_WARPS);
        let warpgroup = &mut self.ctas[place.cta].warpgroups[index];
        warpgroup.waiting[member].push_back(issue);
        if warpgroup.waiting.iter().any(VecDeque::is_empty) {
            return;
        }
        let issues: Vec<Issue> = warpgroup.waiting.iter_mut().filter_map(VecDeque::pop_front).collect();
        warpgroup.queue.push_back(issue);
        warpgroup.issued += 1;
        if issues.iter().any(|other| *other != issue) {
            let message = "the warps of the warpgroup issue different wgmmas, or the same with different descriptors, \
                           scales or groups";
            self.report(place, None, Check::MatrixOperand, message.into());
        }
        self.push_multiply(place, index);
    }

    /// Notes what a warp's part of a product reads from shared memory.
    fn check_operands(
        &mut self,
        place: Place,
        multiply: &Multiply,
        a_descriptor: Option<u64>,
        b_descriptor: u64,
        group: u32,
    ) {
        let b = multiply.multiply.b_tile(b_descriptor).map(|tile| tile.chunks().to_vec());
        let member = (place.warp % WARPGROUP_WARPS) as u32;
        let a = a_descriptor.map(|descriptor| {
            multiply.multiply.a_tile(descriptor).map(|tile| tile.chunks_of_warp(member).to_vec())
        });
        let threads = self.ctas[place.cta].threads;
        let epoch = Actor::Multiply(place.warp as u32).at(place.cta, threads, group);
        // What any of the warp's threads knows to be written and visible is so for its part of the product.
        let mut view = View::default();
        self.add_views(place, u32::MAX, &mut view);
        let member_is_first = member == 0;
        for (name, chunks) in [("A", a), ("B", Some(b))] {
            let chunks = match chunks {
                None => continue,
                Some(Ok(chunks)) => chunks,
                Some(Err(error)) => {
                    self.report(place, None, Check::MatrixOperand, format!("{name}: {error}"));
                    continue;
                }
            };
            let mut read = 0;
            for address in chunks.iter().copied() {
                let location = Location::Shared { cta: place.cta, address };
                if !self.ctas[place.cta].has_shared(address, CHUNK_BYTES) {
                    let bounds = self.bounds(location);
                    let message = format!("{name} is read at {address:#x} in shared memory, {bounds}");
                    self.report(place, None, Check::OutOfBounds, message);
                    break;
                }
                if !self.is_written(location, CHUNK_BYTES) {
                    let message =
                        format!("{name} is read at {address:#x} in shared memory, which nothing has written");
                    self.report(place, None, Check::Uninitialized, message);
                }
                if let Some((barrier, _)) = self.ctas[place.cta]
                    .mbarriers
                    .range(address.saturating_sub(7)..address + CHUNK_BYTES)
                    .next()
                {
                    let message = format!(
                        "{name} is read at {address:#x}, where there is the mbarrier at {barrier:#x}"
                    );
                    self.report(place, None, Check::Mbarrier, message);
                }
                read += 1;
            }
            self.order_chunks(place, &chunks[..read], &view, epoch);
            // B is read once for the warpgroup, A by each warp.
            if name == "A" || member_is_first {
                let bytes = u64::from(CHUNK_BYTES) * chunks.len() as u64;
                self.count(place, |counts| counts.shared_bytes += bytes);
            }
        }
        let flop = multiply.multiply.flop() / WARPGROUP_WARPS as u64;
        self.count(place, |counts| counts.tensor_flop += flop);
    }

    /// Notes that an operand's chunks are read, for the detection of races.
    fn order_chunks(&mut self, place: Place, chunks: &[u32], view: &View, epoch: Epoch) {
        if !self.context.options.checks.races {
            return;
        }
        let observer =
            Observer { seen: &view.seen, fenced: &view.fenced, over: view.over.as_deref(), own: None };
        let (at, kind) = (self.fiber(place).at, Kind::ASYNC_READ);
        let shadow = &mut self.ctas[place.cta].shadow;
        let conflict = shadow.access(chunks.iter().copied(), CHUNK_BYTES, observer, epoch, at, kind);
        if let Some(conflict) = conflict {
            self.report_conflict(place, None, kind, "shared", &conflict);
        }
    }

    /// Multiplies: the oldest product of a warpgroup.
    pub(super) fn multiply(&mut self, cta: usize, warpgroup: usize) {
        let Some(issue) = self.ctas[cta].warpgroups[warpgroup].queue.pop_front() else { return };
        let program = self.context.program;
        let Operation::Multiply(multiply) = &program.instructions[issue.at as usize].operation else {
            return;
        };
        let first = warpgroup * WARPGROUP_WARPS;
        let cta = &mut self.ctas[cta];
        let values = |tile: crate::matrix::tile::Tile| {
            let mut bytes = Vec::with_capacity(tile.chunks().len() * CHUNK_BYTES as usize);
            for address in tile.chunks() {
                let start = *address as usize;
                match cta.shared.get(start..start + CHUNK_BYTES as usize) {
                    Some(chunk) => bytes.extend_from_slice(chunk),
                    None => bytes.extend_from_slice(&[0; CHUNK_BYTES as usize]),
                }
            }
            tile.values(&bytes)
        };
        // Descriptors that make no sense have been reported at the issue.
        let Ok(b) = multiply.multiply.b_tile(issue.b_descriptor).map(values) else { return };
        let a = match issue.a_descriptor {
            Some(descriptor) => match multiply.multiply.a_tile(descriptor).map(values) {
                Ok(a) => a,
                Err(_) => return,
            },
            None => {
                let registers = std::array::from_fn(|thread| {
                    let warp = &cta.warps[first + thread / LANES];
                    std::array::from_fn(|index| {
                        let register = multiply.a_registers.get(index);
                        register
                            .map_or(0, |register| warp.registers[*register as usize][thread % LANES] as u32)
                    })
                });
                multiply.multiply.a_from_registers(&registers)
            }
        };
        let count = multiply.accumulators.len();
        let mut accumulators = vec![0; count * wgmma::THREADS];
        for (thread, own) in accumulators.chunks_exact_mut(count).enumerate() {
            let warp = &cta.warps[first + thread / LANES];
            for (value, register) in own.iter_mut().zip(&multiply.accumulators) {
                *value = warp.registers[*register as usize][thread % LANES] as u32;
            }
        }
        multiply.multiply.multiply(&a, &b, &mut accumulators, issue.adds);
        for (thread, own) in accumulators.chunks_exact(count).enumerate() {
            let warp = &mut cta.warps[first + thread / LANES];
            for (value, register) in own.iter().zip(&multiply.accumulators) {
                warp.registers[*register as usize][thread % LANES] = u64::from(*value);
            }
        }
    }

    /// `wgmma.wait_group`: the warp goes on when at most `pending` of its groups are left.
    pub(super) fn wait_for_multiply(&mut self, place: Place, pending: u32) -> bool {
        let due = self.warp(place).multiply_groups.saturating_sub(pending);
        let (index, member) = (place.warp / WARPGROUP_WARPS, place.warp % WARPGROUP_WARPS);
        let state = &self.ctas[place.cta].warpgroups;
        let Some(warpgroup) = state.get(index) else { return self.advance(place) };
        if warpgroup.waiting[member].iter().any(|issue| issue.group <= due) {
            let issued = self.ctas[place.cta].warpgroups_issued();
            self.fiber(place).wait = Some(Wait::Warpgroup { issued });
            self.count_wait(place);
            return false;
        }
        self.fiber(place).wait = None;
        let is_due = |unit: &Self| {
            unit.ctas[place.cta].warpgroups[index].queue.front().is_some_and(|issue| issue.group <= due)
        };
        while is_due(self) {
            self.complete_multiply(place.cta, index);
        }
        let threads = self.ctas[place.cta].threads;
        let epoch = Actor::Multiply(place.warp as u32).at(place.cta, threads, due);
        let warp = self.warp(place);
        warp.in_flight.iter_mut().filter(|group| **group <= due).for_each(|group| *group = 0);
        let mut view = View::default();
        view.seen.raise(epoch);
        self.take_over(place, u32::MAX, &view);
        self.advance(place)
    }

    pub(super) fn load_matrix(
        &mut self,
        place: Place,
        transfer: &transfer::Transfer,
        results: &[Register],
        address: Address,
        space: Space,
    ) {
        let mut rows = vec![[0; transfer::ROW_BYTES]; transfer.address_lanes()];
        let mask = mask_of(transfer.address_lanes());
        let locations = self.locations(place, mask, space, address);
        self.count_rows(place, &locations);
        for (lane, location) in locations {
            if self.check_access(place, lane, location, transfer::ROW_BYTES as u32, Kind::READ) {
                self.fetch((place.cta, self.thread(place, lane)), location, &mut rows[lane]);
            }
        }
        let registers = transfer.rows_to_registers(&rows);
        for (index, register) in results.iter().enumerate() {
            let value = std::array::from_fn(|lane| u64::from(registers[lane][index]));
            self.write(place, *register, &value, u32::MAX);
        }
    }

    pub(super) fn store_matrix(
        &mut self,
        place: Place,
        transfer: &transfer::Transfer,
        values: &[Source],
        address: Address,
        space: Space,
    ) {
        let mut registers = [[0; transfer::MAX_MATRICES]; LANES];
        for (index, value) in values.iter().enumerate().take(transfer::MAX_MATRICES) {
            let value = self.read(place, *value);
            registers.iter_mut().zip(value).for_each(|(lane, value)| lane[index] = value as u32);
        }
        let rows = transfer.registers_to_rows(&registers);
        let mask = mask_of(transfer.address_lanes());
        let locations = self.locations(place, mask, space, address);
        self.count_rows(place, &locations);
        for (lane, location) in locations {
            if self.check_access(place, lane, location, transfer::ROW_BYTES as u32, Kind::WRITE) {
                self.put((place.cta, self.thread(place, lane)), location, &rows[lane]);
            }
        }
    }

    /// Counts rows of 16 bytes: eight lanes are served at a time, one matrix.
    fn count_rows(&mut self, place: Place, locations: &[(usize, Location)]) {
        if !self.context.options.checks.profile {
            return;
        }
        let addresses: Vec<(usize, u32)> =
            locations.iter().map(|(lane, location)| (*lane, location.address() as u32)).collect();
        let bytes = u64::from(CHUNK_BYTES) * addresses.len() as u64;
        let conflicts = bank_conflicts(&addresses, CHUNK_BYTES);
        self.count(place, |counts| {
            counts.shared_bytes += bytes;
            counts.bank_conflicts += conflicts;
        });
    }

    pub(super) fn warp_multiply(
        &mut self,
        place: Place,
        mma: &mma::Multiply,
        results: &[Register],
        operands: [&[Source]; 3],
    ) {
        fn fragment<const R: usize>(unit: &Unit<'_>, place: Place, sources: &[Source]) -> [[u32; R]; LANES] {
            let values: Vec<_> = sources.iter().map(|source| unit.read(place, *source)).collect();
            std::array::from_fn(|lane| {
                std::array::from_fn(|index| values.get(index).map_or(0, |value| value[lane] as u32))
            })
        }
        let [a, b, c] = operands;
        let d = mma.multiply(&fragment(self, place, a), &fragment(self, place, b), &fragment(self, place, c));
        for (index, register) in results.iter().enumerate() {
            let value = std::array::from_fn(|lane| u64::from(d[lane][index]));
            self.write(place, *register, &value, u32::MAX);
        }
        let flop = mma.flop();
        self.count(place, |counts| counts.tensor_flop += flop);
    }
}

/// The first lanes of a warp.
fn mask_of(lanes: usize) -> u32 {
    u32::MAX >> (WARP - lanes.clamp(1, LANES) as u32)
}
