//! `ldmatrix` and `stmatrix`: 8 × 8 matrices of 16-bit elements between shared memory and the registers of a warp (PTX
//! ISA, "ldmatrix", "stmatrix").
//!
//! Lane i gives the address of row i mod 8 of matrix i / 8. Register j of lane i holds two neighbouring elements of
//! matrix j: those of row i / 4 in columns 2·(i mod 4) and the next; with `.trans`, of column i / 4 in rows 2·(i mod 4)
//! and the next.

use ptx_syntax::ast::{Instruction, Operand};

use super::fragment::{GROUP, WARP};
use super::{DecodeError, require_operands, require_registers};

/// Bytes of a row, which is where its address must be aligned to.
pub const ROW_BYTES: usize = 16;

/// Rows of a matrix.
pub const ROWS: usize = 8;

/// Matrices of the largest transfer.
pub const MAX_MATRICES: usize = 4;

/// The registers of a warp; a transfer of fewer matrices uses the first.
pub type Registers = [[u32; MAX_MATRICES]; WARP];

/// One `ldmatrix` or `stmatrix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Whether it is an `stmatrix`.
    pub stores: bool,
    /// 1, 2 or 4.
    pub matrices: usize,
    /// `.trans`
    pub transposed: bool,
    /// Whether addresses are those of the shared window (`.shared`), else generic.
    pub shared: bool,
}

impl Transfer {
    /// Decodes `ldmatrix` or `stmatrix` of `.m8n8` and `.b16`.
    ///
    /// # Errors
    /// If it is another form, or its operands do not fit.
    pub fn decode(instruction: &Instruction) -> Result<Self, DecodeError> {
        let error = |part, found: String, needed| DecodeError::new(instruction, part, found, needed);
        let mut modifiers: &[String] = &instruction.modifiers;
        let mut take = |wanted: &str| match modifiers {
            [first, rest @ ..] if first == wanted => {
                modifiers = rest;
                true
            }
            _ => false,
        };
        let stores = instruction.opcode == "stmatrix";
        let begins = stores || instruction.opcode == "ldmatrix";
        let begins = begins && take("sync") && take("aligned") && take("m8n8");
        let matrices = [("x1", 1), ("x2", 2), ("x4", 4)].into_iter().find(|(name, _)| take(name));
        let transposed = take("trans");
        let shared = take("shared") || take("shared::cta");
        let ends = take("b16") && modifiers.is_empty();
        let Some((_, matrices)) = matrices.filter(|_| begins && ends) else {
            let needed = "ldmatrix or stmatrix.sync.aligned.m8n8.{x1,x2,x4}{.trans}{.shared}.b16";
            return Err(error("the instruction", instruction.mnemonic(), needed));
        };
        let decoded = Self { stores, matrices, transposed, shared };
        require_operands(instruction, 2)?;
        require_registers(instruction, decoded.register_operand(), "the vector", matrices)?;
        match &instruction.operands[decoded.address_operand()] {
            Operand::Address(address) if address.coordinates.is_empty() => Ok(decoded),
            other => Err(error("the address", format!("{other:?}"), "[address]")),
        }
    }

    /// Position of the vector of registers among the operands.
    pub fn register_operand(&self) -> usize {
        usize::from(self.stores)
    }

    /// Position of the address among the operands.
    pub fn address_operand(&self) -> usize {
        usize::from(!self.stores)
    }

    /// The lanes 0 up to this one give the addresses of rows; those of the others are ignored.
    pub fn address_lanes(&self) -> usize {
        ROWS * self.matrices
    }

    /// What `ldmatrix` brings: `rows[i]` is read at the address of lane i.
    pub fn rows_to_registers(&self, rows: &[[u8; ROW_BYTES]]) -> Registers {
        let mut registers = [[0; MAX_MATRICES]; WARP];
        for (matrix, rows) in rows.as_chunks::<ROWS>().0.iter().take(self.matrices).enumerate() {
            for (lane, registers) in registers.iter_mut().enumerate() {
                let [low, high] = self.elements(lane).map(|(row, column)| {
                    u32::from(u16::from_le_bytes([rows[row][2 * column], rows[row][2 * column + 1]]))
                });
                registers[matrix] = high << 16 | low;
            }
        }
        registers
    }

    /// What `stmatrix` writes: row i goes to the address of lane i, for i below
    /// [`address_lanes`](Self::address_lanes).
    pub fn registers_to_rows(&self, registers: &Registers) -> Vec<[u8; ROW_BYTES]> {
        let mut rows = vec![[0; ROW_BYTES]; self.address_lanes()];
        for (matrix, rows) in rows.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            for (lane, registers) in registers.iter().enumerate() {
                let halves = [registers[matrix] as u16, (registers[matrix] >> 16) as u16];
                for ((row, column), half) in self.elements(lane).into_iter().zip(halves) {
                    rows[row][2 * column..2 * column + 2].copy_from_slice(&half.to_le_bytes());
                }
            }
        }
        rows
    }

    /// Row and column of the two elements of a matrix that a lane holds, the lower half first.
    fn elements(&self, lane: usize) -> [(usize, usize); 2] {
        let (group, pair) = (lane / GROUP, lane % GROUP * 2);
        [pair, pair + 1].map(|place| if self.transposed { (place, group) } else { (group, place) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows whose element (row i, column j) is 256·i + j.
    fn numbered() -> Vec<[u8; ROW_BYTES]> {
        let row = |i: usize| std::array::from_fn(|byte| if byte % 2 == 0 { byte / 2 } else { i } as u8);
        (0..32).map(row).collect()
    }

    fn transfer(matrices: usize, transposed: bool) -> Transfer {
        Transfer { stores: false, matrices, transposed, shared: true }
    }

    #[test]
    fn places_read_off_the_figures() {
        // Thread 0 holds elements 0 and 1 of row 0, thread 4 those of row 1, thread 31 the last two of row 7.
        let registers = transfer(4, false).rows_to_registers(&numbered());
        assert_eq!(registers[0], [0x0001_0000, 0x0801_0800, 0x1001_1000, 0x1801_1800]);
        assert_eq!((registers[4][0], registers[31][0]), (0x0101_0100, 0x0707_0706));
        // Transposed, thread 0 holds rows 0 and 1 of column 0, thread 31 rows 6 and 7 of column 7.
        let registers = transfer(4, true).rows_to_registers(&numbered());
        assert_eq!(registers[0], [0x0100_0000, 0x0900_0800, 0x1100_1000, 0x1900_1800]);
        assert_eq!((registers[4][0], registers[31][0]), (0x0101_0001, 0x0707_0607));
    }

    #[test]
    fn loads_and_stores_are_inverse() {
        for (matrices, transposed) in [(1, false), (2, true), (4, false), (4, true)] {
            let transfer = transfer(matrices, transposed);
            let rows = &numbered()[..transfer.address_lanes()];
            let registers = transfer.rows_to_registers(rows);
            assert_eq!(transfer.registers_to_rows(&registers), rows);
            assert!(registers.iter().all(|lane| lane[matrices..].iter().all(|register| *register == 0)));
        }
        assert_eq!(transfer(4, false).rows_to_registers(&[])[7], [0; 4]);
    }
}
