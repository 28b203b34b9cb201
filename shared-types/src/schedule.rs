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
//! Where a request starts on the line follows from a prefix sum of [`SplitKv::request_work`], so that a CTA finds its own piece
//! without a schedule in memory. Host and device call the same functions. All ranges are half-open.

use core::num::NonZeroU32;

/// Keys in a block: the unit of scheduling, and of one step of the kernels.
pub const BLOCK_KEYS: u32 = 64;

/// What starting a request costs, in blocks.
pub const REQUEST_OVERHEAD: u32 = 2;

/// The shortest piece of the work line, in blocks: shorter ones would cost more to combine than they save.
pub const MIN_PAYLOAD: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// How many blocks longer whole requests may take than equal pieces: about what it costs to combine.
pub const COMBINE_COST: u32 = 8;

/// Of how many parts of a piece this may be one.
const COMBINE_SHARE: u32 = 16;

/// Longest work line that the 32-bit arithmetic carries without overflow.
pub const MAX_TOTAL_WORK: u64 = 1 << 31;

/// The division of a work line into equal pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitKv {
    payload: NonZeroU32,
    /// Units that every request takes, where pieces hold whole requests; else 0.
    width: u32,
}

/// What the division follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Sum of [`request_work`] over the requests.
    pub total: u32,
    /// The largest of them.
    pub longest: u32,
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

/// Partitions `first..first + count` that share a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionRange {
    /// The partition with the request's first block.
    pub first: u32,
    /// How many partitions the request is split over; 1 for an unsplit request.
    pub count: u32,
}

impl BlockRange {
    /// Whether there is no block.
    pub const fn is_empty(self) -> bool {
        self.begin >= self.end
    }
}

impl SplitKv {
    /// Cuts a line into at most `partitions` pieces.
    pub const fn new(workload: Workload, partitions: u32) -> Self {
        let partitions = if partitions == 0 { 1 } else { partitions };
        let even = max(workload.total.div_ceil(partitions), MIN_PAYLOAD.get());
        let whole = workload.batch.div_ceil(partitions) * workload.longest;
        let longer = whole.saturating_sub(even);
        let (payload, width) = if longer <= COMBINE_COST && longer <= even / COMBINE_SHARE && whole >= even {
            (whole, workload.longest)
        } else {
            (even, 0)
        };
        match NonZeroU32::new(payload) {
            Some(payload) => Self { payload, width },
            None => Self { payload: MIN_PAYLOAD, width },
        }
    }

    /// Units of the line that a request of `blocks` blocks takes.
    pub const fn request_work(self, blocks: u32) -> u32 {
        if self.width > 0 { self.width } else { request_work(blocks) }
    }

    /// Units of the line in each piece.
    pub const fn payload(self) -> u32 {
        self.payload.get()
    }

    /// First unit of `partition`'s piece.
    pub const fn piece_start(self, partition: u32) -> u32 {
        partition.saturating_mul(self.payload.get())
    }

    /// The blocks that `partition` computes of a request of `blocks` blocks that starts at unit `request_start`.
    ///
    /// A request without keys counts as one block, so that exactly one partition writes its (empty) result.
    pub const fn blocks(self, request_start: u32, blocks: u32, partition: u32) -> BlockRange {
        let first_block = request_start + REQUEST_OVERHEAD;
        let blocks = at_least_one(blocks);
        let begin = self.piece_start(partition).saturating_sub(first_block);
        let end = self.piece_start(partition + 1).saturating_sub(first_block);
        BlockRange { begin: min(begin, blocks), end: min(end, blocks) }
    }

    /// The partitions that share a request of `blocks` blocks that starts at unit `request_start`.
    pub const fn partitions(self, request_start: u32, blocks: u32) -> PartitionRange {
        let first_block = request_start + REQUEST_OVERHEAD;
        let first = first_block / self.payload.get();
        let last = (first_block + at_least_one(blocks) - 1) / self.payload.get();
        PartitionRange { first, count: last - first + 1 }
    }
}

/// Blocks that hold `keys` keys.
pub const fn key_blocks(keys: u32) -> u32 {
    keys.div_ceil(BLOCK_KEYS)
}

/// Units that a request of `blocks` blocks takes by itself.
pub const fn request_work(blocks: u32) -> u32 {
    REQUEST_OVERHEAD + at_least_one(blocks)
}

/// Where `partition` leaves its partial result of `request`.
///
/// From one piece-of-a-request to the next along the line, the partition or the request advances, and neither ever
/// goes back: the sum tells all of them apart.
pub const fn split_slot(partition: u32, request: u32) -> u32 {
    partition + request
}

/// Slots that partial results may need.
pub const fn split_slots(batch: u32, partitions: u32) -> u32 {
    batch + partitions
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
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::{vec, vec::Vec};

    proptest! {
        /// Every block of every request is computed exactly once, in order, by the partitions the request says it has,
        /// and no two partial results share a slot.
        #[test]
        fn every_block_once(
            lengths in prop::collection::vec(0_u32..2000, 1..60),
            partitions in 1_u32..140,
        ) {
            let blocks: Vec<u32> = lengths.iter().map(|&keys| key_blocks(keys)).collect();
            let split = SplitKv::new(workload(&blocks), partitions);
            let total: u32 = blocks.iter().map(|&n| split.request_work(n)).sum();
            prop_assert!(u64::from(split.payload()) * u64::from(partitions) >= u64::from(total));
            let mut used = vec![false; split_slots(blocks.len() as u32, partitions) as usize];
            let mut start = 0;
            for (request, &n) in blocks.iter().enumerate() {
                let owners = split.partitions(start, n);
                prop_assert!(owners.first + owners.count <= partitions);
                let mut next = 0;
                for partition in 0..partitions {
                    let range = split.blocks(start, n, partition);
                    let owner = (owners.first..owners.first + owners.count).contains(&partition);
                    prop_assert_eq!(owner, !range.is_empty());
                    if !owner {
                        continue;
                    }
                    prop_assert_eq!(range.begin, next);
                    next = range.end;
                    let slot = split_slot(partition, request as u32) as usize;
                    prop_assert!(!used[slot]);
                    used[slot] = true;
                }
                prop_assert_eq!(next, n.max(1));
                start += split.request_work(n);
            }
        }
    }

    fn workload(blocks: &[u32]) -> Workload {
        let works = blocks.iter().map(|&n| request_work(n));
        Workload { total: works.clone().sum(), longest: works.max().unwrap_or(0), batch: blocks.len() as u32 }
    }

    #[test]
    fn requests_of_one_length_stay_whole_where_that_costs_little() {
        // 128 requests of 64 blocks: 66 partitions would have 128 units each, whole requests take 132 of 64.
        let split = SplitKv::new(workload(&[64; 128]), 66);
        assert_eq!(split.payload(), 2 * 66);
        assert_eq!(split.partitions(3 * 66, 64), PartitionRange { first: 1, count: 1 });
        // Of 256 blocks: 501 units or 516, more than combining costs.
        assert_eq!(SplitKv::new(workload(&[256; 128]), 66).payload(), 501);
        // A request much longer than the others would make all pieces long.
        assert_eq!(SplitKv::new(workload(&[5, 5, 50]), 3).payload(), 22);
    }

    #[test]
    fn a_line_cut_by_hand() {
        // Requests of 5, 0 and 7 blocks: 7 + 3 + 9 = 19 units, in three pieces of 7.
        let split = SplitKv::new(workload(&[5, 0, 7]), 3);
        assert_eq!(split.payload(), 7);
        assert_eq!(split.partitions(0, 5), PartitionRange { first: 0, count: 1 });
        assert_eq!(split.partitions(7, 0), PartitionRange { first: 1, count: 1 });
        assert_eq!(split.partitions(10, 7), PartitionRange { first: 1, count: 2 });
        assert_eq!(split.blocks(10, 7, 1), BlockRange { begin: 0, end: 2 });
        assert_eq!(split.blocks(10, 7, 2), BlockRange { begin: 2, end: 7 });
    }
}
