//! The queue of segments: one warp finds out which there are, and all read them from here.

use super::super::segments::{Requests, Segment, Segments};
use super::Decode;
use super::keys::Phase;
use crate::ptx::{memory, special};
use core::marker::PhantomData;
use oximla_types::kernels::decode::{SEGMENT_BYTES, SEGMENT_SLOTS, SplitRecord};
use oximla_types::schedule::BlockRange;

/// Words of a segment after the last one.
const END: [u32; 4] = [u32::MAX; 4];

/// The reading end.
pub struct Reader<D> {
    place: Place<D>,
}

/// The writing end.
pub struct Writer<D> {
    place: Place<D>,
}

/// Where a segment lies in the queue, by its number in the CTA.
struct Place<D> {
    number: u32,
    kernel: PhantomData<D>,
}

/// Writes all of `segments` and the end, each as soon as there is room for it.
///
/// # Safety
/// One whole warp calls it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn write_all<D: Decode>(mut segments: Segments<impl Requests>, lane: u32) {
    let mut queue = Writer::<D>::new();
    // SAFETY: as the caller promises.
    unsafe {
        loop {
            let segment = if D::FUSED { segments.next_split() } else { segments.next() };
            queue.write(segment, lane);
            if segment.is_none() {
                break;
            }
        }
    }
}

impl<D: Decode> Writer<D> {
    /// Before the first segment.
    #[inline(always)]
    pub fn new() -> Self {
        Self { place: Place::first() }
    }

    /// Before segment `number`.
    #[inline(always)]
    pub fn before(number: u32) -> Self {
        Self { place: Place { number, kernel: PhantomData } }
    }

    /// Writes the next segment, or the end, as soon as there is room for it.
    ///
    /// # Safety
    /// One whole warp calls it, after the barriers are initialised.
    #[inline(always)]
    pub unsafe fn write(&mut self, segment: Option<Segment>, lane: u32) {
        self.place.free().wait_for_last();
        if lane == 0 {
            // SAFETY: the slot is free.
            unsafe {
                store(segment, self.place.address());
                self.place.full().barrier.arrive();
            }
        }
        self.place.number += 1;
    }
}

/// Writes segment `number`, or the end, as soon as there is room for it: as it was stored before at `address`.
///
/// # Safety
/// As for [`Writer::write`]; the warp's first lane has stored it.
#[inline(always)]
pub unsafe fn write_stored<D: Decode>(number: u32, address: u32, lane: u32) {
    let place = Place::<D> { number, kernel: PhantomData };
    place.free().wait_for_last();
    if lane == 0 {
        // SAFETY: the slot is free; the rest is as the caller promises.
        unsafe {
            let first = memory::ld_shared_u32x4(address);
            memory::st_shared_u32x4(place.address(), first);
            let second = memory::ld_shared_u32x4(address + 16);
            memory::st_shared_u32x4(place.address() + 16, second);
            place.full().barrier.arrive();
        }
    }
}

/// Stores a segment, or the end, as the queue has it.
///
/// # Safety
/// [`SEGMENT_BYTES`] of shared memory at `address` are the thread's.
#[inline(always)]
pub unsafe fn store(segment: Option<Segment>, address: u32) {
    let (first, second) = match segment {
        Some(Segment { request, len, blocks, slot, splits }) => {
            ([request, len, blocks.begin, blocks.end], [slot, splits.count, 0, 0])
        }
        None => (END, END),
    };
    // SAFETY: as the caller promises.
    unsafe {
        memory::st_shared_u32x4(address, first);
        memory::st_shared_u32x4(address + 16, second);
    }
}

/// Whether a segment was stored, not the end.
///
/// # Safety
/// It was stored at `address`, which the thread may read.
#[inline(always)]
unsafe fn is_segment(address: u32) -> bool {
    // SAFETY: as the caller promises.
    unsafe { memory::ld_shared_u32(address) != END[0] }
}

/// The segment that was stored.
///
/// # Safety
/// As for [`is_segment`]; it was one.
#[inline(always)]
unsafe fn load<D: Decode>(address: u32) -> Segment {
    // SAFETY: as the caller promises.
    let words = unsafe { (memory::ld_shared_u32x4(address), memory::ld_shared_u32x4(address + 16)) };
    let ([request, len, begin, end], [slot, count, ..]) = words;
    // What the readers know at compile time, they need not ask for.
    let (begin, slot, count) = if D::SPLITS { (begin, slot, count) } else { (0, 0, 1) };
    Segment {
        request,
        len,
        blocks: BlockRange { begin, end },
        slot,
        splits: SplitRecord { first: slot, count },
    }
}

impl<D: Decode> Reader<D> {
    /// Before the first segment.
    #[inline(always)]
    pub fn new() -> Self {
        Self { place: Place::first() }
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
        // SAFETY: as the caller promises.
        unsafe {
            let segment = self.peek();
            self.release();
            segment
        }
    }

    /// Waits for the next segment, and leaves it in the queue until [`Self::release`].
    ///
    /// # Safety
    /// As for [`Self::next`].
    #[inline(always)]
    pub unsafe fn peek(&self) -> Option<Segment> {
        self.place.full().wait();
        // SAFETY: the writer has filled the slot.
        unsafe { is_segment(self.place.address()).then(|| self.reread()) }
    }

    /// The segment that was peeked at, read anew.
    ///
    /// # Safety
    /// It has been peeked at, not been released, and is not the end.
    #[inline(always)]
    pub unsafe fn reread(&self) -> Segment {
        // SAFETY: the writer has filled the slot.
        unsafe { load::<D>(self.place.address()) }
    }

    /// Goes on to the segment after the one that was peeked at, whose slot may be written anew.
    ///
    /// # Safety
    /// As for [`Self::next`], once for each segment.
    #[inline(always)]
    pub unsafe fn release(&mut self) {
        // SAFETY: as the caller promises.
        unsafe { self.place.free().barrier.arrive() };
        self.place.number += 1;
    }

    /// Number of the segment that the next [`Self::peek`] tells of.
    #[inline(always)]
    pub fn peeked(&self) -> u32 {
        self.place.number
    }
}

impl<D: Decode> Place<D> {
    /// Of the first segment.
    #[inline(always)]
    fn first() -> Self {
        Self { number: 0, kernel: PhantomData }
    }

    /// Address of the segment.
    #[inline(always)]
    fn address(&self) -> u32 {
        special::dynamic_shared() + D::PLAN.segments + self.number % SEGMENT_SLOTS * SEGMENT_BYTES
    }

    /// Completes when the segment is written.
    #[inline(always)]
    fn full(&self) -> Phase {
        Phase::of(D::PLAN.segment_full, SEGMENT_SLOTS, self.number)
    }

    /// Completes when all threads have read the segment.
    #[inline(always)]
    fn free(&self) -> Phase {
        Phase::of(D::PLAN.segment_free, SEGMENT_SLOTS, self.number)
    }
}
