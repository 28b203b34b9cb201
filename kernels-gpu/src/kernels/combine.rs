//! Combines the partial results of split requests.
//!
//! Each CTA takes pieces, several rows or a slice of one, one after the other (`shared-types/src/kernels/combine.rs`). All that a
//! piece needs is asked for at once: what the result waits for is little more than one access to memory. Unsplit requests
//! were finished by the decode kernel.
//!
//! Where there are few rows there is a kernel without the code for several at a time: it takes longer to fetch instructions than
//! to execute them then.

use crate::attention::divide::divide;
use crate::attention::element::{Bf16, Element, Fp16};
use crate::attention::merge::{self, PARTS_AT_ONCE, Parts};
use crate::attention::scan;
use crate::attention::sink;
use crate::attention::softmax;
use crate::attention::unroll;
use crate::ptx::{barrier, memory, special, warp};
use oximla_types::kernels::combine::{
    self, COLUMNS_PER_THREAD, CombineParams, MAX_ROWS, MAX_SLICES, SPLITS_AT_ONCE, SharedPlan, THREADS,
    splits_of_rows,
};
use oximla_types::kernels::decode::{HEAD_DIM_V, PART_COLUMNS, PartialSide, SIDES, SplitRecord, side};
use oximla_types::launch::WARP_THREADS;
use oximla_types::layout::partial::{self, LOADED_PLACES, NEIGHBOUR};
use oximla_types::schedule::SlotRange;

const _: () = assert!(COLUMNS_PER_THREAD == LOADED_PLACES && SPLITS_AT_ONCE == PARTS_AT_ONCE);
const _: () = assert!(SIDES == 2 && NEIGHBOUR == 2);
const _: () = assert!(
    PART_COLUMNS.is_multiple_of(partial::GROUP_COLUMNS),
    "a place is of the side that its column is of"
);

/// Splits of a round at most: what all teams load at once.
const MAX_ROUND: u32 = SPLITS_AT_ONCE * MAX_SLICES;

const _: () = assert!(MAX_ROUND <= 2 * THREADS, "a thread asks for two lse at most");

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident: $element:ident, $many:literal;)*) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// Launched under its contract after the decode kernel, grid `(ctas, 1)`, on the same workspace.
        #[unsafe(no_mangle)]
        pub unsafe extern "ptx-kernel" fn $name(params: CombineParams) {
            // SAFETY: as the caller promises.
            unsafe { combine::<$element, $many>(&params) }
        }
    )* };
}

kernels! {
    /// The kernel for few rows, with bf16 outputs.
    combine_bf16: Bf16, false;
    /// The kernel for few rows, with fp16 outputs.
    combine_fp16: Fp16, false;
    /// The kernel for many rows, with bf16 outputs.
    combine_rows_bf16: Bf16, true;
    /// The kernel for many rows, with fp16 outputs.
    combine_rows_fp16: Fp16, true;
}

/// What a CTA takes at a time.
struct Piece {
    request: u32,
    /// Of the request's pieces.
    number: u32,
    /// Where the request's partial results are.
    splits: SplitRecord,
}

/// A piece that is a slice of a row.
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

impl Slice {
    /// That which a piece is, of a request of many splits.
    #[inline(always)]
    fn of(Piece { request, number, splits }: Piece) -> Self {
        let slices_log2 = combine::slices_log2(splits.count);
        let (row, index) = (number >> slices_log2, number & ((1 << slices_log2) - 1));
        Self { request, row, index, slices_log2, splits }
    }
}

/// The kernel; for many rows, whose pieces may be several, or for few.
///
/// # Safety
/// As for the entries.
#[inline(always)]
unsafe fn combine<E: Element, const MANY: bool>(params: &CombineParams) {
    // The next decode waits for this kernel to finish, so it may start to wait at any time.
    special::griddepcontrol_launch_dependents();
    // Where the pieces are known, the decode kernel is waited for when the first one is due.
    if !params.equal.is_known() && params.is_scheduled == 0 {
        special::griddepcontrol_wait();
    }
    let thread = special::thread_x();
    // The CTA's next piece, counted from the first one of the warp's first request.
    let mut next = special::cta_x();
    let mut round = SharedPlan::ROUNDS[0];
    let mut first = 0;
    loop {
        // SAFETY: the whole CTA is here, and takes the same pieces, which are there.
        unsafe {
            let [first_slot, count] = record(params, first + thread);
            memory::st_shared_u32(record_address(thread), first_slot);
            memory::st_shared_u32(record_address(thread) + 4, count);
            barrier::barrier_cta_sync::<0>(THREADS);
            let mut number = 0;
            while number < THREADS && first + number < params.batch {
                let lane = special::again(thread) % WARP_THREADS;
                let [_, count] = memory::ld_shared_u32x2(record_address(number + lane));
                let pieces = combine::pieces(params.total_rows, count, MANY);
                let own_end = scan::inclusive_sum(pieces, lane);
                let end = warp::shfl_idx(own_end, WARP_THREADS - 1);
                while next < end {
                    let of_lane = warp::ballot(next < own_end).trailing_zeros();
                    let [first_slot, count] = memory::ld_shared_u32x2(record_address(number + of_lane));
                    let piece = Piece {
                        request: first + number + of_lane,
                        number: next - warp::shfl_idx(own_end - pieces, of_lane),
                        splits: SplitRecord { first: first_slot, count },
                    };
                    match combine::rows_log2(count, MANY) {
                        0 => combine_slice::<E>(params, &Slice::of(piece), &mut round),
                        1 => combine_rows::<E, 2, { splits_of_rows(2) as usize }>(params, &piece),
                        _ => combine_rows::<E, 4, { splits_of_rows(4) as usize }>(params, &piece),
                    }
                    next += params.ctas;
                }
                next -= end;
                number += WARP_THREADS;
            }
            first += THREADS;
            if first >= params.batch {
                // Also a CTA without pieces: what waits for this kernel relies on the decode kernel's end, too.
                special::griddepcontrol_wait();
                return;
            }
            // Behind this nobody reads the records any more.
            barrier::barrier_cta_sync::<0>(THREADS);
        }
    }
}

/// Address of what is known of one of the requests that are looked at together, of each thread one.
#[inline(always)]
fn record_address(number: u32) -> u32 {
    special::dynamic_shared() + SharedPlan::RECORDS + number * size_of::<SplitRecord>() as u32
}

/// The first slot of a request and its splits, as is known or its record says: none where it is not split, or has not its
/// partial results in the workspace.
///
/// # Safety
/// There is a record for each request of the batch.
#[inline(always)]
unsafe fn record(params: &CombineParams, request: u32) -> [u32; 2] {
    if request >= params.batch {
        return [0; 2];
    }
    if params.equal.is_known() {
        let SlotRange { first, count } = params.equal.splits(request);
        return if count > 1 { [first, count] } else { [0; 2] };
    }
    let address = params.partial.splits + request as u64 * size_of::<SplitRecord>() as u64;
    // SAFETY: it is one of the batch.
    let [first, count] = unsafe { memory::ld_global_u32x2(address) };
    let is_split = count > 1 && first < params.slots && count <= params.slots - first;
    if is_split { [first, count] } else { [0; 2] }
}

/// Combines rows, up to `ROWS`, of a request of up to `SPLITS` splits, when the decode kernel has ended. Threads need nothing of
/// each other: each computes the weights for itself.
///
/// # Safety
/// The whole CTA calls it; the decode kernel leaves a partial result in each of the rows' slots.
#[inline(always)]
unsafe fn combine_rows<E: Element, const ROWS: usize, const SPLITS: usize>(
    params: &CombineParams,
    &Piece { request, number, splits }: &Piece,
) {
    const { assert!(ROWS as u32 <= MAX_ROWS && MAX_ROWS == 4 && SPLITS <= 5) };
    const { assert!(SPLITS as u32 == splits_of_rows(ROWS as u32)) };
    let first_row = number * ROWS as u32;
    // Behind the request's last row that one again, so that nothing depends on how many there are but the stores.
    let rows: [u32; ROWS] = core::array::from_fn(|r| (first_row + r as u32).min(params.total_rows - 1));
    let outputs = rows.map(|row| Output::of(params, request, row));
    let place = special::thread_x() * COLUMNS_PER_THREAD;
    let (mut lses, mut scales) = ([[f32::NEG_INFINITY; SPLITS]; ROWS], [[0.0; SPLITS]; ROWS]);
    let mut parts = [[Columns::default(); SPLITS]; ROWS];
    special::griddepcontrol_wait();
    // SAFETY: as the caller promises; output rows are within the tensors.
    unsafe {
        unroll!(R in 4 => { if R < ROWS { unroll!(S in 5 => { if S < SPLITS && (S as u32) < splits.count {
            let row = slot_row(params, splits, S as u32, rows[R]);
            [lses[R][S], scales[R][S]] =
                memory::ld_global_u32x2(side_address(params, row, side(place))).map(f32::from_bits);
            parts[R][S] = memory::ld_global_u32x2(column_address(params, row, place));
        } }); } });
        let sinks = outputs.each_ref().map(|output| output.sink(params));
        unroll!(R in 4 => { if R < ROWS {
            let log = merge::log_sum_exp2_of_lane(lses[R]);
            let mut columns = [0.0; COLUMNS_PER_THREAD as usize];
            unroll!(S in 5 => { if S < SPLITS {
                add(&mut columns, merge::weight(lses[R][S], log), scales[R][S], parts[R][S]);
            } });
            let is_there = first_row + (R as u32) < params.total_rows;
            store::<E>(params, &outputs[R], sinks[R], is_there, place, columns, log);
        } });
    }
}

/// Combines a slice when the decode kernel has ended, round by round; there are more rounds than one only of very many splits. The
/// threads meet in each: behind that, the other round's place is free, and the one for columns.
///
/// # Safety
/// The whole CTA calls it; the decode kernel leaves a partial result in each of the row's slots; nobody reads any more what
/// is at `round`, the offset of one of the two places for it.
#[inline(always)]
unsafe fn combine_slice<E: Element>(params: &CombineParams, slice: &Slice, round: &mut u32) {
    let thread = special::thread_x();
    let Place { team, team_threads, column } = Place::of(slice, thread);
    let output = Output::of(params, slice.request, slice.row);
    let teams = 1 << slice.slices_log2;
    special::griddepcontrol_wait();
    // SAFETY: as the caller promises.
    let sink = unsafe { output.sink(params) };
    let (mut columns, mut log) = ([0.0; 4], f32::NEG_INFINITY);
    let mut first = 0;
    // SAFETY: as the caller promises; output rows are within the tensors.
    unsafe {
        while first < slice.splits.count {
            let splits = load_splits(params, slice, first);
            let parts = load_parts(params, slice, first + team, column);
            let told = special::dynamic_shared() + *round;
            let round_log = log_of_round(splits, told);
            if first > 0 {
                let sum = merge::log_add_exp2(log, round_log);
                columns = columns.map(|x| x * merge::weight(log, sum));
                log = sum;
            } else {
                log = round_log;
            }
            let mut split = team;
            let ask = |_| {
                let of_split = [
                    memory::ld_shared_f32(told + 4 * split),
                    memory::ld_shared_f32(told + SharedPlan::SCALES + 4 * (SIDES * split + side(column))),
                ];
                split += 1 << slice.slices_log2;
                of_split
            };
            parts.add([f32::NEG_INFINITY, 0.0], ask, |[lse, scale], part| {
                add(&mut columns, merge::weight(lse, log), scale, part);
            });
            first += SPLITS_AT_ONCE << slice.slices_log2;
            *round ^= SharedPlan::ROUNDS[0] ^ SharedPlan::ROUNDS[1];
        }
        if teams > 1 {
            columns = add_teams(columns, teams, thread, team_threads);
        }
        store::<E>(params, &output, sink, team == 0, column, columns, log);
    }
}

/// Four columns of a split, as they are stored.
type Columns = [u32; 2];

/// Adds a split's columns by its weight; one without weight counts for nothing, whatever its scale and columns are.
#[inline(always)]
fn add(columns: &mut [f32; 4], weight: f32, scale: f32, stored: Columns) {
    let [[a, b], [c, d]] = stored.map(Fp16::unpack);
    let factor = if weight == 0.0 { 0.0 } else { weight * scale };
    merge::add(columns, factor, [a, b, c, d]);
}

/// What is told of a split: its lse, and the scales of both sides.
type Split = [f32; 1 + SIDES as usize];

/// Asks for what is told of a round's splits: of up to two a thread.
///
/// # Safety
/// As for [`combine_slice`].
#[inline(always)]
unsafe fn load_splits(params: &CombineParams, slice: &Slice, first: u32) -> [Split; 2] {
    let left = slice.splits.count - first;
    let round = SPLITS_AT_ONCE << slice.slices_log2;
    let count = if left < round { left } else { round };
    let mut splits = [[f32::NEG_INFINITY, 0.0, 0.0]; 2];
    unroll!(I in 2 => {
        let split = I as u32 * THREADS + special::thread_x();
        if split < count {
            let row = slot_row(params, slice.splits, first + split, slice.row);
            // SAFETY: as the caller promises.
            let [lse, first, _, second] = unsafe { memory::ld_global_u32x4(side_address(params, row, 0)) };
            splits[I] = [lse, first, second].map(f32::from_bits);
        }
    });
    splits
}

/// The base-2 logarithm of the sum of a round's splits. Puts what is told of them at `told`.
///
/// # Safety
/// As for [`combine_slice`].
#[inline(always)]
unsafe fn log_of_round(splits: [Split; 2], told: u32) -> f32 {
    let thread = special::thread_x();
    // SAFETY: as the caller promises.
    unsafe {
        unroll!(I in 2 => {
            let ([lse, scales @ ..], split) = (splits[I], I as u32 * THREADS + thread);
            memory::st_shared_f32(told + 4 * split, lse);
            memory::st_shared_f32x2(told + SharedPlan::SCALES + 4 * SIDES * split, scales);
        });
        // What is asked for above is on its way before anyone waits here.
        barrier::barrier_cta_sync::<0>(THREADS);
        let lane = thread % WARP_THREADS;
        let [a, b, c, d] = memory::ld_shared_u32x4(told + 16 * lane).map(f32::from_bits);
        let [e, f, g, h] = memory::ld_shared_u32x4(told + 4 * THREADS + 16 * lane).map(f32::from_bits);
        merge::log_sum_exp2([a, b, c, d, e, f, g, h])
    }
}

/// Where the partial result of a split of a row is, in rows of partial results.
#[inline(always)]
fn slot_row(params: &CombineParams, splits: SplitRecord, split: u32, row: u32) -> u64 {
    (splits.first + split) as u64 * params.total_rows as u64 + row as u64
}

/// Address of what is told of a side of such a row.
#[inline(always)]
fn side_address(params: &CombineParams, row: u64, side: u32) -> u64 {
    params.partial.sides + (row * SIDES as u64 + side as u64) * size_of::<PartialSide>() as u64
}

/// Address of a column of such a row, by its place.
#[inline(always)]
fn column_address(params: &CombineParams, row: u64, place: u32) -> u64 {
    params.partial.out + row * ROW_BYTES + (place * partial::COLUMN_BYTES) as u64
}

/// Bytes of the columns of such a row.
const ROW_BYTES: u64 = (HEAD_DIM_V * partial::COLUMN_BYTES) as u64;

/// Asks for a thread's columns of the splits from `first` on that its team has, as many as there are or it takes at once.
///
/// # Safety
/// As for [`combine_slice`].
#[inline(always)]
unsafe fn load_parts(params: &CombineParams, slice: &Slice, first: u32, column: u32) -> Parts<Columns> {
    let &Slice { slices_log2, splits, .. } = slice;
    let last_team = (1 << slices_log2) - 1;
    let count = (splits.count + last_team).saturating_sub(first) >> slices_log2;
    let mut address = column_address(params, slot_row(params, splits, first, slice.row), column);
    Parts::load(count, |_| {
        // SAFETY: as the caller promises.
        let columns = unsafe { memory::ld_global_u32x2(address) };
        address += ROW_BYTES * ((params.total_rows as u64) << slices_log2);
        columns
    })
}

/// What a thread does of a slice.
struct Place {
    team: u32,
    team_threads: u32,
    /// The first of its columns' places in the row.
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

/// The sum of all teams' columns, in the teams' order; only those of the first team's threads count.
///
/// # Safety
/// The whole CTA calls it; the last columns have been read before the CTA met last.
#[inline(always)]
unsafe fn add_teams(columns: [f32; 4], teams: u32, thread: u32, team_threads: u32) -> [f32; 4] {
    let address =
        |thread: u32| special::dynamic_shared() + SharedPlan::COLUMNS + thread * SharedPlan::THREAD_BYTES;
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

/// Where a row of the result goes.
struct Output {
    batch: u32,
    token: u32,
    head: u32,
}

impl Output {
    /// Of a request's row.
    #[inline(always)]
    fn of(params: &CombineParams, request: u32, row: u32) -> Self {
        let (kv_head, row_in_head) = divide(row, &params.rows);
        let (row_token, head_in_group) = divide(row_in_head, &params.group);
        let head = kv_head * params.group.divisor + head_in_group;
        let (batch, query) = divide(request, &params.queries);
        // One of the two is 0: either requests have tokens, or tokens are requests.
        Self { batch, token: query + row_token, head }
    }

    /// Asks for the sink of its head; before anyone must know.
    ///
    /// # Safety
    /// The row is within the tensors; there is a sink for each head.
    #[inline(always)]
    unsafe fn sink(&self, params: &CombineParams) -> f32 {
        // SAFETY: as the caller promises.
        unsafe { sink::load(params.attn_sink, params.attn_sink_stride, self.head) }
    }
}

/// Stores four columns of the result, and with the row's first ones its lse, where `stores` says so. `log` is the base-2 logarithm
/// of its sum.
///
/// # Safety
/// The whole warp calls it. The row is within the tensors.
#[inline(always)]
unsafe fn store<E: Element>(
    params: &CombineParams,
    &Output { batch, token, head }: &Output,
    sink: f32,
    stores: bool,
    place: u32,
    columns: [f32; 4],
    log: f32,
) {
    let factor = sink::factor(sink, log);
    let [a, b, c, d] = columns.map(|x| x * factor);
    let [first, last] = [E::pack(a, b), E::pack(c, d)];
    // Neighbours exchange two columns, so that each has four in a row.
    let is_upper = partial::is_upper(place);
    // SAFETY: as the caller promises.
    let other = unsafe { warp::shfl_bfly::<NEIGHBOUR>(if is_upper { first } else { last }) };
    if !stores {
        return;
    }
    let words = if is_upper { [other, last] } else { [first, other] };
    let [batch_stride, token_stride, head_stride] = params.out_strides;
    let column = partial::exchanged_column(place) as i64;
    let offset =
        batch as i64 * batch_stride + token as i64 * token_stride + head as i64 * head_stride + column;
    let address = params.out.wrapping_add((offset * 2) as u64);
    // SAFETY: as the caller promises; rows of `out` are aligned to 16 bytes, and a thread's part to 8.
    unsafe { memory::st_global_u32x2(address, words) };
    if place == 0 {
        let [batch_stride, head_stride, token_stride] = params.lse_strides;
        let offset = batch as i64 * batch_stride + head as i64 * head_stride + token as i64 * token_stride;
        // SAFETY: as the caller promises.
        unsafe {
            memory::st_global_f32(params.lse.wrapping_add((offset * 4) as u64), softmax::final_lse(log))
        };
    }
}
