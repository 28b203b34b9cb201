//! Tensor maps: what the copy engine must know of a tensor to fetch boxes of it.

/// A rank-4 tensor of 16-bit elements, innermost dimension first, in boxes with 128-byte swizzle. Elements outside the
/// tensor read as zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HalfTensor4 {
    pub(super) is_bf16: bool,
    pub(super) address: u64,
    pub(super) dims: [u64; 4],
    /// Bytes from one index to the next along dimensions 1, 2 and 3; multiples of 16.
    pub(super) strides: [u64; 3],
    pub(super) box_dims: [u32; 4],
}
