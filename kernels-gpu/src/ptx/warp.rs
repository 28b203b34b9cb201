//! Exchange within a warp ("shfl.sync", "vote.sync", "redux.sync"). All 32 lanes take part.

use core::arch::asm;

/// `shfl.sync.bfly.b32`: the value of the lane whose number differs by `MASK`.
///
/// # Safety
/// The whole warp executes it.
#[inline(always)]
pub unsafe fn shfl_bfly<const MASK: u32>(value: u32) -> u32 {
    let other: u32;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("shfl.sync.bfly.b32 {}, {}, {}, 31, 0xffffffff;",
            out(reg32) other, in(reg32) value, const MASK, options(nostack))
    }
    other
}

/// `shfl.sync.up.b32`: the value of the lane `DELTA` below; lanes without one get their own.
///
/// # Safety
/// The whole warp executes it.
#[inline(always)]
pub unsafe fn shfl_up<const DELTA: u32>(value: u32) -> u32 {
    let other: u32;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("shfl.sync.up.b32 {}, {}, {}, 0, 0xffffffff;",
            out(reg32) other, in(reg32) value, const DELTA, options(nostack))
    }
    other
}

/// `shfl.sync.idx.b32`: the value of lane `lane`.
///
/// # Safety
/// The whole warp executes it.
#[inline(always)]
pub unsafe fn shfl_idx(value: u32, lane: u32) -> u32 {
    let other: u32;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("shfl.sync.idx.b32 {}, {}, {}, 31, 0xffffffff;",
            out(reg32) other, in(reg32) value, in(reg32) lane, options(nostack))
    }
    other
}

/// `shfl.sync.idx.b32`, with a segment mask: of the lanes from `FIRST` on, a multiple of `COUNT`, the value of the one whose
/// number among `COUNT`, a power of two, is the lane's own among as many.
///
/// # Safety
/// The whole warp executes it.
#[inline(always)]
pub unsafe fn shfl_idx_among<const COUNT: u32, const FIRST: u32>(value: u32) -> u32 {
    const { assert!(COUNT.is_power_of_two() && FIRST.is_multiple_of(COUNT) && FIRST + COUNT <= 32) };
    let other: u32;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("shfl.sync.idx.b32 {}, {}, {}, {}, 0xffffffff;",
            out(reg32) other, in(reg32) value, const FIRST, const ((COUNT - 1) << 8 | 31), options(nostack))
    }
    other
}

/// `vote.sync.ballot.b32`: one bit per lane.
///
/// # Safety
/// The whole warp executes it.
#[inline(always)]
pub unsafe fn ballot(predicate: bool) -> u32 {
    let lanes: u32;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("{{ .reg .pred p; setp.ne.b32 p, {}, 0; vote.sync.ballot.b32 {}, p, 0xffffffff; }}",
            in(reg32) u32::from(predicate), out(reg32) lanes, options(nostack))
    }
    lanes
}

/// `redux.sync.max.u32`: the largest value of all lanes.
///
/// # Safety
/// The whole warp executes it.
#[inline(always)]
pub unsafe fn redux_max(value: u32) -> u32 {
    let largest: u32;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("redux.sync.max.u32 {}, {}, 0xffffffff;", out(reg32) largest, in(reg32) value, options(nostack))
    }
    largest
}

/// `bar.warp.sync`: waits for all lanes of the warp, and orders their memory accesses.
///
/// # Safety
/// The whole warp executes it.
#[inline(always)]
pub unsafe fn warp_sync() {
    // SAFETY: as the caller promises.
    unsafe { asm!("bar.warp.sync 0xffffffff;", options(nostack)) }
}
