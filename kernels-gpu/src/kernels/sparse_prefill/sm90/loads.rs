//! The loads role: gathers keys with `cp.async`, and asks the copy engine for queries.
//!
//! Each warp sees to 16 keys of each block by itself. Eight lanes have a tile's row of a key, 128 bytes, and the lanes next to them
//! those of the next keys; a lane's next key is the fourth from there. What a lane has asked for completes the barrier of its
//! part by itself, so that as much is on its way as there is room for. Indices are asked for a block ahead, also
//! across query tokens; the length of a token's list when it begins.
//!
//! The role has few registers: what follows from the thread's or the query token's number is computed where it is used
//! (`special::again`).

use super::Prefill;
use crate::attention::unroll;
use crate::kernels::decode::segments::Segment;
use crate::kernels::decode::sm90::keys::{BlockPlace, Phase};
use crate::kernels::decode::sm90::queue::Writer;
use crate::kernels::decode::sm90::{Decode, TILE, WARPGROUP_WARPS, turns};
use crate::ptx::{copy, memory, special, warp};
use core::num::NonZeroU32;
use oximla_types::kernels::decode::{
    BLOCK_TOKENS_PER_WARP, PART_TILES, SplitRecord, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS,
};
use oximla_types::kernels::sparse_prefill::SparsePrefillParams;
use oximla_types::launch::WARP_THREADS;
use oximla_types::schedule::{self, BLOCK_KEYS, BlockRange};

/// Bytes of a copy.
const CHUNK_BYTES: u32 = 16;

/// Bytes of a key's elements in a tile.
const TILE_ROW_BYTES: u32 = TILE_COLUMNS * 2;

/// Lanes that copy a row of a tile.
const ROW_LANES: u32 = TILE_ROW_BYTES / CHUNK_BYTES;

/// Keys of a block that a lane copies from.
const LANE_KEYS: usize = 4;

/// From one of them to the next.
const KEY_STEP: u32 = WARP_THREADS / ROW_LANES;

const _: () = assert!(LANE_KEYS as u32 * KEY_STEP == BLOCK_TOKENS_PER_WARP);

/// Runs the role.
///
/// # Safety
/// All threads of the warpgroup call it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<const TAIL: bool>(kernel: &Prefill<'_, TAIL>) {
    let (params, thread) = (kernel.params, special::thread_x());
    // SAFETY: the roles follow one protocol, told at the top of the kernel. Keys lie within the tensor.
    unsafe {
        let mut place = BlockPlace::<Prefill<TAIL>>::first();
        let mut query = kernel.cta.partition;
        // As memory has it: nobody looks at it before it must have come.
        let mut index = ask_index(params, query, own_key(thread));
        while query < params.decode.requests {
            let len = limit_length(params, ask_length(params, special::again(query)));
            if warp_number(thread) == 0 {
                let lane = special::again(thread) % WARP_THREADS;
                let number = token_number(kernel, query);
                Writer::<Prefill<TAIL>>::before(number).write(Some(segment(query, len)), lane);
                let is_empty = special::again(len) == 0;
                turns::load_queries(&kernel.again(), kernel.q_map, number, is_empty, [query, 0], lane);
            }
            // The first key of a block.
            let mut first = 0;
            while first < len {
                let is_key = first + own_key(thread) < len;
                let keys = Keys::of(params, thread, if is_key { index } else { NO_INDEX });
                first += BLOCK_KEYS;
                // Of the next block, which may be the next query token's.
                let (of, key) =
                    if first < len { (query, first) } else { (query + params.decode.partitions, 0) };
                // Its list's address is computed where it is used.
                index = ask_index(params, special::again(of), key + own_key(thread));
                keys.load(place, thread);
                place = place.next();
            }
            query += params.decode.partitions;
            if special::again(len) == 0 {
                index = ask_index(params, query, own_key(thread));
            }
        }
        // All have come before the thread ends: a tool that looks for races would take them for unfinished else.
        copy::cp_async_commit_group();
        copy::cp_async_wait_group::<0>();
        if warp_number(thread) == 0 {
            let mut end = Writer::<Prefill<TAIL>>::before(token_number(kernel, query));
            end.write(None, special::again(thread) % WARP_THREADS);
        }
    }
}

/// Number of a query token among the CTA's.
#[inline(always)]
fn token_number<const TAIL: bool>(kernel: &Prefill<'_, TAIL>, query: u32) -> u32 {
    // SAFETY: a launch has at least one partition.
    let partitions = unsafe { NonZeroU32::new_unchecked(kernel.params.decode.partitions) };
    special::again(query) / partitions
}

/// Number of a thread's warp among those of the loads.
#[inline(always)]
fn warp_number(thread: u32) -> u32 {
    special::again(thread) / WARP_THREADS % WARPGROUP_WARPS
}

/// The key of a block whose index the lane asks for.
#[inline(always)]
fn own_key(thread: u32) -> u32 {
    let thread = special::again(thread);
    thread / WARP_THREADS % WARPGROUP_WARPS * BLOCK_TOKENS_PER_WARP + thread % BLOCK_TOKENS_PER_WARP
}

/// An index that names no key.
const NO_INDEX: u32 = u32::MAX;

/// Address of element `number` of a tensor whose elements are so many words apart.
#[inline(always)]
fn word_at(first: u64, number: u32, stride: i64) -> u64 {
    first.wrapping_add((number as i64 * stride * 4) as u64)
}

/// Asks for the length of a query token's index list, if there is such a token.
///
/// # Safety
/// The parameters describe live tensors.
#[inline(always)]
unsafe fn ask_length(params: &SparsePrefillParams, query: u32) -> i32 {
    if params.topk_length != 0 && query < params.decode.requests {
        let address = word_at(params.topk_length, query, params.topk_length_stride);
        // SAFETY: as the caller promises.
        unsafe { memory::ld_global_i32(address) }
    } else {
        params.topk as i32
    }
}

/// Keys of a token whose index list has that length.
#[inline(always)]
fn limit_length(params: &SparsePrefillParams, length: i32) -> u32 {
    let length = if length < 0 { 0 } else { length as u32 };
    if length < params.topk { length } else { params.topk }
}

/// Asks for an index of a query token's list.
///
/// # Safety
/// The parameters describe live tensors.
#[inline(always)]
unsafe fn ask_index(params: &SparsePrefillParams, query: u32, key: u32) -> u32 {
    if query < params.decode.requests && key < params.topk {
        let list = word_at(params.indices, query, params.indices_stride);
        // SAFETY: as the caller promises.
        unsafe { memory::ld_global_u32(list.wrapping_add(key as u64 * 4)) }
    } else {
        NO_INDEX
    }
}

/// All of a query token, of so many keys.
#[inline(always)]
fn segment(query: u32, len: u32) -> Segment {
    Segment {
        request: query,
        len,
        blocks: BlockRange { begin: 0, end: schedule::key_blocks(len) },
        slot: 0,
        splits: SplitRecord { first: 0, count: 1 },
    }
}

/// The keys of a block that a warp sees to.
struct Keys {
    /// Where the lane's chunk of each of its keys' first tile is; anywhere where there is no key.
    chunks: [u64; LANE_KEYS],
    /// Which of the warp's keys there are, from the lane's first one on.
    own: u32,
    /// Which of the warp's keys there are.
    valid: u32,
}

impl Keys {
    /// Those that the lanes' indices name; lanes from 16 on have the same ones as those before.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn of(params: &SparsePrefillParams, thread: u32, index: u32) -> Self {
        // Never negative ones, as there are at most i32::MAX keys.
        let is_valid = index < params.s_kv;
        let index = if is_valid { index } else { 0 };
        let mut keys = Self { chunks: [0; LANE_KEYS], own: 0, valid: 0 };
        // SAFETY: as the caller promises.
        unsafe {
            keys.valid = warp::ballot(is_valid);
            let lane = special::again(thread) % WARP_THREADS;
            let first = lane / ROW_LANES;
            keys.own = keys.valid >> first;
            unroll!(I in 4 => {
                const { assert!(LANE_KEYS == 4) };
                let key = warp::shfl_idx(index, first + I as u32 * KEY_STEP);
                let row = params.kv.wrapping_add((key as i64 * params.kv_stride_bytes) as u64);
                keys.chunks[I] = row + (lane % ROW_LANES * CHUNK_BYTES) as u64;
            });
        }
        keys
    }

    /// Asks for the keys, as soon as there is room for them.
    ///
    /// # Safety
    /// The whole warp calls it, once for each block.
    #[inline(always)]
    unsafe fn load<const TAIL: bool>(&self, place: BlockPlace<Prefill<TAIL>>, thread: u32) {
        let lane = special::again(thread) % WARP_THREADS;
        let number = warp_number(thread);
        // The lane's chunk of the first of its keys.
        let chunk = TILE.chunk(number * BLOCK_TOKENS_PER_WARP + lane / ROW_LANES, lane % ROW_LANES);
        // SAFETY: what lay in the place is used up; keys are read where there are some, and stored in rows of this warp's.
        unsafe {
            unroll!(PART in 4 => {
                const { assert!(VALUE_PARTS == 4) };
                place.part_free(PART as u32).wait_for_last();
                self.copy::<{ PART as u32 * PART_TILES }, PART_TILES>(place.part(PART as u32) + chunk);
                arrive(place.part_full(PART as u32), lane, true);
            });
            place.probabilities_free().wait_for_last();
            if TAIL {
                self.copy::<TAIL_TILE, 1>(place.tail() + chunk);
            }
            if special::again(lane) == 0 {
                memory::st_shared_u16(place.key_mask() + 2 * number, self.valid as u16);
            }
            arrive(place.tail_full(), lane, TAIL);
        }
    }

    /// Copies the lane's chunks of `TILES` tiles from tile `FIRST` on, one after the other from `to` on.
    ///
    /// # Safety
    /// As for [`Self::load`].
    #[inline(always)]
    unsafe fn copy<const FIRST: u32, const TILES: u32>(&self, to: u32) {
        unroll!(I in 4 => {
            let to = TILE.rows_further(to, I as u32 * KEY_STEP);
            // Of a key that there is not nothing is read; the chunk becomes zero.
            let bytes = (self.own >> (I as u32 * KEY_STEP) & 1) * CHUNK_BYTES;
            let mut tile = 0;
            while tile < TILES {
                let from = self.chunks[I] + ((FIRST + tile) * TILE_ROW_BYTES) as u64;
                // SAFETY: as the caller promises.
                unsafe { copy::cp_async_16_prefetch_256(to + tile * TILE_BYTES, from, bytes) };
                tile += 1;
            }
        });
    }
}

/// Arrives, once for the warp, when all of it has done what it has to; with `copies`, when what it copies has come, too.
///
/// # Safety
/// The whole warp calls it; the protocol expects it.
#[inline(always)]
unsafe fn arrive(full: Phase, lane: u32, copies: bool) {
    // SAFETY: as the caller promises; the first lane arrives behind all lanes.
    unsafe {
        if copies {
            full.barrier.expect_copies();
            warp::warp_sync();
        }
        // Asked for anew: rustc's jump threading would lead the lane here from the last such condition, past the barrier between.
        if special::again(lane) == 0 {
            full.barrier.arrive();
        }
    }
}
