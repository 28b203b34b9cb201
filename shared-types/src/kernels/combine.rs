//! Combining the partial results of split requests.
//!
//! What a CTA takes at a time is a *piece*, about as much as its threads can have on its way from memory: rows of few splits
//! several at once; of a row of many splits a *slice* of columns, the narrower the more there are. The threads form as many *teams*
//! then as the row has slices. Each team covers the slice, and the splits are dealt out to the teams in turn.
//! The CTAs, as many as a GPU runs at a time, share the pieces of all split requests evenly.

use super::decode::{HEAD_DIM_V, PartialResults, SIDES, SplitRecord};
use super::sparse_decode::Divisor;
use crate::launch::{LaunchContract, MAX_SHARED_BYTES, WARP_THREADS};
use crate::schedule::{Determinism, EqualSplit};

/// Threads of a CTA: one for every four columns of a row.
pub const THREADS: u32 = 4 * WARP_THREADS;

/// Columns of a thread: one 8-byte load.
pub const COLUMNS_PER_THREAD: u32 = HEAD_DIM_V / THREADS;

/// Splits that a team loads at a time.
pub const SPLITS_AT_ONCE: u32 = 10;

/// Rows of a piece at most: of two splits each, so that a thread loads about as much as of one row of many.
pub const MAX_ROWS: u32 = 4;

/// Slices of a row at most: a split's part of one is 64 bytes then, two sectors of a cache line.
pub const MAX_SLICES: u32 = 16;

/// CTAs that run on a multiprocessor at a time.
const CTAS_PER_MULTIPROCESSOR: u32 = 4;

/// The CTA's shared memory.
#[derive(Clone, Copy, Debug)]
pub struct SharedPlan;

impl SharedPlan {
    /// Bytes of a round's lse: up to two a thread.
    const LSES_BYTES: u32 = 2 * THREADS * size_of::<f32>() as u32;
    /// Offsets of what is told of a round's splits, first their lse: two places, in turns.
    pub const ROUNDS: [u32; 2] = [0, (1 + SIDES) * Self::LSES_BYTES];
    /// Offset in a round's place of the scales of both sides, split by split.
    pub const SCALES: u32 = Self::LSES_BYTES;
    /// Offset of the columns of all threads.
    pub const COLUMNS: u32 = 2 * Self::ROUNDS[1];
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

/// Splits of a request, at most, of which a thread can load all of so many rows at once.
pub const fn splits_of_rows(rows: u32) -> u32 {
    SPLITS_AT_ONCE / rows
}

/// Base-2 logarithm of the rows of a piece of a request of `splits` splits: in the kernels for many rows as many as a thread can load
/// all splits of at once.
pub const fn rows_log2(splits: u32, many: bool) -> u32 {
    const { assert!(MAX_ROWS == 4) };
    // No division, as it takes long.
    let log2 = (splits <= splits_of_rows(2)) as u32 + (splits <= splits_of_rows(4)) as u32;
    if many { log2 } else { 0 }
}

/// Pieces of a request of so many rows and splits, in the kernels for many rows or few; none of one that is not split.
pub const fn pieces(rows: u32, splits: u32, many: bool) -> u32 {
    if splits < 2 { 0 } else { rows.div_ceil(1 << rows_log2(splits, many)) << slices_log2(splits) }
}

/// CTAs for `batch` requests of `total_rows` rows: no more than run at a time, nor than there may be pieces.
pub const fn ctas(batch: u32, total_rows: u32, multiprocessors: u32) -> u32 {
    let pieces = (batch as u64 * total_rows as u64).saturating_mul(MAX_SLICES as u64);
    let room = room(multiprocessors);
    (if pieces < room { pieces } else { room }) as u32
}

/// Rows, at most, that are few on so many multiprocessors: about two for each CTA.
pub const fn few_rows(multiprocessors: u32) -> u64 {
    2 * room(multiprocessors)
}

/// CTAs that run at a time.
const fn room(multiprocessors: u32) -> u64 {
    multiprocessors as u64 * CTAS_PER_MULTIPROCESSOR as u64
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

/// The kernels of one format of outputs.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// For few rows.
    pub few: LaunchContract,
    /// For so many that it pays to take several at a time.
    pub many: LaunchContract,
}

/// With bf16 outputs.
pub const BF16: Kernels = Kernels { few: contract("combine_bf16"), many: contract("combine_rows_bf16") };

/// With fp16 outputs.
pub const FP16: Kernels = Kernels { few: contract("combine_fp16"), many: contract("combine_rows_fp16") };

impl Kernels {
    /// That for `batch` requests of `total_rows` rows. A request's sums go in another order in one than in the other, so that
    /// it may not follow from the batch where results must not.
    pub const fn of(
        self,
        batch: u32,
        total_rows: u32,
        multiprocessors: u32,
        determinism: Determinism,
    ) -> LaunchContract {
        let is_many = batch as u64 * total_rows as u64 > few_rows(multiprocessors);
        match determinism {
            Determinism::RunToRun if !is_many => self.few,
            _ => self.many,
        }
    }
}

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
    fn a_thread_loads_all_splits_of_its_rows_at_once() {
        for (splits, rows) in [(2, 4), (3, 2), (5, 2), (6, 1), (10, 1), (11, 1), (u32::MAX, 1)] {
            assert_eq!(
                (1 << rows_log2(splits, true), rows_log2(splits, false)),
                (rows, 0),
                "{splits} splits"
            );
            assert!(rows == 1 || (slices_log2(splits) == 0 && rows * splits <= SPLITS_AT_ONCE));
        }
    }

    #[test]
    fn pieces_cover_all_rows() {
        let expected =
            [(7, 0, 0), (7, 1, 0), (7, 2, 2), (8, 2, 2), (7, 5, 4), (7, 6, 7), (7, 11, 14), (7, 66, 56)];
        for (rows, splits, expected) in expected {
            assert_eq!(pieces(rows, splits, true), expected, "{rows} rows of {splits} splits");
            let slices = if splits < 2 { 0 } else { rows << slices_log2(splits) };
            assert_eq!(pieces(rows, splits, false), slices, "{rows} rows of {splits} splits");
        }
    }

    #[test]
    fn the_kernel_follows_from_the_batch_only_where_it_may() {
        let entry = |batch, determinism| BF16.of(batch, 128, 132, determinism).entry;
        assert_eq!(
            [8, 9].map(|batch| entry(batch, Determinism::RunToRun)),
            ["combine_bf16", "combine_rows_bf16"]
        );
        assert_eq!([1, 9].map(|batch| entry(batch, Determinism::BatchInvariant)), ["combine_rows_bf16"; 2]);
    }

    #[test]
    fn all_ctas_run_at_a_time() {
        assert_eq!(ctas(1, 16, 132), 256);
        assert_eq!(ctas(128, 128, 132), 4 * 132);
        assert_eq!(ctas(u32::MAX, u32::MAX, 132), 4 * 132);
    }
}
