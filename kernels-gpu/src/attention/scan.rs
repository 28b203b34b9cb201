//! Running sums over the lanes of a warp.

use crate::ptx::warp;

/// Sum over this lane and the ones below.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
pub unsafe fn inclusive_sum(value: u32, lane: u32) -> u32 {
    let mut sum = value;
    macro_rules! step {
        ($($delta:literal)*) => { $({
            // SAFETY: as the caller promises.
            let below = unsafe { warp::shfl_up::<$delta>(sum) };
            sum += if lane >= $delta { below } else { 0 };
        })* };
    }
    step!(1 2 4 8 16);
    sum
}
