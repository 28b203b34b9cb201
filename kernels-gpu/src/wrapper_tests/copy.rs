//! Kernels for [`ptx::copy`](crate::ptx::copy), and for whatever else takes a copy of a box of a tensor to test.

use super::{get, kernel};
use crate::ptx::barrier::barrier_cta_sync;
use crate::ptx::copy::cp_async_bulk_tensor_4d;
use crate::ptx::fence::fence_mbarrier_init;
use crate::ptx::mbarrier::{mbarrier_arrive_expect_tx, mbarrier_init, mbarrier_try_wait_parity};
use crate::ptx::special::{dynamic_shared, parameter_address, thread_x};
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

/// A kernel that fetches a box. An entry must name itself to find its parameters.
macro_rules! fetch_kernel {
    ($name:ident, $entry:literal) => {
        /// # Safety
        /// Launched under its contract with a valid tensor map and room for a box in the output.
        #[unsafe(no_mangle)]
        pub unsafe extern "ptx-kernel" fn $name(params: BoxParams) {
            let map = parameter_address!($entry);
            // SAFETY: as the caller promises; the map comes first in the parameters.
            unsafe { fetch(&params, map) }
        }
    };
}

fetch_kernel!(wrapper_cp_async_bulk_tensor_4d, "wrapper_cp_async_bulk_tensor_4d");
fetch_kernel!(wrapper_mbarrier_arrive_expect_tx, "wrapper_mbarrier_arrive_expect_tx");
fetch_kernel!(wrapper_fence_mbarrier_init, "wrapper_fence_mbarrier_init");
fetch_kernel!(wrapper_parameter_address, "wrapper_parameter_address");

/// A lane asks for the box, all wait for it and write it.
#[inline(always)]
unsafe fn fetch(params: &BoxParams, map: u64) {
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
            cp_async_bulk_tensor_4d(tile, map, params.coordinates, barrier);
        }
        while !mbarrier_try_wait_parity(barrier, 0) {}
        let mut word = thread_x();
        while word < BOX_BYTES / 4 {
            *params.output.add(word as usize) = get(tile + word * 4);
            word += WARP_THREADS;
        }
    }
}
