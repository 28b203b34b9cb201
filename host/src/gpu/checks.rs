//! What every kernel asks of tensors and grids.

use crate::{InvalidProblem, TensorView};
use oximla_types::kernels::PagedCache;

/// Alignment of pointers and of the strides of rows that are read or written 16 bytes at a time.
pub(super) const ALIGNMENT: u64 = 16;

/// Alignment of the pages of FP8 caches: what the tokens of every format are multiples of.
const PAGE_ALIGNMENT: u64 = 8;

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
    check_strides(name, row_strides, element_bytes, ALIGNMENT)
}

/// An FP8 cache of checked shape and strides, whose pages must start at multiples of 8 bytes.
pub(super) fn paged_cache(name: &str, cache: &TensorView<'_, u8, 4>) -> Result<PagedCache, InvalidProblem> {
    let [num_pages, page_size, _, _] = cache.shape;
    let page_stride = cache.strides[0];
    check_element_alignment(name, cache.address, PAGE_ALIGNMENT)?;
    if num_pages > 1 {
        check_strides(name, &[page_stride], size_of::<u8>(), PAGE_ALIGNMENT)?;
    }
    let tokens = (num_pages * page_size) as u32;
    Ok(PagedCache { pages: cache.address, page_stride, tokens, page_size: page_size as u32 })
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

/// Checks that strides are multiples of `alignment` bytes.
fn check_strides(
    name: &str,
    strides: &[i64],
    element_bytes: usize,
    alignment: u64,
) -> Result<(), InvalidProblem> {
    let unaligned = |stride: &&i64| !(stride.unsigned_abs() * element_bytes as u64).is_multiple_of(alignment);
    match strides.iter().find(unaligned) {
        None => Ok(()),
        Some(stride) => {
            let found = format!("{stride} elements of {element_bytes} bytes");
            let needed = format!("a multiple of {alignment} bytes");
            Err(InvalidProblem::new(format!("{name} strides"), found, needed))
        }
    }
}
