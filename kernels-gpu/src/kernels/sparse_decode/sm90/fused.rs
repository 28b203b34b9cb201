//! Sparse decode of a few query tokens for Hopper: a cluster has all splits of a query token, and combines them itself
//! (`kernels/decode/sm90/fused.rs`). All rows of all caches are aligned to 16 bytes.
//!
//! With a block or two for each CTA, all code is executed about once, and it takes longer to fetch it than to execute it. So there is
//! none here for anything else, and the scores' comes first: by itself that saved 1 of 12 µs, and 3 of 18 after other work.

use super::{Format, LOADS, Model1, Sparse, V32, loads};
use crate::kernels::decode::sm90::{fused, keys, scores, values};
use crate::ptx::{fence, special};
use crate::sync::cta_barrier;
use core::hint::cold_path;
use core::marker::PhantomData;
use oximla_types::kernels::decode::{THREADS, VALUES_REGISTERS};
use oximla_types::kernels::sparse_decode::{
    LOADS_REGISTERS, REGISTERS_MOVED, RawLayout, SCORES_REGISTERS, SparseDecodeParams,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};

/// A format in a decode whose combination is fused.
pub struct Fused<F>(PhantomData<F>);

impl<F: Format> Format for Fused<F> {
    const RAW: RawLayout = F::RAW;
    const SCALE_PLANE: bool = F::SCALE_PLANE;
    const TAIL: bool = F::TAIL;
    const FUSED: bool = true;
}

/// The kernel for V3.2 caches where a cluster has all splits of a query token.
///
/// # Safety
/// As for `sparse_decode_v32_sm90`, but with a grid `(row_tiles, queries · 16)` in clusters of `(1, 16)`; all rows of all caches are
/// aligned to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_v32_fused_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_v32_fused_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<Fused<V32>>(&params, address) }
}

/// The kernel for MODEL1 caches where a cluster has all splits of a query token.
///
/// # Safety
/// As for [`sparse_decode_v32_fused_sm90`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_model1_fused_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_model1_fused_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<Fused<Model1>>(&params, address) }
}

/// The kernel for caches of a format.
///
/// # Safety
/// As for [`sparse_decode_v32_fused_sm90`]; `address` is that of the parameters.
#[inline(always)]
unsafe fn sparse_decode<F: Format>(params: &SparseDecodeParams, address: u64) {
    let q_map = address + core::mem::offset_of!(SparseDecodeParams, q_map) as u64;
    let thread = special::thread_x();
    // SAFETY: as in the kernel without fused combination. Those who store partial results meet when they have, once.
    unsafe {
        if thread == 0 {
            keys::init_barriers::<Sparse<F>>(special::dynamic_shared(), F::CTAS);
            fence::fence_mbarrier_init();
        }
        special::griddepcontrol_launch_dependents();
        let role = thread / WARPGROUP_THREADS;
        if role != LOADS {
            cta_barrier(THREADS);
            special::griddepcontrol_wait();
        }
        let kernel = || Sparse::<F>::new(params, q_map);
        // Where the hints are conditions that only LLVM knows to hold, the code comes in the order scores, loads, values; else rustc
        // threads the branch above into this one, and the scores come last.
        match role {
            0 => {
                if F::LOADS_HAVE_MORE {
                    special::setmaxnreg_dec::<{ SCORES_REGISTERS - REGISTERS_MOVED }>();
                } else {
                    special::setmaxnreg_dec::<SCORES_REGISTERS>();
                }
                scores::run(&kernel(), thread);
                fused::meet();
            }
            1 => {
                if F::FUSED {
                    cold_path();
                }
                special::setmaxnreg_inc::<VALUES_REGISTERS>();
                values::run::<_, 0>(&kernel());
            }
            2 => {
                if F::FUSED {
                    cold_path();
                }
                special::setmaxnreg_inc::<VALUES_REGISTERS>();
                values::run::<_, 1>(&kernel());
            }
            _ => {
                if F::FUSED {
                    cold_path();
                }
                if params.scopes[0].topk_length != 0 || params.scopes[1].topk_length != 0 {
                    special::griddepcontrol_wait();
                }
                let segments = kernel().segments(thread % WARP_THREADS);
                cta_barrier(THREADS);
                if F::LOADS_HAVE_MORE {
                    special::setmaxnreg_dec::<{ LOADS_REGISTERS + REGISTERS_MOVED }>();
                } else {
                    special::setmaxnreg_dec::<LOADS_REGISTERS>();
                }
                loads::run::<_, true>(&kernel(), segments);
            }
        }
    }
}
