//! What a block begins, in one word, as the loads keep it in a register.

use super::Format;
use super::gather::of_warp;
use crate::kernels::decode::segments::Segment;
use oximla_types::kernels::decode::BLOCK_TOKENS_PER_WARP;
use oximla_types::kernels::sparse_decode::REQUEST_MASK;

/// What a block begins: [`Start::SEGMENT`] and a query token, nothing, or [`Start::END`], which is no block at all. A segment
/// without keys stands as [`Start::EMPTY`] for a block that is none. In between, whether the block is the first one of two, and
/// which cache the lane's index is for.
#[derive(Clone, Copy)]
pub struct Start(pub(super) u32);

impl Start {
    const SEGMENT: u32 = 1 << 31;
    const EMPTY: u32 = 1 << 30;
    pub(super) const OF_TWO: u32 = 1 << 29;
    const SECOND_OF_TWO: u32 = 1 << 28;
    pub(super) const SECOND_SCOPE: u32 = REQUEST_MASK + 1;
    pub(super) const END: Self = Self(!Self::SECOND_SCOPE);

    /// Before the first block.
    pub const NONE: Self = Self(Self::EMPTY);

    /// What the second block of two begins: nothing.
    pub const SECOND: Self = Self(Self::SECOND_OF_TWO);

    /// What the first block of a segment begins, or that it has none.
    #[inline(always)]
    pub(super) fn of_segment(segment: &Segment) -> Self {
        let empty = if segment.blocks.is_empty() { Self::EMPTY } else { 0 };
        Self(Self::SEGMENT | segment.request | empty)
    }

    /// The same for all lanes, which may tell different caches.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn uniform<F: Format, const WIDE: bool>(self) -> Self {
        // SAFETY: as the caller promises.
        Self(unsafe { of_warp::<F, WIDE>(self.0) })
    }

    /// The same, of whose segment the other roles know.
    #[inline(always)]
    pub(super) fn published(self) -> Self {
        Self(self.0 & !Self::SEGMENT)
    }

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

    /// Which half of the warp looked the block up.
    #[inline(always)]
    pub fn half(self) -> u32 {
        self.0 / Self::SECOND_OF_TWO & 1
    }

    /// Of bits of all lanes, those of the half that looked the block up.
    #[inline(always)]
    pub fn of_warp(self, bits: u32) -> u32 {
        bits >> (BLOCK_TOKENS_PER_WARP * self.half()) & ((1 << BLOCK_TOKENS_PER_WARP) - 1)
    }

    /// Whether there is a second block.
    #[inline(always)]
    pub fn is_of_two(self) -> bool {
        self.0 & Self::OF_TWO != 0
    }

    /// The query token of the segment that begins.
    #[inline(always)]
    pub fn request(self) -> u32 {
        self.0 & REQUEST_MASK
    }

    /// The cache that the lane's index is for.
    #[inline(always)]
    pub(super) fn scope(self) -> u32 {
        self.0 / Self::SECOND_SCOPE & 1
    }
}
