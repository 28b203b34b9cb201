//! Sparse FP8 decode for Hopper: the common roles (`kernels/decode/sm90`), and loads that gather tokens and convert them.
//!
//! | role         | warpgroup | registers, V3.2 | MODEL1 |
//! |--------------|-----------|-----------------|--------|
//! | scores       | 0         | 144             | 136    |
//! | values even  | 1         | 160             | 160    |
//! | values odd   | 2         | 160             | 160    |
//! | loads        | 3         | 48              | 56     |
//!
//! Each warp of the loads sees to 16 tokens of each block by itself: it gathers their bytes into its own staging, a *piece*
//! for each part and one for the tail, converts a piece to bf16 where the scores and values want it, and asks for the same
//! piece of the next block. So a block of raw bytes is on its way at all times, and no barrier is needed on their way.
//! Warp 0 queues the segments, too.
//!
//! Shared memory has the query tiles that are not in registers of the scores (four are, or three), eight parts (two blocks of keys),
//! two tails, and a block of raw bytes.

mod gather;
mod loads;

use super::Queries;
use crate::attention::divide::divide;
use crate::attention::element::Bf16;
use crate::attention::sink;
use crate::attention::softmax;
use crate::attention::unroll;
use crate::kernels::decode::segments::{Segment, Segments};
use crate::kernels::decode::sm90::keys::{self, BlockPlace};
use crate::kernels::decode::sm90::{Cta, Decode, WARPGROUP_WARPS, scores, values};
use crate::ptx::{fence, memory, special};
use crate::sync::cta_barrier;
use core::marker::PhantomData;
use oximla_types::kernels::decode::{SharedPlan, THREADS, VALUES_REGISTERS};
use oximla_types::kernels::sparse_decode::{
    MODEL1_PLAN, MODEL1_REGISTERS, RawLayout, Registers, SparseDecodeParams, V32_PLAN, V32_REGISTERS,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::tile::Position;

/// A cache format, as the kernel sees it.
trait Format {
    const PLAN: SharedPlan;
    const RAW: RawLayout;
    const REGISTERS: Registers;
    /// Whether the scales are apart from the tokens, behind all of a page's.
    const SCALE_PLANE: bool;
    const TAIL: bool;
}

/// DeepSeek V3.2.
struct V32;

/// DeepSeek V4.
struct Model1;

impl Format for V32 {
    const PLAN: SharedPlan = V32_PLAN;
    const RAW: RawLayout = RawLayout::V32;
    const REGISTERS: Registers = V32_REGISTERS;
    const SCALE_PLANE: bool = false;
    const TAIL: bool = true;
}

impl Format for Model1 {
    const PLAN: SharedPlan = MODEL1_PLAN;
    const RAW: RawLayout = RawLayout::MODEL1;
    const REGISTERS: Registers = MODEL1_REGISTERS;
    const SCALE_PLANE: bool = true;
    const TAIL: bool = false;
}

/// A CTA of the kernel.
struct Sparse<'a, F> {
    cta: Cta<'a>,
    params: &'a SparseDecodeParams,
    /// Generic address of the queries' tensor map.
    q_map: u64,
    format: PhantomData<F>,
}

/// The kernel for V3.2 caches.
///
/// # Safety
/// Launched under its contract, grid `(row_tiles, partitions)`, with parameters that describe live tensors.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_v32_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_v32_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<V32, { V32_REGISTERS.scores }, { V32_REGISTERS.loads }>(&params, address) }
}

/// The kernel for MODEL1 caches.
///
/// # Safety
/// As for [`sparse_decode_v32_sm90`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_model1_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_model1_sm90");
    // SAFETY: as the caller promises.
    unsafe {
        sparse_decode::<Model1, { MODEL1_REGISTERS.scores }, { MODEL1_REGISTERS.loads }>(&params, address)
    }
}

/// `SCORES` and `LOADS`: registers of these roles.
#[inline(always)]
unsafe fn sparse_decode<F: Format, const SCORES: u32, const LOADS: u32>(
    params: &SparseDecodeParams,
    address: u64,
) {
    let q_map = address + core::mem::offset_of!(SparseDecodeParams, q_map) as u64;
    let thread = special::thread_x();
    // SAFETY: the plan sets the barriers' memory aside; one thread initialises them before the CTA barrier, and all
    // roles come after it. Roles are whole warpgroups.
    unsafe {
        if thread == 0 {
            keys::init_barriers::<Sparse<F>>(special::dynamic_shared(), 1);
            fence::fence_mbarrier_init();
        }
        // The combine kernel waits for this one to finish, so it may start to wait at any time.
        special::griddepcontrol_launch_dependents();
        cta_barrier(THREADS);
        special::griddepcontrol_wait();
        let kernel = || Sparse::<F>::new(params, q_map);
        match thread / WARPGROUP_THREADS {
            0 => {
                special::setmaxnreg_inc::<SCORES>();
                scores::run(&kernel(), thread);
            }
            1 => {
                special::setmaxnreg_inc::<VALUES_REGISTERS>();
                values::run::<_, 0>(&kernel());
            }
            2 => {
                special::setmaxnreg_inc::<VALUES_REGISTERS>();
                values::run::<_, 1>(&kernel());
            }
            _ => {
                // While there are registers to find them with.
                let segments = kernel().segments(thread % WARP_THREADS);
                special::setmaxnreg_dec::<LOADS>();
                loads::run(&kernel(), segments);
            }
        }
    }
}

impl<'a, F: Format> Sparse<'a, F> {
    /// This CTA.
    ///
    /// # Safety
    /// The host launches with at least one head and one tile.
    #[inline(always)]
    unsafe fn new(params: &'a SparseDecodeParams, q_map: u64) -> Self {
        // SAFETY: as the caller promises.
        let cta = unsafe { Cta::new(&params.decode, false) };
        Self { cta, params, q_map, format: PhantomData }
    }

    /// What this CTA has to compute.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn segments(&self, lane: u32) -> Segments<'a, Queries<'a>> {
        let Cta { params, tile, partition, .. } = self.cta;
        // SAFETY: as the caller promises; the parameters describe live tensors.
        unsafe { Segments::new(params, Queries(self.params), partition, tile, 0, lane) }
    }
}

impl<F: Format> Decode for Sparse<'_, F> {
    type Element = Bf16;
    const PLAN: SharedPlan = F::PLAN;
    const REGISTER_QUERY_TILES: usize = F::REGISTERS.query_tiles as usize;
    const TAIL: bool = F::TAIL;
    const STORED_KEYS: bool = true;
    const ZERO_FILLED: bool = true;
    const PACED: bool = false;
    // One a warp.
    const KEY_ARRIVALS: u32 = WARPGROUP_WARPS;
    // The loads find their segments by themselves.
    const SEGMENT_READERS: u32 = 3 * WARPGROUP_THREADS;

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
        let scale = self.cta.params.scale_log2;
        // SAFETY: as the caller promises.
        let [low, high] =
            unsafe { [memory::ld_shared_u32(place.key_mask()), memory::ld_shared_u32(place.key_mask() + 4)] };
        if low & high != u32::MAX || scale < 0.0 {
            let sign = 1_f32.copysign(scale);
            // A bit a column, the thread's first one lowest.
            let own = [low >> first.column, high >> first.column];
            unroll!(E in 32 => {
                const COLUMN: u32 = softmax::fragment_column(E);
                let is_valid = own[(COLUMN / 32) as usize] >> (COLUMN % 32) & 1 != 0;
                scores[E] = if is_valid { scores[E] * sign } else { f32::NEG_INFINITY };
            });
        }
    }

    #[inline(always)]
    fn sink_factor(&self, row: u32, log: f32) -> f32 {
        if !self.cta.tile.has(row) {
            return 1.0;
        }
        // SAFETY: there is a sink for each head.
        unsafe {
            sink::sink_factor(self.params.attn_sink, self.params.attn_sink_stride, self.cta.head(row), log)
        }
    }

    #[inline(always)]
    fn output_offset(&self, request: u32, _: u32, head: u32) -> i64 {
        let [batch_stride, token_stride, head_stride] = self.cta.params.out_strides;
        let (batch, query) = divide(request, &self.params.queries);
        batch as i64 * batch_stride + query as i64 * token_stride + head as i64 * head_stride
    }

    #[inline(always)]
    fn lse_offset(&self, request: u32, _: u32, head: u32) -> i64 {
        let [batch_stride, head_stride, token_stride] = self.cta.params.lse_strides;
        let (batch, query) = divide(request, &self.params.queries);
        batch as i64 * batch_stride + head as i64 * head_stride + query as i64 * token_stride
    }
}
