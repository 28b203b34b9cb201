//! Global memory that a grid has touched: for grids that may overlap it, and among its own groups of CTAs, which have no way
//! to order themselves.

use super::scope::Scope;
use super::shadow::{Access, GlobalShadow, Kind, WORD};

/// Who touched a byte: CTA and instruction, so that a finding can name both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Toucher {
    /// Number of the group of CTAs.
    pub(crate) group: u32,
    pub(crate) cta: u16,
    pub(crate) agent: u16,
    pub(crate) at: u32,
    pub(crate) writes: bool,
    /// Atomic or relaxed, for more than its own CTA.
    pub(crate) strong: bool,
}

/// Bytes in a row that one instruction of one agent touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    begin: u64,
    end: u64,
    toucher: Toucher,
}

/// What a group of CTAs wrote and read, each by address. A byte names one that did; one that was not strong, if there is any.
#[derive(Debug, Default)]
pub(crate) struct GroupFootprint {
    writes: Vec<Run>,
    reads: Vec<Run>,
}

/// What the groups of a grid touched.
#[derive(Debug, Default)]
pub(crate) struct Footprint {
    groups: Vec<GroupFootprint>,
}

impl GroupFootprint {
    pub(crate) fn of(group: u32, shadow: &GlobalShadow) -> Self {
        let mut footprint = Self::default();
        for (word, accesses) in shadow.words() {
            for (runs, writes) in [(&mut footprint.writes, true), (&mut footprint.reads, false)] {
                for byte in 0..WORD {
                    let touching = accesses
                        .iter()
                        .filter(|access| access.kind.writes == writes && access.mask() & 1 << byte != 0);
                    let Some(toucher) = touching
                        .map(|access| Toucher::of(group, access))
                        .min_by_key(|toucher| toucher.strong)
                    else {
                        continue;
                    };
                    let address = word + u64::from(byte);
                    match runs.last_mut() {
                        Some(run) if run.end == address && run.toucher == toucher => run.end += 1,
                        _ => runs.push(Run { begin: address, end: address + 1, toucher }),
                    }
                }
            }
        }
        footprint
    }

    /// The first access that conflicts with an unordered one of these bytes.
    fn conflict(&self, address: u64, bytes: u64, kind: Kind) -> Option<Toucher> {
        let end = address.saturating_add(bytes);
        let unordered = |runs: &[Run]| {
            let first = runs.partition_point(|run| run.end <= address);
            let touching = runs[first..].iter().take_while(|run| run.begin < end);
            touching.map(|run| run.toucher).find(|toucher| !(toucher.strong && kind.strong.is_some()))
        };
        unordered(&self.writes).or_else(|| if kind.writes { unordered(&self.reads) } else { None })
    }
}

impl Footprint {
    /// Of the groups in their order.
    pub(crate) fn new(groups: Vec<GroupFootprint>) -> Self {
        Self { groups }
    }

    /// An access that conflicts with an unordered one of these bytes by another grid.
    pub(crate) fn conflict(&self, address: u64, bytes: u32, kind: Kind) -> Option<Toucher> {
        self.groups.iter().find_map(|group| group.conflict(address, bytes.into(), kind))
    }

    /// The lowest address where one group wrote and another one wrote or read: both sides, of the lowest groups, and the
    /// address.
    pub(crate) fn conflict_of_groups(&self) -> Option<(Toucher, Toucher, u64)> {
        let mut runs: Vec<&Run> =
            self.groups.iter().flat_map(|group| group.writes.iter().chain(&group.reads)).collect();
        runs.sort_unstable_by_key(|run| run.begin);
        // Of the runs so far, those of two groups that reach farthest.
        let (mut writes, mut reads) = (Farthest::default(), Farthest::default());
        for run in runs {
            let reached = writes.reaches(run) || run.toucher.writes && reads.reaches(run);
            if reached {
                let address = run.begin;
                let writer = self.groups.iter().find_map(|group| group.conflict(address, 1, Kind::READ))?;
                let mut others =
                    self.groups.iter().enumerate().filter(|(group, _)| *group as u32 != writer.group);
                let other = others.find_map(|(_, group)| group.conflict(address, 1, Kind::WRITE))?;
                return Some((writer, other, address));
            }
            if run.toucher.writes { &mut writes } else { &mut reads }.add(run);
        }
        None
    }
}

/// The ends of the runs of two groups that reach farthest, the farthest first: group and end.
#[derive(Default)]
struct Farthest([Option<(u32, u64)>; 2]);

impl Farthest {
    /// Whether a run of another group reaches into this one, which begins behind it.
    fn reaches(&self, run: &Run) -> bool {
        self.0.iter().flatten().any(|(group, end)| *group != run.toucher.group && *end > run.begin)
    }

    fn add(&mut self, run: &Run) {
        let new = (run.toucher.group, run.end);
        let [first, second] = &mut self.0;
        match first {
            Some((group, end)) if *group == new.0 => *end = new.1.max(*end),
            Some((_, end)) if *end < new.1 => *second = first.replace(new),
            Some(_) if second.is_none_or(|(group, end)| group == new.0 || end < new.1) => {
                let end = second.filter(|(group, _)| *group == new.0).map_or(0, |(_, end)| end);
                *second = Some((new.0, new.1.max(end)));
            }
            Some(_) => {}
            None => *first = Some(new),
        }
    }
}

impl Toucher {
    fn of(group: u32, access: &Access) -> Self {
        Self {
            group,
            cta: access.epoch.agent.cta,
            agent: access.epoch.agent.index,
            at: access.at,
            writes: access.kind.writes,
            strong: access.kind.strong.is_some_and(|scope| scope != Scope::Cta),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Agent, Clock, Epoch, Observer};

    fn group(number: u32, accesses: &[(u64, u32, u32, Kind)]) -> GroupFootprint {
        let clock = Clock::default();
        let observer = Observer { seen: &clock, fenced: &clock, over: None, own: None };
        let epoch = Epoch { agent: Agent { cta: 0, index: 0 }, time: 1 };
        let mut shadow = GlobalShadow::default();
        for (address, bytes, at, kind) in accesses {
            shadow.access(*address, *bytes, observer, epoch, *at, *kind);
        }
        GroupFootprint::of(number, &shadow)
    }

    /// A grid that reads 64 bytes at 0x1000 and writes 8 at 0x1010, the latter perhaps atomically.
    fn footprint(strong: Option<Scope>) -> Footprint {
        let write = Kind { strong, ..Kind::WRITE };
        Footprint::new(vec![group(0, &[(0x1000, 64, 7, Kind::READ)]), group(1, &[(0x1010, 8, 9, write)])])
    }

    #[test]
    fn reads_conflict_with_writes_and_writes_with_both() {
        let footprint = footprint(None);
        let conflict = |address, bytes, kind| footprint.conflict(address, bytes, kind).map(|found| found.at);
        assert_eq!(conflict(0x1000, 16, Kind::READ), None);
        assert_eq!(conflict(0x1000, 17, Kind::READ), Some(9));
        assert_eq!(conflict(0x1017, 1, Kind::ASYNC_READ), Some(9));
        assert_eq!(conflict(0x1018, 64, Kind::READ), None);
        assert_eq!(conflict(0x0ff0, 16, Kind::WRITE), None);
        assert_eq!(conflict(0x0ff0, 17, Kind::WRITE), Some(7));
        assert_eq!(conflict(0x1040, 4, Kind::WRITE), None);
    }

    #[test]
    fn atomics_do_not_conflict_with_each_other() {
        let footprint = footprint(Some(Scope::Device));
        let atomic = Kind { strong: Some(Scope::Device), ..Kind::WRITE };
        assert_eq!(footprint.conflict(0x1010, 4, Kind::READ).map(|found| found.at), Some(9));
        assert_eq!(footprint.conflict(0x1010, 4, atomic).map(|found| found.at), Some(7), "the read");
        let atomic_read = Kind { strong: Some(Scope::Device), ..Kind::READ };
        assert_eq!(footprint.conflict(0x1010, 4, atomic_read), None);
    }

    #[test]
    fn what_lies_together_is_one_run() {
        let group = group(0, &[(0x0ff2, 100, 7, Kind::READ), (0x1010, 8, 9, Kind::WRITE)]);
        let ranges = |runs: &[Run]| runs.iter().map(|run| (run.begin, run.end)).collect::<Vec<_>>();
        assert_eq!(ranges(&group.writes), [(0x1010, 0x1018)]);
        // The write has taken the place of the read that it covers.
        assert_eq!(ranges(&group.reads), [(0x0ff2, 0x1010), (0x1018, 0x1056)]);
    }

    #[test]
    fn groups_may_read_together_and_write_apart() {
        let groups = (0..3).map(|number| {
            let apart = 0x2000 + 2 * u64::from(number);
            group(number, &[(0x1000, 64, 7, Kind::READ), (apart, 2, 7, Kind::WRITE)])
        });
        assert_eq!(Footprint::new(groups.collect()).conflict_of_groups(), None);
    }

    #[test]
    fn a_write_conflicts_with_what_other_groups_did() {
        let accesses = [
            (0x1000, 8, 7, Kind::READ),
            (0x1004, 2, 7, Kind::WRITE),
            (0x1005, 1, 7, Kind::READ),
            (0x1006, 1, 7, Kind::READ),
        ];
        let conflict = |chosen: &[usize]| {
            let groups = (0..4).map(|number| {
                let own: &[_] = if chosen.contains(&number) { &accesses[number..=number] } else { &[] };
                group(number as u32, own)
            });
            let found = Footprint::new(groups.collect()).conflict_of_groups();
            found.map(|(writer, other, address)| (writer.group, other.group, other.writes, address))
        };
        assert_eq!(conflict(&[0, 1, 2, 3]), Some((1, 0, false, 0x1004)));
        assert_eq!(conflict(&[1, 2]), Some((1, 2, false, 0x1005)));
        assert_eq!(conflict(&[1, 3]), None, "other bytes");
        assert_eq!(conflict(&[0, 2, 3]), None, "reads");
        let both = [0, 1].map(|number| group(number, &[(0x1004, 2, 7, Kind::WRITE)]));
        let found = Footprint::new(both.into()).conflict_of_groups();
        assert_eq!(found.map(|(first, second, _)| (first.group, second.group)), Some((0, 1)), "two writers");
    }

    #[test]
    fn a_long_run_is_not_forgotten_behind_short_ones() {
        let groups = [
            group(0, &[(0x1000, 64, 7, Kind::READ)]),
            group(1, &[(0x1004, 4, 7, Kind::READ), (0x1010, 4, 7, Kind::READ)]),
            group(2, &[(0x1008, 4, 7, Kind::READ)]),
            group(3, &[(0x1020, 4, 7, Kind::WRITE)]),
        ];
        let found = Footprint::new(groups.into()).conflict_of_groups();
        assert_eq!(found.map(|(writer, other, at)| (writer.group, other.group, at)), Some((3, 0, 0x1020)));
    }
}
