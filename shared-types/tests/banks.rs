//! The conflict counter against patterns whose answer is known, and the kernels' own access patterns.

use oximla_types::layout::banks::conflict_degree;
use oximla_types::layout::fragment::{accumulator, matrix_chunk};
use oximla_types::layout::swizzle::Swizzle;
use oximla_types::layout::tile::{Position, Tile};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const WARPS: u32 = 4;

fn degree(bytes: u32, address: impl Fn(u32) -> u32) -> u32 {
    conflict_degree(&std::array::from_fn(|lane| address(lane as u32)), bytes)
}

#[test]
fn known_patterns() {
    assert_eq!(degree(4, |lane| 4 * lane), 1, "a word a lane");
    assert_eq!(degree(4, |_| 64), 1, "one word for all is a broadcast");
    assert_eq!(degree(4, |lane| 8 * lane), 2, "every other word");
    assert_eq!(degree(4, |lane| 128 * lane), 32, "one bank");
    assert_eq!(degree(4, |lane| 132 * lane), 1, "a padded column");
    assert_eq!(degree(8, |lane| 8 * lane), 1);
    assert_eq!(degree(16, |lane| 16 * lane), 1);
    assert_eq!(degree(16, |lane| 128 * lane), 8, "a column of unswizzled rows");
    assert_eq!(degree(2, |lane| 2 * lane), 1, "halves of one word");
}

/// The padded row pitch of f32 staging: 8 rows, 4 pairs each, in every half-warp without conflict.
#[test]
fn padded_rows_take_pairs_without_conflict() {
    const PITCH: u32 = 520 * 4;
    assert_eq!(degree(8, |lane| lane / 4 * PITCH + lane % 4 * 8), 1);
    assert_eq!(degree(8, |lane| lane / 4 * 512 * 4 + lane % 4 * 8), 4);
}

#[test]
fn matrix_moves_are_free_of_conflicts() {
    for swizzle in Swizzle::ALL {
        let tile = Tile::new(64, swizzle);
        for warp in 0..WARPS {
            for step in 0..4 {
                let address = |lane| {
                    let (row, chunk) = matrix_chunk(32 * warp + lane, step);
                    tile.chunk(row, chunk)
                };
                assert_eq!(degree(16, address), 1, "{swizzle:?}");
            }
        }
    }
    // What the swizzle is for: rows of 128 bytes in order.
    let unswizzled = |lane| {
        let (row, chunk) = matrix_chunk(lane, 0);
        row * 128 + chunk * 16
    };
    assert_eq!(degree(16, unswizzled), 8);
}

/// 16 bytes a lane, along rows (8 lanes a row) and down columns (a lane a row).
#[test]
fn chunk_stores_are_free_of_conflicts() {
    let tile = Tile::new(64, Swizzle::Bytes128);
    for first_row in (0..64).step_by(4) {
        assert_eq!(degree(16, |lane| tile.chunk(first_row + lane / 8, lane % 8)), 1);
    }
    for swizzle in Swizzle::ALL {
        let tile = Tile::new(64, swizzle);
        for chunk in 0..8 {
            for first_row in [0, 32] {
                assert_eq!(degree(16, |lane| tile.chunk(first_row + lane, chunk)), 1, "{swizzle:?}");
            }
        }
    }
}

/// Storing a 16-bit fragment pair by pair: 8 rows, 4 words each.
#[test]
fn pair_stores_of_fragments_are_free_of_conflicts() {
    let tile = Tile::new(64, Swizzle::Bytes128);
    for warp in 0..WARPS {
        for register in (0..32).step_by(2) {
            assert_eq!(degree(4, |lane| tile.element(accumulator(32 * warp + lane, register))), 1);
        }
    }
}

/// The swizzle permutes chunks only: 32 rows of one column share 8 banks.
#[test]
fn columns_of_single_elements_conflict() {
    let tile = Tile::new(64, Swizzle::Bytes128);
    assert_eq!(degree(2, |lane| tile.element(Position { row: lane, column: 0 })), 4);
}

proptest! {
    /// Against the definition, word by word.
    #[test]
    fn degree_is_the_largest_count_of_words_in_a_bank(
        slots in prop::array::uniform32(0_u32..200),
        bytes in prop::sample::select(&[4_u32, 8, 16][..]),
    ) {
        let addresses = slots.map(|slot| slot * bytes);
        let mut worst = 0;
        for phase in addresses.chunks(128 / bytes as usize) {
            let mut banks = BTreeMap::<u32, BTreeSet<u32>>::new();
            for word in phase.iter().flat_map(|address| (0..bytes / 4).map(move |i| address / 4 + i)) {
                banks.entry(word % 32).or_default().insert(word);
            }
            worst = worst.max(banks.values().map(BTreeSet::len).max().unwrap_or(0));
        }
        prop_assert_eq!(conflict_degree(&addresses, bytes) as usize, worst);
    }
}
