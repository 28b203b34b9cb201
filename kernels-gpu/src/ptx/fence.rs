//! Fences ("Parallel Synchronization and Communication Instructions: membar/fence").

use core::arch::asm;

/// `fence.proxy.async.shared::cta`: orders this thread's ordinary shared-memory accesses before later accesses of the
/// asynchronous proxy (tensor cores, copy engine).
#[inline(always)]
pub fn fence_proxy_async_shared() {
    // SAFETY: it only orders.
    unsafe { asm!("fence.proxy.async.shared::cta;", options(nostack)) }
}

/// `fence.mbarrier_init.release.cluster`: makes initialised mbarriers visible to the asynchronous proxy.
#[inline(always)]
pub fn fence_mbarrier_init() {
    // SAFETY: it only orders.
    unsafe { asm!("fence.mbarrier_init.release.cluster;", options(nostack)) }
}
