//! Which tokens a warp gathers: from segments to blocks, from indices to addresses.
//!
//! A warp has 16 tokens of a block and twice as many lanes: where a segment goes on, it looks up two blocks at a time, a *pair*,
//! in the lower and the upper half of its lanes.

use super::super::Queries;
use super::codes::Rows;
use super::loads::Thread;
use super::scales::Scales;
use super::start::Start;
use super::{Format, Sparse};
use crate::attention::divide::divide;
use crate::kernels::decode::segments::{Segment, Segments};
use crate::kernels::decode::sm90::Decode;
use crate::kernels::decode::sm90::queue;
use crate::ptx::{copy, memory, warp};
use core::hint::cold_path;
use core::marker::PhantomData;
use oximla_types::kernels::decode::{BLOCK_TOKENS_PER_WARP, SEGMENT_BYTES};
use oximla_types::kernels::sparse_decode::{
    BLOCKS_OFFSET, PENDING_OFFSET, PENDING_SEGMENTS, PIECE_BYTES, QUEUED_OFFSET, ScopeParams,
    SparseDecodeParams, WARP_BLOCKS_BYTES,
};
use oximla_types::schedule::{BLOCK_KEYS, BlockRange, Place};

/// The CTA's blocks, one after the other, for a warp. Where it stands lies in shared memory, as the loads have no
/// registers to spare: a [`Place`] in the CTA's segments, a [`Piece`], and the addresses of the segment's index lists.
///
/// Warp 0 tells the other roles of a segment when the block before its first one is converted, or, where it converts none, when the first
/// one's tokens are asked for: its readers wait for what this warp has yet to do.
pub struct Blocks<F, const WIDE: bool> {
    /// Of the warp.
    thread: Thread,
    format: PhantomData<F>,
}

/// What is left of a segment.
#[derive(Clone, Copy)]
struct Piece {
    /// The first key of the next block.
    key: u32,
    /// The one behind the last.
    end: u32,
    /// The first one in the second cache.
    first_keys: u32,
    /// Segments so far, of which some may be pending.
    segments: u32,
}

/// A pair of blocks, or a single one, as far as a lane knows it that has asked for the index of its token. Two words, as they
/// are kept in registers.
#[derive(Clone, Copy)]
pub struct Pair {
    /// What the first block begins.
    pub start: Start,
    /// The lane's index; what is no index, or is negative, names no token. Nobody looks at it before it must have come.
    index: u32,
}

/// A pair of blocks, as far as a lane knows it that has yet to ask for the index of its token: the key at `position`, if that is before
/// `end`.
#[derive(Clone, Copy)]
pub struct Found {
    /// What the first block begins.
    pub start: Start,
    position: u32,
    end: u32,
}

impl Found {
    /// What has no keys.
    #[inline(always)]
    fn without_keys(start: Start) -> Self {
        Self { start, position: 0, end: 0 }
    }
}

/// An index that names no token.
const NO_INDEX: u32 = u32::MAX;

/// Where a lane's token lies.
#[derive(Clone, Copy)]
pub struct Token {
    /// Its row, and any readable address where there is no token.
    pub row: u64,
    /// Its scales.
    pub scales: u64,
}

/// A pair of blocks whose tokens are looked up.
pub struct LookedUp {
    /// What the first block begins.
    pub start: Start,
    /// The row of the lane's token.
    pub row: u64,
    /// Which lanes have a token.
    pub valid: u32,
}

/// The same where nothing of them is staged.
pub struct Tokens {
    /// What the first block begins.
    pub start: Start,
    /// The lane's token.
    pub token: Token,
    /// Which lanes have a token.
    pub valid: u32,
}

impl Pair {
    /// Where the lane's token lies, and of which lanes there are tokens.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn token<F: Format>(self, params: &SparseDecodeParams, thread: Thread) -> (Token, u32) {
        let of_scope = |scope: &ScopeParams| {
            let ScopeParams { kv_cache, page_stride, page_size, tokens, .. } = *scope;
            (kv_cache, page_stride, page_size, tokens)
        };
        let Self { start, index } = self;
        let (kv_cache, page_stride, page_size, tokens) = select(params, start.scope(), of_scope);
        // Never negative ones, as there are at most i32::MAX tokens.
        let is_valid = index < tokens;
        let (page, token) = divide(if is_valid { index } else { stand_in(thread, tokens) }, &page_size);
        let page_address = kv_cache.wrapping_add((page as i64 * page_stride) as u64);
        let row_bytes = F::RAW.row_bytes as u64;
        let row = page_address + token as u64 * row_bytes;
        let scales = if F::SCALE_PLANE {
            page_address + page_size.divisor as u64 * row_bytes + token as u64 * F::RAW.scale_bytes as u64
        } else {
            row + F::RAW.scales_offset as u64
        };
        // SAFETY: as the caller promises.
        let valid = unsafe { warp::ballot(is_valid) };
        (Token { row, scales }, valid)
    }
}

/// A token to read where there is none. Not the same one for all threads: the level-2 cache gives out what is asked for at one place
/// one after the other, and everyone would wait.
#[inline(always)]
fn stand_in(thread: Thread, tokens: u32) -> u32 {
    thread.number().min(tokens - 1)
}

impl<F: Format, const WIDE: bool> Blocks<F, WIDE> {
    /// Before the first block.
    ///
    /// # Safety
    /// The whole warp calls it, for one at a time.
    #[inline(always)]
    pub unsafe fn new(thread: Thread, segments: Segments<Queries>) -> Self {
        let none = Piece { key: 0, end: 0, first_keys: 0, segments: 0 };
        // SAFETY: as the caller promises.
        unsafe {
            store_place(thread, segments.place());
            none.store(thread);
            if thread.warp() == 0 && thread.lane() == 0 {
                memory::st_shared_u32(queued(thread), 0);
            }
        }
        Self { thread, format: PhantomData }
    }

    /// Looks up the tokens of a pair of blocks, one a lane: stages the rows of the first block's, and asks for the scales where they are
    /// apart. Then `next` is the pair behind, of whose tokens the indices are asked for.
    ///
    /// # Safety
    /// The whole warp calls it, as this `thread`, when it has read the rows that were staged before; the parameters describe live tensors.
    #[inline(always)]
    pub unsafe fn look_up(&mut self, kernel: &Sparse<'_, F>, thread: Thread, next: &mut Pair) -> LookedUp {
        // SAFETY: as the caller promises.
        unsafe {
            let (Token { row, scales }, valid) = next.token::<F>(kernel.params, thread);
            let start = next.start.uniform::<F, WIDE>();
            Rows::stage(thread, row, 0);
            if F::SCALE_PLANE {
                Scales::copy_of_plane::<F>(thread, scales, valid);
            }
            let found = self.find(kernel);
            *next = self.ask(found);
            LookedUp { start, row, valid }
        }
    }

    /// As [`Self::look_up`], and stages nothing.
    ///
    /// # Safety
    /// The whole warp calls it, as this `thread`; the parameters describe live tensors.
    #[inline(always)]
    pub unsafe fn look_up_tokens(
        &mut self,
        kernel: &Sparse<'_, F>,
        thread: Thread,
        next: &mut Pair,
    ) -> Tokens {
        // SAFETY: as the caller promises.
        unsafe {
            let (token, valid) = next.token::<F>(kernel.params, thread);
            let start = next.start.uniform::<F, WIDE>();
            let found = self.find(kernel);
            *next = self.ask(found);
            Tokens { start, token, valid }
        }
    }

    /// The next pair of blocks, of whose tokens nothing is asked for yet: it does not depend on what the index lists hold.
    ///
    /// # Safety
    /// The whole warp calls it; the parameters describe live tensors.
    #[inline(always)]
    pub unsafe fn find(&mut self, kernel: &Sparse<'_, F>) -> Found {
        let thread = self.thread;
        let mut start = Start(0);
        // SAFETY: as the caller promises.
        unsafe {
            let mut piece = Piece::load(thread);
            if of_warp::<F, WIDE>(u32::from(piece.key >= piece.end)) != 0 {
                (start, piece) = self.next_segment(kernel, piece.segments);
            }
            let mut found = Found::without_keys(start);
            if !start.is_empty() {
                let Piece { key, end, first_keys, .. } = piece;
                let (half, token) =
                    (thread.lane() / BLOCK_TOKENS_PER_WARP, thread.lane() % BLOCK_TOKENS_PER_WARP);
                let position = key + half * BLOCK_KEYS + thread.warp() * BLOCK_TOKENS_PER_WARP + token;
                piece.key += 2 * BLOCK_KEYS;
                let mut flags = start.0;
                if key + BLOCK_KEYS < end {
                    flags |= Start::OF_TWO;
                }
                if position < end && position >= first_keys {
                    flags |= Start::SECOND_SCOPE;
                }
                found = Found { start: Start(flags), position, end };
            }
            piece.store(thread);
            found
        }
    }

    /// The next segment, of which the CTA has had so many: what its first block begins, and its keys. It is pending then.
    ///
    /// # Safety
    /// As for [`Self::find`].
    #[inline(always)]
    unsafe fn next_segment(&self, kernel: &Sparse<'_, F>, segments: u32) -> (Start, Piece) {
        cold_path();
        let (params, thread) = (kernel.params, self.thread);
        let mut piece = Piece { key: 0, end: 0, first_keys: 0, segments: segments + 1 };
        // SAFETY: as the caller promises.
        unsafe {
            // The kernel made anew, so that the loop need not keep what only this takes.
            let mut place = kernel.again().segments_from(load_place(thread));
            let segment = if F::FUSED { place.next_split() } else { place.next() };
            store_place(thread, place.place());
            if thread.number() == 0 {
                queue::store(segment, pending(thread, segments));
            }
            let start = segment.map_or(Start::END, |segment| Start::of_segment(&segment));
            // Of the first lane, where ptxas is to know that all go the same way.
            let start = start.uniform::<F, WIDE>();
            if start.is_empty() {
                return (start, piece);
            }
            let request = start.request();
            let (len, blocks) = segment
                .map_or((0, BlockRange { begin: 0, end: 0 }), |Segment { len, blocks, .. }| (len, blocks));
            let (batch, query) = divide(request, &params.queries);
            let first_keys = Queries(params).scope_keys(0, batch, query);
            store_lists(thread, params, request, first_keys);
            // Only the request's last block may have fewer keys.
            let behind = blocks.end * BLOCK_KEYS;
            let end = if behind < len { behind } else { len };
            piece = Piece { key: blocks.begin * BLOCK_KEYS, end, first_keys, ..piece };
            (start, piece)
        }
    }

    /// Brings the index of the lane's token to the level-2 cache.
    ///
    /// # Safety
    /// As for [`Self::ask_published`].
    #[inline(always)]
    pub unsafe fn prefetch(&self, found: &Found) {
        if found.position < found.end {
            // SAFETY: as the caller promises.
            unsafe { copy::prefetch_l2(self.list(found.start).wrapping_add(found.position as u64 * 4)) };
        }
    }

    /// Where the index of key 0 would be in a list of the current segment.
    ///
    /// # Safety
    /// The warp has stored the addresses of the lists.
    #[inline(always)]
    unsafe fn list(&self, start: Start) -> u64 {
        let list = lists_address(self.thread) + start.scope() * size_of::<u64>() as u32;
        // SAFETY: as the caller promises.
        unsafe { memory::ld_shared_u64(list) }
    }

    /// As [`Self::ask`], of a segment that the other roles know of.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub unsafe fn ask_published(&self, found: Found) -> Pair {
        // SAFETY: as the caller promises.
        unsafe { self.ask(Found { start: found.start.published(), ..found }) }
    }

    /// Asks for the index of the lane's token.
    ///
    /// # Safety
    /// The whole warp calls it, with what it has found last; the parameters describe live tensors.
    #[inline(always)]
    unsafe fn ask(&self, Found { start, position, end }: Found) -> Pair {
        let mut pair = Pair { start, index: NO_INDEX };
        if position < end {
            // SAFETY: as the caller promises.
            unsafe {
                let list = self.list(start);
                pair.index = memory::ld_global_u32(list.wrapping_add(position as u64 * 4));
            }
        }
        pair
    }

    /// Tells the other roles of the next segment that is pending, or of the end.
    ///
    /// # Safety
    /// The whole warp calls it, once for each segment and the end, in order, when they are current.
    #[inline(always)]
    pub unsafe fn publish(&mut self) {
        let thread = self.thread;
        // SAFETY: the first lane has stored what is pending; the number is the warp's.
        unsafe {
            if of_warp::<F, WIDE>(thread.warp()) == 0 {
                warp::warp_sync();
                let number = memory::ld_shared_u32(queued(thread));
                queue::write_stored::<Sparse<F>>(number, pending(thread, number), thread.lane());
                warp::warp_sync();
                if thread.lane() == 0 {
                    memory::st_shared_u32(queued(thread), number + 1);
                }
            }
        }
    }
}

impl Piece {
    /// What the warp has stored.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn load(thread: Thread) -> Self {
        // SAFETY: it is the warp's.
        unsafe {
            warp::warp_sync();
            let [key, end, first_keys, segments] = memory::ld_shared_u32x4(piece_address(thread));
            Self { key, end, first_keys, segments }
        }
    }

    /// Stores it for the warp.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn store(&self, thread: Thread) {
        let Self { key, end, first_keys, segments } = *self;
        // SAFETY: as the caller promises.
        unsafe { store_for_warp(thread, piece_address(thread), [key, end, first_keys, segments]) };
    }
}

/// The place that the warp has stored.
///
/// # Safety
/// The whole warp calls it, in step since it has stored it.
#[inline(always)]
unsafe fn load_place(thread: Thread) -> Place {
    // SAFETY: it is the warp's.
    let [chunk, start, payload, width] = unsafe { memory::ld_shared_u32x4(place_address(thread)) };
    Place { chunk, start, payload, width }
}

/// Stores a place for the warp.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn store_place(thread: Thread, place: Place) {
    let Place { chunk, start, payload, width } = place;
    // SAFETY: as the caller promises.
    unsafe { store_for_warp(thread, place_address(thread), [chunk, start, payload, width]) };
}

/// Stores what all lanes know, once all have read what was there.
///
/// # Safety
/// The whole warp calls it; the address is the warp's.
#[inline(always)]
unsafe fn store_for_warp(thread: Thread, address: u32, words: [u32; 4]) {
    // SAFETY: as the caller promises.
    unsafe {
        warp::warp_sync();
        if thread.lane() == 0 {
            memory::st_shared_u32x4(address, words);
        }
    }
}

/// What is the same for all lanes: from the first one, where ptxas is to know that ([`Decode::UNIFORM_LOADS`]). Not where rows are
/// aligned to 8 bytes only, which is rare: ptxas has less to allocate registers for.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
pub(super) unsafe fn of_warp<F: Format, const WIDE: bool>(value: u32) -> u32 {
    // SAFETY: as the caller promises.
    if F::UNIFORM && WIDE { unsafe { warp::shfl_idx(value, 0) } } else { value }
}

/// Where the warp's place in the segments is.
#[inline(always)]
fn place_address(thread: Thread) -> u32 {
    thread.warp_staging(BLOCKS_OFFSET, WARP_BLOCKS_BYTES)
}

/// Where the warp's piece is.
#[inline(always)]
fn piece_address(thread: Thread) -> u32 {
    place_address(thread) + size_of::<Place>() as u32
}

/// Where the addresses of the warp's index lists are.
#[inline(always)]
fn lists_address(thread: Thread) -> u32 {
    piece_address(thread) + PIECE_BYTES
}

/// Address of the pending segment of a number.
#[inline(always)]
fn pending(thread: Thread, number: u32) -> u32 {
    thread.staging(PENDING_OFFSET + number % PENDING_SEGMENTS * SEGMENT_BYTES)
}

/// Address of how many segments are in the queue, or were.
#[inline(always)]
fn queued(thread: Thread) -> u32 {
    thread.staging(QUEUED_OFFSET)
}

/// Something of one of the caches. Not by a computed index, which would move the parameters to local memory.
#[inline(always)]
fn select<T>(params: &SparseDecodeParams, scope: u32, of_scope: impl Fn(&ScopeParams) -> T) -> T {
    let [first, second] = [of_scope(&params.scopes[0]), of_scope(&params.scopes[1])];
    if scope == 0 { first } else { second }
}

/// Stores for the warp where the index of a query token's key 0 would be in either list: the second one begins with the key
/// behind the first one's.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn store_lists(thread: Thread, params: &SparseDecodeParams, request: u32, first_keys: u32) {
    let (batch, query) = divide(request, &params.queries);
    let list = |scope: &ScopeParams| {
        let [batch_stride, query_stride] = scope.indices_strides;
        let offset = batch as i64 * batch_stride + query as i64 * query_stride;
        scope.indices.wrapping_add((offset * 4) as u64)
    };
    let [first, second] = [&params.scopes[0], &params.scopes[1]].map(list);
    let second = second.wrapping_sub(first_keys as u64 * 4);
    let words = [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32];
    // SAFETY: as the caller promises.
    unsafe {
        store_for_warp(thread, lists_address(thread), words);
        warp::warp_sync();
    }
}
