//! Dense MLA decode over a paged bf16 or fp16 cache.

use crate::{Device, Error, Half, InvalidProblem, Stream, TensorView, TensorViewMut, Workspace};

/// The shape of a dense decode step.
///
/// Every query head attends to all keys of its request; values are the first `head_dim_v` elements of each key.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseDecode {
    /// Requests in the batch.
    pub batch: usize,
    /// Query tokens per request.
    pub s_q: usize,
    /// Query heads; a multiple of `h_kv`.
    pub h_q: usize,
    /// Key/value heads.
    pub h_kv: usize,
    /// Elements of a query and of a key.
    pub head_dim: usize,
    /// Elements of a value and of an output row; values are the head of each key.
    pub head_dim_v: usize,
    /// Keys per page.
    pub page_size: usize,
    /// Pages in the cache.
    pub num_pages: usize,
    /// Entries in each request's row of the page table.
    pub max_pages: usize,
    /// Factor on `q·k` before the softmax.
    pub softmax_scale: f32,
    /// Whether query `i` of `s_q` sees only the first `len − s_q + i + 1` keys.
    pub causal: bool,
}

/// What a dense decode reads.
#[derive(Clone, Copy, Debug)]
pub struct DenseDecodeInputs<'a, T> {
    /// Queries `[batch, s_q, h_q, head_dim]`.
    pub q: TensorView<'a, T, 4>,
    /// Pages of keys `[num_pages, page_size, h_kv, head_dim]`.
    pub kv_cache: TensorView<'a, T, 4>,
    /// Page table `[batch, max_pages]`: entry `j` holds the page of keys `j·page_size ..`.
    pub block_table: TensorView<'a, i32, 2>,
    /// Keys of each request `[batch]`.
    pub cache_seqlens: TensorView<'a, i32, 1>,
}

/// What a dense decode writes.
#[derive(Debug)]
pub struct DenseDecodeOutputs<'a, T> {
    /// Attention output `[batch, s_q, h_q, head_dim_v]`; zero for a query that sees no key.
    pub out: TensorViewMut<'a, T, 4>,
    /// Natural logarithm of the softmax denominator `[batch, h_q, s_q]`; +∞ for a query that sees no key.
    pub lse: TensorViewMut<'a, f32, 3>,
}

/// How a [`DenseDecode`] runs on a device.
#[derive(Clone, Debug)]
pub struct DenseDecodePlan {
    problem: DenseDecode,
    device: Device,
}
