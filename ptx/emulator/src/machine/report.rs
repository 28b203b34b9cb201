//! Findings.

use super::cta::Actor;
use super::wait::Wait;
use super::warp::{WARP, lanes};
use super::{Place, Unit};
use crate::diagnostic::{Check, Diagnostic, Site};
use crate::order::{Access, Conflict, Kind, View};

/// No second instruction.
const NONE: u32 = u32::MAX;

/// Waiting fibers that a deadlock names.
const NAMED_WAITS: usize = 16;

impl Unit<'_> {
    /// Notes a finding about the instruction a fiber executes, once for each check and instruction.
    pub(super) fn report(&mut self, place: Place, lane: Option<usize>, check: Check, message: String) {
        self.report_with(place, lane, check, message, NONE, Vec::new());
    }

    pub(super) fn report_with(
        &mut self,
        place: Place,
        lane: Option<usize>,
        check: Check,
        message: String,
        other: u32,
        related: Vec<(String, Site)>,
    ) {
        let fiber = self.ctas[place.cta].warps[place.warp].fibers.get(place.fiber);
        let (at, mask) = fiber.map_or((0, 1), |fiber| (fiber.at, fiber.mask));
        if !self.reported.insert((check, at, other)) {
            return;
        }
        let lane = lane.unwrap_or(mask.trailing_zeros() as usize % WARP as usize);
        let site = self.site(place.cta, self.thread(place, lane), at);
        self.note(Diagnostic { check, message, site: Some(site), related });
    }

    /// Notes a finding about an instruction that has been executed before.
    pub(super) fn report_at(&mut self, cta: usize, thread: u32, at: u32, check: Check, message: String) {
        if self.reported.insert((check, at, NONE)) {
            let site = Some(self.site(cta, thread, at));
            self.note(Diagnostic { check, message, site, related: Vec::new() });
        }
    }

    fn note(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
        self.stopped |= self.diagnostics.len() >= self.context.options.max_diagnostics;
    }

    /// Notes that an access is not ordered with an earlier one.
    pub(super) fn report_conflict(
        &mut self,
        place: Place,
        lane: Option<usize>,
        kind: Kind,
        space: &str,
        conflict: &Conflict,
    ) {
        let Conflict { earlier, word, proxy_only } = *conflict;
        let (check, message) = if proxy_only {
            let message = format!(
                "the asynchronous proxy {} {space} memory at {word:#x}, which the generic proxy wrote; needed is \
                 fence.proxy.async between the write and this",
                verb(kind)
            );
            (Check::MissingProxyFence, message)
        } else {
            let message = format!(
                "a{} of {space} memory at {word:#x} and an earlier {} are not ordered; needed is a barrier, or a release \
                 and an acquire, between them",
                with_article(kind),
                noun(earlier.kind)
            );
            (Check::DataRace, message)
        };
        let related = self.earlier_site(&earlier);
        self.report_with(place, lane, check, message, earlier.at, vec![related]);
    }

    fn earlier_site(&self, earlier: &Access) -> (String, Site) {
        let agent = earlier.epoch.agent;
        let cta = usize::from(agent.cta);
        let actor = Actor::of(agent, self.context.threads());
        let what = match actor {
            Actor::Thread(_) => format!("earlier {} at", noun(earlier.kind)),
            _ => format!("earlier {} by what was issued at", noun(earlier.kind)),
        };
        (what, self.site(cta, actor.thread().unwrap_or(0), earlier.at))
    }

    pub(super) fn site(&self, cta: usize, thread: u32, at: u32) -> Site {
        let instruction = self.context.program.instructions.get(at as usize);
        Site {
            instruction: instruction.map_or_else(String::new, |instruction| instruction.text.clone()),
            position: instruction.map(|instruction| instruction.position).unwrap_or_default(),
            cta: self.ctas.get(cta).map_or([0; 3], |cta| cta.id),
            warp: thread / WARP,
            thread,
        }
    }

    /// Tells of each fiber what it waits for.
    pub(super) fn report_deadlock(&mut self) {
        let mut related = Vec::new();
        let mut count = 0;
        for (number, cta) in self.ctas.iter().enumerate() {
            for (index, warp) in cta.warps.iter().enumerate() {
                for fiber in &warp.fibers {
                    count += 1;
                    if related.len() < NAMED_WAITS {
                        let why = fiber.wait.as_ref().map_or_else(
                            || "at".to_owned(),
                            |wait| format!("{} at", self.describe(number, index, wait)),
                        );
                        let lane = fiber.mask.trailing_zeros() % WARP;
                        related.push((why, self.site(number, index as u32 * WARP + lane, fiber.at)));
                    }
                }
            }
        }
        let message = format!("nothing can go on: {count} groups of threads wait and no copy is under way");
        self.note(Diagnostic { check: Check::Deadlock, message, site: None, related });
    }

    fn describe(&self, cta: usize, warp: usize, wait: &Wait) -> String {
        match wait {
            Wait::Barrier { id, .. } => {
                let barrier = &self.ctas[cta].barriers[*id as usize];
                let warps = &self.ctas[cta].warps;
                let (arrived, expected) = (barrier.arrived(warps), barrier.expected(warps));
                format!("waits for barrier {id}, where {arrived} of {expected} threads have arrived,")
            }
            Wait::Cluster { .. } => "waits for the other threads of the cluster".to_owned(),
            Wait::Lanes { mask } => {
                let live = self.ctas[cta].warps[warp].live;
                let named: Vec<String> = lanes(mask & live).map(|lane| lane.to_string()).collect();
                format!("waits for all of the lanes {}", named.join(" "))
            }
            Wait::Mbarrier { barriers } => {
                let states = barriers.iter().map(|(cta, address, phase)| {
                    let barrier = self.ctas[*cta].mbarriers.get(address);
                    let state = barrier.map_or_else(String::new, |barrier| barrier.to_string());
                    format!("phase {phase} of the mbarrier at {address:#x} ({state})")
                });
                format!("waits for {}", states.collect::<Vec<_>>().join(", "))
            }
            Wait::Warpgroup { .. } => {
                "waits for the other warps of the warpgroup to issue their wgmma".to_owned()
            }
            Wait::Registers { needed } => {
                format!("waits for {needed} registers, of which {} are free,", self.ctas[cta].free_registers)
            }
        }
    }

    /// What CTAs leave behind when all their threads have returned.
    pub(super) fn finish_ctas(&mut self) {
        for number in 0..self.ctas.len() {
            if !self.ctas[number].cleaned && self.ctas[number].is_finished() {
                self.ctas[number].cleaned = true;
                self.finish_cta(number);
            }
        }
    }

    fn finish_cta(&mut self, number: usize) {
        let last = self.context.program.instructions.len() as u32 - 1;
        // Copies that nobody waits for go on after the CTA has ended, into memory that is no longer its own.
        for index in (0..self.pending.len()).rev() {
            if let Some((thread, at)) = self.pending[index].endangers(number) {
                let issuer = self.pending.swap_remove(index);
                if !issuer.is_multiply() {
                    let message =
                        "the CTA ends while this copy to or from its shared memory is under way".to_owned();
                    self.report_at(issuer.cta, thread, at, Check::BulkCopy, message);
                }
            }
        }
        let cta = &self.ctas[number];
        let mut findings = Vec::new();
        for (address, barrier) in &cta.mbarriers {
            let bytes = barrier.transactions;
            let message = match bytes {
                0 => continue,
                1.. => format!("the mbarrier at {address:#x} still expects {bytes} bytes when the CTA ends"),
                ..0 => {
                    format!("the mbarrier at {address:#x} has got {} bytes more than were expected", -bytes)
                }
            };
            findings.push((Check::Mbarrier, message));
        }
        for (id, barrier) in cta.barriers.iter().enumerate() {
            if barrier.is_open() {
                let (arrived, expected) = (barrier.arrived(&cta.warps), barrier.expected(&cta.warps));
                findings.push((
                    Check::Barrier,
                    format!("barrier {id} has {arrived} of {expected} arrivals when the CTA ends"),
                ));
            }
        }
        if cta.warps.iter().any(|warp| warp.in_flight.iter().any(|group| *group != 0)) {
            findings.push((
                Check::AccumulatorInFlight,
                "the CTA ends without waiting for its last wgmma".to_owned(),
            ));
        }
        for (check, message) in findings {
            self.report_at(number, 0, last, check, message);
        }
        self.check_remote_accesses(number);
        self.release_at_end(number);
        // What a finished CTA held is not needed any more.
        let cta = &mut self.ctas[number];
        cta.shared = Vec::new();
        cta.written = Vec::new();
        cta.shadow = crate::order::SharedShadow::new(0);
        cta.local = Vec::new();
        cta.warps.iter_mut().for_each(|warp| warp.registers = Vec::new());
    }

    /// Shared memory is there for others as long as one thread of its CTA is: the threads have to know of all that others
    /// did to it, copies among them, when they return.
    fn check_remote_accesses(&mut self, number: usize) {
        if !self.context.options.checks.races {
            return;
        }
        let cta = &self.ctas[number];
        let mut known = View::default();
        cta.warps.iter().flat_map(|warp| &warp.views).for_each(|view| known.join(view));
        let last = self.context.program.instructions.len() as u32 - 1;
        let is_by_others = |access: &&Access| {
            let agent = access.epoch.agent;
            usize::from(agent.cta) != number || matches!(Actor::of(agent, cta.threads), Actor::Mbarrier(_))
        };
        let access = cta.shadow.accesses().filter(is_by_others).find(|access| !known.is_over(access.epoch));
        let mut arrivals = cta.mbarriers.iter().flat_map(|(address, barrier)| {
            barrier.remote_arrivals.iter().map(move |(epoch, at)| (*address, *epoch, *at))
        });
        let arrival = arrivals.find(|(_, epoch, _)| !known.is_over(*epoch));
        let mut findings = Vec::new();
        if let Some(access) = access.copied() {
            let (by, needed) = match Actor::of(access.epoch.agent, cta.threads) {
                Actor::Mbarrier(_) => ("a copy", "a wait at the copy's mbarrier"),
                _ => ("another CTA", "barrier.cluster"),
            };
            let message = format!(
                "the CTA ends without being ordered after a{} of its shared memory by {by}; needed is {needed} before it \
                 ends",
                with_article(access.kind)
            );
            findings.push((message, access.at, self.earlier_site(&access)));
        }
        if let Some((address, epoch, at)) = arrival {
            let message = format!(
                "the CTA ends without being ordered after an arrival at its mbarrier at {address:#x} by another CTA; needed \
                 is barrier.cluster before it ends"
            );
            let thread = Actor::of(epoch.agent, cta.threads).thread().unwrap_or(0);
            let site = self.site(usize::from(epoch.agent.cta), thread, at);
            findings.push((message, at, ("arrival at".to_owned(), site)));
        }
        for (message, at, related) in findings {
            if self.reported.insert((Check::DataRace, last, at)) {
                let site = Some(self.site(number, 0, last));
                self.note(Diagnostic { check: Check::DataRace, message, site, related: vec![related] });
            }
        }
    }
}

fn noun(kind: Kind) -> &'static str {
    match (kind.asynchronous, kind.writes) {
        (false, false) => "read",
        (false, true) => "write",
        (true, false) => "asynchronous read",
        (true, true) => "asynchronous write",
    }
}

/// What follows an "a".
fn with_article(kind: Kind) -> String {
    format!("{}{}", if kind.asynchronous { "n " } else { " " }, noun(kind))
}

fn verb(kind: Kind) -> &'static str {
    if kind.writes { "writes" } else { "reads" }
}
