//! What happens before what: vector clocks, and the memory of accesses that they judge.
//!
//! The model is the happens-before race detector of Flanagan and Freund ("FastTrack: Efficient and Precise Dynamic Race
//! Detection") with the PTX memory model's synchronisation. Some additions: *agents* are not only threads, but also the
//! asynchronous operations that finish together (of a thread's `cp.async`s, of a warp's `wgmma` groups, of the copies
//! that complete on one mbarrier), and besides what an agent has *seen* there is what of it has been *fenced*: made
//! visible to the asynchronous proxy by a proxy fence on the way. Of what happened in another CTA there may be known only
//! that it is *over*, which is enough to write there.
//!
//! It reports no race that is none. It can miss one that another interleaving would show; that is what seeds are for.

mod clock;
mod footprint;
mod scope;
mod shadow;

#[cfg(test)]
pub(crate) use clock::Clock;
pub(crate) use clock::{Agent, Epoch, View};
pub(crate) use footprint::{Footprint, GroupFootprint, Toucher};
pub(crate) use scope::Scope;
pub(crate) use shadow::{Access, Conflict, GlobalShadow, Kind, Observer, SharedShadow};
