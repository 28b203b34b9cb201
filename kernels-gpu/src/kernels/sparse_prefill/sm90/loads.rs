//! The loads role: gathers keys with `cp.async`, and asks the copy engine for queries.
//!
//! Each warp sees to 32 keys of each block by itself. Eight lanes have a tile's row of a key, 128 bytes, and the lanes next to them
//! those of the next keys; a lane's next key is the fourth from there. What a lane has asked for completes the barrier of its
//! part by itself, so that as much is on its way as there is room for. Indices are asked for a block ahead, the length of an index
//! list a query token ahead.

use super::Prefill;
use crate::attention::unroll;
use crate::kernels::decode::segments::Segment;
use crate::kernels::decode::sm90::keys::{BlockPlace, Phase};
use crate::kernels::decode::sm90::queue::Writer;
use crate::kernels::decode::sm90::{Decode, TILE, turns};
use crate::ptx::{copy, memory, special, warp};
use oximla_types::kernels::decode::{
    PART_TILES, SplitRecord, TAIL_TILE, TILE_BYTES, TILE_COLUMNS, VALUE_PARTS,
};
use oximla_types::kernels::sparse_prefill::{BLOCK_KEYS_PER_WARP, LOADS_WARPS, SparsePrefillParams};
use oximla_types::launch::WARP_THREADS;
use oximla_types::schedule::{self, BLOCK_KEYS, BlockRange};

/// Bytes of a copy.
const CHUNK_BYTES: u32 = 16;

/// Bytes of a key's elements in a tile.
const TILE_ROW_BYTES: u32 = TILE_COLUMNS * 2;

/// Lanes that copy a row of a tile.
const ROW_LANES: u32 = TILE_ROW_BYTES / CHUNK_BYTES;

/// Keys of a block that a lane copies from.
const LANE_KEYS: usize = 8;

/// From one of them to the next.
const KEY_STEP: u32 = WARP_THREADS / ROW_LANES;

const _: () = assert!(LANE_KEYS as u32 * KEY_STEP == BLOCK_KEYS_PER_WARP);

/// Runs the role.
///
/// # Safety
/// All threads of its warps call it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<const TAIL: bool>(kernel: &Prefill<'_, TAIL>) {
    let (params, thread) = (kernel.params, special::thread_x());
    let (number, lane) = (thread / WARP_THREADS % LOADS_WARPS, thread % WARP_THREADS);
    // SAFETY: the roles follow one protocol, told at the top of the kernel. Keys lie within the tensor.
    unsafe {
        let mut segments = Writer::<Prefill<TAIL>>::new();
        let mut place = BlockPlace::<Prefill<TAIL>>::first_in(special::dynamic_shared());
        // The lane whose key this is asks for its index.
        let own_key = number * BLOCK_KEYS_PER_WARP + lane;
        let mut query = Query::ask(params, kernel.cta.partition);
        // Counted by the CTA.
        let mut token = 0;
        let mut index = query.ask_index(params, own_key);
        while query.number < params.decode.requests {
            let len = query.len(params);
            let next = Query::ask(params, query.number + params.decode.partitions);
            if number == 0 {
                segments.write(Some(query.segment(len)), lane);
                let at = [query.number, 0];
                turns::load_queries(&kernel.again(), kernel.q_map, token, len == 0, at, lane);
            }
            token += 1;
            if len == 0 {
                index = next.ask_index(params, own_key);
            }
            // The lane's own one of a block.
            let mut key = own_key;
            let mut remaining = schedule::key_blocks(len);
            while remaining > 0 {
                let keys = Keys::of(params, lane, if key < len { index } else { NO_INDEX });
                key += BLOCK_KEYS;
                remaining -= 1;
                index = if remaining > 0 {
                    query.ask_index(params, key)
                } else {
                    next.ask_index(params, own_key)
                };
                keys.load(place, number, lane);
                place = place.next();
            }
            query = next;
        }
        if number == 0 {
            segments.write(None, lane);
        }
    }
}

/// An index that names no key.
const NO_INDEX: u32 = u32::MAX;

/// A query token, as far as a lane knows it.
#[derive(Clone, Copy)]
struct Query {
    number: u32,
    /// Indices that count, as memory has it: nobody looks at it before it must have come.
    length: i32,
    /// Address of its index list.
    list: u64,
}

impl Query {
    /// Asks for the length of a query token's index list, if there is such a token.
    ///
    /// # Safety
    /// The parameters describe live tensors.
    #[inline(always)]
    unsafe fn ask(params: &SparsePrefillParams, number: u32) -> Self {
        let at = |first: u64, stride: i64| first.wrapping_add((number as i64 * stride * 4) as u64);
        let mut length = params.topk as i32;
        if params.topk_length != 0 && number < params.decode.requests {
            // SAFETY: as the caller promises.
            length = unsafe { memory::ld_global_i32(at(params.topk_length, params.topk_length_stride)) };
        }
        Self { number, length, list: at(params.indices, params.indices_stride) }
    }

    /// Keys of the token.
    #[inline(always)]
    fn len(self, params: &SparsePrefillParams) -> u32 {
        let length = if self.length < 0 { 0 } else { self.length as u32 };
        if length < params.topk { length } else { params.topk }
    }

    /// Asks for an index of the list.
    ///
    /// # Safety
    /// The parameters describe live tensors.
    #[inline(always)]
    unsafe fn ask_index(self, params: &SparsePrefillParams, key: u32) -> u32 {
        if self.number < params.decode.requests && key < params.topk {
            // SAFETY: as the caller promises.
            unsafe { memory::ld_global_u32(self.list.wrapping_add(key as u64 * 4)) }
        } else {
            NO_INDEX
        }
    }

    /// All of it, of so many keys.
    #[inline(always)]
    fn segment(self, len: u32) -> Segment {
        Segment {
            request: self.number,
            len,
            blocks: BlockRange { begin: 0, end: schedule::key_blocks(len) },
            slot: 0,
            splits: SplitRecord { first: 0, count: 1 },
        }
    }
}

/// The keys of a block that a warp sees to.
struct Keys {
    /// Where the lane's chunk of each of its keys' first tile is; anywhere where there is no key.
    chunks: [u64; LANE_KEYS],
    /// Bytes of it to copy; the rest of the chunk becomes zero.
    bytes: [u32; LANE_KEYS],
    /// Which of the warp's keys there are.
    valid: u32,
}

impl Keys {
    /// Those that the lanes' indices name.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn of(params: &SparsePrefillParams, lane: u32, index: u32) -> Self {
        // Never negative ones, as there are at most i32::MAX keys.
        let is_valid = |index: u32| index < params.s_kv;
        let mut keys = Self { chunks: [0; LANE_KEYS], bytes: [0; LANE_KEYS], valid: 0 };
        // SAFETY: as the caller promises.
        unsafe {
            keys.valid = warp::ballot(is_valid(index));
            unroll!(I in 8 => {
                const { assert!(LANE_KEYS == 8) };
                let index = warp::shfl_idx(index, lane / ROW_LANES + I as u32 * KEY_STEP);
                let key = if is_valid(index) { index } else { 0 };
                let row = params.kv.wrapping_add((key as i64 * params.kv_stride_bytes) as u64);
                keys.chunks[I] = row + (lane % ROW_LANES * CHUNK_BYTES) as u64;
                keys.bytes[I] = if is_valid(index) { CHUNK_BYTES } else { 0 };
            });
        }
        keys
    }

    /// Asks for the keys, as soon as there is room for them.
    ///
    /// # Safety
    /// The whole warp calls it, once for each block.
    #[inline(always)]
    unsafe fn load<const TAIL: bool>(&self, place: BlockPlace<Prefill<TAIL>>, number: u32, lane: u32) {
        // The lane's chunk of the first of its keys.
        let chunk = TILE.chunk(number * BLOCK_KEYS_PER_WARP + lane / ROW_LANES, lane % ROW_LANES);
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
                memory::st_shared_u32(place.key_mask() + 4 * number, self.valid);
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
        unroll!(I in 8 => {
            let to = TILE.rows_further(to, I as u32 * KEY_STEP);
            let mut tile = 0;
            while tile < TILES {
                let from = self.chunks[I] + ((FIRST + tile) * TILE_ROW_BYTES) as u64;
                // SAFETY: as the caller promises.
                unsafe { copy::cp_async_16_prefetch_256(to + tile * TILE_BYTES, from, self.bytes[I]) };
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
