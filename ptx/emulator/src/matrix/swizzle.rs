//! Swizzling: the permutation of 16-byte runs that spreads the rows of a tile over the banks of shared memory.
//!
//! PTX ISA, "Tensor swizzling modes" (copies of tensors) and "Shared Memory Matrix Layout" (operands of `wgmma`). Both
//! act on the address itself, not on the distance from where a tile begins: bits 4 to 6, the place of a 16-byte run
//! within 128 bytes, are combined with bits 7 to 9, the number of the 128-byte line.

/// How 16-byte runs change places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// They do not.
    None,
    /// Within 32 bytes: bit 4 of the address is combined with bit 7.
    Bytes32,
    /// Within 64 bytes: bits 4 and 5 with bits 7 and 8.
    Bytes64,
    /// Within 128 bytes: bits 4 to 6 with bits 7 to 9.
    Bytes128,
}

/// Bytes that keep their order.
pub const RUN_BYTES: u32 = 16;

/// Distance between the bits that change and those that say how: 4 to 6, 7 to 9.
const BIT_DISTANCE: u32 = 3;

/// Lines of 128 bytes, by which a base offset counts.
const LINE_SHIFT: u32 = 7;

/// Rows until the pattern repeats.
const PATTERN_ROWS: u32 = 8;

impl Swizzle {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::None, Self::Bytes32, Self::Bytes64, Self::Bytes128];

    /// Bytes within which runs change places: 32, 64, 128; 16, a single run, without swizzle.
    pub const fn span(self) -> u32 {
        match self {
            Self::None => RUN_BYTES,
            Self::Bytes32 => 32,
            Self::Bytes64 => 64,
            Self::Bytes128 => 128,
        }
    }

    /// Bytes after which the pattern repeats: 256, 512, 1024. A tile that begins at a multiple of it has the layout
    /// that the ISA draws. 128 without swizzle.
    pub const fn pattern_bytes(self) -> u32 {
        self.span() * PATTERN_ROWS
    }

    /// Where the byte that belongs at `address` stands. Its own inverse.
    pub const fn apply(self, address: u32) -> u32 {
        self.apply_from(address, 0)
    }

    /// The same for a pattern that begins `base_offset` lines of 128 bytes behind a multiple of its length (the field
    /// "matrix base offset" of a descriptor).
    pub const fn apply_from(self, address: u32, base_offset: u32) -> u32 {
        let within_pattern = address.wrapping_sub(base_offset << LINE_SHIFT);
        address ^ ((within_pattern >> BIT_DISTANCE) & (self.span() - RUN_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures "Example of 32-Byte / 64-Byte / 128-Byte swizzle mode": for each line of 128 bytes, which run stands in
    /// its eight places.
    #[test]
    fn follows_the_figures() {
        let figures: [(Swizzle, &[[u32; 8]]); 3] = [
            (Swizzle::Bytes32, &[[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6]]),
            (
                Swizzle::Bytes64,
                &[
                    [0, 1, 2, 3, 4, 5, 6, 7],
                    [1, 0, 3, 2, 5, 4, 7, 6],
                    [2, 3, 0, 1, 6, 7, 4, 5],
                    [3, 2, 1, 0, 7, 6, 5, 4],
                ],
            ),
            (
                Swizzle::Bytes128,
                &[
                    [0, 1, 2, 3, 4, 5, 6, 7],
                    [1, 0, 3, 2, 5, 4, 7, 6],
                    [2, 3, 0, 1, 6, 7, 4, 5],
                    [3, 2, 1, 0, 7, 6, 5, 4],
                    [4, 5, 6, 7, 0, 1, 2, 3],
                    [5, 4, 7, 6, 1, 0, 3, 2],
                    [6, 7, 4, 5, 2, 3, 0, 1],
                    [7, 6, 5, 4, 3, 2, 1, 0],
                ],
            ),
        ];
        for (swizzle, lines) in figures {
            assert_eq!(swizzle.pattern_bytes() as usize, lines.len() * 128);
            for (line, runs) in (0u32..).zip(lines.iter().cycle().take(16)) {
                for (place, run) in (0u32..).zip(runs) {
                    assert_eq!(swizzle.apply(line * 128 + run * 16 + 5), line * 128 + place * 16 + 5);
                }
            }
        }
    }

    #[test]
    fn is_its_own_inverse_and_keeps_lines() {
        for swizzle in Swizzle::ALL {
            for address in (0..4096).chain(0x3_f000..0x4_0000) {
                for base_offset in 0..8 {
                    let moved = swizzle.apply_from(address, base_offset);
                    assert_eq!(swizzle.apply_from(moved, base_offset), address);
                    assert_eq!(moved / swizzle.span().max(16), address / swizzle.span().max(16));
                }
            }
        }
        assert_eq!(Swizzle::None.apply(0x1234), 0x1234);
    }

    #[test]
    fn base_offset_moves_the_beginning_of_the_pattern() {
        let begin = 1024 + 3 * 128;
        for line in 0..8 {
            let moved = Swizzle::Bytes128.apply_from(begin + line * 128, 3);
            assert_eq!(moved, begin + line * 128 + line * 16);
        }
    }
}
