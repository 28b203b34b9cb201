//! Kernels for [`ptx::mbarrier`](crate::ptx::mbarrier); that for `mbarrier_arrive_expect_tx` is in
//! [`copy`](super::copy).

use super::kernel;
use crate::ptx::barrier::{barrier_cluster_arrive, barrier_cluster_wait, barrier_cta_sync};
use crate::ptx::mbarrier::*;
use crate::ptx::memory::{ld_shared_u32, st_shared_u32};
use crate::ptx::special::{cluster_rank, dynamic_shared, thread_x};
use oximla_types::launch::WARP_THREADS;

kernel!(wrapper_mbarrier_init, |thread, input, output| { pass_on(thread, input, output) });
kernel!(wrapper_mbarrier_arrive, |thread, input, output| { pass_on(thread, input, output) });
kernel!(wrapper_mbarrier_try_wait_parity, |thread, input, output| { pass_on(thread, input, output) });

/// Times that the buffer is filled and emptied: each parity is waited for twice.
const ROUNDS: u32 = 4;

/// The first warp fills a buffer of a word a lane again and again, and the second one empties it, reversed.
#[inline(always)]
unsafe fn pass_on(thread: usize, input: *const u32, output: *mut u32) {
    let buffer = dynamic_shared();
    let full = buffer + WARP_THREADS * 4;
    let empty = full + 8;
    let lane = thread as u32 % WARP_THREADS;
    // SAFETY: buffer and barriers lie in the shared memory, input and output have a word a lane and round; each lane
    // arrives once a round.
    unsafe {
        if thread == 0 {
            mbarrier_init(full, WARP_THREADS);
            mbarrier_init(empty, WARP_THREADS);
        }
        barrier_cta_sync::<0>(2 * WARP_THREADS);
        for round in 0..ROUNDS {
            let word = (round * WARP_THREADS + lane) as usize;
            if thread < WARP_THREADS as usize {
                // A fresh barrier passes for the other parity: the buffer is empty.
                wait(empty, (round & 1) ^ 1);
                st_shared_u32(buffer + lane * 4, *input.add(word));
                mbarrier_arrive(full);
            } else {
                wait(full, round & 1);
                *output.add(word) = ld_shared_u32(buffer + (WARP_THREADS - 1 - lane) * 4);
                mbarrier_arrive(empty);
            }
        }
    }
}

// In a cluster of two CTAs: each lane of the first arrives at the barrier of the second, which waits for that.
kernel!(wrapper_mbarrier_arrive_cluster, |lane, input, output| {
    let barrier = dynamic_shared();
    let rank = cluster_rank();
    if thread_x() == 0 {
        mbarrier_init(barrier, WARP_THREADS);
    }
    barrier_cluster_arrive();
    barrier_cluster_wait();
    if rank == 0 {
        mbarrier_arrive_cluster(barrier, 1);
    } else {
        wait(barrier, 0);
    }
    let word = (rank * WARP_THREADS) as usize + lane;
    *output.add(word) = *input.add(word);
});

#[inline(always)]
unsafe fn wait(barrier: u32, parity: u32) {
    // SAFETY: callers have initialised the barrier.
    while unsafe { !mbarrier_try_wait_parity(barrier, parity, 0) } {}
}
