//! Kernels for [`ptx::barrier`](crate::ptx::barrier).

use super::kernel;
use crate::ptx::barrier::*;
use crate::ptx::memory::{ld_shared_u32, st_shared_u32};
use crate::ptx::special::{cluster_rank, dynamic_shared};
use oximla_types::launch::WARP_THREADS;

/// Threads that wait for one another: half of the CTA.
const THREADS: u32 = 64;

// Each half of the CTA reverses its words, with a barrier of its own.
kernel!(wrapper_barrier_cta_sync, |thread, input, output| {
    let shared = dynamic_shared();
    let word = *input.add(thread);
    if thread < THREADS as usize {
        *output.add(thread) = reverse::<1>(shared, thread as u32, word);
    } else {
        *output.add(thread) = reverse::<2>(shared + THREADS * 4, thread as u32 - THREADS, word);
    }
});

/// Gives a word to the thread opposite, and returns that thread's.
#[inline(always)]
unsafe fn reverse<const ID: u32>(shared: u32, thread: u32, word: u32) -> u32 {
    // SAFETY: the words of a half lie in the shared memory, and its two warps are here.
    unsafe {
        st_shared_u32(shared + thread * 4, word);
        barrier_cta_sync::<ID>(THREADS);
        ld_shared_u32(shared + (THREADS - 1 - thread) * 4)
    }
}

kernel!(wrapper_barrier_cluster_arrive, |lane, input, output| { exchange(lane, input, output) });
kernel!(wrapper_barrier_cluster_wait, |lane, input, output| { exchange(lane, input, output) });

/// Each CTA of a cluster of two passes a word a lane on to the other one, by way of the second half of the output.
#[inline(always)]
unsafe fn exchange(lane: usize, input: *const u32, output: *mut u32) {
    let rank = cluster_rank();
    let word = |cta: u32| (cta * WARP_THREADS) as usize + lane;
    // SAFETY: the input has a word a lane of both CTAs, the output two.
    unsafe {
        let passed_on = output.add(2 * WARP_THREADS as usize);
        *passed_on.add(word(rank)) = *input.add(word(rank));
        barrier_cluster_arrive();
        barrier_cluster_wait();
        *output.add(word(rank)) = *passed_on.add(word(1 - rank));
    }
}
