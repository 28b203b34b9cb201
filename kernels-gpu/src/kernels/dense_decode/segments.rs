//! Which key blocks a CTA computes, request by request.

use crate::attention::rows::QueryRows;
use crate::attention::unroll;
use crate::ptx::{memory, warp};
use oximla_types::kernels::dense_decode::DenseDecodeParams;
use oximla_types::launch::WARP_THREADS;
use oximla_types::schedule::{self, BlockRange, PartitionRange, SplitKv, Workload};

/// The part of one request that a CTA computes.
#[derive(Clone, Copy)]
pub struct Segment {
    /// The request.
    pub request: u32,
    /// Its keys.
    pub len: u32,
    /// The blocks to compute; empty where no row of the tile sees any of them.
    pub blocks: BlockRange,
    /// The partitions that share the request.
    pub splits: PartitionRange,
}

/// Walks along a partition's piece of the work line.
#[derive(Clone)]
pub struct Segments<'a> {
    params: &'a DenseDecodeParams,
    split: SplitKv,
    partition: u32,
    /// Last row of the tile: it sees the most keys.
    rows: QueryRows,
    last_row: u32,
    request: u32,
    /// Where `request` starts on the work line.
    start: u32,
}

impl<'a> Segments<'a> {
    /// The segments of `partition` for the tile of rows that ends with `last_row`.
    ///
    /// # Safety
    /// The whole warp calls it; `cache_seqlens` is readable as the parameters say.
    #[inline(always)]
    pub unsafe fn new(
        params: &'a DenseDecodeParams,
        partition: u32,
        rows: QueryRows,
        last_row: u32,
        lane: u32,
    ) -> Self {
        // SAFETY: as the caller promises.
        unsafe {
            let split = SplitKv::new(workload(params, lane), params.partitions);
            let (request, start) = locate(params, split, split.piece_start(partition), lane);
            Self { params, split, partition, rows, last_row, request, start }
        }
    }

    /// The next segment.
    ///
    /// # Safety
    /// `cache_seqlens` is readable as the parameters say.
    #[inline(always)]
    pub unsafe fn next(&mut self) -> Option<Segment> {
        let piece_end = self.split.piece_start(self.partition + 1);
        while self.request < self.params.batch && self.start + schedule::REQUEST_OVERHEAD < piece_end {
            let (request, start) = (self.request, self.start);
            // SAFETY: the request is one of the batch.
            let len = unsafe { request_keys(self.params, request) };
            let blocks = schedule::key_blocks(len);
            self.request += 1;
            self.start += self.split.request_work(blocks);
            let scheduled = self.split.blocks(start, blocks, self.partition);
            if !scheduled.is_empty() {
                let visible = schedule::key_blocks(self.rows.visible_keys(self.last_row, len));
                let end = if scheduled.end < visible { scheduled.end } else { visible };
                return Some(Segment {
                    request,
                    len,
                    blocks: BlockRange { begin: scheduled.begin, end },
                    splits: self.split.partitions(start, blocks),
                });
            }
        }
        None
    }
}

/// Keys of a request, never more than its row of the page table can name.
///
/// # Safety
/// `cache_seqlens` is readable as the parameters say, and `request` is one of the batch.
#[inline(always)]
unsafe fn request_keys(params: &DenseDecodeParams, request: u32) -> u32 {
    let offset = request as i64 * params.cache_seqlens_stride * 4;
    // SAFETY: as the caller promises.
    let len = unsafe { memory::ld_global_i32(params.cache_seqlens.wrapping_add(offset as u64)) };
    let capacity = params.max_pages * schedule::BLOCK_KEYS;
    let len = if len < 0 { 0 } else { len as u32 };
    if len < capacity { len } else { capacity }
}

/// Requests that each lane looks at in one go, so that their lengths are on their way together.
const GO: u32 = 4;

/// Blocks of the request `lane` requests after `first`; none past the batch.
#[inline(always)]
unsafe fn lane_blocks(params: &DenseDecodeParams, first: u32, lane: u32) -> Option<u32> {
    // SAFETY: the request is one of the batch.
    (first + lane < params.batch).then(|| unsafe { schedule::key_blocks(request_keys(params, first + lane)) })
}

/// What the division of the batch follows from.
#[inline(always)]
unsafe fn workload(params: &DenseDecodeParams, lane: u32) -> Workload {
    let (mut total, mut longest) = (0, 0);
    let mut first = 0;
    while first < params.batch {
        unroll!(I in 4 => {
            const { assert!(GO == 4) };
            // SAFETY: lanes past the batch read nothing.
            let blocks = unsafe { lane_blocks(params, first + I as u32 * WARP_THREADS, lane) };
            let work = blocks.map_or(0, schedule::request_work);
            total += work;
            longest = if work > longest { work } else { longest };
        });
        first += GO * WARP_THREADS;
    }
    macro_rules! step {
        ($($mask:literal)*) => { $({
            // SAFETY: the whole warp is here.
            let other = unsafe {
                total += warp::shfl_bfly::<$mask>(total);
                warp::shfl_bfly::<$mask>(longest)
            };
            longest = if other > longest { other } else { longest };
        })* };
    }
    step!(16 8 4 2 1);
    Workload { total, longest, batch: params.batch }
}

/// The request that unit `unit` of the work line falls into, and where it starts; `batch` past the line's end.
#[inline(always)]
unsafe fn locate(params: &DenseDecodeParams, split: SplitKv, unit: u32, lane: u32) -> (u32, u32) {
    let mut before = 0;
    let mut first = 0;
    while first < params.batch {
        // SAFETY: lanes past the batch read nothing; the whole warp is here.
        unsafe {
            let work = lane_blocks(params, first, lane).map_or(0, |blocks| split.request_work(blocks));
            let end = before + inclusive_sum(work, lane);
            let past = warp::ballot(end > unit);
            if past != 0 {
                let found = past.trailing_zeros();
                return (first + found, warp::shfl_idx(end - work, found));
            }
            before = warp::shfl_idx(end, WARP_THREADS - 1);
        }
        first += WARP_THREADS;
    }
    (params.batch, before)
}

/// Sum over this lane and the ones below.
#[inline(always)]
unsafe fn inclusive_sum(value: u32, lane: u32) -> u32 {
    let mut sum = value;
    macro_rules! step {
        ($($delta:literal)*) => { $({
            // SAFETY: the whole warp is here.
            let below = unsafe { warp::shfl_up::<$delta>(sum) };
            sum += if lane >= $delta { below } else { 0 };
        })* };
    }
    step!(1 2 4 8 16);
    sum
}
