//! Combining the partial results of split requests.
//!
//! A row is cut into *slices* of columns, the more the more splits it has. A CTA takes a slice at a time, and its threads
//! form as many *teams* as there are slices. Each team covers the slice, and the splits are dealt out to the teams in turn.
//! The CTAs, as many as a GPU runs at a time, share the slices of all split requests evenly.

use super::decode::{HEAD_DIM_V, PartialResults, SplitRecord};
use super::sparse_decode::Divisor;
use crate::launch::{LaunchContract, MAX_SHARED_BYTES, WARP_THREADS};
use crate::schedule::EqualSplit;

/// Threads of a CTA: one for every four columns of a row.
pub const THREADS: u32 = 4 * WARP_THREADS;

/// Columns of a thread: one 16-byte load.
pub const COLUMNS_PER_THREAD: u32 = HEAD_DIM_V / THREADS;

/// Splits that a team loads at a time.
pub const SPLITS_AT_ONCE: u32 = 10;

/// Slices of a row at most: a split's part of one is 128 bytes then, a line of the caches.
pub const MAX_SLICES: u32 = 16;

/// CTAs that run on a multiprocessor at a time.
const CTAS_PER_MULTIPROCESSOR: u32 = 4;

/// The CTA's shared memory.
#[derive(Clone, Copy, Debug)]
pub struct SharedPlan;

impl SharedPlan {
    /// Bytes of a round's lse: up to two a thread.
    pub const LSES_BYTES: u32 = 2 * THREADS * size_of::<f32>() as u32;
    /// Offsets of a round's lse: two places, in turns.
    pub const LSES: [u32; 2] = [0, Self::LSES_BYTES];
    /// Offset of the columns of all threads.
    pub const COLUMNS: u32 = 2 * Self::LSES_BYTES;
    /// Bytes of a thread's columns.
    pub const THREAD_BYTES: u32 = COLUMNS_PER_THREAD * 4;
    /// Offset of a request's record for each thread.
    pub const RECORDS: u32 = Self::COLUMNS + THREADS * Self::THREAD_BYTES;
    /// Bytes in all.
    pub const BYTES: u32 = Self::RECORDS + THREADS * size_of::<SplitRecord>() as u32;
}

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
    /// Requests.
    pub batch: u32,
    /// Query rows that share a key/value head.
    pub rows: Divisor,
    /// Query heads that share a key/value head.
    pub group: Divisor,
    /// Query rows of a request: `h_kv · rows`.
    pub total_rows: u32,
    /// Slots of partial results: after a decode with a schedule of other lengths, records may name others.
    pub slots: u32,
    /// CTAs of the launch.
    pub ctas: u32,
    /// Natural-log weights `[h_q]` f32 that join the denominator; 0: none.
    pub attn_sink: u64,
    /// Stride of `attn_sink`, in elements.
    pub attn_sink_stride: i64,
    /// Requests that are query tokens of one batch entry: 1, but for a sparse decode, whose query tokens have keys of their
    /// own.
    pub queries: Divisor,
    /// How requests are divided, where their lengths are known; else records tell.
    pub equal: EqualSplit,
    /// Where the records come from: 1 for a schedule that had been computed before the decode kernel began, 0 for that kernel.
    pub is_scheduled: u32,
}

/// Base-2 logarithm of the slices of each row of a request of `splits` splits: as many as let a team load its splits at
/// once.
///
/// It follows from the request alone, as the order of its sums does with it.
pub const fn slices_log2(splits: u32) -> u32 {
    let slices = splits.div_ceil(SPLITS_AT_ONCE).next_power_of_two();
    (if slices > MAX_SLICES { MAX_SLICES } else { slices }).trailing_zeros()
}

/// CTAs for `batch` requests of `total_rows` rows: no more than run at a time, nor than there may be slices.
pub const fn ctas(batch: u32, total_rows: u32, multiprocessors: u32) -> u32 {
    let slices = (batch as u64 * total_rows as u64).saturating_mul(MAX_SLICES as u64);
    let room = multiprocessors as u64 * CTAS_PER_MULTIPROCESSOR as u64;
    (if slices < room { slices } else { room }) as u32
}

/// Shared memory that a CTA asks for: as much as lets no more run on a multiprocessor. The kernel starts while a decode ends; without
/// that, the multiprocessors that have nothing to decode would take all CTAs, and the others none.
const SHARED_BYTES: u32 = MAX_SHARED_BYTES / CTAS_PER_MULTIPROCESSOR - 1024;

const _: () = assert!(SHARED_BYTES >= SharedPlan::BYTES);

const fn contract(entry: &'static str) -> LaunchContract {
    LaunchContract {
        entry,
        threads: THREADS,
        min_ctas_per_sm: CTAS_PER_MULTIPROCESSOR,
        cluster: 1,
        shared_bytes: SHARED_BYTES,
        param_align: 8,
    }
    .checked()
}

/// With bf16 outputs.
pub const BF16: LaunchContract = contract("combine_bf16");

/// With fp16 outputs.
pub const FP16: LaunchContract = contract("combine_fp16");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_loads_its_splits_at_once() {
        let expected = [(2, 1), (10, 1), (11, 2), (20, 2), (21, 4), (66, 8), (132, 16), (160, 16)];
        for (splits, slices) in expected {
            assert_eq!(1 << slices_log2(splits), slices, "{splits} splits");
        }
        assert_eq!(1 << slices_log2(u32::MAX), MAX_SLICES);
    }

    #[test]
    fn all_ctas_run_at_a_time() {
        assert_eq!(ctas(1, 16, 132), 256);
        assert_eq!(ctas(128, 128, 132), 4 * 132);
        assert_eq!(ctas(u32::MAX, u32::MAX, 132), 4 * 132);
    }
}
