//! Global memory that groups of CTAs touched which have no way to order themselves.

use std::collections::HashMap;

use super::scope::Scope;
use super::shadow::{GlobalShadow, WORD};

/// Who touched a word: CTA and instruction, so that a finding can name both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Toucher {
    /// Number of the group of CTAs.
    pub(crate) group: u64,
    pub(crate) cta: u16,
    pub(crate) agent: u16,
    pub(crate) at: u32,
    pub(crate) writes: bool,
    /// Atomic or relaxed, for more than its own CTA.
    pub(crate) strong: bool,
}

/// The first two groups that did something to a byte.
type FirstTwo = [Option<Toucher>; 2];

#[derive(Clone, Copy, Debug, Default)]
struct Byte {
    writers: FirstTwo,
    readers: FirstTwo,
}

/// All words touched so far, byte by byte. What it says does not depend on the order in which groups were added.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    words: HashMap<u64, [Byte; WORD as usize]>,
}

impl Touched {
    /// Adds what a group has touched.
    pub(crate) fn add(&mut self, group: u64, shadow: &GlobalShadow) {
        for (word, access) in shadow.accesses() {
            let new = Toucher {
                group,
                cta: access.epoch.agent.cta,
                agent: access.epoch.agent.index,
                at: access.at,
                writes: access.kind.writes,
                strong: access.kind.strong.is_some_and(|scope| scope != Scope::Cta),
            };
            let bytes = self.words.entry(word).or_default();
            for (_, byte) in bytes.iter_mut().enumerate().filter(|(byte, _)| access.mask() & 1 << byte != 0) {
                insert(if new.writes { &mut byte.writers } else { &mut byte.readers }, new);
            }
        }
    }

    /// Every byte that was touched, by address, with the first group that wrote it and the first that read it.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = (u64, Option<Toucher>, Option<Toucher>)> {
        let mut words: Vec<_> = self.words.iter().collect();
        words.sort_unstable_by_key(|(word, _)| **word);
        words.into_iter().flat_map(|(word, bytes)| {
            (*word..).zip(bytes).map(|(address, byte)| (address, byte.writers[0], byte.readers[0]))
        })
    }

    /// The lowest address where one group wrote and another one wrote or read: both sides and the address.
    pub(crate) fn conflict(&self) -> Option<(Toucher, Toucher, u64)> {
        let conflicts = self.words.iter().flat_map(|(word, bytes)| {
            (*word..).zip(bytes).filter_map(|(address, Byte { writers, readers })| {
                let writer = writers[0]?;
                let others = [writers[1]].into_iter().chain(*readers).flatten();
                let other =
                    others.filter(|other| other.group != writer.group).min_by_key(|other| other.group)?;
                Some((writer, other, address))
            })
        });
        conflicts.min_by_key(|(_, _, address)| *address)
    }
}

/// Keeps the two lowest groups; of a group what is not strong, if there is any.
fn insert(known: &mut FirstTwo, new: Toucher) {
    match known {
        [Some(first), _] if new.group == first.group => {
            if first.strong && !new.strong {
                *first = new;
            }
        }
        [Some(first), second] if new.group > first.group => {
            if second.is_none_or(|second| new.group < second.group) {
                *second = Some(new);
            }
        }
        [first, second] => {
            *second = *first;
            *first = Some(new);
        }
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
            touched.add(group, &shadow(0x1000, 64, Kind::READ));
            touched.add(group, &shadow(0x2000 + 2 * group, 2, Kind::WRITE));
        }
        assert_eq!(touched.conflict(), None);
    }

    #[test]
    fn a_write_conflicts_with_what_other_groups_did() {
        let groups = [
            shadow(0x1000, 8, Kind::READ),
            shadow(0x1004, 2, Kind::WRITE),
            shadow(0x1005, 1, Kind::READ),
            shadow(0x1006, 1, Kind::READ),
        ];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]] {
            let mut touched = Touched::default();
            order.into_iter().for_each(|group| touched.add(group as u64, &groups[group]));
            let (writer, other, address) = touched.conflict().unwrap();
            assert_eq!(
                (writer.group, writer.writes, other.group, other.writes, address),
                (1, true, 0, false, 0x1004)
            );
        }
        let mut touched = Touched::default();
        touched.add(1, &groups[1]);
        touched.add(3, &groups[3]);
        assert_eq!(touched.conflict(), None, "other bytes");
        touched.add(2, &groups[1]);
        let (first, second, _) = touched.conflict().unwrap();
        assert_eq!((first.group, second.group), (1, 2), "two writers");
    }
}
