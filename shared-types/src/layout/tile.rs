//! Tiles of 16-bit elements in shared memory.
//!
//! A tile is a row of *panels*. A panel has the tile's rows and as many columns as one row of its swizzle holds:
//! 64, 32 or 16 columns, or 8 without swizzle. Rows of a panel follow each other, and so do panels.
//!
//! ```text
//! 64 rows, 128-byte swizzle                     64 rows, no swizzle
//!   panel 0: columns 0..64     8192 bytes         panel 0: columns 0..8     1024 bytes
//!   panel 1: columns 64..128   8192 bytes         panel 1: columns 8..16    1024 bytes
//! ```
//!
//! Without swizzle, 8 rows of a panel are the 8×8 *core matrix* of the PTX ISA: 128 consecutive bytes.

use super::swizzle::{CHUNK_BYTES, PATTERN_ROWS, Swizzle};

/// Bytes of an element.
pub const ELEMENT_BYTES: u32 = 2;

/// The layout of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    rows: u32,
    swizzle: Swizzle,
}

/// An element of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Its row.
    pub row: u32,
    /// Its column.
    pub column: u32,
}

impl Tile {
    /// A tile of `rows` rows.
    ///
    /// # Panics
    /// If `rows` is not a positive multiple of 8: panels would not be aligned for their swizzle.
    pub const fn new(rows: u32, swizzle: Swizzle) -> Self {
        assert!(rows > 0 && rows.is_multiple_of(PATTERN_ROWS), "panels are whole patterns");
        Self { rows, swizzle }
    }

    /// The swizzle.
    pub const fn swizzle(self) -> Swizzle {
        self.swizzle
    }

    /// Columns of a panel.
    pub const fn panel_columns(self) -> u32 {
        self.swizzle.row_bytes() / ELEMENT_BYTES
    }

    /// Bytes of a panel.
    pub const fn panel_bytes(self) -> u32 {
        self.rows * self.swizzle.row_bytes()
    }

    /// Byte offset of an element.
    pub const fn element(self, position: Position) -> u32 {
        self.panel(position.column) + self.swizzle.apply(self.within_panel(position))
    }

    /// Byte offset of the 16-byte chunk that holds columns `8 * chunk..8 * chunk + 8` of a row.
    pub const fn chunk(self, row: u32, chunk: u32) -> u32 {
        self.element(Position { row, column: chunk * (CHUNK_BYTES / ELEMENT_BYTES) })
    }

    /// From where a chunk of a tile lies, where the same chunk of the row `rows` rows further does: in tiles with the 128-byte
    /// swizzle, for 4 rows or a multiple, where the first row is one of the first four of eight, or for a multiple of 8.
    pub const fn rows_further(self, chunk: u32, rows: u32) -> u32 {
        // Within eight rows the swizzle turns chunks: by 4 of them, four rows further.
        (chunk ^ (self.chunk(rows, 0) % self.row_offset(1))) + self.row_offset(rows)
    }

    /// The element that a byte belongs to: the inverse of [`Tile::element`].
    pub const fn position(self, offset: u32) -> Position {
        let within = self.swizzle.apply(offset % self.panel_bytes());
        let column = within % self.swizzle.row_bytes() / ELEMENT_BYTES;
        Position {
            row: within / self.swizzle.row_bytes(),
            column: offset / self.panel_bytes() * self.panel_columns() + column,
        }
    }

    /// By how many bytes an operand's start address moves to skip `columns`, a multiple of 8, within unswizzled rows.
    ///
    /// That is also right for swizzled tiles, as the tensor cores swizzle the addresses that they reach from the start
    /// address, and the pattern's rows stay where they are.
    pub const fn column_offset(self, columns: u32) -> u32 {
        self.panel(columns) + self.within_panel(Position { row: 0, column: columns })
    }

    /// By how many bytes an operand's start address moves to skip `rows`, a multiple of 8.
    pub const fn row_offset(self, rows: u32) -> u32 {
        rows * self.swizzle.row_bytes()
    }

    const fn panel(self, column: u32) -> u32 {
        column / self.panel_columns() * self.panel_bytes()
    }

    const fn within_panel(self, position: Position) -> u32 {
        position.row * self.swizzle.row_bytes() + position.column % self.panel_columns() * ELEMENT_BYTES
    }
}
