//! Looking positions up in a page table on a GPU.

use super::GpuDevice;
use super::checks::MAX_GRID_Y;
use super::kernels::{Grid, Kernel};
use crate::{Error, InvalidProblem, Stream, TopkToSlots, TopkToSlotsInputs, TopkToSlotsOutputs};
use oximla_types::kernels::topk_to_slots::{self as contract, TopkToSlotsParams};
use std::sync::Arc;

/// A translation planned for a GPU.
#[derive(Clone, Debug)]
pub(crate) struct TranslationPlan {
    device: Arc<GpuDevice>,
    problem: TopkToSlots,
    kernel: Kernel,
}

impl TranslationPlan {
    pub(crate) fn new(problem: &TopkToSlots, device: &Arc<GpuDevice>) -> Result<Self, Error> {
        if problem.batch > MAX_GRID_Y {
            return Err(InvalidProblem::new("batch", problem.batch, format!("at most {MAX_GRID_Y}")).into());
        }
        let kernel = device.kernel(&contract::CONTRACT)?;
        Ok(Self { device: Arc::clone(device), problem: problem.clone(), kernel })
    }

    pub(crate) fn kernel(&self) -> &'static str {
        self.kernel.contract.entry
    }

    /// Checks that the stream is one of the planned GPU's driver.
    pub(crate) fn check_stream(&self, stream: &Stream) -> Result<(), InvalidProblem> {
        self.device.driver.check_stream(stream.0)
    }

    /// The views are checked: shapes, memory.
    pub(crate) fn run(
        &self,
        stream: &Stream,
        inputs: &TopkToSlotsInputs<'_>,
        outputs: &mut TopkToSlotsOutputs<'_>,
    ) -> Result<(), Error> {
        let problem = &self.problem;
        if problem.batch == 0 || problem.s_q == 0 {
            return Ok(());
        }
        let TopkToSlotsInputs { positions, page_table, seqlens } = inputs;
        let (slots, counts) = (&outputs.slots.view, &outputs.counts.view);
        let params = TopkToSlotsParams {
            positions: positions.address,
            page_table: page_table.address,
            seqlens: seqlens.address,
            slots: slots.address,
            counts: counts.address,
            positions_strides: [positions.strides[0], positions.strides[1]],
            page_table_stride: page_table.strides[0],
            seqlens_stride: seqlens.strides[0],
            slots_strides: [slots.strides[0], slots.strides[1]],
            counts_stride: counts.strides[0],
            topk: problem.topk as u32,
            max_pages: problem.max_pages as u32,
            page_size: problem.page_size as u32,
            num_pages: problem.num_pages as u32,
        };
        let grid = Grid::of([problem.s_q as u32, problem.batch as u32]);
        // SAFETY: the parameters are the kernel's own type; the views promise live memory of the checked shapes, and the
        // kernel reaches no element outside them; the stream's maker promised a live one.
        unsafe { self.kernel.launch(&*self.device.driver, stream.0, grid, &params) }
    }
}
