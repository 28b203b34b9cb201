//! The swizzles of shared memory: permutations of 16-byte chunks that spread a column of a tile over all banks.
//!
//! ```text
//! address bits   9 8 7   6 5 4   3 2 1 0
//!                └─┬─┘   └─┬─┘   └──┬──┘
//!                  │       │      within the 16-byte chunk
//!                  └─xor──→┘
//! ```
//!
//! Bits 7.. of the *address* are xored onto the bits that number the chunk within a row: all three bits for rows of
//! 128 bytes, two for 64, one for 32. The upper bits stay, so that swizzling twice undoes it. As the hardware looks at
//! addresses and not at offsets in a tile, a tile must be aligned to [`Swizzle::pattern_bytes`].
//!
//! Names elsewhere: `CU_TENSOR_MAP_SWIZZLE_128B` in the CUDA driver API, `.swizzle_mode` 128B in the PTX ISA and
//! `Swizzle<3,4,3>` in CuTe all mean [`Swizzle::Bytes128`]; 64 bytes are CuTe's `<2,4,3>`, 32 bytes `<1,4,3>`.

/// Bytes that stay together under every swizzle.
pub const CHUNK_BYTES: u32 = 16;

/// Rows after which a pattern repeats.
pub const PATTERN_ROWS: u32 = 8;

/// Distance from the address bits that are xored to the bits they are xored onto.
const XOR_SHIFT: u32 = 3;

/// A swizzle, named by the bytes in a row of the tiles it applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Rows of one 16-byte chunk, in order.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// All swizzles.
    pub const ALL: [Self; 4] = [Self::None, Self::Bytes32, Self::Bytes64, Self::Bytes128];

    /// Bytes of a row.
    pub const fn row_bytes(self) -> u32 {
        match self {
            Self::None => CHUNK_BYTES,
            Self::Bytes32 => 32,
            Self::Bytes64 => 64,
            Self::Bytes128 => 128,
        }
    }

    /// Bytes of [`PATTERN_ROWS`] rows, after which the pattern repeats; tiles are aligned to it.
    pub const fn pattern_bytes(self) -> u32 {
        PATTERN_ROWS * self.row_bytes()
    }

    /// Where the byte at `offset` of an unswizzled tile lies in the swizzled one. Its own inverse.
    pub const fn apply(self, offset: u32) -> u32 {
        // The address bits that number a chunk within its row.
        let chunk_bits = self.row_bytes() - CHUNK_BYTES;
        offset ^ ((offset >> XOR_SHIFT) & chunk_bits)
    }
}
