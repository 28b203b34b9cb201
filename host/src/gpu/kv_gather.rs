//! Dequantising tokens of a cache on a GPU.

use super::GpuDevice;
use super::checks::{check_alignment, paged_cache};
use super::kernels::{Grid, Kernel};
use crate::{Error, InvalidProblem, KvFormat, KvGather, KvGatherInputs, Stream, TensorViewMut};
use half::bf16;
use oximla_types::kernels::kv_gather::{self as contract, KvGatherParams, TOKENS_PER_CTA};
use std::sync::Arc;

/// A gathering planned for a GPU.
#[derive(Clone, Debug)]
pub(crate) struct GatherPlan {
    device: Arc<GpuDevice>,
    problem: KvGather,
    kernel: Kernel,
}

impl GatherPlan {
    pub(crate) fn new(problem: &KvGather, device: &Arc<GpuDevice>) -> Result<Self, Error> {
        let kernel = device.kernel(match problem.format {
            KvFormat::Model1Fp8 => &contract::MODEL1,
            _ => &contract::V32,
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

    /// The views are checked: shapes, memory, pages.
    pub(crate) fn run(
        &self,
        stream: &Stream,
        inputs: &KvGatherInputs<'_>,
        out: &mut TensorViewMut<'_, bf16, 2>,
    ) -> Result<(), Error> {
        if self.problem.tokens == 0 {
            return Ok(());
        }
        let KvGatherInputs { kv_cache, slots } = inputs;
        let out = &out.view;
        let cache = paged_cache("kv_cache", kv_cache)?;
        check_alignment("out", out.address, &out.strides[..1], size_of::<bf16>())?;
        let params = KvGatherParams {
            cache,
            slots: slots.address,
            out: out.address,
            slots_stride: slots.strides[0],
            out_stride: out.strides[0],
            tokens: self.problem.tokens as u64,
        };
        let ctas = (self.problem.tokens as u32).div_ceil(TOKENS_PER_CTA);
        // SAFETY: the parameters are the kernel's own type; the views promise live memory of the checked shapes, and the
        // kernel reaches no element outside them; the stream's maker promised a live one.
        unsafe { self.kernel.launch(&*self.device.driver, stream.0, Grid::of([ctas, 1]), &params) }
    }
}
