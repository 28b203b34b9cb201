//! [`ptx/copy.rs`](../../../kernels-gpu/src/ptx/copy.rs)

use oximla_conformance::instructions::map::Map;
use ptx_emulator::diagnostic::Check;

use crate::kernel::{Kernel, UNWRITTEN, Work, words};
use crate::special::mapa;

/// Elements of the tensor in each dimension, innermost first: columns, rows, heads, pages.
const DIMS: [usize; 4] = [128, 8, 2, 3];

/// Columns and rows of the box.
const BOX: [usize; 2] = [64, 8];

/// Words of the box.
const BOX_WORDS: usize = BOX[0] * BOX[1] / 2;

/// Boxes inside the tensor, across each of its edges, and of pages that it has not.
/// A policy changes nothing that a program can see but time: what is fetched under it arrives.
pub fn createpolicy_evict_first(kernel: &Kernel) {
    cp_async_bulk_tensor_4d(kernel);
}

/// As for [`createpolicy_evict_first`].
pub fn createpolicy_evict_normal(kernel: &Kernel) {
    cp_async_bulk_tensor_4d(kernel);
}

pub fn cp_async_bulk_tensor_4d(kernel: &Kernel) {
    let inside = [[0, 0, 0, 0], [64, 0, 1, 2]];
    let across = [[96, 0, 0, 1], [0, 5, 1, 0], [64, -3, 1, 1], [-32, 0, 0, 2]];
    let outside = [[0, 0, 0, 3], [64, 0, 1, -1], [0, 0, 2, 0], [0, 0, 0, i32::MAX]];
    for coordinates in inside.into_iter().chain(across).chain(outside) {
        let found = kernel.run(&fetch(coordinates));
        assert_eq!(found, box_at(coordinates), "{coordinates:?}");
    }
    assert!(box_at(outside[0]).iter().all(|word| *word == 0));
}

/// The first CTA of a cluster of two has its box sent to both, the second one that of the next page to the first.
pub fn cp_async_bulk_tensor_4d_multicast(kernel: &Kernel) {
    let nothing = vec![0; BOX_WORDS];
    for [c0, c1, c2, page] in [[0, 0, 0, 0], [64, -3, 1, 1], [32, 0, 1, 2]] {
        let coordinates = [c0, c1, c2, page];
        let [first, next] = [page, page + 1].map(|page| box_at([c0, c1, c2, page]));
        let expected = [&first, &next, &first, &nothing].map(Vec::as_slice).concat();
        let work = fetch(coordinates).writing(expected.len()).on_grid([2, 1]);
        assert_eq!(kernel.run(&work), expected, "{coordinates:?}");
    }
}

/// Each CTA of a cluster of two gets what the other one has stored, once threads have fenced it.
pub fn cp_async_bulk_to_cluster(kernel: &Kernel) {
    mapa(kernel);
    let input = words(2 * 32);
    let work = Work::new(input.clone(), input.len()).on_grid([2, 1]);
    kernel.must_fail_without("{ .reg .pred elected", &work, Check::Deadlock);
    kernel.must_fail_without("fence.proxy.async", &work, Check::MissingProxyFence);
}

pub fn cp_async_4(kernel: &Kernel) {
    copies_and_fills(kernel, 4);
}

pub fn cp_async_8(kernel: &Kernel) {
    copies_and_fills(kernel, 8);
}

pub fn cp_async_16(kernel: &Kernel) {
    copies_and_fills(kernel, 16);
}

/// A hint changes nothing but time.
pub fn cp_async_16_prefetch_256(kernel: &Kernel) {
    copies_and_fills(kernel, 16);
}

/// What is in no group is not waited for.
pub fn cp_async_commit_group(kernel: &Kernel) {
    copies_and_fills(kernel, 16);
    kernel.must_fail_without("cp.async.commit_group", &copy_and_fill(16), Check::DataRace);
}

/// Each of the two copies is there after its wait.
pub fn cp_async_wait_group(kernel: &Kernel) {
    let input = words(2 * 32);
    let work = Work::new(input.clone(), input.len());
    assert_eq!(kernel.run(&work), input);
    for wait in ["cp.async.wait_group 1", "cp.async.wait_group 0"] {
        kernel.must_fail_without(wait, &work, Check::DataRace);
    }
}

/// One lane's arrival is not enough: the phase waits for all lanes' copies.
pub fn cp_async_mbarrier_arrive(kernel: &Kernel) {
    let input = words(32);
    let work = Work::new(input.clone(), input.len());
    assert_eq!(kernel.run(&work), input.iter().rev().copied().collect::<Vec<_>>());
    kernel.must_fail_without("cp.async.mbarrier.arrive", &work, Check::DataRace);
}

/// Pieces of twelve words, the last one first.
pub fn cp_async_bulk_8(kernel: &Kernel) {
    let input = words(8 * 12);
    let work = Work::new(input.clone(), input.len());
    assert_eq!(kernel.run(&work), input.chunks(12).rev().flatten().copied().collect::<Vec<_>>());
    kernel.must_fail_without("mbarrier.arrive.expect_tx", &work, Check::Deadlock);
}

/// A hint changes nothing but time.
pub fn prefetch_l2(kernel: &Kernel) {
    let input = words(32);
    assert_eq!(kernel.run(&Work::new(input.clone(), input.len())), input);
}

/// Lanes write what those opposite have copied: `size` bytes, the first few, or none.
fn copies_and_fills(kernel: &Kernel, size: usize) {
    let work = copy_and_fill(size);
    let copied = words(size / 4 * 32);
    let copied: Vec<u8> = copied.iter().flat_map(|word| word.to_le_bytes()).collect();
    let lane = |lane: usize| {
        let mut bytes = copied[lane * size..][..size].to_vec();
        bytes[bytes_read(lane, size)..].fill(0);
        bytes
    };
    let expected: Vec<u8> = (0..32).rev().flat_map(lane).collect();
    let expected: Vec<u32> =
        expected.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect();
    assert_eq!(kernel.run(&work), expected);
    kernel.must_fail_without("cp.async.wait_group", &work, Check::DataRace);
}

/// Copying up to `size` bytes a lane.
fn copy_and_fill(size: usize) -> Work {
    let words_copied = size / 4 * 32;
    let bytes = (0..32).map(|lane| bytes_read(lane, size) as u32);
    Work::new(words(words_copied).into_iter().chain(bytes).collect(), words_copied)
}

/// Bytes that a lane reads.
fn bytes_read(lane: usize, size: usize) -> usize {
    // All of them for even lanes, every smaller number for others.
    if lane.is_multiple_of(2) { size } else { lane / 2 % size }
}

/// The boxes of a tensor of elements, inside another tensor of the same dimensions and across its edges: what is outside is left out,
/// and all else of the tensor as it was.
pub fn cp_async_bulk_tensor_4d_store(kernel: &Kernel) {
    for coordinates in [[0, 0, 0, 0], [64, 0, 1, 2], [96, 0, 0, 1], [0, 5, 1, 0], [64, 6, 1, 1], [0, 0, 0, 3]]
    {
        let found = kernel.run(&store(coordinates));
        let is_inside = |index: usize| {
            let mut rest = index;
            (0..4).all(|axis| {
                let at = (rest % DIMS[axis]) as i64;
                rest /= DIMS[axis];
                let size = BOX.get(axis).copied().unwrap_or(1) as i64;
                (0..size).contains(&(at - i64::from(coordinates[axis])))
            })
        };
        let unwritten = |index: usize| (UNWRITTEN >> (16 * (index % 2))) as u16;
        let expected = pairs(|index| if is_inside(index) { element(index) } else { unwritten(index) });
        assert_eq!(found, expected, "{coordinates:?}");
    }
    kernel.must_fail_without("fence.proxy.async", &store([0; 4]), Check::MissingProxyFence);
}

/// What is in no group is not waited for.
pub fn cp_async_bulk_commit_group(kernel: &Kernel) {
    cp_async_bulk_tensor_4d_store(kernel);
    kernel.must_fail_without("cp.async.bulk.commit_group", &store([0; 4]), Check::DataRace);
}

/// Without the wait, the copy may find what is put there later.
pub fn cp_async_bulk_wait_group_read(kernel: &Kernel) {
    cp_async_bulk_tensor_4d_store(kernel);
    kernel.must_fail_without("cp.async.bulk.wait_group.read", &store([0; 4]), Check::DataRace);
}

/// Fetching the box at some coordinates.
pub fn fetch(coordinates: [i32; 4]) -> Work {
    Work::new(pairs(element), BOX_WORDS).fetching(map(), coordinates)
}

/// Storing the box at some coordinates.
fn store(coordinates: [i32; 4]) -> Work {
    Work::new(box_at(coordinates), DIMS.iter().product::<usize>() / 2).storing(map(), coordinates)
}

fn map() -> Map {
    let map = Map::parse("input u16 dims 128x8x2x3 strides 256x2048x4096 box 64x8x1x1 swizzle 128");
    map.expect("a map")
}

/// The words of a tensor with such elements.
fn pairs(element: impl Fn(usize) -> u16) -> Vec<u32> {
    let elements: Vec<u16> = (0..DIMS.iter().product()).map(element).collect();
    elements.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect()
}

/// The words of the box: rows of 128 bytes, in each of which the number of the 16-byte chunk is xored with the row's.
pub fn box_at(coordinates: [i32; 4]) -> Vec<u32> {
    let mut words = vec![0; BOX_WORDS];
    for (row, column) in (0..BOX[1]).flat_map(|row| (0..BOX[0]).map(move |column| (row, column))) {
        let offsets = [column, row, 0, 0];
        let at: [i64; 4] = std::array::from_fn(|axis| i64::from(coordinates[axis]) + offsets[axis] as i64);
        let is_inside = at.iter().zip(DIMS).all(|(at, size)| (0..size as i64).contains(at));
        // From the outermost dimension inwards.
        let index = at.iter().zip(DIMS).rev().fold(0, |index, (at, size)| index * size as i64 + at);
        let value = if is_inside { element(index as usize) } else { 0 };
        let byte = (row * 128 + column * 2) ^ (row % 8 * 16);
        words[byte / 4] |= u32::from(value) << (byte % 4 * 8);
    }
    words
}

/// The tensor's element of this number; never zero.
fn element(index: usize) -> u16 {
    (index as u16).wrapping_mul(0x9e37) | 1
}
