//! Asynchronous copies ("Data Movement and Conversion Instructions: Asynchronous copy").

use core::arch::asm;

/// `createpolicy.fractional.L2::evict_first`: a cache policy for data that is not read again.
#[inline(always)]
pub fn createpolicy_evict_first() -> u64 {
    let policy: u64;
    // SAFETY: it only makes a number.
    unsafe {
        asm!("createpolicy.fractional.L2::evict_first.b64 {}, 1.0;", out(reg64) policy, options(nomem, nostack))
    }
    policy
}

/// `createpolicy.fractional.L2::evict_normal`: the cache policy of accesses without one.
#[inline(always)]
pub fn createpolicy_evict_normal() -> u64 {
    let policy: u64;
    // SAFETY: it only makes a number.
    unsafe {
        asm!("createpolicy.fractional.L2::evict_normal.b64 {}, 1.0;", out(reg64) policy, options(nomem, nostack))
    }
    policy
}

/// `cp.async.bulk.tensor.4d`: copies the box at `coordinates` (innermost first) under a cache policy and completes on
/// `barrier`.
/// Whatever lies outside the tensor arrives as zeros and counts as transferred.
///
/// # Safety
/// `map` is the generic address of a valid tensor map of rank 4, `destination` has room for its box, aligned as its
/// swizzle asks, and `barrier` expects the bytes of a whole box.
#[inline(always)]
pub unsafe fn cp_async_bulk_tensor_4d(
    destination: u32,
    map: u64,
    coordinates: [i32; 4],
    barrier: u32,
    policy: u64,
) {
    let [c0, c1, c2, c3] = coordinates;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint \
              [{}], [{}, {{{}, {}, {}, {}}}], [{}], {};",
            in(reg32) destination, in(reg64) map,
            in(reg32) c0, in(reg32) c1, in(reg32) c2, in(reg32) c3, in(reg32) barrier, in(reg64) policy,
            options(nostack))
    }
}

/// `cp.async.bulk.tensor.4d` with `.multicast::cluster`: the same for the CTAs of the cluster whose bits are set in `ctas`.
/// In each of them the box goes to `destination`, and completes on `barrier`, of its own shared memory.
///
/// # Safety
/// As for [`cp_async_bulk_tensor_4d`], in each of the CTAs.
#[inline(always)]
pub unsafe fn cp_async_bulk_tensor_4d_multicast(
    destination: u32,
    map: u64,
    coordinates: [i32; 4],
    barrier: u32,
    ctas: u16,
    policy: u64,
) {
    let [c0, c1, c2, c3] = coordinates;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster\
              .L2::cache_hint [{}], [{}, {{{}, {}, {}, {}}}], [{}], {}, {};",
            in(reg32) destination, in(reg64) map,
            in(reg32) c0, in(reg32) c1, in(reg32) c2, in(reg32) c3, in(reg32) barrier, in(reg16) ctas, in(reg64) policy,
            options(nostack))
    }
}
