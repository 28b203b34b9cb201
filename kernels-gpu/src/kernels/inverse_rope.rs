//! Takes the rotary position embedding of the output's last elements back, in place.
//!
//! A warp takes some heads of a token, half a warp a head, and finds the token's angles once.

use crate::attention::element::{Bf16, Fp16};
use crate::attention::output::{F32, Output};
use crate::attention::{rope, unroll};
use crate::ptx::special;
use core::num::NonZeroU32;
use oximla_types::kernels::inverse_rope::{
    COLUMNS_PER_LANE, HEADS_AT_ONCE, HEADS_PER_WARP, InverseRopeParams, LANES_PER_HEAD, WARPS,
};
use oximla_types::launch::WARP_THREADS;
use oximla_types::rope::ROPE_COLUMN;

const _: () = assert!(HEADS_PER_WARP == 4 * HEADS_AT_ONCE && COLUMNS_PER_LANE == 4);

/// The kernel for bf16 outputs.
///
/// # Safety
/// Launched under its contract, grid `⌈tokens · warps_per_token / WARPS⌉`, with parameters that describe live tensors; rows
/// of the output are aligned to 16 bytes, and overlap nothing.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn inverse_rope_bf16(_: InverseRopeParams) {
    let params = special::parameter_address!("inverse_rope_bf16");
    // SAFETY: as the caller promises.
    unsafe { inverse_rope::<Bf16>(params) }
}

/// The kernel for fp16 outputs.
///
/// # Safety
/// As for [`inverse_rope_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn inverse_rope_fp16(_: InverseRopeParams) {
    let params = special::parameter_address!("inverse_rope_fp16");
    // SAFETY: as the caller promises.
    unsafe { inverse_rope::<Fp16>(params) }
}

/// The kernel for f32 outputs.
///
/// # Safety
/// As for [`inverse_rope_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn inverse_rope_f32(_: InverseRopeParams) {
    let params = special::parameter_address!("inverse_rope_f32");
    // SAFETY: as the caller promises.
    unsafe { inverse_rope::<F32>(params) }
}

#[inline(always)]
unsafe fn inverse_rope<T: Output>(params: u64) {
    // Indexed by a variable, the parameter itself would be copied to local memory.
    // SAFETY: the address of a parameter of that type, which nothing writes.
    let params = unsafe { &*(params as *const InverseRopeParams) };
    special::griddepcontrol_launch_dependents();
    special::griddepcontrol_wait();
    let (warp, lane) = (special::thread_x() / WARP_THREADS, special::thread_x() % WARP_THREADS);
    let warp = special::cta_x() * WARPS + warp;
    // SAFETY: the host launches with at least one head and one query token.
    let (warps_per_token, s_q) =
        unsafe { (NonZeroU32::new_unchecked(params.warps_per_token), NonZeroU32::new_unchecked(params.s_q)) };
    let token = warp / warps_per_token;
    if token >= params.tokens {
        return;
    }
    let (request, query) = (token / s_q, token % s_q);
    let column = lane % LANES_PER_HEAD * COLUMNS_PER_LANE;
    let first_head = warp % warps_per_token * HEADS_PER_WARP + lane / LANES_PER_HEAD;
    let address = |head: u32| {
        let [batch_stride, token_stride, head_stride] = params.out_strides;
        let offset = request as i64 * batch_stride
            + query as i64 * token_stride
            + head as i64 * head_stride
            + (ROPE_COLUMN + column) as i64;
        params.out.wrapping_add(offset as u64 * T::BYTES)
    };
    let mut values = [[0.0; COLUMNS_PER_LANE as usize]; 4];
    // SAFETY: heads below `h_q` are within the tensor, and no other thread has these columns of them.
    unsafe {
        unroll!(I in 4 => {
            let head = first_head + I as u32 * HEADS_AT_ONCE;
            if head < params.h_q {
                values[I] = T::load(address(head));
            }
        });
        let position = rope::position(&params.rope, request, query);
        let rotations = [0, 1].map(|pair| rope::rotation(&params.rope, position, column / 2 + pair));
        unroll!(I in 4 => {
            let head = first_head + I as u32 * HEADS_AT_ONCE;
            if head < params.h_q {
                let [a, b, c, d] = values[I];
                let ([a, b], [c, d]) = (rope::inverse(rotations[0], [a, b]), rope::inverse(rotations[1], [c, d]));
                T::store(address(head), [a, b, c, d]);
            }
        });
    }
}
