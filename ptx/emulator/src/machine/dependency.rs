//! Grids launched before, which this one may overlap until it waits for them (PTX ISA, "griddepcontrol").
//!
//! They have run to their end already, so nothing really waits. What counts is what a wait makes known: each of these grids
//! is an agent, and an access that conflicts with one of its own races until the accessing thread knows of the agent's
//! only moment, by its own wait or by that of a thread that it is ordered after.

use super::warp::lanes;
use super::{Place, Unit};
use crate::diagnostic::Check;
use crate::order::{Agent, Epoch, Kind, View};
use crate::stream::Earlier;

/// What a grid has made of its dependencies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dependency {
    /// A thread has waited, so that the grid cannot end before those that it waits for.
    pub(crate) waited: bool,
    /// A CTA has waited before it let dependent grids begin, so that none can begin before those that it waits for have
    /// ended.
    pub(crate) waited_before_release: bool,
}

impl Dependency {
    /// What two parts of a grid have made of their dependencies together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            waited: self.waited || other.waited,
            waited_before_release: self.waited_before_release || other.waited_before_release,
        }
    }
}

impl Unit<'_> {
    /// `griddepcontrol.wait`
    pub(super) fn wait_for_grids(&mut self, place: Place, mask: u32) {
        self.dependency.waited = true;
        let known = self.over_after_wait.clone();
        self.take_over(place, mask, &known);
    }

    /// `griddepcontrol.launch_dependents`
    pub(super) fn launch_dependents(&mut self, place: Place, mask: u32) {
        let views = &self.ctas[place.cta].warps[place.warp].views;
        let waited = lanes(mask).all(|lane| self.knows_direct_dependency(&views[lane]));
        // Any thread of the CTA may be the first to come here.
        let before = self.ctas[place.cta].released_after_wait.unwrap_or(true);
        self.ctas[place.cta].released_after_wait = Some(before && waited);
    }

    /// Dependent grids may begin as far as a CTA is concerned that ends.
    pub(super) fn release_at_end(&mut self, cta: usize) {
        let released = self.ctas[cta].released_after_wait.unwrap_or_else(|| {
            let mut views = self.ctas[cta].warps.iter().flat_map(|warp| &warp.views);
            views.any(|view| self.knows_direct_dependency(view))
        });
        self.dependency.waited_before_release |= released;
    }

    /// Whether a view includes the end of the grid just before this one, which every wait waits for.
    fn knows_direct_dependency(&self, view: &View) -> bool {
        self.context.earlier.len().checked_sub(1).is_some_and(|last| view.seen.includes(end_of(last)))
    }

    /// Compares an access of global memory with those of earlier grids that may still be running.
    pub(super) fn order_after_grids(
        &mut self,
        place: Place,
        lane: Option<usize>,
        (address, bytes): (u64, u32),
        view: &View,
        kind: Kind,
    ) {
        let context = self.context;
        for (number, Earlier { grid, is_over_after_wait }) in context.earlier.iter().enumerate() {
            if view.seen.includes(end_of(number)) {
                continue;
            }
            let Some(toucher) = grid.footprint.conflict(address, bytes, kind) else { continue };
            let noun = |writes| if writes { "write" } else { "read" };
            let needed = if *is_over_after_wait {
                "griddepcontrol.wait before this"
            } else {
                "griddepcontrol.wait in each launch between the two, which begin while earlier ones run"
            };
            let message = format!(
                "a {} of global memory at {address:#x} and a {} by an earlier launch, of {}, are not ordered; needed is \
                 {needed}",
                noun(kind.writes),
                noun(toucher.writes),
                grid.entry()
            );
            let related =
                vec![(format!("{} by the earlier launch at", noun(toucher.writes)), grid.site(&toucher))];
            self.report_with(place, lane, Check::DataRace, message, toucher.at, related);
        }
    }
}

/// What is over for those that have waited.
pub(super) fn over_after_wait(earlier: &[Earlier]) -> View {
    let mut view = View::default();
    for (number, _) in earlier.iter().enumerate().filter(|(_, earlier)| earlier.is_over_after_wait) {
        view.seen.raise(end_of(number));
        view.fenced.raise(end_of(number));
    }
    view
}

/// The only moment of an earlier grid. No CTA has this number.
fn end_of(number: usize) -> Epoch {
    Epoch { agent: Agent { cta: u16::MAX, index: number as u16 }, time: 1 }
}
