//! Fragments: which thread holds which elements of a matrix, in which registers.
//!
//! Counted in 32-bit words of a row, the layouts do not depend on the type of the elements: a word is four 8-bit
//! elements, two of 16 bits, or one of 32. In all figures the group of a thread is `lane / 4` and its place in the group
//! `lane % 4`. A warpgroup divides 64 rows into 16 for each of its warps.

/// Threads of a warp.
pub const WARP: usize = 32;

/// Rows of A and D that belong to a warp.
pub const WARP_ROWS: usize = 16;

/// Rows, or columns of B, between the two halves of a fragment.
pub const HALF: usize = 8;

/// Threads that share a row.
pub const GROUP: usize = 4;

/// Row, and 32-bit word in this row, of a register of A.
///
/// Figures "WGMMA .m64nNk16 register fragment layout for matrix A" (likewise k8, k32), `thread` 0 to 127, `register` 0 to
/// 3; "MMA .m16n8k16 fragment layout for matrix A with .f16 / .bf16 type" (likewise m16n8k8 with registers 0 and 1),
/// `thread` 0 to 31.
pub const fn a(thread: usize, register: usize) -> (usize, usize) {
    let row = group(thread) + HALF * (register % 2);
    (row, thread % GROUP + GROUP * (register / 2))
}

/// Column of B, and 32-bit word in this column, of a register of B.
///
/// Figures "MMA .m16n8k16 fragment layout for matrix B with .f16 / .bf16 type" (likewise m16n8k8 with register 0).
pub const fn b(lane: usize, register: usize) -> (usize, usize) {
    (lane / GROUP, lane % GROUP + GROUP * register)
}

/// Row and column of an element of D; a 32-bit accumulator is a register, two of f16 share one.
///
/// Figures "WGMMA .m64nNk16 register fragment layout for accumulator matrix D", `thread` 0 to 127, `element` 0 to n/2-1;
/// "MMA .m16n8k16 fragment layout for accumulator matrix C and D", `thread` 0 to 31, `element` 0 to 3.
pub const fn accumulator(thread: usize, element: usize) -> (usize, usize) {
    let row = group(thread) + HALF * (element / 2 % 2);
    (row, HALF * (element / 4) + 2 * (thread % GROUP) + element % 2)
}

/// The upper row that a thread has a part in.
const fn group(thread: usize) -> usize {
    WARP_ROWS * (thread / WARP) + thread % WARP / GROUP
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_element_has_one_place() {
        let words: HashSet<_> = (0..128).flat_map(|t| (0..4).map(move |r| a(t, r))).collect();
        assert_eq!(words, (0..64).flat_map(|row| (0..8).map(move |word| (row, word))).collect());
        let columns: HashSet<_> = (0..32).flat_map(|t| (0..2).map(move |r| b(t, r))).collect();
        assert_eq!(columns, (0..8).flat_map(|column| (0..8).map(move |word| (column, word))).collect());
        for n in [8, 24, 256] {
            let elements: HashSet<_> =
                (0..128).flat_map(|t| (0..n / 2).map(move |e| accumulator(t, e))).collect();
            assert_eq!(elements, (0..64).flat_map(|row| (0..n).map(move |column| (row, column))).collect());
        }
    }

    #[test]
    fn places_read_off_the_figures() {
        // m64k16: T0 {a0,a1} row 0 columns 0, 1; {a2,a3} row 8; {a4,a5} row 0 columns 8, 9. T6: group 1, third place.
        assert_eq!((a(0, 0), a(0, 1), a(0, 2), a(0, 3)), ((0, 0), (8, 0), (0, 4), (8, 4)));
        assert_eq!(a(6, 3), (9, 6));
        assert_eq!((a(32, 0), a(127, 3)), ((16, 0), (63, 7)));
        // m16n8k16: T0 {b0,b1} rows 0, 1 of column 0; T31 {b2,b3} rows 14, 15 of column 7.
        assert_eq!((b(0, 0), b(5, 0), b(31, 1)), ((0, 0), (1, 1), (7, 7)));
        // D: T0 {d0,d1} row 0 columns 0, 1; {d2,d3} row 8; {d4,d5} row 0 columns 8, 9; T127 d3: row 63, column 7.
        assert_eq!((accumulator(0, 1), accumulator(0, 2), accumulator(0, 4)), ((0, 1), (8, 0), (0, 8)));
        assert_eq!((accumulator(127, 3), accumulator(37, 127)), ((63, 7), (25, 251)));
    }
}
