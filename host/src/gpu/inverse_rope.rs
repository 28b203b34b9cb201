//! Inverse RoPE on a GPU.

use super::GpuDevice;
use super::checks::check_alignment;
use super::kernels::{Grid, Kernel};
use crate::ops::inverse_rope::frequencies;
use crate::{
    Error, InvalidProblem, InverseRope, InverseRopeInputs, RopeAngles, StateElement, StateFormat, Stream,
    TensorViewMut,
};
use oximla_types::kernels::inverse_rope::{
    self as contract, HEADS_PER_WARP, InverseRopeParams, RopeParams, WARPS,
};
use oximla_types::rope::ROPE_PAIRS;
use std::f64::consts::TAU;
use std::sync::Arc;

/// A rotation planned for a GPU.
#[derive(Clone, Debug)]
pub(crate) struct RotationPlan {
    device: Arc<GpuDevice>,
    problem: InverseRope,
    kernel: Kernel,
}

impl RotationPlan {
    pub(crate) fn new(
        problem: &InverseRope,
        format: StateFormat,
        device: &Arc<GpuDevice>,
    ) -> Result<Self, Error> {
        let warps = problem.batch.saturating_mul(problem.s_q).saturating_mul(warps_per_token(problem));
        if warps > i32::MAX as usize {
            let found = format!("{} · {} · {}", problem.batch, problem.s_q, problem.h_q);
            let needed = format!("at most {} with {HEADS_PER_WARP} heads as one", i32::MAX);
            return Err(InvalidProblem::new("batch · s_q · h_q", found, needed).into());
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

    /// The views are checked: shapes, memory.
    pub(crate) fn run<T: StateElement>(
        &self,
        stream: &Stream,
        inputs: &InverseRopeInputs<'_>,
        out: &mut TensorViewMut<'_, T, 4>,
    ) -> Result<(), Error> {
        let problem = &self.problem;
        if problem.batch == 0 || problem.s_q == 0 || problem.h_q == 0 {
            return Ok(());
        }
        let out = &out.view;
        check_alignment("out", out.address, &out.strides[..3], size_of::<T>())?;
        let params = InverseRopeParams {
            out: out.address,
            out_strides: [out.strides[0], out.strides[1], out.strides[2]],
            rope: rope_params(&problem.angles, inputs),
            tokens: (problem.batch * problem.s_q) as u32,
            s_q: problem.s_q as u32,
            h_q: problem.h_q as u32,
            warps_per_token: warps_per_token(problem) as u32,
        };
        let ctas = (params.tokens * params.warps_per_token).div_ceil(WARPS);
        // SAFETY: the parameters are the kernel's own type; the views promise live memory of the checked shapes, and the
        // kernel reaches no element outside them; the stream's maker promised a live one.
        unsafe { self.kernel.launch(&*self.device.driver, stream.0, Grid::of([ctas, 1]), &params) }
    }
}

fn warps_per_token(problem: &InverseRope) -> usize {
    problem.h_q.div_ceil(HEADS_PER_WARP as usize)
}

/// What kernels must know of checked inputs and of the angles that they go with.
pub(super) fn rope_params(angles: &RopeAngles, inputs: &InverseRopeInputs<'_>) -> RopeParams {
    let positions = &inputs.positions;
    let (cos_sin, cos_sin_stride, max_positions) = inputs
        .cos_sin
        .as_ref()
        .map_or((0, 0, 0), |table| (table.address, table.strides[0], table.shape[0] as u32));
    let frequencies = match *angles {
        RopeAngles::Theta(theta) => frequencies(theta).map(|radians| {
            const TURN: f64 = (1_u128 << u64::BITS) as f64;
            (radians / TAU * TURN) as u64
        }),
        RopeAngles::Table { .. } => [0; ROPE_PAIRS as usize],
    };
    RopeParams {
        positions: positions.address,
        positions_strides: positions.strides,
        cos_sin,
        cos_sin_stride,
        frequencies,
        max_positions,
        reserved: 0,
    }
}
