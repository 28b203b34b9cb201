//! Sparse FP8 decode for Hopper: the common roles (`kernels/decode/sm90`), and loads that gather tokens and convert them.
//!
//! | role         | warpgroup | registers |
//! |--------------|-----------|-----------|
//! | scores       | 0         | 112       |
//! | values even  | 1         | 160       |
//! | values odd   | 2         | 160       |
//! | loads        | 3         | 80        |
//!
//! Where ptxas spills else, some kernels move eight registers between scores and loads (`REGISTERS_MOVED`).
//!
//! Each warp of the loads sees to 16 tokens of each block by itself, and no barrier is needed on their way:
//!
//! 1. `gather.rs`: the indices of the next two blocks are asked for ahead; when they have come, they become addresses of rows, which
//!    all lanes read from the staging.
//! 2. `codes.rs`: `cp.async` brings the next block's codes to the warp's staging, a part at a time. A part's place is free as
//!    soon as the current block's part is converted, so that about a block of raw bytes is on its way at all times. A lane
//!    converts what it has copied itself (`convert.rs`), and stores it where the scores and values want it. While it converts 16 codes, the
//!    next ones are on their way from the staging to registers.
//! 3. The RoPE elements need no conversion: they go straight to the tail, or with MODEL1 to the last part's last tile; in a cluster
//!    by the staging.
//! 4. `scales.rs`: the scales go by the staging into registers of the lanes, which exchange them. A block with a large scale takes a way of its own.
//! 5. Whether there was a NaN among a block's codes is asked when all are converted: then the RoPE elements tell the scores.
//!
//! With an even number of tiles of heads, and rows aligned to 16 bytes, two neighbouring ones are a cluster (`cluster.rs`): each CTA
//! converts half of the keys of each block and hands them over to the other one. The staging of codes is then half as large, and
//! that of RoPE elements takes the rest.
//!
//! Where query tokens are few, a cluster has all splits of each and combines them itself (`fused.rs`). Else, where heads are few, there are
//! other roles (`few_heads`).
//!
//! Warp 0 queues the segments, too. When a segment's first block is on its way, the copy engine is asked for its queries.
//!
//! Shared memory has the query tiles that are not in registers, eight parts (two blocks of keys), two tails, and the staging.

mod cluster;
mod codes;
mod convert;
mod few_heads;
mod fused;
mod gather;
mod loads;
mod scales;
mod start;

use super::Queries;
use crate::attention::divide::divide;
use crate::attention::element::Bf16;
use crate::attention::rope;
use crate::attention::sink;
use crate::kernels::decode::segments::{Segment, Segments};
use crate::kernels::decode::sm90::keys::{self, BlockPlace};
use crate::kernels::decode::sm90::{Cta, Decode, WARPGROUP_WARPS, scores, values};
use crate::ptx::{fence, special};
use crate::sync::{cluster_barrier, cta_barrier};
use core::marker::PhantomData;
use oximla_types::kernels::decode::{
    BLOCK_TOKENS_PER_WARP, FUSED_CTAS, PART_TILES, SIDES, SharedPlan, THREADS, VALUE_PARTS, VALUES_REGISTERS,
};
use oximla_types::kernels::few_heads as few_heads_plan;
use oximla_types::kernels::inverse_rope::RopeParams;
use oximla_types::kernels::sparse_decode::{
    LOADS_REGISTERS, PLAN, REGISTERS_MOVED, RawLayout, SCORES_REGISTERS, SHARED_QUERY_TILES,
    SparseDecodeParams,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};
use oximla_types::layout::tile::Position;
use oximla_types::schedule::{self, Place};

/// A cache format, as the kernel sees it.
pub trait Format {
    /// How its tokens lie in a cache.
    const RAW: RawLayout;
    /// Whether the scales are apart from the tokens, behind all of a page's.
    const SCALE_PLANE: bool;
    /// Whether the RoPE elements are a tail, behind four parts of codes; else they are the last part's last tile.
    const TAIL: bool;
    /// Whether query tokens are those of a prefill: there are so many that none is split, and largest scores are told.
    const PREFILL: bool = false;
    /// See [`Decode::FUSED`].
    const FUSED: bool = false;
    /// Whether there are at most [`FEW_HEADS`](oximla_types::kernels::decode::FEW_HEADS) heads, and no roles but those of `few_heads`.
    const FEW_HEADS: bool = false;
    /// CTAs that share a query token's keys: each converts some of each block's and hands them over to the others.
    const CTAS: u32 = 1;
    /// Whether there are several of them. A constant by itself: of a comparison both branches would reach LLVM.
    const SHARES: bool = Self::CTAS > 1;
    /// Tokens of a block that a warp converts.
    const WARP_TOKENS: u32 = BLOCK_TOKENS_PER_WARP / Self::CTAS;
    /// Whether the scores have [`REGISTERS_MOVED`] more, and the loads fewer: with V3.2 they keep a query tile more there.
    const SCORES_HAVE_MORE: bool = Self::SHARES && !Self::SCALE_PLANE;
    /// Whether the loads have them, and the scores fewer.
    const LOADS_HAVE_MORE: bool = Self::SCALE_PLANE && !Self::SHARES && !Self::PREFILL;
    /// See [`Decode::UNIFORM_LOADS`]. So chosen that ptxas spills nothing.
    const UNIFORM: bool = Self::SCALE_PLANE || Self::FEW_HEADS || Self::SHARES && !Self::PREFILL;
    /// Parts that are codes alone.
    const WHOLE_PARTS: u32 = VALUE_PARTS - 1 + Self::TAIL as u32;
}

/// DeepSeek V3.2.
pub struct V32;

/// DeepSeek V4.
pub struct Model1;

/// A format in a prefill.
pub struct InPrefill<F>(PhantomData<F>);

impl<F: Format> Format for InPrefill<F> {
    const RAW: RawLayout = F::RAW;
    const SCALE_PLANE: bool = F::SCALE_PLANE;
    const TAIL: bool = F::TAIL;
    const PREFILL: bool = true;
    const CTAS: u32 = F::CTAS;
}

/// A format whose tokens the two CTAs of a cluster share.
pub struct InCluster<F>(PhantomData<F>);

impl<F: Format> Format for InCluster<F> {
    const RAW: RawLayout = F::RAW;
    const SCALE_PLANE: bool = F::SCALE_PLANE;
    const TAIL: bool = F::TAIL;
    const PREFILL: bool = F::PREFILL;
    const CTAS: u32 = 2;
}

impl Format for V32 {
    const RAW: RawLayout = RawLayout::V32;
    const SCALE_PLANE: bool = false;
    const TAIL: bool = true;
}

impl Format for Model1 {
    const RAW: RawLayout = RawLayout::MODEL1;
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

/// Number of the loads warpgroup.
const LOADS: u32 = 3;

/// The kernel for V3.2 caches.
///
/// # Safety
/// Launched under its contract, grid `(row_tiles, partitions)`, with parameters that describe live tensors.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_v32_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_v32_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<V32>(&params, address) }
}

/// The kernel for MODEL1 caches.
///
/// # Safety
/// As for [`sparse_decode_v32_sm90`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_model1_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_model1_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<Model1>(&params, address) }
}

/// The kernel for V3.2 caches where two tiles of heads share the keys, as a cluster.
///
/// # Safety
/// As for [`sparse_decode_v32_sm90`], with an even number of tiles; all rows of all caches are aligned to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_v32_cluster_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_v32_cluster_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<InCluster<V32>>(&params, address) }
}

/// The kernel for MODEL1 caches where two tiles of heads share the keys, as a cluster.
///
/// # Safety
/// As for [`sparse_decode_v32_cluster_sm90`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_model1_cluster_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_model1_cluster_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<InCluster<Model1>>(&params, address) }
}

/// The kernel for caches of a format.
///
/// # Safety
/// As for [`sparse_decode_v32_sm90`]; `address` is that of the parameters.
#[inline(always)]
pub unsafe fn sparse_decode<F: Format>(params: &SparseDecodeParams, address: u64) {
    let q_map = address + core::mem::offset_of!(SparseDecodeParams, q_map) as u64;
    let thread = special::thread_x();
    // SAFETY: the plan sets the barriers' memory aside; one thread initialises them before the CTA barrier, and all
    // roles come after it. Roles are whole warpgroups.
    unsafe {
        if thread == 0 {
            keys::init_barriers::<Sparse<F>>(special::dynamic_shared(), F::CTAS);
            fence::fence_mbarrier_init();
        }
        // The combine kernel waits for this one to finish, so it may start to wait at any time.
        special::griddepcontrol_launch_dependents();
        // Behind this the barriers are initialised, also those of the cluster's other CTAs.
        let meet = || if F::SHARES { cluster_barrier() } else { cta_barrier(THREADS) };
        let role = thread / WARPGROUP_THREADS;
        if role != LOADS {
            meet();
            special::griddepcontrol_wait();
        }
        let kernel = || Sparse::<F>::new(params, q_map);
        match role {
            0 => {
                if F::SCORES_HAVE_MORE {
                    special::setmaxnreg_dec::<{ SCORES_REGISTERS + REGISTERS_MOVED }>();
                } else if F::LOADS_HAVE_MORE {
                    special::setmaxnreg_dec::<{ SCORES_REGISTERS - REGISTERS_MOVED }>();
                } else {
                    special::setmaxnreg_dec::<SCORES_REGISTERS>();
                }
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
                // Without lengths in memory, what there is to compute does not depend on the kernels before: the loads wait for
                // them when they have found out. They do while there are registers for it.
                if params.scopes[0].topk_length != 0 || params.scopes[1].topk_length != 0 {
                    special::griddepcontrol_wait();
                }
                let segments = kernel().segments(thread % WARP_THREADS);
                meet();
                if F::SCORES_HAVE_MORE {
                    special::setmaxnreg_dec::<{ LOADS_REGISTERS - REGISTERS_MOVED }>();
                } else if F::LOADS_HAVE_MORE {
                    special::setmaxnreg_dec::<{ LOADS_REGISTERS + REGISTERS_MOVED }>();
                } else {
                    special::setmaxnreg_dec::<LOADS_REGISTERS>();
                }
                if F::SHARES {
                    cluster::run(&kernel(), segments);
                } else if params.wide_rows != 0 {
                    loads::run::<_, true>(&kernel(), segments);
                } else {
                    loads::run::<_, false>(&kernel(), segments);
                }
            }
        }
        if F::SHARES {
            // The others of the cluster write to this CTA's shared memory and arrive at its barriers until they are done.
            cluster_barrier();
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
        let cta = unsafe { Cta::of_single_tokens(&params.decode) };
        Self { cta, params, q_map, format: PhantomData }
    }

    /// What this CTA has to compute.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn segments(&self, lane: u32) -> Segments<'a, Queries<'a>> {
        let Cta { params, tile, partition, .. } = self.cta;
        if F::FUSED {
            return self.segments_from(Place::of_split(partition / FUSED_CTAS));
        }
        if F::PREFILL {
            let longest = schedule::key_blocks(self.params.scopes[0].topk + self.params.scopes[1].topk);
            let place = Place::of_whole_requests(partition, params.partitions, params.requests, longest);
            return self.segments_from(place);
        }
        if self.params.equal.is_known() {
            return self.segments_from(self.params.equal.place(partition, params.requests));
        }
        // SAFETY: as the caller promises; the parameters describe live tensors.
        unsafe { Segments::new(params, Queries(self.params), partition, tile, 0, lane) }
    }

    /// The batch entry and the number in it of a query token.
    #[inline(always)]
    fn query(&self, request: u32) -> (u32, u32) {
        if F::PREFILL { (request, 0) } else { divide(request, &self.params.queries) }
    }

    /// Address of a row of the queries.
    #[inline(always)]
    fn query_row(&self, request: u32, row: u32) -> u64 {
        let [batch_stride, token_stride, head_stride] = self.params.q_strides;
        let (batch, query) = self.query(request);
        let head = self.cta.head(row);
        let offset = batch as i64 * batch_stride + query as i64 * token_stride + head as i64 * head_stride;
        self.params.q.wrapping_add((offset * 2) as u64)
    }

    /// How the output is rotated, by its address: indexed by a variable, the parameter would be copied to local memory.
    #[inline(always)]
    fn inverse_rope(&self) -> &RopeParams {
        const FROM_Q_MAP: usize = core::mem::offset_of!(SparseDecodeParams, inverse_rope)
            - core::mem::offset_of!(SparseDecodeParams, q_map);
        // SAFETY: it is of the same parameters as the map, which nothing writes.
        unsafe { &*((self.q_map + FROM_Q_MAP as u64) as *const RopeParams) }
    }

    /// Lets `turn` take the position embedding back, if the values carry one and it is asked for, by the parameters and at the position
    /// of a segment's query token.
    ///
    /// # Safety
    /// The segment is one of this CTA's.
    #[inline(always)]
    unsafe fn rotate(&self, segment: &Segment, turn: impl FnOnce(&RopeParams, i32)) {
        // With a tail, the values are elements without position embedding.
        if F::TAIL || self.params.inverse_rope.positions == 0 {
            return;
        }
        let (batch, query) = self.query(segment.request);
        let params = self.inverse_rope();
        // SAFETY: the host gives positions of all query tokens, and a live table if any.
        turn(params, unsafe { rope::position(params, batch, query) });
    }

    /// The segments from a place on.
    #[inline(always)]
    fn segments_from(&self, place: Place) -> Segments<'a, Queries<'a>> {
        Segments::from_place(self.cta.params, Queries(self.params), place, self.cta.tile, 0)
    }
}

impl<F: Format> Decode for Sparse<'_, F> {
    type Element = Bf16;
    const PLAN: SharedPlan = if F::FEW_HEADS { few_heads_plan::PLAN } else { PLAN };
    const REGISTER_QUERY_TILES: usize =
        (VALUE_PARTS * PART_TILES + F::TAIL as u32 - SHARED_QUERY_TILES) as usize;
    const TAIL: bool = F::TAIL;
    const UNFENCED_KEYS: bool = !F::SHARES;
    const ZERO_FILLED: bool = true;
    const CLUSTER: u32 = F::CTAS;
    const SPLITS: bool = !F::PREFILL;
    const FUSED: bool = F::FUSED;
    const SINKS: bool = true;
    const MAX_LOGITS: bool = F::PREFILL;
    // So chosen that ptxas spills nothing in any of the kernels.
    const KEEPS_CHUNKS: bool = !F::PREFILL || F::SHARES || F::SCALE_PLANE;
    const SPARES_REGISTERS: bool = F::SHARES && F::TAIL;
    const UNIFORM_LOADS: bool = F::UNIFORM;
    const COPIES_OUTPUTS: bool = !F::SHARES && !F::FUSED;
    // One a warp.
    const KEY_ARRIVALS: u32 = WARPGROUP_WARPS;
    // The loads find their segments by themselves.
    const SEGMENT_READERS: u32 =
        if F::FEW_HEADS { few_heads_plan::ATTENDING_THREADS } else { (1 + SIDES) * WARPGROUP_THREADS };

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
        unsafe { sink::load(self.params.attn_sink, self.params.attn_sink_stride, self.cta.head(row)) }
    }

    #[inline(always)]
    unsafe fn rotate_back(&self, segment: &Segment, output: &mut [f32; 64]) {
        // SAFETY: as the caller promises.
        unsafe { self.rotate(segment, |params, position| rope::rotate_back(params, position, output)) };
    }

    #[inline(always)]
    fn out_map(&self) -> u64 {
        const FROM_Q_MAP: usize = core::mem::offset_of!(SparseDecodeParams, out_map)
            - core::mem::offset_of!(SparseDecodeParams, q_map);
        self.q_map + FROM_Q_MAP as u64
    }

    #[inline(always)]
    fn out_coordinates(&self, request: u32) -> [i32; 3] {
        let (batch, query) = self.query(request);
        [self.cta.tile.first_head as i32, query as i32, batch as i32]
    }

    #[inline(always)]
    fn output_offset(&self, request: u32, _: u32, head: u32) -> i64 {
        let [batch_stride, token_stride, head_stride] = self.cta.params.out_strides;
        let (batch, query) = self.query(request);
        batch as i64 * batch_stride + query as i64 * token_stride + head as i64 * head_stride
    }

    #[inline(always)]
    fn lse_offset(&self, request: u32, _: u32, head: u32) -> i64 {
        let [batch_stride, head_stride, token_stride] = self.cta.params.lse_strides;
        let (batch, query) = self.query(request);
        batch as i64 * batch_stride + head as i64 * head_stride + query as i64 * token_stride
    }

    #[inline(always)]
    fn max_logit_address(&self, request: u32, _: u32, head: u32) -> u64 {
        let [request_stride, head_stride] = self.params.max_logits_strides;
        let offset = request as i64 * request_stride + head as i64 * head_stride;
        self.params.max_logits.wrapping_add((offset * 4) as u64)
    }
}
