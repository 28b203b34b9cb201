//! Sparse decode for few heads for Hopper: at most sixteen, as where the heads of a model are divided among GPUs. All rows of all caches
//! are aligned to 16 bytes.
//!
//! | role   | warpgroup |
//! |--------|-----------|
//! | scores | 0         |
//! | values | 1         |
//! | loads  | 2, 3      |
//!
//! All have as many registers. `kernels/decode/sm90/few_heads/mod.rs` tells of the first two roles, and where the room comes from. Gathering
//! and converting keys takes most of the time. Two warpgroups do, each half of every block. A block's codes and RoPE elements
//! come to the warps' staging. From there a lane takes all of its own to registers at once, asks for the next block's, and only then
//! converts: so a block is on its way while the one before is converted.

use super::super::Queries;
use super::codes::{Lane, Rows, load_rope, staged_codes, store_rope};
use super::convert::{BF16_NAN, Block, Converter};
use super::gather::{Blocks, LookedUp};
use super::loads::{Thread, arrive, key_mask};
use super::scales::{RawScales, Scales};
use super::start::Start;
use super::{Format, Model1, Sparse, V32};
use crate::attention::dequant::FOUND;
use crate::attention::unroll;
use crate::kernels::decode::segments::Segments;
use crate::kernels::decode::sm90::keys::BlockPlace;
use crate::kernels::decode::sm90::{few_heads, keys};
use crate::ptx::{copy, fence, memory, special, warp};
use crate::sync::cta_barrier;
use core::hint::cold_path;
use core::marker::PhantomData;
use oximla_types::kernels::decode::{THREADS, TILE_BYTES};
use oximla_types::kernels::sparse_decode::{
    FEW_HEADS_LOADS, RawLayout, SparseDecodeParams, WARP_CODES_BYTES,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};

/// A format in a decode for few heads.
pub struct FewHeads<F>(PhantomData<F>);

impl<F: Format> Format for FewHeads<F> {
    const RAW: RawLayout = F::RAW;
    const SCALE_PLANE: bool = F::SCALE_PLANE;
    const TAIL: bool = F::TAIL;
    const FEW_HEADS: bool = true;
}

/// The kernel for V3.2 caches and few heads.
///
/// # Safety
/// As for `sparse_decode_v32_sm90`, with at most sixteen heads, a grid `(1, partitions)`; all rows of all caches are aligned to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_v32_few_heads_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_v32_few_heads_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<FewHeads<V32>>(&params, address) }
}

/// The kernel for MODEL1 caches and few heads.
///
/// # Safety
/// As for [`sparse_decode_v32_few_heads_sm90`].
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn sparse_decode_model1_few_heads_sm90(params: SparseDecodeParams) {
    let address = special::parameter_address!("sparse_decode_model1_few_heads_sm90");
    // SAFETY: as the caller promises.
    unsafe { sparse_decode::<FewHeads<Model1>>(&params, address) }
}

/// The kernel for caches of a format.
///
/// # Safety
/// As for [`sparse_decode_v32_few_heads_sm90`]; `address` is that of the parameters.
#[inline(always)]
unsafe fn sparse_decode<F: Format>(params: &SparseDecodeParams, address: u64) {
    let q_map = address + core::mem::offset_of!(SparseDecodeParams, q_map) as u64;
    let thread = special::thread_x();
    // SAFETY: as in the kernel for more heads.
    unsafe {
        if thread == 0 {
            keys::init_barriers::<Sparse<F>>(special::dynamic_shared(), 1);
            fence::fence_mbarrier_init();
        }
        special::griddepcontrol_launch_dependents();
        let kernel = || Sparse::<F>::new(params, q_map);
        match thread / WARPGROUP_THREADS {
            0 => {
                cta_barrier(THREADS);
                special::griddepcontrol_wait();
                few_heads::scores::run(&kernel(), thread);
            }
            1 => {
                cta_barrier(THREADS);
                special::griddepcontrol_wait();
                few_heads::values::run(&kernel());
            }
            _ => {
                if params.scopes[0].topk_length != 0 || params.scopes[1].topk_length != 0 {
                    special::griddepcontrol_wait();
                }
                let segments = kernel().segments(thread % WARP_THREADS);
                cta_barrier(THREADS);
                load(&kernel(), segments);
            }
        }
    }
}

/// All rows are aligned to 16 bytes.
const WIDE: bool = true;

/// Runs the loads role, as [`loads::run`](super::loads::run) does where there is one loads warpgroup.
///
/// # Safety
/// As there, by both warpgroups.
#[inline(always)]
unsafe fn load<F: Format>(kernel: &Sparse<'_, F>, segments: Segments<'_, Queries<'_>>) {
    // SAFETY: the roles follow one protocol, told at the top of the kernel. Tokens lie within the caches.
    unsafe {
        let thread = Thread::this::<F>();
        let mut blocks = Blocks::<F, WIDE>::new(thread, segments);
        let lane = Lane::this::<F>(thread);
        let mut place = BlockPlace::<Sparse<F>>::first();
        // The first time around, there is no block yet, but the first one is asked for.
        let mut start = Start::NONE;
        let first = blocks.find(kernel);
        blocks.publish();
        if first.start.uniform::<F, WIDE>().is_end() {
            return;
        }
        special::griddepcontrol_wait();
        let mut next = blocks.ask_published(first);
        // Which lanes have looked up a token: a half of them those of each of two blocks.
        let mut rows_valid = 0;
        while !start.is_end() {
            // All that was asked for has come by now: a block.
            copy::cp_async_wait_group::<0>();
            warp::warp_sync();
            let is_block = !start.is_empty();
            let valid = start.of_warp(rows_valid);
            let (mut block, mut rope, mut scales) = (Block::NONE, [[0; 4]; 2], RawScales::default());
            if is_block {
                block = Block::take::<F>(lane);
                scales = RawScales::load::<F>(thread, start.half());
                rope = load_rope::<F>(thread, staged_rope::<F>(thread));
            }
            warp::warp_sync();

            // While it is on its way to registers, the next one is asked for.
            let (mut next_start, mut row) = (Start::SECOND, 0);
            if !start.is_of_two() {
                // The indices have come during the last blocks.
                LookedUp { start: next_start, row, valid: rows_valid } =
                    blocks.look_up(kernel, thread, &mut next);
            }
            let next_valid = next_start.of_warp(rows_valid);
            if !F::SCALE_PLANE {
                Scales::copy_of_rows::<F, WIDE>(thread, next_valid);
            }
            let rows = Rows::staged::<F>(thread);
            if !start.is_of_two() {
                Rows::stage(thread, row, 1);
            }
            unroll!(PART in 4 => { rows.copy_codes::<F, WIDE>(thread, lane, next_valid, PART as u32); });
            rows.copy_rope::<F, WIDE>(thread, next_valid, staged_rope::<F>(thread), |token| {
                token - thread.first_token::<F>()
            });

            if is_block {
                place.probabilities_free().wait_for_last();
                let converter = Converter::<F>::new(thread, lane, scales);
                if converter.is_any() {
                    cold_path();
                    converter.convert_any_block(&block, |part| place.part(part));
                } else {
                    let nan = converter.convert_block(&block, |part| place.part(part));
                    if warp::ballot(nan & FOUND != 0) != 0 {
                        cold_path();
                        // As all scores of one token are NaN then, so are the sums of all probabilities and all outputs.
                        rope = [[BF16_NANS; 4]; 2];
                    }
                }
                if thread.loader() == 0 && thread.lane() == 0 {
                    memory::st_shared_u16(key_mask(thread, place), valid as u16);
                }
                store_rope::<F>(thread, rope, rope_tile(place));
                arrive(thread, place.tail_full());
                place = place.next();
            }
            start = next_start;
            if start.is_segment() && !start.is_end() {
                blocks.publish();
            }
        }
        blocks.publish();
        // What was asked for behind the last block must land before the CTA ends.
        copy::cp_async_wait_group::<0>();
    }
}

/// Two NaN as bf16.
const BF16_NANS: u32 = BF16_NAN as u32 * 0x0001_0001;

/// Where the RoPE elements of a block go.
#[inline(always)]
fn rope_tile<F: Format>(place: BlockPlace<Sparse<F>>) -> u32 {
    if F::TAIL { place.tail() } else { place.part(F::WHOLE_PARTS) + TILE_BYTES }
}

/// Where a warp's RoPE elements are staged, as its rows of a tile: behind its codes.
#[inline(always)]
fn staged_rope<F: Format>(thread: Thread) -> u32 {
    staged_codes::<F>(thread) + WARP_CODES_BYTES / FEW_HEADS_LOADS
}
