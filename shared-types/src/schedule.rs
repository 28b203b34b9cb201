//! Split-KV: how the key blocks of a batch are divided among partitions (columns of CTAs that run side by side).
//!
//! All requests are laid end to end on one *work line*. Request `i` takes [`REQUEST_OVERHEAD`] units, which stand for
//! what starting a request costs, then one unit per key block. The line is cut into equal pieces of
//! [`SplitKv::payload`] units, and partition `p` computes the blocks that lie in piece `p`. A request whose blocks lie
//! in several pieces is *split*: each piece leaves a partial result, and a second kernel combines them.
//!
//! ```text
//! line       |ov|b0 b1 b2 b3 b4|ov|b0|ov|b0 b1 b2 b3 b4 b5 b6|
//! pieces     |   partition 0   |   partition 1   | partition 2 …
//! ```
//!
//! Where requests are about as long as each other, all are given the length of the longest and pieces hold whole
//! requests, if that takes hardly longer than equal pieces: nothing is left to combine then.
//!
//! So where a request is split follows from the whole batch, and with it the order of its sums. Under
//! [`Determinism::BatchInvariant`] it follows from the request's own length: it is cut into *chunks* of
//! [`chunk_blocks`], each of which takes its own overhead on the line and leaves a partial result of its own. A
//! partition computes the chunks whose first block lies in its piece, which may be several of one request.
//!
//! Where a request starts on the line follows from a prefix sum of [`SplitKv::request_work`], so that a CTA finds its
//! own piece without a schedule in memory: [`SplitKv::enter`], then [`SplitKv::take`] chunk by chunk. Host and device
//! call the same functions. All ranges are half-open.

use core::num::NonZeroU32;

/// Keys in a block: the unit of scheduling, and of one step of the kernels.
pub const BLOCK_KEYS: u32 = 64;

/// What starting a request costs, in blocks.
pub const REQUEST_OVERHEAD: u32 = 2;

/// The shortest piece of the work line of dense decode, in blocks: shorter ones would cost more to combine than they save.
pub const MIN_PAYLOAD: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// How many blocks longer whole requests may take than equal pieces: about what it costs to begin and end the parts of
/// split ones, and to combine them.
pub const SPLIT_COST: u32 = 15;

/// Of how many parts of a piece this may be one.
const SPLIT_SHARE: u32 = 16;

/// Blocks of a chunk at least: long enough that starting it and combining its result cost little beside it.
pub const MIN_CHUNK: u32 = 16;

/// Chunks of a request at most: enough for one long request to keep a GPU busy, few enough that partial results do not
/// take much memory.
pub const MAX_CHUNKS: u32 = 64;

/// Requests on the line at most: [`Cursor`] counts chunks in 32 bits.
pub const MAX_REQUESTS: u32 = u32::MAX / MAX_CHUNKS;

/// Longest work line that the 32-bit arithmetic carries without overflow.
pub const MAX_TOTAL_WORK: u64 = 1 << 31;

/// What the bits of a result may depend on. They never depend on the order of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Determinism {
    /// The same call gives the same bits: those of a request may depend on the other requests of its batch.
    #[default]
    RunToRun,
    /// A request gives the same bits in every batch and at every place in it.
    BatchInvariant,
}

/// The division of a work line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitKv {
    payload: NonZeroU32,
    /// Units that every request takes, where pieces hold whole requests; else 0.
    width: u32,
    /// As of [`Workload`].
    chunk_slots: u32,
}

/// What the division follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// [`Determinism::chunk_slots`].
    pub chunk_slots: u32,
    /// Sum of [`Determinism::request_work`] over the requests.
    pub total: u32,
    /// The largest of them.
    pub longest: u32,
    /// The shortest piece, in blocks; 1 at least.
    pub min_payload: u32,
    /// Requests.
    pub batch: u32,
}

/// Blocks `begin..end` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// First block.
    pub begin: u32,
    /// One past the last block.
    pub end: u32,
}

/// Slots `first..first + count`, which hold the partial results of a request in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// Slot of the request's first blocks.
    pub first: u32,
    /// How many there are; 1 for an unsplit request, whose slot stays empty.
    pub count: u32,
}

/// What a partition computes of a request at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The blocks, never none.
    pub blocks: BlockRange,
    /// Where their partial result goes, if the request is split; its others are in the slots before and behind.
    pub slot: u32,
    /// How many parts the request is split into; 1 for an unsplit request, whose slot stays empty.
    pub splits: u32,
}

/// How far along the line a partition is. Two words, as kernels keep several in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The next chunk: its request times [`MAX_CHUNKS`] plus its index; where pieces cut requests, the index is 0.
    chunk: u32,
    /// Unit where the chunk, with its overhead, starts; where pieces cut requests, where the request does.
    start: u32,
}

impl Cursor {
    /// Before the first chunk of a request, of which nothing else is asked.
    pub const fn before(request: u32) -> Self {
        Self { chunk: request * MAX_CHUNKS, start: 0 }
    }

    /// The request of the next chunk.
    pub const fn request(self) -> u32 {
        self.chunk / MAX_CHUNKS
    }
}

/// Where a partition starts, as memory holds it, so that one computation serves the decodes of all layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Place {
    /// [`Cursor`]: the first chunk.
    pub chunk: u32,
    /// [`Cursor`]: its unit.
    pub start: u32,
    /// [`SplitKv`]: units of a piece.
    pub payload: u32,
    /// [`SplitKv`]: units of a request, or 0.
    pub width: u32,
}

impl Place {
    /// The place of a partition whose first chunk is at `cursor`.
    pub const fn new(split: SplitKv, cursor: Cursor) -> Self {
        let SplitKv { payload, width, .. } = split;
        Self { chunk: cursor.chunk, start: cursor.start, payload: payload.get(), width }
    }

    /// The place of a partition that has a split of `request` and nothing else.
    pub const fn of_split(request: u32) -> Self {
        let Cursor { chunk, start } = Cursor::before(request);
        Self { chunk, start, payload: 0, width: 0 }
    }

    /// The place of a partition that takes as many whole requests as the others, each of at most `longest` blocks.
    pub const fn of_whole_requests(partition: u32, partitions: u32, requests: u32, longest: u32) -> Self {
        let partitions = if partitions == 0 { 1 } else { partitions };
        let width = Determinism::RunToRun.request_work(longest);
        let each = requests.div_ceil(partitions);
        let first = partition * each;
        Self { chunk: first * MAX_CHUNKS, start: first * width, payload: each * width, width }
    }

    /// What the place was made from. Of lengths that have changed since, chunks may come out empty or more than once;
    /// slots still are some that there are.
    pub const fn restore(self, chunk_slots: u32) -> (SplitKv, Cursor) {
        let payload = match NonZeroU32::new(self.payload) {
            Some(payload) => payload,
            None => MIN_PAYLOAD,
        };
        let split = SplitKv { payload, width: self.width, chunk_slots };
        (split, Cursor { chunk: self.chunk, start: self.start })
    }
}

/// How requests of one length are divided, all of them: what the host knows before any kernel runs, so that kernels find their
/// parts without looking at other requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct EqualSplit {
    /// Units of a piece; 0 where the lengths are not known.
    payload: u32,
    /// [`SplitKv`]: units of a request, or 0.
    width: u32,
    /// As of [`Workload`].
    chunk_slots: u32,
    /// Blocks of each request.
    blocks: u32,
}

impl EqualSplit {
    /// The lengths are in memory.
    pub const UNKNOWN: Self = Self { payload: 0, width: 0, chunk_slots: 0, blocks: 0 };

    /// Of requests of `blocks` blocks each, for so many partitions; the workload is theirs.
    pub const fn new(workload: Workload, partitions: u32, blocks: u32) -> Self {
        let SplitKv { payload, width, chunk_slots } = SplitKv::new(workload, partitions);
        Self { payload: payload.get(), width, chunk_slots, blocks }
    }

    /// Whether the lengths are known.
    pub const fn is_known(self) -> bool {
        self.payload > 0
    }

    /// Whether it is known that no request is split.
    pub const fn is_whole(self) -> bool {
        if self.chunk_slots > 0 { chunks(self.blocks) == 1 } else { self.width > 0 }
    }

    /// Where a partition starts, of so many requests.
    pub const fn place(self, partition: u32, requests: u32) -> Place {
        let split = self.split();
        let unit = split.piece_start(partition);
        let before = match NonZeroU32::new(split.request_work(self.blocks)) {
            Some(work) => unit / work.get(),
            None => 0,
        };
        let request = min(before, requests);
        let start = request * split.request_work(self.blocks);
        Place::new(split, split.enter(partition, request, start, self.blocks))
    }

    /// The slots of a request.
    pub const fn splits(self, request: u32) -> SlotRange {
        let split = self.split();
        split.splits(request, request * split.request_work(self.blocks), self.blocks)
    }

    const fn split(self) -> SplitKv {
        let payload = match NonZeroU32::new(self.payload) {
            Some(payload) => payload,
            None => MIN_PAYLOAD,
        };
        SplitKv { payload, width: self.width, chunk_slots: self.chunk_slots }
    }
}

impl BlockRange {
    /// Whether there is no block.
    pub const fn is_empty(self) -> bool {
        self.begin >= self.end
    }
}

impl Determinism {
    /// Units that a request of `blocks` blocks takes by itself. One without keys counts as one block, so that exactly
    /// one partition writes its (empty) result.
    pub const fn request_work(self, blocks: u32) -> u32 {
        let overheads = match self {
            Self::RunToRun => 1,
            Self::BatchInvariant => chunks(blocks),
        };
        overheads * REQUEST_OVERHEAD + at_least_one(blocks)
    }

    /// Slots set aside for each request, of up to `max_blocks` blocks, where requests are cut into chunks; else 0.
    pub const fn chunk_slots(self, max_blocks: u32) -> u32 {
        match self {
            Self::RunToRun => 0,
            // Not the chunks of the longest request, as fewer blocks may make more chunks.
            Self::BatchInvariant => min(at_least_one(max_blocks).div_ceil(MIN_CHUNK), MAX_CHUNKS),
        }
    }

    /// Slots that partial results may need.
    pub const fn slots(self, batch: u32, partitions: u32, max_blocks: u32) -> u64 {
        match self {
            Self::RunToRun => batch as u64 + partitions as u64,
            Self::BatchInvariant => batch as u64 * self.chunk_slots(max_blocks) as u64,
        }
    }
}

impl SplitKv {
    /// Cuts a line into at most `partitions` pieces.
    pub const fn new(workload: Workload, partitions: u32) -> Self {
        let partitions = if partitions == 0 { 1 } else { partitions };
        let even = max(workload.total.div_ceil(partitions), workload.min_payload);
        let whole = workload.batch.div_ceil(partitions) * workload.longest;
        let longer = whole.saturating_sub(even);
        let keeps_whole = workload.chunk_slots == 0
            && longer <= SPLIT_COST
            && longer <= even / SPLIT_SHARE
            && whole >= even;
        let (payload, width) = if keeps_whole { (whole, workload.longest) } else { (even, 0) };
        let payload = match NonZeroU32::new(payload) {
            Some(payload) => payload,
            None => MIN_PAYLOAD,
        };
        Self { payload, width, chunk_slots: workload.chunk_slots }
    }

    /// Units of the line that a request of `blocks` blocks takes.
    pub const fn request_work(self, blocks: u32) -> u32 {
        if self.chunk_slots > 0 {
            Determinism::BatchInvariant.request_work(blocks)
        } else if self.width > 0 {
            self.width
        } else {
            Determinism::RunToRun.request_work(blocks)
        }
    }

    /// Units of the line in each piece.
    pub const fn payload(self) -> u32 {
        self.payload.get()
    }

    /// First unit of `partition`'s piece.
    pub const fn piece_start(self, partition: u32) -> u32 {
        partition.saturating_mul(self.payload.get())
    }

    /// The slots of `request`, which has `blocks` blocks and starts at unit `request_start`.
    pub const fn splits(self, request: u32, request_start: u32, blocks: u32) -> SlotRange {
        if self.chunk_slots > 0 {
            return SlotRange { first: request * self.chunk_slots, count: chunks(blocks) };
        }
        let first_block = request_start + REQUEST_OVERHEAD;
        let first = first_block / self.payload.get();
        let last = (first_block + at_least_one(blocks) - 1) / self.payload.get();
        SlotRange { first: split_slot(first, request), count: last - first + 1 }
    }

    /// The first chunk of `partition`, or of a later one. The first unit of the partition's piece falls into `request`,
    /// which has `blocks` blocks and starts at unit `request_start`.
    pub const fn enter(self, partition: u32, request: u32, request_start: u32, blocks: u32) -> Cursor {
        let before = self.piece_start(partition).saturating_sub(request_start + REQUEST_OVERHEAD);
        let is_past = if self.chunk_slots > 0 {
            let chunk = REQUEST_OVERHEAD + chunk_blocks(blocks);
            let index = before.div_ceil(chunk);
            if index < chunks(blocks) {
                return Cursor { chunk: request * MAX_CHUNKS + index, start: request_start + index * chunk };
            }
            true
        } else {
            before >= at_least_one(blocks)
        };
        if is_past {
            let start = request_start + self.request_work(blocks);
            return Cursor { chunk: (request + 1) * MAX_CHUNKS, start };
        }
        Cursor { chunk: request * MAX_CHUNKS, start: request_start }
    }

    /// Whether the chunk at `cursor` is `partition`'s, or one of a partition before it: its first block lies in its
    /// piece.
    pub const fn has(self, partition: u32, cursor: Cursor) -> bool {
        cursor.start + REQUEST_OVERHEAD < self.piece_start(partition + 1)
    }

    /// The chunk of `partition` at `cursor`, whose request has `blocks` blocks, and the cursor behind it.
    pub const fn take(self, partition: u32, cursor: Cursor, blocks: u32) -> (Chunk, Cursor) {
        let (request, all) = (cursor.request(), at_least_one(blocks));
        let first_block = cursor.start + REQUEST_OVERHEAD;
        if self.chunk_slots > 0 {
            let (index, length) = (cursor.chunk % MAX_CHUNKS, chunk_blocks(blocks));
            let begin = index * length;
            let end = min(begin + length, all);
            let chunk = if end < all { cursor.chunk + 1 } else { (request + 1) * MAX_CHUNKS };
            return (
                Chunk {
                    blocks: BlockRange { begin, end },
                    slot: request * self.chunk_slots + index,
                    splits: chunks(blocks),
                },
                Cursor { chunk, start: first_block + end.saturating_sub(begin) },
            );
        }
        let range = BlockRange {
            begin: self.piece_start(partition).saturating_sub(first_block),
            end: min(self.piece_start(partition + 1) - first_block, all),
        };
        let splits = self.splits(request, cursor.start, blocks).count;
        let start = cursor.start + self.request_work(blocks);
        (
            Chunk { blocks: range, slot: split_slot(partition, request), splits },
            Cursor { chunk: (request + 1) * MAX_CHUNKS, start },
        )
    }
}

/// The blocks of split `index` of a request of `blocks` blocks that is cut into up to `most` splits, and how many there are: at least
/// one. They are equally long, but for the last one, which may be shorter; behind it there is nothing.
pub const fn equal_share(blocks: u32, index: u32, most: NonZeroU32) -> (BlockRange, u32) {
    let length = at_least_one(blocks).div_ceil(most.get());
    let count = match NonZeroU32::new(length) {
        Some(length) => at_least_one(blocks).div_ceil(length.get()),
        None => 1,
    };
    (BlockRange { begin: index * length, end: min((index + 1) * length, blocks) }, count)
}

/// Blocks that hold `keys` keys.
pub const fn key_blocks(keys: u32) -> u32 {
    keys.div_ceil(BLOCK_KEYS)
}

/// Blocks of each chunk of a request of `blocks` blocks, but for the last, which may be shorter: a function of nothing
/// else.
pub const fn chunk_blocks(blocks: u32) -> u32 {
    max(MIN_CHUNK, blocks.div_ceil(MAX_CHUNKS))
}

/// Chunks of a request of `blocks` blocks.
const fn chunks(blocks: u32) -> u32 {
    at_least_one(blocks).div_ceil(chunk_blocks(blocks))
}

/// Where `partition` leaves its partial result of `request`, of which it computes one part.
///
/// From one piece-of-a-request to the next along the line, the partition or the request advances, and neither ever
/// goes back: the sum tells all of them apart.
const fn split_slot(partition: u32, request: u32) -> u32 {
    partition + request
}

const fn at_least_one(blocks: u32) -> u32 {
    if blocks == 0 { 1 } else { blocks }
}

const fn max(a: u32, b: u32) -> u32 {
    if a > b { a } else { b }
}

const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests;
