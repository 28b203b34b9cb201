//! The 64-bit shared-memory descriptor of `wgmma` (PTX ISA, "Asynchronous warpgroup-level matrix shared memory layout").
//!
//! | bits   | field               | unit     |
//! |--------|---------------------|----------|
//! | 0..14  | start address       | 16 bytes |
//! | 16..30 | leading byte offset | 16 bytes |
//! | 32..46 | stride byte offset  | 16 bytes |
//! | 49..52 | base offset         | rows     |
//! | 62..64 | swizzle             | 0 none, 1 128 bytes, 2 64 bytes, 3 32 bytes |
//!
//! The base offset stays 0: tiles are aligned to their swizzle pattern. What the two byte offsets mean depends on
//! which dimension of the operand runs along the rows of the [`Tile`]. *MN* is the dimension that the result keeps (M of
//! A, N of B), *K* the one that is summed over; panels are the [`Tile`]'s:
//!
//! | operand  | a tile row is | swizzle | leading byte offset to | stride byte offset to |
//! |----------|---------------|---------|------------------------|-----------------------|
//! | K-major  | one of MN     | 32..128 | ignored                | the next 8 rows of MN |
//! | K-major  | one of MN     | none    | the next panel of K    | the next 8 rows of MN |
//! | MN-major | one of K      | 32..128 | the next panel of MN   | the next 8 rows of K  |
//! | MN-major | one of K      | none    | the next 8 rows of K   | the next panel of MN  |

use crate::layout::swizzle::{CHUNK_BYTES, Swizzle};
use crate::layout::tile::Tile;

/// An operand in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct SharedDescriptor(u64);

impl SharedDescriptor {
    /// A K-major operand whose rows are those of `tile`, at a shared-memory address.
    ///
    /// The next K-step starts [`Tile::column_offset`] further.
    pub const fn k_major(tile: Tile, address: u32) -> Self {
        let leading = match tile.swizzle() {
            Swizzle::None => tile.panel_bytes(),
            _ => IGNORED,
        };
        Self::new(address, leading, tile.swizzle().pattern_bytes(), tile.swizzle())
    }

    /// An MN-major operand (`wgmma` transposes it) whose K dimension runs down the rows of `tile`.
    ///
    /// The next K-step starts [`Tile::row_offset`] further.
    pub const fn mn_major(tile: Tile, address: u32) -> Self {
        let (rows, panel) = (tile.swizzle().pattern_bytes(), tile.panel_bytes());
        match tile.swizzle() {
            Swizzle::None => Self::new(address, rows, panel, Swizzle::None),
            swizzle => Self::new(address, panel, rows, swizzle),
        }
    }

    /// A K-major operand of one panel with 128-byte swizzle: 64 columns and any number of rows.
    pub const fn k_major_sw128(address: u32) -> Self {
        Self::new(address, IGNORED, Swizzle::Bytes128.pattern_bytes(), Swizzle::Bytes128)
    }

    /// An MN-major operand with 128-byte swizzle, its panels of 64 columns `panel_stride` bytes apart.
    pub const fn mn_major_sw128(address: u32, panel_stride: u32) -> Self {
        Self::new(address, panel_stride, Swizzle::Bytes128.pattern_bytes(), Swizzle::Bytes128)
    }

    /// The same operand at another address.
    pub const fn with_start(self, address: u32) -> Self {
        Self(self.0 & !(FIELD << START_BIT) | field(address, START_BIT))
    }

    /// The same operand `bytes` further, a multiple of 16.
    ///
    /// A plain addition, so that an unrolled loop over K costs nothing but immediates. The sum must be an address of
    /// shared memory, or it runs into the next field.
    #[inline(always)]
    pub const fn advance(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add((bytes >> UNIT_SHIFT) as u64))
    }

    /// The bits that the instruction takes.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }

    const fn new(address: u32, leading: u32, stride: u32, swizzle: Swizzle) -> Self {
        let mode = match swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes128 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes32 => 3,
        };
        Self(
            field(address, START_BIT)
                | field(leading, LEADING_BIT)
                | field(stride, STRIDE_BIT)
                | mode << SWIZZLE_BIT,
        )
    }
}

/// A leading byte offset that the hardware does not look at.
const IGNORED: u32 = CHUNK_BYTES;

const START_BIT: u32 = 0;
const LEADING_BIT: u32 = 16;
const STRIDE_BIT: u32 = 32;
const SWIZZLE_BIT: u32 = 62;

/// Addresses and offsets are in units of 16 bytes.
const UNIT_SHIFT: u32 = CHUNK_BYTES.trailing_zeros();

/// An address or offset field before it is shifted into place: 14 bits, which reach 256 KiB.
const FIELD: u64 = (1 << 14) - 1;

const fn field(bytes: u32, bit: u32) -> u64 {
    ((bytes >> UNIT_SHIFT) as u64 & FIELD) << bit
}
