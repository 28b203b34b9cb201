//! Loads and stores of threads, and what is checked of every access.

use super::addresses::{Location, unique};
use super::cta::Cta;
use super::warp::lanes;
use super::{Place, Unit};
use crate::arithmetic::LANES;
use crate::diagnostic::Check;
use crate::memory::Allocation;
use crate::order::{Epoch, Kind, Observer, View};
use crate::program::{Address, Load, SHARED_BASE, Space, Store, sign_extend, truncate};

impl Unit<'_> {
    /// Checks an access of a lane in every respect; false where it cannot be made.
    pub(super) fn check_access(
        &mut self,
        place: Place,
        lane: usize,
        location: Location,
        bytes: u32,
        kind: Kind,
    ) -> bool {
        let address = location.address();
        let size = bytes.next_power_of_two();
        let (what, space) = (if kind.writes { "a write" } else { "a read" }, location.space());
        if !address.is_multiple_of(u64::from(size)) {
            let message = format!(
                "{what} of {bytes} bytes at {address:#x} in {space} memory; needed is a multiple of {size}"
            );
            self.report(place, Some(lane), Check::Misaligned, message);
            return false;
        }
        if !self.exists(location, bytes) {
            let message = format!(
                "{what} of {bytes} bytes at {address:#x} in {space} memory, {}",
                self.bounds(location)
            );
            self.report(place, Some(lane), Check::OutOfBounds, message);
            return false;
        }
        if kind.writes && matches!(location, Location::Param(_)) {
            let message =
                format!("a write of {bytes} bytes at {address:#x} in parameter memory, which is read-only");
            self.report(place, Some(lane), Check::OutOfBounds, message);
            return false;
        }
        if !kind.writes && !self.is_written(location, bytes) {
            let message =
                format!("{bytes} bytes at {address:#x} in {space} memory, which nothing has written");
            self.report(place, Some(lane), Check::Uninitialized, message);
        }
        if let Location::Shared { cta, address } = location {
            self.check_no_mbarrier(place, lane, cta, address, bytes);
        }
        let view = self.ctas[place.cta].warps[place.warp].views[lane].clone();
        let fenced = self.ctas[place.cta].warps[place.warp].fenced_time[lane];
        let epoch = self.epoch(place, lane);
        let own = Some(Epoch { time: fenced, ..epoch });
        self.order_access(place, Some(lane), location, bytes, &view, own, epoch, kind);
        true
    }

    /// Notes an access for the detection of races.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn order_access(
        &mut self,
        place: Place,
        lane: Option<usize>,
        location: Location,
        bytes: u32,
        view: &View,
        own: Option<Epoch>,
        epoch: Epoch,
        kind: Kind,
    ) {
        if !self.context.options.checks.races || bytes == 0 {
            return;
        }
        let observer = Observer { seen: &view.seen, fenced: &view.fenced, over: view.over.as_deref(), own };
        let at = self.ctas[place.cta].warps[place.warp].fibers[place.fiber].at;
        let conflict = match location {
            Location::Global(address) => {
                self.order_after_grids(place, lane, (address, bytes), view, kind);
                self.global.access(address, bytes, observer, epoch, at, kind)
            }
            Location::Shared { cta, address } => {
                self.ctas[cta].shadow.access([address], bytes, observer, epoch, at, kind)
            }
            Location::Local(_) | Location::Param(_) => None,
        };
        if let Some(conflict) = conflict {
            self.report_conflict(place, lane, kind, location.space(), &conflict);
        }
    }

    /// Whether all of these bytes are there.
    pub(super) fn exists(&self, location: Location, bytes: u32) -> bool {
        match location {
            Location::Global(address) => self.allocation(address, bytes).is_some(),
            Location::Shared { cta, address } => self.ctas[cta].has_shared(address, bytes),
            Location::Local(address) => fits(address, bytes, u64::from(self.context.program.local_bytes)),
            Location::Param(address) => fits(address, bytes, self.context.parameters.len() as u64),
        }
    }

    /// What there is instead of an access out of bounds.
    pub(super) fn bounds(&self, location: Location) -> String {
        match location {
            Location::Global(address) => {
                let below = self.context.allocations.iter().rfind(|allocation| allocation.base <= address);
                match below {
                    Some(a) => format!(
                        "which is {} bytes behind the beginning of an allocation of {}",
                        address - a.base,
                        a.bytes
                    ),
                    None => "below every allocation".into(),
                }
            }
            Location::Shared { cta, .. } => {
                format!("where the CTA has {SHARED_BASE:#x}..{:#x}", self.ctas[cta].shared.len())
            }
            Location::Local(_) => format!("where a thread has {} bytes", self.context.program.local_bytes),
            Location::Param(_) => format!("where the entry has {} bytes", self.context.parameters.len()),
        }
    }

    fn allocation(&self, address: u64, bytes: u32) -> Option<&Allocation> {
        self.context.allocation(address, u64::from(bytes))
    }

    pub(super) fn is_written(&self, location: Location, bytes: u32) -> bool {
        match location {
            Location::Global(address) => {
                self.allocation(address, bytes).is_none_or(|a| a.is_written(address, u64::from(bytes)))
            }
            Location::Shared { cta, address } => self.ctas[cta].written
                [address as usize..(address + bytes) as usize]
                .iter()
                .all(|written| *written),
            Location::Local(_) | Location::Param(_) => true,
        }
    }

    /// Reads bytes that are there.
    pub(super) fn fetch(&self, thread: (usize, u32), location: Location, data: &mut [u8]) {
        match location {
            Location::Global(address) => {
                if let Some(allocation) = self.allocation(address, data.len() as u32) {
                    allocation.load(address, data);
                }
            }
            Location::Shared { cta, address } => {
                let start = address as usize;
                data.copy_from_slice(&self.ctas[cta].shared[start..start + data.len()]);
            }
            Location::Local(address) => {
                let memory = &self.ctas[thread.0].local[thread.1 as usize];
                let start = address as usize;
                for (index, byte) in data.iter_mut().enumerate() {
                    *byte = memory.get(start + index).copied().unwrap_or(0);
                }
            }
            Location::Param(address) => {
                let start = address as usize;
                data.copy_from_slice(&self.context.parameters[start..start + data.len()]);
            }
        }
    }

    /// Writes bytes that are there.
    pub(super) fn put(&mut self, thread: (usize, u32), location: Location, data: &[u8]) {
        match location {
            Location::Global(address) => {
                if let Some(allocation) = self.allocation(address, data.len() as u32) {
                    allocation.store(address, data);
                }
            }
            Location::Shared { cta, address } => {
                let range = address as usize..address as usize + data.len();
                let Cta { shared, written, .. } = &mut self.ctas[cta];
                shared[range.clone()].copy_from_slice(data);
                written[range].fill(true);
            }
            Location::Local(address) => {
                let bytes = self.context.program.local_bytes as usize;
                let memory = &mut self.ctas[thread.0].local[thread.1 as usize];
                memory.resize(bytes, 0);
                memory[address as usize..address as usize + data.len()].copy_from_slice(data);
            }
            // Parameters of an entry are read-only; the grammar has no store to them.
            Location::Param(_) => {}
        }
    }

    /// Where the lanes of a fiber access memory; lanes whose address means nothing are reported and left out.
    pub(super) fn locations(
        &mut self,
        place: Place,
        mask: u32,
        space: Space,
        address: Address,
    ) -> Vec<(usize, Location)> {
        let addresses = self.addresses(place, address);
        let mut found = Vec::with_capacity(LANES);
        for lane in lanes(mask) {
            match self.locate(place.cta, space, addresses[lane]) {
                Ok(location) => found.push((lane, location)),
                Err(message) => self.report(place, Some(lane), Check::OutOfBounds, message),
            }
        }
        found
    }

    pub(super) fn load(&mut self, place: Place, mask: u32, load: &Load) {
        let total = load.bytes * load.results.len() as u32;
        let kind = Kind { strong: load.order.strength(), ..Kind::READ };
        let program = self.context.program;
        let locations = self.locations(place, mask, load.space, load.address);
        self.count_access(place, &locations, total);
        for (lane, location) in locations {
            let mut data = [0; 64];
            let data = &mut data[..total as usize];
            if self.check_access(place, lane, location, total, kind) {
                self.fetch((place.cta, self.thread(place, lane)), location, data);
                if load.order.strong {
                    self.synchronize_at(place, lane, unique(location), load.order, true, false);
                }
            }
            for (register, bytes) in load.results.iter().zip(data.chunks_exact(load.bytes as usize)) {
                let Some(register) = register else { continue };
                let mut value = little_endian(bytes);
                if load.signed {
                    value =
                        truncate(sign_extend(value, load.bytes * 8), program.registers[*register as usize]);
                }
                self.warp(place).registers[*register as usize][lane] = value;
            }
        }
    }

    pub(super) fn store(&mut self, place: Place, mask: u32, store: &Store) {
        let total = store.bytes * store.values.len() as u32;
        let kind = Kind { strong: store.order.strength(), ..Kind::WRITE };
        let values: Vec<_> = store.values.iter().map(|value| self.read(place, *value)).collect();
        let locations = self.locations(place, mask, store.space, store.address);
        self.count_access(place, &locations, total);
        for (lane, location) in locations {
            if !self.check_access(place, lane, location, total, kind) {
                continue;
            }
            if store.order.strong {
                self.synchronize_at(place, lane, unique(location), store.order, false, true);
            }
            let bytes = store.bytes as usize;
            let data: Vec<u8> =
                values.iter().flat_map(|value| value[lane].to_le_bytes().into_iter().take(bytes)).collect();
            self.put((place.cta, self.thread(place, lane)), location, &data);
        }
    }
}

/// Whether bytes at an address lie within the first `size`.
fn fits(address: u64, bytes: u32, size: u64) -> bool {
    address.checked_add(u64::from(bytes)).is_some_and(|end| end <= size)
}

pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
