//! Operands of `wgmma` in shared memory: which addresses hold which elements (PTX ISA, "Shared Memory Matrix Layout").
//!
//! An operand has rows, of M or N, with k elements each: 32 bytes whatever the type. It consists of 16-byte runs.
//! A K-major run holds part of a row, an MN-major run eight neighbouring rows at one k. With `start`, `leading` and
//! `stride` from the descriptor and a swizzle span of S bytes, the ISA's canonical layouts put a run at
//!
//! | major | swizzle | run | distance from `start` |
//! |---|---|---|---|
//! | K  | none | row r, half h | 16·(r mod 8) + stride·(r / 8) + leading·h |
//! | K  | S    | row r, half h | S·(r mod 8) + stride·(r / 8) + 16·h |
//! | MN | none | rows 8g to 8g+7, k | stride·g + 16·(k mod 8) + leading·(k / 8) |
//! | MN | S    | rows 8g to 8g+7, k | 16·(g mod S/16) + leading·(g / (S/16)) + S·(k mod 8) + stride·(k / 8) |
//!
//! and then swizzles the address.

use std::ops::Range;

use super::descriptor::{Descriptor, DescriptorError};
use super::element::Element;
use super::swizzle::{RUN_BYTES, Swizzle};

/// Along which dimension elements are neighbours in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// Along k.
    K,
    /// Along m (A) or n (B); 16-bit elements only.
    Mn,
}

/// Bytes of a row.
pub const ROW_BYTES: u32 = 32;

/// Rows of a core matrix, and rows in a run of an MN-major operand.
const CORE_ROWS: u32 = 8;

const RUNS_OF_ROW: u32 = ROW_BYTES / RUN_BYTES;

/// An operand in shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    chunks: Vec<u32>,
    rows: u32,
    element: Element,
    major: Major,
    divided: bool,
}

impl Tile {
    /// The operand that a descriptor describes. `rows` is a multiple of 8; with `divided` each of four warps owns a
    /// quarter of them, as of A; else all own all, as of B.
    ///
    /// # Errors
    /// If the descriptor cannot describe such an operand.
    pub fn new(
        descriptor: u64,
        rows: u32,
        element: Element,
        major: Major,
        divided: bool,
    ) -> Result<Self, DescriptorError> {
        let fields = Descriptor::decode(descriptor)?;
        let span = fields.swizzle.span();
        let contiguous = match major {
            Major::K => ROW_BYTES,
            Major::Mn => span.min(rows / CORE_ROWS * RUN_BYTES),
        };
        let within_span = fields.start % span;
        if fields.swizzle != Swizzle::None && within_span + contiguous > span {
            return Err(DescriptorError {
                descriptor,
                field: "start address, its place in the swizzle span",
                found: within_span.into(),
                needed: format!("at most {}, for {contiguous} of the {span} bytes follow", span - contiguous),
            });
        }
        let address = |distance: u32| fields.swizzle.apply_from(fields.start + distance, fields.base_offset);
        let chunks = match major {
            Major::K => {
                pairs(0..rows, 0..RUNS_OF_ROW).map(|(r, h)| address(k_major(&fields, r, h))).collect()
            }
            Major::Mn => pairs(0..rows / CORE_ROWS, 0..ROW_BYTES / element.bytes())
                .map(|(group, k)| address(mn_major(&fields, group, k)))
                .collect(),
        };
        Ok(Self { chunks, rows, element, major, divided })
    }

    /// Addresses of the 16-byte runs. Those of the first rows come first: K-major all runs of a row before the next
    /// row, MN-major all k of eight rows before the next eight rows. Addresses lie in the shared window where the
    /// descriptor, which has 18 bits for them, does not lead beyond.
    pub fn chunks(&self) -> &[u32] {
        &self.chunks
    }

    /// The part of [`chunks`](Self::chunks) that a warp of the warpgroup (0 to 3) reads: of A its 16 rows, of B all.
    pub fn chunks_of_warp(&self, warp: u32) -> &[u32] {
        if !self.divided {
            return &self.chunks;
        }
        self.chunks.chunks_exact(self.chunks.len() / 4).nth(warp as usize).unwrap_or_default()
    }

    /// The elements, rows × k, row-major. `bytes` holds the contents of all [`chunks`](Self::chunks) in their order;
    /// what is missing at its end counts as zeros.
    pub fn values(&self, bytes: &[u8]) -> Vec<f32> {
        let mut values = self.element.values(bytes);
        let k = (ROW_BYTES / self.element.bytes()) as usize;
        values.resize(self.rows as usize * k, 0.0);
        match self.major {
            Major::K => values,
            Major::Mn => {
                let rows = CORE_ROWS as usize;
                let mut row_major = Vec::with_capacity(values.len());
                for group in values.chunks_exact(rows * k) {
                    for row in 0..rows {
                        row_major.extend((0..k).map(|i| group[i * rows + row]));
                    }
                }
                row_major
            }
        }
    }
}

fn pairs(outer: Range<u32>, inner: Range<u32>) -> impl Iterator<Item = (u32, u32)> {
    outer.flat_map(move |o| inner.clone().map(move |i| (o, i)))
}

fn k_major(fields: &Descriptor, row: u32, half: u32) -> u32 {
    let (core, row) = (row / CORE_ROWS, row % CORE_ROWS);
    match fields.swizzle {
        Swizzle::None => row * RUN_BYTES + core * fields.stride + half * fields.leading,
        swizzle => row * swizzle.span() + core * fields.stride + half * RUN_BYTES,
    }
}

fn mn_major(fields: &Descriptor, group: u32, k: u32) -> u32 {
    let (core, k) = (k / CORE_ROWS, k % CORE_ROWS);
    match fields.swizzle {
        Swizzle::None => group * fields.stride + core * fields.leading + k * RUN_BYTES,
        swizzle => {
            let runs = swizzle.span() / RUN_BYTES;
            let across = group % runs * RUN_BYTES + group / runs * fields.leading;
            across + core * fields.stride + k * swizzle.span()
        }
    }
}
