//! What differs where a tile has few rows: at most sixteen heads of one query token.
//!
//! `wgmma` has 64 rows of its first operand. With few heads most of a product's would be for nothing. So scores and outputs are transposed:
//! `Sᵀ = K·Qᵀ` has a row for each key, and `Oᵀ = Oᵀ·scale + Vᵀ·Pᵀ` one for each column of the output. Sixteen heads take 8 accumulators of one
//! warpgroup for the scores, and 64 of another one for the output: there are registers for three warpgroups that gather and convert keys. The
//! scores put a segment's queries where they stay; nobody else brings them.
//!
//! Blocks come and go as a whole:
//!
//! | barrier     | completes when                                                        | arrivals                   |
//! |-------------|-----------------------------------------------------------------------|----------------------------|
//! | `TAIL_FULL` | all of a block is there                                               | each warp that converts    |
//! | `P_FULL`    | its probabilities and row scales are written                          | each thread of the scores  |
//! | `P_FREE`    | its values are used up, or the output that was put there is stored    | each warp of the values    |
//!
//! Those of parts are not used. Segments and norms are as of many heads.

pub mod scores;
pub mod values;

use crate::ptx::memory;
use oximla_types::kernels::decode::{FEW_HEADS, TILE_COLUMNS};
use oximla_types::launch::WARPGROUP_THREADS;
use oximla_types::layout::fragment::ROW_LANES;

/// Accumulators of a thread for the heads and 64 rows, keys or columns of the output.
const TILE_REGISTERS: usize = (TILE_COLUMNS * FEW_HEADS / WARPGROUP_THREADS) as usize;

/// Heads that a thread has accumulators of: two neighbouring ones, and those eight further.
const THREAD_HEADS: usize = 4;

/// One value for each of a thread's heads.
type OfHeads = [f32; THREAD_HEADS];

/// Of an accumulator, which of the thread's heads it is of.
const fn head_of(register: usize) -> usize {
    register / 4 * 2 + register % 2
}

/// Stores an f32 for each of the thread's heads, of those of all heads at an address.
///
/// # Safety
/// There is room for [`FEW_HEADS`] there, and nobody uses it.
#[inline(always)]
unsafe fn store_heads(to: u32, thread: u32, [a, b, c, d]: OfHeads) {
    let [first, second] = places(to, thread);
    // SAFETY: as the caller promises.
    unsafe {
        memory::st_shared_f32x2(first, [a, b]);
        memory::st_shared_f32x2(second, [c, d]);
    }
}

/// Loads what [`store_heads`] stores.
///
/// # Safety
/// It is there.
#[inline(always)]
unsafe fn load_heads(from: u32, thread: u32) -> OfHeads {
    // SAFETY: as the caller promises.
    let [[a, b], [c, d]] = places(from, thread).map(|place| unsafe { memory::ld_shared_u32x2(place) });
    [a, b, c, d].map(f32::from_bits)
}

/// Where of an f32 for each head those of a thread's pairs of heads are.
#[inline(always)]
fn places(all: u32, thread: u32) -> [u32; 2] {
    let first = all + thread % ROW_LANES * 8;
    [first, first + FEW_HEADS / 2 * 4]
}
