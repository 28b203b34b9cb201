//! The parts of a box: runs of bytes that are together in global and in shared memory.

use super::{Swizzle, TensorMap, TensorMapError};
use crate::matrix::swizzle::RUN_BYTES;

/// A run of bytes of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Address in shared memory, swizzled.
    pub offset: u32,
    /// Length: whole elements, at most 16 bytes where the map swizzles.
    pub bytes: u32,
    /// Address in global memory; `None` outside the tensor. A load then fills the bytes, a store leaves them out.
    pub source: Option<u64>,
}

/// Alignment in shared memory that the ISA demands of a box.
const SHARED_ALIGNMENT: u32 = 128;

impl TensorMap {
    /// The pieces of the box at these coordinates, which may lie outside the tensor on any side. `destination` is the
    /// address of the box in shared memory.
    ///
    /// Rows follow each other there without gaps, or with swizzle at the distance of its span. Swizzling acts on bits of
    /// the address, not of the distance from `destination`: the layout is the one that the ISA draws where `destination`
    /// is a multiple of [`Swizzle::pattern_bytes`].
    ///
    /// # Errors
    /// If the number of coordinates is not the rank, or `destination` is no multiple of 128; also where the map does not
    /// [`validate`](Self::validate).
    pub fn pieces(&self, coordinates: &[i32], destination: u32) -> Result<Vec<Piece>, TensorMapError> {
        self.validate()?;
        if coordinates.len() != self.rank() {
            let needed = format!("{} for its dims", self.rank());
            return Err(TensorMapError::new("the number of coordinates", coordinates.len(), needed));
        }
        if !destination.is_multiple_of(SHARED_ALIGNMENT) {
            let found = format!("{destination:#x}");
            return Err(TensorMapError::new("the address in shared memory", found, "a multiple of 128"));
        }
        let parts = self.parts_of_row(coordinates[0]);
        let mut pieces = Vec::with_capacity(parts.len() * self.rows() as usize);
        for row in 0..self.rows() {
            let shared = destination.wrapping_add(row * self.row_pitch());
            let global = self.row_address(row, &coordinates[1..]);
            pieces.extend(parts.iter().map(|part| Piece {
                offset: self.swizzle.apply(shared.wrapping_add(part.first)),
                bytes: part.end - part.first,
                source: global.zip(part.source).map(|(row, column)| row.wrapping_add(column)),
            }));
        }
        Ok(pieces)
    }

    /// How rows are divided: where the tensor begins and ends, and, swizzled, into runs.
    fn parts_of_row(&self, coordinate: i32) -> Vec<Part> {
        let (first, element) = (i64::from(coordinate), i64::from(self.element.bytes()));
        let row_bytes = i64::from(self.row_bytes());
        // Bytes of the row where the tensor begins and where it ends.
        let begin = (-first * element).clamp(0, row_bytes);
        let end = ((self.dims[0] as i64 - first) * element).clamp(0, row_bytes);
        let longest = if self.swizzle == Swizzle::None { self.row_bytes() } else { RUN_BYTES };
        let mut parts = Vec::new();
        for (from, to, inside) in [(0, begin, false), (begin, end, true), (end, row_bytes, false)] {
            let mut from = from as u32;
            while i64::from(from) < to {
                let run_end = (from / longest + 1) * longest;
                let source = inside.then(|| (first * element + i64::from(from)) as u64);
                parts.push(Part { first: from, end: run_end.min(to as u32), source });
                from = run_end;
            }
        }
        parts
    }

    /// Address in global memory where the tensor's row begins that holds a row of the box; `None` outside the tensor.
    fn row_address(&self, row: u32, coordinates: &[i32]) -> Option<u64> {
        let mut address = self.address;
        let mut rest = row;
        for (dimension, count) in (1..).zip(self.outer_counts()) {
            let step = i64::from(rest % count) * i64::from(self.element_strides[dimension]);
            rest /= count;
            let index = u64::try_from(i64::from(coordinates[dimension - 1]) + step).ok()?;
            if index >= self.dims[dimension] {
                return None;
            }
            address = address.wrapping_add(index.wrapping_mul(self.strides[dimension - 1]));
        }
        Some(address)
    }
}

/// Bytes `first` to `end` of a row of the box; `source` counts from where the tensor's row begins.
struct Part {
    first: u32,
    end: u32,
    source: Option<u64>,
}
