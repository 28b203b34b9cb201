//! Which key blocks a CTA computes, request by request.

use crate::attention::rows::QueryTile;
use crate::attention::scan;
use crate::attention::unroll;
use crate::ptx::{memory, special, warp};
use core::num::NonZeroU32;
use oximla_types::kernels::decode::{DecodeParams, FUSED_CTAS, SplitRecord};
use oximla_types::launch::WARP_THREADS;
use oximla_types::schedule::{self, BlockRange, Cursor, Place, SlotRange, SplitKv, Workload};

/// How many keys the requests have.
pub trait Requests: Copy {
    /// The shortest piece of the work line, in blocks, where the longest request takes `longest` of it.
    fn min_payload(longest: u32) -> u32;

    /// Keys of a request.
    ///
    /// # Safety
    /// The parameters describe live tensors, and `request` is one of the batch.
    unsafe fn keys(self, request: u32) -> u32;
}

/// A part of one request that a CTA computes.
#[derive(Clone, Copy)]
pub struct Segment {
    /// The request.
    pub request: u32,
    /// Its keys.
    pub len: u32,
    /// The blocks to compute; empty where no row of the tile sees any of them.
    pub blocks: BlockRange,
    /// Where the partial result goes, if the request is split.
    pub slot: u32,
    /// What the combine kernel must know of the request, as its first segment says.
    pub splits: SplitRecord,
}

/// Walks along a partition's piece of the work line.
#[derive(Clone)]
pub struct Segments<'a, R> {
    params: &'a DecodeParams,
    requests: R,
    split: SplitKv,
    /// The last token sees the most keys.
    tile: QueryTile,
    last_token: u32,
    cursor: Cursor,
}

impl<'a, R: Requests> Segments<'a, R> {
    /// The segments of `partition` for a tile of rows, as far as query token `last_token` sees them.
    ///
    /// # Safety
    /// The whole warp calls it; the parameters describe live tensors.
    #[inline(always)]
    pub unsafe fn new(
        params: &'a DecodeParams,
        requests: R,
        partition: u32,
        tile: QueryTile,
        last_token: u32,
        lane: u32,
    ) -> Self {
        // SAFETY: as the caller promises.
        unsafe {
            let place = if params.places == 0 {
                find(params, requests, partition, lane)
            } else {
                look_up(params, partition)
            };
            let uniform = |word| warp::shfl_idx(word, 0);
            let place = Place {
                chunk: uniform(place.chunk),
                start: uniform(place.start),
                payload: uniform(place.payload),
                width: uniform(place.width),
            };
            Self::from_place(params, requests, place, tile, last_token)
        }
    }

    /// Those from a place on.
    #[inline(always)]
    pub fn from_place(
        params: &'a DecodeParams,
        requests: R,
        place: Place,
        tile: QueryTile,
        last_token: u32,
    ) -> Self {
        let (split, cursor) = place.restore(params.chunk_slots);
        Self { params, requests, split, tile, last_token, cursor }
    }

    /// Where they stand.
    #[inline(always)]
    pub fn place(&self) -> Place {
        Place::new(self.split, self.cursor)
    }

    /// The next segment.
    ///
    /// # Safety
    /// The parameters describe live tensors.
    #[inline(always)]
    pub unsafe fn next(&mut self) -> Option<Segment> {
        let request = self.cursor.request();
        if request >= self.params.requests || !self.split.has(special::cta_y(), self.cursor) {
            return None;
        }
        // SAFETY: the request is one of the batch.
        let len = unsafe { self.requests.keys(request) };
        let (chunk, behind) = self.split.take(special::cta_y(), self.cursor, schedule::key_blocks(len));
        self.cursor = behind;
        let visible = schedule::key_blocks(self.tile.visible_keys(self.last_token, len));
        let end = if chunk.blocks.end < visible { chunk.blocks.end } else { visible };
        Some(Segment {
            request,
            len,
            blocks: BlockRange { begin: chunk.blocks.begin, end },
            slot: chunk.slot,
            splits: SplitRecord { first: chunk.slot, count: chunk.splits },
        })
    }

    /// This CTA's split of the request that its cluster has all splits of; then nothing.
    ///
    /// # Safety
    /// As of [`Self::next`].
    #[inline(always)]
    pub unsafe fn next_split(&mut self) -> Option<Segment> {
        const CTAS: NonZeroU32 = NonZeroU32::new(FUSED_CTAS).unwrap();
        let request = self.cursor.request();
        if request >= self.params.requests {
            return None;
        }
        self.cursor = Cursor::before(self.params.requests);
        // SAFETY: the request is one of the batch.
        let len = unsafe { self.requests.keys(request) };
        let (blocks, count) = schedule::equal_share(schedule::key_blocks(len), special::cta_y() % CTAS, CTAS);
        let visible = schedule::key_blocks(self.tile.visible_keys(self.last_token, len));
        let end = if blocks.end < visible { blocks.end } else { visible };
        let slot = special::cta_y();
        Some(Segment {
            request,
            len,
            blocks: BlockRange { begin: blocks.begin, end },
            slot,
            splits: SplitRecord { first: slot, count },
        })
    }
}

/// Finds out how the work line is divided and where `partition` starts.
///
/// # Safety
/// The whole warp calls it; the parameters describe live tensors.
#[inline(always)]
pub unsafe fn find(params: &DecodeParams, requests: impl Requests, partition: u32, lane: u32) -> Place {
    // SAFETY: as the caller promises.
    unsafe {
        let split = SplitKv::new(workload(params, requests, lane), params.partitions);
        let (request, start) = locate(params, requests, split, split.piece_start(partition), lane);
        let len = if request < params.requests { requests.keys(request) } else { 0 };
        Place::new(split, split.enter(partition, request, start, schedule::key_blocks(len)))
    }
}

/// Tells of requests, the partition's share of them: the lanes of a warp each of another one, with its keys and its slots. The
/// division is the one that `place` belongs to.
///
/// # Safety
/// As of [`find`]; `tell` is safe to call with requests of the batch.
#[inline(always)]
pub unsafe fn for_each_request(
    params: &DecodeParams,
    requests: impl Requests,
    place: Place,
    lane: u32,
    tell: impl Fn(u32, u32, SlotRange),
) {
    let (split, _) = place.restore(params.chunk_slots);
    // How many warps' worth of requests the partition leaves to others before it tells of one.
    let mut left_to_others = special::cta_y();
    let mut before = 0;
    let mut first = 0;
    while first < params.requests {
        // SAFETY: the request is one of the batch; the whole warp is here.
        unsafe {
            let (work, end) = lane_work(params, requests, split, first, before, lane);
            before = warp::shfl_idx(end, WARP_THREADS - 1);
            let request = first + lane;
            if left_to_others == 0 && request < params.requests {
                let keys = requests.keys(request);
                tell(request, keys, split.splits(request, end - work, schedule::key_blocks(keys)));
            }
        }
        left_to_others = if left_to_others == 0 { params.partitions - 1 } else { left_to_others - 1 };
        first += WARP_THREADS;
    }
}

/// What [`find`] found when the schedule was computed.
///
/// # Safety
/// `places` is readable as the parameters say.
#[inline(always)]
unsafe fn look_up(params: &DecodeParams, partition: u32) -> Place {
    let address = params.places + partition as u64 * size_of::<Place>() as u64;
    // SAFETY: as the caller promises.
    let word = |index: u64| unsafe { memory::ld_global_u32(address + 4 * index) };
    Place { chunk: word(0), start: word(1), payload: word(2), width: word(3) }
}

/// Requests that each lane looks at in one go, so that their lengths are on their way together.
const GO: u32 = 4;

/// Blocks of the request `lane` requests after `first`; none past the batch.
#[inline(always)]
unsafe fn lane_blocks(params: &DecodeParams, requests: impl Requests, first: u32, lane: u32) -> Option<u32> {
    // SAFETY: the request is one of the batch.
    (first + lane < params.requests).then(|| unsafe { schedule::key_blocks(requests.keys(first + lane)) })
}

/// Units that the request `lane` requests after `first` takes of the work line, and where it ends, if the first one starts at unit
/// `before`. A request past the batch takes none.
///
/// # Safety
/// The whole warp calls it; the parameters describe live tensors.
#[inline(always)]
unsafe fn lane_work(
    params: &DecodeParams,
    requests: impl Requests,
    split: SplitKv,
    first: u32,
    before: u32,
    lane: u32,
) -> (u32, u32) {
    // SAFETY: as the caller promises; lanes past the batch read nothing.
    unsafe {
        let work = lane_blocks(params, requests, first, lane).map_or(0, |blocks| split.request_work(blocks));
        (work, before + scan::inclusive_sum(work, lane))
    }
}

/// What the division of the batch follows from.
#[inline(always)]
unsafe fn workload<R: Requests>(params: &DecodeParams, requests: R, lane: u32) -> Workload {
    let determinism = params.determinism();
    let (mut total, mut longest) = (0, 0);
    let mut first = 0;
    while first < params.requests {
        unroll!(I in 4 => {
            const { assert!(GO == 4) };
            // SAFETY: lanes past the batch read nothing.
            let blocks = unsafe { lane_blocks(params, requests, first + I as u32 * WARP_THREADS, lane) };
            let work = blocks.map_or(0, |blocks| determinism.request_work(blocks));
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
    Workload {
        chunk_slots: params.chunk_slots,
        total,
        longest,
        min_payload: R::min_payload(longest),
        batch: params.requests,
    }
}

/// The request that unit `unit` of the work line falls into, and where it starts; `batch` past the line's end.
#[inline(always)]
unsafe fn locate(
    params: &DecodeParams,
    requests: impl Requests,
    split: SplitKv,
    unit: u32,
    lane: u32,
) -> (u32, u32) {
    let mut before = 0;
    let mut first = 0;
    while first < params.requests {
        // SAFETY: lanes past the batch read nothing; the whole warp is here.
        unsafe {
            let (work, end) = lane_work(params, requests, split, first, before, lane);
            let past = warp::ballot(end > unit);
            if past != 0 {
                let found = past.trailing_zeros();
                return (first + found, warp::shfl_idx(end - work, found));
            }
            before = warp::shfl_idx(end, WARP_THREADS - 1);
        }
        first += WARP_THREADS;
    }
    (params.requests, before)
}
