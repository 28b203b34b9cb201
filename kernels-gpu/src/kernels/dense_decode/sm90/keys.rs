//! Where key blocks lie in shared memory, and who waits for whom over them.

use super::WARPGROUP_WARPS;
use crate::ptx::{memory, special};
use crate::sync::Barrier;
use oximla_types::kernels::dense_decode::{
    BARRIER_BYTES, DenseDecodeParams, PART_BYTES, PART_SLOTS, SEGMENT_SLOTS, SharedPlan, TAIL_SLOTS,
    TILE_BYTES, TILE_ROWS, VALUE_PARTS, WARPGROUPS,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};

/// A page that no cache has; the copy engine delivers zeros for it.
pub const NO_PAGE: u32 = u32::MAX;

/// Initialises the barriers.
///
/// # Safety
/// One thread calls it, before anyone uses them.
#[inline(always)]
pub unsafe fn init_barriers(shared: u32, cluster: u32) {
    let init = |offset, count, arrivals| {
        let mut i = 0;
        while i < count {
            // SAFETY: the plan sets them aside.
            unsafe { Barrier::at(shared + offset + i * BARRIER_BYTES).init(arrivals) };
            i += 1;
        }
    };
    init(SharedPlan::PART_FULL, PART_SLOTS, 1);
    init(SharedPlan::PART_FREE, PART_SLOTS, cluster * WARPGROUP_WARPS);
    init(SharedPlan::TAIL_FULL, TAIL_SLOTS, 1);
    init(SharedPlan::P_FULL, TAIL_SLOTS, WARPGROUP_THREADS);
    init(SharedPlan::P_FREE, TAIL_SLOTS, cluster * 2 * WARPGROUP_WARPS);
    init(SharedPlan::P_MAY, TAIL_SLOTS, WARPGROUP_WARPS);
    init(SharedPlan::SEGMENT_FULL, SEGMENT_SLOTS, 1);
    init(SharedPlan::SEGMENT_FREE, SEGMENT_SLOTS, WARPGROUPS * WARPGROUP_THREADS - WARP_THREADS);
    init(SharedPlan::NORM_FULL, 1, WARPGROUP_THREADS);
    init(SharedPlan::NORM_FREE, 1, 2 * WARPGROUP_THREADS);
}

/// A barrier, and the parity of the phase that is meant.
#[derive(Clone, Copy)]
pub struct Phase {
    pub barrier: Barrier,
    parity: u32,
}

impl Phase {
    /// The phase of use `number` of `slots` slots, each with a barrier at `offset`.
    #[inline(always)]
    pub fn of(offset: u32, slots: u32, number: u32) -> Self {
        // SAFETY: `init_barriers` initialised it.
        let barrier =
            unsafe { Barrier::at(special::dynamic_shared() + offset + number % slots * BARRIER_BYTES) };
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

    /// Arrives in each CTA of the cluster.
    ///
    /// # Safety
    /// The whole warp calls it; the protocol expects one arrival of it in each CTA.
    #[inline(always)]
    pub unsafe fn arrive_in_cluster(self) {
        let lane = special::thread_x() % WARP_THREADS;
        if lane < special::cluster_ctas() {
            // SAFETY: as the caller promises; no CTA of the cluster ends before the others.
            unsafe { self.barrier.arrive_in(lane) };
        }
    }
}

/// Completes when the row norms of segment `number`, counted by the CTA, are written.
#[inline(always)]
pub fn norms_full(number: u32) -> Phase {
    Phase::of(SharedPlan::NORM_FULL, 1, number)
}

/// Completes when the row norms of segment `number` have been read.
#[inline(always)]
pub fn norms_free(number: u32) -> Phase {
    Phase::of(SharedPlan::NORM_FREE, 1, number)
}

/// Where block number `number`, counted by the CTA, lies in shared memory.
#[derive(Clone, Copy)]
pub struct BlockPlace {
    number: u32,
}

impl BlockPlace {
    /// The place of the CTA's first block.
    #[inline(always)]
    pub fn first() -> Self {
        Self { number: 0 }
    }

    /// The place of the next block.
    #[inline(always)]
    pub fn next(self) -> Self {
        Self { number: self.number + 1 }
    }

    /// Address of a part of the block's value tiles.
    #[inline(always)]
    pub fn part(self, part: u32) -> u32 {
        let slot = (VALUE_PARTS * self.number + part) % PART_SLOTS;
        special::dynamic_shared() + SharedPlan::V + slot * PART_BYTES
    }

    /// Completes when a part of the value tiles has landed.
    #[inline(always)]
    pub fn part_full(self, part: u32) -> Phase {
        Phase::of(SharedPlan::PART_FULL, PART_SLOTS, VALUE_PARTS * self.number + part)
    }

    /// Completes when a part of the value tiles is used up.
    #[inline(always)]
    pub fn part_free(self, part: u32) -> Phase {
        Phase::of(SharedPlan::PART_FREE, PART_SLOTS, VALUE_PARTS * self.number + part)
    }

    /// Address of the block's tail, and later of its probabilities.
    #[inline(always)]
    pub fn tail(self) -> u32 {
        special::dynamic_shared() + SharedPlan::TAIL + self.number % TAIL_SLOTS * TILE_BYTES
    }

    /// Completes when the tail has landed.
    #[inline(always)]
    pub fn tail_full(self) -> Phase {
        Phase::of(SharedPlan::TAIL_FULL, TAIL_SLOTS, self.number)
    }

    /// Completes when probabilities and row scales are written.
    #[inline(always)]
    pub fn probabilities_full(self) -> Phase {
        Phase::of(SharedPlan::P_FULL, TAIL_SLOTS, self.number)
    }

    /// Completes when the probabilities may be multiplied.
    #[inline(always)]
    pub fn probabilities_may(self) -> Phase {
        Phase::of(SharedPlan::P_MAY, TAIL_SLOTS, self.number)
    }

    /// Completes when both value warpgroups are done with probabilities and row scales.
    #[inline(always)]
    pub fn probabilities_free(self) -> Phase {
        Phase::of(SharedPlan::P_FREE, TAIL_SLOTS, self.number)
    }

    /// Address of the flag that tells whether the block's page is one of the cache's: 1, or 0. Written before the tail is
    /// full.
    #[inline(always)]
    pub fn is_present(self) -> u32 {
        special::dynamic_shared() + SharedPlan::IS_PRESENT + self.number % TAIL_SLOTS * 4
    }

    /// Address of the block's row scales.
    #[inline(always)]
    pub fn row_scales(self) -> u32 {
        special::dynamic_shared() + SharedPlan::ROW_SCALE + self.number % TAIL_SLOTS * TILE_ROWS * 4
    }
}

/// Page of a request's block, or [`NO_PAGE`] where the table names none of the cache's.
///
/// # Safety
/// The page table is readable as the parameters say; `block` lies within its row.
#[inline(always)]
pub unsafe fn page_of(params: &DenseDecodeParams, request: u32, block: u32) -> u32 {
    let entry = request as i64 * params.block_table_stride + block as i64;
    // SAFETY: as the caller promises.
    let page = unsafe { memory::ld_global_u32(params.block_table.wrapping_add((entry * 4) as u64)) };
    if page < params.num_pages { page } else { NO_PAGE }
}
