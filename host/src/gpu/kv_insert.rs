//! Quantising tokens into a cache on a GPU.

use super::GpuDevice;
use super::checks::{check_alignment, paged_cache};
use super::kernels::{Grid, Kernel};
use crate::{Error, InvalidProblem, KvFormat, KvInsert, KvInsertInputs, Stream, TensorViewMut};
use half::bf16;
use oximla_types::kernels::kv_insert::{self as contract, KvInsertParams, TOKENS_PER_CTA};
use std::sync::Arc;

/// An insertion planned for a GPU.
#[derive(Clone, Debug)]
pub(crate) struct InsertPlan {
    device: Arc<GpuDevice>,
    problem: KvInsert,
    kernel: Kernel,
}

impl InsertPlan {
    pub(crate) fn new(problem: &KvInsert, device: &Arc<GpuDevice>) -> Result<Self, Error> {
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
        inputs: &KvInsertInputs<'_>,
        kv_cache: &mut TensorViewMut<'_, u8, 4>,
    ) -> Result<(), Error> {
        if self.problem.tokens == 0 {
            return Ok(());
        }
        let KvInsertInputs { latent, rope, slot_mapping } = inputs;
        check_alignment("latent", latent.address, &latent.strides[..1], size_of::<bf16>())?;
        check_alignment("rope", rope.address, &rope.strides[..1], size_of::<bf16>())?;
        let params = KvInsertParams {
            cache: paged_cache("kv_cache", &kv_cache.view)?,
            latent: latent.address,
            rope: rope.address,
            slots: slot_mapping.address,
            latent_stride: latent.strides[0],
            rope_stride: rope.strides[0],
            slots_stride: slot_mapping.strides[0],
            tokens: self.problem.tokens as u64,
        };
        let ctas = (self.problem.tokens as u32).div_ceil(TOKENS_PER_CTA);
        // SAFETY: the parameters are the kernel's own type; the views promise live memory of the checked shapes, and the
        // kernel reaches no element outside them; the stream's maker promised a live one.
        unsafe { self.kernel.launch(&*self.device.driver, stream.0, Grid::of([ctas, 1]), &params) }
    }
}
