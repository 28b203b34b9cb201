//! Loads, stores and atomic operations of threads; addresses.

use super::cta::Cta;
use super::warp::{WARP, lanes};
use super::{Place, Unit};
use crate::arithmetic::LANES;
use crate::diagnostic::Check;
use crate::memory::Allocation;
use crate::order::{Epoch, Kind, Observer, View};
use crate::program::{
    Address, Atomic, AtomicOperation, Load, Register, SHARED_BASE, Source, Space, Store, sign_extend,
    truncate,
};
use ptx_syntax::ast::Type;

/// Where the windows of other spaces lie among generic addresses; each is 4 GiB.
const SHARED_WINDOW: u64 = 0x0100_0000_0000;
const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
const PARAM_WINDOW: u64 = 0x0300_0000_0000;
const WINDOW_BYTES: u64 = 1 << 32;

/// An address of shared memory holds the rank of the CTA in its cluster, plus 1, above this bit; 0 is the own CTA.
const RANK_SHIFT: u32 = 24;

/// Banks of shared memory, each 4 bytes wide, and bytes of a sector of global memory.
const BANKS: u32 = 32;
const BANK_BYTES: u32 = 4;
const SECTOR_BYTES: u64 = 32;

/// A place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Global(u64),
    Shared { cta: usize, address: u32 },
    Local(u64),
    Param(u64),
}

impl Location {
    pub(super) fn address(self) -> u64 {
        match self {
            Self::Global(address) | Self::Local(address) | Self::Param(address) => address,
            Self::Shared { address, .. } => u64::from(address),
        }
    }

    pub(super) fn space(self) -> &'static str {
        match self {
            Self::Global(_) => "global",
            Self::Shared { .. } => "shared",
            Self::Local(_) => "local",
            Self::Param(_) => "parameter",
        }
    }
}

impl Unit<'_> {
    /// Rank of a CTA in its cluster.
    pub(super) fn rank(&self, cta: usize) -> u32 {
        (cta - self.cluster_of(cta)) as u32
    }

    /// The values of an address in all lanes.
    pub(super) fn addresses(&self, place: Place, address: Address) -> [u64; LANES] {
        let bits = if address.is_narrow { 32 } else { 64 };
        self.read(place, address.base).map(|base| truncate(base.wrapping_add(address.offset as u64), bits))
    }

    /// What an address means to a CTA.
    pub(super) fn locate(&self, cta: usize, space: Space, address: u64) -> Result<Location, String> {
        match space {
            Space::Global | Space::Const => Ok(Location::Global(address)),
            Space::Local => Ok(Location::Local(address)),
            Space::Param => Ok(Location::Param(address)),
            Space::SharedCta | Space::SharedCluster => {
                let address = u32::try_from(address)
                    .map_err(|_| format!("{address:#x} is no address of shared memory"))?;
                let (above, offset) = (address >> RANK_SHIFT, address & ((1 << RANK_SHIFT) - 1));
                let target = match above {
                    0 => cta,
                    above => self.cluster_of(cta) + above as usize - 1,
                };
                let size = self.context.cluster.iter().product::<u32>();
                if above > size || target >= self.ctas.len() {
                    return Err(format!("{address:#x} is in no CTA of the cluster"));
                }
                if self.ctas[target].cleaned {
                    return Err(format!(
                        "{address:#x} is in a CTA whose threads have all returned; needed is barrier.cluster before \
                         they do"
                    ));
                }
                if space == Space::SharedCta && target != cta {
                    return Err(format!("{address:#x} is in another CTA; needed is .shared::cluster"));
                }
                Ok(Location::Shared { cta: target, address: offset })
            }
            Space::Generic => {
                let within =
                    |window: u64| address.checked_sub(window).filter(|offset| *offset < WINDOW_BYTES);
                if let Some(offset) = within(SHARED_WINDOW) {
                    self.locate(cta, Space::SharedCluster, offset)
                } else if let Some(offset) = within(LOCAL_WINDOW) {
                    Ok(Location::Local(offset))
                } else if let Some(offset) = within(PARAM_WINDOW) {
                    Ok(Location::Param(offset))
                } else {
                    Ok(Location::Global(address))
                }
            }
        }
    }

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
        let observer = Observer { seen: &view.seen, fenced: &view.fenced, own };
        let at = self.ctas[place.cta].warps[place.warp].fibers[place.fiber].at;
        let conflict = match location {
            Location::Global(address) => self.global.access(address, bytes, observer, epoch, at, kind),
            Location::Shared { cta, address } => {
                self.ctas[cta].shadow.access(address, bytes, observer, epoch, at, kind)
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

    pub(super) fn atomic(&mut self, place: Place, mask: u32, atomic: &Atomic) {
        let bytes = atomic.ty.bytes();
        let total = bytes * atomic.values.len() as u32;
        let kind = Kind { strong: atomic.order.strength(), ..Kind::WRITE };
        let values: Vec<_> = atomic.values.iter().map(|value| self.read(place, *value)).collect();
        let swap = atomic.swap.map(|swap| self.read(place, swap));
        let locations = self.locations(place, mask, atomic.space, atomic.address);
        self.count_access(place, &locations, total);
        for (lane, location) in locations {
            if !self.check_access(place, lane, location, total, kind) {
                continue;
            }
            self.synchronize_at(place, lane, unique(location), atomic.order, true, true);
            if !self.is_written(location, total) {
                let message =
                    format!("an atomic operation at {:#x}, which nothing has written", location.address());
                self.report(place, Some(lane), Check::Uninitialized, message);
            }
            let mut data = vec![0; total as usize];
            let thread = (place.cta, self.thread(place, lane));
            self.fetch(thread, location, &mut data);
            for (index, element) in data.chunks_exact_mut(bytes as usize).enumerate() {
                let old = little_endian(element);
                let new = apply(
                    atomic.operation,
                    atomic.ty,
                    old,
                    values[index][lane],
                    swap.as_ref().map(|swap| swap[lane]),
                    matches!(location, Location::Global(_)),
                );
                element.copy_from_slice(&new.to_le_bytes()[..bytes as usize]);
                if let Some(Some(register)) = atomic.results.get(index) {
                    self.warp(place).registers[*register as usize][lane] = old;
                }
            }
            self.put(thread, location, &data);
        }
    }

    pub(super) fn convert_address(
        &mut self,
        place: Place,
        mask: u32,
        result: Register,
        source: Source,
        space: Space,
        to_generic: bool,
    ) {
        let window = match space {
            Space::SharedCta | Space::SharedCluster => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            Space::Generic | Space::Global | Space::Const => 0,
        };
        let bits = self.context.program.registers[result as usize];
        let converted = self.read(place, source).map(|address| {
            let moved = if to_generic { address.wrapping_add(window) } else { address.wrapping_sub(window) };
            truncate(moved, bits)
        });
        self.write(place, result, &converted, mask);
    }

    pub(super) fn is_space(
        &mut self,
        place: Place,
        mask: u32,
        result: Register,
        source: Source,
        space: Space,
    ) {
        let addresses = self.read(place, source);
        let holds = addresses.map(|address| {
            let location = self.locate(place.cta, Space::Generic, address);
            u64::from(match (space, location) {
                (Space::SharedCta, Ok(Location::Shared { cta, .. })) => cta == place.cta,
                (Space::SharedCluster, Ok(Location::Shared { .. }))
                | (Space::Local, Ok(Location::Local(_)))
                | (Space::Param, Ok(Location::Param(_)))
                | (Space::Global, Ok(Location::Global(_))) => true,
                _ => false,
            })
        });
        self.write(place, result, &holds, mask);
    }

    pub(super) fn map_shared(
        &mut self,
        place: Place,
        mask: u32,
        result: Register,
        source: Source,
        rank: Source,
        generic: bool,
    ) {
        let (addresses, ranks) = (self.read(place, source), self.read(place, rank));
        let size: u32 = self.context.cluster.iter().product();
        let bits = self.context.program.registers[result as usize];
        let mut mapped = [0; LANES];
        for lane in lanes(mask) {
            if ranks[lane] >= u64::from(size) {
                let message = format!("rank {} in a cluster of {size}", ranks[lane]);
                self.report(place, Some(lane), Check::OutOfBounds, message);
                continue;
            }
            let window = if generic { SHARED_WINDOW } else { 0 };
            let offset = addresses[lane].wrapping_sub(window) & ((1 << RANK_SHIFT) - 1);
            mapped[lane] = truncate(window + ((ranks[lane] + 1) << RANK_SHIFT | offset), bits);
        }
        self.write(place, result, &mapped, mask);
    }

    pub(super) fn cta_rank(
        &mut self,
        place: Place,
        mask: u32,
        result: Register,
        source: Source,
        generic: bool,
    ) {
        let space = if generic { Space::Generic } else { Space::SharedCluster };
        let addresses = self.read(place, source);
        let mut ranks = [0; LANES];
        for lane in lanes(mask) {
            match self.locate(place.cta, space, addresses[lane]) {
                Ok(Location::Shared { cta, .. }) => ranks[lane] = u64::from(self.rank(cta)),
                _ => {
                    let message = format!("{:#x} is no address of shared memory", addresses[lane]);
                    self.report(place, Some(lane), Check::OutOfBounds, message);
                }
            }
        }
        self.write(place, result, &ranks, mask);
    }

    /// Counts bytes, bank conflicts and sectors of an access by some lanes.
    pub(super) fn count_access(&mut self, place: Place, locations: &[(usize, Location)], bytes: u32) {
        if !self.context.options.checks.profile || locations.is_empty() {
            return;
        }
        let total = u64::from(bytes) * locations.len() as u64;
        match locations[0].1 {
            Location::Shared { .. } => {
                let addresses: Vec<(usize, u32)> =
                    locations.iter().map(|(lane, location)| (*lane, location.address() as u32)).collect();
                let conflicts = bank_conflicts(&addresses, bytes);
                self.count(place, |counts| {
                    counts.shared_bytes += total;
                    counts.bank_conflicts += conflicts;
                });
            }
            Location::Global(_) => {
                let addresses: Vec<u64> = locations.iter().map(|(_, location)| location.address()).collect();
                let (sectors, fewest) = sectors(&addresses, bytes);
                self.count(place, |counts| {
                    counts.global_bytes += total;
                    counts.sectors += sectors;
                    counts.excess_sectors += sectors - fewest;
                });
            }
            Location::Local(_) | Location::Param(_) => {}
        }
    }
}

/// Cycles beyond the fewest: lanes are served in groups that together access 128 bytes, and of each group every bank
/// gives one word a cycle.
pub(super) fn bank_conflicts(addresses: &[(usize, u32)], bytes: u32) -> u64 {
    let words = bytes.div_ceil(BANK_BYTES).max(1);
    let group = (WARP / words).max(1) as usize;
    let mut conflicts = 0;
    for first in (0..WARP as usize).step_by(group) {
        let mut accessed: Vec<u32> = addresses
            .iter()
            .filter(|(lane, _)| (first..first + group).contains(lane))
            .flat_map(|(_, address)| (0..words).map(move |word| address / BANK_BYTES + word))
            .collect();
        accessed.sort_unstable();
        accessed.dedup();
        let mut per_bank = [0_u64; BANKS as usize];
        accessed.iter().for_each(|word| per_bank[(word % BANKS) as usize] += 1);
        conflicts += per_bank.into_iter().max().unwrap_or(0).saturating_sub(1);
    }
    conflicts
}

/// Sectors touched, and the fewest that hold as many different bytes.
fn sectors(addresses: &[u64], bytes: u32) -> (u64, u64) {
    let mut distinct = addresses.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let fewest = (distinct.len() as u64 * u64::from(bytes)).div_ceil(SECTOR_BYTES);
    let mut touched: Vec<u64> = distinct
        .iter()
        .flat_map(|address| {
            address / SECTOR_BYTES..address.saturating_add(u64::from(bytes)).div_ceil(SECTOR_BYTES)
        })
        .collect();
    touched.dedup();
    (touched.len() as u64, fewest.min(touched.len() as u64))
}

/// Whether bytes at an address lie within the first `size`.
fn fits(address: u64, bytes: u32, size: u64) -> bool {
    address.checked_add(u64::from(bytes)).is_some_and(|end| end <= size)
}

/// A number for a location that no other has.
fn unique(location: Location) -> u64 {
    match location {
        Location::Shared { cta, address } => SHARED_WINDOW | (cta as u64) << RANK_SHIFT | u64::from(address),
        other => other.address(),
    }
}

pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// What an atomic operation leaves behind. In global memory sums of f32 are without subnormal numbers, which `flushes`
/// tells (PTX ISA, "atom"). NaN of 16 and 32 bits is canonical, as the hardware writes it.
pub(super) fn apply(
    operation: AtomicOperation,
    ty: Type,
    old: u64,
    value: u64,
    swap: Option<u64>,
    flushes: bool,
) -> u64 {
    const NAN: f32 = f32::from_bits(0x7fff_ffff);
    const HALF_NAN: u16 = 0x7fff;
    let bits = ty.bytes() * 8;
    let signed = matches!(ty, Type::S32 | Type::S64 | Type::S16 | Type::S8);
    let less = |a: u64, b: u64| {
        if signed { (sign_extend(a, bits) as i64) < sign_extend(b, bits) as i64 } else { a < b }
    };
    let pair = |combine: fn(f32, f32) -> f32, widen: fn(u16) -> f32, narrow: fn(f32) -> u16| {
        (0..bits / 16).fold(0, |result, half| {
            let part = |value: u64| widen((value >> (16 * half)) as u16);
            let combined = combine(part(old), part(value));
            let bits = if combined.is_nan() { HALF_NAN } else { narrow(combined) };
            result | u64::from(bits) << (16 * half)
        })
    };
    let float = |f32_op: fn(f32, f32) -> f32, f64_op: fn(f64, f64) -> f64| match ty {
        Type::F32 => {
            let flushed = |x: f32| if flushes && x.is_subnormal() { 0.0_f32.copysign(x) } else { x };
            let part = |value: u64| flushed(f32::from_bits(value as u32));
            let result = flushed(f32_op(part(old), part(value)));
            Some(u64::from(if result.is_nan() { NAN } else { result }.to_bits()))
        }
        Type::F64 => Some(f64_op(f64::from_bits(old), f64::from_bits(value)).to_bits()),
        Type::F16 | Type::F16x2 => {
            Some(pair(f32_op, |x| half::f16::from_bits(x).to_f32(), |x| half::f16::from_f32(x).to_bits()))
        }
        Type::Bf16 | Type::Bf16x2 => {
            Some(pair(f32_op, |x| half::bf16::from_bits(x).to_f32(), |x| half::bf16::from_f32(x).to_bits()))
        }
        _ => None,
    };
    let new = match operation {
        AtomicOperation::And => old & value,
        AtomicOperation::Or => old | value,
        AtomicOperation::Xor => old ^ value,
        AtomicOperation::Exchange => value,
        AtomicOperation::CompareAndSwap => {
            if old == value {
                swap.unwrap_or(old)
            } else {
                old
            }
        }
        AtomicOperation::Add => float(|a, b| a + b, |a, b| a + b).unwrap_or_else(|| old.wrapping_add(value)),
        AtomicOperation::Increment => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        AtomicOperation::Decrement => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        AtomicOperation::Min => {
            float(smaller, f64::min).unwrap_or_else(|| if less(value, old) { value } else { old })
        }
        AtomicOperation::Max => {
            float(larger, f64::max).unwrap_or_else(|| if less(old, value) { value } else { old })
        }
    };
    truncate(new, bits)
}

/// The smaller of two numbers, where -0 is smaller than +0; of a number and NaN the number.
fn smaller(a: f32, b: f32) -> f32 {
    if a < b || b.is_nan() || a == b && a.is_sign_negative() { a } else { b }
}

fn larger(a: f32, b: f32) -> f32 {
    -smaller(-a, -b)
}
