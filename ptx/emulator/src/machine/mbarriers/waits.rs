//! Tests of mbarriers and waits for them.

use super::super::addresses::Location;
use super::super::cta::Actor;
use super::super::wait::Wait;
use super::super::warp::lanes;
use super::super::{Place, Unit};
use super::{Arrival, Arrivals, Mbarrier};
use crate::arithmetic::LANES;
use crate::diagnostic::Check;
use crate::order::View;
use crate::program::{Mbarrier as Instruction, MbarrierOperation};
use rand::RngExt;

impl Unit<'_> {
    /// `mbarrier.test_wait` and `mbarrier.try_wait`.
    pub(super) fn test_mbarrier(&mut self, place: Place, mask: u32, instruction: &Instruction) -> bool {
        let MbarrierOperation::Test { done, phase, is_parity, waits } = instruction.operation else {
            return self.advance(place);
        };
        let resumed = self.fiber(place).wait.take().is_some();
        let phases = self.read(place, phase);
        let locations = self.locations(place, mask, instruction.space, instruction.address);
        let mut result = [0; LANES];
        let mut open = Vec::new();
        for (lane, location) in locations {
            let Location::Shared { cta, address } = location else {
                let message = format!("an mbarrier in {} memory; needed is shared memory", location.space());
                self.report(place, Some(lane), Check::Mbarrier, message);
                continue;
            };
            if !self.check_mbarrier(place, lane, cta, address) {
                // Whoever waits here would wait for ever.
                self.stopped = true;
                continue;
            }
            if is_parity {
                self.check_overrun(place, lane, cta, address, phases[lane]);
            }
            let current = self.ctas[cta].mbarriers[&address].phase;
            let is_before_first = current == 0 && is_parity && phases[lane] & 1 == 1;
            self.count_mbarrier(place, address, !is_before_first);
            let is_done = if is_parity {
                u64::from(current & 1) != phases[lane] & 1
            } else {
                current > Arrival::from_state(phases[lane]).phase
            };
            if is_done {
                result[lane] = 1;
            } else if !open.contains(&(cta, address, current)) {
                open.push((cta, address, current));
            }
        }
        // `try_wait` may give up at any time.
        if waits && !open.is_empty() && !self.random.random_bool(0.125) {
            if !resumed {
                self.count_wait(place);
            }
            self.fiber(place).wait = Some(Wait::Mbarrier { barriers: open });
            return false;
        }
        if !instruction.relaxed {
            self.acquire_mbarriers(place, mask, instruction, &result);
        }
        self.write(place, done, &result, mask);
        self.advance(place);
        // A failed test ends the turn, so that others can do what it waits for.
        open.is_empty()
    }

    fn acquire_mbarriers(&mut self, place: Place, mask: u32, instruction: &Instruction, done: &[u64; LANES]) {
        let addresses = self.addresses(place, instruction.address);
        let mut left = lanes(mask).filter(|lane| done[*lane] != 0).fold(0_u32, |set, lane| set | 1 << lane);
        while left != 0 {
            let address = addresses[left.trailing_zeros() as usize];
            let same =
                lanes(left).filter(|lane| addresses[*lane] == address).fold(0, |set, lane| set | 1 << lane);
            left &= !same;
            let space = instruction.space;
            if let Ok(Location::Shared { cta, address }) = self.locate(place.cta, space, address) {
                let barrier = &self.ctas[cta].mbarriers[&address];
                let (completed, remote) = (barrier.completed.clone(), barrier.remote_completed.clone());
                let is_remote_known = !remote.is_same(&View::default());
                self.take_over(place, same, &completed);
                if instruction.for_cluster {
                    self.take_over(place, same, &remote);
                } else if is_remote_known {
                    let mut over = View::default();
                    over.join_as_over(&remote);
                    self.take_over(place, same, &over);
                }
            }
        }
    }

    /// Whether a lane knows that one of the last two phases is complete, because it knows of all arrivals.
    fn knows_arrivals(&self, place: Place, lane: usize, barrier: &Mbarrier) -> bool {
        let own = self.epoch(place, lane).agent;
        let view = &self.ctas[place.cta].warps[place.warp].views[lane];
        let knows = |arrivals: &Arrivals| {
            let mut known =
                arrivals.of_threads.iter().map(|epoch| epoch.agent == own || view.is_over(*epoch));
            !arrivals.are_not_all && known.all(|is_known| is_known)
        };
        barrier.arrivals[1..].iter().any(knows)
    }

    /// A parity tells a phase from its neighbours only: a thread that is two phases behind cannot wait.
    fn check_overrun(&mut self, place: Place, lane: usize, cta: usize, address: u32, parity: u64) {
        let barrier = &self.ctas[cta].mbarriers[&address];
        let agent = Actor::Mbarrier(barrier.number).agent(cta, self.context.threads());
        let known = self.ctas[place.cta].warps[place.warp].views[lane].seen.time(agent);
        let known = known.saturating_sub(barrier.earlier_phases);
        let phase = barrier.phase;
        if u64::from(known & 1) == parity & 1
            && phase >= known + 2
            && !self.knows_arrivals(place, lane, barrier)
        {
            let message = format!(
                "the thread waits for phase {known} of the mbarrier at {address:#x}, which is in phase {phase} already: \
                 the parity is ambiguous"
            );
            self.report(place, Some(lane), Check::Mbarrier, message);
        }
    }
}
