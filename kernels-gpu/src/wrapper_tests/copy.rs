//! Kernels for [`ptx::copy`](crate::ptx::copy), and for whatever else takes a copy of a box of a tensor to test.

use super::kernel;
use crate::ptx::barrier::{barrier_cluster_arrive, barrier_cluster_wait, barrier_cta_sync};
use crate::ptx::copy::*;
use crate::ptx::fence::{fence_mbarrier_init, fence_proxy_async_shared};
use crate::ptx::mbarrier::*;
use crate::ptx::memory::{ld_shared_u32, st_shared_u32};
use crate::ptx::special::{cluster_rank, dynamic_shared, mapa, parameter_address, thread_x};
use crate::ptx::warp::warp_sync;
use oximla_types::kernels::TensorMap;
use oximla_types::launch::WARP_THREADS;

/// A box of a tensor, and where to write it.
#[repr(C)]
pub struct BoxParams {
    /// The tensor, with a box of [`BOX_BYTES`].
    map: TensorMap,
    /// The words of the box as they lie in shared memory.
    output: *mut u32,
    /// First element of the box, innermost dimension first.
    coordinates: [i32; 4],
}

/// Eight rows of 64 elements of 16 bits: the pattern of the 128-byte swizzle.
pub const BOX_BYTES: u32 = 8 * 64 * 2;

/// A box of a tensor, and what to store there.
#[repr(C)]
pub struct StoreParams {
    /// The tensor, with a box of [`BOX_BYTES`].
    map: TensorMap,
    /// The words of the box as they shall lie in shared memory.
    input: *const u32,
    /// First element of the box, innermost dimension first.
    coordinates: [i32; 4],
}

/// A kernel that fetches boxes or stores one. An entry must name itself to find its parameters.
macro_rules! box_kernel {
    ($name:ident, $entry:literal, $params:ident, $body:ident) => {
        /// # Safety
        /// Launched under its contract with a valid tensor map, and the boxes, or room for them, at the pointer.
        #[unsafe(no_mangle)]
        pub unsafe extern "ptx-kernel" fn $name(params: $params) {
            let map = parameter_address!($entry);
            // SAFETY: as the caller promises; the map comes first in the parameters.
            unsafe { $body(&params, map) }
        }
    };
}

macro_rules! fetch_kernel {
    ($name:ident, $entry:literal, $fetch:ident) => {
        box_kernel!($name, $entry, BoxParams, $fetch);
    };
}

fetch_kernel!(wrapper_cp_async_bulk_tensor_4d, "wrapper_cp_async_bulk_tensor_4d", fetch);
fetch_kernel!(wrapper_createpolicy_evict_first, "wrapper_createpolicy_evict_first", fetch_first);
fetch_kernel!(wrapper_createpolicy_evict_normal, "wrapper_createpolicy_evict_normal", fetch);
fetch_kernel!(wrapper_mbarrier_arrive_expect_tx, "wrapper_mbarrier_arrive_expect_tx", fetch);
fetch_kernel!(wrapper_fence_mbarrier_init, "wrapper_fence_mbarrier_init", fetch);
fetch_kernel!(wrapper_parameter_address, "wrapper_parameter_address", fetch);
fetch_kernel!(
    wrapper_cp_async_bulk_tensor_4d_multicast,
    "wrapper_cp_async_bulk_tensor_4d_multicast",
    fetch_for_both
);

box_kernel!(
    wrapper_cp_async_bulk_tensor_4d_store,
    "wrapper_cp_async_bulk_tensor_4d_store",
    StoreParams,
    store
);
box_kernel!(wrapper_cp_async_bulk_commit_group, "wrapper_cp_async_bulk_commit_group", StoreParams, store);
box_kernel!(
    wrapper_cp_async_bulk_wait_group_read,
    "wrapper_cp_async_bulk_wait_group_read",
    StoreParams,
    store
);

/// The warp puts a box into shared memory, has it stored, and puts something else there when it has been read.
#[inline(always)]
unsafe fn store(params: &StoreParams, map: u64) {
    let tile = dynamic_shared();
    // SAFETY: the box is aligned as the shared memory is; the whole warp is here.
    unsafe {
        fill_box(tile, |word| *params.input.add(word as usize));
        fence_proxy_async_shared();
        barrier_cta_sync::<0>(WARP_THREADS);
        if thread_x() == 0 {
            cp_async_bulk_tensor_4d_store(map, params.coordinates, tile);
            cp_async_bulk_commit_group();
            cp_async_bulk_wait_group_read::<0>();
        }
        barrier_cta_sync::<0>(WARP_THREADS);
        fill_box(tile, |_| 0);
    }
}

/// Stores the words of a box in shared memory.
#[inline(always)]
unsafe fn fill_box(tile: u32, words: impl Fn(u32) -> u32) {
    let mut word = thread_x();
    while word < BOX_BYTES / 4 {
        // SAFETY: as the caller promises, the box is the warp's.
        unsafe { st_shared_u32(tile + word * 4, words(word)) };
        word += WARP_THREADS;
    }
}

/// [`fetch_under`] the usual policy.
#[inline(always)]
unsafe fn fetch(params: &BoxParams, map: u64) {
    // SAFETY: as the caller promises.
    unsafe { fetch_under(params, map, createpolicy_evict_normal()) }
}

/// [`fetch_under`] the policy for what is read once.
#[inline(always)]
unsafe fn fetch_first(params: &BoxParams, map: u64) {
    // SAFETY: as the caller promises.
    unsafe { fetch_under(params, map, createpolicy_evict_first()) }
}

/// A lane asks for the box under a cache policy, all wait for it and write it.
#[inline(always)]
unsafe fn fetch_under(params: &BoxParams, map: u64, policy: u64) {
    let tile = dynamic_shared();
    let barrier = tile + BOX_BYTES;
    // SAFETY: the box is aligned as the shared memory is, the barrier behind it; the whole warp is here.
    unsafe {
        // The register is read anew for each condition: rustc's own jump threading does not know of convergence, and
        // would lead lane 0 from one to the other past a CTA barrier of its own.
        if thread_x() == 0 {
            mbarrier_init(barrier, 1);
            fence_mbarrier_init();
        }
        barrier_cta_sync::<0>(WARP_THREADS);
        if thread_x() == 0 {
            mbarrier_arrive_expect_tx(barrier, BOX_BYTES);
            cp_async_bulk_tensor_4d(tile, map, params.coordinates, barrier, policy);
        }
        while !mbarrier_try_wait_parity(barrier, 0, 0) {}
        write_boxes(tile, 1, params.output);
    }
}

/// In a cluster of two CTAs: the first asks for the box on behalf of both, the second for the one of the next page on behalf of
/// the first. Each CTA has places for two boxes, writes both, and zeros for one that it is not sent.
#[inline(always)]
unsafe fn fetch_for_both(params: &BoxParams, map: u64) {
    let boxes = dynamic_shared();
    let barrier = boxes + 2 * BOX_BYTES;
    let rank = cluster_rank();
    let [c0, c1, c2, page] = params.coordinates;
    let (page, ctas, expected_boxes) = if rank == 0 { (page, 0b11, 2) } else { (page + 1, 0b01, 1) };
    // SAFETY: the boxes are aligned as the shared memory is, the barrier behind them; both warps are here, and neither
    // ends before it has what it is sent.
    unsafe {
        let mut word = expected_boxes * BOX_BYTES / 4 + thread_x();
        while word < 2 * BOX_BYTES / 4 {
            st_shared_u32(boxes + word * 4, 0);
            word += WARP_THREADS;
        }
        if thread_x() == 0 {
            mbarrier_init(barrier, 1);
            fence_mbarrier_init();
            mbarrier_arrive_expect_tx(barrier, expected_boxes * BOX_BYTES);
        }
        barrier_cluster_arrive();
        barrier_cluster_wait();
        if thread_x() < WARP_THREADS {
            let destination = boxes + rank * BOX_BYTES;
            let policy = createpolicy_evict_first();
            cp_async_bulk_tensor_4d_multicast(destination, map, [c0, c1, c2, page], barrier, ctas, policy);
        }
        while !mbarrier_try_wait_parity(barrier, 0, 0) {}
        write_boxes(boxes, 2, params.output.add((rank * 2 * BOX_BYTES / 4) as usize));
    }
}

/// Writes boxes as they lie in shared memory.
#[inline(always)]
unsafe fn write_boxes(boxes: u32, count: u32, output: *mut u32) {
    let mut word = thread_x();
    while word < count * BOX_BYTES / 4 {
        // SAFETY: the boxes have arrived, and the output has room for them.
        unsafe { *output.add(word as usize) = ld_shared_u32(boxes + word * 4) };
        word += WARP_THREADS;
    }
}

macro_rules! copy_kernel {
    ($name:ident, $copy:path, $bytes:literal) => {
        kernel!($name, |lane, input, output| {
            copy_and_pass(lane, input, output, $bytes, |destination, source, bytes| {
                $copy(destination, source, bytes);
                cp_async_commit_group();
                cp_async_wait_group::<0>();
            })
        });
    };
}

copy_kernel!(wrapper_cp_async_4, cp_async_4, 4);
copy_kernel!(wrapper_cp_async_8, cp_async_8, 8);
copy_kernel!(wrapper_cp_async_16, cp_async_16, 16);
copy_kernel!(wrapper_cp_async_16_prefetch_256, cp_async_16_prefetch_256, 16);
copy_kernel!(wrapper_cp_async_commit_group, cp_async_16, 16);

/// Lanes copy `size` bytes each to shared memory, of which the input says behind the data how many to read, and write what
/// the lane opposite has copied.
#[inline(always)]
unsafe fn copy_and_pass(
    lane: usize,
    input: *const u32,
    output: *mut u32,
    size: usize,
    copy: impl Fn(u32, u64, u32),
) {
    let shared = dynamic_shared();
    let words = size / 4;
    let warp = WARP_THREADS as usize;
    // SAFETY: so many words a lane lie in shared memory, input and output; the whole warp is here.
    unsafe {
        let bytes = *input.add(warp * words + lane);
        copy(shared + (lane * size) as u32, input.add(lane * words) as u64, bytes);
        barrier_cta_sync::<0>(WARP_THREADS);
        let opposite = (warp - 1 - lane) * words;
        for word in 0..words {
            *output.add(lane * words + word) = ld_shared_u32(shared + 4 * (opposite + word) as u32);
        }
    }
}

// Each lane copies a word, then another one, and has the first one once it has waited for all but one group.
kernel!(wrapper_cp_async_wait_group, |lane, input, output| {
    let shared = dynamic_shared() + 4 * lane as u32;
    let second = WARP_THREADS as usize;
    for (at, source) in [lane, second + lane].into_iter().enumerate() {
        cp_async_4(shared + 4 * (at * second) as u32, input.add(source) as u64, 4);
        cp_async_commit_group();
    }
    cp_async_wait_group::<1>();
    *output.add(lane) = ld_shared_u32(shared);
    cp_async_wait_group::<0>();
    *output.add(second + lane) = ld_shared_u32(shared + 4 * WARP_THREADS);
});

// Lanes copy a word each; one arrives for all of them, when it has seen that all have told the barrier of their copies.
kernel!(wrapper_cp_async_mbarrier_arrive, |lane, input, output| {
    let words = dynamic_shared();
    let barrier = words + 4 * WARP_THREADS;
    if thread_x() == 0 {
        mbarrier_init(barrier, 1);
    }
    barrier_cta_sync::<0>(WARP_THREADS);
    cp_async_4(words + 4 * lane as u32, input.add(lane) as u64, 4);
    cp_async_mbarrier_arrive(barrier);
    warp_sync();
    if thread_x() == 0 {
        mbarrier_arrive(barrier);
    }
    while !mbarrier_try_wait_parity(barrier, 0, 0) {}
    let opposite = WARP_THREADS - 1 - lane as u32;
    *output.add(lane) = ld_shared_u32(words + 4 * opposite);
});

/// Words of each piece that [`cp_async_bulk_8`] copies in its test, and from one to the next in shared memory.
const PIECE_WORDS: u32 = 12;
const PIECE_STRIDE_WORDS: u32 = 20;

// The pieces of the input, the last one first.
kernel!(wrapper_cp_async_bulk_8, |lane, input, output| {
    let pieces = dynamic_shared();
    let barrier = pieces + 4 * 8 * PIECE_STRIDE_WORDS;
    if thread_x() == 0 {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(barrier, 4 * 8 * PIECE_WORDS);
    }
    warp_sync();
    let sources = [7, 6, 5, 4, 3, 2, 1, 0].map(|piece| input.add(piece * PIECE_WORDS as usize) as u64);
    cp_async_bulk_8::<{ 4 * PIECE_STRIDE_WORDS }>(pieces, sources, 4 * PIECE_WORDS, barrier);
    while !mbarrier_try_wait_parity(barrier, 0, 0) {}
    let mut word = lane as u32;
    while word < 8 * PIECE_WORDS {
        let from = word / PIECE_WORDS * PIECE_STRIDE_WORDS + word % PIECE_WORDS;
        *output.add(word as usize) = ld_shared_u32(pieces + 4 * from);
        word += WARP_THREADS;
    }
});

kernel!(wrapper_cp_async_bulk_to_cluster, |lane, input, output| { exchange(lane, input, output) });
kernel!(wrapper_mapa, |lane, input, output| { exchange(lane, input, output) });

/// In a cluster of two CTAs: a lane's word each goes to the other CTA, which writes it.
#[inline(always)]
unsafe fn exchange(lane: usize, input: *const u32, output: *mut u32) {
    const BYTES: u32 = 4 * WARP_THREADS;
    let shared = dynamic_shared();
    let [own, others, barrier] = [shared, shared + BYTES, shared + 2 * BYTES];
    let (rank, offset) = (cluster_rank(), 4 * lane as u32);
    let word = (rank * WARP_THREADS) as usize + lane;
    // SAFETY: both CTAs expect the other one's words; there is a word for each lane of both in input and output.
    unsafe {
        if thread_x() == 0 {
            mbarrier_init(barrier, 1);
            fence_mbarrier_init();
            mbarrier_arrive_expect_tx(barrier, BYTES);
        }
        st_shared_u32(own + offset, *input.add(word));
        fence_proxy_async_shared();
        barrier_cluster_arrive();
        barrier_cluster_wait();
        cp_async_bulk_to_cluster(mapa(others, rank ^ 1), own, BYTES, mapa(barrier, rank ^ 1));
        while !mbarrier_try_wait_parity(barrier, 0, 0) {}
        *output.add(word) = ld_shared_u32(others + offset);
        // Neither ends while the other one's copy may be under way.
        barrier_cluster_arrive();
        barrier_cluster_wait();
    }
}

// Each lane's word, behind a hint to fetch it.
kernel!(wrapper_prefetch_l2, |lane, input, output| {
    prefetch_l2(input.add(lane) as u64);
    *output.add(lane) = *input.add(lane);
});
