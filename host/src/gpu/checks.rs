//! What every kernel asks of tensors and grids.

use crate::InvalidProblem;

/// Alignment of pointers and of the strides of rows that are read or written 16 bytes at a time.
pub(super) const ALIGNMENT: u64 = 16;

/// Largest second grid dimension.
pub(super) const MAX_GRID_Y: usize = 65_535;

/// Checks that every row starts at a multiple of 16 bytes.
pub(super) fn check_alignment(
    name: &str,
    address: u64,
    row_strides: &[i64],
    element_bytes: usize,
) -> Result<(), InvalidProblem> {
    check_element_alignment(name, address, ALIGNMENT)?;
    let unaligned = |stride: &&i64| !(stride.unsigned_abs() * element_bytes as u64).is_multiple_of(ALIGNMENT);
    match row_strides.iter().find(unaligned) {
        None => Ok(()),
        Some(stride) => {
            let found = format!("{stride} elements of {element_bytes} bytes");
            let needed = format!("a multiple of {ALIGNMENT} bytes");
            Err(InvalidProblem::new(format!("{name} strides"), found, needed))
        }
    }
}

/// Checks that an address is a multiple of `alignment` bytes.
pub(super) fn check_element_alignment(
    name: &str,
    address: u64,
    alignment: u64,
) -> Result<(), InvalidProblem> {
    if address.is_multiple_of(alignment) {
        return Ok(());
    }
    Err(InvalidProblem::new(
        name,
        format!("at address {address:#x}"),
        format!("aligned to {alignment} bytes"),
    ))
}
