//! Kernels for [`ptx::special`](crate::ptx::special); that for `parameter_address` is in [`copy`](super::copy).

use super::kernel;
use crate::ptx::barrier::barrier_cta_sync;
use crate::ptx::memory::{ld_shared_u32, st_shared_u32};
use crate::ptx::special::*;
use oximla_types::kernels::wrapper_tests::SHARED_BYTES;
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};

// For each lane the address, then the words of the lanes opposite, passed on at the end of the shared memory.
kernel!(wrapper_dynamic_shared, |lane, input, output| {
    let end = dynamic_shared() + SHARED_BYTES;
    st_shared_u32(end - 4 * (lane as u32 + 1), *input.add(lane));
    barrier_cta_sync::<0>(WARP_THREADS);
    *output.add(lane) = dynamic_shared();
    *output.add(WARP_THREADS as usize + lane) = ld_shared_u32(end - 4 * (WARP_THREADS - lane as u32));
});

kernel!(wrapper_again, |lane, input, output| {
    *output.add(lane) = again(*input.add(lane));
});

kernel!(wrapper_again_u64, |lane, input, output| {
    let [low, high] = [2 * lane, 2 * lane + 1];
    let same = again_u64((*input.add(high) as u64) << 32 | *input.add(low) as u64);
    *output.add(low) = same as u32;
    *output.add(high) = (same >> 32) as u32;
});

/// A kernel that writes, CTA by CTA and thread by thread, what a special register holds. The input is the grid's width
/// and the threads of a CTA.
macro_rules! special_register {
    ($name:ident, $register:ident) => {
        kernel!($name, |thread, input, output| {
            let cta = cta_y() * *input + cta_x();
            *output.add((cta * *input.add(1)) as usize + thread) = $register()
        });
    };
}

special_register!(wrapper_thread_x, thread_x);
special_register!(wrapper_cta_x, cta_x);
special_register!(wrapper_cta_y, cta_y);
special_register!(wrapper_cluster_rank, cluster_rank);
special_register!(wrapper_cluster_ctas, cluster_ctas);

kernel!(wrapper_setmaxnreg_inc, |thread, input, output| { move_registers(thread, input, output) });
kernel!(wrapper_setmaxnreg_dec, |thread, input, output| { move_registers(thread, input, output) });

/// The first warpgroup gives registers to the other two.
#[inline(always)]
unsafe fn move_registers(thread: usize, input: *const u32, output: *mut u32) {
    // SAFETY: warpgroups part as a whole. Three have 3·168 registers a thread at entry, 40 + 2·232 afterwards.
    unsafe {
        let word = *input.add(thread);
        if thread < WARPGROUP_THREADS as usize {
            setmaxnreg_dec::<40>();
            *output.add(thread) = word + 1;
        } else {
            setmaxnreg_inc::<232>();
            *output.add(thread) = word + 2;
        }
    }
}

// Nothing overlaps here: both only must not be in the way.
kernel!(wrapper_griddepcontrol_wait, |lane, input, output| {
    griddepcontrol_wait();
    *output.add(lane) = *input.add(lane);
});
kernel!(wrapper_griddepcontrol_launch_dependents, |lane, input, output| {
    griddepcontrol_launch_dependents();
    *output.add(lane) = *input.add(lane);
});

// Traps in the lane that the first word names; all lanes write their number before.
kernel!(wrapper_trap, |lane, input, output| {
    *output.add(lane) = lane as u32;
    if *input == lane as u32 {
        trap();
    }
});
