//! Sparse decode for few heads for Hopper: at most sixteen, as where the heads of a model are divided among GPUs. All rows of all caches
//! are aligned to 16 bytes.
//!
//! | role   | warpgroup | registers |
//! |--------|-----------|-----------|
//! | scores | 0         | 216       |
//! | values | 1         | 104       |
//! | loads  | 2, 3      | 96        |
//!
//! What takes time is to gather and convert keys. Two warpgroups do, each every other block, in a place and from a staging of its own.
//! Until the values have left that place, they look up the rows of the block after. `kernels/decode/sm90/few_heads.rs` tells where the
//! registers and the room come from: all queries are in registers, and nobody brings them.

use super::super::Queries;
use super::codes::{Lane, Rows};
use super::convert::Converter;
use super::gather::{Blocks, LookedUp};
use super::loads::{Thread, arrive, key_mask};
use super::scales::{RawScales, Scales};
use super::start::Start;
use super::{Format, Model1, Sparse, V32};
use crate::attention::unroll;
use crate::kernels::decode::segments::Segments;
use crate::kernels::decode::sm90::TILE;
use crate::kernels::decode::sm90::keys::BlockPlace;
use crate::kernels::decode::sm90::{few_heads, keys, scores};
use crate::ptx::{copy, fence, memory, special, warp};
use crate::sync::cta_barrier;
use core::hint::cold_path;
use core::marker::PhantomData;
use oximla_types::kernels::decode::{THREADS, TILE_BYTES, VALUE_PARTS};
use oximla_types::kernels::sparse_decode::{
    FEW_HEADS_LOADS, FEW_HEADS_LOADS_REGISTERS, FEW_HEADS_SCORES_REGISTERS, FEW_HEADS_VALUES_REGISTERS,
    RawLayout, SparseDecodeParams,
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
                special::setmaxnreg_inc::<FEW_HEADS_SCORES_REGISTERS>();
                scores::run(&kernel(), thread);
            }
            1 => {
                cta_barrier(THREADS);
                special::griddepcontrol_wait();
                special::setmaxnreg_dec::<FEW_HEADS_VALUES_REGISTERS>();
                few_heads::run(&kernel());
            }
            _ => {
                if params.scopes[0].topk_length != 0 || params.scopes[1].topk_length != 0 {
                    special::griddepcontrol_wait();
                }
                let segments = kernel().segments(thread % WARP_THREADS);
                cta_barrier(THREADS);
                special::setmaxnreg_dec::<FEW_HEADS_LOADS_REGISTERS>();
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
        let mut place = BlockPlace::<Sparse<F>>::first().skip(thread.loader());
        // The first time around, there is no block yet, but the first one is asked for.
        let (mut start, mut rows) = (Start::NONE, Rows::none(kernel.params));
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
            // Copies are waited for in the order in which they were asked for: a block's scales, the first part's codes, the RoPE
            // elements of the block before, the other parts' codes. Groups that may still be under way are those behind what is
            // waited for, as if there were no block before.
            let is_block = !start.is_empty();
            let (block_rows, valid) = (rows, start.of_warp(rows_valid));
            let mut raw_scales = RawScales::default();
            if is_block {
                copy::cp_async_wait_group::<4>();
                warp::warp_sync();
                raw_scales = RawScales::load::<F>(thread, start.half());
            } else {
                // Nobody takes what was asked for, but it must not land on what comes next.
                copy::cp_async_wait_group::<0>();
            }
            warp::warp_sync();

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
            copy::cp_async_commit_group();
            rows = Rows::staged::<F>(thread);
            if !start.is_of_two() {
                Rows::stage(thread, row, 1);
            }

            if is_block {
                copy::cp_async_wait_group::<4>();
                let converter = Converter::<F>::new(thread, lane, raw_scales);
                if !converter.is_any() {
                    let mut taken = converter.take(0);
                    unroll!(PART in 4 => {
                        const NUMBER: u32 = PART as u32;
                        place.part_free(NUMBER).wait_for_last();
                        // The next part's codes have come.
                        if NUMBER == 0 {
                            copy::cp_async_wait_group::<3>();
                        } else if NUMBER < VALUE_PARTS - 1 {
                            copy::cp_async_wait_group::<4>();
                        }
                        converter.convert(&mut taken, NUMBER, place.part(NUMBER));
                        converter.take_scales(&mut taken, NUMBER + 1);
                        if NUMBER < F::WHOLE_PARTS {
                            arrive(thread, place.part_full(NUMBER));
                        }
                        rows.copy_codes::<F, WIDE>(thread, lane, next_valid, NUMBER);
                        if NUMBER == 0 {
                            ask_for_rope(thread, place, &block_rows, valid);
                        }
                    });
                    copy::cp_async_wait_group::<3>();
                    converter.poison(&taken, || rope_tile(place) + TILE.row_offset(thread.key(0)));
                } else {
                    cold_path();
                    ask_for_rope(thread, place, &block_rows, valid);
                    let mut part = 0;
                    while part < VALUE_PARTS {
                        place.part_free(part).wait_for_last();
                        copy::cp_async_wait_group::<4>();
                        converter.convert_any(part, place.part(part));
                        if part < F::WHOLE_PARTS {
                            arrive(thread, place.part_full(part));
                        }
                        rows.copy_codes::<F, WIDE>(thread, lane, next_valid, part);
                        part += 1;
                    }
                    copy::cp_async_wait_group::<3>();
                }
                if !F::TAIL {
                    arrive(thread, place.part_full(F::WHOLE_PARTS));
                }
                arrive(thread, place.tail_full());
                place = place.skip(FEW_HEADS_LOADS);
            } else {
                let rows = rows.again();
                unroll!(PART in 4 => { rows.copy_codes::<F, WIDE>(thread, lane, next_valid, PART as u32); });
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

/// Where the RoPE elements of a block go.
#[inline(always)]
fn rope_tile<F: Format>(place: BlockPlace<Sparse<F>>) -> u32 {
    if F::TAIL { place.tail() } else { place.part(F::WHOLE_PARTS) + TILE_BYTES }
}

/// Asks for the RoPE elements of a block as soon as there is room, and tells which of the warp's tokens there are.
///
/// # Safety
/// As for [`Rows::copy_rope`]; the whole warp calls it.
#[inline(always)]
unsafe fn ask_for_rope<F: Format>(thread: Thread, place: BlockPlace<Sparse<F>>, rows: &Rows, valid: u32) {
    place.probabilities_free().wait_for_last();
    // SAFETY: as the caller promises.
    unsafe {
        if thread.lane() == 0 {
            memory::st_shared_u16(key_mask(thread, place), valid as u16);
        }
        if !F::TAIL {
            place.part_free(F::WHOLE_PARTS).wait_for_last();
        }
        rows.copy_rope::<F, WIDE>(thread, valid, rope_tile(place), |token| thread.key(token));
    }
}
