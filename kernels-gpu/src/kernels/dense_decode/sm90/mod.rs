//! Dense decode for Hopper.
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
//! The tensor cores multiply the scores of block `j + 1`, then, during the softmax of block `j + 1`, the values of block
//! `j`, in different warpgroups:
//!
//! | role         | warpgroup | registers | consumes          | produces                         |
//! |--------------|-----------|-----------|-------------------|----------------------------------|
//! | scores       | 0         | 168       | Q, K tiles        | P, row scales, norms, lse        |
//! | values even  | 1         | 160       | P, K parts 0, 2   | O columns 0..128, 256..384       |
//! | values odd   | 2         | 160       | P, K parts 1, 3   | O columns 128..256, 384..512     |
//! | loads        | 3         | 24        | segments, pages   | Q, K tiles                       |
//!
//! Within the loads, warps 0 and 1 see to the parts, even and odd, warp 2 to the tails, and warp 3 finds the CTA's
//! *segments*, the blocks of each of its requests, and queues them for all.
//!
//! Shared memory:
//!
//! | what      | tiles of 8 KiB | contents                                                                          |
//! |-----------|----------------|-----------------------------------------------------------------------------------|
//! | `Q`       | 3              | the last three tiles of the queries; the other six are in registers of the scores |
//! | `V`       | 22             | a ring of parts: a quarter of a block's value columns each, two tiles             |
//! | `TAIL`    | 3              | a ring of tails: a key's last 64 columns, which have no values                    |
//! | the rest  |                | row scales and norms, segments, barriers                                          |
//!
//! A *place* is a block's four parts and tail in the rings. The queries of a segment come to a place before its blocks':
//! the scores take them to where they stay. When a block's scores are computed its tail is used up, and its
//! probabilities are written there.
//!
//! | barrier           | completes when                                          | arrivals                         |
//! |-------------------|---------------------------------------------------------|----------------------------------|
//! | `PART_FULL[s]`    | the part in slot `s` has landed                         | 1, and the part's bytes          |
//! | `PART_FREE[s]`    | the part has been multiplied                            | 4 value warps a CTA of the cluster |
//! | `TAIL_FULL[i]`    | the tail in slot `i` has landed                         | 1, and the tile's bytes          |
//! | `P_FULL[i]`       | P and row scales are written                            | the scores warpgroup             |
//! | `P_MAY[i]`        | the next block's scores are under way                   | 4 scores warps                   |
//! | `P_FREE[i]`       | P and row scales are used up                            | 8 value warps a CTA of the cluster |
//! | `SEGMENT_FULL[n]` | the segment is in the queue                             | 1                                |
//! | `SEGMENT_FREE[n]` | the segment has been read                               | all threads but the writing warp's |
//! | `NORM_FULL`       | the row norms are written                               | the scores warpgroup             |
//! | `NORM_FREE`       | the row norms have been read                            | both value warpgroups            |
//!
//! Keys of 512 elements have no tail: nothing is loaded to `TAIL` and no scores are multiplied from it, all else is the same.
//!
//! `P_MAY` only paces the work: `wgmma`s of 64 columns hardly advance beside those of the values. Row scales need no
//! barrier of their own to be free: scores that write them have seen the tail of their slot land, which was asked for
//! once `P_FREE` told that the old ones are used up.
//!
//! Where the number of row tiles is even, two CTAs with neighbouring tiles form a cluster and compute the same segments.
//! Each asks for half of the key tiles, which the copy engine writes to both, as soon as both have room.

mod keys;
mod loads;
mod queue;
mod scores;
mod values;

use super::segments::Segments;
use crate::attention::element::{Bf16, Element, Fp16};
use crate::attention::rows::QueryTile;
use crate::ptx::{fence, special};
use crate::sync::cluster_barrier;
use core::num::NonZeroU32;
use oximla_types::kernels::dense_decode::{
    DenseDecodeParams, LOADS_REGISTERS, SCORES_REGISTERS, TILE_BYTES, TILE_ROWS, VALUES_REGISTERS,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::swizzle::Swizzle;
use oximla_types::layout::tile::Tile;

/// A tile as the copy engine writes it and the tensor cores read it.
const TILE: Tile = Tile::new(TILE_ROWS, Swizzle::Bytes128);

const _: () = assert!(TILE.panel_bytes() == TILE_BYTES);

/// Warps of a warpgroup.
const WARPGROUP_WARPS: u32 = WARPGROUP_THREADS / WARP_THREADS;

/// Generic addresses of the tensor maps.
#[derive(Clone, Copy)]
struct Maps {
    kv: u64,
    q: u64,
}

impl Maps {
    /// The maps of parameters at `parameters`.
    #[inline(always)]
    fn at(parameters: u64) -> Self {
        Self {
            kv: parameters + core::mem::offset_of!(DenseDecodeParams, kv_map) as u64,
            q: parameters + core::mem::offset_of!(DenseDecodeParams, q_map) as u64,
        }
    }
}

/// What every role knows: the parameters and this CTA's place in the grid.
struct Cta<'a> {
    params: &'a DenseDecodeParams,
    maps: Maps,
    /// Key/value head.
    kv_head: u32,
    /// The tile of query rows.
    tile: QueryTile,
    partition: u32,
    /// CTAs of the cluster: of as many neighbouring row tiles, which share the keys.
    cluster: u32,
    /// This one's number in it.
    cluster_rank: u32,
}

/// The bf16 kernel.
///
/// # Safety
/// Launched under its contract, grid `(h_kv · row_tiles, partitions)`, with parameters that describe live tensors.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_sm90_bf16(params: DenseDecodeParams) {
    let maps = Maps::at(special::parameter_address!("dense_decode_sm90_bf16"));
    // SAFETY: as the caller promises.
    unsafe { dense_decode::<Bf16, true>(&params, maps) }
}

/// The fp16 kernel.
///
/// # Safety
/// As for [`dense_decode_sm90_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_sm90_fp16(params: DenseDecodeParams) {
    let maps = Maps::at(special::parameter_address!("dense_decode_sm90_fp16"));
    // SAFETY: as the caller promises.
    unsafe { dense_decode::<Fp16, true>(&params, maps) }
}

/// The bf16 kernel for keys that are values throughout.
///
/// # Safety
/// As for [`dense_decode_sm90_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_d512_sm90_bf16(params: DenseDecodeParams) {
    let maps = Maps::at(special::parameter_address!("dense_decode_d512_sm90_bf16"));
    // SAFETY: as the caller promises.
    unsafe { dense_decode::<Bf16, false>(&params, maps) }
}

/// The fp16 kernel for keys that are values throughout.
///
/// # Safety
/// As for [`dense_decode_sm90_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_d512_sm90_fp16(params: DenseDecodeParams) {
    let maps = Maps::at(special::parameter_address!("dense_decode_d512_sm90_fp16"));
    // SAFETY: as the caller promises.
    unsafe { dense_decode::<Fp16, false>(&params, maps) }
}

/// `TAIL`: whether keys have a tail.
#[inline(always)]
unsafe fn dense_decode<E: Element, const TAIL: bool>(params: &DenseDecodeParams, maps: Maps) {
    let thread = special::thread_x();
    // SAFETY: the plan sets the barriers' memory aside; one thread initialises them before the CTA barrier, and all
    // roles come after it. Roles are whole warpgroups.
    unsafe {
        if thread == 0 {
            keys::init_barriers(special::dynamic_shared(), special::cluster_ctas());
            fence::fence_mbarrier_init();
        }
        // The combine kernel waits for this one to finish, so it may start to wait at any time.
        special::griddepcontrol_launch_dependents();
        cluster_barrier();
        special::griddepcontrol_wait();
        match thread / WARPGROUP_THREADS {
            0 => {
                special::setmaxnreg_inc::<SCORES_REGISTERS>();
                scores::run::<E, TAIL>(&Cta::new(params, maps), thread);
            }
            1 => {
                special::setmaxnreg_inc::<VALUES_REGISTERS>();
                values::run::<E, 0>(&Cta::new(params, maps));
            }
            2 => {
                special::setmaxnreg_inc::<VALUES_REGISTERS>();
                values::run::<E, 1>(&Cta::new(params, maps));
            }
            _ => {
                // While there are registers to find them with.
                let segments = Cta::new(params, maps).segments(thread % WARP_THREADS);
                special::setmaxnreg_dec::<LOADS_REGISTERS>();
                loads::run::<TAIL>(&Cta::new(params, maps), segments, thread - 3 * WARPGROUP_THREADS);
            }
        }
        // The others of the cluster write to this CTA's shared memory and arrive at its barriers until they are done.
        cluster_barrier();
    }
}

impl<'a> Cta<'a> {
    /// This CTA. Each role makes its own, which keeps nothing in registers across the start of the roles.
    ///
    /// # Safety
    /// The host launches with at least one head and one tile.
    #[inline(always)]
    unsafe fn new(params: &'a DenseDecodeParams, maps: Maps) -> Self {
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
            maps,
            kv_head: special::cta_x() / row_tiles,
            tile: QueryTile {
                number: tile,
                head_tiles,
                group: params.group,
                s_q: params.s_q,
                causal: params.causal != 0,
                heads,
                tokens: params.tiling.tokens,
                first_head: tile % head_tiles * heads.get(),
                first_token: tile / head_tiles * params.tiling.tokens,
            },
            partition: special::cta_y(),
            cluster: special::cluster_ctas(),
            cluster_rank: special::cluster_rank(),
        }
    }

    /// What this CTA has to compute.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn segments(&self, lane: u32) -> Segments<'a> {
        // All CTAs of a cluster compute the same blocks: those that the last token of their tiles sees.
        let last_tile = self.tile.number + self.cluster - 1 - self.cluster_rank;
        let last_token = (last_tile / self.tile.head_tiles + 1) * self.tile.tokens - 1;
        // SAFETY: as the caller promises; the parameters describe live tensors.
        unsafe { Segments::new(self.params, self.partition, self.tile, last_token, lane) }
    }
}
