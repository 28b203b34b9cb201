//! Token-level sparse MLA prefill over bf16 keys.

use super::validate;
use crate::device::Backend;
use crate::{Device, Error, InvalidProblem, Memory, Stream, TensorView, TensorViewMut, Workspace};
use half::bf16;

/// The shape of a sparse prefill.
///
/// Every query attends to the keys its index list names. There is one key/value head; values are the first `head_dim_v`
/// elements of each key.
#[derive(Clone, Debug, PartialEq)]
pub struct SparsePrefill {
    /// Query tokens.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Elements of a query and of a key.
    pub head_dim: usize,
    /// Elements of a value and of an output row; values are the head of each key.
    pub head_dim_v: usize,
    /// Keys.
    pub s_kv: usize,
    /// Indices per query token.
    pub topk: usize,
    /// Factor on `q·k` before the softmax.
    pub softmax_scale: f32,
}

/// What a sparse prefill reads.
#[derive(Clone, Copy, Debug)]
pub struct SparsePrefillInputs<'a> {
    /// Queries `[s_q, h_q, head_dim]`.
    pub q: TensorView<'a, bf16, 3>,
    /// Keys `[s_kv, 1, head_dim]`.
    pub kv: TensorView<'a, bf16, 3>,
    /// Keys of each query `[s_q, 1, topk]`. A number outside `0 .. s_kv` is skipped; a key named twice counts twice.
    pub indices: TensorView<'a, i32, 3>,
    /// How many indices of each list count `[s_q]`; all of them without this.
    pub topk_length: Option<TensorView<'a, i32, 1>>,
    /// Natural-log weights `[h_q]` that join the softmax denominator of `out` but not `lse`. May be infinite.
    pub attn_sink: Option<TensorView<'a, f32, 1>>,
}

/// What a sparse prefill writes.
#[derive(Debug)]
pub struct SparsePrefillOutputs<'a> {
    /// Attention output `[s_q, h_q, head_dim_v]`; zero for a query without keys.
    pub out: TensorViewMut<'a, bf16, 3>,
    /// Natural logarithm of the softmax denominator `[s_q, h_q]`; +∞ for a query without keys.
    pub lse: TensorViewMut<'a, f32, 2>,
    /// Largest scaled score `[s_q, h_q]`; −∞ for a query without keys.
    pub max_logits: TensorViewMut<'a, f32, 2>,
}

/// How a [`SparsePrefill`] runs on a device.
#[derive(Clone, Debug)]
pub struct SparsePrefillPlan {
    problem: SparsePrefill,
    backend: BackendPlan,
}

#[derive(Clone, Debug)]
enum BackendPlan {
    #[cfg(feature = "cpu")]
    Cpu(crate::cpu::sparse_prefill::SparsePrefillPlan),
    #[cfg(feature = "_gpu")]
    Gpu(crate::gpu::sparse_prefill::PrefillPlan),
}

impl SparsePrefill {
    /// Checks that the numbers describe a problem. [`SparsePrefillPlan::new`] does it too.
    ///
    /// # Errors
    /// The first field that is out of range: a dimension that is 0 or above `i32::MAX`, a head dimension other than 576 or 512 with values of 512,
    /// a scale that is not finite, a tensor larger than the address space.
    pub fn validate(&self) -> Result<(), InvalidProblem> {
        validate::dimensions(&[
            ("s_q", self.s_q),
            ("h_q", self.h_q),
            ("head_dim", self.head_dim),
            ("head_dim_v", self.head_dim_v),
            ("s_kv", self.s_kv),
            ("topk", self.topk),
        ])?;
        validate::one_of("head_dim", self.head_dim, &[512, 576])?;
        validate::one_of("head_dim_v", self.head_dim_v, &[512])?;
        validate::softmax_scale(self.softmax_scale)?;
        validate::extent("q", &self.q_shape(), size_of::<bf16>())?;
        validate::extent("kv", &self.kv_shape(), size_of::<bf16>())?;
        validate::extent("indices", &self.indices_shape(), size_of::<i32>())
    }

    /// Floating-point operations if every index names a key: `2·s_q·h_q·topk·(head_dim + head_dim_v)`.
    pub fn flop(&self) -> f64 {
        2.0 * self.s_q as f64 * self.h_q as f64 * self.topk as f64 * self.dims()
    }

    /// Bytes that have to move then: each selected key, queries and output once.
    pub fn bytes(&self) -> f64 {
        let keys = self.s_q as f64 * self.topk as f64 * self.head_dim as f64;
        let rows = self.s_q as f64 * self.h_q as f64;
        (keys + rows * self.dims()) * size_of::<bf16>() as f64
    }

    /// Elements of a query and of its output.
    fn dims(&self) -> f64 {
        self.head_dim as f64 + self.head_dim_v as f64
    }

    fn q_shape(&self) -> [usize; 3] {
        [self.s_q, self.h_q, self.head_dim]
    }

    fn kv_shape(&self) -> [usize; 3] {
        [self.s_kv, 1, self.head_dim]
    }

    fn indices_shape(&self) -> [usize; 3] {
        [self.s_q, 1, self.topk]
    }
}

impl SparsePrefillPlan {
    /// Plans `problem`.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] if the problem contradicts itself, [`Error::Unsupported`] if the device has no kernel
    /// for it.
    pub fn new(problem: &SparsePrefill, device: &Device) -> Result<Self, Error> {
        problem.validate()?;
        let backend = match &device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => BackendPlan::Cpu(crate::cpu::sparse_prefill::SparsePrefillPlan::new(problem)),
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => {
                BackendPlan::Gpu(crate::gpu::sparse_prefill::PrefillPlan::new(problem, device)?)
            }
        };
        Ok(Self { problem: problem.clone(), backend })
    }

    /// The problem that was planned.
    pub fn problem(&self) -> &SparsePrefill {
        &self.problem
    }

    /// Bytes of workspace that a run needs.
    pub fn workspace_bytes(&self) -> usize {
        match self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(ref plan) => plan.workspace_bytes(),
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(_) => 0,
        }
    }

    /// Name of the kernel that does the work.
    pub fn kernel(&self) -> &'static str {
        match self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(_) => "sparse_prefill_cpu",
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
        inputs: &SparsePrefillInputs<'_>,
        outputs: &mut SparsePrefillOutputs<'_>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        match self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(ref plan) => {
                stream.0.check_host()?;
                self.check(inputs, outputs, Memory::Host)?;
                plan.run(inputs, outputs, workspace)
            }
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(ref plan) => {
                plan.check_stream(stream)?;
                self.check(inputs, outputs, Memory::Device)?;
                workspace.check_memory(Memory::Device)?;
                plan.run(stream, inputs, outputs)
            }
        }
    }

    fn check(
        &self,
        inputs: &SparsePrefillInputs<'_>,
        outputs: &SparsePrefillOutputs<'_>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let p = &self.problem;
        validate::input("q", &inputs.q, p.q_shape(), memory)?;
        validate::input("kv", &inputs.kv, p.kv_shape(), memory)?;
        validate::input("indices", &inputs.indices, p.indices_shape(), memory)?;
        if let Some(lengths) = &inputs.topk_length {
            validate::input("topk_length", lengths, [p.s_q], memory)?;
            validate::lengths("topk_length", lengths, p.topk)?;
        }
        if let Some(sink) = &inputs.attn_sink {
            validate::input("attn_sink", sink, [p.h_q], memory)?;
        }
        validate::output("out", &outputs.out, [p.s_q, p.h_q, p.head_dim_v], memory)?;
        validate::output("lse", &outputs.lse, [p.s_q, p.h_q], memory)?;
        validate::output("max_logits", &outputs.max_logits, [p.s_q, p.h_q], memory)
    }
}
