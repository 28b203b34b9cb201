//! From the codes in the warp's staging to bf16, where the tensor cores want them, a part at a time.

use super::Format;
use super::codes::{CHUNK_BYTES, CHUNKS, Chunk, Lane, Share, code_tiles, first_row};
use super::loads::Thread;
use super::scales::{RawScales, Scales};
use crate::attention::dequant::{self, FOUND, Factor};
use crate::attention::unroll;
use crate::kernels::decode::sm90::TILE;
use crate::ptx::{memory, special, warp};
use core::hint::cold_path;
use core::marker::PhantomData;
use oximla_types::kernels::decode::PART_TILES;

/// A NaN as bf16.
pub(super) const BF16_NAN: u16 = 0x7fff;

/// Chunks of a part that are on their way to a lane's registers while it converts another one: as many as it has registers for.
const fn ahead<F: Format>() -> usize {
    if F::SHARES || F::PREFILL || F::SCALE_PLANE { 2 } else { 3 }
}

/// What a lane converts of a part, on its way from the staging to registers: of the codes the first chunks, later ones in
/// their places as soon as they are converted.
#[derive(Clone, Copy, Default)]
pub struct Taken {
    chunks: [Chunk; CHUNKS],
    /// Of each chunk, a word of its token's [`Scales`], or what the short way makes of it.
    scales: [u32; CHUNKS],
    /// One of the bits in [`FOUND`] is set if there was a NaN among the codes so far.
    nan: u32,
}

/// What a lane knows to convert a block.
#[derive(Clone, Copy)]
pub struct Converter<F> {
    thread: Thread,
    lane: Lane,
    scales: Scales,
    format: PhantomData<F>,
}

impl<F: Format> Converter<F> {
    /// Of a block with these scales.
    #[inline(always)]
    pub fn new(thread: Thread, lane: Lane, scales: RawScales) -> Self {
        Self { thread, lane, scales: Scales::of_raw::<F>(scales), format: PhantomData }
    }

    /// Whether the block has to be converted by [`Self::convert_any`], as a scale is large.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn is_any(&self) -> bool {
        // SAFETY: as the caller promises.
        unsafe { warp::ballot(self.scales.large & FOUND != 0) != 0 }
    }

    /// Takes the first chunks of a part, and all its scales. Nothing here waits for what it reads.
    ///
    /// # Safety
    /// The whole warp calls it. The part's codes have come.
    #[inline(always)]
    pub unsafe fn take(&self, part: u32) -> Taken {
        let mut taken = Taken::default();
        // SAFETY: as the caller promises.
        unsafe {
            unroll!(I in 4 => {
                if I < ahead::<F>() {
                    self.take_codes(&mut taken, part, I);
                }
            });
            self.take_scales(&mut taken, part);
        }
        taken
    }

    /// Takes the `i`-th chunk of a part, if there is one.
    ///
    /// # Safety
    /// The part's codes have come, if it has any.
    #[inline(always)]
    unsafe fn take_codes(&self, taken: &mut Taken, part: u32, i: usize) {
        if i < Share::count::<F>(code_tiles::<F>(part)) {
            // SAFETY: as the caller promises.
            taken.chunks[i] = unsafe { memory::ld_shared_u32x4(self.lane.place(part, i)) };
        }
    }

    /// Takes the scales of all chunks of a part, if it has any.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn take_scales(&self, taken: &mut Taken, part: u32) {
        let share = Share::new::<F>(self.thread, code_tiles::<F>(part));
        let word = self.scales.word(part);
        let word = if F::SCALE_PLANE { word } else { Factor::pair(word) };
        unroll!(I in 4 => {
            if I < share.count {
                // SAFETY: as the caller promises.
                taken.scales[I] = unsafe { warp::shfl_idx(word, share.token(I)) };
            }
        });
    }

    /// Converts a part that was taken and stores it in the warp's rows of the part, at `to`: for tokens that there are not,
    /// zeros. Takes the next part's first chunks meanwhile. What becomes of a NaN is wrong, but [`Self::poison`] comes later.
    ///
    /// # Safety
    /// The whole warp calls it. Nobody else uses the rows; the next part's codes have come, if it has any.
    #[inline(always)]
    pub unsafe fn convert(&self, taken: &mut Taken, part: u32, to: u32) {
        let tiles = code_tiles::<F>(part);
        let share = Share::new::<F>(self.thread, tiles);
        // SAFETY: as the caller promises.
        unsafe {
            let first =
                if tiles == PART_TILES { to + self.lane.values } else { first_row(share, self.thread, to) };
            unroll!(I in 4 => {
                if I < share.count {
                    let factor = factor::<F>(taken.scales[I], share, part);
                    dequant::dequantise_16(taken.chunks[I], factor, |half, values| {
                        store_half(first, half, I as u32 * share.step, values)
                    });
                    taken.nan |= dequant::find_nan(taken.chunks[I]);
                    let later = I + ahead::<F>();
                    if later < share.count {
                        self.take_codes(taken, part, later);
                    } else {
                        self.take_codes(taken, part + 1, later - share.count);
                    }
                }
            });
        }
    }

    /// When all parts are converted: if there was a NaN among the warp's codes, lets each of its tokens have a NaN among its RoPE
    /// elements, whose rows are from `rows` on. As all scores of one token are NaN either way, so are the sums of all
    /// probabilities and all outputs: it does not matter what the other tokens are, nor what has become of the code.
    ///
    /// # Safety
    /// The whole warp calls it. The RoPE elements have come, and nobody else uses them.
    #[inline(always)]
    pub unsafe fn poison(&self, taken: &Taken, rows: impl Fn() -> u32) {
        // SAFETY: as the caller promises.
        unsafe {
            if warp::ballot(taken.nan & FOUND != 0) != 0 {
                cold_path();
                // Also those elements have come that other lanes have asked for.
                warp::warp_sync();
                let lane = self.thread.lane();
                if lane < F::WARP_TOKENS {
                    memory::st_shared_u16(rows() + TILE.row_offset(lane), BF16_NAN);
                }
                warp::warp_sync();
            }
        }
    }

    /// [`Self::convert`] for any codes and any scales. Codes are taken from the staging as they are needed, in a loop, as this
    /// is rare.
    ///
    /// # Safety
    /// As there, with the codes in the staging.
    #[inline(always)]
    pub unsafe fn convert_any(&self, part: u32, to: u32) {
        let share = Share::new::<F>(self.thread, code_tiles::<F>(part));
        // SAFETY: as the caller promises.
        unsafe {
            let first = first_row(share, self.thread, to);
            let (mut i, count) = (0, special::again(share.count as u32));
            while i < count {
                let codes = memory::ld_shared_u32x4(self.lane.place(part, i as usize));
                let scale = self.scales.of::<F>(part, share.token(i as usize), share.tile);
                dequant::dequantise_any_16(codes, scale, |half, values| {
                    store_half(first, half, i * share.step, values)
                });
                i += 1;
            }
        }
    }
}

/// What the chunk's codes of a part are multiplied with, by a word of its token's scales.
#[inline(always)]
fn factor<F: Format>(word: u32, share: Share, part: u32) -> Factor {
    if F::SCALE_PLANE {
        Factor::of_ue8m0(word, 2 * (part % 2) + share.tile)
    } else {
        Factor::of_pair(word, part % 2)
    }
}

/// Stores half of the values of a chunk, so many rows behind a first one whose values are at `first`: they take both chunks
/// of a pair of them.
///
/// # Safety
/// As for [`Converter::convert`].
#[inline(always)]
unsafe fn store_half(first: u32, half: usize, rows: u32, values: [u32; 4]) {
    let to = TILE.rows_further(first ^ half as u32 * CHUNK_BYTES, rows);
    // SAFETY: as the caller promises.
    unsafe { memory::st_shared_u32x4(to, values) }
}
