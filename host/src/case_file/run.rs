//! Cases on devices.

use super::buffer::Buffer;
use super::shapes::{
    DenseDecodeShapes, ScopeShapes, SparseDecodeShapes, SparsePrefillFp8Shapes, SparsePrefillShapes,
};
use super::write::check_inputs;
use super::{
    Case, DenseDecodeCase, Expected, HalfVec, InverseRopeCase, ScopeCase, SparseDecodeCase,
    SparsePrefillCase, SparsePrefillFp8Case,
};
use crate::device::Backend;
use crate::{
    DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Device, Error, Half, InvalidProblem,
    InverseRopeInputs, KvScope, SparseDecode, SparseDecodeInputs, SparseDecodeOutputs, SparseDecodePlan,
    SparsePrefillFp8Inputs, SparsePrefillFp8Plan, SparsePrefillInputs, SparsePrefillOutputs,
    SparsePrefillPlan, Stream, Workspace,
};
use half::bf16;
use std::time::Duration;

/// A case planned for a device, its tensors and workspace in the device's memory.
pub struct Prepared<'a> {
    device: Device,
    stream: Stream,
    workspace: Buffer<'static, f32>,
    operation: Box<dyn Operation + 'a>,
    kernel: &'static str,
    flop: f64,
    bytes: f64,
}

/// What differs between the operations.
trait Operation {
    fn run(&mut self, stream: &Stream, workspace: &mut Workspace<'_>) -> Result<(), Error>;
    fn answer(&self) -> Result<Expected, Error>;
}

struct Dense<'a, T: Half> {
    plan: DenseDecodePlan,
    shapes: DenseDecodeShapes,
    q: Buffer<'a, T>,
    kv_cache: Buffer<'a, T>,
    block_table: Buffer<'a, i32>,
    cache_seqlens: Buffer<'a, i32>,
    out: Buffer<'static, T>,
    lse: Buffer<'static, f32>,
}

struct Scope<'a> {
    shapes: ScopeShapes,
    kv_cache: Buffer<'a, u8>,
    indices: Buffer<'a, i32>,
    /// With their shape.
    topk_length: Option<(Buffer<'a, i32>, [usize; 2])>,
}

struct Sparse<'a> {
    plan: SparseDecodePlan,
    shapes: SparseDecodeShapes,
    q: Buffer<'a, bf16>,
    scope: Scope<'a>,
    extra: Option<Scope<'a>>,
    attn_sink: Option<Buffer<'a, f32>>,
    inverse_rope: Option<Rope<'a>>,
    out: Buffer<'static, bf16>,
    lse: Buffer<'static, f32>,
}

/// By what the output is turned back.
struct Rope<'a> {
    positions: Buffer<'a, i32>,
    cos_sin: Option<Buffer<'a, f32>>,
}

struct Prefill<'a> {
    plan: SparsePrefillPlan,
    shapes: SparsePrefillShapes,
    q: Buffer<'a, bf16>,
    kv: Buffer<'a, bf16>,
    indices: Buffer<'a, i32>,
    topk_length: Option<Buffer<'a, i32>>,
    attn_sink: Option<Buffer<'a, f32>>,
    outputs: PrefillOutputs,
}

/// What a sparse prefill writes, over whatever keys.
struct PrefillOutputs {
    out: Buffer<'static, bf16>,
    out_shape: [usize; 3],
    lse: Buffer<'static, f32>,
    max_logits: Buffer<'static, f32>,
    lse_shape: [usize; 2],
}

struct PrefillFp8<'a> {
    plan: SparsePrefillFp8Plan,
    shapes: SparsePrefillFp8Shapes,
    q: Buffer<'a, bf16>,
    scope: Scope<'a>,
    extra: Option<Scope<'a>>,
    attn_sink: Option<Buffer<'a, f32>>,
    inverse_rope: Option<Rope<'a>>,
    outputs: PrefillOutputs,
}

impl Case {
    /// Computes the case. What a run leaves unwritten is NaN in the answer.
    ///
    /// # Errors
    /// Those of the operation's plan and run; [`Error::InvalidProblem`] where an input's length contradicts the
    /// problem.
    pub fn run(&self, device: &Device) -> Result<Expected, Error> {
        let mut prepared = self.prepare(device)?;
        prepared.run()?;
        prepared.answer()
    }

    /// Plans the case and brings its inputs into the device's memory. Outputs begin as NaN.
    ///
    /// # Errors
    /// As of [`Case::run`].
    pub fn prepare<'a>(&'a self, device: &Device) -> Result<Prepared<'a>, Error> {
        match self {
            Self::DenseDecode(case) => match (&case.q, &case.kv_cache) {
                (HalfVec::Bf16(q), HalfVec::Bf16(kv_cache)) => prepare_dense(self, case, q, kv_cache, device),
                (HalfVec::Fp16(q), HalfVec::Fp16(kv_cache)) => prepare_dense(self, case, q, kv_cache, device),
                (q, kv_cache) => {
                    let needed = format!("{}, as q is", q.format());
                    Err(InvalidProblem::new("kv_cache", kv_cache.format(), needed).into())
                }
            },
            Self::SparseDecode(case) => prepare_sparse(self, case, device),
            Self::SparsePrefill(case) => prepare_prefill(self, case, device),
            Self::SparsePrefillFp8(case) => prepare_prefill_fp8(self, case, device),
        }
    }
}

impl Prepared<'_> {
    /// Computes the case once more; on a GPU that is not emulated, enqueues that.
    ///
    /// # Errors
    /// Those of the operation's run.
    pub fn run(&mut self) -> Result<(), Error> {
        self.operation.run(&self.stream, &mut self.workspace.workspace())
    }

    /// Waits for all runs.
    ///
    /// # Errors
    /// [`Error::Driver`] where a run failed on the GPU.
    pub fn synchronize(&self) -> Result<(), Error> {
        match &self.device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => Ok(()),
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => device.driver.synchronize(),
        }
    }

    /// Mean time of `calls` runs back to back, at least one: on a GPU between events on its stream, on the CPU and on
    /// an emulated GPU by the clock.
    ///
    /// # Errors
    /// As of [`Prepared::run`] and [`Prepared::synchronize`].
    pub fn time(&mut self, calls: u32) -> Result<Duration, Error> {
        let calls = calls.max(1);
        let (operation, stream) = (&mut self.operation, &self.stream);
        let mut workspace = self.workspace.workspace();
        match &self.device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => {
                let begin = std::time::Instant::now();
                (0..calls).try_for_each(|_| operation.run(stream, &mut workspace))?;
                Ok(begin.elapsed() / calls)
            }
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => device.driver.time(calls, &mut || operation.run(stream, &mut workspace)),
        }
    }

    /// What the runs so far have written.
    ///
    /// # Errors
    /// As of [`Prepared::synchronize`].
    pub fn answer(&self) -> Result<Expected, Error> {
        self.operation.answer()
    }

    /// What computes the case.
    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// Floating-point operations of a run.
    pub fn flop(&self) -> f64 {
        self.flop
    }

    /// Bytes that a run has to move.
    pub fn bytes(&self) -> f64 {
        self.bytes
    }
}

impl std::fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("device", &self.device)
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

fn prepare_dense<'a, T: Half>(
    whole: &Case,
    case: &'a DenseDecodeCase,
    q: &'a [T],
    kv_cache: &'a [T],
    device: &Device,
) -> Result<Prepared<'a>, Error> {
    let plan = DenseDecodePlan::new(&case.problem, T::FORMAT, device)?;
    check_inputs(whole)?;
    let problem = &case.problem;
    let max_len = problem.max_pages * problem.page_size;
    let clamped = |&len: &i32| usize::try_from(len).unwrap_or(0).min(max_len);
    let total_keys = case.cache_seqlens.iter().map(clamped).sum();
    let shapes = DenseDecodeShapes::of(problem);
    Ok(Prepared {
        workspace: workspace(device, plan.workspace_bytes())?,
        kernel: plan.kernel(),
        flop: problem.flop(total_keys),
        bytes: problem.bytes(total_keys),
        operation: Box::new(Dense {
            plan,
            q: Buffer::of(device, q)?,
            kv_cache: Buffer::of(device, kv_cache)?,
            block_table: Buffer::of(device, &case.block_table)?,
            cache_seqlens: Buffer::of(device, &case.cache_seqlens)?,
            out: Buffer::filled(device, T::from_f32(f32::NAN), shapes.out)?,
            lse: Buffer::filled(device, f32::NAN, shapes.lse)?,
            shapes,
        }),
        stream: device.stream(),
        device: device.clone(),
    })
}

fn prepare_sparse<'a>(
    whole: &Case,
    case: &'a SparseDecodeCase,
    device: &Device,
) -> Result<Prepared<'a>, Error> {
    let problem = &case.problem;
    let plan = SparseDecodePlan::new(problem, device)?;
    check_inputs(whole)?;
    let shapes = SparseDecodeShapes::of(problem);
    Ok(Prepared {
        workspace: workspace(device, plan.workspace_bytes())?,
        kernel: plan.kernel(),
        flop: problem.flop(),
        bytes: problem.bytes(),
        operation: Box::new(Sparse {
            plan,
            q: Buffer::of(device, &case.q)?,
            scope: Scope::of(problem, &case.scope, device)?,
            extra: case.extra.as_ref().map(|extra| Scope::of(problem, extra, device)).transpose()?,
            attn_sink: optional(device, &case.attn_sink)?,
            inverse_rope: case.inverse_rope.as_ref().map(|rope| Rope::of(rope, device)).transpose()?,
            out: Buffer::filled(device, bf16::NAN, shapes.out)?,
            lse: Buffer::filled(device, f32::NAN, shapes.lse)?,
            shapes,
        }),
        stream: device.stream(),
        device: device.clone(),
    })
}

fn prepare_prefill<'a>(
    whole: &Case,
    case: &'a SparsePrefillCase,
    device: &Device,
) -> Result<Prepared<'a>, Error> {
    let problem = &case.problem;
    let plan = SparsePrefillPlan::new(problem, device)?;
    check_inputs(whole)?;
    let shapes = SparsePrefillShapes::of(problem);
    Ok(Prepared {
        workspace: workspace(device, plan.workspace_bytes())?,
        kernel: plan.kernel(),
        flop: problem.flop(),
        bytes: problem.bytes(),
        operation: Box::new(Prefill {
            plan,
            q: Buffer::of(device, &case.q)?,
            kv: Buffer::of(device, &case.kv)?,
            indices: Buffer::of(device, &case.indices)?,
            topk_length: optional(device, &case.topk_length)?,
            attn_sink: optional(device, &case.attn_sink)?,
            outputs: PrefillOutputs::new(device, shapes.out, shapes.lse)?,
            shapes,
        }),
        stream: device.stream(),
        device: device.clone(),
    })
}

fn prepare_prefill_fp8<'a>(
    whole: &Case,
    case: &'a SparsePrefillFp8Case,
    device: &Device,
) -> Result<Prepared<'a>, Error> {
    let problem = &case.problem;
    let plan = SparsePrefillFp8Plan::new(problem, device)?;
    check_inputs(whole)?;
    let (shapes, decode) = (SparsePrefillFp8Shapes::of(problem), &problem.as_decode());
    Ok(Prepared {
        workspace: workspace(device, plan.workspace_bytes())?,
        kernel: plan.kernel(),
        flop: problem.flop(),
        bytes: problem.bytes(),
        operation: Box::new(PrefillFp8 {
            plan,
            q: Buffer::of(device, &case.q)?,
            scope: Scope::of(decode, &case.scope, device)?,
            extra: case.extra.as_ref().map(|extra| Scope::of(decode, extra, device)).transpose()?,
            attn_sink: optional(device, &case.attn_sink)?,
            inverse_rope: case.inverse_rope.as_ref().map(|rope| Rope::of(rope, device)).transpose()?,
            outputs: PrefillOutputs::new(device, shapes.out, shapes.lse)?,
            shapes,
        }),
        stream: device.stream(),
        device: device.clone(),
    })
}

impl<T: Half> Operation for Dense<'_, T> {
    fn run(&mut self, stream: &Stream, workspace: &mut Workspace<'_>) -> Result<(), Error> {
        let shapes = &self.shapes;
        let inputs = DenseDecodeInputs {
            q: self.q.view("q", shapes.q)?,
            kv_cache: self.kv_cache.view("kv_cache", shapes.kv_cache)?,
            block_table: self.block_table.view("block_table", shapes.block_table)?,
            cache_seqlens: self.cache_seqlens.view("cache_seqlens", shapes.cache_seqlens)?,
        };
        let mut outputs = DenseDecodeOutputs {
            out: self.out.view_mut("out", shapes.out)?,
            lse: self.lse.view_mut("lse", shapes.lse)?,
        };
        self.plan.run(stream, &inputs, &mut outputs, workspace)
    }

    fn answer(&self) -> Result<Expected, Error> {
        Ok(Expected { out: widened(&self.out)?, lse: self.lse.to_vec()?, max_logits: Vec::new() })
    }
}

impl<'a> Scope<'a> {
    fn of(problem: &SparseDecode, scope: &'a ScopeCase, device: &Device) -> Result<Self, Error> {
        let shapes = ScopeShapes::of(problem, &scope.shape);
        let lengths = optional(device, &scope.topk_length)?;
        let count = scope.topk_length.as_ref().map_or(0, Vec::len);
        Ok(Self {
            topk_length: lengths.map(|lengths| (lengths, shapes.topk_length(count))),
            shapes,
            kv_cache: Buffer::of(device, &scope.kv_cache)?,
            indices: Buffer::of(device, &scope.indices)?,
        })
    }

    fn views(&self) -> Result<KvScope<'_>, InvalidProblem> {
        let lengths = self.topk_length.as_ref();
        Ok(KvScope {
            kv_cache: self.kv_cache.view("kv_cache", self.shapes.kv_cache)?,
            indices: self.indices.view("indices", self.shapes.indices)?,
            topk_length: lengths.map(|(lengths, shape)| lengths.view("topk_length", *shape)).transpose()?,
        })
    }
}

impl<'a> Rope<'a> {
    fn of(rope: &'a InverseRopeCase, device: &Device) -> Result<Self, Error> {
        let (positions, cos_sin) = (Buffer::of(device, &rope.positions)?, optional(device, &rope.cos_sin)?);
        Ok(Self { positions, cos_sin })
    }

    fn views(&self, shapes: &SparseDecodeShapes) -> Result<InverseRopeInputs<'_>, InvalidProblem> {
        let cos_sin = self.cos_sin.as_ref();
        Ok(InverseRopeInputs {
            positions: self.positions.view("positions", shapes.positions)?,
            cos_sin: cos_sin.map(|table| table.view("cos_sin", shapes.cos_sin)).transpose()?,
        })
    }
}

impl Operation for Sparse<'_> {
    fn run(&mut self, stream: &Stream, workspace: &mut Workspace<'_>) -> Result<(), Error> {
        let shapes = &self.shapes;
        let sink = self.attn_sink.as_ref();
        let inputs = SparseDecodeInputs {
            q: self.q.view("q", shapes.q)?,
            scope: self.scope.views()?,
            extra: self.extra.as_ref().map(Scope::views).transpose()?,
            attn_sink: sink.map(|sink| sink.view("attn_sink", shapes.attn_sink)).transpose()?,
            inverse_rope: self.inverse_rope.as_ref().map(|rope| rope.views(shapes)).transpose()?,
        };
        let mut outputs = SparseDecodeOutputs {
            out: self.out.view_mut("out", shapes.out)?,
            lse: self.lse.view_mut("lse", shapes.lse)?,
        };
        self.plan.run(stream, &inputs, &mut outputs, workspace)
    }

    fn answer(&self) -> Result<Expected, Error> {
        Ok(Expected { out: widened(&self.out)?, lse: self.lse.to_vec()?, max_logits: Vec::new() })
    }
}

impl PrefillOutputs {
    /// NaN of these shapes.
    fn new(device: &Device, out_shape: [usize; 3], lse_shape: [usize; 2]) -> Result<Self, Error> {
        Ok(Self {
            out: Buffer::filled(device, bf16::NAN, out_shape)?,
            out_shape,
            lse: Buffer::filled(device, f32::NAN, lse_shape)?,
            max_logits: Buffer::filled(device, f32::NAN, lse_shape)?,
            lse_shape,
        })
    }

    fn views(&mut self) -> Result<SparsePrefillOutputs<'_>, InvalidProblem> {
        Ok(SparsePrefillOutputs {
            out: self.out.view_mut("out", self.out_shape)?,
            lse: self.lse.view_mut("lse", self.lse_shape)?,
            max_logits: self.max_logits.view_mut("max_logits", self.lse_shape)?,
        })
    }

    fn answer(&self) -> Result<Expected, Error> {
        let (lse, max_logits) = (self.lse.to_vec()?, self.max_logits.to_vec()?);
        Ok(Expected { out: widened(&self.out)?, lse, max_logits })
    }
}

impl Operation for Prefill<'_> {
    fn run(&mut self, stream: &Stream, workspace: &mut Workspace<'_>) -> Result<(), Error> {
        let shapes = &self.shapes;
        let (lengths, sink) = (self.topk_length.as_ref(), self.attn_sink.as_ref());
        let inputs = SparsePrefillInputs {
            q: self.q.view("q", shapes.q)?,
            kv: self.kv.view("kv", shapes.kv)?,
            indices: self.indices.view("indices", shapes.indices)?,
            topk_length: lengths
                .map(|lengths| lengths.view("topk_length", shapes.topk_length))
                .transpose()?,
            attn_sink: sink.map(|sink| sink.view("attn_sink", shapes.attn_sink)).transpose()?,
        };
        self.plan.run(stream, &inputs, &mut self.outputs.views()?, workspace)
    }

    fn answer(&self) -> Result<Expected, Error> {
        self.outputs.answer()
    }
}

impl Operation for PrefillFp8<'_> {
    fn run(&mut self, stream: &Stream, workspace: &mut Workspace<'_>) -> Result<(), Error> {
        let SparsePrefillFp8Shapes { q, decode, .. } = &self.shapes;
        let sink = self.attn_sink.as_ref();
        let inputs = SparsePrefillFp8Inputs {
            q: self.q.view("q", *q)?,
            scope: self.scope.views()?,
            extra: self.extra.as_ref().map(Scope::views).transpose()?,
            attn_sink: sink.map(|sink| sink.view("attn_sink", decode.attn_sink)).transpose()?,
            inverse_rope: self.inverse_rope.as_ref().map(|rope| rope.views(decode)).transpose()?,
        };
        self.plan.run(stream, &inputs, &mut self.outputs.views()?, workspace)
    }

    fn answer(&self) -> Result<Expected, Error> {
        self.outputs.answer()
    }
}

/// At least so many bytes. Not NaN but zero, as a workspace may begin as anything.
fn workspace(device: &Device, bytes: usize) -> Result<Buffer<'static, f32>, Error> {
    Buffer::filled(device, 0.0, [bytes.div_ceil(size_of::<f32>())])
}

fn optional<'a, T: crate::Element>(
    device: &Device,
    data: &'a Option<Vec<T>>,
) -> Result<Option<Buffer<'a, T>>, Error> {
    data.as_ref().map(|data| Buffer::of(device, data)).transpose()
}

fn widened<T: Half>(values: &Buffer<'_, T>) -> Result<Vec<f32>, Error> {
    Ok(values.to_vec()?.into_iter().map(Half::to_f32).collect())
}
