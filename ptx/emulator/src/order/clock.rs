//! Vector clocks, in one piece for each CTA.

use std::rc::Rc;

use smallvec::SmallVec;

/// Something that accesses memory on its own: a thread, or asynchronous operations that finish together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Agent {
    /// CTA, by its number among those that run together.
    pub(crate) cta: u16,
    /// Number in the CTA.
    pub(crate) index: u16,
}

/// A moment in an agent's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) agent: Agent,
    pub(crate) time: u32,
}

/// For each agent, up to which moment its accesses come before. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    pieces: SmallVec<[(u16, Rc<Vec<u32>>); 2]>,
}

impl Clock {
    /// The moment of one agent; 0 is before its first access.
    pub(crate) fn time(&self, agent: Agent) -> u32 {
        let piece = self.pieces.iter().find(|(cta, _)| *cta == agent.cta);
        piece.and_then(|(_, times)| times.get(usize::from(agent.index))).copied().unwrap_or(0)
    }

    pub(crate) fn includes(&self, epoch: Epoch) -> bool {
        self.time(epoch.agent) >= epoch.time
    }

    /// Includes one more epoch.
    pub(crate) fn raise(&mut self, epoch: Epoch) {
        if self.includes(epoch) {
            return;
        }
        let at = match self.pieces.iter().position(|(cta, _)| *cta == epoch.agent.cta) {
            Some(at) => at,
            None => {
                self.pieces.push((epoch.agent.cta, Rc::default()));
                self.pieces.len() - 1
            }
        };
        let times = Rc::make_mut(&mut self.pieces[at].1);
        let index = usize::from(epoch.agent.index);
        if times.len() <= index {
            times.resize(index + 1, 0);
        }
        times[index] = epoch.time;
    }

    /// Includes all that the other includes.
    pub(crate) fn join(&mut self, other: &Self) {
        for (cta, theirs) in &other.pieces {
            match self.pieces.iter_mut().find(|(own, _)| own == cta) {
                None => self.pieces.push((*cta, Rc::clone(theirs))),
                Some((_, ours)) if Rc::ptr_eq(ours, theirs) => {}
                Some((_, ours)) => {
                    if covers(ours, theirs) {
                        continue;
                    }
                    if covers(theirs, ours) {
                        *ours = Rc::clone(theirs);
                        continue;
                    }
                    let ours = Rc::make_mut(ours);
                    if ours.len() < theirs.len() {
                        ours.resize(theirs.len(), 0);
                    }
                    ours.iter_mut().zip(theirs.iter()).for_each(|(own, their)| *own = (*own).max(*their));
                }
            }
        }
    }

    /// Whether both are one and the same, which spares doing the same work for every thread of a warp.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.pieces.len() == other.pieces.len()
            && self
                .pieces
                .iter()
                .zip(&other.pieces)
                .all(|((a, ours), (b, theirs))| a == b && Rc::ptr_eq(ours, theirs))
    }
}

/// Whether the moments of one list include all of the other's.
fn covers(a: &[u32], b: &[u32]) -> bool {
    // Some at a time without a branch, which takes vector instructions.
    const LANES: usize = 16;
    a.len() >= b.len()
        && a.chunks(LANES)
            .zip(b.chunks(LANES))
            .all(|(a, b)| !a.iter().zip(b).fold(false, |is_less, (a, b)| is_less | (a < b)))
}

/// What is known at some place: all that comes before, and what of it the asynchronous proxy can see.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) seen: Clock,
    pub(crate) fenced: Clock,
    /// What else is over, if anything.
    pub(crate) over: Option<Rc<Over>>,
}

/// What has happened at some place and is over, though it need not be visible: enough to write over what was read there, or
/// what the asynchronous proxy wrote or has been made to see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Over {
    pub(crate) seen: Clock,
    pub(crate) fenced: Clock,
}

impl View {
    pub(crate) fn join(&mut self, other: &Self) {
        self.seen.join(&other.seen);
        self.fenced.join(&other.fenced);
        match (&mut self.over, &other.over) {
            (_, None) => {}
            (Some(ours), Some(theirs)) if Rc::ptr_eq(ours, theirs) => {}
            (Some(ours), Some(theirs)) => Rc::make_mut(ours).join(&theirs.seen, &theirs.fenced),
            (ours @ None, Some(theirs)) => *ours = Some(Rc::clone(theirs)),
        }
    }

    /// Includes that all is over that the other includes.
    pub(crate) fn join_as_over(&mut self, other: &Self) {
        let over = Rc::make_mut(self.over.get_or_insert_default());
        over.join(&other.seen, &other.fenced);
        if let Some(theirs) = &other.over {
            over.join(&theirs.seen, &theirs.fenced);
        }
    }

    /// Whether a moment is over.
    pub(crate) fn is_over(&self, epoch: Epoch) -> bool {
        self.seen.includes(epoch) || self.over.as_ref().is_some_and(|over| over.seen.includes(epoch))
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let same_over = match (&self.over, &other.over) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Rc::ptr_eq(ours, theirs),
            _ => false,
        };
        same_over && self.seen.is_same(&other.seen) && self.fenced.is_same(&other.fenced)
    }
}

impl Over {
    fn join(&mut self, seen: &Clock, fenced: &Clock) {
        self.seen.join(seen);
        self.fenced.join(fenced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(cta: u16, index: u16, time: u32) -> Epoch {
        Epoch { agent: Agent { cta, index }, time }
    }

    #[test]
    fn joins_take_the_later_moment_of_each_agent() {
        let (mut a, mut b) = (Clock::default(), Clock::default());
        a.raise(epoch(0, 3, 5));
        a.raise(epoch(0, 1, 2));
        b.raise(epoch(0, 3, 4));
        b.raise(epoch(0, 70, 1));
        b.raise(epoch(9, 0, 8));
        a.join(&b);
        for (known, next) in
            [(epoch(0, 3, 5), 6), (epoch(0, 1, 2), 3), (epoch(0, 70, 1), 2), (epoch(9, 0, 8), 9)]
        {
            assert!(a.includes(known) && !a.includes(Epoch { time: next, ..known }), "{known:?}");
        }
        assert!(!b.includes(epoch(0, 1, 1)), "joining leaves the other alone");
    }

    #[test]
    fn what_is_included_already_is_shared() {
        let mut a = Clock::default();
        a.raise(epoch(0, 0, 1));
        let mut b = a.clone();
        assert!(a.is_same(&b));
        b.raise(epoch(0, 1, 1));
        assert!(!a.is_same(&b));
        a.join(&b);
        assert!(a.is_same(&b));
    }
}
