//! Sparse decode for few heads for Hopper: at most sixteen, as where the heads of a model are divided among GPUs. All rows of all caches
//! are aligned to 16 bytes.
//!
//! Sixteen heads are the rows of `mma`, whose operands both come from registers. So keys stay in shared memory as the cache has them, and are
//! converted in the registers where they are multiplied. How fast they come from memory should set the pace.
//!
//! | role   | warpgroups | registers | does                                                                     |
//! |--------|------------|-----------|--------------------------------------------------------------------------|
//! | attend | 0, 1       | 216       | scores, softmax and values, each warpgroup of every other block          |
//! | gather | 2          | 72        | looks up tokens, lets the copy engine bring their rows, queues segments  |
//!
//! A warp that attends has a *part* of 128 columns, as scores and as values, in two *slabs* of 64:
//!
//! ```text
//! for each other block of 64 keys
//!     each warp   partial[part] = (Q[part]·K[part]ᵀ)·scale            16×64
//!     meet        (the warpgroup)
//!     each warp   S = Σ partial;  online softmax of four heads        P 4×64
//!     meet
//!     each warp   O[part] = O[part]·correction + (P·scale)·V[part]    16×128, from the codes that the scores were computed of
//! at the end of a segment
//!     both warpgroups merge what they have, each stores one slab of each part
//! ```
//!
//! As there are two warpgroups, one multiplies while the other one waits for shared memory or for its warps. What a warp adds to the scores from
//! elements with position embedding are those of 16 keys. With MODEL1 the last slab of values are these elements.
//!
//! A code becomes an fp16, which is exact; a key's scale is multiplied to its scores and to its probability instead. So keys are not
//! rounded to bf16, as in the other kernels. Queries become fp16 as well, relative to a power of two for each head, and so do probabilities and
//! what they are multiplied by, scales relative to a power of two for each slab, above all scales so far.
//!
//! | barrier     | completes when                          | arrivals                                          |
//! |-------------|-----------------------------------------|---------------------------------------------------|
//! | `landed[s]` | the tokens of stage `s` have come       | a lane of each warp that gathers, and the copies  |
//! | `taken[s]`  | they have been multiplied               | a lane of each warp of the warpgroup              |
//!
//! A warpgroup's warps meet twice a block. What one stores for the others has one place, as nobody comes to store the next before all have met
//! behind reading the last. Stages come in turns, so each warpgroup has always the same ones.

mod attend;
mod scales;
mod scores;
mod stages;
mod values;

use super::{Format, Model1, Sparse, V32};
use crate::kernels::decode::sm90::keys;
use crate::ptx::{fence, special};
use crate::sync::cta_barrier;
use core::marker::PhantomData;
use oximla_types::kernels::few_heads::{ATTEND_REGISTERS, ATTENDING_THREADS, GATHER_REGISTERS, THREADS};
use oximla_types::kernels::sparse_decode::{RawLayout, SparseDecodeParams};
use oximla_types::launch::WARP_THREADS;

/// A format in a decode for few heads.
pub struct FewHeads<F>(PhantomData<F>);

impl<F: Format> Format for FewHeads<F> {
    const RAW: RawLayout = F::RAW;
    const SCALE_PLANE: bool = F::SCALE_PLANE;
    const TAIL: bool = F::TAIL;
    const FEW_HEADS: bool = true;
}

/// The kernel for V3.2 caches and few heads.
///
/// # Safety
/// As for `sparse_decode_v32_sm90`, with at most sixteen heads, a grid `(1, partitions)`; all rows of all caches are aligned to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_v32_few_heads_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_v32_few_heads_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<FewHeads<V32>>(&params, address) }
}

/// The kernel for MODEL1 caches and few heads.
///
/// # Safety
/// As for [`sparse_decode_v32_few_heads_sm90`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_model1_few_heads_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_model1_few_heads_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<FewHeads<Model1>>(&params, address) }
}

/// The kernel for caches of a format.
///
/// # Safety
/// As for [`sparse_decode_v32_few_heads_sm90`]; `address` is that of the parameters.
#[inline(always)]
unsafe fn sparse_decode<F: Format>(params: &SparseDecodeParams, address: u64) {
    let q_map = address + core::mem::offset_of!(SparseDecodeParams, q_map) as u64;
    let thread = special::thread_x();
    // SAFETY: as in the kernel for more heads.
    unsafe {
        if thread == 0 {
            keys::init_barriers::<Sparse<F>>(special::dynamic_shared(), 1);
            stages::init_barriers();
            fence::fence_mbarrier_init();
        }
        special::griddepcontrol_launch_dependents();
        let kernel = || Sparse::<F>::new(params, q_map);
        if thread < ATTENDING_THREADS {
            cta_barrier(THREADS);
            special::griddepcontrol_wait();
            special::setmaxnreg_inc::<ATTEND_REGISTERS>();
            attend::run(&kernel());
        } else {
            if params.scopes[0].topk_length != 0 || params.scopes[1].topk_length != 0 {
                special::griddepcontrol_wait();
            }
            let segments = kernel().segments(thread % WARP_THREADS);
            cta_barrier(THREADS);
            special::setmaxnreg_dec::<GATHER_REGISTERS>();
            stages::gather(&kernel(), segments);
        }
    }
}
