//! Merging states on a GPU.

use super::GpuDevice;
use super::checks::{MAX_GRID_Y, check_alignment, check_element_alignment};
use super::kernels::{Grid, Kernel};
use crate::{
    Error, InvalidProblem, MergeStates, MergedState, PartialState, StateElement, StateFormat, Stream,
    TensorView,
};
use bytemuck::Zeroable;
use oximla_types::kernels::merge_states::{self as contract, MAX_STATES, MergeStatesParams, StateTensors};
use std::sync::Arc;

/// A merge planned for a GPU.
#[derive(Clone, Debug)]
pub(crate) struct MergePlan {
    device: Arc<GpuDevice>,
    problem: MergeStates,
    kernel: Kernel,
}

impl MergePlan {
    pub(crate) fn new(
        problem: &MergeStates,
        format: StateFormat,
        device: &Arc<GpuDevice>,
    ) -> Result<Self, Error> {
        let limits = [
            ("states", problem.states, MAX_STATES),
            ("batch", problem.batch, MAX_GRID_Y),
            ("s_q · h_q", problem.s_q.saturating_mul(problem.h_q), i32::MAX as usize),
        ];
        for (argument, found, limit) in limits {
            if found > limit {
                return Err(InvalidProblem::new(argument, found, format!("at most {limit}")).into());
            }
        }
        let kernel = device.kernel(match format {
            StateFormat::Bf16 => &contract::BF16,
            StateFormat::Fp16 => &contract::FP16,
            StateFormat::F32 => &contract::F32,
        })?;
        Ok(Self { device: Arc::clone(device), problem: problem.clone(), kernel })
    }

    pub(crate) fn kernel(&self) -> &'static str {
        self.kernel.contract.entry
    }

    /// Checks that the stream is one of the planned GPU's driver.
    pub(crate) fn check_stream(&self, stream: &Stream) -> Result<(), InvalidProblem> {
        self.device.driver.check_stream(stream.0)
    }

    /// The views are checked: number, shapes, memory.
    pub(crate) fn run<T: StateElement>(
        &self,
        stream: &Stream,
        states: &[PartialState<'_, T>],
        merged: &mut MergedState<'_, T>,
    ) -> Result<(), Error> {
        let mut tensors = [StateTensors::zeroed(); MAX_STATES];
        for (index, (state, tensors)) in states.iter().zip(&mut tensors).enumerate() {
            let name = |tensor| format!("states[{index}].{tensor}");
            *tensors = state_tensors(&name("out"), &state.out, &name("lse"), &state.lse)?;
        }
        let total_rows = (self.problem.s_q * self.problem.h_q) as u32;
        let batch = self.problem.batch as u32;
        let params = MergeStatesParams {
            states: tensors,
            merged: state_tensors("out", &merged.out.view, "lse", &merged.lse.view)?,
            count: states.len() as u32,
            h_q: self.problem.h_q as u32,
            total_rows,
            rows_per_cta: contract::rows_per_cta(batch, total_rows, self.device.multiprocessors),
        };
        let grid = [total_rows.div_ceil(params.rows_per_cta), batch];
        // SAFETY: the parameters are the kernel's own type; the views promise live memory of the checked shapes, and the
        // kernel reaches no element outside them; the stream's maker promised a live one.
        unsafe { self.kernel.launch(&*self.device.driver, stream.0, Grid::of(grid), &params) }
    }
}

fn state_tensors<T: StateElement>(
    out_name: &str,
    out: &TensorView<'_, T, 4>,
    lse_name: &str,
    lse: &TensorView<'_, f32, 3>,
) -> Result<StateTensors, InvalidProblem> {
    check_alignment(out_name, out.address, &out.strides[..3], size_of::<T>())?;
    check_element_alignment(lse_name, lse.address, size_of::<f32>() as u64)?;
    Ok(StateTensors {
        out: out.address,
        lse: lse.address,
        out_strides: [out.strides[0], out.strides[1], out.strides[2]],
        lse_strides: lse.strides,
    })
}
