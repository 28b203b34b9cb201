//! Kernels for [`ptx::barrier`](crate::ptx::barrier).

use super::{get, kernel, put};
use crate::ptx::barrier::barrier_cta_sync;
use crate::ptx::special::dynamic_shared;

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
        put(shared + thread * 4, word);
        barrier_cta_sync::<ID>(THREADS);
        get(shared + (THREADS - 1 - thread) * 4)
    }
}
