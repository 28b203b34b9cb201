//! Combines the partial results of split requests: `out = Σ 2^(lse_i − lse)·out_i`, `lse = log₂ Σ 2^lse_i`.
//!
//! A CTA takes some rows one after the other, a thread four columns of each. Unsplit requests were finished by the decode kernel.

use crate::attention::element::{Bf16, Element, Fp16};
use crate::attention::unroll;
use crate::ptx::{math, memory, special, warp};
use core::num::NonZeroU32;
use oximla_types::kernels::combine::{BF16, CombineParams};
use oximla_types::kernels::dense_decode::{HEAD_DIM_V, SplitRecord};
use oximla_types::launch::WARP_THREADS;

/// Columns of a thread: one 16-byte load.
const VECTOR: u32 = 4;

/// Splits whose loads are on their way together.
const SPLITS_AT_ONCE: u32 = 8;

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
        if count <= 1 {
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
        let log = log_sum_exp2(count, thread % WARP_THREADS, partial_lse);
        let mut columns: [f32; 4] = core::mem::zeroed();
        let mut split = 0;
        while split < count {
            let mut lse = [f32::NEG_INFINITY; 8];
            let mut values: [[f32; 4]; 8] = core::mem::zeroed();
            unroll!(I in 8 => {
                const { assert!(SPLITS_AT_ONCE == 8) };
                let split = split + I as u32;
                if split < count {
                    lse[I] = partial_lse(split);
                    let element = slot(split) * HEAD_DIM_V as u64 + column as u64;
                    values[I] = memory::ld_global_f32x4(params.partial.out + 4 * element);
                }
            });
            unroll!(I in 8 => {
                // A split without keys has left a row of zeros, and weighs nothing.
                let weight = if lse[I] == f32::NEG_INFINITY { 0.0 } else { math::ex2(lse[I] - log) };
                unroll!(J in 4 => { columns[J] += weight * values[I][J]; });
            });
            split += SPLITS_AT_ONCE;
        }

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
        let [a, b, c, d] = columns;
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

/// `log₂ Σ 2^lse` over the splits, −∞ where none had a key.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn log_sum_exp2(count: u32, lane: u32, lse: impl Fn(u32) -> f32) -> f32 {
    let mut max = f32::NEG_INFINITY;
    let mut split = lane;
    while split < count {
        max = math::max(max, lse(split));
        split += WARP_THREADS;
    }
    // SAFETY: the whole warp is here.
    max = unsafe { warp_reduce(max, math::max) };
    if max == f32::NEG_INFINITY {
        return max;
    }
    let mut sum = 0.0;
    let mut split = lane;
    while split < count {
        sum += math::ex2(lse(split) - max);
        split += WARP_THREADS;
    }
    // SAFETY: the whole warp is here, as `max` is the same in all lanes.
    sum = unsafe { warp_reduce(sum, |a, b| a + b) };
    math::lg2(sum) + max
}

/// Reduces over the warp; every lane gets the result.
#[inline(always)]
unsafe fn warp_reduce(mut value: f32, op: impl Fn(f32, f32) -> f32) -> f32 {
    macro_rules! step {
        ($($mask:literal)*) => { $({
            // SAFETY: the whole warp is here.
            value = op(value, f32::from_bits(unsafe { warp::shfl_bfly::<$mask>(value.to_bits()) }));
        })* };
    }
    step!(16 8 4 2 1);
    value
}
