//! Tensor maps: what the copy engine must know of a tensor to fetch or store boxes of it.

use crate::{Half, KvFormat, TensorView};
use oximla_types::kernels::decode::{QueryTiling, TILE_COLUMNS};

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

impl HalfTensor4 {
    /// Query rows `[batch, s_q, h_q, columns]`, queries or outputs, in boxes of one tile: 64 columns of some heads of some tokens.
    pub(super) fn query_rows<T: Half>(rows: &TensorView<'_, T, 4>, tiling: QueryTiling) -> Self {
        let [batch, tokens, heads, columns] = rows.shape;
        let row_bytes = (columns * size_of::<T>()) as u64;
        // The stride of a dimension of one element may be anything.
        let stride = |dim: usize| {
            if rows.shape[dim] > 1 { rows.strides[dim] as u64 * size_of::<T>() as u64 } else { row_bytes }
        };
        Self {
            is_bf16: T::FORMAT == KvFormat::Bf16,
            address: rows.address,
            dims: [columns as u64, heads as u64, tokens as u64, batch as u64],
            strides: [stride(2), stride(1), stride(0)],
            box_dims: [TILE_COLUMNS, tiling.heads, tiling.tokens, 1],
        }
    }
}
