//! Combines the partial results of split requests.
//!
//! A CTA takes some rows one after the other, a thread four columns of each. Unsplit requests were finished by the decode kernel.

use crate::attention::element::{Bf16, Element, Fp16};
use crate::attention::merge;
use crate::ptx::{memory, special};
use core::num::NonZeroU32;
use oximla_types::kernels::combine::{BF16, CombineParams};
use oximla_types::kernels::dense_decode::{HEAD_DIM_V, SplitRecord};
use oximla_types::launch::WARP_THREADS;

/// Columns of a thread: one 16-byte load.
const VECTOR: u32 = 4;

const _: () = assert!(BF16.threads * VECTOR == HEAD_DIM_V);

/// The kernel with bf16 outputs.
///
/// # Safety
/// Launched under its contract after the decode kernel, grid `(⌈total_rows / rows_per_cta⌉, batch)`, on the same workspace.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn combine_bf16(params: CombineParams) {
    // SAFETY: as the caller promises.
    unsafe { combine::<Bf16>(&params) }
}

/// The kernel with fp16 outputs.
///
/// # Safety
/// As for [`combine_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn combine_fp16(params: CombineParams) {
    // SAFETY: as the caller promises.
    unsafe { combine::<Fp16>(&params) }
}

#[inline(always)]
unsafe fn combine<E: Element>(params: &CombineParams) {
    let request = special::cta_y();
    let thread = special::thread_x();
    let record = params.partial.splits + request as u64 * size_of::<SplitRecord>() as u64;
    // SAFETY: there is a record for each request; rows within the total are within the tensors. Whole warps take each
    // branch together.
    unsafe {
        // The next decode waits for this kernel to finish, so it may start to wait at any time.
        special::griddepcontrol_launch_dependents();
        special::griddepcontrol_wait();
        let first = memory::ld_global_u32(record);
        let count = memory::ld_global_u32(record + 4);
        if count <= 1 || first >= params.slots || count > params.slots - first {
            return;
        }
        let mut row = special::cta_x() * params.rows_per_cta;
        let end = row + params.rows_per_cta;
        while row < end && row < params.total_rows {
            combine_row::<E>(params, request, first, count, row, thread);
            row += 1;
        }
    }
}

/// Combines one row of a request whose `count` partial results are in the slots from `first` on.
///
/// # Safety
/// The whole warp calls it; the row is one of the request's.
#[inline(always)]
unsafe fn combine_row<E: Element>(
    params: &CombineParams,
    request: u32,
    first: u32,
    count: u32,
    row: u32,
    thread: u32,
) {
    let slot = |split: u32| (first + split) as u64 * params.total_rows as u64 + row as u64;
    // SAFETY: the decode kernel has left a partial result in each of the slots.
    let partial_lse = |split: u32| unsafe { memory::ld_global_f32(params.partial.lse + 4 * slot(split)) };
    let column = thread * VECTOR;
    // SAFETY: as above; output rows are within the tensors.
    unsafe {
        let log = merge::log_sum_exp2(count, thread % WARP_THREADS, partial_lse);
        let [a, b, c, d] = merge::weighted_sum(count, log, partial_lse, |split| {
            memory::ld_global_f32x4(
                params.partial.out + 4 * (slot(split) * HEAD_DIM_V as u64 + column as u64),
            )
        });

        // A launch has at least one row.
        let rows = NonZeroU32::new_unchecked(params.rows);
        let group = NonZeroU32::new_unchecked(params.group);
        let row_in_head = row % rows;
        let head = row / rows * group.get() + row_in_head % group;
        let token = row_in_head / group;
        let [batch_stride, token_stride, head_stride] = params.out_strides;
        let offset = request as i64 * batch_stride
            + token as i64 * token_stride
            + head as i64 * head_stride
            + column as i64;
        // Rows of `out` are aligned to 16 bytes, and a thread's part to 8.
        let address = params.out.wrapping_add((offset * 2) as u64);
        memory::st_global_u32x2(address, [E::pack(a, b), E::pack(c, d)]);
        if thread == 0 {
            let [batch_stride, head_stride, token_stride] = params.lse_strides;
            let offset =
                request as i64 * batch_stride + head as i64 * head_stride + token as i64 * token_stride;
            let empty = log == f32::NEG_INFINITY;
            let lse = if empty { f32::INFINITY } else { log * core::f32::consts::LN_2 };
            memory::st_global_f32(params.lse.wrapping_add((offset * 4) as u64), lse);
        }
    }
}
