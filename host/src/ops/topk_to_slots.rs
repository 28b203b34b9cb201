//! From positions in a request to slots of the cache.

use super::validate;
use crate::device::Backend;
use crate::{Device, Error, InvalidProblem, Memory, Stream, TensorView, TensorViewMut};

/// The shape of a translation of top-k lists.
///
/// What selects tokens for sparse attention numbers them within their request; sparse decode wants
/// `page·page_size + offset`, the number of the slot in the cache. A position leads there through the request's row of the
/// page table. One that is not in the request leads to −1, which sparse decode skips; so does one whose page is not in the
/// cache. A list's slots stay where their positions are: what is −1 is not moved to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopkToSlots {
    /// Requests in the batch; may be 0.
    pub batch: usize,
    /// Query tokens per request; may be 0.
    pub s_q: usize,
    /// Positions per query token; may be 0.
    pub topk: usize,
    /// Columns of the page table; may be 0.
    pub max_pages: usize,
    /// Pages in the cache.
    pub num_pages: usize,
    /// Tokens per page.
    pub page_size: usize,
}

/// What a translation reads.
#[derive(Clone, Copy, Debug)]
pub struct TopkToSlotsInputs<'a> {
    /// Positions in the request `[batch, s_q, topk]`. Negative ones, −1 for instance, stand for none.
    pub positions: TensorView<'a, i32, 3>,
    /// Pages of each request `[batch, max_pages]`. Entries that no position leads to are not read.
    pub page_table: TensorView<'a, i32, 2>,
    /// Tokens of each request `[batch]`: positions from there on stand for none, and so do those past the page table.
    pub seqlens: TensorView<'a, i32, 1>,
}

/// What a translation writes. It overlaps no input.
#[derive(Debug)]
pub struct TopkToSlotsOutputs<'a> {
    /// Slots `[batch, s_q, topk]`, −1 for none.
    pub slots: TensorViewMut<'a, i32, 3>,
    /// How many of each query token's slots are not −1 `[batch, s_q]`.
    pub counts: TensorViewMut<'a, i32, 2>,
}

/// How a [`TopkToSlots`] runs on a device.
#[derive(Clone, Debug)]
pub struct TopkToSlotsPlan {
    problem: TopkToSlots,
    backend: BackendPlan,
}

#[derive(Clone, Debug)]
enum BackendPlan {
    #[cfg(feature = "cpu")]
    Cpu,
    #[cfg(feature = "_gpu")]
    Gpu(crate::gpu::topk_to_slots::TranslationPlan),
}

impl TopkToSlots {
    /// Checks the shape in itself.
    ///
    /// # Errors
    /// [`InvalidProblem`] naming the first field that is wrong: no page or no token in a page, more tokens than i32
    /// counts, a tensor larger than the address space.
    pub fn validate(&self) -> Result<(), InvalidProblem> {
        validate::cache_tokens(self.num_pages, self.page_size)?;
        validate::counts(&[
            ("batch", self.batch),
            ("s_q", self.s_q),
            ("topk", self.topk),
            ("max_pages", self.max_pages),
        ])?;
        validate::extent("positions", &self.positions_shape(), size_of::<i32>())?;
        validate::extent("page_table", &self.page_table_shape(), size_of::<i32>())
    }

    /// Bytes that must move: positions and slots. Page tables are small and stay in caches.
    pub fn bytes(&self) -> f64 {
        2.0 * self.batch as f64 * self.s_q as f64 * self.topk as f64 * size_of::<i32>() as f64
    }

    fn positions_shape(&self) -> [usize; 3] {
        [self.batch, self.s_q, self.topk]
    }

    fn page_table_shape(&self) -> [usize; 2] {
        [self.batch, self.max_pages]
    }
}

impl TopkToSlotsPlan {
    /// Plans the problem for a device.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] where a number is out of range, [`Error::Unsupported`] where the device has no kernel.
    pub fn new(problem: &TopkToSlots, device: &Device) -> Result<Self, Error> {
        problem.validate()?;
        let backend = match &device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => BackendPlan::Cpu,
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => {
                BackendPlan::Gpu(crate::gpu::topk_to_slots::TranslationPlan::new(problem, device)?)
            }
        };
        Ok(Self { problem: problem.clone(), backend })
    }

    /// The problem.
    pub fn problem(&self) -> &TopkToSlots {
        &self.problem
    }

    /// What computes the problem.
    pub fn kernel(&self) -> &'static str {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => "topk_to_slots_cpu",
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => plan.kernel(),
        }
    }

    /// Translates the lists. On a GPU this enqueues one kernel and returns: nothing is allocated, nothing waits, and the
    /// call can be captured in a CUDA graph. On the CPU and on an emulated GPU the result is there on return.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] naming the argument, before anything is launched or written; [`Error::Driver`] where
    /// the launch fails; [`Error::Emulated`](Error) where an emulated kernel does something wrong.
    pub fn run(
        &self,
        stream: &Stream,
        inputs: &TopkToSlotsInputs<'_>,
        outputs: &mut TopkToSlotsOutputs<'_>,
    ) -> Result<(), Error> {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => {
                stream.0.check_host()?;
                self.check(inputs, outputs, Memory::Host)?;
                crate::cpu::topk_to_slots::run(&self.problem, inputs, outputs);
                Ok(())
            }
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => {
                plan.check_stream(stream)?;
                self.check(inputs, outputs, Memory::Device)?;
                plan.run(stream, inputs, outputs)
            }
        }
    }

    fn check(
        &self,
        inputs: &TopkToSlotsInputs<'_>,
        outputs: &TopkToSlotsOutputs<'_>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let p = &self.problem;
        validate::input("positions", &inputs.positions, p.positions_shape(), memory)?;
        validate::input("page_table", &inputs.page_table, p.page_table_shape(), memory)?;
        validate::input("seqlens", &inputs.seqlens, [p.batch], memory)?;
        validate::output("slots", &outputs.slots, p.positions_shape(), memory)?;
        validate::output("counts", &outputs.counts, [p.batch, p.s_q], memory)
    }
}
