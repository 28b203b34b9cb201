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

/// `cp.async.bulk.tensor.4d` with `.multicast::cluster`: one lane of the warp (`elect.sync`) does the same for the CTAs of the
/// cluster whose bits are set in `ctas`. In each of them the box goes to `destination`, and completes on `barrier`, of its own
/// shared memory.
///
/// # Safety
/// As for [`cp_async_bulk_tensor_4d`], in each of the CTAs; the whole warp calls it with the same.
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
        asm!("{{ .reg .pred elected; elect.sync _|elected, 0xffffffff; \
              @elected cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes\
              .multicast::cluster.L2::cache_hint [{}], [{}, {{{}, {}, {}, {}}}], [{}], {}, {}; }}",
            in(reg32) destination, in(reg64) map,
            in(reg32) c0, in(reg32) c1, in(reg32) c2, in(reg32) c3, in(reg32) barrier, in(reg16) ctas, in(reg64) policy,
            options(nostack))
    }
}

/// `cp.async.bulk.tensor.4d.global.shared::cta`: copies a box to `coordinates` (innermost first) of a tensor. What would lie
/// outside the tensor is left out.
///
/// # Safety
/// `map` is the generic address of a valid tensor map of rank 4, `source` that of a box, aligned as its swizzle asks; what
/// threads have stored there is fenced, and nothing is stored until a group with the copy has been waited for. No coordinate is
/// negative. No other thread accesses the box's elements of the tensor unordered.
#[inline(always)]
pub unsafe fn cp_async_bulk_tensor_4d_store(map: u64, coordinates: [i32; 4], source: u32) {
    let [c0, c1, c2, c3] = coordinates;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [{}, {{{}, {}, {}, {}}}], [{}];",
            in(reg64) map, in(reg32) c0, in(reg32) c1, in(reg32) c2, in(reg32) c3, in(reg32) source,
            options(nostack))
    }
}

/// `cp.async.bulk.commit_group`: makes a group of this thread's bulk copies from shared to global memory since the last one.
#[inline(always)]
pub fn cp_async_bulk_commit_group() {
    // SAFETY: it only orders this thread's copies.
    unsafe { asm!("cp.async.bulk.commit_group;", options(nostack)) }
}

/// `cp.async.bulk.wait_group.read`: waits until all but the `PENDING` newest of this thread's groups have read what they copy.
#[inline(always)]
pub fn cp_async_bulk_wait_group_read<const PENDING: u32>() {
    // SAFETY: it only waits.
    unsafe { asm!("cp.async.bulk.wait_group.read {};", const PENDING, options(nostack)) }
}

/// `cp.async.bulk.shared::cluster.shared::cta`: one lane of the warp (`elect.sync`) copies `bytes` bytes of this CTA's shared
/// memory to an address of another CTA of the cluster (`mapa`), and completes on the barrier of such an address there.
///
/// # Safety
/// The whole warp calls it with the same. Addresses and `bytes` are multiples of 16; the source is not written before the copy
/// is complete, and what threads have stored there is fenced; the destination has room, and the barrier expects the bytes. The
/// CTA still runs.
#[inline(always)]
pub unsafe fn cp_async_bulk_to_cluster(destination: u32, source: u32, bytes: u32, barrier: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("{{ .reg .pred elected; elect.sync _|elected, 0xffffffff; \
              @elected cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes \
              [{}], [{}], {}, [{}]; }}",
            in(reg32) destination, in(reg32) source, in(reg32) bytes, in(reg32) barrier, options(nostack))
    }
}

/// `cp.async.bulk.shared::cluster.global`: one lane of the warp (`elect.sync`) copies eight pieces of `bytes` bytes, which may be anywhere, to
/// this CTA's shared memory, each `STRIDE` bytes behind the one before, and completes on `barrier`.
///
/// # Safety
/// The whole warp calls it with the same. Addresses, `bytes` and `STRIDE` are multiples of 16; the sources are global memory valid for `bytes`,
/// the destinations have room, which nobody accesses before the barrier's phase is complete, and the barrier expects the bytes.
#[inline(always)]
pub unsafe fn cp_async_bulk_8<const STRIDE: u32>(
    destination: u32,
    sources: [u64; 8],
    bytes: u32,
    barrier: u32,
) {
    let [a, b, c, d, e, f, g, h] = sources;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("{{ .reg .pred elected; elect.sync _|elected, 0xffffffff;",
            "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}], [{a}], {bytes}, [{barrier}];",
            "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}+{to1}], [{b}], {bytes}, [{barrier}];",
            "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}+{to2}], [{c}], {bytes}, [{barrier}];",
            "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}+{to3}], [{d}], {bytes}, [{barrier}];",
            "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}+{to4}], [{e}], {bytes}, [{barrier}];",
            "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}+{to5}], [{f}], {bytes}, [{barrier}];",
            "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}+{to6}], [{g}], {bytes}, [{barrier}];",
            "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}+{to7}], [{h}], {bytes}, [{barrier}]; }}",
            to = in(reg32) destination, bytes = in(reg32) bytes, barrier = in(reg32) barrier,
            a = in(reg64) a, b = in(reg64) b, c = in(reg64) c, d = in(reg64) d,
            e = in(reg64) e, f = in(reg64) f, g = in(reg64) g, h = in(reg64) h,
            to1 = const STRIDE, to2 = const 2 * STRIDE, to3 = const 3 * STRIDE, to4 = const 4 * STRIDE,
            to5 = const 5 * STRIDE, to6 = const 6 * STRIDE, to7 = const 7 * STRIDE,
            options(nostack))
    }
}

/// `prefetch.global.L2`: brings the line of 128 bytes around an address to the L2 cache, as a hint.
///
/// # Safety
/// It is an address of global memory.
#[inline(always)]
pub unsafe fn prefetch_l2(address: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("prefetch.global.L2 [{}];", in(reg64) address, options(nostack)) }
}

macro_rules! cp_async {
    ($(#[$doc:meta])* $name:ident, $instruction:literal, $bytes:literal) => {
        $(#[$doc])*
        ///
        /// The first `bytes` of them are read, the rest of the destination becomes zero: where `bytes` is 0, nothing is
        /// read. The bytes are there for this thread once it has waited for the group that the copy is committed to.
        ///
        /// # Safety
        #[doc = concat!("Both addresses are aligned to ", $bytes, ", the destination has room for ", $bytes)]
        /// bytes, the source is global memory valid for `bytes`, which is at most that many, and no other thread
        /// accesses the destination unordered.
        #[inline(always)]
        pub unsafe fn $name(destination: u32, source: u64, bytes: u32) {
            // SAFETY: as the caller promises.
            unsafe {
                asm!(concat!($instruction, " [{}], [{}], ", $bytes, ", {};"),
                    in(reg32) destination, in(reg64) source, in(reg32) bytes, options(nostack))
            }
        }
    };
}

cp_async! {
    /// `cp.async.ca.shared.global`: copies 4 bytes to shared memory, through all caches.
    cp_async_4, "cp.async.ca.shared.global", 4
}
cp_async! {
    /// `cp.async.ca.shared.global`: copies 8 bytes to shared memory, through all caches.
    cp_async_8, "cp.async.ca.shared.global", 8
}
cp_async! {
    /// `cp.async.cg.shared.global`: copies 16 bytes to shared memory, through the L2 cache alone.
    cp_async_16, "cp.async.cg.shared.global", 16
}
cp_async! {
    /// `cp.async.cg.shared.global.L2::256B`: the same, with the hint to fetch the 256 bytes around them into the L2 cache.
    cp_async_16_prefetch_256, "cp.async.cg.shared.global.L2::256B", 16
}

/// `cp.async.commit_group`: makes a group of this thread's `cp_async_*` since the last one.
#[inline(always)]
pub fn cp_async_commit_group() {
    // SAFETY: it only orders this thread's copies.
    unsafe { asm!("cp.async.commit_group;", options(nostack)) }
}

/// `cp.async.wait_group`: waits until at most the `PENDING` newest of this thread's groups are under way.
///
/// What they copied is then visible to this thread; a barrier makes it so to others.
#[inline(always)]
pub fn cp_async_wait_group<const PENDING: u32>() {
    // SAFETY: it only waits.
    unsafe { asm!("cp.async.wait_group {};", const PENDING, options(nostack)) }
}

/// `cp.async.mbarrier.arrive`: makes the barrier's current phase wait for all of this thread's `cp_async_*` so far, as if one
/// arrival more were expected and came once they are done. The thread itself does not wait.
///
/// What they copied is visible to whoever has waited for the phase.
///
/// # Safety
/// `barrier` is an initialised barrier whose current phase cannot complete yet.
#[inline(always)]
pub unsafe fn cp_async_mbarrier_arrive(barrier: u32) {
    // SAFETY: as the caller promises.
    unsafe { asm!("cp.async.mbarrier.arrive.shared::cta.b64 [{}];", in(reg32) barrier, options(nostack)) }
}
