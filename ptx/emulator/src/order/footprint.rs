//! Global memory that a grid has touched, kept for grids that may overlap it.

use super::shadow::Kind;
use super::touched::{Touched, Toucher};

/// What a grid read and what it wrote. A byte names the first of the CTAs that did.
#[derive(Debug, Default)]
pub(crate) struct Footprint {
    writes: Vec<Run>,
    reads: Vec<Run>,
}

/// Bytes in a row that one instruction of one agent touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    begin: u64,
    end: u64,
    toucher: Toucher,
}

impl Footprint {
    pub(crate) fn of(touched: &Touched) -> Self {
        let mut footprint = Self::default();
        for (address, writer, reader) in touched.bytes() {
            for (runs, toucher) in [(&mut footprint.writes, writer), (&mut footprint.reads, reader)] {
                let Some(toucher) = toucher else { continue };
                match runs.last_mut() {
                    Some(run) if run.end == address && run.toucher == toucher => run.end += 1,
                    _ => runs.push(Run { begin: address, end: address + 1, toucher }),
                }
            }
        }
        footprint
    }

    /// The first access that conflicts with an unordered one of these bytes.
    pub(crate) fn conflict(&self, address: u64, bytes: u32, kind: Kind) -> Option<Toucher> {
        let end = address + u64::from(bytes);
        let unordered = |runs: &[Run]| {
            let first = runs.partition_point(|run| run.end <= address);
            let touching = runs[first..].iter().take_while(|run| run.begin < end);
            touching.map(|run| run.toucher).find(|toucher| !(toucher.strong && kind.strong.is_some()))
        };
        unordered(&self.writes).or_else(|| if kind.writes { unordered(&self.reads) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Agent, Clock, Epoch, GlobalShadow, Observer, Scope};

    /// A grid that reads 64 bytes at 0x1000 and writes 8 at 0x1010, the latter perhaps atomically.
    fn footprint(strong: Option<Scope>) -> Footprint {
        let clock = Clock::default();
        let observer = Observer { seen: &clock, fenced: &clock, own: None };
        let epoch = Epoch { agent: Agent { cta: 0, index: 0 }, time: 1 };
        let mut touched = Touched::default();
        let accesses = [(0, 0x1000, 64, 7, Kind::READ), (1, 0x1010, 8, 9, Kind { strong, ..Kind::WRITE })];
        for (group, address, bytes, at, kind) in accesses {
            let mut shadow = GlobalShadow::default();
            shadow.access(address, bytes, observer, epoch, at, kind);
            touched.add(group, &shadow);
        }
        Footprint::of(&touched)
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
        assert_eq!(conflict(0x0ff0, 64, Kind::WRITE), Some(9));
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
        let footprint = footprint(None);
        assert_eq!((footprint.reads.len(), footprint.writes.len()), (1, 1));
    }
}
