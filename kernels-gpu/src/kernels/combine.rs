//! Combines the partial results of split requests.
//!
//! Each CTA takes slices of rows, one after the other (`shared-types/src/kernels/combine.rs`). All that a slice needs is
//! asked for at once: what the result waits for is little more than one access to memory. Unsplit requests were finished
//! by the decode kernel.

use crate::attention::divide::divide;
use crate::attention::element::{Bf16, Element, Fp16};
use crate::attention::merge::{self, LANE_VALUES, PARTS_AT_ONCE, Parts};
use crate::attention::sink;
use crate::attention::unroll;
use crate::ptx::{barrier, memory, special, warp};
use core::num::NonZeroU32;
use oximla_types::kernels::combine::{
    self, COLUMNS_PER_THREAD, CombineParams, SPLITS_AT_ONCE, SharedPlan, THREADS,
};
use oximla_types::kernels::decode::{HEAD_DIM_V, SplitRecord};
use oximla_types::launch::WARP_THREADS;

const _: () = assert!(COLUMNS_PER_THREAD == 4 && SPLITS_AT_ONCE == PARTS_AT_ONCE);

/// Requests that are looked at together.
const WINDOW: u32 = u128::BITS;

/// The kernel with bf16 outputs.
///
/// # Safety
/// Launched under its contract after the decode kernel, grid `(ctas, 1)`, on the same workspace.
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

/// A slice of a row.
struct Slice {
    request: u32,
    row: u32,
    /// Number in the row.
    index: u32,
    /// Base-2 logarithm of how many the row has.
    slices_log2: u32,
    /// Where the row's partial results are.
    splits: SplitRecord,
}

#[inline(always)]
unsafe fn combine<E: Element>(params: &CombineParams) {
    // The next decode waits for this kernel to finish, so it may start to wait at any time.
    special::griddepcontrol_launch_dependents();
    special::griddepcontrol_wait();
    // The CTA's next slice, counted from the request's first.
    let mut next = special::cta_x();
    let mut buffer = special::dynamic_shared();
    // What turns the address of one buffer into the other's.
    let other_buffer = buffer ^ (buffer + SharedPlan::BUFFER_BYTES);
    let mut first = 0;
    while first < params.batch {
        // SAFETY: the whole CTA is here, and takes the same requests and slices, which are there.
        unsafe {
            let mut split = split_requests(params, first, special::thread_x() % WARP_THREADS);
            while split != 0 {
                let request = first + split.trailing_zeros();
                split &= split - 1;
                let splits = record(params, request);
                let slices_log2 = combine::slices_log2(splits.count);
                let slices = params.total_rows << slices_log2;
                while next < slices {
                    let (row, index) = (next >> slices_log2, next & ((1 << slices_log2) - 1));
                    let slice = Slice { request, row, index, slices_log2, splits };
                    combine_slice::<E>(params, &slice, buffer);
                    // A team by itself neither uses it nor meets others.
                    if slices_log2 > 0 {
                        buffer ^= other_buffer;
                    }
                    next += params.ctas;
                }
                next -= slices;
            }
        }
        first += WINDOW;
    }
}

/// Which of the requests from `first` on are split and have their partial results in the workspace.
///
/// # Safety
/// The whole warp calls it; there is a record for each request.
#[inline(always)]
unsafe fn split_requests(params: &CombineParams, first: u32, lane: u32) -> u128 {
    let mut records = [SplitRecord { first: 0, count: 0 }; (WINDOW / WARP_THREADS) as usize];
    unroll!(I in 4 => {
        let request = first + I as u32 * WARP_THREADS + lane;
        if request < params.batch {
            // SAFETY: it is one of the batch.
            records[I] = unsafe { record(params, request) };
        }
    });
    let mut requests = 0;
    unroll!(I in 4 => {
        let SplitRecord { first, count } = records[I];
        let is_split = count > 1 && first < params.slots && count <= params.slots - first;
        // SAFETY: the whole warp is here.
        requests |= u128::from(unsafe { warp::ballot(is_split) }) << (I as u32 * WARP_THREADS);
    });
    requests
}

/// What the decode kernel says of a request.
///
/// # Safety
/// The request is one of the batch.
#[inline(always)]
unsafe fn record(params: &CombineParams, request: u32) -> SplitRecord {
    let address = params.partial.splits + request as u64 * size_of::<SplitRecord>() as u64;
    // SAFETY: there is a record for each request.
    unsafe {
        SplitRecord { first: memory::ld_global_u32(address), count: memory::ld_global_u32(address + 4) }
    }
}

/// Combines a slice. The columns of several teams meet in `buffer`, which threads may still read until the CTA has met once
/// more: the next such slice takes the other one.
///
/// # Safety
/// The whole CTA calls it; the decode kernel has left a partial result in each of the row's slots; nobody has used the buffer
/// since the CTA met last.
#[inline(always)]
unsafe fn combine_slice<E: Element>(params: &CombineParams, slice: &Slice, buffer: u32) {
    let Slice { row, slices_log2, splits: SplitRecord { first, count }, .. } = *slice;
    let teams = 1 << slices_log2;
    let slot = |split: u32| (first + split) as u64 * params.total_rows as u64 + row as u64;
    // SAFETY: as the caller promises; output rows are within the tensors.
    unsafe {
        let mut columns = [0.0; 4];
        let mut log;
        let mut split = 0;
        loop {
            // Asked for anew each time, so that nothing that follows from it stays in registers.
            let Place { team, column, .. } = Place::of(slice, special::thread_x());
            let own = slot(split + team);
            let own_count = (count - split + teams - 1).saturating_sub(team) >> slices_log2;
            let slots_between = (params.total_rows as u64) << slices_log2;
            let mut address = params.partial.out + 4 * (own * HEAD_DIM_V as u64 + column as u64);
            let parts = Parts::load(own_count, |_| {
                let values = memory::ld_global_f32x4(address);
                address += 4 * HEAD_DIM_V as u64 * slots_between;
                values
            });
            // In each round, as there are more than one only of very many splits. A loop, so that the compiler leaves it
            // behind the loads above, which it should not wait for.
            log = f32::NEG_INFINITY;
            let mut taken = 0;
            while taken < count {
                let lses = lane_lses(
                    count - taken,
                    params.partial.lse + 4 * slot(taken),
                    4 * params.total_rows as u64,
                );
                log = merge::log_add_exp2(log, merge::log_sum_exp2(lses));
                taken += LANE_VALUES as u32 * WARP_THREADS;
            }
            // The first-level cache has these, as the lanes have asked for all.
            let mut address = params.partial.lse + 4 * own;
            parts.add_to(&mut columns, log, |_| {
                let lse = memory::ld_global_f32(address);
                address += 4 * slots_between;
                lse
            });
            split += SPLITS_AT_ONCE << slices_log2;
            if split >= count {
                break;
            }
        }
        let thread = special::thread_x();
        let Place { team, team_threads, column } = Place::of(slice, thread);
        if teams > 1 {
            columns = add_teams(columns, teams, buffer, thread, team_threads);
        }
        if team == 0 {
            store::<E>(params, slice, column, columns, log);
        }
    }
}

/// What a thread does of a slice.
struct Place {
    team: u32,
    team_threads: u32,
    /// Of the row.
    column: u32,
}

impl Place {
    #[inline(always)]
    fn of(slice: &Slice, thread: u32) -> Self {
        let team_threads_log2 = THREADS.ilog2() - slice.slices_log2;
        let team_threads = 1 << team_threads_log2;
        let (team, column_thread) = (thread >> team_threads_log2, thread & (team_threads - 1));
        let column = ((slice.index << team_threads_log2) + column_thread) * COLUMNS_PER_THREAD;
        Self { team, team_threads, column }
    }
}

/// The lse of `count` splits from `address` on, `split_bytes` apart: a lane takes every 32nd; −∞ stands for none.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn lane_lses(count: u32, address: u64, split_bytes: u64) -> [f32; LANE_VALUES] {
    let lane = special::thread_x() % WARP_THREADS;
    let mut address = address + lane as u64 * split_bytes;
    let mut lses = [f32::NEG_INFINITY; LANE_VALUES];
    unroll!(I in 8 => {
        if I as u32 * WARP_THREADS + lane < count {
            // SAFETY: as the caller promises.
            lses[I] = unsafe { memory::ld_global_f32(address) };
        }
        address += WARP_THREADS as u64 * split_bytes;
    });
    lses
}

/// The sum of all teams' columns, in the teams' order; only those of the first team's threads count.
///
/// # Safety
/// The whole CTA calls it; nobody else uses the buffer, nor has since the CTA met last.
#[inline(always)]
unsafe fn add_teams(columns: [f32; 4], teams: u32, buffer: u32, thread: u32, team_threads: u32) -> [f32; 4] {
    let address = |thread: u32| buffer + thread * SharedPlan::THREAD_BYTES;
    // SAFETY: as the caller promises.
    unsafe {
        memory::st_shared_u32x4(address(thread), columns.map(f32::to_bits));
        barrier::barrier_cta_sync::<0>(THREADS);
    }
    let mut sum = [0.0; 4];
    if thread < team_threads {
        let mut team = 0;
        while team < teams {
            let mut parts = [[0; 4]; 4];
            unroll!(I in 4 => {
                let team = team + I as u32;
                if team < teams {
                    // SAFETY: it was stored before the barrier.
                    parts[I] = unsafe { memory::ld_shared_u32x4(address(thread + team * team_threads)) };
                }
            });
            unroll!(I in 4 => { unroll!(J in 4 => { sum[J] += f32::from_bits(parts[I][J]); }); });
            team += 4;
        }
    }
    sum
}

/// Stores four columns of the result, and with the row's first ones its lse. `log` is the base-2 logarithm of its sum.
///
/// # Safety
/// The row is within the tensors.
#[inline(always)]
unsafe fn store<E: Element>(
    params: &CombineParams,
    &Slice { request, row, .. }: &Slice,
    column: u32,
    columns: [f32; 4],
    log: f32,
) {
    // SAFETY: a launch has at least one row.
    let (rows, group) =
        unsafe { (NonZeroU32::new_unchecked(params.rows), NonZeroU32::new_unchecked(params.group)) };
    let row_in_head = row % rows;
    let head = row / rows * group.get() + row_in_head % group;
    let (batch, query) = divide(request, &params.queries);
    // One of the two is 0: either requests have tokens, or tokens are requests.
    let token = query + row_in_head / group;
    // SAFETY: there is a sink for each head.
    let factor = unsafe { sink::sink_factor(params.attn_sink, params.attn_sink_stride, head, log) };
    let [a, b, c, d] = columns.map(|x| x * factor);
    let [batch_stride, token_stride, head_stride] = params.out_strides;
    let offset =
        batch as i64 * batch_stride + token as i64 * token_stride + head as i64 * head_stride + column as i64;
    let address = params.out.wrapping_add((offset * 2) as u64);
    // SAFETY: as the caller promises; rows of `out` are aligned to 16 bytes, and a thread's part to 8.
    unsafe { memory::st_global_u32x2(address, [E::pack(a, b), E::pack(c, d)]) };
    if column == 0 {
        let [batch_stride, head_stride, token_stride] = params.lse_strides;
        let offset = batch as i64 * batch_stride + head as i64 * head_stride + token as i64 * token_stride;
        let empty = log == f32::NEG_INFINITY;
        let lse = if empty { f32::INFINITY } else { log * core::f32::consts::LN_2 };
        // SAFETY: as the caller promises.
        unsafe { memory::st_global_f32(params.lse.wrapping_add((offset * 4) as u64), lse) };
    }
}
