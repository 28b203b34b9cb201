//! Combining the partial results of split requests.

use super::dense_decode::PartialResults;
use crate::launch::{LaunchContract, WARP_THREADS};

/// Threads of a CTA: one for every four columns of a row.
const THREADS: u32 = 4 * WARP_THREADS;

/// Parameters of the kernel. Strides are in elements.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct CombineParams {
    /// The partial results.
    pub partial: PartialResults,
    /// Output `[batch, s_q, h_q, 512]`.
    pub out: u64,
    /// Natural log of the softmax denominators `[batch, h_q, s_q]` f32.
    pub lse: u64,
    /// Strides of `out` by batch, query token, head.
    pub out_strides: [i64; 3],
    /// Strides of `lse` by batch, head, query token.
    pub lse_strides: [i64; 3],
    /// Query rows that share a key/value head.
    pub rows: u32,
    /// Query heads that share a key/value head.
    pub group: u32,
    /// Query rows of a request: `h_kv · rows`.
    pub total_rows: u32,
    /// Query rows that a CTA combines.
    pub rows_per_cta: u32,
    /// Slots of partial results: after a decode with a schedule of other lengths, records may name others.
    pub slots: u32,
    /// Zero; fills the struct to its alignment.
    pub reserved: u32,
}

/// CTAs that a multiprocessor should have at least: as many as run there at a time.
const CTAS_PER_MULTIPROCESSOR: u32 = 16;

/// Rows that a CTA takes at most: where few requests are split, theirs must not take long.
const MAX_ROWS_PER_CTA: u64 = 8;

/// Query rows that a CTA combines, of `batch` requests of `total_rows` rows.
pub const fn rows_per_cta(batch: u32, total_rows: u32, multiprocessors: u32) -> u32 {
    let ctas = multiprocessors as u64 * CTAS_PER_MULTIPROCESSOR as u64;
    let rows = (batch as u64 * total_rows as u64).div_ceil(if ctas == 0 { 1 } else { ctas });
    (if rows > MAX_ROWS_PER_CTA { MAX_ROWS_PER_CTA } else { rows + (rows == 0) as u64 }) as u32
}

const fn contract(entry: &'static str) -> LaunchContract {
    LaunchContract {
        entry,
        threads: THREADS,
        min_ctas_per_sm: 1,
        cluster: 1,
        shared_bytes: 0,
        param_align: 8,
    }
    .checked()
}

/// With bf16 outputs.
pub const BF16: LaunchContract = contract("combine_bf16");

/// With fp16 outputs.
pub const FP16: LaunchContract = contract("combine_fp16");
