//! Sparse decode for few heads for Hopper: at most sixteen, as where the heads of a model are divided among GPUs. All rows of all caches
//! are aligned to 16 bytes.
//!
//! | role    | warpgroup | registers |
//! |---------|-----------|-----------|
//! | scores  | 0         | 88        |
//! | values  | 1         | 120       |
//! | convert | 2, 3      | 104       |
//! | gather  | 4         | 64        |
//!
//! `kernels/decode/sm90/few_heads/mod.rs` tells of the first two roles. One of a block's tokens, on its way to them:
//!
//! 1. gather: a warp sees to 16 tokens of each block, and looks them up as in the other kernels (`gather.rs`). As soon as there is room it
//!    lets the copy engine bring their rows (`tokens.rs`), eight to a warp of each of the warpgroups that convert. Warp 0 queues the segments, too.
//! 2. convert: a lane takes all of its codes of a block to registers at once, and lets the next block's come. Then it converts them
//!    (`convert.rs`), as soon as there is room where the tensor cores want them.
//!
//! So while a block is converted the next one is on its way, and those behind it are looked up.

use super::super::Queries;
use super::codes::Lane;
use super::convert::{BF16_NAN, Block, Converter};
use super::gather::{Blocks, Tokens};
use super::loads::{Thread, arrive, key_mask};
use super::scales::RawScales;
use super::tokens::{self, Staged};
use super::{Format, Model1, Sparse, V32};
use crate::attention::dequant::FOUND;
use crate::kernels::decode::segments::Segments;
use crate::kernels::decode::sm90::keys::BlockPlace;
use crate::kernels::decode::sm90::{few_heads, keys};
use crate::ptx::{fence, memory, special, warp};
use crate::sync::cta_barrier;
use core::hint::cold_path;
use core::marker::PhantomData;
use oximla_types::kernels::decode::TILE_BYTES;
use oximla_types::kernels::sparse_decode::{
    FEW_HEADS_CONVERT_REGISTERS, FEW_HEADS_CONVERTERS, FEW_HEADS_GATHER_REGISTERS,
    FEW_HEADS_SCORES_REGISTERS, FEW_HEADS_THREADS, FEW_HEADS_VALUES_REGISTERS, RawLayout, SparseDecodeParams,
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
            tokens::init_barriers();
            fence::fence_mbarrier_init();
        }
        special::griddepcontrol_launch_dependents();
        let kernel = || Sparse::<F>::new(params, q_map);
        match thread / WARPGROUP_THREADS {
            0 => {
                cta_barrier(FEW_HEADS_THREADS);
                special::griddepcontrol_wait();
                special::setmaxnreg_dec::<FEW_HEADS_SCORES_REGISTERS>();
                few_heads::scores::run(&kernel(), thread);
            }
            1 => {
                cta_barrier(FEW_HEADS_THREADS);
                special::griddepcontrol_wait();
                special::setmaxnreg_inc::<FEW_HEADS_VALUES_REGISTERS>();
                few_heads::values::run(&kernel());
            }
            GATHER => {
                if params.scopes[0].topk_length != 0 || params.scopes[1].topk_length != 0 {
                    special::griddepcontrol_wait();
                }
                let segments = kernel().segments(thread % WARP_THREADS);
                cta_barrier(FEW_HEADS_THREADS);
                special::setmaxnreg_dec::<FEW_HEADS_GATHER_REGISTERS>();
                gather(&kernel(), segments);
            }
            _ => {
                cta_barrier(FEW_HEADS_THREADS);
                special::setmaxnreg_inc::<FEW_HEADS_CONVERT_REGISTERS>();
                convert::<F>();
            }
        }
    }
}

/// Number of the warpgroup that gathers.
const GATHER: u32 = FEW_HEADS_THREADS / WARPGROUP_THREADS - 1;

/// All rows are aligned to 16 bytes.
const WIDE: bool = true;

/// Runs the role that gathers: brings the tokens of all blocks, and queues the segments.
///
/// # Safety
/// All threads of the warpgroup call it, after the barriers are initialised; `segments` are the CTA's.
#[inline(always)]
unsafe fn gather<F: Format>(kernel: &Sparse<'_, F>, segments: Segments<'_, Queries<'_>>) {
    // SAFETY: the roles follow one protocol, told at the top of the kernel. Tokens lie within the caches.
    unsafe {
        let thread = Thread::this::<F>();
        let mut blocks = Blocks::<F, WIDE>::new(thread, segments);
        let mut block = 0;
        let first = blocks.find(kernel);
        blocks.publish();
        if !first.start.uniform::<F, WIDE>().is_end() {
            special::griddepcontrol_wait();
            let mut next = blocks.ask_published(first);
            loop {
                let pair = blocks.look_up_tokens(kernel, thread, &mut next);
                if pair.start.is_end() {
                    break;
                }
                if !pair.start.is_empty() {
                    bring::<F>(thread, block, &pair, 0);
                    block += 1;
                }
                // Tokens are asked for first, as the queue may be full.
                if pair.start.is_segment() {
                    blocks.publish();
                }
                if pair.start.is_of_two() {
                    bring::<F>(thread, block, &pair, 1);
                    block += 1;
                }
            }
            blocks.publish();
        }
        let mut converter = 0;
        while converter < FEW_HEADS_CONVERTERS {
            Staged::of(thread, converter).end(thread, block);
            converter += 1;
        }
    }
}

/// Brings the warp's tokens of a block: half of them to each of two warps that convert.
///
/// # Safety
/// As for [`Staged::bring`].
#[inline(always)]
unsafe fn bring<F: Format>(thread: Thread, block: u32, pair: &Tokens, half: u32) {
    let mut converter = 0;
    while converter < FEW_HEADS_CONVERTERS {
        // SAFETY: as the caller promises.
        unsafe { Staged::of(thread, converter).bring::<F>(thread, block, pair, half, converter) };
        converter += 1;
    }
}

/// Runs the role that converts keys.
///
/// # Safety
/// All threads of both warpgroups call it, after the barriers are initialised.
#[inline(always)]
unsafe fn convert<F: Format>() {
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let thread = Thread::this::<F>();
        let lane = Lane::this::<F>(thread);
        let staged = Staged::of(thread, thread.converter());
        let mut place = BlockPlace::<Sparse<F>>::first_in(special::dynamic_shared());
        while let Some(valid) = staged.wait(place.number()) {
            let mut scales = staged.scales::<F>(thread);
            let mut block = Block::take::<F>(staged, thread);
            let mut rope = staged.rope::<F>(thread);
            staged.release(thread, place.number());
            if tokens::some_absent::<F>(thread, valid) {
                cold_path();
                block.clear_absent::<F>(thread, valid);
                tokens::clear_absent::<F>(thread, valid, &mut rope, &mut scales);
            }
            place.probabilities_free().wait_for_last();
            let converter = Converter::<F>::new(thread, lane, RawScales(scales));
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
            if thread.converter() == 0 && thread.lane() == 0 {
                memory::st_shared_u16(key_mask(thread, place), valid as u16);
            }
            tokens::store_rope::<F>(thread, rope, rope_tile(place));
            arrive(thread, place.tail_full());
            place = place.next();
        }
    }
}

/// Two NaN as bf16.
const BF16_NANS: u32 = BF16_NAN as u32 * 0x0001_0001;

/// Where the RoPE elements of a block go.
#[inline(always)]
fn rope_tile<F: Format>(place: BlockPlace<Sparse<F>>) -> u32 {
    if F::TAIL { place.tail() } else { place.part(F::WHOLE_PARTS) + TILE_BYTES }
}
