//! Divisions of random batches, and some by hand.

extern crate std;
use super::*;
use proptest::prelude::*;
use std::{vec, vec::Vec};

/// A chunk, its request and the partition that computes it.
type Placed = (u32, u32, Chunk);

fn chunk(begin: u32, end: u32, slot: u32, splits: u32) -> Chunk {
    Chunk { blocks: BlockRange { begin, end }, slot, splits }
}

/// The chunks of all partitions, as each of them finds its own.
fn walk(split: SplitKv, blocks: &[u32], partitions: u32) -> Vec<Placed> {
    let mut chunks = Vec::new();
    for partition in 0..partitions {
        let (mut request, mut start) = (0, 0);
        while let Some(&blocks) = blocks.get(request) {
            if start + split.request_work(blocks) > split.piece_start(partition) {
                break;
            }
            start += split.request_work(blocks);
            request += 1;
        }
        let Some(&entered) = blocks.get(request) else { continue };
        let mut cursor = split.enter(partition, request as u32, start, entered);
        while let Some(&blocks) =
            blocks.get(cursor.request() as usize).filter(|_| split.has(partition, cursor))
        {
            let (chunk, behind) = split.take(partition, cursor, blocks);
            chunks.push((partition, cursor.request(), chunk));
            cursor = behind;
        }
    }
    chunks
}

fn longest(blocks: &[u32]) -> u32 {
    blocks.iter().copied().max().unwrap_or(0)
}

fn workload(determinism: Determinism, blocks: &[u32]) -> Workload {
    let works = blocks.iter().map(|&n| determinism.request_work(n));
    Workload {
        chunk_slots: determinism.chunk_slots(longest(blocks)),
        total: works.clone().sum(),
        longest: works.max().unwrap_or(0),
        min_payload: MIN_PAYLOAD.get(),
        batch: blocks.len() as u32,
    }
}

fn run_to_run(blocks: &[u32], partitions: u32) -> SplitKv {
    SplitKv::new(workload(Determinism::RunToRun, blocks), partitions)
}

fn batches() -> impl Strategy<Value = Vec<u32>> {
    let length = prop_oneof![4 => 0_u32..40, 2 => 0_u32..200, 1 => 900_u32..2000];
    prop::collection::vec(length, 1..60)
}

proptest! {
    /// Every block of every request is computed exactly once; the slots of a request hold its parts in order, and no
    /// two partial results share one.
    #[test]
    fn every_block_once(
        blocks in batches(),
        partitions in 1_u32..140,
        min_payload in 1..=MIN_PAYLOAD.get(),
        determinism in prop_oneof![Just(Determinism::RunToRun), Just(Determinism::BatchInvariant)],
    ) {
        let workload = Workload { min_payload, ..workload(determinism, &blocks) };
        let split = SplitKv::new(workload, partitions);
        let total: u32 = blocks.iter().map(|&n| split.request_work(n)).sum();
        prop_assert!(u64::from(split.payload()) * u64::from(partitions) >= u64::from(total));
        let mut used = vec![false; determinism.slots(workload.batch, partitions, longest(&blocks)) as usize];
        let mut chunks = walk(split, &blocks, partitions);
        chunks.sort_by_key(|&(_, request, chunk)| (request, chunk.blocks.begin));
        let mut chunks = chunks.into_iter().peekable();
        let mut start = 0;
        for (request, &n) in (0..).zip(&blocks) {
            let splits = split.splits(request, start, n);
            start += split.request_work(n);
            let (mut next, mut parts) = (0, 0);
            while let Some((_, _, chunk)) = chunks.next_if(|chunk| chunk.1 == request) {
                prop_assert_eq!(chunk.blocks.begin, next);
                prop_assert!(!chunk.blocks.is_empty());
                next = chunk.blocks.end;
                prop_assert_eq!(chunk.splits, splits.count);
                prop_assert_eq!(chunk.slot, splits.first + parts);
                prop_assert!(!used[chunk.slot as usize]);
                used[chunk.slot as usize] = true;
                parts += 1;
            }
            prop_assert_eq!(next, n.max(1));
            prop_assert_eq!(parts, splits.count);
        }
        prop_assert!(chunks.next().is_none());
    }

    /// A request is cut the same way alone and among others, wherever it stands, on a GPU of any size.
    #[test]
    fn chunks_do_not_depend_on_the_batch(
        mut blocks in batches(),
        request in 0_u32..2000,
        place in any::<prop::sample::Index>(),
        partitions in 1_u32..140,
    ) {
        let of = |blocks: &[u32], request, partitions| {
            let split = SplitKv::new(workload(Determinism::BatchInvariant, blocks), partitions);
            let mut chunks: Vec<(BlockRange, u32)> = walk(split, blocks, partitions)
                .into_iter()
                .filter(|chunk| chunk.1 == request)
                .map(|(_, _, chunk)| (chunk.blocks, chunk.splits))
                .collect();
            chunks.sort_by_key(|chunk| chunk.0.begin);
            chunks
        };
        let place = place.index(blocks.len());
        blocks.insert(place, request);
        prop_assert_eq!(of(&[request], 0, 66), of(&blocks, place as u32, partitions));
    }

    /// No partition has more than its piece and a chunk to do.
    #[test]
    fn partitions_are_about_equally_busy(blocks in batches(), partitions in 1_u32..140) {
        let split = SplitKv::new(workload(Determinism::BatchInvariant, &blocks), partitions);
        let mut busy = vec![0; partitions as usize];
        for (partition, _, chunk) in walk(split, &blocks, partitions) {
            busy[partition as usize] += REQUEST_OVERHEAD + chunk.blocks.end - chunk.blocks.begin;
        }
        let longest_chunk = blocks.iter().map(|&n| chunk_blocks(n)).max().unwrap_or(0);
        prop_assert!(busy.iter().all(|&busy| busy < split.payload() + REQUEST_OVERHEAD + longest_chunk));
    }
}

#[test]
fn requests_of_one_length_stay_whole_where_that_costs_little() {
    // 128 requests of 64 blocks: 66 partitions would have 128 units each, whole requests take 132 of 64.
    let split = run_to_run(&[64; 128], 66);
    assert_eq!(split.payload(), 2 * 66);
    assert_eq!(split.splits(3, 3 * 66, 64), SlotRange { first: 3 + 1, count: 1 });
    // Of 256 blocks: 501 units or 516, as many more as splitting costs.
    assert_eq!(run_to_run(&[256; 128], 66).payload(), 2 * 258);
    // Of 270 blocks: 528 units or 544.
    assert_eq!(run_to_run(&[270; 128], 66).payload(), 528);
    // A request much longer than the others would make all pieces long.
    assert_eq!(run_to_run(&[5, 5, 50], 3).payload(), 22);
}

#[test]
fn a_line_cut_by_hand() {
    // Requests of 5, 0 and 7 blocks: 7 + 3 + 9 = 19 units, in three pieces of 7.
    let split = run_to_run(&[5, 0, 7], 3);
    assert_eq!(split.payload(), 7);
    let expected = [
        (0, 0, chunk(0, 5, 0, 1)),
        (1, 1, chunk(0, 1, 2, 1)),
        (1, 2, chunk(0, 2, 3, 2)),
        (2, 2, chunk(2, 7, 4, 2)),
    ];
    assert_eq!(walk(split, &[5, 0, 7], 3), expected);
}

#[test]
fn chunks_cut_by_hand() {
    // Requests of 33 and 1 blocks: chunks of 16, 16, 1 and 1, which start at units 0, 18, 36 and 39 of 42.
    let blocks = [33, 1];
    let split = SplitKv::new(workload(Determinism::BatchInvariant, &blocks), 2);
    assert_eq!((split.payload(), split.request_work(33)), (21, 39));
    let expected = [
        (0, 0, chunk(0, 16, 0, 3)),
        (0, 0, chunk(16, 32, 1, 3)),
        (1, 0, chunk(32, 33, 2, 3)),
        (1, 1, chunk(0, 1, 3, 1)),
    ];
    assert_eq!(walk(split, &blocks, 2), expected);
}

#[test]
fn long_requests_have_long_chunks() {
    assert_eq!([0, 1, 1024, 1025, 2048, 10_000].map(chunk_blocks), [16, 16, 16, 17, 32, 157]);
    assert_eq!([0, 1, 16, 17, 1024, 1025, 10_000].map(chunks), [1, 1, 1, 2, 64, 61, 64]);
    assert!((0..10_000).all(|blocks| chunks(blocks) <= Determinism::BatchInvariant.chunk_slots(blocks)));
}

proptest! {
    /// What is known of equal requests is what each partition would find.
    #[test]
    fn equal_requests(
        blocks in prop_oneof![0_u32..40, 900_u32..2000],
        requests in 1_u32..300,
        partitions in 1_u32..140,
        min_payload in 1..=MIN_PAYLOAD.get(),
        determinism in prop_oneof![Just(Determinism::RunToRun), Just(Determinism::BatchInvariant)],
    ) {
        let all = vec![blocks; requests as usize];
        let workload = Workload { min_payload, ..workload(determinism, &all) };
        let (split, equal) = (SplitKv::new(workload, partitions), EqualSplit::new(workload, partitions, blocks));
        let from = |first: &dyn Fn(u32) -> Cursor| -> Vec<Placed> {
            let mut chunks = Vec::new();
            for partition in 0..partitions {
                let mut cursor = first(partition);
                while cursor.request() < requests && split.has(partition, cursor) {
                    let (chunk, behind) = split.take(partition, cursor, blocks);
                    chunks.push((partition, cursor.request(), chunk));
                    cursor = behind;
                }
            }
            chunks
        };
        let found = from(&|partition| equal.place(partition, requests).restore(workload.chunk_slots).1);
        prop_assert_eq!(&found, &walk(split, &all, partitions));
        for (_, request, chunk) in &found {
            prop_assert_eq!(equal.splits(*request).count, chunk.splits);
            if chunk.blocks.begin == 0 {
                prop_assert_eq!(equal.splits(*request).first, chunk.slot);
            }
        }
        if equal.is_whole() {
            prop_assert!(found.iter().all(|(_, _, chunk)| chunk.splits == 1));
        }
        prop_assert!(equal.is_known() && !EqualSplit::UNKNOWN.is_known());
    }
}

proptest! {
    /// Each request is some partition's, whole, once.
    #[test]
    fn places_of_whole_requests(blocks in batches(), partitions in 1_u32..200) {
        let requests = blocks.len() as u32;
        let mut found = Vec::new();
        for partition in 0..partitions {
            let place = Place::of_whole_requests(partition, partitions, requests, longest(&blocks));
            let (split, mut cursor) = place.restore(0);
            while let Some(&blocks) =
                blocks.get(cursor.request() as usize).filter(|_| split.has(partition, cursor))
            {
                let (chunk, behind) = split.take(partition, cursor, blocks);
                prop_assert_eq!(chunk.blocks, BlockRange { begin: 0, end: blocks.max(1) });
                prop_assert_eq!(chunk.splits, 1);
                found.push(cursor.request());
                cursor = behind;
            }
        }
        prop_assert_eq!(found, (0..requests).collect::<Vec<_>>());
    }
}

#[test]
fn equal_shares_are_all_blocks_in_order() {
    for (blocks, most) in (0..70).flat_map(|blocks| [1, 2, 7, 16].map(|most| (blocks, most))) {
        let shares = NonZeroU32::new(most).unwrap();
        let all: Vec<_> = (0..most).map(|index| equal_share(blocks, index, shares)).collect();
        let longest = blocks.div_ceil(most);
        let mut next = 0;
        for (index, (range, count)) in all.iter().enumerate() {
            assert_eq!(*count, all[0].1, "all know how many there are");
            let is_one = (index as u32) < *count;
            assert_eq!(!range.is_empty(), is_one && blocks > 0, "{blocks} in {most}: {index}");
            if !range.is_empty() {
                assert!(
                    range.begin == next && range.end - range.begin <= longest,
                    "{blocks} in {most}: {index}"
                );
                next = range.end;
            }
        }
        assert!(next == blocks && (1..=most).contains(&all[0].1), "{blocks} in {most}");
    }
}
