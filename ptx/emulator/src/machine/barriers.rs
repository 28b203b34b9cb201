//! Named barriers, the cluster's barrier, and instructions that a part of a warp executes together.

use super::cta::{Cta, NAMED_BARRIERS};
use super::wait::Wait;
use super::warp::{WARP, Warp, lanes, to_mask};
use super::{Place, Unit};
use crate::diagnostic::Check;
use crate::order::View;
use crate::program::{self, Reduction};

/// One of a CTA's 16 barriers.
#[derive(Debug, Default)]
pub(super) struct NamedBarrier {
    /// Threads that make a round, as those who have arrived in this one say; `None` for all of the CTA.
    expected: Option<u32>,
    /// For each warp that has arrived, its lanes.
    arrivals: Vec<(usize, u32)>,
    /// Rounds completed.
    pub(super) round: u64,
    view: View,
    /// What the last round published, for those who still have to take it over.
    completed: View,
    /// Threads whose predicate held in this round, and the last round's number of them with that round's size.
    holding: u32,
    completed_holding: (u32, u32),
}

/// The barrier of a cluster.
#[derive(Debug, Default)]
pub(super) struct ClusterBarrier {
    /// CTA, warp and lanes that have arrived.
    arrivals: Vec<(usize, usize, u32)>,
    pub(super) round: u64,
    view: View,
    completed: View,
}

impl NamedBarrier {
    /// Threads that have arrived. A barrier counts warps: one of which all remaining threads have arrived counts fully.
    pub(super) fn arrived(&self, warps: &[Warp]) -> u32 {
        let of_warp = |(number, warp): (usize, &Warp)| match self.lanes_of(number) {
            0 => 0,
            lanes if warp.live & !lanes == 0 => WARP,
            lanes => lanes.count_ones(),
        };
        warps.iter().enumerate().map(of_warp).sum()
    }

    /// Threads that make a round.
    pub(super) fn expected(&self, warps: &[Warp]) -> u32 {
        self.expected.unwrap_or(warps.len() as u32 * WARP)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.arrivals.is_empty()
    }

    fn lanes_of(&self, warp: usize) -> u32 {
        self.arrivals.iter().filter(|(number, _)| *number == warp).fold(0, |all, (_, lanes)| all | lanes)
    }

    /// Whether the round is over. Where it is for the whole CTA, nobody waits for threads that have returned.
    fn is_complete(&self, warps: &[Warp]) -> bool {
        let everyone =
            || warps.iter().enumerate().all(|(number, warp)| warp.live & !self.lanes_of(number) == 0);
        self.is_open() && self.expected.map_or_else(everyone, |expected| self.arrived(warps) >= expected)
    }
}

impl Unit<'_> {
    /// `bar`, `barrier.cta`: arrives. Waiting fibers go on with [`Self::leave_barrier`].
    pub(super) fn arrive_at_barrier(
        &mut self,
        place: Place,
        mask: u32,
        barrier: &program::NamedBarrier,
    ) -> bool {
        let uniform = |unit: &Self, source| {
            let values = unit.read(place, source);
            let first = values[mask.trailing_zeros() as usize];
            (first as u32, lanes(mask).all(|lane| values[lane] == first))
        };
        let (id, same_id) = uniform(self, barrier.id);
        let threads = barrier.threads.map(|threads| uniform(self, threads));
        if !same_id || threads.is_some_and(|(_, same)| !same) {
            let message =
                "the threads of the warp name different barriers or counts; needed are the same".to_owned();
            self.report(place, None, Check::Barrier, message);
        }
        if id as usize >= NAMED_BARRIERS {
            self.report(
                place,
                None,
                Check::Barrier,
                format!("the barrier is {id}; needed is one of 0 to 15"),
            );
            return self.advance(place);
        }
        let holding = match &barrier.reduction {
            Some(reduction) => to_mask(&self.read(place, reduction.predicate)) & mask,
            None => 0,
        };
        let threads = threads.map(|(threads, _)| threads);
        if let Some(message) = self.barrier_misuse(place, mask, id, threads) {
            self.report(place, None, Check::Barrier, message);
        }
        let mut view = std::mem::take(&mut self.ctas[place.cta].barriers[id as usize].view);
        self.publish(place, mask, &mut view);
        let state = &mut self.ctas[place.cta].barriers[id as usize];
        state.view = view;
        state.expected = threads;
        state.holding += holding.count_ones();
        state.arrivals.push((place.warp, mask));
        let round = state.round;
        self.complete_barriers(place.cta);
        if !barrier.waits {
            return self.advance(place);
        }
        self.fiber(place).wait = Some(Wait::Barrier { id, round });
        self.count_wait(place);
        false
    }

    /// What is wrong with an arrival at a barrier.
    fn barrier_misuse(&self, place: Place, mask: u32, id: u32, threads: Option<u32>) -> Option<String> {
        let cta = &self.ctas[place.cta];
        let barrier = &cta.barriers[id as usize];
        let all = cta.warps.len() as u32 * WARP;
        let expected = threads.unwrap_or(all);
        let (arrived, others) = (barrier.arrived(&cta.warps), barrier.expected(&cta.warps));
        let is_whole = cta.warps[place.warp].live & !(mask | barrier.lanes_of(place.warp)) == 0;
        let more = if is_whole { WARP } else { mask.count_ones() };
        if expected == 0 || !expected.is_multiple_of(WARP) {
            Some(format!("the number of threads is {expected}; needed is a multiple of {WARP}"))
        } else if expected > all {
            Some(format!("barrier {id} is for {expected} threads; the CTA has {all}"))
        } else if arrived != 0 && others != expected {
            Some(format!(
                "barrier {id} is for {expected} threads here and for {others} threads that have arrived"
            ))
        } else if barrier.lanes_of(place.warp) & mask != 0 {
            Some(format!(
                "threads arrive at barrier {id} again, where {arrived} of {expected} have arrived and the round is not \
                 over"
            ))
        } else if arrived + more > expected {
            Some(format!("barrier {id} gets more arrivals than the {expected} threads of its round"))
        } else {
            None
        }
    }

    /// Ends the rounds of a CTA's barriers that are complete: by an arrival, or because threads have returned.
    pub(super) fn complete_barriers(&mut self, cta: usize) {
        let Cta { warps, barriers, .. } = &mut self.ctas[cta];
        for state in barriers.iter_mut().filter(|barrier| barrier.is_complete(warps)) {
            let size = state.arrivals.iter().map(|(_, lanes)| lanes.count_ones()).sum();
            state.completed = std::mem::take(&mut state.view);
            state.completed_holding = (std::mem::take(&mut state.holding), size);
            state.arrivals.clear();
            state.round += 1;
        }
    }

    /// Goes on behind a barrier whose round is over.
    pub(super) fn leave_barrier(
        &mut self,
        place: Place,
        mask: u32,
        barrier: &program::NamedBarrier,
        id: u32,
    ) -> bool {
        let completed = self.ctas[place.cta].barriers[id as usize].completed.clone();
        self.take_over(place, mask, &completed);
        if let Some(reduction) = &barrier.reduction {
            let (holding, all) = self.ctas[place.cta].barriers[id as usize].completed_holding;
            let value = match reduction.kind {
                Reduction::Count => holding,
                Reduction::And => u32::from(holding == all),
                _ => u32::from(holding != 0),
            };
            self.write(place, reduction.result, &[u64::from(value); 32], mask);
        }
        self.advance(place)
    }

    pub(super) fn arrive_at_cluster(&mut self, place: Place, mask: u32, releases: bool) -> bool {
        let cluster = self.cluster_of(place.cta);
        let mut barrier = self.clusters.remove(&cluster).unwrap_or_default();
        let warp = self.warp(place);
        let again = warp.cluster_arrived & mask != 0;
        warp.cluster_arrived |= mask;
        if again {
            let message = "threads arrive at the cluster's barrier again before waiting for it".to_owned();
            self.report(place, None, Check::Barrier, message);
        }
        if releases {
            self.publish(place, mask, &mut barrier.view);
        }
        barrier.arrivals.push((place.cta, place.warp, mask));
        self.clusters.insert(cluster, barrier);
        self.complete_cluster(cluster);
        self.advance(place)
    }

    /// Ends the round if every thread that has not returned has arrived.
    pub(super) fn complete_cluster(&mut self, cluster: usize) {
        let size = self.context.cluster.iter().product::<u32>() as usize;
        let ctas = &self.ctas[cluster..(cluster + size).min(self.ctas.len())];
        let Some(barrier) = self.clusters.get_mut(&cluster) else { return };
        let everyone = ctas.iter().enumerate().all(|(index, cta)| {
            cta.warps.iter().enumerate().all(|(number, warp)| {
                let arrived = barrier
                    .arrivals
                    .iter()
                    .filter(|(cta, w, _)| (*cta, *w) == (cluster + index, number))
                    .fold(0, |all, (_, _, lanes)| all | lanes);
                warp.live & !arrived == 0
            })
        });
        if everyone && !barrier.arrivals.is_empty() {
            barrier.arrivals.clear();
            barrier.completed = std::mem::take(&mut barrier.view);
            barrier.round += 1;
        }
    }

    pub(super) fn wait_for_cluster(&mut self, place: Place, mask: u32, acquires: bool) -> bool {
        let cluster = self.cluster_of(place.cta);
        let waiting = self.fiber(place).wait.take();
        if self.warp(place).cluster_arrived & mask != mask {
            let message = "barrier.cluster.wait without an arrival before it".to_owned();
            self.report(place, None, Check::Barrier, message);
            return self.advance(place);
        }
        let Some(barrier) = self.clusters.get(&cluster) else { return self.advance(place) };
        // The arrival of a round that is still open stands in its list.
        let in_round = barrier
            .arrivals
            .iter()
            .any(|(cta, warp, lanes)| (*cta, *warp) == (place.cta, place.warp) && lanes & mask != 0);
        if in_round && waiting.is_none() {
            let round = barrier.round;
            self.fiber(place).wait = Some(Wait::Cluster { round });
            self.count_wait(place);
            return false;
        }
        if acquires {
            let completed = barrier.completed.clone();
            self.take_over(place, mask, &completed);
        }
        self.warp(place).cluster_arrived &= !mask;
        self.advance(place)
    }

    /// Whether all lanes that `required` names are at this instruction: those of this fiber, or, where the warp has
    /// parted, of others that wait here. Returns the fibers that execute it together, or makes this one wait.
    pub(super) fn gather(&mut self, place: Place, mask: u32, required: u32) -> Option<Vec<usize>> {
        let warp = &mut self.ctas[place.cta].warps[place.warp];
        let required = required & warp.live;
        let at = warp.fibers[place.fiber].at;
        let mut together = vec![place.fiber];
        let mut present = mask;
        for (index, fiber) in warp.fibers.iter().enumerate() {
            if index != place.fiber && fiber.at == at && matches!(fiber.wait, Some(Wait::Lanes { .. })) {
                together.push(index);
                present |= fiber.mask;
            }
        }
        if required & !present == 0 {
            return Some(together);
        }
        warp.fibers[place.fiber].wait = Some(Wait::Lanes { mask: required });
        None
    }

    /// `bar.warp.sync`: lanes of the mask order their accesses.
    pub(super) fn synchronize_warp(&mut self, place: Place, mask: u32) {
        let mut view = View::default();
        self.publish(place, mask, &mut view);
        self.take_over(place, mask, &view);
    }
}
