//! Where key blocks lie in shared memory, and who waits for whom over them.

use super::{Decode, WARPGROUP_WARPS};
use crate::ptx::special;
use crate::sync::Barrier;
use core::marker::PhantomData;
use oximla_types::kernels::decode::{
    BARRIER_BYTES, PART_BYTES, SEGMENT_SLOTS, SIDES, TILE_BYTES, TILE_ROWS, TURNS, VALUE_PARTS,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};

/// Initialises the barriers.
///
/// # Safety
/// One thread calls it, before anyone uses them.
#[inline(always)]
pub unsafe fn init_barriers<D: Decode>(shared: u32, cluster: u32) {
    let plan = D::PLAN;
    let init = |offset, count, arrivals| {
        let mut i = 0;
        while i < count {
            // SAFETY: the plan sets them aside.
            unsafe { Barrier::at(shared + offset + i * BARRIER_BYTES).init(arrivals) };
            i += 1;
        }
    };
    init(plan.part_full, plan.part_slots, D::KEY_ARRIVALS);
    init(plan.part_free, plan.part_slots, cluster * WARPGROUP_WARPS);
    init(plan.tail_full, plan.tail_slots, D::KEY_ARRIVALS);
    init(plan.p_full, plan.tail_slots, WARPGROUP_THREADS);
    init(plan.p_free, plan.tail_slots, cluster * SIDES * WARPGROUP_WARPS);
    init(plan.segment_full, SEGMENT_SLOTS, 1);
    init(plan.segment_free, SEGMENT_SLOTS, D::SEGMENT_READERS);
    init(plan.norm_full, 1, if D::TURNS { TURNS } else { 1 } * WARPGROUP_THREADS);
    init(plan.norm_free, 1, SIDES * WARPGROUP_THREADS);
}

/// A barrier, and the parity of the phase that is meant.
#[derive(Clone, Copy)]
pub struct Phase {
    /// The barrier.
    pub barrier: Barrier,
    parity: u32,
}

impl Phase {
    /// The phase of use `number` of `slots` slots, each with a barrier at `offset`.
    #[inline(always)]
    pub fn of(offset: u32, slots: u32, number: u32) -> Self {
        Self::at(special::dynamic_shared(), offset, slots, number)
    }

    /// The same where shared memory's address is known.
    #[inline(always)]
    pub fn at(shared: u32, offset: u32, slots: u32, number: u32) -> Self {
        // SAFETY: `init_barriers` initialised it.
        let barrier = unsafe { Barrier::at(shared + offset + number % slots * BARRIER_BYTES) };
        Self { barrier, parity: number / slots & 1 }
    }

    /// Waits until the phase is complete.
    #[inline(always)]
    pub fn wait(self) {
        self.barrier.wait(self.parity);
    }

    /// Waits until the phase before is complete; there is none before the first.
    #[inline(always)]
    pub fn wait_for_last(self) {
        self.barrier.wait(self.parity ^ 1);
    }

    /// Arrives, once for the warp, in each CTA that loads keys together with this one.
    ///
    /// # Safety
    /// The whole warp calls it; the protocol expects one arrival of it in each CTA.
    #[inline(always)]
    pub unsafe fn arrive_in_cluster<D: Decode>(self) {
        let lane = special::thread_x() % WARP_THREADS;
        // SAFETY: as the caller promises; no CTA of the cluster ends before the others.
        unsafe {
            if D::ALONE {
                if lane == 0 {
                    self.barrier.arrive();
                }
            } else if lane < if D::CLUSTER == 0 { special::cluster_ctas() } else { D::CLUSTER } {
                self.barrier.arrive_in(lane);
            }
        }
    }
}

/// Completes when the row norms of segment `number`, counted by the CTA, are written.
#[inline(always)]
pub fn norms_full<D: Decode>(number: u32) -> Phase {
    Phase::of(D::PLAN.norm_full, 1, number)
}

/// Completes when the row norms of segment `number` have been read.
#[inline(always)]
pub fn norms_free<D: Decode>(number: u32) -> Phase {
    Phase::of(D::PLAN.norm_free, 1, number)
}

/// Where block number `number`, counted by the CTA, lies in shared memory.
pub struct BlockPlace<D> {
    /// Address of shared memory, for roles that ask often; else it is taken anew each time instead of keeping a register.
    shared: Option<u32>,
    number: u32,
    kernel: PhantomData<D>,
}

impl<D> Clone for BlockPlace<D> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for BlockPlace<D> {}

impl<D: Decode> BlockPlace<D> {
    /// The place of the CTA's first block.
    #[inline(always)]
    pub fn first() -> Self {
        Self { shared: None, number: 0, kernel: PhantomData }
    }

    /// The same, with shared memory's address.
    #[inline(always)]
    pub fn first_in(shared: u32) -> Self {
        Self { shared: Some(shared), ..Self::first() }
    }

    #[inline(always)]
    fn shared(self) -> u32 {
        self.shared.map_or_else(special::dynamic_shared, special::again)
    }

    /// The place of the next block.
    #[inline(always)]
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// The place of the block before.
    #[inline(always)]
    pub fn last(self) -> Self {
        Self { number: self.number - 1, ..self }
    }

    /// The place `count` blocks on.
    #[inline(always)]
    pub fn skip(self, count: u32) -> Self {
        Self { number: self.number + count, ..self }
    }

    /// Number of the place.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.number
    }

    /// Number of the slot of a part of the block's value tiles.
    #[inline(always)]
    pub fn part_slot(self, part: u32) -> u32 {
        (VALUE_PARTS * self.number + part) % D::PLAN.part_slots
    }

    /// Address of a part of the block's value tiles.
    #[inline(always)]
    pub fn part(self, part: u32) -> u32 {
        self.shared() + D::PLAN.v + self.part_slot(part) * PART_BYTES
    }

    /// Completes when a part of the value tiles has landed.
    #[inline(always)]
    pub fn part_full(self, part: u32) -> Phase {
        Phase::at(self.shared(), D::PLAN.part_full, D::PLAN.part_slots, VALUE_PARTS * self.number + part)
    }

    /// Completes when a part of the value tiles is used up.
    #[inline(always)]
    pub fn part_free(self, part: u32) -> Phase {
        Phase::at(self.shared(), D::PLAN.part_free, D::PLAN.part_slots, VALUE_PARTS * self.number + part)
    }

    /// Address of the block's tail, and later of its probabilities.
    #[inline(always)]
    pub fn tail(self) -> u32 {
        self.shared() + D::PLAN.tail + self.number % D::PLAN.tail_slots * TILE_BYTES
    }

    /// Completes when the tail has landed.
    #[inline(always)]
    pub fn tail_full(self) -> Phase {
        Phase::at(self.shared(), D::PLAN.tail_full, D::PLAN.tail_slots, self.number)
    }

    /// Completes when probabilities and row scales are written.
    #[inline(always)]
    pub fn probabilities_full(self) -> Phase {
        Phase::at(self.shared(), D::PLAN.p_full, D::PLAN.tail_slots, self.number)
    }

    /// Completes when both value warpgroups are done with probabilities and row scales.
    #[inline(always)]
    pub fn probabilities_free(self) -> Phase {
        Phase::at(self.shared(), D::PLAN.p_free, D::PLAN.tail_slots, self.number)
    }

    /// Address of what is known of the block's keys. Written before the tail is full.
    #[inline(always)]
    pub fn key_mask(self) -> u32 {
        self.shared() + D::PLAN.key_mask + self.number % D::PLAN.tail_slots * 8
    }

    /// Address of the block's row scales.
    #[inline(always)]
    pub fn row_scales(self) -> u32 {
        self.shared() + D::PLAN.row_scale + self.number % D::PLAN.tail_slots * TILE_ROWS * 4
    }
}
