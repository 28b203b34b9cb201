//! Looks positions of requests up in a page table.
//!
//! A CTA takes the list of one query.

use crate::attention::unroll;
use crate::ptx::{barrier, memory, special, warp};
use core::num::NonZeroU32;
use oximla_types::kernels::topk_to_slots::{THREADS, TopkToSlotsParams, WARPS};
use oximla_types::launch::WARP_THREADS;

/// Positions of a thread that are under way together.
const POSITIONS_AT_ONCE: usize = 8;

/// What stands for no position, page or slot: −1, which is above all that there are.
const NONE: u32 = u32::MAX;

/// The kernel.
///
/// # Safety
/// Launched under its contract, grid `(s_q, batch)`, with parameters that describe live tensors.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn topk_to_slots(_: TopkToSlotsParams) {
    let params = special::parameter_address!("topk_to_slots");
    // SAFETY: the address of a parameter of that type, which nothing writes.
    let params = unsafe { &*(params as *const TopkToSlotsParams) };
    special::griddepcontrol_launch_dependents();
    special::griddepcontrol_wait();
    let (request, query, thread) = (special::cta_y(), special::cta_x(), special::thread_x());
    // SAFETY: the whole CTA is here; request and query are those of the tensors.
    unsafe {
        let list = List::new(params, request, query);
        let mut count = 0;
        let mut first = 0;
        while first < params.topk {
            count += list.translate(first + thread);
            first += POSITIONS_AT_ONCE as u32 * THREADS;
        }
        store_sum(count, thread, || element(params.counts, request, params.counts_stride) + 4 * query as u64);
    }
}

/// The list of a query, and what its positions mean.
struct List<'a> {
    params: &'a TopkToSlotsParams,
    positions: u64,
    slots: u64,
    pages: u64,
    /// Positions from here on are not the request's.
    len: u32,
}

impl<'a> List<'a> {
    /// # Safety
    /// The tensors are live, and have that request and query.
    #[inline(always)]
    unsafe fn new(params: &'a TopkToSlotsParams, request: u32, query: u32) -> Self {
        let list = |tensor, [request_stride, query_stride]: [i64; 2]| {
            element(element(tensor, request, request_stride), query, query_stride)
        };
        // SAFETY: as the caller promises.
        let len = unsafe { memory::ld_global_i32(element(params.seqlens, request, params.seqlens_stride)) };
        Self {
            params,
            positions: list(params.positions, params.positions_strides),
            slots: list(params.slots, params.slots_strides),
            pages: element(params.page_table, request, params.page_table_stride),
            len: len.max(0) as u32,
        }
    }

    /// Writes the slots of the positions `first`, `first + THREADS` and so on. Returns how many of the warp's are tokens.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn translate(&self, first: u32) -> u32 {
        let mut positions = [NONE; POSITIONS_AT_ONCE];
        let mut pages = [NONE; POSITIONS_AT_ONCE];
        let mut offsets = [0; POSITIONS_AT_ONCE];
        let mut count = 0;
        // SAFETY: the list has the positions below `topk`; the whole warp is here.
        unsafe {
            let index = |number: usize| first + number as u32 * THREADS;
            // First all positions, then all pages: each is one wait for memory.
            unroll!(I in 8 => {
                if index(I) < self.params.topk {
                    positions[I] = memory::ld_global_u32(self.positions + 4 * index(I) as u64);
                }
            });
            unroll!(I in 8 => { (pages[I], offsets[I]) = self.page_and_offset(positions[I]); });
            unroll!(I in 8 => {
                let page_exists = pages[I] < self.params.num_pages;
                // All tokens of the cache have a number that i32 holds.
                let slot = if page_exists { pages[I] * self.params.page_size + offsets[I] } else { NONE };
                if index(I) < self.params.topk {
                    memory::st_global_u32(self.slots + 4 * index(I) as u64, slot);
                }
                count += warp::ballot(page_exists).count_ones();
            });
        }
        count
    }

    /// Asks for the page of a position, which may be none, and tells the offset there.
    #[inline(always)]
    unsafe fn page_and_offset(&self, position: u32) -> (u32, u32) {
        // SAFETY: the host launches with pages of at least one token.
        let page_size = unsafe { NonZeroU32::new_unchecked(self.params.page_size) };
        let (entry, offset) = (position / page_size, position % page_size);
        // Negative positions are above all lengths.
        let page = if position < self.len && entry < self.params.max_pages {
            // SAFETY: the entry is one of the request's.
            unsafe { memory::ld_global_u32(self.pages + 4 * entry as u64) }
        } else {
            NONE
        };
        (page, offset)
    }
}

/// Stores the sum of a value of each warp where the first thread is told.
///
/// # Safety
/// The whole CTA calls it, once; the address is valid, and no other CTA writes there.
#[inline(always)]
unsafe fn store_sum(value: u32, thread: u32, address: impl FnOnce() -> u64) {
    let shared = special::dynamic_shared();
    // SAFETY: there is a word of shared memory for each warp; the whole CTA is here.
    unsafe {
        if thread.is_multiple_of(WARP_THREADS) {
            memory::st_shared_u32(shared + 4 * (thread / WARP_THREADS), value);
        }
        barrier::barrier_cta_sync::<0>(THREADS);
        if thread == 0 {
            let mut sum = 0;
            const { assert!(WARPS == 8, "as many as are added here") };
            unroll!(I in 8 => { sum += memory::ld_shared_u32(shared + 4 * I as u32); });
            memory::st_global_u32(address(), sum);
        }
    }
}

/// Address of an i32 of a tensor, by its index along a dimension.
#[inline(always)]
fn element(tensor: u64, index: u32, stride: i64) -> u64 {
    tensor.wrapping_add((index as i64 * stride * size_of::<i32>() as i64) as u64)
}
