//! Global memory that groups of CTAs touched which have no way to order themselves.

use std::collections::HashMap;

use super::shadow::GlobalShadow;

/// Who touched a word: CTA and instruction, so that a finding can name both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Toucher {
    /// Number of the group of CTAs.
    pub(crate) group: u64,
    pub(crate) cta: u16,
    pub(crate) agent: u16,
    pub(crate) at: u32,
    pub(crate) writes: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    writer: Option<Toucher>,
    reader: Option<Toucher>,
    /// A reader of another group than `reader`.
    other_reader: Option<Toucher>,
}

/// All words touched so far, byte by byte.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    words: HashMap<u64, [Bytes; 4]>,
}

impl Touched {
    /// Adds what a group has touched. Returns the first conflict with another group: both sides and the address.
    pub(crate) fn add(&mut self, group: u64, shadow: &GlobalShadow) -> Option<(Toucher, Toucher, u64)> {
        let mut conflict = None;
        for (word, access) in shadow.accesses() {
            let new = Toucher {
                group,
                cta: access.epoch.agent.cta,
                agent: access.epoch.agent.index,
                at: access.at,
                writes: access.kind.writes,
            };
            for (byte, bytes) in self.words.entry(word).or_default().iter_mut().enumerate() {
                if access.mask() & 1 << byte == 0 {
                    continue;
                }
                let others = |toucher: &Toucher| toucher.group != group;
                let against = if new.writes {
                    bytes.writer.filter(others).or(bytes.reader.filter(others)).or(bytes.other_reader.filter(others))
                } else {
                    bytes.writer.filter(others)
                };
                conflict = conflict.or(against.map(|old| (old, new, word + byte as u64)));
                match (new.writes, bytes.reader) {
                    (true, _) => bytes.writer = Some(new),
                    (false, None) => bytes.reader = Some(new),
                    (false, Some(reader)) if reader.group != group => bytes.other_reader = Some(new),
                    (false, Some(_)) => {}
                }
            }
        }
        conflict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Agent, Clock, Epoch, Kind, Observer};

    fn shadow(address: u64, bytes: u32, kind: Kind) -> GlobalShadow {
        let clock = Clock::default();
        let observer = Observer { seen: &clock, fenced: &clock, own: None };
        let mut shadow = GlobalShadow::default();
        let epoch = Epoch { agent: Agent { cta: 0, index: 0 }, time: 1 };
        assert_eq!(shadow.access(address, bytes, observer, epoch, 7, kind), None);
        shadow
    }

    #[test]
    fn groups_may_read_together_and_write_apart() {
        let mut touched = Touched::default();
        for group in 0..3 {
            assert_eq!(touched.add(group, &shadow(0x1000, 64, Kind::READ)), None);
            assert_eq!(touched.add(group, &shadow(0x2000 + 2 * group, 2, Kind::WRITE)), None);
        }
    }

    #[test]
    fn a_write_conflicts_with_what_other_groups_did() {
        let mut touched = Touched::default();
        touched.add(0, &shadow(0x1000, 8, Kind::READ));
        let (old, new, address) = touched.add(1, &shadow(0x1004, 2, Kind::WRITE)).unwrap();
        assert_eq!((old.group, old.writes, new.group, new.writes, address), (0, false, 1, true, 0x1004));
        let (old, new, _) = touched.add(2, &shadow(0x1005, 1, Kind::READ)).unwrap();
        assert_eq!((old.group, new.group), (1, 2));
        assert_eq!(touched.add(2, &shadow(0x1006, 1, Kind::READ)), None);
    }
}
