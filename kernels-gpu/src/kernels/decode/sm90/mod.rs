//! What the decode kernels for Hopper have in common: all but where keys come from.
//!
//! ```text
//! for each request of the partition            (see `schedule`)
//!     O, m, l = 0, floor, 0
//!     for each block of 64 keys
//!         S = Q·Kᵀ                              64×64, 36 steps of 16 columns
//!         m' = max(m, rowmax S);  P = 2^(S−m');  l = l·2^(m−m') + rowsum P
//!         O = O·2^(m−m') + P·V                  64×512; V is the first 512 columns of K, in place
//!     out = O / l,  lse = ln l + m·ln 2
//! ```
//!
//! The tensor cores multiply the values of block `j` and the scores of the blocks after it side by side, in different
//! warpgroups:
//!
//! | role         | consumes                         | produces                         |
//! |--------------|----------------------------------|----------------------------------|
//! | scores       | Q, K tiles                       | P, row scales, norms, lse        |
//! | values even  | P, K parts 0, 2                  | O columns 0..128, 256..384       |
//! | values odd   | P, K parts 1, 3                  | O columns 128..256, 384..512     |
//! | loads        | what the kernel's keys come from | Q, K tiles, segments             |
//!
//! The loads are the kernel's own. The scores are one warpgroup ([`scores`]), or two that take turns ([`turns`]).
//! *Segments*, the blocks of each of the CTA's requests, are queued for all roles.
//!
//! Shared memory ([`SharedPlan`]): query tiles, those that are not in registers of the scores; `V`, a ring of
//! *parts*, a quarter of a block's value columns each, two tiles of 8 KiB; `TAIL`, a ring of *tails*, a key's last 64
//! columns, which have no values; staging for the loads; row scales and norms, segments, barriers.
//!
//! A *place* is a block's four parts and tail in the rings. When a block's scores are computed its tail is used up, and its
//! probabilities are written there. A partial output goes to memory in fp16, as the accumulators have it. A final one goes there
//! 16 bytes a lane, which lanes exchange columns for, or in some kernels to where the last block's values were, from where the copy
//! engine stores it ([`Decode::COPIES_OUTPUTS`]).
//!
//! Where one warpgroup has the scores else, the queries of a segment come to a place before its blocks': the scores take them to
//! where they stay.
//!
//! | barrier           | completes when                                          | arrivals                         |
//! |-------------------|---------------------------------------------------------|----------------------------------|
//! | `PART_FULL[s]`    | the part in slot `s` has landed                         | the loads, and the copied bytes  |
//! | `PART_FREE[s]`    | the part has been multiplied, or an output stored from there | 4 values warps a CTA of the cluster |
//! | `TAIL_FULL[i]`    | the tail in slot `i` has landed                         | the loads, and the copied bytes  |
//! | `P_FULL[i]`       | P and row scales are written                            | the scores warpgroup             |
//! | `P_FREE[i]`       | P and row scales are used up                            | all values warps of the cluster  |
//! | `SEGMENT_FULL[n]` | the segment is in the queue                             | 1                                |
//! | `SEGMENT_FREE[n]` | the segment has been read                               | all reading threads              |
//! | `NORM_FULL`       | the row norms are written                               | all scores warpgroups            |
//! | `NORM_FREE`       | the row norms have been read                            | all values warpgroups            |
//!
//! Keys of 512 elements have no tail: nothing is loaded to `TAIL` and no scores are multiplied from it, all else is the same.
//!
//! At a place of queries the scores arrive in the values' stead, and the values wait for nothing: who lets nobody wait for it must
//! not wait for a phase, as it might find the barrier two phases on, which a parity does not tell. For the same reason each
//! part's slot is waited for by who filled it last, and all scores warpgroups arrive at `NORM_FULL`, who writes the norms and
//! who does not.
//!
//! Row scales need no barrier of their own to be free: scores that write them have seen the tail of their slot land, which was
//! asked for once `P_FREE` told that the old ones are used up.

pub mod fused;
pub mod keys;
pub mod outputs;
pub mod queries;
pub mod queue;
pub mod scores;
pub mod turns;
pub mod values;

use self::keys::BlockPlace;
use super::segments::Segment;
use crate::attention::element::Element;
use crate::attention::rows::QueryTile;
use crate::attention::sink;
use crate::ptx::special;
use core::num::NonZeroU32;
use oximla_types::kernels::decode::{DecodeParams, SharedPlan, TILE_BYTES, TILE_COLUMNS, TILE_ROWS};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::swizzle::Swizzle;
use oximla_types::layout::tile::{Position, Tile};

/// A tile as the copy engine writes it and the tensor cores read it.
pub const TILE: Tile = Tile::new(TILE_ROWS, Swizzle::Bytes128);

const _: () = assert!(TILE.panel_bytes() == TILE_BYTES);

/// Steps of 16 columns across a tile.
const TILE_STEPS: usize = (TILE_COLUMNS / 16) as usize;

/// Named barriers of the scores warpgroups, of the one by itself or of even places first.
const SCORES_BARRIERS: [u32; 2] = [1, 4];

/// Named barriers of the values warpgroups, even and odd.
const VALUES_BARRIERS: [u32; 2] = [2, 3];

/// Warps of a warpgroup.
pub const WARPGROUP_WARPS: u32 = WARPGROUP_THREADS / WARP_THREADS;

/// A CTA of a decode kernel, as the shared roles see it.
pub trait Decode: Sized {
    /// Of queries, keys and outputs.
    type Element: Element;
    /// The kernel's shared memory.
    const PLAN: SharedPlan;
    /// Query tiles in registers of the scores, the first ones.
    const REGISTER_QUERY_TILES: usize;
    /// Whether keys have a tail.
    const TAIL: bool;
    /// Whether threads store the keys, instead of the copy engine, and do not fence the proxies themselves: whoever multiplies
    /// the keys does.
    const UNFENCED_KEYS: bool;
    /// Whether what lies in the places of keys that there are not is zero.
    const ZERO_FILLED: bool;
    /// CTAs of its clusters, which load keys together; 1 for none, 0 where it is up to the launch.
    const CLUSTER: u32;
    /// Whether it has none. A constant by itself: of a comparison both branches would reach LLVM.
    const ALONE: bool = Self::CLUSTER == 1;
    /// Whether two warpgroups take turns with the scores ([`turns`]), and queries come straight to where they stay.
    const TURNS: bool = false;
    /// Whether requests may be split.
    const SPLITS: bool;
    /// Whether a cluster of CTAs along the partitions has all splits of a request, one each, and combines them itself ([`fused`]): then
    /// each CTA has one segment.
    const FUSED: bool = false;
    /// Whether heads may have attention sinks.
    const SINKS: bool = false;
    /// Whether it tells each row's largest scaled score.
    const MAX_LOGITS: bool;
    /// Whether scores may keep in registers from segment to segment where in a tile a thread's chunks of queries lie. Where it
    /// is better is up to ptxas.
    const KEEPS_CHUNKS: bool = true;
    /// Whether scores leave a segment in the queue to read it anew at its end, and ask for the thread's number again where it
    /// begins, instead of keeping registers for it. Where it is better is up to ptxas.
    const SPARES_REGISTERS: bool = false;
    /// Whether the loads take what is the same for a warp from its first lane, so that ptxas knows that no lane goes another way
    /// than the others. Else it looks for lanes that are missing before each exchange, but where it knows, it may spill registers.
    const UNIFORM_LOADS: bool = false;
    /// Whether the copy engine stores final outputs, from where the last block's values were. Not where keys are copied from there
    /// to another CTA, as only that one knows when they have been read.
    const COPIES_OUTPUTS: bool = false;
    /// Arrivals that make keys full.
    const KEY_ARRIVALS: u32;
    /// Threads that read the queue of segments.
    const SEGMENT_READERS: u32;

    /// This CTA anew. Roles make their own, which keeps nothing in registers where it is not needed.
    fn again(&self) -> Self;

    /// What all decode kernels know.
    fn cta(&self) -> &Cta<'_>;

    /// Prepares the scores of a block for the softmax: multiplies them by the sign of the scale, and makes those of keys
    /// that a row does not see −∞. The thread has rows `first.row` and `first.row + 8`, columns from `first.column` on.
    ///
    /// # Safety
    /// The whole warp calls it; the block's key mask is there.
    unsafe fn mask(
        &self,
        segment: &Segment,
        place: BlockPlace<Self>,
        block: u32,
        first: Position,
        scores: &mut [f32; 32],
    );

    /// The attention sink of the row's head, where there is one.
    #[inline(always)]
    fn sink(&self, _row: u32) -> f32 {
        sink::NONE
    }

    /// Turns the values' position embedding back in the output's last part, if the values carry one and it is asked for.
    ///
    /// # Safety
    /// The segment is one of this CTA's; the whole warp calls it with the part as an accumulator.
    #[inline(always)]
    unsafe fn rotate_back(&self, _: &Segment, _: &mut [f32; 64]) {}

    /// Generic address of the output's tensor map, with boxes of one tile, of the rows there are; for [`Self::COPIES_OUTPUTS`].
    #[inline(always)]
    fn out_map(&self) -> u64 {
        0
    }

    /// Where in the tensor of that map the tile of a request begins: head, token, batch entry.
    #[inline(always)]
    fn out_coordinates(&self, _request: u32) -> [i32; 3] {
        [0; 3]
    }

    /// Offset of a row of the output from the first one, in elements.
    fn output_offset(&self, request: u32, token: u32, head: u32) -> i64;

    /// Offset of a row's lse from the first one.
    fn lse_offset(&self, request: u32, token: u32, head: u32) -> i64;

    /// Where a row's largest scaled score goes, in kernels that tell it; 0 in others.
    fn max_logit_address(&self, request: u32, token: u32, head: u32) -> u64;
}

/// What a role knows of any decode: the parameters and this CTA's place in the grid.
pub struct Cta<'a> {
    /// The parameters.
    pub params: &'a DecodeParams,
    /// Key/value head.
    pub kv_head: u32,
    /// The tile of query rows.
    pub tile: QueryTile,
    /// Partition of the work line.
    pub partition: u32,
    /// CTAs of the cluster: of as many neighbouring row tiles, which share the keys.
    pub cluster: u32,
    /// This one's number in it.
    pub cluster_rank: u32,
}

impl<'a> Cta<'a> {
    /// This CTA.
    ///
    /// # Safety
    /// The host launches with at least one head and one tile.
    #[inline(always)]
    pub unsafe fn new(params: &'a DecodeParams, causal: bool) -> Self {
        // SAFETY: as the caller promises.
        let (heads, head_tiles, row_tiles) = unsafe {
            (
                NonZeroU32::new_unchecked(params.tiling.heads),
                NonZeroU32::new_unchecked(params.tiling.head_tiles),
                NonZeroU32::new_unchecked(params.row_tiles),
            )
        };
        let tile = special::cta_x() % row_tiles;
        Self {
            params,
            kv_head: special::cta_x() / row_tiles,
            tile: QueryTile {
                number: tile,
                head_tiles,
                group: params.group,
                s_q: params.s_q,
                causal,
                heads,
                tokens: params.tiling.tokens,
                is_single_token: false,
                first_head: tile % head_tiles * heads.get(),
                first_token: tile / head_tiles * params.tiling.tokens,
            },
            partition: special::cta_y(),
            cluster: special::cluster_ctas(),
            cluster_rank: special::cluster_rank(),
        }
    }

    /// This CTA of a kernel with one key/value head, of whose query tokens each has a tile by itself.
    ///
    /// # Safety
    /// The host launches with at least one head and one tile.
    #[inline(always)]
    pub unsafe fn of_single_tokens(params: &'a DecodeParams) -> Self {
        let number = special::cta_x();
        // SAFETY: as the caller promises.
        let (heads, head_tiles) = unsafe {
            (
                NonZeroU32::new_unchecked(params.tiling.heads),
                NonZeroU32::new_unchecked(params.tiling.head_tiles),
            )
        };
        Self {
            params,
            kv_head: 0,
            tile: QueryTile {
                number,
                head_tiles,
                group: params.group,
                s_q: 1,
                causal: false,
                heads,
                tokens: 1,
                is_single_token: true,
                first_head: number * heads.get(),
                first_token: 0,
            },
            partition: special::cta_y(),
            cluster: special::cluster_ctas(),
            cluster_rank: special::cluster_rank(),
        }
    }

    /// Index of a row's partial result.
    #[inline(always)]
    pub fn partial_row<D: Decode>(&self, segment: &Segment, row: u32) -> u64 {
        // A CTA of a fused kernel has one slot, and keeps nothing to know it.
        self.slot_row(if D::FUSED { special::cta_y() } else { segment.slot }, row)
    }

    /// Index of a row's partial result in a slot.
    #[inline(always)]
    pub fn slot_row(&self, slot: u32, row: u32) -> u64 {
        let total_rows = self.params.total_rows as u64;
        slot as u64 * total_rows + (self.kv_head * self.params.rows + self.tile.number(row)) as u64
    }

    /// Query head of a row.
    #[inline(always)]
    pub fn head(&self, row: u32) -> u32 {
        self.kv_head * self.params.group + self.tile.head(row)
    }
}
