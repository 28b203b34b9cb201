//! Publishing what threads know, and taking over what others have published.

use super::cta::Actor;
use super::warp::lanes;
use super::{Place, Unit};
use crate::order::{Epoch, Scope, View};
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
            Fence::Memory { acquires, releases, scope } => {
                for lane in lanes(mask) {
                    if acquires {
                        let warp = &mut self.ctas[place.cta].warps[place.warp];
                        for found in &mut warp.found[lane][..=scope as usize] {
                            warp.views[lane].join(&std::mem::take(found));
                        }
                    }
                    if releases {
                        let view = self.view_of(place, lane);
                        let warp = &mut self.ctas[place.cta].warps[place.warp];
                        warp.released[lane][scope as usize] = Some(view);
                        warp.time[lane] += 1;
                    }
                }
            }
        }
    }

    /// What a strong access of an address publishes or finds there.
    pub(super) fn synchronize_at(
        &mut self,
        place: Place,
        lane: usize,
        address: u64,
        order: Order,
        reads: bool,
        writes: bool,
    ) {
        let cluster_size = self.context.cluster.iter().product::<u32>() as usize;
        if reads {
            for Published { cta, scope, view } in self.published.get(&address).into_iter().flatten() {
                // Each has to be within the scope of the other.
                let distance = distance(*cta, place.cta, cluster_size);
                if order.scope.min(*scope) < distance {
                    continue;
                }
                let warp = &mut self.ctas[place.cta].warps[place.warp];
                if order.acquires {
                    warp.views[lane].join(view);
                } else {
                    warp.found[lane][distance as usize].join(view);
                }
            }
        }
        if writes {
            let mut views = Vec::new();
            if order.releases {
                views.push((order.scope, self.view_of(place, lane)));
                self.ctas[place.cta].warps[place.warp].time[lane] += 1;
            }
            let released = &self.ctas[place.cta].warps[place.warp].released[lane];
            for (fence, view) in Scope::ALL.into_iter().zip(released) {
                views.extend(view.clone().map(|view| (order.scope.min(fence), view)));
            }
            // A read-modify-write continues what was published before; a plain write replaces it.
            if !reads {
                self.published.remove(&address);
            }
            for (scope, view) in views {
                let published = self.published.entry(address).or_default();
                match published.iter_mut().find(|known| (known.cta, known.scope) == (place.cta, scope)) {
                    Some(known) => known.view.join(&view),
                    None => published.push(Published { cta: place.cta, scope, view }),
                }
            }
        }
    }
}

/// The smallest scope that two CTAs share.
fn distance(a: usize, b: usize, cluster_size: usize) -> Scope {
    if a == b {
        Scope::Cta
    } else if a / cluster_size == b / cluster_size {
        Scope::Cluster
    } else {
        Scope::Device
    }
}

/// What a thread of a CTA has published at an address, and for whom.
#[derive(Debug)]
pub(super) struct Published {
    cta: usize,
    scope: Scope,
    view: View,
}
