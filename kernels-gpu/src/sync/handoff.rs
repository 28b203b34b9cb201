//! Passing one buffer back and forth between two groups of threads.

use super::Barrier;

/// A buffer that `producers` threads fill and `consumers` threads empty, over and over.
///
/// `full` completes when every producer has written, `free` when every consumer has read. The arrival counts follow
/// from the two groups' sizes and stand nowhere else.
#[derive(Clone, Copy)]
pub struct Handoff {
    /// Offset of the `full` barrier in shared memory.
    pub full: u32,
    /// Offset of the `free` barrier.
    pub free: u32,
    /// Threads that fill the buffer.
    pub producers: u32,
    /// Threads that empty it.
    pub consumers: u32,
}

/// A producing thread's end of a [`Handoff`].
pub struct Producer {
    full: Barrier,
    free: Barrier,
    uses: u32,
}

/// A consuming thread's end of a [`Handoff`].
pub struct Consumer {
    full: Barrier,
    free: Barrier,
    uses: u32,
}

impl Handoff {
    /// Initialises both barriers.
    ///
    /// # Safety
    /// As for [`Barrier::init`], for both offsets from `shared`.
    #[inline(always)]
    pub unsafe fn init(self, shared: u32) {
        // SAFETY: as the caller promises.
        unsafe {
            Barrier::at(shared + self.full).init(self.producers);
            Barrier::at(shared + self.free).init(self.consumers);
        }
    }

    /// The end for a producing thread.
    ///
    /// # Safety
    /// The barriers at these offsets from `shared` are initialised, and `producers` threads take a producing end.
    #[inline(always)]
    pub unsafe fn producer(self, shared: u32) -> Producer {
        // SAFETY: as the caller promises.
        let (full, free) = unsafe { (Barrier::at(shared + self.full), Barrier::at(shared + self.free)) };
        Producer { full, free, uses: 0 }
    }

    /// The end for a consuming thread.
    ///
    /// # Safety
    /// As for [`Self::producer`], with `consumers` threads.
    #[inline(always)]
    pub unsafe fn consumer(self, shared: u32) -> Consumer {
        // SAFETY: as the caller promises.
        let (full, free) = unsafe { (Barrier::at(shared + self.full), Barrier::at(shared + self.free)) };
        Consumer { full, free, uses: 0 }
    }
}

impl Producer {
    /// Waits until the consumers have emptied the buffer; the first time it is empty already.
    #[inline(always)]
    pub fn acquire(&self) {
        self.free.wait((self.uses & 1) ^ 1);
    }

    /// Declares this thread's part of the buffer written.
    #[inline(always)]
    pub fn publish(&mut self) {
        // SAFETY: `acquire` made sure that the previous phase is over; this is this thread's one arrival in this one.
        unsafe { self.full.arrive() };
        self.uses += 1;
    }
}

impl Consumer {
    /// Waits until the producers have filled the buffer.
    #[inline(always)]
    pub fn wait(&self) {
        self.full.wait(self.uses & 1);
    }

    /// Declares this thread done with the buffer.
    #[inline(always)]
    pub fn release(&mut self) {
        // SAFETY: `wait` made sure that the buffer was full; this is this thread's one arrival in this phase.
        unsafe { self.free.arrive() };
        self.uses += 1;
    }
}
