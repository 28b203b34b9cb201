//! Which tokens a warp gathers: from segments to blocks, from indices to addresses.

use super::super::Queries;
use super::loads::warp_lane;
use super::{Format, Sparse};
use crate::attention::divide::divide;
use crate::kernels::decode::segments::{Segment, Segments};
use crate::kernels::decode::sm90::queue::{self, Writer};
use crate::ptx::{memory, special, warp};
use oximla_types::kernels::decode::{BLOCK_TOKENS_PER_WARP, SEGMENT_BYTES};
use oximla_types::kernels::sparse_decode::{PENDING_SEGMENTS, ScopeParams, SparseDecodeParams};
use oximla_types::schedule::BLOCK_KEYS;

/// The CTA's blocks, one after the other, for a warp.
pub struct Blocks<'a, F> {
    segments: Segments<'a, Queries<'a>>,
    /// Of warp 0, which tells the other roles of a segment when its first block is the current one: its readers wait for
    /// what this warp has yet to convert.
    queue: Writer<Sparse<'a, F>>,
    /// Segments that were pending so far.
    known: u32,
    /// The segment's query token.
    request: u32,
    /// How many of its keys are in the first cache.
    first_keys: u32,
    /// The first key of the next block, and the one behind the segment's last.
    key: u32,
    end: u32,
}

/// A block, as far as a lane knows it that has asked for the index of its token: lanes from 16 on have the same tokens as
/// those before. Two words, as several are kept in registers.
#[derive(Clone, Copy)]
pub struct Block {
    /// What the block begins.
    pub start: Start,
    /// The lane's index, if it has one.
    index: Index,
}

/// What a block begins: [`Start::SEGMENT`] and a query token, nothing, or [`Start::END`], which is no block at all. A segment
/// without keys stands as [`Start::EMPTY`] for a block that is none.
#[derive(Clone, Copy)]
pub struct Start(u32);

/// An index, and in the highest bit which cache it is for; any index past all tokens where there is none.
#[derive(Clone, Copy)]
struct Index(u32);

impl Start {
    const SEGMENT: u32 = 1 << 31;
    const EMPTY: u32 = 1 << 30;
    const END: Self = Self(u32::MAX);

    /// Whether there is no such block.
    #[inline(always)]
    pub fn is_end(self) -> bool {
        self.0 == Self::END.0
    }

    /// Whether a segment begins.
    #[inline(always)]
    pub fn is_segment(self) -> bool {
        self.0 & Self::SEGMENT != 0
    }

    /// Whether it is one without keys, and this no block.
    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.0 & Self::EMPTY != 0
    }

    /// The query token of the segment that begins.
    #[inline(always)]
    pub fn request(self) -> u32 {
        self.0 & !(Self::SEGMENT | Self::EMPTY)
    }
}

impl Index {
    const NONE: u32 = i32::MAX as u32;

    /// Of what a list says: negative indices name no token.
    #[inline(always)]
    fn new(index: u32, scope: usize) -> Self {
        let index = if index > Self::NONE { Self::NONE } else { index };
        Self(index | (scope as u32) << 31)
    }
}

/// Where a lane's token lies.
#[derive(Clone, Copy)]
pub struct Token {
    /// Its row, and any readable address where there is no token.
    pub row: u64,
    /// Its scales.
    pub scales: u64,
}

impl Block {
    /// Where the lane's token lies, and which of the warp's 16 tokens there are.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn token<F: Format>(self, params: &SparseDecodeParams) -> (Token, u32) {
        let of_scope = |scope: &ScopeParams| {
            let ScopeParams { kv_cache, page_stride, page_size, tokens, .. } = *scope;
            (kv_cache, page_stride, page_size, tokens)
        };
        let (index, scope) = (self.index.0 & i32::MAX as u32, self.index.0 >> 31);
        let (kv_cache, page_stride, page_size, tokens) = select(params, scope as usize, of_scope);
        let is_valid = index < tokens;
        let (page, token) = divide(if is_valid { index } else { 0 }, &page_size);
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
        (Token { row, scales }, valid & ((1 << BLOCK_TOKENS_PER_WARP) - 1))
    }
}

impl<'a, F: Format> Blocks<'a, F> {
    /// Before the first block.
    #[inline(always)]
    pub fn new(segments: Segments<'a, Queries<'a>>) -> Self {
        Self { segments, queue: Writer::new(), known: 0, request: 0, first_keys: 0, key: 0, end: 0 }
    }

    /// The next block. Asks for the indices of its tokens.
    ///
    /// # Safety
    /// The whole warp calls it; the parameters describe live tensors.
    #[inline(always)]
    pub unsafe fn next(&mut self, params: &SparseDecodeParams) -> Block {
        let (number, lane) = warp_lane();
        let mut start = 0;
        // SAFETY: as the caller promises.
        unsafe {
            if self.key >= self.end {
                let segment = self.segments.next();
                if number == 0 && lane == 0 {
                    queue::store(segment, pending::<F>(self.known));
                }
                self.known += 1;
                let Some(Segment { request, len, blocks, .. }) = segment else {
                    return Block { start: Start::END, index: Index(Index::NONE) };
                };
                start = Start::SEGMENT | request;
                if blocks.is_empty() {
                    return Block { start: Start(start | Start::EMPTY), index: Index(Index::NONE) };
                }
                let (batch, _) = divide(request, &params.queries);
                self.first_keys = Queries(params).scope_keys(0, batch);
                // Only the request's last block may have fewer keys.
                let behind = blocks.end * BLOCK_KEYS;
                self.request = request;
                self.key = blocks.begin * BLOCK_KEYS;
                self.end = if behind < len { behind } else { len };
            }
            let position = self.key + number * BLOCK_TOKENS_PER_WARP + lane % BLOCK_TOKENS_PER_WARP;
            self.key += BLOCK_KEYS;
            let scope = (position >= self.first_keys) as usize;
            let in_list = if scope == 0 { position } else { position - self.first_keys };
            let index =
                if position < self.end { index_of(params, scope, self.request, in_list) } else { u32::MAX };
            Block { start: Start(start), index: Index::new(index, scope) }
        }
    }

    /// Tells the other roles of the next segment that is pending, or of the end.
    ///
    /// # Safety
    /// The whole warp calls it, once for each segment and the end, in order, when they are current.
    #[inline(always)]
    pub unsafe fn publish(&mut self) {
        let (number, lane) = warp_lane();
        if number == 0 {
            // SAFETY: the first lane has stored it there, and uses it alone.
            unsafe { self.queue.write_stored(pending::<F>, lane) };
        }
    }
}

/// Address of the pending segment of a number.
#[inline(always)]
fn pending<F: Format>(number: u32) -> u32 {
    let slot = number % PENDING_SEGMENTS * SEGMENT_BYTES;
    special::dynamic_shared() + F::PLAN.staging + F::RAW.pending() + slot
}

/// Something of one of the caches. Not by a computed index, which would move the parameters to local memory.
#[inline(always)]
fn select<T>(params: &SparseDecodeParams, scope: usize, of_scope: impl Fn(&ScopeParams) -> T) -> T {
    let [first, second] = [of_scope(&params.scopes[0]), of_scope(&params.scopes[1])];
    if scope == 0 { first } else { second }
}

/// An index of a query token's list; what is negative is past all tokens.
///
/// # Safety
/// The list has it.
#[inline(always)]
unsafe fn index_of(params: &SparseDecodeParams, scope: usize, request: u32, position: u32) -> u32 {
    let of_scope = |scope: &ScopeParams| (scope.indices, scope.indices_strides);
    let (indices, [batch_stride, query_stride]) = select(params, scope, of_scope);
    let (batch, query) = divide(request, &params.queries);
    let offset = batch as i64 * batch_stride + query as i64 * query_stride + position as i64;
    // SAFETY: as the caller promises.
    unsafe { memory::ld_global_u32(indices.wrapping_add((offset * 4) as u64)) }
}
