//! A cluster of two CTAs that have neighbouring tiles of heads, and so the same keys: each converts half of each block's and hands
//! them over to the other.
//!
//! Of the 16 keys of a block that a warp knows, the first eight are those of the first CTA's warp, the others those of the
//! second's: eight rows of each tile, 1 KiB in a row. When the warp has stored its rows of a part, it fences them, and the copy engine
//! copies them to the same place of the other CTA, whose barrier for the part waits for the bytes as well.
//!
//! RoPE elements need no conversion, but room: probabilities come to where a tail was while the other CTA's copy may be under
//! way. So they come to the staging: from there the lanes store their own, and the copy engine brings them to the other CTA.

use super::super::Queries;
use super::codes::{Lane, Rows, move_rope};
use super::convert::{Converter, Taken};
use super::gather::{Blocks, LookedUp};
use super::loads::{Thread, arrive, key_mask, load_queries};
use super::scales::{RawScales, Scales};
use super::start::Start;
use super::{Format, Sparse};
use crate::attention::unroll;
use crate::kernels::decode::segments::Segments;
use crate::kernels::decode::sm90::TILE;
use crate::kernels::decode::sm90::keys::{BlockPlace, Phase};
use crate::ptx::{copy, fence, memory, special, warp};
use core::hint::cold_path;
use oximla_types::kernels::decode::{PART_TILES, TILE_BYTES, VALUE_PARTS};
use oximla_types::kernels::sparse_decode::{WARP_CODES_BYTES, WARP_PART_BYTES};

/// Rows are aligned to 16 bytes.
const WIDE: bool = true;

/// Runs the role of the loads in a cluster, as [`loads::run`](super::loads::run) does where there is none.
///
/// # Safety
/// As there, in both CTAs; all rows of all caches are aligned to 16 bytes.
#[inline(always)]
pub unsafe fn run<F: Format>(kernel: &Sparse<'_, F>, segments: Segments<'_, Queries<'_>>) {
    // SAFETY: the roles follow one protocol, told at the top of the kernel. Tokens lie within the caches.
    unsafe {
        let thread = Thread::this::<F>();
        let mut blocks = Blocks::<F, WIDE>::new(thread, segments);
        let lane = Lane::this::<F>(thread);
        let other = Other::new::<F>(thread);
        let row_of = |token| token - thread.first_token::<F>();
        let mut place = BlockPlace::<Sparse<F>>::first_in(thread.shared);
        // The first time around, there is no block yet, but the first one is asked for.
        let mut start = Start::NONE;
        let first = blocks.find(kernel);
        blocks.publish();
        let begins = first.start.uniform::<F, WIDE>();
        if begins.is_end() {
            return;
        }
        special::griddepcontrol_wait();
        // The indices are on their way while the copy engine is asked for queries.
        let mut next = blocks.ask_published(first);
        if !begins.is_empty() {
            place = load_queries(kernel, begins, place);
        }
        // Which lanes have looked up a token: a half of them those of each of two blocks.
        let mut rows_valid = 0;
        while !start.is_end() {
            // Copies are waited for in the order in which they were asked for: a block's scales, its codes part by part, its RoPE
            // elements. Groups that may still be under way are those behind what is waited for.
            let is_block = !start.is_empty();
            let mut raw_scales = RawScales::default();
            let valid = start.of_warp(rows_valid);
            if is_block {
                copy::cp_async_wait_group::<5>();
                warp::warp_sync();
                raw_scales = RawScales::load::<F>(thread, start.half());
            } else {
                // Nobody takes what was asked for, but it must not land on what comes next.
                copy::cp_async_wait_group::<0>();
            }
            warp::warp_sync();

            let (mut next_start, mut row) = (Start::SECOND, 0);
            if !start.is_of_two() {
                // The indices have come during the last blocks.
                LookedUp { start: next_start, row, valid: rows_valid } =
                    blocks.look_up(kernel, thread, &mut next);
            }
            let next_valid = next_start.of_warp(rows_valid);
            if !F::SCALE_PLANE {
                Scales::copy_of_rows::<F, WIDE>(thread, next_valid);
            }
            copy::cp_async_commit_group();
            let converter = Converter::<F>::new(thread, lane, raw_scales);
            let mut taken = Taken::default();
            if is_block {
                // On their way while the next block's rows are exchanged.
                copy::cp_async_wait_group::<5>();
                taken = converter.take(0);
            }
            let rows = Rows::staged::<F>(thread);
            if !start.is_of_two() {
                Rows::stage(thread, row, 1);
            }

            if is_block {
                let staged = || staged_rope::<F>(thread, place.number());
                let keep_own = || {
                    place.probabilities_free().wait_for_last();
                    if thread.lane() == 0 {
                        memory::st_shared_u16(key_mask(thread, place), valid as u16);
                    }
                    move_rope::<F>(thread, staged(), rope_tile(place).0);
                };
                if !converter.is_any() {
                    unroll!(PART in 4 => {
                        const NUMBER: u32 = PART as u32;
                        place.part_free(NUMBER).wait_for_last();
                        // The next part's codes have come, or the RoPE elements.
                        copy::cp_async_wait_group::<4>();
                        converter.convert(&mut taken, NUMBER, place.part(NUMBER));
                        if NUMBER == VALUE_PARTS - 1 {
                            converter.poison(&taken, staged);
                            keep_own();
                        }
                        rows.copy_codes::<F, WIDE>(thread, lane, next_valid, NUMBER);
                        fence::fence_proxy_async_shared();
                        other.hand_over(thread, place, NUMBER, 0);
                        converter.take_scales(&mut taken, NUMBER + 1);
                        other.hand_over(thread, place, NUMBER, 1);
                    });
                } else {
                    cold_path();
                    let mut part = 0;
                    while part < VALUE_PARTS {
                        place.part_free(part).wait_for_last();
                        copy::cp_async_wait_group::<4>();
                        converter.convert_any(part, place.part(part));
                        if part == VALUE_PARTS - 1 {
                            keep_own();
                        }
                        rows.copy_codes::<F, WIDE>(thread, lane, next_valid, part);
                        fence::fence_proxy_async_shared();
                        other.hand_over(thread, place, part, 0);
                        other.hand_over(thread, place, part, 1);
                        part += 1;
                    }
                }
                other.hand_over_rope(thread, place);
                if !F::TAIL {
                    arrive(thread, place.tail_full());
                }
                place = place.next();
            } else {
                let rows = rows.again();
                unroll!(PART in 4 => { rows.copy_codes::<F, WIDE>(thread, lane, next_valid, PART as u32); });
            }
            // The place before a segment's first block is its queries'.
            let next_place = place.number() + next_start.is_segment() as u32;
            let staged = staged_rope::<F>(thread, next_place);
            rows.copy_rope::<F, WIDE>(thread, next_valid, staged, row_of);
            start = next_start;
            if start.is_segment() && !start.is_end() {
                blocks.publish();
                if !start.is_empty() {
                    place = load_queries(kernel, start, place);
                }
            }
        }
        blocks.publish();
        // What was asked for behind the last block must land before the CTA ends.
        copy::cp_async_wait_group::<0>();
    }
}

/// What a warp knows to hand its keys over to the other CTA.
#[derive(Clone, Copy)]
struct Other {
    /// Where in a tile the keys lie that the warp converts.
    rows: u32,
    /// From an address in this CTA to the same one in the other.
    distance: u32,
}

impl Other {
    /// The other CTA of the cluster.
    #[inline(always)]
    fn new<F: Format>(thread: Thread) -> Self {
        let shared = thread.staging(0);
        let distance = special::mapa(shared, thread.rank() ^ 1).wrapping_sub(shared);
        let rows = TILE.row_offset(thread.key(thread.first_token::<F>()));
        Self { rows, distance }
    }

    /// Copies the warp's keys of a part's tile, if they come from codes. Arrives with the first tile, once for the warp, for the
    /// part.
    ///
    /// # Safety
    /// The whole warp calls it, in both CTAs, when it has stored its keys and fenced them; the protocol expects it.
    #[inline(always)]
    unsafe fn hand_over<F: Format>(self, thread: Thread, place: BlockPlace<Sparse<F>>, part: u32, tile: u32) {
        let (bytes, tiles) = (row_bytes::<F>(), F::RAW.code_tiles(part as usize));
        let full = place.part_full(part);
        // SAFETY: as the caller promises. What is copied is free in the other CTA, as its values arrive here, too.
        unsafe {
            if tile == 0 {
                // What is no code are RoPE elements.
                arrive_expecting(thread, full, PART_TILES * bytes);
            }
            if tile < tiles {
                let keys = place.part(part) + tile * TILE_BYTES + self.rows;
                self.copy(keys, keys, bytes, full);
            }
        }
    }

    /// Copies the warp's RoPE elements of a block from the staging to where they belong. Arrives for the tail, if they are one.
    ///
    /// # Safety
    /// As for [`Self::hand_over`], which comes first.
    #[inline(always)]
    unsafe fn hand_over_rope<F: Format>(self, thread: Thread, place: BlockPlace<Sparse<F>>) {
        let (bytes, from) = (row_bytes::<F>(), staged_rope::<F>(thread, special::again(place.number())));
        let (tile, full) = rope_tile(place);
        let to = tile + self.rows;
        // SAFETY: as the caller promises.
        unsafe {
            if F::TAIL {
                arrive_expecting(thread, full, bytes);
            }
            self.copy(to, from, bytes, full);
        }
    }

    /// Copies bytes to what lies in the other CTA where `to` is in this one, and completes on its barrier.
    ///
    /// # Safety
    /// As of [`copy::cp_async_bulk_to_cluster`].
    #[inline(always)]
    unsafe fn copy(self, to: u32, from: u32, bytes: u32, full: Phase) {
        let there = |address: u32| address.wrapping_add(self.distance);
        // SAFETY: as the caller promises.
        unsafe { copy::cp_async_bulk_to_cluster(there(to), from, bytes, there(full.barrier.address())) };
    }
}

/// Bytes of the warp's rows of a tile.
#[inline(always)]
fn row_bytes<F: Format>() -> u32 {
    TILE.row_offset(F::WARP_TOKENS)
}

/// Where a warp's RoPE elements are staged for the block of a place, as its rows of a tile: as the other CTA has half of the keys,
/// half of each part's staging is free.
///
/// Of four in turns: one is asked for when the block before it is converted, and the place before may be its queries'; by then the tail
/// of the second block before that is free, and what has been copied from there for it and all earlier ones.
#[inline(always)]
fn staged_rope<F: Format>(thread: Thread, place: u32) -> u32 {
    let offset = place % VALUE_PARTS * WARP_PART_BYTES + WARP_PART_BYTES / F::CTAS;
    thread.warp_staging(offset, WARP_CODES_BYTES)
}

/// The tile that RoPE elements go to, and the phase that they make full.
#[inline(always)]
fn rope_tile<F: Format>(place: BlockPlace<Sparse<F>>) -> (u32, Phase) {
    if F::TAIL {
        (place.tail(), place.tail_full())
    } else {
        (place.part(F::WHOLE_PARTS) + TILE_BYTES, place.part_full(F::WHOLE_PARTS))
    }
}

/// Arrives, once for the warp, and makes the phase wait for copied bytes as well.
///
/// # Safety
/// The whole warp calls it; the protocol expects it.
#[inline(always)]
unsafe fn arrive_expecting(thread: Thread, full: Phase, bytes: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        warp::warp_sync();
        if thread.lane() == 0 {
            full.barrier.arrive_expecting(bytes);
        }
    }
}
