//! What accesses cost: bytes, bank conflicts, sectors.

use super::addresses::Location;
use super::warp::WARP;
use super::{Place, Unit};

/// Banks of shared memory, each 4 bytes wide, and bytes of a sector of global memory.
const BANKS: u32 = 32;
const BANK_BYTES: u32 = 4;
const SECTOR_BYTES: u64 = 32;

impl Unit<'_> {
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
