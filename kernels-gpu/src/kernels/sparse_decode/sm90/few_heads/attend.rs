//! The role that attends: scores, softmax and values, block by block.

use super::super::{Format, Sparse};
use super::scales::Units;
use super::scores::{self, Queries, Softmax};
use super::stages::Stage;
use super::values::Output;
use crate::attention::unroll;
use crate::kernels::decode::sm90::queue::Reader;
use crate::kernels::decode::sm90::{Decode, WARPGROUP_WARPS};
use crate::ptx::{memory, special, warp};
use crate::sync::group_barrier;
use oximla_types::kernels::decode::{FEW_HEADS, PART_COLUMNS, VALUE_PARTS};
use oximla_types::kernels::few_heads::{
    ATTENDING_THREADS, GROUP, GROUPS, HEADS_APART, PLAN, QUAD_BYTES, STAGING,
};
use oximla_types::launch::{WARP_THREADS, WARPGROUP_THREADS};

/// A lane of a warp that attends. In fragments of `mma` it has two heads, and is one of four lanes that share them.
#[derive(Clone, Copy)]
pub struct Lane {
    /// Its warpgroup.
    pub group: u32,
    /// The part of columns that its warp attends to.
    pub part: u32,
    /// Number in the warp.
    pub number: u32,
}

impl Lane {
    /// The calling one.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    unsafe fn this() -> Self {
        // Exchanged with itself, as ptxas would read the special register anew each time, and of which it does not know that it is the same,
        // so that what follows from it need not be kept in registers for later.
        // SAFETY: as the caller promises.
        let thread = unsafe { warp::shfl_bfly::<0>(special::thread_x()) };
        Self {
            group: thread / WARPGROUP_THREADS % GROUPS,
            part: thread / WARP_THREADS % WARPGROUP_WARPS,
            number: thread % WARP_THREADS,
        }
    }

    /// The same, of which the compiler does not know that, so that it does not keep in registers what follows from it.
    #[inline(always)]
    fn again(self) -> Self {
        let [group, part, number] = [self.group, self.part, self.number].map(special::again);
        Self { group, part, number }
    }

    /// The row of a first operand of `mma`, the head, or the column of a second one, a key or a column of values.
    #[inline(always)]
    pub fn row(self) -> u32 {
        self.number / 4
    }

    /// Its number among the four lanes that share these.
    #[inline(always)]
    pub fn of_row(self) -> u32 {
        self.number % 4
    }

    /// Its two heads in fragments.
    #[inline(always)]
    pub fn heads(self) -> [u32; 2] {
        [self.row(), self.row() + HEADS_APART]
    }

    /// The first column of its part.
    #[inline(always)]
    pub fn first_column(self) -> u32 {
        self.part * PART_COLUMNS
    }

    /// Whether the second slab of its part are elements with position embedding, not codes.
    #[inline(always)]
    pub fn has_elements<F: Format>(self) -> bool {
        !F::TAIL && self.part == VALUE_PARTS - 1
    }

    /// Address of something that its warpgroup has for itself.
    #[inline(always)]
    pub fn own(self, offset: u32) -> u32 {
        staging(STAGING.groups) + self.group * GROUP.bytes + offset
    }

    /// The same of the other warpgroup.
    #[inline(always)]
    pub fn others(self, offset: u32) -> u32 {
        staging(STAGING.groups) + (1 - self.group) * GROUP.bytes + offset
    }

    /// Waits for all warps of its warpgroup.
    ///
    /// # Safety
    /// All of them call it.
    #[inline(always)]
    pub unsafe fn meet(self) {
        // SAFETY: as the caller promises; nobody else uses the barriers.
        unsafe {
            if self.group == 0 {
                group_barrier::<1>(WARPGROUP_THREADS);
            } else {
                group_barrier::<2>(WARPGROUP_THREADS);
            }
        }
    }

    /// Waits for all warps of both warpgroups, or only of its own.
    ///
    /// # Safety
    /// All of them call it with the same.
    #[inline(always)]
    pub unsafe fn meet_all(self, both: bool) {
        // SAFETY: as the caller promises; nobody else uses the barrier.
        unsafe {
            if both {
                group_barrier::<3>(ATTENDING_THREADS);
            } else {
                self.meet();
            }
        }
    }
}

const _: () = assert!(GROUPS == 2);

/// Address of something in the staging.
#[inline(always)]
pub fn staging(offset: u32) -> u32 {
    special::dynamic_shared() + PLAN.staging + offset
}

/// Where a quad of a head lies in its row of places. Heads with odd numbers have the halves of all banks the other way round, so that
/// lanes that store or load quads of two neighbouring heads find all banks.
#[inline(always)]
pub fn quad(head: u32, quad: u32) -> u32 {
    (quad ^ (head % 2 * 4)) * QUAD_BYTES
}

/// Where in a table of a word for each of some numbers and each head a word is.
#[inline(always)]
pub fn of_head(table: u32, number: u32, head: u32) -> u32 {
    table + (number * FEW_HEADS + head) * 4
}

/// Stores a word for each of the lane's heads in such a table. The lanes that share the heads know the same.
///
/// # Safety
/// The whole warp calls it; nobody reads those before any more.
#[inline(always)]
pub unsafe fn store_of_heads(table: u32, number: u32, lane: Lane, words: [u32; 2]) {
    if lane.of_row() == 0 {
        let heads = lane.heads();
        unroll!(ROW in 2 => {
            // SAFETY: as the caller promises.
            unsafe { memory::st_shared_u32(of_head(table, number, heads[ROW]), words[ROW]) };
        });
    }
}

/// Runs the role.
///
/// # Safety
/// All threads of the warps call it, after the barriers are initialised.
#[inline(always)]
pub unsafe fn run<F: Format>(kernel: &Sparse<'_, F>) {
    // SAFETY: the roles follow one protocol, told at the top of the kernel.
    unsafe {
        let lane = Lane::this();
        let mut segments = Reader::<Sparse<F>>::new();
        let mut first = 0;
        while let Some(segment) = segments.peek() {
            let count = segment.blocks.end.saturating_sub(segment.blocks.begin);
            let behind = first + count;
            // Every other block is the warpgroup's.
            let mut block = first + (first % GROUPS != lane.group) as u32;
            first = behind;
            let mut softmax = Softmax::new();
            let mut output = Output::new();
            let mut units = Units::new::<F>(lane);
            // Without any block, the first warpgroup stores what there is to store.
            let stores = if count == 0 { lane.group == 0 } else { block < behind };
            if block < behind {
                let lane = lane.again();
                let queries = Queries::take::<F>(&kernel.again(), segment.request, lane);
                softmax.follow_queries(lane);
                while block < behind {
                    let (stage, lane) = (Stage::of(block), lane.again());
                    stage.landed().wait();
                    let ratios = scores::multiply::<F>(&queries, &mut units, stage, lane);
                    lane.meet();
                    let lane = lane.again();
                    softmax.update::<F>(kernel, stage, lane);
                    lane.meet();
                    let lane = lane.again();
                    output.add::<F>(stage, lane, ratios);
                    stage.release(lane.number);
                    block += GROUPS;
                }
            }
            if stores {
                // Made anew, so that the loop need not keep what only this takes.
                let (kernel, lane) = (&kernel.again(), Lane::this());
                softmax.finish(lane);
                output.finish(kernel, &segments.reread(), lane, units, count > 1);
            }
            segments.release();
        }
        segments.release();
    }
}
