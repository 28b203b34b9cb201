//! Memory barriers in shared memory (PTX ISA, "mbarrier"): initialisation and arrivals; see `waits` for the rest.

mod waits;

use std::fmt;

use super::addresses::Location;
use super::cta::Actor;
use super::{Place, Unit};
use crate::diagnostic::Check;
use crate::order::{Epoch, Kind, View};
use crate::program::{Mbarrier as Instruction, MbarrierOperation, Space};

/// Bytes of an mbarrier, which are also its alignment.
const BYTES: u32 = 8;

/// Largest expected count and transaction count (PTX ISA, "Contents of the mbarrier object").
const COUNT_LIMIT: u32 = (1 << 20) - 1;

/// One barrier.
#[derive(Debug)]
pub(super) struct Mbarrier {
    /// Arrivals that make a phase.
    expected: u32,
    /// Arrivals left in this phase.
    pending: u32,
    /// Bytes that the phase still waits for; negative where they came before they were expected.
    pub(super) transactions: i64,
    /// Bytes that copies were asked for in this phase, less those that it was told to expect so far.
    unexpected: i64,
    /// Whether copies were asked for in this phase before their bytes were expected.
    was_told_late: bool,
    /// Whether lanes' copies make this phase wait, too.
    waits_for_copies: bool,
    /// Number of the current phase.
    pub(super) phase: u32,
    /// Phases that earlier barriers at this address have completed.
    earlier_phases: u32,
    /// Its number among the CTA's barriers, by which it is an agent.
    number: u32,
    /// What the CTA's own arrivals of this phase have published, and those of all earlier ones.
    view: View,
    completed: View,
    /// The same of arrivals from other CTAs. Unless both arrival and wait are of `.cluster` scope, they tell only that what
    /// came before is over.
    remote_view: View,
    remote_completed: View,
    /// Who has arrived in this phase, in the last one and in the one before.
    arrivals: [Arrivals; 3],
    /// The last arrival of each thread of another CTA, with its instruction.
    pub(super) remote_arrivals: Vec<(Epoch, u32)>,
    pub(super) initialized: Epoch,
    /// Whether a fence has made the initialisation visible to the asynchronous proxy.
    pub(super) is_visible: bool,
}

/// When threads arrived in a phase. Who knows of all of them knows that the phase is complete, unless something else had to come
/// as well.
#[derive(Clone, Debug, Default)]
struct Arrivals {
    of_threads: Vec<Epoch>,
    are_not_all: bool,
}

impl fmt::Display for Mbarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, pending, transactions, phase, .. } = self;
        write!(f, "in phase {phase}, {pending} of {expected} arrivals and {transactions} bytes are missing")
    }
}

impl Mbarrier {
    /// What an H200 does not bear, though the PTX ISA lets the transaction count be negative: threads that wait may go on too early.
    fn told_late(&self, address: u32) -> Option<String> {
        (self.was_told_late && self.waits_for_copies).then(|| {
            format!(
                "bulk copies are asked for before the mbarrier at {address:#x} expects their bytes, and cp.async is waited for \
                 in the same phase; needed is expect_tx before the bulk copies"
            )
        })
    }

    /// Where arrivals of this phase publish.
    fn view_of(&mut self, is_remote: bool) -> &mut View {
        if is_remote { &mut self.remote_view } else { &mut self.view }
    }
}

/// What the state that an arrival returns says; its form is the emulator's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// The phase that it belongs to.
    phase: u32,
    /// Arrivals left before it.
    pub(super) pending: u32,
}

impl Arrival {
    pub(super) fn from_state(state: u64) -> Self {
        Self { phase: (state >> u32::BITS) as u32, pending: state as u32 }
    }

    fn state(self) -> u64 {
        u64::from(self.phase) << u32::BITS | u64::from(self.pending)
    }
}

/// What a barrier's phase is completed by, besides its view.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Arrive { count: u32, expect: u32, drop: bool },
    Expect(u32),
    Complete(u32),
}

impl Unit<'_> {
    pub(super) fn mbarrier(&mut self, place: Place, mask: u32, instruction: &Instruction) -> bool {
        if let MbarrierOperation::Test { .. } = instruction.operation {
            return self.test_mbarrier(place, mask, instruction);
        }
        let locations = self.locations(place, mask, instruction.space, instruction.address);
        for (lane, location) in locations {
            let Location::Shared { cta, address } = location else {
                let message = format!("an mbarrier in {} memory; needed is shared memory", location.space());
                self.report(place, Some(lane), Check::Mbarrier, message);
                continue;
            };
            self.count_mbarrier(place, address, false);
            self.mbarrier_of_lane(place, lane, cta, address, instruction);
        }
        self.advance(place)
    }

    fn mbarrier_of_lane(
        &mut self,
        place: Place,
        lane: usize,
        cta: usize,
        address: u32,
        instruction: &Instruction,
    ) {
        let value = |unit: &Self, source| unit.read(place, source)[lane] as u32;
        match &instruction.operation {
            MbarrierOperation::Init { count } => {
                let count = value(self, *count);
                self.init_mbarrier(place, lane, cta, address, count);
            }
            MbarrierOperation::Invalidate => {
                if self.check_mbarrier(place, lane, cta, address) {
                    self.remove_mbarrier(cta, address);
                }
            }
            MbarrierOperation::ExpectTransactions { bytes } => {
                let step = Step::Expect(value(self, *bytes));
                if self.check_mbarrier(place, lane, cta, address) {
                    self.step_mbarrier(place, Some(lane), cta, address, step);
                }
            }
            MbarrierOperation::CompleteTransactions { bytes } => {
                let step = Step::Complete(value(self, *bytes));
                if self.check_mbarrier(place, lane, cta, address) {
                    self.step_mbarrier(place, Some(lane), cta, address, step);
                }
            }
            MbarrierOperation::Arrive { state, count, expect, drop } => {
                if !self.check_mbarrier(place, lane, cta, address) {
                    return;
                }
                let count = count.map_or(1, |count| value(self, count));
                let expect = expect.map_or(0, |expect| value(self, expect));
                let (phase, pending) = {
                    let barrier = &self.ctas[cta].mbarriers[&address];
                    (barrier.phase, barrier.pending)
                };
                let is_remote = cta != place.cta;
                if is_remote {
                    let (epoch, at) = (self.epoch(place, lane), self.fiber(place).at);
                    let known = &mut self.mbarrier_at(cta, address).remote_arrivals;
                    known.retain(|(known, _)| known.agent != epoch.agent);
                    known.push((epoch, at));
                }
                let epoch = self.epoch(place, lane);
                self.mbarrier_at(cta, address).arrivals[0].of_threads.push(epoch);
                if !instruction.relaxed {
                    let mut view = std::mem::take(self.mbarrier_at(cta, address).view_of(is_remote));
                    if !is_remote || instruction.for_cluster {
                        self.publish(place, 1 << lane, &mut view);
                    } else {
                        let mut published = View::default();
                        self.publish(place, 1 << lane, &mut published);
                        view.join_as_over(&published);
                    }
                    *self.mbarrier_at(cta, address).view_of(is_remote) = view;
                }
                self.step_mbarrier(
                    place,
                    Some(lane),
                    cta,
                    address,
                    Step::Arrive { count, expect, drop: *drop },
                );
                if let Some(state) = state {
                    self.warp(place).registers[*state as usize][lane] = Arrival { phase, pending }.state();
                }
            }
            MbarrierOperation::Test { .. } => {}
        }
    }

    /// A barrier that is known to be there.
    fn mbarrier_at(&mut self, cta: usize, address: u32) -> &mut Mbarrier {
        self.ctas[cta].mbarriers.get_mut(&address).expect("callers have found the barrier")
    }

    fn init_mbarrier(&mut self, place: Place, lane: usize, cta: usize, address: u32, count: u32) {
        if !address.is_multiple_of(BYTES) {
            let message = format!("the mbarrier is at {address:#x}; needed is a multiple of {BYTES}");
            self.report(place, Some(lane), Check::Misaligned, message);
            return;
        }
        if cta != place.cta || !self.ctas[cta].has_shared(address, BYTES) {
            let message = format!("the mbarrier is at {address:#x}, which is not in the CTA's shared memory");
            self.report(place, Some(lane), Check::OutOfBounds, message);
            return;
        }
        if count == 0 || count > COUNT_LIMIT {
            let message = format!("{count} arrivals are expected; needed are 1 to {COUNT_LIMIT}");
            self.report(place, Some(lane), Check::Mbarrier, message);
        }
        let overlapping =
            self.ctas[cta].mbarriers.range(address.saturating_sub(BYTES - 1)..address + BYTES).next();
        if let Some((other, barrier)) = overlapping {
            let message = format!(
                "the mbarrier at {other:#x} is in use ({barrier}); needed is mbarrier.inval before this"
            );
            self.report(place, Some(lane), Check::Mbarrier, message);
        }
        let location = Location::Shared { cta, address };
        let view = self.view_of(place, lane);
        let epoch = self.epoch(place, lane);
        self.remove_mbarrier(cta, address);
        self.order_access(place, Some(lane), location, BYTES, &view, Some(epoch), epoch, Kind::WRITE);
        let agents = &mut self.ctas[cta].mbarrier_agents;
        let next = agents.len() as u32;
        let (number, earlier_phases) = *agents.entry(address).or_insert((next, 0));
        let barrier = Mbarrier {
            expected: count,
            pending: count,
            transactions: 0,
            unexpected: 0,
            was_told_late: false,
            waits_for_copies: false,
            phase: 0,
            earlier_phases,
            number,
            view: View::default(),
            completed: View::default(),
            remote_view: View::default(),
            remote_completed: View::default(),
            arrivals: Default::default(),
            remote_arrivals: Vec::new(),
            initialized: epoch,
            is_visible: false,
        };
        self.ctas[cta].mbarriers.insert(address, barrier);
        self.put((cta, 0), location, &[0; BYTES as usize]);
    }

    /// Whether there is a barrier whose initialisation the lane knows of.
    pub(super) fn check_mbarrier(&mut self, place: Place, lane: usize, cta: usize, address: u32) -> bool {
        let Some(barrier) = self.ctas[cta].mbarriers.get(&address) else {
            let message = format!("no mbarrier has been initialised at {address:#x}");
            self.report(place, Some(lane), Check::Mbarrier, message);
            return false;
        };
        let initialized = barrier.initialized;
        let known = self.epoch(place, lane).agent == initialized.agent
            || self.ctas[place.cta].warps[place.warp].views[lane].seen.includes(initialized);
        if !known {
            let message = format!(
                "the mbarrier at {address:#x} is used without being ordered after its initialisation; needed is a \
                 barrier between them"
            );
            self.report(place, Some(lane), Check::DataRace, message);
        }
        true
    }

    /// Whether a copy may complete on a barrier: the asynchronous proxy has to know of its initialisation.
    pub(super) fn check_visible_mbarrier(
        &mut self,
        place: Place,
        lane: usize,
        cta: usize,
        address: u32,
    ) -> bool {
        if !self.check_mbarrier(place, lane, cta, address) {
            return false;
        }
        let barrier = &self.ctas[cta].mbarriers[&address];
        let view = self.view_of(place, lane);
        if !barrier.is_visible && !view.fenced.includes(barrier.initialized) {
            let message = format!(
                "a copy completes on the mbarrier at {address:#x}, whose initialisation the asynchronous proxy does not \
                 see; needed is fence.mbarrier_init after it"
            );
            self.report(place, Some(lane), Check::MissingProxyFence, message);
        }
        true
    }

    /// The moment at which what is under way towards a barrier will be done: the end of its current phase.
    pub(super) fn completion_epoch(&self, cta: usize, address: u32) -> Epoch {
        let barrier = &self.ctas[cta].mbarriers[&address];
        Actor::Mbarrier(barrier.number).at(
            cta,
            self.context.threads(),
            barrier.earlier_phases + barrier.phase + 1,
        )
    }

    /// What comes after a barrier at the same address is the same agent, at a later time.
    fn remove_mbarrier(&mut self, cta: usize, address: u32) {
        let cta = &mut self.ctas[cta];
        if let Some(barrier) = cta.mbarriers.remove(&address) {
            let phases = barrier.earlier_phases + barrier.phase + 1;
            cta.mbarrier_agents.insert(address, (barrier.number, phases));
        }
    }

    pub(super) fn mbarrier_phase(&self, cta: usize, address: u32) -> Option<u32> {
        self.ctas[cta].mbarriers.get(&address).map(|barrier| barrier.phase)
    }

    /// Adds to what a barrier's phase has published.
    pub(super) fn publish_at_mbarrier(&mut self, cta: usize, address: u32, view: &View) {
        if let Some(barrier) = self.ctas[cta].mbarriers.get_mut(&address) {
            barrier.view.join(view);
            barrier.arrivals[0].are_not_all = true;
        }
    }

    /// Makes the current phase wait for one more arrival, that of a lane's copies. Returns what is wrong with that.
    pub(super) fn expect_arrival(&mut self, cta: usize, address: u32) -> Option<String> {
        let barrier = self.ctas[cta].mbarriers.get_mut(&address)?;
        barrier.pending += 1;
        barrier.arrivals[0].are_not_all = true;
        barrier.waits_for_copies = true;
        barrier.told_late(address)
    }

    /// Counts bytes that the current phase waits for as soon as it is told to expect them. Returns what is wrong with that.
    pub(super) fn ask_for_bytes(&mut self, cta: usize, address: u32, bytes: u32) -> Option<String> {
        let barrier = self.ctas[cta].mbarriers.get_mut(&address)?;
        barrier.unexpected += i64::from(bytes);
        barrier.was_told_late |= barrier.unexpected > 0;
        barrier.told_late(address)
    }

    /// Counts an arrival or bytes, and ends the phase where that was all. Returns what was wrong.
    pub(super) fn count_at_mbarrier(&mut self, cta: usize, address: u32, step: Step) -> Option<String> {
        let threads = self.context.threads();
        let barrier = self.ctas[cta].mbarriers.get_mut(&address)?;
        let mut wrong = None;
        barrier.arrivals[0].are_not_all |= !matches!(step, Step::Arrive { expect: 0, .. });
        match step {
            Step::Arrive { count, expect, drop } => {
                barrier.transactions += i64::from(expect);
                barrier.unexpected -= i64::from(expect);
                if count == 0 || count > barrier.pending {
                    wrong = Some(format!("{count} arrivals at the mbarrier at {address:#x} {barrier}"));
                }
                barrier.pending = barrier.pending.saturating_sub(count);
                if drop {
                    barrier.expected = barrier.expected.saturating_sub(count);
                }
            }
            Step::Expect(bytes) => {
                barrier.transactions += i64::from(bytes);
                barrier.unexpected -= i64::from(bytes);
            }
            Step::Complete(bytes) => barrier.transactions -= i64::from(bytes),
        }
        if barrier.transactions.unsigned_abs() > u64::from(COUNT_LIMIT) {
            let bytes = barrier.transactions;
            wrong = wrong.or(Some(format!(
                "the mbarrier at {address:#x} waits for {bytes} bytes; needed are at most {COUNT_LIMIT}"
            )));
        }
        if barrier.pending == 0 && barrier.transactions == 0 {
            barrier.phase += 1;
            barrier.pending = barrier.expected;
            (barrier.unexpected, barrier.was_told_late, barrier.waits_for_copies) = (0, false, false);
            barrier.arrivals.rotate_right(1);
            barrier.arrivals[0] = Arrivals::default();
            let view = std::mem::take(&mut barrier.view);
            barrier.completed.join(&view);
            let remote = std::mem::take(&mut barrier.remote_view);
            barrier.remote_completed.join(&remote);
            let time = barrier.earlier_phases + barrier.phase;
            barrier.completed.seen.raise(Actor::Mbarrier(barrier.number).at(cta, threads, time));
        }
        wrong
    }

    fn step_mbarrier(&mut self, place: Place, lane: Option<usize>, cta: usize, address: u32, step: Step) {
        if let Some(message) = self.count_at_mbarrier(cta, address, step) {
            self.report(place, lane, Check::Mbarrier, message);
        }
    }

    /// Reports an ordinary access of a barrier's bytes.
    pub(super) fn check_no_mbarrier(
        &mut self,
        place: Place,
        lane: usize,
        cta: usize,
        address: u32,
        bytes: u32,
    ) {
        let range = address.saturating_sub(BYTES - 1)..address + bytes;
        if let Some((barrier, _)) = self.ctas[cta].mbarriers.range(range).next() {
            let message = format!(
                "an access of {bytes} bytes at {address:#x}, where there is the mbarrier at {barrier:#x}"
            );
            self.report(place, Some(lane), Check::Mbarrier, message);
        }
    }

    /// Whether an address of shared memory is in a space where an mbarrier may lie; others get a finding.
    pub(super) fn mbarrier_location(
        &mut self,
        place: Place,
        lane: usize,
        address: u64,
    ) -> Option<(usize, u32)> {
        match self.locate(place.cta, Space::SharedCluster, address) {
            Ok(Location::Shared { cta, address }) => Some((cta, address)),
            Ok(_) => None,
            Err(message) => {
                self.report(place, Some(lane), Check::OutOfBounds, message);
                None
            }
        }
    }
}
