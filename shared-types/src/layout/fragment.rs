//! Fragments of `wgmma`: how the 128 threads of a warpgroup share a matrix of 64 rows (PTX ISA, "Register fragments").
//!
//! Warp `w` has rows `16w..16w + 16`. Within a warp, groups of four lanes share a row, and a lane has two neighbouring
//! columns of every eight:
//!
//! ```text
//!               columns  0 1   2 3   4 5   6 7 │ 8 9  …
//! row  g   (g = lane/4)  q=0   q=1   q=2   q=3 │ q=0  …      q = lane % 4
//! row  g+8               q=0   q=1   q=2   q=3 │ q=0  …
//! ```
//!
//! The result (*accumulator*, 32-bit) and the first operand (*A*, 16-bit, 16 columns a step) visit these places in the
//! same order. So a result becomes the first operand of the next multiplication in place: its registers need only be
//! converted, two by two ([`a_pairs`]).

use super::tile::Position;
use crate::launch::WARP_THREADS;

/// Rows of a fragment.
pub const ROWS: u32 = 64;

/// Columns of the first operand that one instruction takes: the K of 16-bit `wgmma`.
pub const A_COLUMNS: u32 = 16;

/// 32-bit registers of a thread that hold the first operand, two elements each.
pub const A_REGISTERS: usize = 4;

/// Lanes that share a row of an accumulator.
pub const ROW_LANES: u32 = 4;

/// Rows of a warp.
const WARP_ROWS: u32 = 16;

/// The element in `register` of `thread` (of the warpgroup) of an accumulator with any number of columns.
pub const fn accumulator(thread: u32, register: u32) -> Position {
    let (lane, warp) = (thread % WARP_THREADS, thread / WARP_THREADS);
    let (pair, lower_half) = (register / 4, register / 2 % 2);
    Position {
        row: WARP_ROWS * warp + 8 * lower_half + lane / ROW_LANES,
        column: 8 * pair + 2 * (lane % ROW_LANES) + register % 2,
    }
}

/// The thread and register that hold an element of an accumulator: the inverse of [`accumulator`].
pub const fn accumulator_owner(position: Position) -> (u32, u32) {
    let Position { row, column } = position;
    let thread = row / WARP_ROWS * WARP_THREADS + row % 8 * 4 + column % 8 / 2;
    let register = column / 8 * 4 + row % WARP_ROWS / 8 * 2 + column % 2;
    (thread, register)
}

/// The element in the low (`half` 0) or high half of `register` (0..4) of `thread`, of one step's first operand.
pub const fn a_operand(thread: u32, register: u32, half: u32) -> Position {
    let (lane, warp) = (thread % WARP_THREADS, thread / WARP_THREADS);
    Position {
        row: WARP_ROWS * warp + 8 * (register % 2) + lane / 4,
        column: 8 * (register / 2) + 2 * (lane % 4) + half,
    }
}

/// The accumulator registers that make up the first operand of step `step`: low and high half of each register.
pub const fn a_pairs(step: usize) -> [[usize; 2]; A_REGISTERS] {
    let first = 2 * A_REGISTERS * step;
    [[first, first + 1], [first + 2, first + 3], [first + 4, first + 5], [first + 6, first + 7]]
}

/// The row and the 16-byte chunk (see [`Tile::chunk`](super::tile::Tile::chunk)) whose address `thread` gives to
/// `stmatrix.x4` or `ldmatrix.x4` to move one step's first operand between registers and a tile.
///
/// The instruction takes the addresses of its four 8×8 matrices from 8 lanes each; in this order they are the four
/// registers of [`a_operand`].
pub const fn matrix_chunk(thread: u32, step: u32) -> (u32, u32) {
    let (lane, warp) = (thread % WARP_THREADS, thread / WARP_THREADS);
    (WARP_ROWS * warp + lane % WARP_ROWS, 2 * step + lane / WARP_ROWS)
}
