//! A warp: its registers, its threads that may part and meet again, and what each thread knows.

use crate::arithmetic::{LANES, Lanes};
use crate::order::{Scope, View};
use crate::program::{END, Program, Register};

use super::wait::Wait;

/// All 32 lanes.
pub(super) const ALL_LANES: u32 = u32::MAX;

/// Threads of a warp.
pub(super) const WARP: u32 = LANES as u32;

/// Lanes that execute together.
#[derive(Clone, Debug)]
pub(super) struct Fiber {
    /// Next instruction.
    pub(super) at: u32,
    pub(super) mask: u32,
    /// Where it will meet others, innermost last: indices into [`Warp::meetings`].
    meetings: Vec<usize>,
    /// What it waits for.
    pub(super) wait: Option<Wait>,
}

/// A point where lanes that have parted meet again.
#[derive(Debug, Default)]
struct Meeting {
    at: u32,
    members: u32,
    arrived: u32,
    /// The meetings around it.
    outer: Vec<usize>,
}

/// The lanes and registers of one warp.
#[derive(Debug)]
pub(super) struct Warp {
    pub(super) registers: Vec<Lanes>,
    /// Lanes that have not returned.
    pub(super) live: u32,
    pub(super) fibers: Vec<Fiber>,
    meetings: Vec<Meeting>,
    /// Places in `meetings` that are free again.
    free_meetings: Vec<usize>,
    /// Lanes that have arrived at the cluster's barrier and not waited for it since.
    pub(super) cluster_arrived: u32,
    /// What each lane knows of the others.
    pub(super) views: Vec<View>,
    /// Each lane's own time; it moves on at each release and fence.
    pub(super) time: [u32; LANES],
    /// Up to which of its own moments a proxy fence has made a lane's accesses visible to the asynchronous proxy.
    pub(super) fenced_time: [u32; LANES],
    /// What each lane would publish with a relaxed write: its view at its last releasing fence of each scope.
    pub(super) released: Vec<[Option<View>; Scope::COUNT]>,
    /// What each lane would know after an acquiring fence: what its relaxed reads have found, by the scope that a
    /// fence needs to take it over.
    pub(super) found: Vec<[View; Scope::COUNT]>,
    /// For each register, the `wgmma` group that uses it and has not been waited for; 0 for none.
    pub(super) in_flight: Vec<u32>,
    /// For each register that some `wgmma` takes: whether it was accessed since the last `wgmma.fence`.
    pub(super) unfenced: Vec<bool>,
    /// Columns of the `wgmma` that last accumulated into a register.
    pub(super) accumulator_shape: Vec<u32>,
    /// `wgmma` groups committed so far.
    pub(super) multiply_groups: u32,
    /// `cp.async` groups and bulk groups committed, of each lane.
    pub(super) copy_groups: [u32; LANES],
    pub(super) bulk_groups: [u32; LANES],
    /// Registers a thread may use.
    pub(super) register_budget: u32,
    /// Instructions executed.
    pub(super) steps: u64,
}

impl Warp {
    pub(super) fn new(program: &Program, lanes: u32, view: &View, register_budget: u32) -> Self {
        let count = program.registers.len();
        let mask = if lanes >= WARP { ALL_LANES } else { (1 << lanes) - 1 };
        Self {
            registers: vec![[0; LANES]; count],
            live: mask,
            fibers: vec![Fiber { at: 0, mask, meetings: Vec::new(), wait: None }],
            meetings: Vec::new(),
            free_meetings: Vec::new(),
            cluster_arrived: 0,
            views: vec![view.clone(); LANES],
            time: [1; LANES],
            fenced_time: [0; LANES],
            released: vec![Default::default(); LANES],
            found: vec![Default::default(); LANES],
            in_flight: vec![0; count],
            unfenced: program.is_matrix_register.clone(),
            accumulator_shape: vec![0; count],
            multiply_groups: 0,
            copy_groups: [0; LANES],
            bulk_groups: [0; LANES],
            register_budget,
            steps: 0,
        }
    }

    /// Writes a result in some lanes.
    pub(super) fn write(&mut self, register: Register, value: &Lanes, mask: u32) {
        let target = &mut self.registers[register as usize];
        if mask == ALL_LANES {
            *target = *value;
        } else {
            lanes(mask).for_each(|lane| target[lane] = value[lane]);
        }
    }

    /// Moves a fiber to the next instruction; see [`Self::jump`].
    pub(super) fn advance(&mut self, fiber: usize) -> bool {
        let next = self.fibers[fiber].at + 1;
        self.jump(fiber, next)
    }

    /// Moves a fiber. Where it has to meet others that are not there yet, its place among the fibers is gone, and the
    /// result is false.
    pub(super) fn jump(&mut self, fiber: usize, at: u32) -> bool {
        self.fibers[fiber].at = at;
        self.fibers[fiber].wait = None;
        while let Some(&meeting) = self.fibers[fiber].meetings.last() {
            if self.meetings[meeting].at != at {
                return true;
            }
            let mask = self.fibers[fiber].mask;
            self.meetings[meeting].arrived |= mask;
            if !self.is_complete(meeting) {
                self.fibers.swap_remove(fiber);
                return false;
            }
            let done = self.close(meeting);
            self.fibers[fiber].mask = done.arrived;
            self.fibers[fiber].meetings = done.outer;
        }
        true
    }

    /// Parts a fiber: the lanes of each mask go to its target; all meet at `meeting_point`.
    pub(super) fn part(&mut self, fiber: usize, ways: &[(u32, u32)], meeting_point: u32) {
        let Some(((own_mask, own_target), others)) = ways.split_first() else { return };
        let Fiber { at, mask, mut meetings, .. } = self.fibers[fiber].clone();
        let meets_already = meetings.last().is_some_and(|last| self.meetings[*last].at == meeting_point);
        if meeting_point != END && !meets_already {
            let meeting = Meeting { at: meeting_point, members: mask, arrived: 0, outer: meetings.clone() };
            meetings.push(self.open(meeting));
        }
        for (mask, target) in others {
            self.fibers.push(Fiber { at, mask: *mask, meetings: meetings.clone(), wait: None });
            // The new one is the last, so that its going leaves the other's place alone.
            self.jump(self.fibers.len() - 1, *target);
        }
        self.fibers[fiber].mask = *own_mask;
        self.fibers[fiber].meetings = meetings;
        self.jump(fiber, *own_target);
    }

    /// Ends lanes of a fiber. Others go on at the next instruction; meetings no longer wait for those that ended.
    pub(super) fn end(&mut self, fiber: usize, ending: u32) {
        self.live &= !ending;
        let rest = self.fibers[fiber].mask & !ending;
        let meetings = self.fibers[fiber].meetings.clone();
        if rest == 0 {
            self.fibers.swap_remove(fiber);
        } else {
            self.fibers[fiber].mask = rest;
        }
        for meeting in meetings.iter().rev() {
            self.meetings[*meeting].members &= !ending;
        }
        // Those that wait for certain lanes try again: nobody waits for lanes that have returned.
        for fiber in &mut self.fibers {
            fiber.wait.take_if(|wait| matches!(wait, Wait::Lanes { .. }));
        }
        if rest != 0 {
            self.advance(fiber);
            return;
        }
        // Those that have arrived at the innermost meeting may have waited for the ended lanes alone.
        for meeting in meetings.into_iter().rev() {
            if self.meetings[meeting].arrived != 0 && self.is_complete(meeting) {
                let Meeting { at, arrived, outer, .. } = self.close(meeting);
                self.fibers.push(Fiber { at, mask: arrived, meetings: outer, wait: None });
                self.jump(self.fibers.len() - 1, at);
                return;
            }
            if self.meetings[meeting].members != 0 {
                return;
            }
            self.close(meeting);
        }
    }

    fn open(&mut self, meeting: Meeting) -> usize {
        match self.free_meetings.pop() {
            Some(place) => {
                self.meetings[place] = meeting;
                place
            }
            None => {
                self.meetings.push(meeting);
                self.meetings.len() - 1
            }
        }
    }

    /// Nobody is on the way to a meeting any more.
    fn close(&mut self, meeting: usize) -> Meeting {
        self.free_meetings.push(meeting);
        std::mem::take(&mut self.meetings[meeting])
    }

    fn is_complete(&self, meeting: usize) -> bool {
        self.meetings[meeting].arrived == self.meetings[meeting].members
    }
}

/// The lanes of a mask, as indices.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (lane < WARP).then_some(lane as usize)
    })
}

/// The lanes whose predicate is not 0.
pub(super) fn to_mask(predicate: &Lanes) -> u32 {
    predicate.iter().enumerate().fold(0, |mask, (lane, value)| mask | u32::from(*value != 0) << lane)
}
