//! Kernels for [`ptx::warp`](crate::ptx::warp).

use super::kernel;
use crate::ptx::memory::{ld_shared_u32, st_shared_u32};
use crate::ptx::special::dynamic_shared;
use crate::ptx::warp::*;
use oximla_types::launch::WARP_THREADS;

kernel!(wrapper_shfl_bfly, |lane, input, output| {
    *output.add(lane) = shfl_bfly::<5>(*input.add(lane));
});

kernel!(wrapper_shfl_up, |lane, input, output| {
    *output.add(lane) = shfl_up::<3>(*input.add(lane));
});

// The words, then the lanes to take them from.
kernel!(wrapper_shfl_idx, |lane, input, output| {
    let from = *input.add(WARP_THREADS as usize + lane);
    *output.add(lane) = shfl_idx(*input.add(lane), from);
});

kernel!(wrapper_shfl_idx_among, |lane, input, output| {
    *output.add(lane) = shfl_idx_among::<4, 12>(*input.add(lane));
});

kernel!(wrapper_ballot, |lane, input, output| {
    *output.add(lane) = ballot(*input.add(lane) != 0);
});

kernel!(wrapper_redux_max, |lane, input, output| {
    *output.add(lane) = redux_max(*input.add(lane));
});

// Lanes pass words on to the lanes opposite through shared memory.
kernel!(wrapper_warp_sync, |lane, input, output| {
    let shared = dynamic_shared();
    st_shared_u32(shared + 4 * lane as u32, *input.add(lane));
    warp_sync();
    *output.add(lane) = ld_shared_u32(shared + 4 * (WARP_THREADS - 1 - lane as u32));
});
