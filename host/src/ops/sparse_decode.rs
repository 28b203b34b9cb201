//! Token-level sparse MLA decode over an FP8 cache.

use super::validate;
use crate::device::Backend;
use crate::{
    Device, Error, InvalidProblem, InverseRopeInputs, KvFormat, Memory, RopeAngles, Stream, TensorView,
    TensorViewMut, Workspace,
};
use half::bf16;
use oximla_types::schedule::Determinism;

/// The shape of a sparse decode step.
///
/// Every query attends to the tokens its index list names, in one cache or in two that share the softmax. There is one
/// key/value head; values are the first 512 elements of each key.
///
/// An element is its code times its scale, the scale rounded to bf16, and the product, too. Where a GPU has a kernel for up to 16 heads, that one
/// does not round the product, which makes no difference with scales that are powers of two.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseDecode {
    /// Requests in the batch.
    pub batch: usize,
    /// Query tokens per request.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Format of the caches, an FP8 one: [`KvFormat::V32Fp8`] or [`KvFormat::Model1Fp8`].
    pub format: KvFormat,
    /// The cache.
    pub scope: KvScopeShape,
    /// The second cache, if there is one.
    pub extra: Option<KvScopeShape>,
    /// Factor on `q·k` before the softmax.
    pub softmax_scale: f32,
    /// Whether `out` is turned back by the query's position, and where the angles come from: [`InverseRope`], without a pass
    /// over the output of its own. Only where values carry RoPE, that is, with [`KvFormat::Model1Fp8`].
    ///
    /// [`InverseRope`]: crate::InverseRope
    pub inverse_rope: Option<RopeAngles>,
}

/// The shape of a cache and of the index lists into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvScopeShape {
    /// Pages in the cache.
    pub num_pages: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// Indices per query token.
    pub topk: usize,
}

/// A cache and the index lists into it.
#[derive(Clone, Copy, Debug)]
pub struct KvScope<'a> {
    /// Pages as [`KvFormat`] lays them out, `[num_pages, page_size, 1, bytes_per_token]`. Pages may be apart: the first
    /// stride is the page stride in bytes; the others are those of a contiguous tensor.
    pub kv_cache: TensorView<'a, u8, 4>,
    /// Tokens `[batch, s_q, topk]`, each `page·page_size + offset`. A number that names no token is skipped; a token
    /// named twice counts twice.
    pub indices: TensorView<'a, i32, 3>,
    /// How many indices count: of each query token's list `[batch, s_q]`, or of all lists of a request `[batch, 1]`; all of them without
    /// this.
    pub topk_length: Option<TensorView<'a, i32, 2>>,
}

/// What a sparse decode reads.
#[derive(Clone, Copy, Debug)]
pub struct SparseDecodeInputs<'a> {
    /// Queries `[batch, s_q, h_q, head_dim]`, the format's `head_dim`.
    pub q: TensorView<'a, bf16, 4>,
    /// The cache.
    pub scope: KvScope<'a>,
    /// The second cache, given exactly if the problem has one.
    pub extra: Option<KvScope<'a>>,
    /// Natural-log weights `[h_q]` that join the softmax denominator of `out` but not `lse`. May be infinite.
    pub attn_sink: Option<TensorView<'a, f32, 1>>,
    /// Positions of the query tokens and perhaps a table of cosines and sines, given exactly if the problem has an
    /// `inverse_rope`. A query without tokens has a position too: where the table lacks it, its output is NaN instead of 0.
    pub inverse_rope: Option<InverseRopeInputs<'a>>,
}

/// What a sparse decode writes.
#[derive(Debug)]
pub struct SparseDecodeOutputs<'a> {
    /// Attention output `[batch, s_q, h_q, 512]`; zero for a query without tokens.
    pub out: TensorViewMut<'a, bf16, 4>,
    /// Natural logarithm of the softmax denominator `[batch, h_q, s_q]`; +∞ for a query without tokens.
    pub lse: TensorViewMut<'a, f32, 3>,
}

/// How a [`SparseDecode`] runs on a device.
#[derive(Clone, Debug)]
pub struct SparseDecodePlan {
    problem: SparseDecode,
    determinism: Determinism,
    backend: BackendPlan,
}

/// What a [`SparseDecodePlan`] is made from: [`SparseDecodePlan::builder`] starts one.
#[derive(Clone, Debug)]
pub struct SparseDecodePlanBuilder {
    problem: SparseDecode,
    determinism: Determinism,
}

#[derive(Clone, Debug)]
enum BackendPlan {
    #[cfg(feature = "cpu")]
    Cpu(crate::cpu::sparse_decode::SparseDecodePlan),
    #[cfg(feature = "_gpu")]
    Gpu(crate::gpu::sparse_decode::SparsePlan),
}

impl SparseDecode {
    /// Checks that the numbers describe a problem. [`SparseDecodePlan::new`] does it too.
    ///
    /// # Errors
    /// The first field that is out of range: a dimension that is 0 or above `i32::MAX`, a format without FP8, a scale
    /// that is not finite, an inverse rotation of values without RoPE, a tensor larger than the address space.
    pub fn validate(&self) -> Result<(), InvalidProblem> {
        validate::dimensions(&[("batch", self.batch), ("s_q", self.s_q), ("h_q", self.h_q)])?;
        if !self.format.is_fp8() {
            return Err(InvalidProblem::new("format", self.format, "v32_fp8 or model1_fp8"));
        }
        validate::softmax_scale(self.softmax_scale)?;
        if let Some(angles) = &self.inverse_rope {
            let needed = "model1_fp8, whose values carry RoPE";
            validate::require(self.format == KvFormat::Model1Fp8, "inverse_rope", self.format, needed)?;
            angles.validate("inverse_rope.")?;
        }
        validate::extent("q", &self.q_shape(), size_of::<bf16>())?;
        for (name, scope) in self.scopes() {
            let field = |field| format!("{name}.{field}");
            validate::dimensions(&[
                (&field("num_pages"), scope.num_pages),
                (&field("page_size"), scope.page_size),
                (&field("topk"), scope.topk),
            ])?;
            validate::extent(&field("kv_cache"), &self.kv_cache_shape(scope), size_of::<u8>())?;
            validate::extent(&field("indices"), &self.indices_shape(scope), size_of::<i32>())?;
        }
        Ok(())
    }

    /// Floating-point operations of a step in which every index names a token:
    /// `2·batch·s_q·h_q·(topk + extra topk)·(head_dim + head_dim_v)`.
    pub fn flop(&self) -> f64 {
        2.0 * self.h_q as f64 * self.selected() * self.dims()
    }

    /// Bytes that such a step has to move: each selected token, queries and output once.
    pub fn bytes(&self) -> f64 {
        let rows = self.batch as f64 * self.s_q as f64 * self.h_q as f64;
        let tokens = self.selected() * f64::from(self.format.bytes_per_token());
        tokens + rows * self.dims() * size_of::<bf16>() as f64
    }

    /// Indices in all lists.
    fn selected(&self) -> f64 {
        let topk: f64 = self.scopes().map(|(_, scope)| scope.topk as f64).sum();
        self.batch as f64 * self.s_q as f64 * topk
    }

    /// Elements of a query and of its output.
    fn dims(&self) -> f64 {
        f64::from(self.format.head_dim()) + f64::from(self.format.head_dim_v())
    }

    /// The caches with their names in messages.
    fn scopes(&self) -> impl Iterator<Item = (&'static str, &KvScopeShape)> {
        std::iter::once(("scope", &self.scope)).chain(self.extra.iter().map(|extra| ("extra", extra)))
    }

    fn q_shape(&self) -> [usize; 4] {
        [self.batch, self.s_q, self.h_q, self.format.head_dim() as usize]
    }

    fn kv_cache_shape(&self, scope: &KvScopeShape) -> [usize; 4] {
        [scope.num_pages, scope.page_size, 1, self.format.bytes_per_token() as usize]
    }

    fn indices_shape(&self, scope: &KvScopeShape) -> [usize; 3] {
        [self.batch, self.s_q, scope.topk]
    }
}

impl SparseDecodePlanBuilder {
    /// What the bits of a request's result may depend on; [`Determinism::RunToRun`] unless set.
    ///
    /// [`Determinism::BatchInvariant`] promises the same bits of `out` and `lse` whatever else is in the batch and wherever
    /// in it the request is, as long as its lists and their lengths, its queries, the tokens that they name, and the other
    /// fields of the problem are the same. It costs some time where few short lists leave a GPU partly idle, and memory: see
    /// [`SparseDecodePlan::workspace_bytes`].
    pub fn determinism(mut self, determinism: Determinism) -> Self {
        self.determinism = determinism;
        self
    }

    /// Plans the problem for a device.
    ///
    /// # Errors
    /// As for [`SparseDecodePlan::new`].
    pub fn build(self, device: &Device) -> Result<SparseDecodePlan, Error> {
        let Self { problem, determinism } = self;
        problem.validate()?;
        let backend = match &device.0 {
            // How the CPU divides a request follows from its lists anyway.
            #[cfg(feature = "cpu")]
            Backend::Cpu => BackendPlan::Cpu(crate::cpu::sparse_decode::SparseDecodePlan::new(&problem)),
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => {
                BackendPlan::Gpu(crate::gpu::sparse_decode::SparsePlan::new(&problem, determinism, device)?)
            }
        };
        Ok(SparseDecodePlan { problem, determinism, backend })
    }
}

impl SparseDecodePlan {
    /// Plans `problem`.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] if the problem contradicts itself, [`Error::Unsupported`] if the device has no kernel
    /// for it.
    pub fn new(problem: &SparseDecode, device: &Device) -> Result<Self, Error> {
        Self::builder(problem).build(device)
    }

    /// Starts a plan with options.
    ///
    /// ```
    /// use oximla::{Determinism, Device, SparseDecode, SparseDecodePlan};
    ///
    /// # fn plan(problem: &SparseDecode, device: &Device) -> Result<SparseDecodePlan, oximla::Error> {
    /// SparseDecodePlan::builder(problem).determinism(Determinism::BatchInvariant).build(device)
    /// # }
    /// ```
    pub fn builder(problem: &SparseDecode) -> SparseDecodePlanBuilder {
        SparseDecodePlanBuilder { problem: problem.clone(), determinism: Determinism::default() }
    }

    /// What the bits of a result may depend on.
    pub fn determinism(&self) -> Determinism {
        self.determinism
    }

    /// The problem that was planned.
    pub fn problem(&self) -> &SparseDecode {
        &self.problem
    }

    /// Workspace that a run needs, in bytes, aligned to 16.
    ///
    /// On a GPU it holds partial results as [`DenseDecodePlan::workspace_bytes`](crate::DenseDecodePlan::workspace_bytes) says,
    /// each query token being a request of `h_q` rows.
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
            BackendPlan::Cpu(_) => "sparse_decode_cpu",
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(ref plan) => plan.kernel(),
        }
    }

    /// Computes one step. On the CPU it is finished on return.
    ///
    /// The CPU refuses a `topk_length` outside `0 ..= topk`. Indices beyond it are not read.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] if a tensor is not what the problem says, before anything is written.
    pub fn run(
        &self,
        stream: &Stream,
        inputs: &SparseDecodeInputs<'_>,
        outputs: &mut SparseDecodeOutputs<'_>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        match self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(ref plan) => {
                stream.0.check_host()?;
                self.check(inputs, outputs, Memory::Host)?;
                plan.run(inputs, outputs, None, workspace)
            }
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(ref plan) => {
                plan.check_stream(stream)?;
                self.check(inputs, outputs, Memory::Device)?;
                workspace.check_memory(Memory::Device)?;
                plan.run(stream, inputs, outputs, None, workspace)
            }
        }
    }

    fn check(
        &self,
        inputs: &SparseDecodeInputs<'_>,
        outputs: &SparseDecodeOutputs<'_>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let p = &self.problem;
        validate::input("q", &inputs.q, p.q_shape(), memory)?;
        p.check_inputs_but_queries(inputs, memory)?;
        let head_dim_v = p.format.head_dim_v() as usize;
        validate::output("out", &outputs.out, [p.batch, p.s_q, p.h_q, head_dim_v], memory)?;
        validate::output("lse", &outputs.lse, [p.batch, p.h_q, p.s_q], memory)
    }
}

impl SparseDecode {
    /// Checks a cache and the index lists into it, which messages call `name`.
    fn check_scope(
        &self,
        name: &str,
        scope: &KvScope<'_>,
        shape: &KvScopeShape,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let field = |field| format!("{name}.{field}");
        validate::input(&field("kv_cache"), &scope.kv_cache, self.kv_cache_shape(shape), memory)?;
        validate::pages(&field("kv_cache"), &scope.kv_cache, self.format)?;
        validate::input(&field("indices"), &scope.indices, self.indices_shape(shape), memory)?;
        if let Some(lengths) = &scope.topk_length {
            let queries = if lengths.shape[1] == 1 { 1 } else { self.s_q };
            validate::input(&field("topk_length"), lengths, [self.batch, queries], memory)?;
            validate::list_lengths(&field("topk_length"), lengths, shape.topk)?;
        }
        Ok(())
    }

    /// Checks all that is read but the queries, whose shape is another one in a prefill.
    pub(super) fn check_inputs_but_queries(
        &self,
        inputs: &SparseDecodeInputs<'_>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        self.check_scope("scope", &inputs.scope, &self.scope, memory)?;
        validate::presence("extra", inputs.extra.is_some(), self.extra.is_some())?;
        if let (Some(scope), Some(shape)) = (&inputs.extra, &self.extra) {
            self.check_scope("extra", scope, shape, memory)?;
        }
        if let Some(sink) = &inputs.attn_sink {
            validate::input("attn_sink", sink, [self.h_q], memory)?;
        }
        validate::presence("inverse_rope", inputs.inverse_rope.is_some(), self.inverse_rope.is_some())?;
        if let (Some(rope), Some(angles)) = (&inputs.inverse_rope, &self.inverse_rope) {
            rope.check("inverse_rope.", angles, [self.batch, self.s_q], memory)?;
        }
        Ok(())
    }
}
