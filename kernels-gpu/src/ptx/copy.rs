//! Asynchronous copies ("Data Movement and Conversion Instructions: Asynchronous copy").

use core::arch::asm;

/// `cp.async.bulk.tensor.4d`: copies the box at `coordinates` (innermost first) and completes on `barrier`.
/// Whatever lies outside the tensor arrives as zeros and counts as transferred.
///
/// # Safety
/// `map` is the generic address of a valid tensor map of rank 4, `destination` has room for its box, aligned as its
/// swizzle asks, and `barrier` expects the bytes of a whole box.
#[inline(always)]
pub unsafe fn cp_async_bulk_tensor_4d(destination: u32, map: u64, coordinates: [i32; 4], barrier: u32) {
    let [c0, c1, c2, c3] = coordinates;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
              [{}], [{}, {{{}, {}, {}, {}}}], [{}];",
            in(reg32) destination, in(reg64) map,
            in(reg32) c0, in(reg32) c1, in(reg32) c2, in(reg32) c3, in(reg32) barrier, options(nostack))
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
) {
    let [c0, c1, c2, c3] = coordinates;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster \
              [{}], [{}, {{{}, {}, {}, {}}}], [{}], {};",
            in(reg32) destination, in(reg64) map,
            in(reg32) c0, in(reg32) c1, in(reg32) c2, in(reg32) c3, in(reg32) barrier, in(reg16) ctas,
            options(nostack))
    }
}
