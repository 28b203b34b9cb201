//! Dense decode for Hopper: the common roles (`kernels/decode/sm90`), and loads that ask the copy engine for pages.
//!
//! | role         | warpgroup | registers |
//! |--------------|-----------|-----------|
//! | scores even  | 0         | 64        |
//! | scores odd   | 1         | 64        |
//! | values even  | 2         | 160       |
//! | values odd   | 3         | 160       |
//! | loads        | 4         | 32        |
//!
//! The scores warpgroups take turns (`decode/sm90/turns`). Within the loads, warps 0 and 1 see to the parts, even and odd, warp
//! 2 to queries and tails, and warp 3 finds the CTA's *segments*, the blocks of each of its requests, and queues them for all.
//!
//! Shared memory has all query tiles, two blocks of keys and a third tail.
//!
//! Where the number of row tiles is even, two CTAs with neighbouring tiles form a cluster and compute the same segments.
//! Each asks for half of the key tiles, which the copy engine writes to both, as soon as both have room.
//!
//! Fused kernels are for few requests: there a cluster has all splits of one, and combines them itself (`decode/sm90/fused.rs`).

mod loads;

use super::DenseRequests;
use crate::attention::element::{Bf16, Element, Fp16};
use crate::attention::softmax::ColumnLimits;
use crate::kernels::decode::segments::{Segment, Segments};
use crate::kernels::decode::sm90::keys::{self, BlockPlace};
use crate::kernels::decode::sm90::turns::{self, Turns};
use crate::kernels::decode::sm90::{Cta, Decode, values};
use crate::ptx::{fence, memory, special};
use crate::sync::cluster_barrier;
use core::marker::PhantomData;
use oximla_types::kernels::decode::{
    FUSED_CTAS, SharedPlan, TURNS_REGISTERS, TURNS_THREADS, TurnsPlan, VALUES_REGISTERS,
};
use oximla_types::kernels::dense_decode::{DenseDecodeParams, LOADS_REGISTERS, PLAN, TURNS_PLAN};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::tile::Position;
use oximla_types::schedule::{BLOCK_KEYS, Place};

/// The warp that finds the CTA's segments.
const SEGMENTS_WARP: u32 = (TURNS_THREADS - WARP_THREADS) / WARP_THREADS;

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

/// A CTA of the kernel. `TAIL`: whether keys have a tail; `FUSED`: see [`Decode::FUSED`].
struct Dense<'a, E, const TAIL: bool, const FUSED: bool> {
    cta: Cta<'a>,
    params: &'a DenseDecodeParams,
    maps: Maps,
    element: PhantomData<E>,
}

/// The bf16 kernel.
///
/// # Safety
/// Launched under its contract, grid `(h_kv · row_tiles, partitions)`, with parameters that describe live tensors.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_sm90_bf16(params: DenseDecodeParams) {
    let maps = Maps::at(special::parameter_address!("dense_decode_sm90_bf16"));
    // SAFETY: as the caller promises.
    unsafe { dense_decode::<Bf16, true, false>(&params, maps) }
}

/// The fp16 kernel.
///
/// # Safety
/// As for [`dense_decode_sm90_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_sm90_fp16(params: DenseDecodeParams) {
    let maps = Maps::at(special::parameter_address!("dense_decode_sm90_fp16"));
    // SAFETY: as the caller promises.
    unsafe { dense_decode::<Fp16, true, false>(&params, maps) }
}

/// The bf16 kernel for keys that are values throughout.
///
/// # Safety
/// As for [`dense_decode_sm90_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_d512_sm90_bf16(params: DenseDecodeParams) {
    let maps = Maps::at(special::parameter_address!("dense_decode_d512_sm90_bf16"));
    // SAFETY: as the caller promises.
    unsafe { dense_decode::<Bf16, false, false>(&params, maps) }
}

/// The fp16 kernel for keys that are values throughout.
///
/// # Safety
/// As for [`dense_decode_sm90_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn dense_decode_d512_sm90_fp16(params: DenseDecodeParams) {
    let maps = Maps::at(special::parameter_address!("dense_decode_d512_sm90_fp16"));
    // SAFETY: as the caller promises.
    unsafe { dense_decode::<Fp16, false, false>(&params, maps) }
}

macro_rules! fused_kernels {
    ($($(#[$doc:meta])* $name:ident: $element:ident, $tail:literal;)*) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// As for [`dense_decode_sm90_bf16`], but with a grid `(h_kv · row_tiles, batch · 16)` in clusters of `(1, 16)`.
        #[unsafe(no_mangle)]
        pub unsafe extern "ptx-kernel" fn $name(params: DenseDecodeParams) {
            let maps = Maps::at(special::parameter_address!(stringify!($name)));
            // SAFETY: as the caller promises.
            unsafe { dense_decode::<$element, $tail, true>(&params, maps) }
        }
    )* };
}

fused_kernels! {
    /// The bf16 kernel where a cluster has all splits of a request.
    dense_decode_fused_sm90_bf16: Bf16, true;
    /// The fp16 kernel where a cluster has all splits of a request.
    dense_decode_fused_sm90_fp16: Fp16, true;
    /// The bf16 kernel for keys that are values throughout, where a cluster has all splits of a request.
    dense_decode_d512_fused_sm90_bf16: Bf16, false;
    /// The fp16 kernel for keys that are values throughout, where a cluster has all splits of a request.
    dense_decode_d512_fused_sm90_fp16: Fp16, false;
}

#[inline(always)]
unsafe fn dense_decode<E: Element, const TAIL: bool, const FUSED: bool>(
    params: &DenseDecodeParams,
    maps: Maps,
) {
    let thread = special::thread_x();
    // SAFETY: the plan sets the barriers' memory aside; one thread initialises them before the CTA barrier, and all
    // roles come after it. Roles are whole warpgroups.
    unsafe {
        if thread == 0 {
            let sharing = if FUSED { 1 } else { special::cluster_ctas() };
            keys::init_barriers::<Dense<E, TAIL, FUSED>>(special::dynamic_shared(), sharing);
            turns::init_barriers::<Dense<E, TAIL, FUSED>>(special::dynamic_shared());
            fence::fence_mbarrier_init();
        }
        turns::clear_unused_queries(&Dense::<E, TAIL, FUSED>::new(params, maps), thread);
        cluster_barrier();
        // With a schedule, segments are found before earlier kernels have ended: one that came before those is all that it takes.
        if params.decode.places == 0 || thread / WARP_THREADS != SEGMENTS_WARP {
            special::griddepcontrol_wait();
            // Not before: so whatever came before this kernel has ended when the combine kernel begins, which reads a schedule
            // without waiting.
            special::griddepcontrol_launch_dependents();
        }
        let kernel = || Dense::<E, TAIL, FUSED>::new(params, maps);
        match thread / WARPGROUP_THREADS {
            0 => {
                special::setmaxnreg_dec::<TURNS_REGISTERS>();
                turns::run::<_, 0>(&kernel());
            }
            1 => {
                special::setmaxnreg_dec::<TURNS_REGISTERS>();
                turns::run::<_, 1>(&kernel());
            }
            2 => {
                special::setmaxnreg_inc::<VALUES_REGISTERS>();
                values::run::<_, 0>(&kernel());
                if FUSED {
                    return;
                }
            }
            3 => {
                special::setmaxnreg_inc::<VALUES_REGISTERS>();
                values::run::<_, 1>(&kernel());
                if FUSED {
                    return;
                }
            }
            _ => {
                // While there are registers to find them with.
                let segments = kernel().segments(thread % WARP_THREADS);
                special::setmaxnreg_dec::<LOADS_REGISTERS>();
                loads::run(&kernel(), segments, thread - 4 * WARPGROUP_THREADS);
            }
        }
        // The others of the cluster write to this CTA's shared memory and arrive at its barriers until they are done; in fused kernels
        // the values have met there before they combined.
        cluster_barrier();
    }
}

impl<E: Element, const TAIL: bool, const FUSED: bool> Turns for Dense<'_, E, TAIL, FUSED> {
    const TURNS_PLAN: TurnsPlan = TURNS_PLAN;
}

impl<'a, E: Element, const TAIL: bool, const FUSED: bool> Dense<'a, E, TAIL, FUSED> {
    /// This CTA.
    ///
    /// # Safety
    /// The host launches with at least one head and one tile.
    #[inline(always)]
    unsafe fn new(params: &'a DenseDecodeParams, maps: Maps) -> Self {
        // SAFETY: as the caller promises.
        let mut cta = unsafe { Cta::new(&params.decode, params.causal != 0) };
        if FUSED {
            // Its cluster shares no keys.
            (cta.cluster, cta.cluster_rank) = (1, 0);
        }
        Self { cta, params, maps, element: PhantomData }
    }

    /// What this CTA has to compute.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn segments(&self, lane: u32) -> Segments<'a, DenseRequests<'a>> {
        let Cta { params, tile, partition, cluster, cluster_rank, .. } = self.cta;
        // All CTAs of a cluster compute the same blocks: those that the last token of their tiles sees.
        let last_tile = tile.number + cluster - 1 - cluster_rank;
        let last_token = (last_tile / tile.head_tiles + 1) * tile.tokens - 1;
        if FUSED {
            let place = Place::of_split(partition / FUSED_CTAS);
            return Segments::from_place(params, DenseRequests(self.params), place, tile, last_token);
        }
        // SAFETY: as the caller promises; the parameters describe live tensors.
        unsafe { Segments::new(params, DenseRequests(self.params), partition, tile, last_token, lane) }
    }
}

impl<E: Element, const TAIL: bool, const FUSED: bool> Decode for Dense<'_, E, TAIL, FUSED> {
    type Element = E;
    const PLAN: SharedPlan = PLAN;
    const REGISTER_QUERY_TILES: usize = 0;
    const TAIL: bool = TAIL;
    const UNFENCED_KEYS: bool = false;
    const ZERO_FILLED: bool = false;
    const CLUSTER: u32 = if FUSED { 1 } else { 0 };
    const TURNS: bool = true;
    const SPLITS: bool = true;
    const FUSED: bool = FUSED;
    const MAX_LOGITS: bool = false;
    const KEY_ARRIVALS: u32 = 1;
    // All but the writing warp's.
    const SEGMENT_READERS: u32 = TURNS_THREADS - WARP_THREADS;

    #[inline(always)]
    fn again(&self) -> Self {
        // SAFETY: it was made of them before.
        unsafe { Self::new(self.params, self.maps) }
    }

    #[inline(always)]
    fn cta(&self) -> &Cta<'_> {
        &self.cta
    }

    #[inline(always)]
    unsafe fn mask(
        &self,
        segment: &Segment,
        place: BlockPlace<Self>,
        block: u32,
        first: Position,
        scores: &mut [f32; 32],
    ) {
        let scale = self.cta.params.scale_log2;
        // SAFETY: as the caller promises.
        let is_present = unsafe { memory::ld_shared_u32(place.key_mask()) != 0 };
        // The tile's first token sees the fewest keys: blocks below them need no mask.
        let all_see = self.cta.tile.visible_keys(self.cta.tile.first_token, segment.len);
        if !is_present || (block + 1) * BLOCK_KEYS > all_see || scale < 0.0 {
            let tile = self.again().cta.tile;
            let limit = |row: u32| {
                let visible = tile.visible_keys(tile.token(row), segment.len);
                if is_present { visible.saturating_sub(block * BLOCK_KEYS) } else { 0 }
            };
            let limits = ColumnLimits([limit(first.row), limit(first.row + 8)]);
            limits.mask(scores, first.column, 1_f32.copysign(scale));
        }
    }

    #[inline(always)]
    fn output_offset(&self, request: u32, token: u32, head: u32) -> i64 {
        let [batch_stride, token_stride, head_stride] = self.cta.params.out_strides;
        request as i64 * batch_stride + token as i64 * token_stride + head as i64 * head_stride
    }

    #[inline(always)]
    fn lse_offset(&self, request: u32, token: u32, head: u32) -> i64 {
        let [batch_stride, head_stride, token_stride] = self.cta.params.lse_strides;
        request as i64 * batch_stride + head as i64 * head_stride + token as i64 * token_stride
    }

    #[inline(always)]
    fn max_logit_address(&self, _: u32, _: u32, _: u32) -> u64 {
        0
    }
}
