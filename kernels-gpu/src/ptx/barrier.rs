//! Named barriers ("Parallel Synchronization and Communication Instructions: barrier").

unsafe extern "C" {
    // The intrinsics are convergent, so LLVM neither duplicates it nor moves it across control flow. rustc's own jump
    // threading knows nothing of that: between two branches on one condition it copies the call into both arms. The
    // counts of synchronising instructions and the emulator (a diverged warp) show it.
    #[link_name = "llvm.nvvm.barrier.cta.sync.aligned.count"]
    fn llvm_barrier_cta_sync_aligned_count(id: u32, threads: u32);
    #[link_name = "llvm.nvvm.barrier.cluster.arrive.aligned"]
    fn llvm_barrier_cluster_arrive_aligned();
    #[link_name = "llvm.nvvm.barrier.cluster.wait.aligned"]
    fn llvm_barrier_cluster_wait_aligned();
}

/// `barrier.cta.sync.aligned`: waits until `threads` threads have arrived at barrier `ID`.
///
/// # Safety
/// Every thread of the warp executes it, `threads` is a multiple of 32, and all participants name the same count.
#[inline(always)]
pub unsafe fn barrier_cta_sync<const ID: u32>(threads: u32) {
    // SAFETY: as the caller promises.
    unsafe { llvm_barrier_cta_sync_aligned_count(ID, threads) }
}

/// `barrier.cluster.arrive.aligned`: arrives at the cluster's barrier, releasing this thread's accesses to those who wait.
///
/// # Safety
/// Every thread of the warp executes it, and then [`barrier_cluster_wait`].
#[inline(always)]
pub unsafe fn barrier_cluster_arrive() {
    // SAFETY: as the caller promises.
    unsafe { llvm_barrier_cluster_arrive_aligned() }
}

/// `barrier.cluster.wait.aligned`: waits until all threads of the cluster have arrived.
///
/// # Safety
/// Every thread of the warp executes it, after [`barrier_cluster_arrive`].
#[inline(always)]
pub unsafe fn barrier_cluster_wait() {
    // SAFETY: as the caller promises.
    unsafe { llvm_barrier_cluster_wait_aligned() }
}
