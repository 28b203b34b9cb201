//! What an entry's instructions were executed on when it ran.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use ptx_emulator::profile::Profile;

/// Which mbarriers the instructions of an entry were executed on, and by which warps of a CTA.
#[derive(Clone, Debug, Default)]
pub struct BarrierUses {
    lines: BTreeMap<u32, Use>,
}

/// One instruction.
#[derive(Clone, Debug, Default)]
struct Use {
    warps: BTreeSet<usize>,
    /// Mbarriers, by their offsets in dynamic shared memory.
    offsets: BTreeSet<u32>,
    /// Whether it ever waited for a phase that somebody had to complete.
    waits: bool,
}

impl BarrierUses {
    /// Adds what a launch did.
    pub fn add(&mut self, profile: &Profile) {
        for (at, (_, line)) in profile.instructions.iter().enumerate() {
            let known = self.lines.entry(*line).or_default();
            let counts = profile.warps.iter().enumerate();
            known.warps.extend(counts.filter(|(_, counts)| counts[at].warps > 0).map(|(warp, _)| warp));
            if let Some(found) = profile.mbarriers.get(&(at as u32)) {
                let offsets =
                    found.addresses.iter().map(|address| address.wrapping_sub(profile.dynamic_shared));
                known.offsets.extend(offsets);
                known.waits |= found.waits;
            }
        }
    }

    /// Whether the wait of a line was executed, and each time for the phase before a barrier's first, with which every
    /// barrier begins: it passes at once, and nothing has been done that it could order.
    pub fn never_waits(&self, line: u32) -> bool {
        self.lines.get(&line).is_some_and(|Use { offsets, waits, .. }| !offsets.is_empty() && !waits)
    }

    /// Who executed the instruction of a line, on what.
    pub fn describe(&self, line: u32) -> String {
        let Some(Use { warps, offsets, .. }) = self.lines.get(&line) else { return "unknown".to_owned() };
        let mut text = match (warps.first(), warps.last()) {
            (Some(first), Some(last)) => format!("warps {first}..={last}"),
            _ => "never executed".to_owned(),
        };
        for (index, offset) in offsets.iter().enumerate() {
            let before = if index == 0 { ", mbarriers at offsets " } else { " " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{before}{offset}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptx_emulator::profile::{Counts, MbarrierUse};

    #[test]
    fn a_line_tells_its_warps_and_barriers() {
        let executed = |counts: [u64; 3]| counts.map(|warps| Counts { warps, ..Counts::default() }).to_vec();
        let on = |addresses: [u32; 2], waits| MbarrierUse { addresses: addresses.into(), waits };
        let profile = Profile {
            instructions: [7, 8, 9].map(|line| (String::new(), line)).to_vec(),
            warps: vec![executed([0, 1, 0]), executed([2, 0, 0]), executed([1, 0, 0])],
            mbarriers: [(0, on([1088, 1096], false)), (1, on([1096, 1104], true))].into(),
            dynamic_shared: 1024,
        };
        let mut uses = BarrierUses::default();
        uses.add(&profile);
        assert!(uses.never_waits(7) && !uses.never_waits(8) && !uses.never_waits(9));
        assert_eq!(uses.describe(7), "warps 1..=2, mbarriers at offsets 64 72");
        assert_eq!(uses.describe(9), "never executed");
    }
}
