//! Addresses: what they mean to a CTA, and the instructions that turn one kind into another.

use super::warp::lanes;
use super::{Place, Unit};
use crate::arithmetic::LANES;
use crate::diagnostic::Check;
use crate::program::{Address, Register, Source, Space, truncate};

/// Where the windows of other spaces lie among generic addresses; each is 4 GiB.
const SHARED_WINDOW: u64 = 0x0100_0000_0000;
const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
const PARAM_WINDOW: u64 = 0x0300_0000_0000;
const WINDOW_BYTES: u64 = 1 << 32;

/// An address of shared memory holds the rank of the CTA in its cluster, plus 1, above this bit; 0 is the own CTA.
const RANK_SHIFT: u32 = 24;

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
}

/// A number for a location that no other has.
pub(super) fn unique(location: Location) -> u64 {
    match location {
        Location::Shared { cta, address } => SHARED_WINDOW | (cta as u64) << RANK_SHIFT | u64::from(address),
        other => other.address(),
    }
}
