//! The scores role of two warpgroups that take turns: one's softmax runs beside the other's `wgmma`s.
//!
//! Places are numbered in a row over all segments; those of even numbers are one warpgroup's, those of odd numbers the other's.
//! Maxima and sums of the rows go from place to place, thread by thread: maxima before the exponentials, as the next block
//! needs them for its own, sums behind them. Whoever has a segment's last block finishes it.
//!
//! | barrier       | completes when                              | arrivals                    |
//! |---------------|---------------------------------------------|-----------------------------|
//! | `Q_FULL`      | the segment's queries have landed           | the loads, and copied bytes |
//! | `Q_FREE`      | they have been multiplied                   | 8 scores warps              |
//! | `MAX_FULL[t]` | the row maxima of the place are written     | warpgroup `t`               |
//! | `SUM_FULL[t]` | the row sums of the place are written       | warpgroup `t`               |
//!
//! Both warpgroups wait for each phase of the other's barriers, also where they need nothing of it: a phase is told from the
//! one before it, but not from others. A slot is free to be written again, as its last contents have been read by who has
//! arrived at the other slot's barrier since.

use super::super::segments::Segment;
use super::keys::{self, BlockPlace, Phase};
use super::queue::Reader;
use super::scores::{self, QUERY_REGISTERS};
use super::{Decode, SCORES_BARRIERS, TILE, WARPGROUP_WARPS, values};
use crate::attention::softmax::{self, MAX_FLOOR};
use crate::attention::unroll;
use crate::ptx::{copy, fence, math, memory, special, warp, wgmma};
use crate::sync::{Barrier, warpgroup_barrier};
use oximla_types::kernels::decode::{
    BARRIER_BYTES, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, TILE_ROWS, TURNS, TURNS_THREADS, TurnsPlan,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::fragment;
use oximla_types::layout::tile::Position;

/// A decode whose scores warpgroups take turns.
pub trait Turns: Decode {
    /// What they need of shared memory.
    const TURNS_PLAN: TurnsPlan;
}

/// Initialises the barriers.
///
/// # Safety
/// One thread calls it, before anyone uses them.
#[inline(always)]
pub unsafe fn init_barriers<D: Turns>(shared: u32) {
    let plan = D::TURNS_PLAN;
    let init = |offset, arrivals| {
        // SAFETY: the plan sets it aside.
        unsafe { Barrier::at(shared + offset).init(arrivals) }
    };
    init(plan.q_full, 1);
    init(plan.q_free, TURNS * WARPGROUP_WARPS);
    unroll!(TURN in 2 => {
        init(plan.max_full + TURN as u32 * BARRIER_BYTES, WARPGROUP_THREADS);
        init(plan.sum_full + TURN as u32 * BARRIER_BYTES, WARPGROUP_THREADS);
    });
}

/// Completes when queries number `number`, counted by the CTA, have landed.
#[inline(always)]
pub fn queries_full<D: Turns>(number: u32) -> Phase {
    Phase::of(D::TURNS_PLAN.q_full, 1, number)
}

/// Completes when queries number `number` are used up.
#[inline(always)]
pub fn queries_free<D: Turns>(number: u32) -> Phase {
    Phase::of(D::TURNS_PLAN.q_free, 1, number)
}

/// Rows' values that go from place to place: in a slot for each warpgroup.
struct Handed(u32);

impl Handed {
    /// Those of the place before `place`, which have been waited for; `initial` where the segment begins.
    ///
    /// # Safety
    /// As said.
    #[inline(always)]
    unsafe fn before<D: Turns>(
        self,
        place: BlockPlace<D>,
        row: u32,
        is_first: bool,
        initial: f32,
    ) -> [f32; 2] {
        // SAFETY: they are there.
        if is_first { [initial; 2] } else { unsafe { self.load(place.number().wrapping_sub(1), row) } }
    }

    /// Those of place number `number`.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn load(self, number: u32, row: u32) -> [f32; 2] {
        // SAFETY: as the caller promises.
        unsafe { values::load_rows(self.slot(number), row) }
    }

    /// Stores those of `place`.
    ///
    /// # Safety
    /// The slot's last contents have been read: those of the place before have been waited for.
    #[inline(always)]
    unsafe fn store<D: Turns>(self, place: BlockPlace<D>, row: u32, lane: u32, rows: [f32; 2]) {
        // SAFETY: as the caller promises.
        unsafe { scores::store_rows(self.slot(place.number()), row, lane, rows) }
    }

    /// Address of the slot of place number `number`.
    #[inline(always)]
    fn slot(&self, number: u32) -> u32 {
        special::dynamic_shared() + self.0 + number % TURNS * TILE_ROWS * 4
    }
}

/// The row maxima.
#[inline(always)]
fn maxima<D: Turns>() -> Handed {
    Handed(D::TURNS_PLAN.row_max)
}

/// The row sums.
#[inline(always)]
fn sums<D: Turns>() -> Handed {
    Handed(D::TURNS_PLAN.row_sum)
}

/// The largest scores of the rows, written with the maxima.
#[inline(always)]
fn largest_scores<D: Turns>() -> Handed {
    Handed(D::TURNS_PLAN.row_largest)
}

/// Completes when the maxima of place number `number` are written.
#[inline(always)]
fn maxima_full<D: Turns>(number: u32) -> Phase {
    Phase::of(D::TURNS_PLAN.max_full, TURNS, number)
}

/// Completes when the sums of place number `number` are written.
#[inline(always)]
fn sums_full<D: Turns>(number: u32) -> Phase {
    Phase::of(D::TURNS_PLAN.sum_full, TURNS, number)
}

/// Asks for the queries of a segment, the CTA's number `number`, as soon as those before are used up: the rows of the CTA's tile
/// in a tensor of rank 4 (columns, heads, tokens, batch) whose map is at `map`.
///
/// # Safety
/// One whole warp calls it, once for each segment, in order; a box of the map is one tile, of the rows there are.
#[inline(always)]
pub unsafe fn load_queries<D: Turns>(
    kernel: &D,
    map: u64,
    number: u32,
    is_empty: bool,
    [token, batch]: [u32; 2],
    lane: u32,
) {
    // Without keys nobody asks for them.
    let tiles = if is_empty { 0 } else { TAIL_TILE + D::TAIL as u32 };
    queries_free::<D>(number).wait_for_last();
    let full = queries_full::<D>(number).barrier;
    let cta = kernel.cta();
    // SAFETY: the queries before are used up.
    unsafe {
        if lane == 0 {
            full.arrive_expecting(tiles * cta.tile.rows() * TILE_COLUMNS * 2);
        }
        if lane < tiles {
            let head = cta.kv_head * cta.tile.group + cta.tile.first_head;
            let coordinates = [(lane * TILE_COLUMNS) as i32, head as i32, token as i32, batch as i32];
            let address = special::dynamic_shared() + D::PLAN.q + lane * TILE_BYTES;
            let policy = copy::createpolicy_evict_normal();
            copy::cp_async_bulk_tensor_4d(address, map, coordinates, full.address(), policy);
        }
    }
}

/// Zeroes the rows of the query tiles that nothing is copied to, so that their scores are numbers.
///
/// # Safety
/// All threads of the CTA call it, before anyone asks for queries.
#[inline(always)]
pub unsafe fn clear_unused_queries<D: Turns>(kernel: &D, thread: u32) {
    const CHUNKS: u32 = TILE.row_offset(1) / 16;
    let rows = kernel.cta().tile.rows();
    let mut chunk = thread;
    while chunk < (TAIL_TILE + D::TAIL as u32) * TILE_ROWS * CHUNKS {
        let (row, tile) = (chunk / CHUNKS % TILE_ROWS, chunk / (CHUNKS * TILE_ROWS));
        if row >= rows {
            let address = special::dynamic_shared() + D::PLAN.q + tile * TILE_BYTES;
            // SAFETY: within the query tiles; nothing has been copied there yet.
            unsafe { memory::st_shared_zero_x4(address + TILE.chunk(row, chunk % CHUNKS)) };
        }
        chunk += TURNS_THREADS;
    }
    fence::fence_proxy_async_shared();
}

/// Runs the role of the warpgroup that takes the places of even (0) or odd (1) numbers.
///
/// # Safety
/// All threads of the warpgroup call it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<D: Turns, const TURN: u32>(kernel: &D) {
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let mut segments = Reader::<D>::new();
        let mut place = BlockPlace::<D>::first();
        while let Some(segment) = segments.peek() {
            // Blocks from `place` on.
            let mut remaining = segment.blocks.end.saturating_sub(segment.blocks.begin);
            let mut is_first = true;
            queries_full::<D>(segments.peeked()).wait();
            if place.number() % TURNS != TURN && remaining > 0 {
                (place, remaining, is_first) = (place.next(), remaining - 1, false);
            }
            if remaining == 0 {
                release_queries::<D>(segments.peeked());
            }
            while remaining > 0 {
                let mut scores: [f32; 32] = core::mem::zeroed();
                scores::multiply(place, &[0; QUERY_REGISTERS], &mut scores);
                wgmma::wgmma_wait_32::<0>(&mut scores);
                if remaining <= TURNS {
                    release_queries::<D>(segments.peeked());
                }
                let block = segment.blocks.end - remaining;
                probabilities::<D, TURN>(kernel, &segment, place, block, is_first, &mut scores);
                is_first = false;
                let passed = remaining.min(TURNS);
                (place, remaining) = (place.skip(passed), remaining - passed);
            }
            // Made anew, so that the loop need not keep what only this takes.
            if place.number().wrapping_sub(1) % TURNS == TURN {
                let segment = segments.reread();
                let kernel = &kernel.again();
                let thread = special::thread_x() % WARPGROUP_THREADS;
                let (lane, row) = (thread % WARP_THREADS, fragment::accumulator(thread, 0).row);
                let sinks = scores::sinks(kernel, &segment, row);
                keys::norms_free::<D>(segments.peeked()).wait_for_last();
                // Lanes read what others have written.
                warp::warp_sync();
                let (rows, largest) = last_rows::<D>(&segment, place, thread);
                scores::finish(kernel, &segment, segments.peeked(), lane, row, sinks, rows, largest);
            } else {
                // So that nobody goes on before this warpgroup has waited for the norms before.
                keys::norms_free::<D>(segments.peeked()).wait_for_last();
                keys::norms_full::<D>(segments.peeked()).barrier.arrive();
            }
            segments.release();
        }
        segments.release();
    }
}

/// Of a thread's two rows the denominators, with their base-2 logarithms plus the maxima, and the largest scaled scores, before
/// place `end` at the segment's end.
///
/// # Safety
/// The thread's warp has written them, if there are blocks.
#[inline(always)]
unsafe fn last_rows<D: Turns>(
    segment: &Segment,
    end: BlockPlace<D>,
    thread: u32,
) -> ([(f32, f32); 2], [f32; 2]) {
    let none = [f32::NEG_INFINITY; 2];
    if segment.blocks.is_empty() {
        return ([(0.0, f32::NEG_INFINITY); 2], none);
    }
    let (row, last) = (fragment::accumulator(thread, 0).row, end.number().wrapping_sub(1));
    // SAFETY: as the caller promises.
    unsafe {
        let (max, sum) = (maxima::<D>().load(last, row), sums::<D>().load(last, row));
        let row_of = |row: usize| (sum[row], math::lg2(sum[row]) + max[row]);
        let largest = if D::MAX_LOGITS { largest_scores::<D>().load(last, row) } else { none };
        ([row_of(0), row_of(1)], largest)
    }
}

/// This warp is done with queries number `number`.
#[inline(always)]
unsafe fn release_queries<D: Turns>(number: u32) {
    if special::thread_x().is_multiple_of(WARP_THREADS) {
        // SAFETY: once a warp and segment; none of its `wgmma`s are under way.
        unsafe { queries_free::<D>(number).barrier.arrive() };
    }
}

/// The softmax of a block: turns scores into probabilities and hands them to the values, and the rows' state to the other
/// warpgroup.
#[inline(always)]
unsafe fn probabilities<D: Turns, const TURN: u32>(
    kernel: &D,
    segment: &Segment,
    place: BlockPlace<D>,
    block: u32,
    is_first: bool,
    scores: &mut [f32; 32],
) {
    // SAFETY: the whole warpgroup is here, and none of it multiplies the block's tail any more.
    unsafe {
        // Behind this no warp multiplies the block any more, so that its tail may be overwritten.
        barrier::<TURN>();
        let thread = special::thread_x() % WARPGROUP_THREADS;
        let lane = thread % WARP_THREADS;
        let first = fragment::accumulator(thread, 0);
        let Position { row, .. } = first;
        // Not 0, which would make NaN of −∞.
        let scale = kernel.cta().params.scale_log2.abs().max(f32::MIN_POSITIVE);
        kernel.mask(segment, place, block, first, scores);
        let largest = softmax::row_maxima(scores, scale);
        maxima_full::<D>(place.number().wrapping_sub(1)).wait();
        let before = maxima::<D>().before(place, row, is_first, MAX_FLOOR);
        let max = softmax::follow(before, largest);
        maxima::<D>().store(place, row, lane, max);
        if D::MAX_LOGITS {
            let before = largest_scores::<D>().before(place, row, is_first, f32::NEG_INFINITY);
            let largest = [math::max(before[0], largest[0]), math::max(before[1], largest[1])];
            largest_scores::<D>().store(place, row, lane, largest);
        }
        maxima_full::<D>(place.number()).barrier.arrive();
        let correction = [math::ex2(before[0] - max[0]), math::ex2(before[1] - max[1])];
        let mut sum = [0.0; 2];
        softmax::exponentials(scores, scale, max, &mut sum);
        scores::store_probabilities::<D::Element>(place.tail(), thread, scores);
        scores::store_rows(place.row_scales(), row, lane, correction);
        fence::fence_proxy_async_shared();
        place.probabilities_full().barrier.arrive();
        sums_full::<D>(place.number().wrapping_sub(1)).wait();
        let before = sums::<D>().before(place, row, is_first, 0.0);
        sum = [
            math::fma(before[0], correction[0], softmax::quad_sum(sum[0])),
            math::fma(before[1], correction[1], softmax::quad_sum(sum[1])),
        ];
        sums::<D>().store(place, row, lane, sum);
        sums_full::<D>(place.number()).barrier.arrive();
    }
}

/// Waits for this warpgroup.
#[inline(always)]
unsafe fn barrier<const TURN: u32>() {
    // SAFETY: each is one warpgroup's.
    unsafe {
        if TURN == 0 {
            warpgroup_barrier::<{ SCORES_BARRIERS[0] }>();
        } else {
            warpgroup_barrier::<{ SCORES_BARRIERS[1] }>();
        }
    }
}
