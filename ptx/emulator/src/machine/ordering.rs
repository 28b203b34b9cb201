//! Publishing what threads know, and taking over what others have published.

use super::cta::Actor;
use super::warp::lanes;
use super::{Place, Unit};
use crate::order::{Epoch, View};
use crate::program::{Fence, Order};

impl Unit<'_> {
    /// The moment in which a lane is.
    pub(super) fn epoch(&self, place: Place, lane: usize) -> Epoch {
        let cta = &self.ctas[place.cta];
        let time = cta.warps[place.warp].time[lane];
        Actor::Thread(self.thread(place, lane)).at(place.cta, cta.threads, time)
    }

    /// Number of a lane's thread in its CTA.
    pub(super) fn thread(&self, place: Place, lane: usize) -> u32 {
        place.warp as u32 * super::warp::WARP + lane as u32
    }

    /// Everything that a lane has done and knows.
    pub(super) fn view_of(&self, place: Place, lane: usize) -> View {
        let warp = &self.ctas[place.cta].warps[place.warp];
        let epoch = self.epoch(place, lane);
        let mut view = warp.views[lane].clone();
        view.seen.raise(epoch);
        view.fenced.raise(Epoch { time: warp.fenced_time[lane], ..epoch });
        view
    }

    /// Adds all that the lanes have done and know to what is published somewhere. Their later accesses are not part
    /// of it.
    pub(super) fn publish(&mut self, place: Place, mask: u32, target: &mut View) {
        self.add_views(place, mask, target);
        let time = &mut self.ctas[place.cta].warps[place.warp].time;
        lanes(mask).for_each(|lane| time[lane] += 1);
    }

    /// Adds all that the lanes have done and know so far.
    pub(super) fn add_views(&self, place: Place, mask: u32, target: &mut View) {
        let warp = &self.ctas[place.cta].warps[place.warp];
        let mut last: Option<&View> = None;
        for lane in lanes(mask) {
            let view = &warp.views[lane];
            if !last.is_some_and(|last| last.is_same(view)) {
                target.join(view);
            }
            last = Some(view);
            let epoch = self.epoch(place, lane);
            target.seen.raise(epoch);
            target.fenced.raise(Epoch { time: warp.fenced_time[lane], ..epoch });
        }
    }

    /// Lets the lanes know what is published somewhere.
    pub(super) fn take_over(&mut self, place: Place, mask: u32, source: &View) {
        self.change_views(place, mask, |view| view.join(source));
    }

    /// Changes the views of some lanes in the same way; once only for lanes that share theirs.
    fn change_views(&mut self, place: Place, mask: u32, change: impl Fn(&mut View)) {
        let views = &mut self.ctas[place.cta].warps[place.warp].views;
        let mut last: Option<(View, View)> = None;
        for lane in lanes(mask) {
            match &last {
                Some((before, after)) if before.is_same(&views[lane]) => views[lane] = after.clone(),
                _ => {
                    let before = views[lane].clone();
                    change(&mut views[lane]);
                    last = Some((before, views[lane].clone()));
                }
            }
        }
    }

    pub(super) fn fence(&mut self, place: Place, mask: u32, fence: Fence) {
        match fence {
            Fence::Other => {}
            Fence::AsyncProxy => {
                self.change_views(place, mask, |view| view.fenced.join(&view.seen));
                let warp = &mut self.ctas[place.cta].warps[place.warp];
                for lane in lanes(mask) {
                    warp.fenced_time[lane] = warp.time[lane];
                    warp.time[lane] += 1;
                }
            }
            Fence::MbarrierInit => {
                let threads: Vec<_> = lanes(mask).map(|lane| self.epoch(place, lane).agent).collect();
                for cta in &mut self.ctas {
                    for barrier in cta.mbarriers.values_mut() {
                        barrier.is_visible |= threads.contains(&barrier.initialized.agent);
                    }
                }
            }
            Fence::Memory { acquires, releases } => {
                for lane in lanes(mask) {
                    if acquires {
                        let warp = &mut self.ctas[place.cta].warps[place.warp];
                        let found = std::mem::take(&mut warp.found[lane]);
                        warp.views[lane].join(&found);
                    }
                    if releases {
                        let view = self.view_of(place, lane);
                        let warp = &mut self.ctas[place.cta].warps[place.warp];
                        warp.released[lane] = Some(view);
                        warp.time[lane] += 1;
                    }
                }
            }
        }
    }

    /// What a strong access of an address publishes or finds there.
    pub(super) fn synchronize_at(&mut self, place: Place, lane: usize, address: u64, order: Order, reads: bool, writes: bool) {
        let scope = order.cta_scope.then_some(place.cta);
        if reads {
            let mut found = View::default();
            for key in [(address, None), (address, Some(place.cta))] {
                if let Some(view) = self.published.get(&key) {
                    found.join(view);
                }
            }
            let warp = &mut self.ctas[place.cta].warps[place.warp];
            if order.acquires {
                warp.views[lane].join(&found);
            } else {
                warp.found[lane].join(&found);
            }
        }
        if writes {
            let view = if order.releases {
                let view = self.view_of(place, lane);
                self.ctas[place.cta].warps[place.warp].time[lane] += 1;
                Some(view)
            } else {
                self.ctas[place.cta].warps[place.warp].released[lane].clone()
            };
            // A read-modify-write continues what was published before; a plain write replaces it.
            if !reads {
                self.published.remove(&(address, None));
                self.published.retain(|(at, _), _| *at != address);
            }
            if let Some(view) = view {
                self.published.entry((address, scope)).or_default().join(&view);
            }
        }
    }
}
