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
//! The tensor cores multiply the scores of block `j + 1`, and during the softmax of block `j + 1` the values of block
//! `j`, in different warpgroups:
//!
//! | role         | warpgroup | registers | consumes         | produces                        | asks for          |
//! |--------------|-----------|-----------|------------------|---------------------------------|-------------------|
//! | scores       | 0         | 152       | Q, K tiles       | P, row scales, norms, lse       | Q                 |
//! | values left  | 1         | 176       | P, K tiles 0..4  | O columns 0..256                | K tiles 4..8      |
//! | values right | 2         | 176       | P, K tiles 4..8  | O columns 256..512              | K tiles 0..4, 8   |
//!
//! Shared memory holds two and a half blocks of value tiles, in five slots of a half each; for that, the left query
//! tiles stay in registers of the scores warpgroup. Who lets go of a half asks the copy engine for the half that takes
//! its slot, five halves later: as five is odd, the left warpgroup for a right half and the other way round. Each warp
//! asks for one tile. They run ahead into the next request, so that copies never pause.
//!
//! The last tile of a key, the tail, has no values: its place is free once the scores are computed, and the block's
//! probabilities go there.
//!
//! | barrier        | completes when                                       | arrivals                    |
//! |----------------|------------------------------------------------------|-----------------------------|
//! | `HALF_FULL[h]` | the half of value tiles in slot `h` has landed       | 1 a tile, and its bytes     |
//! | `TAIL_FULL[i]` | the tail in slot `i` has landed                      | 1, and the tile's bytes     |
//! | `P_FULL[i]`    | P and row scales in slot `i` are written             | the scores warpgroup        |
//! | `LEFT_MAY[i]`  | the next block's scores are under way                | the scores warpgroup        |
//! | `RIGHT_MAY[i]` | the left half has multiplied P                       | the left value warpgroup    |
//! | `P_FREE[i]`    | both halves have multiplied P                        | 1 a value warpgroup         |
//! | `NORM_FULL`    | the row norms are written                            | the scores warpgroup        |
//! | `NORM_FREE`    | the row norms have been read                         | both value warpgroups       |
//!
//! A slot of a half needs no barrier to be free: its tiles are last read by the value warpgroup that refills it (the
//! scores of the block were finished before its `P_FULL`). Nor do row scales: scores that write them have seen the tail
//! of their slot land, which was asked for once `P_FREE` told that the old ones are used up.

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
    unsafe { dense_decode::<Bf16>(&params, maps) }
}

/// The fp16 kernel.
///
/// # Safety
/// As for [`dense_decode_sm90_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_sm90_fp16(params: DenseDecodeParams) {
    let maps = Maps::at(special::parameter_address!("dense_decode_sm90_fp16"));
    // SAFETY: as the caller promises.
    unsafe { dense_decode::<Fp16>(&params, maps) }
}

#[inline(always)]
unsafe fn dense_decode<E: Element>(params: &DenseDecodeParams, maps: Maps) {
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
                scores::run::<E>(&Cta::new(params, maps), thread);
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
                loads::run(&Cta::new(params, maps), segments, thread - 3 * WARPGROUP_THREADS);
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

    /// What this CTA has to compute. Every warp finds out by itself.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn segments(&self, lane: u32) -> Segments<'a> {
        // All CTAs of a cluster compute the same blocks: those that the last token of their tiles sees.
        let tiles = self.cluster - self.cluster_rank;
        let last_token = self.tile.first_token + tiles * self.tile.tokens - 1;
        // SAFETY: as the caller promises; the parameters describe live tensors.
        unsafe { Segments::new(self.params, self.partition, self.tile, last_token, lane) }
    }
}
