//! Tiles and fragments: every element of the small domains, against formulas and places written out here.

use oximla_types::layout::fragment::{
    A_REGISTERS, a_operand, a_pairs, accumulator, accumulator_owner, matrix_chunk,
};
use oximla_types::layout::swizzle::Swizzle;
use oximla_types::layout::tile::{Position, Tile};
use std::collections::HashSet;

const ROWS: u32 = 64;
const COLUMNS: u32 = 64;
const THREADS: u32 = 128;

/// Accumulator registers of a thread for 64 columns.
const REGISTERS: u32 = 32;

fn elements() -> impl Iterator<Item = Position> {
    (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| Position { row, column }))
}

#[test]
fn chunks_of_rows_further_on() {
    let tile = Tile::new(ROWS, Swizzle::Bytes128);
    for (row, chunk) in (0..ROWS).flat_map(|row| (0..8).map(move |chunk| (row, chunk))) {
        for further in (0..ROWS - row).step_by(4).filter(|further| row % 8 < 4 || further % 8 == 0) {
            // Tiles lie at multiples of a pattern.
            let found = tile.rows_further(3 * 1024 + tile.chunk(row, chunk), further);
            assert_eq!(found, 3 * 1024 + tile.chunk(row + further, chunk), "{row} + {further}, {chunk}");
        }
    }
}

#[test]
fn tiles_follow_the_chunk_formulas() {
    for Position { row, column } in elements() {
        let place = |swizzle| Tile::new(ROWS, swizzle).element(Position { row, column });
        let (chunk, byte) = (column / 8, column % 8 * 2);
        assert_eq!(place(Swizzle::Bytes128), row * 128 + ((chunk ^ (row & 7)) << 4) + byte);
        let (panel, chunk) = (column / 32, column / 8 % 4);
        assert_eq!(place(Swizzle::Bytes64), panel * 4096 + row * 64 + ((chunk ^ (row >> 1 & 3)) << 4) + byte);
        let (panel, chunk) = (column / 16, column / 8 % 2);
        assert_eq!(place(Swizzle::Bytes32), panel * 2048 + row * 32 + ((chunk ^ (row >> 2 & 1)) << 4) + byte);
        assert_eq!(place(Swizzle::None), column / 8 * 1024 + row * 16 + byte);
    }
}

#[test]
fn tiles_are_bijective() {
    for swizzle in Swizzle::ALL {
        let tile = Tile::new(ROWS, swizzle);
        let mut taken = HashSet::new();
        for element in elements() {
            let offset = tile.element(element);
            assert!(offset < ROWS * COLUMNS * 2 && offset.is_multiple_of(2));
            assert!(taken.insert(offset), "{swizzle:?}: two elements at byte {offset}");
            assert_eq!(tile.position(offset), element);
            assert_eq!(tile.position(offset + 1), element);
            assert_eq!(tile.chunk(element.row, element.column / 8) + element.column % 8 * 2, offset);
        }
    }
}

#[test]
fn swizzles_undo_themselves_within_their_pattern() {
    for swizzle in Swizzle::ALL {
        for offset in 0..8 * 1024 {
            let swizzled = swizzle.apply(offset);
            assert_eq!(swizzle.apply(swizzled), offset);
            assert_eq!(swizzled / swizzle.pattern_bytes(), offset / swizzle.pattern_bytes());
            assert_eq!(swizzled % 16, offset % 16);
            // Aligned to the pattern, a tile is swizzled alike wherever it lies.
            assert_eq!(
                swizzle.apply(offset + 3 * swizzle.pattern_bytes()),
                swizzled + 3 * swizzle.pattern_bytes()
            );
        }
    }
}

#[test]
fn strides_of_tiles() {
    let sw128 = Tile::new(64, Swizzle::Bytes128);
    assert_eq!((sw128.panel_columns(), sw128.panel_bytes()), (64, 8192));
    assert_eq!([0, 16, 48, 64, 80].map(|columns| sw128.column_offset(columns)), [0, 32, 96, 8192, 8224]);
    assert_eq!([0, 16, 48].map(|rows| sw128.row_offset(rows)), [0, 2048, 6144]);
    let plain = Tile::new(64, Swizzle::None);
    assert_eq!((plain.panel_columns(), plain.panel_bytes()), (8, 1024));
    assert_eq!([0, 8, 16, 48].map(|columns| plain.column_offset(columns)), [0, 1024, 2048, 6144]);
    assert_eq!([0, 16, 48].map(|rows| plain.row_offset(rows)), [0, 256, 768]);
}

#[test]
fn accumulators_by_hand() {
    let at = |row, column| Position { row, column };
    assert_eq!(
        [0, 1, 2, 3, 4].map(|e| accumulator(0, e)),
        [at(0, 0), at(0, 1), at(8, 0), at(8, 1), at(0, 8)]
    );
    assert_eq!(accumulator(5, 0), at(1, 2));
    assert_eq!(accumulator(31, 31), at(15, 63));
    assert_eq!(accumulator(32, 0), at(16, 0));
    assert_eq!(accumulator(127, 127), at(63, 255));
}

#[test]
fn accumulators_are_bijective() {
    let mut taken = HashSet::new();
    for thread in 0..THREADS {
        for register in 0..REGISTERS {
            let position = accumulator(thread, register);
            assert!(position.row < ROWS && position.column < COLUMNS);
            assert!(taken.insert(position));
            assert_eq!(accumulator_owner(position), (thread, register));
        }
    }
}

#[test]
fn first_operands_are_bijective() {
    let mut taken = HashSet::new();
    for thread in 0..THREADS {
        for register in 0..A_REGISTERS as u32 {
            for half in 0..2 {
                let position = a_operand(thread, register, half);
                assert!(position.row < ROWS && position.column < 16);
                assert!(taken.insert(position));
            }
        }
    }
}

/// Converted two by two, the scores of a thread are its first operand of the next multiplication.
#[test]
fn accumulators_become_first_operands_in_place() {
    assert_eq!(a_pairs(1), [[8, 9], [10, 11], [12, 13], [14, 15]]);
    for thread in 0..THREADS {
        for step in 0..COLUMNS / 16 {
            for (register, pair) in (0..).zip(a_pairs(step as usize)) {
                for (half, source) in (0..).zip(pair) {
                    let Position { row, column } = a_operand(thread, register, half);
                    let wanted = Position { row, column: 16 * step + column };
                    assert_eq!(accumulator(thread, source as u32), wanted);
                }
            }
        }
    }
}

/// `stmatrix.x4` (and `ldmatrix.x4` back): lane `8m + r` gives the address of row `r` of matrix `m`; lane `l`'s
/// register `m` is that matrix's row `l / 4`, columns `2 (l % 4)` and the next.
#[test]
fn matrix_moves_reach_every_element() {
    for swizzle in Swizzle::ALL {
        let tile = Tile::new(ROWS, swizzle);
        for thread in 0..THREADS {
            let (warp, lane) = (thread / 32, thread % 32);
            for step in 0..COLUMNS / 16 {
                for matrix in 0..4 {
                    let (row, chunk) = matrix_chunk(32 * warp + 8 * matrix + lane / 4, step);
                    for half in 0..2 {
                        let Position { row: wanted_row, column } = a_operand(thread, matrix, half);
                        let wanted = Position { row: wanted_row, column: 16 * step + column };
                        let byte = tile.chunk(row, chunk) + 4 * (lane % 4) + 2 * half;
                        assert_eq!(tile.position(byte), wanted);
                    }
                }
            }
        }
    }
}
