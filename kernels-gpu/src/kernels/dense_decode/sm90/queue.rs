//! The queue of segments: one warp finds out which there are, and all read them from here.

use super::super::segments::{Segment, Segments};
use super::keys::Phase;
use crate::ptx::{memory, special};
use oximla_types::kernels::dense_decode::{SEGMENT_BYTES, SEGMENT_SLOTS, SharedPlan, SplitRecord};
use oximla_types::schedule::BlockRange;

/// Words of a segment after the last one.
const END: [u32; 4] = [u32::MAX; 4];

/// The reading end.
pub struct Reader {
    place: Place,
}

/// Where a segment lies in the queue, by its number in the CTA.
struct Place {
    number: u32,
}

/// Writes all of `segments` and the end, each as soon as there is room for it.
///
/// # Safety
/// One whole warp calls it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn write(mut segments: Segments, lane: u32) {
    let mut place = Place { number: 0 };
    // SAFETY: as the caller promises.
    unsafe {
        loop {
            let segment = segments.next();
            let (first, second) = match segment {
                Some(Segment { request, len, blocks, slot, splits }) => {
                    ([request, len, blocks.begin, blocks.end], [slot, splits.count, 0, 0])
                }
                None => (END, END),
            };
            place.free().wait_for_last();
            if lane == 0 {
                memory::st_shared_u32x4(place.address(), first);
                memory::st_shared_u32x4(place.address() + 16, second);
                place.full().barrier.arrive();
            }
            if segment.is_none() {
                break;
            }
            place.number += 1;
        }
    }
}

impl Reader {
    /// Before the first segment.
    #[inline(always)]
    pub fn new() -> Self {
        Self { place: Place { number: 0 } }
    }

    /// Number of the segment read last.
    #[inline(always)]
    pub fn number(&self) -> u32 {
        self.place.number - 1
    }

    /// Waits for the next segment.
    ///
    /// # Safety
    /// All threads of the CTA but the writing warp's read all segments, after the barriers are initialised.
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
        let ([request, len, begin, end], [slot, count, ..]) = words;
        (request != END[0]).then_some(Segment {
            request,
            len,
            blocks: BlockRange { begin, end },
            slot,
            splits: SplitRecord { first: slot, count },
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
