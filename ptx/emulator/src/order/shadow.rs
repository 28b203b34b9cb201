//! Who accessed which word last.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::clock::{Clock, Epoch, Over};
use super::scope::Scope;

/// Bytes of a word, the unit of bookkeeping; accesses of parts of it are told apart by masks.
pub(crate) const WORD: u32 = 4;

/// Words of a page of global memory.
const PAGE_WORDS: u64 = 1024;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) writes: bool,
    /// Of the asynchronous proxy.
    pub(crate) asynchronous: bool,
    /// The scope of an atomic or relaxed access, which does not race with its like.
    pub(crate) strong: Option<Scope>,
}

impl Kind {
    pub(crate) const READ: Self = Self { writes: false, asynchronous: false, strong: None };
    pub(crate) const WRITE: Self = Self { writes: true, asynchronous: false, strong: None };
    pub(crate) const ASYNC_READ: Self = Self { writes: false, asynchronous: true, strong: None };
    pub(crate) const ASYNC_WRITE: Self = Self { writes: true, asynchronous: true, strong: None };
}

/// One access of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) epoch: Epoch,
    /// The instruction.
    pub(crate) at: u32,
    pub(crate) kind: Kind,
    /// Which of the word's bytes.
    mask: u8,
}

/// What the accessing side knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observer<'a> {
    pub(crate) seen: &'a Clock,
    pub(crate) fenced: &'a Clock,
    pub(crate) over: Option<&'a Over>,
    /// The thread itself, whose accesses are in order anyway, and up to when they are fenced; none for what several
    /// threads do together.
    pub(crate) own: Option<Epoch>,
}

/// An access that the new one is not ordered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) earlier: Access,
    /// Byte address of the word.
    pub(crate) word: u64,
    /// The threads are ordered, but the write has not been made visible to the asynchronous proxy.
    pub(crate) proxy_only: bool,
}

/// The accesses of a word that are remembered, oldest first.
type History = SmallVec<[Access; 2]>;

/// A word's history, by its number in [`Histories`]; 0 is that of no access.
type HistoryNumber = u32;

/// The histories of some memory's words. Each is kept once for many words: most words are accessed together with others, and
/// what is found out about one of them holds for all.
#[derive(Debug)]
struct Histories {
    all: Vec<History>,
    /// How many there may be before those that no word has any more are forgotten.
    limit: usize,
}

/// Notes one access of many words.
struct Noting<'a> {
    histories: &'a mut Histories,
    access: Access,
    observer: Observer<'a>,
    /// What became of the last word: its bytes, its histories before and after, the conflict.
    last: Option<(u8, HistoryNumber, HistoryNumber, Option<Conflict>)>,
    /// The first conflict.
    conflict: Option<Conflict>,
}

/// Accesses of one CTA's shared memory.
#[derive(Debug)]
pub(crate) struct SharedShadow {
    words: Vec<HistoryNumber>,
    histories: Histories,
}

/// Accesses of global memory.
#[derive(Debug, Default)]
pub(crate) struct GlobalShadow {
    pages: HashMap<u64, Box<[HistoryNumber]>>,
    histories: Histories,
}

impl Default for Histories {
    fn default() -> Self {
        Self { all: vec![History::new()], limit: Self::LEAST_LIMIT }
    }
}

impl Histories {
    const LEAST_LIMIT: usize = 1 << 14;

    fn noting<'a>(&'a mut self, observer: Observer<'a>, epoch: Epoch, at: u32, kind: Kind) -> Noting<'a> {
        let access = Access { epoch, at, kind, mask: 0 };
        Noting { histories: self, access, observer, last: None, conflict: None }
    }

    fn of(&self, number: HistoryNumber) -> &History {
        &self.all[number as usize]
    }

    /// Where there are too many, forgets those that none of the words has, which are all there are.
    fn tidy<'a>(&mut self, words: impl Iterator<Item = &'a mut HistoryNumber>) {
        if self.all.len() < self.limit {
            return;
        }
        let mut old = std::mem::replace(&mut self.all, vec![History::new()]);
        let mut new_numbers = vec![0; old.len()];
        for word in words.filter(|word| **word != 0) {
            let new = &mut new_numbers[*word as usize];
            if *new == 0 {
                *new = self.all.len() as HistoryNumber;
                self.all.push(std::mem::take(&mut old[*word as usize]));
            }
            *word = *new;
        }
        self.limit = Self::LEAST_LIMIT.max(2 * self.all.len());
    }
}

impl Noting<'_> {
    /// Notes the access of some bytes of a word, which is at `word`.
    fn note(&mut self, history: &mut HistoryNumber, word: u64, mask: u8) {
        let (after, conflict) = match self.last {
            Some((same_mask, before, after, conflict)) if (same_mask, before) == (mask, *history) => {
                (after, conflict)
            }
            _ => {
                let access = Access { mask, ..self.access };
                let (after, conflict) = note(self.histories.of(*history), access, &self.observer);
                let number = self.histories.all.len() as HistoryNumber;
                self.histories.all.push(after);
                self.last = Some((mask, *history, number, conflict));
                (number, conflict)
            }
        };
        *history = after;
        if self.conflict.is_none() {
            self.conflict = conflict.map(|found| Conflict { word: word * u64::from(WORD), ..found });
        }
    }
}

impl SharedShadow {
    pub(crate) fn new(bytes: u32) -> Self {
        Self { words: vec![0; bytes.div_ceil(WORD) as usize], histories: Histories::default() }
    }

    /// Notes an access of some runs of as many bytes; returns the first one it conflicts with.
    pub(crate) fn access(
        &mut self,
        addresses: impl IntoIterator<Item = u32>,
        bytes: u32,
        observer: Observer<'_>,
        epoch: Epoch,
        at: u32,
        kind: Kind,
    ) -> Option<Conflict> {
        let mut noting = self.histories.noting(observer, epoch, at, kind);
        for address in addresses {
            for (word, mask) in words(u64::from(address), bytes) {
                if let Some(history) = self.words.get_mut(word as usize) {
                    noting.note(history, word, mask);
                }
            }
        }
        let conflict = noting.conflict;
        self.histories.tidy(self.words.iter_mut());
        conflict
    }

    /// The accesses that are remembered.
    pub(crate) fn accesses(&self) -> impl Iterator<Item = &Access> {
        self.words.iter().flat_map(|word| self.histories.of(*word))
    }
}

impl GlobalShadow {
    /// Notes an access of bytes; returns the first one it conflicts with.
    pub(crate) fn access(
        &mut self,
        address: u64,
        bytes: u32,
        observer: Observer<'_>,
        epoch: Epoch,
        at: u32,
        kind: Kind,
    ) -> Option<Conflict> {
        let mut noting = self.histories.noting(observer, epoch, at, kind);
        let mut rest = words(address, bytes).peekable();
        while let Some((word, _)) = rest.peek() {
            let number = word / PAGE_WORDS;
            let page = self.pages.entry(number).or_insert_with(|| vec![0; PAGE_WORDS as usize].into());
            while let Some((word, mask)) = rest.next_if(|(word, _)| word / PAGE_WORDS == number) {
                noting.note(&mut page[(word % PAGE_WORDS) as usize], word, mask);
            }
        }
        let conflict = noting.conflict;
        self.histories.tidy(self.pages.values_mut().flatten());
        conflict
    }

    /// The words that were accessed, by their byte addresses, with the accesses that are remembered.
    pub(crate) fn words(&self) -> impl Iterator<Item = (u64, &[Access])> {
        let mut pages: Vec<_> = self.pages.iter().collect();
        pages.sort_unstable_by_key(|(number, _)| **number);
        pages.into_iter().flat_map(|(number, page)| {
            let words = (number * PAGE_WORDS..).zip(page).filter(|(_, history)| **history != 0);
            words.map(|(word, history)| (word * u64::from(WORD), self.histories.of(*history).as_slice()))
        })
    }
}

impl Access {
    pub(crate) fn mask(&self) -> u8 {
        self.mask
    }
}

/// The words that bytes lie in, each with a mask of its bytes.
fn words(address: u64, bytes: u32) -> impl Iterator<Item = (u64, u8)> {
    let (width, end) = (u64::from(WORD), address + u64::from(bytes));
    (address / width..end.div_ceil(width)).map(move |word| {
        let first = address.saturating_sub(word * width).min(width);
        let last = (end - word * width).min(width);
        (word, ((1_u32 << last) - (1 << first)) as u8)
    })
}

/// Compares an access with the remembered ones of its word. Returns what is to be remembered from now on, in place of those
/// that it makes irrelevant, and the first one it conflicts with.
fn note(history: &History, new: Access, observer: &Observer<'_>) -> (History, Option<Conflict>) {
    let mut conflict = None;
    let is_kept = |old: &&Access| {
        let overlaps = old.mask & new.mask != 0;
        let own = observer.own.filter(|own| own.agent == old.epoch.agent);
        let is_over = |over: &Over| {
            let needs_no_fence = !old.kind.writes || old.kind.asynchronous;
            (if needs_no_fence { &over.seen } else { &over.fenced }).includes(old.epoch)
        };
        // Writing over something takes less than reading it.
        let ordered = own.is_some()
            || observer.seen.includes(old.epoch)
            || new.kind.writes && observer.over.is_some_and(is_over);
        if overlaps && (old.kind.writes || new.kind.writes) && conflict.is_none() {
            let needs_fence = new.kind.asynchronous && old.kind.writes && !old.kind.asynchronous;
            let fenced = own.is_some_and(|own| own.time >= old.epoch.time)
                || observer.fenced.includes(old.epoch)
                || observer.over.is_some_and(|over| over.fenced.includes(old.epoch));
            let proxy_only = ordered && needs_fence && !fenced;
            if !ordered && !morally_strong(old, &new) || proxy_only {
                conflict = Some(Conflict { earlier: **old, word: 0, proxy_only });
            }
        }
        // Whoever does not race with the new access must not race with what it takes the place of.
        let stricter = new.kind.strong.is_none() || new.kind.strong == old.kind.strong;
        // A write takes the place of earlier accesses that it covers; a read, of the same agent's earlier read.
        let replaced = if new.kind.writes {
            (ordered || old.epoch.agent == new.epoch.agent) && stricter && old.mask & !new.mask == 0
        } else {
            stricter
                && old.epoch.agent == new.epoch.agent
                && !old.kind.writes
                && old.mask == new.mask
                && old.kind.asynchronous == new.kind.asynchronous
        };
        !replaced
    };
    let mut after = History::with_capacity(history.len() + 1);
    after.extend(history.iter().filter(is_kept).copied());
    after.push(new);
    (after, conflict)
}

/// Whether both are strong, and each is within the scope of the other. A cluster's is taken for the device's.
fn morally_strong(old: &Access, new: &Access) -> bool {
    let within = |scope| scope != Scope::Cta || old.epoch.agent.cta == new.epoch.agent.cta;
    old.kind.strong.is_some_and(within) && new.kind.strong.is_some_and(within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Agent;

    const A: Agent = Agent { cta: 0, index: 0 };
    const B: Agent = Agent { cta: 0, index: 1 };

    struct Memory(SharedShadow);

    impl Memory {
        fn access(
            &mut self,
            agent: Agent,
            address: u32,
            bytes: u32,
            kind: Kind,
            knows: &[Epoch],
        ) -> Option<bool> {
            let mut seen = Clock::default();
            knows.iter().for_each(|epoch| seen.raise(*epoch));
            let observer = Observer {
                seen: &seen,
                fenced: &Clock::default(),
                over: None,
                own: Some(Epoch { agent, time: 0 }),
            };
            let conflict = self.0.access([address], bytes, observer, Epoch { agent, time: 1 }, 0, kind);
            conflict.map(|conflict| conflict.proxy_only)
        }
    }

    fn memory() -> Memory {
        Memory(SharedShadow::new(64))
    }

    #[test]
    fn unordered_accesses_race_unless_both_read() {
        let mut memory = memory();
        assert_eq!(memory.access(A, 0, 4, Kind::READ, &[]), None);
        assert_eq!(memory.access(B, 0, 4, Kind::READ, &[]), None);
        assert_eq!(memory.access(B, 0, 4, Kind::WRITE, &[]), Some(false), "A's read");
        assert_eq!(memory.access(A, 0, 4, Kind::READ, &[]), Some(false), "B's write");
        let known = [Epoch { agent: B, time: 1 }, Epoch { agent: A, time: 1 }];
        assert_eq!(memory.access(A, 0, 4, Kind::WRITE, &known), None);
    }

    /// As many accesses as make it forget what no word has any more, several times; what they have is kept.
    #[test]
    fn only_what_is_over_is_forgotten() {
        let mut memory = memory();
        memory.access(A, 0, 8, Kind::WRITE, &[]);
        for _ in 0..5 * Histories::LEAST_LIMIT {
            assert_eq!(memory.access(B, 8, 4, Kind::WRITE, &[]), None);
        }
        assert!(memory.0.histories.all.len() <= Histories::LEAST_LIMIT);
        assert_eq!(memory.access(B, 4, 4, Kind::READ, &[]), Some(false), "A's write");
        assert_eq!(memory.access(A, 8, 4, Kind::READ, &[]), Some(false), "B's write");
        assert_eq!(memory.access(A, 12, 4, Kind::WRITE, &[]), None, "nobody's");
    }

    /// Together or one by one: runs that one access has in common need not lie side by side.
    #[test]
    fn several_runs_are_one_access() {
        let clock = Clock::default();
        let observer = Observer { seen: &clock, fenced: &clock, over: None, own: None };
        let epoch = |agent| Epoch { agent, time: 1 };
        let mut shadow = SharedShadow::new(64);
        assert_eq!(shadow.access([0, 32, 16], 8, observer, epoch(A), 0, Kind::WRITE), None);
        assert_eq!(shadow.access([8, 24, 40], 8, observer, epoch(B), 1, Kind::READ), None);
        let conflict = shadow.access([8, 20, 32], 4, observer, epoch(B), 1, Kind::READ).unwrap();
        assert_eq!((conflict.word, conflict.earlier.epoch), (20, epoch(A)), "the first one");
    }

    #[test]
    fn bytes_of_a_word_are_told_apart() {
        let mut memory = memory();
        assert_eq!(memory.access(A, 0, 2, Kind::WRITE, &[]), None);
        assert_eq!(memory.access(B, 2, 2, Kind::WRITE, &[]), None);
        assert_eq!(memory.access(B, 1, 1, Kind::READ, &[]), Some(false));
        assert_eq!(memory.access(B, 3, 1, Kind::READ, &[]), None, "its own write");
        assert_eq!(memory.access(A, 4, 16, Kind::WRITE, &[]), None);
        assert_eq!(memory.access(B, 16, 8, Kind::READ, &[]), Some(false), "the last word of A's four");
    }

    #[test]
    fn the_asynchronous_proxy_needs_a_fence() {
        let mut memory = memory();
        memory.access(A, 0, 4, Kind::WRITE, &[]);
        assert_eq!(memory.access(A, 0, 4, Kind::ASYNC_READ, &[]), Some(true));
        assert_eq!(memory.access(B, 0, 4, Kind::ASYNC_READ, &[]), Some(false), "not even ordered");
    }

    #[test]
    fn a_strong_access_hides_no_weak_one() {
        let strong = Kind { strong: Some(Scope::Device), ..Kind::WRITE };
        let mut memory = memory();
        memory.access(A, 0, 4, Kind::READ, &[]);
        assert_eq!(memory.access(B, 0, 4, strong, &[Epoch { agent: A, time: 1 }]), None);
        let third = Agent { cta: 1, index: 0 };
        assert_eq!(memory.access(third, 0, 4, strong, &[]), Some(false), "A's read");
    }

    #[test]
    fn the_scope_of_a_cta_ends_at_its_border() {
        let strong = Kind { strong: Some(Scope::Cta), ..Kind::WRITE };
        let mut memory = memory();
        memory.access(A, 0, 4, strong, &[]);
        assert_eq!(memory.access(B, 0, 4, strong, &[]), None);
        assert_eq!(memory.access(Agent { cta: 1, index: 0 }, 0, 4, strong, &[]), Some(false));
    }

    #[test]
    fn strong_accesses_do_not_race_with_each_other() {
        let mut memory = memory();
        let strong = Kind { strong: Some(Scope::Device), ..Kind::WRITE };
        assert_eq!(memory.access(A, 0, 4, strong, &[]), None);
        assert_eq!(memory.access(B, 0, 4, strong, &[]), None);
        assert_eq!(memory.access(A, 0, 4, Kind::READ, &[]), Some(false), "B's");
    }
}
