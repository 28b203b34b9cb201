//! Merging the results of attention over disjoint keys.

use super::decode::HEAD_DIM_V;
use crate::launch::{LaunchContract, WARP_THREADS};

/// Elements of a thread.
pub const COLUMNS_PER_THREAD: u32 = 4;

/// Threads of a CTA: they take a row together.
const THREADS: u32 = 4 * WARP_THREADS;

const _: () = assert!(THREADS * COLUMNS_PER_THREAD == HEAD_DIM_V);

/// States that can be merged at a time.
pub const MAX_STATES: usize = 32;

/// The tensors of a state. Strides are in elements.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct StateTensors {
    /// Outputs `[batch, s_q, h_q, 512]`.
    pub out: u64,
    /// Natural log of the softmax denominators `[batch, h_q, s_q]` f32.
    pub lse: u64,
    /// Strides of `out` by batch, query token, head.
    pub out_strides: [i64; 3],
    /// Strides of `lse` by batch, head, query token.
    pub lse_strides: [i64; 3],
}

/// Parameters of the kernel.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct MergeStatesParams {
    /// What is merged: the first `count` of them.
    pub states: [StateTensors; MAX_STATES],
    /// The result.
    pub merged: StateTensors,
    /// States.
    pub count: u32,
    /// Query heads.
    pub h_q: u32,
    /// Query rows of a request: `s_q · h_q`.
    pub total_rows: u32,
    /// Query rows that a CTA merges.
    pub rows_per_cta: u32,
}

/// CTAs that a multiprocessor should have at least: as many as run there at a time.
const CTAS_PER_MULTIPROCESSOR: u32 = 16;

/// Rows that a CTA takes at most.
const MAX_ROWS_PER_CTA: u64 = 8;

/// Query rows that a CTA merges, of `batch` requests of `total_rows` rows.
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

/// For bf16 outputs.
pub const BF16: LaunchContract = contract("merge_states_bf16");

/// For fp16 outputs.
pub const FP16: LaunchContract = contract("merge_states_fp16");

/// For f32 outputs.
pub const F32: LaunchContract = contract("merge_states_f32");
