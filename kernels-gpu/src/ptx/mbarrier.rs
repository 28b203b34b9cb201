//! Memory barriers in shared memory ("Parallel Synchronization and Communication Instructions: mbarrier").

use core::arch::asm;

/// `mbarrier.init`: a barrier whose phases complete after `arrivals` arrivals and all expected bytes.
///
/// # Safety
/// `barrier` is 8-byte aligned shared memory that no one uses as a barrier yet.
#[inline(always)]
pub unsafe fn mbarrier_init(barrier: u32, arrivals: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("mbarrier.init.shared::cta.b64 [{}], {};", in(reg32) barrier, in(reg32) arrivals, options(nostack))
    }
}

/// `mbarrier.arrive`: one arrival, releasing this thread's earlier accesses to whoever waits.
///
/// # Safety
/// `barrier` is an initialised barrier that expects this arrival in its current phase.
#[inline(always)]
pub unsafe fn mbarrier_arrive(barrier: u32) {
    // SAFETY: as the caller promises.
    unsafe { asm!("mbarrier.arrive.shared::cta.b64 _, [{}];", in(reg32) barrier, options(nostack)) }
}

/// `mbarrier.arrive.expect_tx`: one arrival that also makes the phase wait for `bytes` more bytes.
///
/// # Safety
/// As for [`mbarrier_arrive`]; copies of exactly `bytes` bytes complete on the barrier.
#[inline(always)]
pub unsafe fn mbarrier_arrive_expect_tx(barrier: u32, bytes: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [{}], {};",
            in(reg32) barrier, in(reg32) bytes, options(nostack))
    }
}

/// `mbarrier.try_wait.parity`: whether the phase of this parity is complete; may wait up to `nanoseconds` before it says no,
/// and takes no issue slots meanwhile.
///
/// # Safety
/// `barrier` is an initialised barrier.
#[inline(always)]
pub unsafe fn mbarrier_try_wait_parity(barrier: u32, parity: u32, nanoseconds: u32) -> bool {
    let done: u32;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("{{ .reg .pred complete; \
              mbarrier.try_wait.parity.shared::cta.b64 complete, [{}], {}, {}; \
              selp.b32 {}, 1, 0, complete; }}",
            in(reg32) barrier, in(reg32) parity, in(reg32) nanoseconds, out(reg32) done, options(nostack))
    }
    done != 0
}

/// `mbarrier.arrive.shared::cluster`: one arrival at the barrier that lies at address `barrier` in the CTA of rank `cta` of
/// the cluster, for which it translates the address (`mapa`).
///
/// The arrival releases accesses in the scope of this CTA, as is the default: in the cluster's it would wait for all memory of
/// the GPU. It tells another CTA of what the asynchronous proxy has read, which is complete, not of anything written.
///
/// # Safety
/// As for [`mbarrier_arrive`], in that CTA, which still runs.
#[inline(always)]
pub unsafe fn mbarrier_arrive_cluster(barrier: u32, cta: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("{{ .reg .b32 remote; \
              mapa.shared::cluster.u32 remote, {}, {}; \
              mbarrier.arrive.shared::cluster.b64 _, [remote]; }}",
            in(reg32) barrier, in(reg32) cta, options(nostack))
    }
}
