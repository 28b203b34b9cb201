//! Merges the results of attention over disjoint keys, of which each has been normalised by itself.
//!
//! A CTA takes some rows one after the other, a thread four columns of each.

use crate::attention::element::{Bf16, Fp16};
use crate::attention::merge::{self, PARTS_AT_ONCE, Parts};
use crate::attention::output::{F32, Output};
use crate::ptx::{memory, special};
use core::num::NonZeroU32;
use oximla_types::kernels::merge_states::{COLUMNS_PER_THREAD, MAX_STATES, MergeStatesParams, StateTensors};
use oximla_types::launch::WARP_THREADS;

/// The kernel for bf16 outputs.
///
/// # Safety
/// Launched under its contract, grid `(⌈total_rows / rows_per_cta⌉, batch)`, with parameters that describe live tensors
/// whose rows are aligned to 16 bytes; the merged ones overlap no other.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn merge_states_bf16(_: MergeStatesParams) {
    let params = special::parameter_address!("merge_states_bf16");
    // SAFETY: as the caller promises.
    unsafe { merge_states::<Bf16>(params) }
}

/// The kernel for fp16 outputs.
///
/// # Safety
/// As for [`merge_states_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn merge_states_fp16(_: MergeStatesParams) {
    let params = special::parameter_address!("merge_states_fp16");
    // SAFETY: as the caller promises.
    unsafe { merge_states::<Fp16>(params) }
}

/// The kernel for f32 outputs.
///
/// # Safety
/// As for [`merge_states_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn merge_states_f32(_: MergeStatesParams) {
    let params = special::parameter_address!("merge_states_f32");
    // SAFETY: as the caller promises.
    unsafe { merge_states::<F32>(params) }
}

#[inline(always)]
unsafe fn merge_states<T: Output>(params: u64) {
    // Indexed by a variable, the parameter itself would be copied to local memory.
    // SAFETY: the address of a parameter of that type, which nothing writes.
    let params = unsafe { &*(params as *const MergeStatesParams) };
    special::griddepcontrol_launch_dependents();
    special::griddepcontrol_wait();
    let mut row = special::cta_x() * params.rows_per_cta;
    let end = row + params.rows_per_cta;
    while row < end && row < params.total_rows {
        // SAFETY: whole warps are here; the row is one of the request's.
        unsafe { merge_row::<T>(params, special::cta_y(), row, special::thread_x()) };
        row += 1;
    }
}

/// Merges one row of a request.
///
/// # Safety
/// The whole warp calls it; the row is one of the request's.
#[inline(always)]
unsafe fn merge_row<T: Output>(params: &MergeStatesParams, request: u32, row: u32, thread: u32) {
    // SAFETY: the host launches with at least one head.
    let h_q = unsafe { NonZeroU32::new_unchecked(params.h_q) };
    let (token, head) = (row / h_q, row % h_q);
    let column = thread * COLUMNS_PER_THREAD;
    let out_address = |state: &StateTensors| {
        let [batch_stride, token_stride, head_stride] = state.out_strides;
        let offset = request as i64 * batch_stride
            + token as i64 * token_stride
            + head as i64 * head_stride
            + column as i64;
        state.out.wrapping_add(offset as u64 * T::BYTES)
    };
    let lse_address = |state: &StateTensors| {
        let [batch_stride, head_stride, token_stride] = state.lse_strides;
        let offset = request as i64 * batch_stride + head as i64 * head_stride + token as i64 * token_stride;
        state.lse.wrapping_add(offset as u64 * 4)
    };
    // The remainder changes nothing, but shows the compiler that the index is within bounds.
    const { assert!(MAX_STATES == WARP_THREADS as usize, "a lane takes one lse") };
    const { assert!(MAX_STATES.is_power_of_two(), "or the remainder costs something") };
    let state = |index: u32| &params.states[index as usize % MAX_STATES];
    // SAFETY: the row is within the tensors, and its parts are aligned as it is.
    unsafe {
        let natural = |index: u32| unify_empty(memory::ld_global_f32(lse_address(state(index))));
        let lane = thread % WARP_THREADS;
        let own = if lane < params.count { natural(lane) } else { f32::NEG_INFINITY };
        // In base 2 only relative to the maximum: the product of a large logarithm would be rounded too coarsely.
        let base = merge::finite_base(merge::largest(own));
        let binary = |natural: f32| (natural - base) * core::f32::consts::LOG2_E;
        let log = merge::log_sum_exp2([binary(own)]);
        let mut columns = [0.0; 4];
        let mut first = 0;
        while first < params.count {
            let parts = Parts::load(params.count - first, |index| T::load(out_address(state(first + index))));
            parts.add(
                f32::NEG_INFINITY,
                |index| natural(first + index),
                |natural, values| merge::add(&mut columns, merge::weight(binary(natural), log), values),
            );
            first += PARTS_AT_ONCE;
        }
        T::store(out_address(&params.merged), columns);
        if thread == 0 {
            let empty = log == f32::NEG_INFINITY;
            let lse = if empty { f32::INFINITY } else { base + log * core::f32::consts::LN_2 };
            memory::st_global_f32(lse_address(&params.merged), lse);
        }
    }
}

/// An lse that is −∞ where there was no key, of which either infinity may tell.
#[inline(always)]
fn unify_empty(lse: f32) -> f32 {
    if lse == f32::INFINITY { f32::NEG_INFINITY } else { lse }
}
