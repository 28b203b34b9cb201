//! Token-level sparse MLA prefill over FP8 caches.

use super::validate;
use crate::device::Backend;
use crate::{
    Device, Error, InvalidProblem, InverseRopeInputs, KvFormat, KvScope, KvScopeShape, Memory, RopeAngles,
    SparseDecode, SparseDecodeInputs, SparseDecodeOutputs, SparsePrefillOutputs, Stream, TensorView,
    TensorViewMut, Workspace,
};
use half::bf16;

/// The shape of a sparse prefill over FP8 caches.
///
/// As [`SparsePrefill`](crate::SparsePrefill), but the keys are tokens of one paged cache, or of two that share the softmax.
#[derive(Clone, Debug, PartialEq)]
pub struct SparsePrefillFp8 {
    /// Query tokens.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Format of the caches: [`KvFormat::V32Fp8`] or [`KvFormat::Model1Fp8`].
    pub format: KvFormat,
    /// The cache.
    pub scope: KvScopeShape,
    /// The second cache, if there is one.
    pub extra: Option<KvScopeShape>,
    /// Factor on `q·k` before the softmax.
    pub softmax_scale: f32,
    /// Turns the last 64 elements of each output back, as [`SparseDecode::inverse_rope`] does. MODEL1 only.
    pub inverse_rope: Option<RopeAngles>,
}

/// What a sparse prefill over FP8 caches reads.
#[derive(Clone, Copy, Debug)]
pub struct SparsePrefillFp8Inputs<'a> {
    /// Queries `[s_q, h_q, head_dim]`, the format's `head_dim`.
    pub q: TensorView<'a, bf16, 3>,
    /// The cache. Each query token has an index list `[s_q, 1, topk]` and a length `[s_q, 1]` of its own.
    pub scope: KvScope<'a>,
    /// The second cache, given exactly if the problem has one.
    pub extra: Option<KvScope<'a>>,
    /// Natural-log weights `[h_q]` that join the softmax denominator of `out` but not `lse`. May be infinite.
    pub attn_sink: Option<TensorView<'a, f32, 1>>,
    /// Positions `[s_q, 1]` of the query tokens, and a table where the problem names one; given exactly if the problem turns
    /// outputs back.
    pub inverse_rope: Option<InverseRopeInputs<'a>>,
}

/// How a [`SparsePrefillFp8`] runs on a device.
#[derive(Clone, Debug)]
pub struct SparsePrefillFp8Plan {
    problem: SparsePrefillFp8,
    backend: BackendPlan,
}

#[derive(Clone, Debug)]
enum BackendPlan {
    #[cfg(feature = "cpu")]
    Cpu(crate::cpu::sparse_decode::SparseDecodePlan),
    #[cfg(feature = "_gpu")]
    Gpu(crate::gpu::sparse_decode::SparsePlan),
}

impl SparsePrefillFp8 {
    /// Checks that the numbers describe a problem. [`SparsePrefillFp8Plan::new`] does it too.
    ///
    /// # Errors
    /// The first field that is out of range: a dimension that is 0 or above `i32::MAX`, a format without FP8, a scale
    /// that is not finite, a tensor larger than the address space, outputs to turn back whose values carry no RoPE, or
    /// angles that [`InverseRope`](crate::InverseRope) refuses.
    pub fn validate(&self) -> Result<(), InvalidProblem> {
        validate::dimensions(&[("s_q", self.s_q)])?;
        self.as_decode().validate()
    }

    /// Floating-point operations if every index names a token: `2·s_q·h_q·(topk + extra topk)·(head_dim + head_dim_v)`.
    pub fn flop(&self) -> f64 {
        self.as_decode().flop()
    }

    /// Bytes that have to move then: each selected token, queries and output once.
    pub fn bytes(&self) -> f64 {
        self.as_decode().bytes()
    }

    /// A decode whose requests have one query token each, and so lists and lengths of their own.
    pub(crate) fn as_decode(&self) -> SparseDecode {
        let Self { s_q, h_q, format, scope, extra, softmax_scale, inverse_rope } = *self;
        SparseDecode { batch: s_q, s_q: 1, h_q, format, scope, extra, softmax_scale, inverse_rope }
    }
}

impl SparsePrefillFp8Plan {
    /// Plans `problem`.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] if the problem contradicts itself, [`Error::Unsupported`] if the device has no kernel
    /// for it.
    pub fn new(problem: &SparsePrefillFp8, device: &Device) -> Result<Self, Error> {
        problem.validate()?;
        let decode = problem.as_decode();
        let backend = match &device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => BackendPlan::Cpu(crate::cpu::sparse_decode::SparseDecodePlan::new(&decode)),
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => {
                BackendPlan::Gpu(crate::gpu::sparse_decode::SparsePlan::of_prefill(&decode, device)?)
            }
        };
        Ok(Self { problem: problem.clone(), backend })
    }

    /// The problem that was planned.
    pub fn problem(&self) -> &SparsePrefillFp8 {
        &self.problem
    }

    /// Bytes of workspace that a run needs.
    pub fn workspace_bytes(&self) -> usize {
        match self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(ref plan) => plan.workspace_bytes(),
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(ref plan) => plan.workspace_bytes(),
        }
    }

    /// Name of the kernel that does the work.
    pub fn kernel(&self) -> &'static str {
        match self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(_) => "sparse_prefill_fp8_cpu",
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(ref plan) => plan.kernel(),
        }
    }

    /// Computes it. On the CPU it is finished on return.
    ///
    /// The CPU refuses a `topk_length` outside `0 ..= topk`. Indices beyond it are not read.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] if a tensor is not what the problem says, before anything is written.
    pub fn run(
        &self,
        stream: &Stream,
        inputs: &SparsePrefillFp8Inputs<'_>,
        outputs: &mut SparsePrefillOutputs<'_>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        match self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(ref plan) => {
                stream.0.check_host()?;
                self.check(inputs, outputs, Memory::Host)?;
                let (mut outputs, max_logits) = decode_outputs(outputs);
                plan.run(&decode_inputs(inputs), &mut outputs, Some(max_logits), workspace)
            }
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(ref plan) => {
                plan.check_stream(stream)?;
                self.check(inputs, outputs, Memory::Device)?;
                workspace.check_memory(Memory::Device)?;
                let (mut outputs, max_logits) = decode_outputs(outputs);
                plan.run(stream, &decode_inputs(inputs), &mut outputs, Some(max_logits), workspace)
            }
        }
    }

    fn check(
        &self,
        inputs: &SparsePrefillFp8Inputs<'_>,
        outputs: &SparsePrefillOutputs<'_>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let p = &self.problem;
        let [head_dim, head_dim_v] = [p.format.head_dim() as usize, p.format.head_dim_v() as usize];
        validate::input("q", &inputs.q, [p.s_q, p.h_q, head_dim], memory)?;
        p.as_decode().check_inputs_but_queries(&decode_inputs(inputs), memory)?;
        validate::output("out", &outputs.out, [p.s_q, p.h_q, head_dim_v], memory)?;
        validate::output("lse", &outputs.lse, [p.s_q, p.h_q], memory)?;
        validate::output("max_logits", &outputs.max_logits, [p.s_q, p.h_q], memory)
    }
}

/// The inputs as those of [`SparsePrefillFp8::as_decode`].
fn decode_inputs<'a>(inputs: &SparsePrefillFp8Inputs<'a>) -> SparseDecodeInputs<'a> {
    let SparsePrefillFp8Inputs { q, scope, extra, attn_sink, inverse_rope } = *inputs;
    SparseDecodeInputs { q: q.with_unit_axis(1), scope, extra, attn_sink, inverse_rope }
}

/// The outputs that a decode has, and the largest scores, which it does not tell.
fn decode_outputs<'a>(
    outputs: &'a mut SparsePrefillOutputs<'_>,
) -> (SparseDecodeOutputs<'a>, &'a TensorViewMut<'a, f32, 2>) {
    let SparsePrefillOutputs { out, lse, max_logits } = outputs;
    (SparseDecodeOutputs { out: out.with_unit_axis(1), lse: lse.with_unit_axis(2) }, max_logits)
}
