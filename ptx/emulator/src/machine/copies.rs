//! Asynchronous copies: `cp.async`, `st.async`, and what waits to happen; see `bulk` for bulk copies.
//!
//! A copy is judged when it is issued: from then on its source and destination are in use until whoever waits for it
//! knows that it is done. Its bytes move later, when the seed says so or a wait needs them.

use super::access::little_endian;
use super::addresses::Location;
use super::atomics::apply;
use super::cta::Actor;
use super::mbarriers::Step;
use super::warp::lanes;
use super::{Place, Unit};
use crate::diagnostic::Check;
use crate::order::{Epoch, Kind, View};
use crate::program::{Address, AtomicOperation, CopyAsync, Source, Space};
use ptx_syntax::ast::Type;
use rand::RngExt;

/// Copies that may happen at one time.
const BURST: usize = 32;

/// An asynchronous operation whose effect is still to come.
#[derive(Debug)]
pub(super) struct Pending {
    /// Of the thread that issued it.
    pub(super) cta: usize,
    pub(super) thread: u32,
    /// The instruction.
    pub(super) at: u32,
    pub(super) effect: Effect,
}

#[derive(Debug)]
pub(super) enum Effect {
    /// A `cp.async` in a group of its thread.
    Copy { group: u32, transfer: Transfer },
    /// An arrival at a barrier once the thread's copies up to a group are done.
    Arrive { group: u32, address: u32 },
    /// Bulk copies, stores and reductions.
    Bulk {
        transfers: Vec<Transfer>,
        fill: [u8; 16],
        reduction: Option<(AtomicOperation, Type)>,
        end: BulkEnd,
    },
    /// The oldest `wgmma` of a warpgroup.
    Multiply { warpgroup: usize },
}

/// Who learns that a bulk copy is done.
#[derive(Debug)]
pub(super) enum BulkEnd {
    /// A barrier, to which it brings `bytes`, and the phase in which the barrier was at the issue.
    Barrier { cta: usize, address: u32, bytes: u32, phase: u32 },
    /// The thread's bulk group.
    Group(u32),
}

/// Bytes on their way. `data` is for stores whose values are known at the issue.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) from: Option<Location>,
    pub(super) to: Location,
    pub(super) bytes: u32,
    /// Bytes to read, where that is fewer: the rest becomes zeros.
    pub(super) read: u32,
    pub(super) data: Vec<u8>,
}

impl Pending {
    pub(super) fn is_multiply(&self) -> bool {
        matches!(self.effect, Effect::Multiply { .. })
    }

    /// Thread and instruction, if the operation uses shared memory of this CTA.
    pub(super) fn endangers(&self, cta: usize) -> Option<(u32, u32)> {
        let is_there =
            |location: Location| matches!(location, Location::Shared { cta: other, .. } if other == cta);
        let uses = match &self.effect {
            Effect::Copy { transfer, .. } => is_there(transfer.to),
            Effect::Bulk { transfers, .. } => {
                transfers.iter().any(|transfer| is_there(transfer.to) || transfer.from.is_some_and(is_there))
            }
            Effect::Arrive { .. } => self.cta == cta,
            Effect::Multiply { .. } => self.cta == cta,
        };
        uses.then_some((self.thread, self.at))
    }
}

impl Unit<'_> {
    /// Lets a pending operation happen, and at times some of its neighbours.
    pub(super) fn complete(&mut self, index: usize) {
        let burst = 1 + self.random.random_range(0..BURST);
        for _ in 0..burst {
            if self.pending.is_empty() {
                return;
            }
            let index = index.min(self.pending.len() - 1);
            self.happen(index);
        }
    }

    pub(super) fn happen(&mut self, index: usize) {
        let Pending { cta, thread, at, effect } = self.pending.swap_remove(index);
        match effect {
            Effect::Copy { transfer, .. } => self.transfer((cta, thread), &transfer, [0; 16], None),
            Effect::Arrive { group, address } => {
                self.complete_copies(cta, thread, group);
                let step = Step::Arrive { count: 1, expect: 0, drop: false };
                if let Some(message) = self.count_at_mbarrier(cta, address, step) {
                    self.report_at(cta, thread, at, Check::Mbarrier, message);
                }
            }
            Effect::Bulk { transfers, fill, reduction, end } => {
                for transfer in &transfers {
                    self.transfer((cta, thread), transfer, fill, reduction);
                }
                let BulkEnd::Barrier { cta: target, address, bytes, phase } = end else { return };
                let now = self.mbarrier_phase(target, address);
                if now != Some(phase) {
                    let message = match now {
                        Some(now) => format!(
                            "{bytes} bytes arrive at the mbarrier at {address:#x} in phase {now}, and were asked for in \
                             phase {phase}; needed is an expect_tx in the same phase"
                        ),
                        None => {
                            format!(
                                "{bytes} bytes arrive at {address:#x}, where there is no mbarrier any more"
                            )
                        }
                    };
                    self.report_at(cta, thread, at, Check::Mbarrier, message);
                }
                if let Some(message) = self.count_at_mbarrier(target, address, Step::Complete(bytes)) {
                    self.report_at(cta, thread, at, Check::Mbarrier, message);
                }
            }
            Effect::Multiply { warpgroup } => self.multiply(cta, warpgroup),
        }
    }

    fn transfer(
        &mut self,
        thread: (usize, u32),
        transfer: &Transfer,
        fill: [u8; 16],
        reduction: Option<(AtomicOperation, Type)>,
    ) {
        let mut data: Vec<u8> = fill.iter().copied().cycle().take(transfer.bytes as usize).collect();
        match transfer.from {
            Some(from) => self.fetch(thread, from, &mut data[..transfer.read as usize]),
            None => data[..transfer.data.len()].copy_from_slice(&transfer.data),
        }
        if let Some((operation, ty)) = reduction {
            let mut there = vec![0; data.len()];
            self.fetch(thread, transfer.to, &mut there);
            let size = ty.bytes() as usize;
            for (new, old) in data.chunks_exact_mut(size).zip(there.chunks_exact(size)) {
                // Unlike `atom`, the copy engine keeps subnormal numbers, in global memory too.
                let value = apply(operation, ty, little_endian(old), little_endian(new), None, false);
                new.copy_from_slice(&value.to_le_bytes()[..size]);
            }
        }
        self.put(thread, transfer.to, &data);
        // What was never written does not become written by being copied.
        if let (Some(Location::Global(from)), Location::Shared { cta, address: to }) =
            (transfer.from, transfer.to)
            && let Some(allocation) = self.context.allocation(from, u64::from(transfer.read))
        {
            let to = to as usize;
            allocation.copy_written(from, &mut self.ctas[cta].written[to..to + transfer.read as usize]);
        }
    }

    pub(super) fn push(&mut self, place: Place, lane: usize, effect: Effect) {
        let at = self.ctas[place.cta].warps[place.warp].fibers[place.fiber].at;
        let thread = self.thread(place, lane);
        self.pending.push(Pending { cta: place.cta, thread, at, effect });
    }

    /// Puts off a `wgmma` that all warps of the warpgroup have issued.
    pub(super) fn push_multiply(&mut self, place: Place, warpgroup: usize) {
        self.push(place, 0, Effect::Multiply { warpgroup });
    }

    /// Lets a warpgroup's oldest `wgmma` happen now.
    pub(super) fn complete_multiply(&mut self, cta: usize, warpgroup: usize) {
        let is_it = |pending: &Pending| {
            pending.cta == cta
                && matches!(pending.effect, Effect::Multiply { warpgroup: other } if other == warpgroup)
        };
        if let Some(index) = self.pending.iter().position(is_it) {
            self.happen(index);
        }
    }

    /// Checks both ends of a copy; false where it cannot be made.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn check_copy(
        &mut self,
        place: Place,
        lane: usize,
        location: Location,
        bytes: u32,
        align: u64,
        epoch: Epoch,
        kind: Kind,
    ) -> bool {
        let (address, space) = (location.address(), location.space());
        let what = if kind.writes { "to" } else { "from" };
        if !address.is_multiple_of(align) {
            let message =
                format!("a copy {what} {address:#x} in {space} memory; needed is a multiple of {align}");
            self.report(place, Some(lane), Check::Misaligned, message);
            return false;
        }
        if !self.exists(location, bytes) {
            let bounds = self.bounds(location);
            let message = format!("a copy of {bytes} bytes {what} {address:#x} in {space} memory, {bounds}");
            self.report(place, Some(lane), Check::OutOfBounds, message);
            return false;
        }
        if let Location::Shared { cta, address } = location {
            if kind.writes {
                self.check_no_mbarrier(place, lane, cta, address, bytes);
            } else if !self.is_written(location, bytes) {
                let message =
                    format!("{bytes} bytes from {address:#x} in shared memory on, which nothing has written");
                self.report(place, Some(lane), Check::Uninitialized, message);
            }
        }
        let warp = &self.ctas[place.cta].warps[place.warp];
        let view = warp.views[lane].clone();
        let own = Epoch { time: warp.fenced_time[lane], ..self.epoch(place, lane) };
        self.order_access(place, Some(lane), location, bytes, &view, Some(own), epoch, kind);
        true
    }

    pub(super) fn copy_async(&mut self, place: Place, mask: u32, copy: &CopyAsync) {
        let sources = self.addresses(place, copy.source);
        let sizes = copy.source_bytes.map(|size| self.read(place, size));
        let ignored = copy.ignore.map(|ignore| self.read(place, ignore));
        let destinations = self.locations(place, mask, Space::SharedCta, copy.destination);
        self.count_access(place, &destinations, copy.bytes);
        let threads = self.ctas[place.cta].threads;
        let mut read_lanes = Vec::new();
        for (lane, to) in destinations {
            let read = match (&sizes, &ignored) {
                (_, Some(ignored)) if ignored[lane] != 0 => 0,
                (Some(sizes), _) => sizes[lane] as u32,
                _ => copy.bytes,
            };
            if read > copy.bytes {
                let message = format!("{read} bytes are to be read; needed are at most {}", copy.bytes);
                self.report(place, Some(lane), Check::BulkCopy, message);
                continue;
            }
            let group = self.ctas[place.cta].warps[place.warp].copy_groups[lane] + 1;
            let epoch = Actor::Copies(self.thread(place, lane)).at(place.cta, threads, group);
            let align = u64::from(copy.bytes);
            let from = Location::Global(sources[lane]);
            // Nothing is read, so the address may be anything.
            if read > 0 {
                if !self.check_copy(place, lane, from, read, align, epoch, Kind::READ) {
                    continue;
                }
                if !self.is_written(from, read) {
                    let message = format!(
                        "{read} bytes at {:#x} in global memory, which nothing has written",
                        from.address()
                    );
                    self.report(place, Some(lane), Check::Uninitialized, message);
                }
                read_lanes.push((lane, from));
            }
            if self.check_copy(place, lane, to, copy.bytes, align, epoch, Kind::WRITE) {
                let from = (read > 0).then_some(from);
                let transfer = Transfer { from, to, bytes: copy.bytes, read, data: Vec::new() };
                self.push(place, lane, Effect::Copy { group, transfer });
            }
        }
        // Of copies that read fewer bytes than they write there are few; they count as if they read all.
        self.count_access(place, &read_lanes, copy.bytes);
    }

    pub(super) fn commit_copies(&mut self, place: Place, mask: u32) {
        let groups = &mut self.warp(place).copy_groups;
        lanes(mask).for_each(|lane| groups[lane] += 1);
    }

    pub(super) fn wait_for_copies(&mut self, place: Place, mask: u32, pending: Option<u32>) {
        if pending.is_none() {
            self.commit_copies(place, mask);
        }
        let threads = self.ctas[place.cta].threads;
        for lane in lanes(mask) {
            let done =
                self.ctas[place.cta].warps[place.warp].copy_groups[lane].saturating_sub(pending.unwrap_or(0));
            let thread = self.thread(place, lane);
            self.complete_copies(place.cta, thread, done);
            let epoch = Actor::Copies(thread).at(place.cta, threads, done);
            self.warp(place).views[lane].seen.raise(epoch);
        }
    }

    /// Lets a thread's copies up to a group happen now.
    fn complete_copies(&mut self, cta: usize, thread: u32, up_to: u32) {
        let mut index = 0;
        while index < self.pending.len() {
            let pending = &self.pending[index];
            let is_due = matches!(pending.effect, Effect::Copy { group, .. } if group <= up_to);
            if is_due && (pending.cta, pending.thread) == (cta, thread) {
                self.happen(index);
            } else {
                index += 1;
            }
        }
    }

    pub(super) fn arrive_after_copies(
        &mut self,
        place: Place,
        mask: u32,
        address: Address,
        space: Space,
        counts: bool,
    ) {
        let threads = self.ctas[place.cta].threads;
        for (lane, location) in self.locations(place, mask, space, address) {
            let Location::Shared { cta, address } = location else { continue };
            if cta != place.cta || !self.check_mbarrier(place, lane, cta, address) {
                continue;
            }
            // Later copies are another group: this arrival does not wait for them.
            let group = &mut self.warp(place).copy_groups[lane];
            *group += 1;
            let group = *group;
            let mut view = View::default();
            view.seen.raise(Actor::Copies(self.thread(place, lane)).at(place.cta, threads, group));
            self.publish_at_mbarrier(cta, address, &view);
            let wrong = if counts { self.expect_arrival(cta, address) } else { None };
            if let Some(message) = wrong {
                self.report(place, Some(lane), Check::Mbarrier, message);
            }
            self.push(place, lane, Effect::Arrive { group, address });
        }
    }

    /// `st.async`: stores into another CTA's shared memory and completes on a barrier there.
    pub(super) fn store_async(
        &mut self,
        place: Place,
        mask: u32,
        address: Address,
        values: &[Source],
        bytes: u32,
        barrier: Address,
    ) {
        let total = bytes * values.len() as u32;
        let barriers = self.addresses(place, barrier);
        let values: Vec<_> = values.iter().map(|value| self.read(place, *value)).collect();
        for (lane, to) in self.locations(place, mask, Space::SharedCluster, address) {
            let Location::Shared { cta, .. } = to else { continue };
            let Some((barrier_cta, barrier)) = self.mbarrier_location(place, lane, barriers[lane]) else {
                continue;
            };
            if barrier_cta != cta {
                let message = "the mbarrier is not in the CTA that gets the data".to_owned();
                self.report(place, Some(lane), Check::BulkCopy, message);
                continue;
            }
            if !self.check_mbarrier(place, lane, cta, barrier) {
                continue;
            }
            let epoch = self.completion_epoch(cta, barrier);
            if !self.check_copy(place, lane, to, total, u64::from(total), epoch, Kind::WRITE) {
                continue;
            }
            let data: Vec<u8> = values
                .iter()
                .flat_map(|value| value[lane].to_le_bytes().into_iter().take(bytes as usize))
                .collect();
            let phase = self.mbarrier_phase(cta, barrier).unwrap_or(0);
            let transfer = Transfer { from: None, to, bytes: total, read: 0, data };
            let end = BulkEnd::Barrier { cta, address: barrier, bytes: total, phase };
            self.push(
                place,
                lane,
                Effect::Bulk { transfers: vec![transfer], fill: [0; 16], reduction: None, end },
            );
        }
    }
}
