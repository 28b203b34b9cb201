//! The queue of segments: one warp finds out which there are, and all read them from here.

use super::super::segments::{Segment, Segments};
use super::keys::Phase;
use crate::ptx::{memory, special};
use oximla_types::kernels::dense_decode::{SEGMENT_BYTES, SEGMENT_SLOTS, SharedPlan, SplitRecord};
use oximla_types::schedule::BlockRange;

/// Words of a segment after the last one.
const END: [u32; 4] = [u32::MAX; 4];

/// The writing end.
pub struct Writer<'a> {
    segments: Segments<'a>,
    place: Place,
    is_done: bool,
}

/// The reading end.
pub struct Reader {
    place: Place,
}

/// Where a segment lies in the queue, by its number in the CTA.
struct Place {
    number: u32,
}

impl<'a> Writer<'a> {
    /// Before the first of `segments`.
    #[inline(always)]
    pub fn new(segments: Segments<'a>) -> Self {
        Self { segments, place: Place { number: 0 }, is_done: false }
    }

    /// Writes the next segment, or the end, as soon as there is room for it. Does nothing after the end.
    ///
    /// # Safety
    /// The whole warp calls it, the only one that writes, after the barriers are initialised.
    #[inline(always)]
    pub unsafe fn write_next(&mut self, lane: u32) {
        if self.is_done {
            return;
        }
        // SAFETY: as the caller promises.
        unsafe {
            let segment = self.segments.next();
            self.place.free().wait_for_last();
            let (first, second) = match segment {
                Some(Segment { request, len, blocks, slot, splits }) => {
                    ([request, len, blocks.begin, blocks.end], [slot, splits.first, splits.count, 0])
                }
                None => (END, END),
            };
            self.is_done = segment.is_none();
            if lane == 0 {
                memory::st_shared_u32x4(self.place.address(), first);
                memory::st_shared_u32x4(self.place.address() + 16, second);
                self.place.full().barrier.arrive();
            }
        }
        self.place.number += 1;
    }
}

impl Reader {
    /// Before the first segment.
    #[inline(always)]
    pub fn new() -> Self {
        Self { place: Place { number: 0 } }
    }

    /// Waits for the next segment.
    ///
    /// # Safety
    /// All threads of the CTA read all segments, after the barriers are initialised.
    #[inline(always)]
    pub unsafe fn next(&mut self) -> Option<Segment> {
        self.place.full().wait();
        // SAFETY: the writer has filled the slot.
        let words = unsafe {
            let first = memory::ld_shared_u32x4(self.place.address());
            let second = memory::ld_shared_u32x4(self.place.address() + 16);
            self.place.free().barrier.arrive();
            (first, second)
        };
        self.place.number += 1;
        let ([request, len, begin, end], [slot, first, count, _]) = words;
        (request != END[0]).then_some(Segment {
            request,
            len,
            blocks: BlockRange { begin, end },
            slot,
            splits: SplitRecord { first, count },
        })
    }
}

impl Place {
    /// Address of the segment.
    #[inline(always)]
    fn address(&self) -> u32 {
        special::dynamic_shared() + SharedPlan::SEGMENTS + self.number % SEGMENT_SLOTS * SEGMENT_BYTES
    }

    /// Completes when the segment is written.
    #[inline(always)]
    fn full(&self) -> Phase {
        Phase::of(SharedPlan::SEGMENT_FULL, SEGMENT_SLOTS, self.number)
    }

    /// Completes when all threads have read the segment.
    #[inline(always)]
    fn free(&self) -> Phase {
        Phase::of(SharedPlan::SEGMENT_FREE, SEGMENT_SLOTS, self.number)
    }
}
