//! Sparse prefill for Hopper: the common roles (`kernels/decode/sm90`), and loads that gather keys.
//!
//! | role         | warpgroup | registers |
//! |--------------|-----------|-----------|
//! | scores even  | 0         | 64        |
//! | scores odd   | 1         | 64        |
//! | values even  | 2         | 160       |
//! | values odd   | 3         | 160       |
//! | loads        | 4         | 32        |
//!
//! The scores warpgroups take turns (`decode/sm90/turns`).
//!
//! CTAs are persistent: each takes a tile of heads of every so many-th query token, neighbouring CTAs the tiles of one token,
//! whose keys are then in the L2 cache. Keys need no conversion, so that the loads wait for nothing but room: see `loads.rs`. They are
//! ahead of the other roles across query tokens, too; the scores of a token begin while the output of the one before is stored.

pub mod fp8;
mod loads;

use crate::attention::element::Bf16;
use crate::attention::sink;
use crate::kernels::decode::segments::Segment;
use crate::kernels::decode::sm90::keys::{self, BlockPlace};
use crate::kernels::decode::sm90::turns::{self, Turns};
use crate::kernels::decode::sm90::{Cta, Decode, scores, values};
use crate::ptx::{fence, special};
use crate::sync::cta_barrier;
use oximla_types::kernels::decode::{
    SharedPlan, TURNS_REGISTERS, TURNS_THREADS, TurnsPlan, VALUES_REGISTERS,
};
use oximla_types::kernels::sparse_prefill::{
    KEY_ARRIVALS, LOADS_REGISTERS, PLAN, PLAN_WITHOUT_TAIL, SparsePrefillParams, TURNS_PLAN,
    TURNS_PLAN_WITHOUT_TAIL,
};
use oximla_types::launch::WARPGROUP_THREADS;
use oximla_types::layout::tile::Position;

/// A CTA of the kernel for keys with or without a tail.
struct Prefill<'a, const TAIL: bool> {
    cta: Cta<'a>,
    params: &'a SparsePrefillParams,
    /// Generic address of the queries' tensor map.
    q_map: u64,
}

/// The kernel for keys of 576 elements.
///
/// # Safety
/// Launched under its contract, grid `(row_tiles, partitions)`, with parameters that describe live tensors.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_prefill_sm90_bf16(params: SparsePrefillParams) {
    let address = special::parameter_address!("sparse_prefill_sm90_bf16");
    // SAFETY: as the caller promises.
    unsafe { sparse_prefill::<true>(&params, address) }
}

/// The kernel for keys of 512 elements.
///
/// # Safety
/// As for [`sparse_prefill_sm90_bf16`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_prefill_d512_sm90_bf16(params: SparsePrefillParams) {
    let address = special::parameter_address!("sparse_prefill_d512_sm90_bf16");
    // SAFETY: as the caller promises.
    unsafe { sparse_prefill::<false>(&params, address) }
}

#[inline(always)]
unsafe fn sparse_prefill<const TAIL: bool>(params: &SparsePrefillParams, address: u64) {
    let q_map = address + core::mem::offset_of!(SparsePrefillParams, q_map) as u64;
    let thread = special::thread_x();
    // SAFETY: the plan sets the barriers' memory aside; one thread initialises them before the CTA barrier, and all
    // roles come after it. Roles are whole warpgroups.
    unsafe {
        if thread == 0 {
            keys::init_barriers::<Prefill<TAIL>>(special::dynamic_shared(), 1);
            turns::init_barriers::<Prefill<TAIL>>(special::dynamic_shared());
            fence::fence_mbarrier_init();
        }
        turns::clear_unused_queries(&Prefill::<TAIL>::new(params, q_map), thread);
        // Whatever comes next waits for this kernel to finish, so it may start to wait at any time.
        special::griddepcontrol_launch_dependents();
        cta_barrier(TURNS_THREADS);
        special::griddepcontrol_wait();
        let kernel = || Prefill::<TAIL>::new(params, q_map);
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
            }
            3 => {
                special::setmaxnreg_inc::<VALUES_REGISTERS>();
                values::run::<_, 1>(&kernel());
            }
            _ => {
                special::setmaxnreg_dec::<LOADS_REGISTERS>();
                loads::run(&kernel());
            }
        }
    }
}

impl<const TAIL: bool> Turns for Prefill<'_, TAIL> {
    const TURNS_PLAN: TurnsPlan = if TAIL { TURNS_PLAN } else { TURNS_PLAN_WITHOUT_TAIL };
}

impl<'a, const TAIL: bool> Prefill<'a, TAIL> {
    /// This CTA.
    ///
    /// # Safety
    /// The host launches with at least one head and one tile.
    #[inline(always)]
    unsafe fn new(params: &'a SparsePrefillParams, q_map: u64) -> Self {
        // SAFETY: as the caller promises.
        let cta = unsafe { Cta::of_single_tokens(&params.decode) };
        Self { cta, params, q_map }
    }
}

impl<const TAIL: bool> Decode for Prefill<'_, TAIL> {
    type Element = Bf16;
    const PLAN: SharedPlan = if TAIL { PLAN } else { PLAN_WITHOUT_TAIL };
    const REGISTER_QUERY_TILES: usize = 0;
    const TAIL: bool = TAIL;
    const UNFENCED_KEYS: bool = true;
    const ZERO_FILLED: bool = true;
    const CLUSTER: u32 = 1;
    const TURNS: bool = true;
    const SPLITS: bool = false;
    const SINKS: bool = true;
    const MAX_LOGITS: bool = true;
    const KEY_ARRIVALS: u32 = KEY_ARRIVALS;
    // The loads find the segments by themselves.
    const SEGMENT_READERS: u32 = 4 * WARPGROUP_THREADS;

    #[inline(always)]
    fn again(&self) -> Self {
        // SAFETY: it was made of them before.
        unsafe { Self::new(self.params, self.q_map) }
    }

    #[inline(always)]
    fn cta(&self) -> &Cta<'_> {
        &self.cta
    }

    #[inline(always)]
    unsafe fn mask(
        &self,
        _: &Segment,
        place: BlockPlace<Self>,
        _: u32,
        first: Position,
        scores: &mut [f32; 32],
    ) {
        // SAFETY: as the caller promises.
        let key_mask = unsafe { scores::key_mask(place) };
        scores::mask_absent_keys(self, key_mask, first, scores);
    }

    #[inline(always)]
    fn sink(&self, row: u32) -> f32 {
        if !self.cta.tile.has(row) {
            return sink::NONE;
        }
        // SAFETY: there is a sink for each head.
        unsafe {
            // Looked at here, not before the roles part.
            let sinks = special::again_u64(self.params.attn_sink);
            sink::load(sinks, self.params.attn_sink_stride, self.cta.head(row))
        }
    }

    #[inline(always)]
    fn output_offset(&self, query: u32, _: u32, head: u32) -> i64 {
        let [query_stride, _, head_stride] = self.cta.params.out_strides;
        query as i64 * query_stride + head as i64 * head_stride
    }

    #[inline(always)]
    fn lse_offset(&self, query: u32, _: u32, head: u32) -> i64 {
        let [query_stride, head_stride, _] = self.cta.params.lse_strides;
        query as i64 * query_stride + head as i64 * head_stride
    }

    #[inline(always)]
    fn max_logit_address(&self, query: u32, _: u32, head: u32) -> u64 {
        let [query_stride, head_stride] = self.params.max_logits_strides;
        let offset = query as i64 * query_stride + head as i64 * head_stride;
        self.params.max_logits.wrapping_add((offset * 4) as u64)
    }
}
