//! What an entry's instructions were executed on when it ran.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::Range;

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

    /// Whether the instruction of a line was executed on mbarriers, all of them in these ranges of offsets.
    pub fn is_only_on(&self, line: u32, ranges: &[Range<u32>]) -> bool {
        self.lines.get(&line).is_some_and(|Use { offsets, .. }| {
            !offsets.is_empty()
                && offsets.iter().all(|offset| ranges.iter().any(|range| range.contains(offset)))
        })
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
