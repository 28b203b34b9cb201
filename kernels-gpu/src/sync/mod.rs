//! Barriers as types.

use crate::ptx::{barrier, copy, mbarrier};
use oximla_types::launch::WARPGROUP_THREADS;

/// How long a thread sleeps at an mbarrier before it looks by itself, in nanoseconds: longer than any phase takes, as looking
/// takes issue slots and power from the warps that work.
const PATIENCE: u32 = 10_000_000;

/// An mbarrier in the CTA's shared memory.
#[derive(Clone, Copy)]
pub struct Barrier(u32);

impl Barrier {
    /// The barrier at a shared-memory address.
    ///
    /// # Safety
    /// The kernel's shared-memory plan sets these 8 bytes aside for one barrier.
    #[inline(always)]
    pub unsafe fn at(address: u32) -> Self {
        Self(address)
    }

    /// Makes phases complete after `arrivals` arrivals.
    ///
    /// # Safety
    /// One thread does this, before any other use; others use the barrier only after a CTA barrier.
    #[inline(always)]
    pub unsafe fn init(self, arrivals: u32) {
        // SAFETY: the plan owns the address, and the caller comes first.
        unsafe { mbarrier::mbarrier_init(self.0, arrivals) }
    }

    /// Arrives, releasing this thread's accesses to the waiters.
    ///
    /// # Safety
    /// The protocol expects this arrival in the current phase.
    #[inline(always)]
    pub unsafe fn arrive(self) {
        // SAFETY: as the caller promises.
        unsafe { mbarrier::mbarrier_arrive(self.0) }
    }

    /// Arrives at the barrier of the same address in CTA `cta` of the cluster.
    ///
    /// # Safety
    /// As for [`Self::arrive`], in that CTA, which still runs.
    #[inline(always)]
    pub unsafe fn arrive_in(self, cta: u32) {
        // SAFETY: as the caller promises.
        unsafe { mbarrier::mbarrier_arrive_cluster(self.0, cta) }
    }

    /// Arrives and makes the phase wait for `bytes` copied bytes as well.
    ///
    /// # Safety
    /// As for [`Self::arrive`]; copies of exactly `bytes` bytes complete on this barrier.
    #[inline(always)]
    pub unsafe fn arrive_expecting(self, bytes: u32) {
        // SAFETY: as the caller promises.
        unsafe { mbarrier::mbarrier_arrive_expect_tx(self.0, bytes) }
    }

    /// Makes the phase wait for this thread's asynchronous copies so far as well.
    ///
    /// # Safety
    /// The phase cannot complete before an arrival that is ordered behind this.
    #[inline(always)]
    pub unsafe fn expect_copies(self) {
        // SAFETY: as the caller promises.
        unsafe { copy::cp_async_mbarrier_arrive(self.0) }
    }

    /// Waits until the phase of `parity` is complete. A fresh barrier is in phase 0: waiting for parity 1 passes.
    #[inline(always)]
    pub fn wait(self, parity: u32) {
        // SAFETY: a `Barrier` stands for an initialised one.
        while unsafe { !mbarrier::mbarrier_try_wait_parity(self.0, parity, PATIENCE) } {}
    }

    /// The shared-memory address, for copies that complete on the barrier.
    #[inline(always)]
    pub fn address(self) -> u32 {
        self.0
    }
}

/// Waits for all threads of the calling thread's warpgroup.
///
/// # Safety
/// All threads of the warpgroup call it with one `ID`, which no other group of threads uses.
#[inline(always)]
pub unsafe fn warpgroup_barrier<const ID: u32>() {
    // SAFETY: as the caller promises.
    unsafe { barrier::barrier_cta_sync::<ID>(WARPGROUP_THREADS) }
}

/// Waits for `threads` threads, whole warps.
///
/// # Safety
/// All of them call it with one `ID`, which no other group of threads uses.
#[inline(always)]
pub unsafe fn group_barrier<const ID: u32>(threads: u32) {
    // SAFETY: as the caller promises.
    unsafe { barrier::barrier_cta_sync::<ID>(threads) }
}

/// Waits for all `threads` threads of the CTA.
///
/// # Safety
/// All threads of the CTA call it.
#[inline(always)]
pub unsafe fn cta_barrier(threads: u32) {
    // SAFETY: barrier 0 is used for nothing else.
    unsafe { barrier::barrier_cta_sync::<0>(threads) }
}

/// Waits for all threads of the CTA's cluster that have not ended; those of the CTA, where there is none.
///
/// # Safety
/// All threads of the cluster call it, whole warps at a time, or end.
#[inline(always)]
pub unsafe fn cluster_barrier() {
    // SAFETY: as the caller promises.
    unsafe {
        barrier::barrier_cluster_arrive();
        barrier::barrier_cluster_wait();
    }
}
