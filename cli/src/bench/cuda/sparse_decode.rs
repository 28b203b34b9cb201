//! Sparse decode on a GPU.

use cudarc::driver::CudaSlice;
use half::bf16;
use oximla::{
    DeviceBuffer, KvFormat, KvScope, KvScopeShape, SparseDecodeInputs, SparseDecodeOutputs, SparseDecodePlan,
    Stream, TensorView, TensorViewMut, Workspace,
};

use super::graphs::Graphs;
use super::memory::{Memory, Tensors, distinct_units};
use crate::bench::ops::SparseDecodeShape;
use crate::bench::{fp8_pages, inputs};

/// Plans a case, brings its inputs into memory, and captures its graphs.
///
/// # Errors
/// Those of the plan and of its run, or when there is not enough memory.
pub fn load(memory: &Memory, shape: &SparseDecodeShape) -> anyhow::Result<(Graphs, Tensors)> {
    let problem = shape.problem();
    let plan = SparseDecodePlan::new(&problem, &memory.device)?;
    let [head_dim, head_dim_v] = [problem.format.head_dim(), problem.format.head_dim_v()];
    let q_shape = [problem.batch, problem.s_q, problem.h_q, head_dim as usize];
    let out_shape = [problem.batch, problem.s_q, problem.h_q, head_dim_v as usize];
    let lse_shape = [problem.batch, problem.h_q, problem.s_q];

    let q = memory.random(q_shape.iter().product(), SparseDecodeShape::queries)?;
    let scope = Scope::new(memory, shape, problem.format, problem.scope)?;
    let extra = problem.extra.map(|extra| Scope::new(memory, shape, problem.format, extra)).transpose()?;
    let attn_sink = memory.copied(&inputs::attn_sink(problem.h_q))?;
    let mut out = memory.output::<bf16>(&out_shape)?;
    let mut lse = memory.output::<f32>(&lse_shape)?;
    let mut workspace = memory.output::<u8>(&[plan.workspace_bytes()])?;

    let stream = Stream::from(&*memory.stream);
    let inputs = SparseDecodeInputs {
        q: TensorView::from_cudarc("q", &q, q_shape, &memory.stream)?,
        scope: scope.view(memory)?,
        extra: extra.as_ref().map(|extra| extra.view(memory)).transpose()?,
        attn_sink: Some(TensorView::from_buffer("attn_sink", &attn_sink, [problem.h_q])?),
        inverse_rope: None,
    };
    let mut outputs = SparseDecodeOutputs {
        out: TensorViewMut::from_buffer("out", &mut out, out_shape)?,
        lse: TensorViewMut::from_buffer("lse", &mut lse, lse_shape)?,
    };
    let graphs = Graphs::capture(&memory.stream, || {
        Ok(plan.run(&stream, &inputs, &mut outputs, &mut Workspace::from_buffer(&mut workspace))?)
    })?;
    Ok((graphs, Box::new((q, scope, extra, attn_sink, out, lse, workspace))))
}

/// A cache and the index lists into it.
struct Scope {
    kv_cache: CudaSlice<u8>,
    kv_shape: [usize; 4],
    indices: DeviceBuffer<i32>,
    indices_shape: [usize; 3],
}

impl Scope {
    fn new(
        memory: &Memory,
        shape: &SparseDecodeShape,
        format: KvFormat,
        scope: KvScopeShape,
    ) -> anyhow::Result<Self> {
        let kv_shape = [scope.num_pages, scope.page_size, 1, format.bytes_per_token() as usize];
        let [num_pages, page @ ..] = kv_shape;
        let distinct = num_pages.min(distinct_units(page.iter().product()));
        let unit = fp8_pages::random(format, scope.page_size, distinct);
        Ok(Self {
            kv_cache: memory.repeated(kv_shape.iter().product(), &unit)?,
            kv_shape,
            indices: memory.copied(&shape.indices(&scope))?,
            indices_shape: [shape.b, shape.s_q, scope.topk],
        })
    }

    fn view<'a>(&'a self, memory: &'a Memory) -> anyhow::Result<KvScope<'a>> {
        Ok(KvScope {
            kv_cache: TensorView::from_cudarc("kv_cache", &self.kv_cache, self.kv_shape, &memory.stream)?,
            indices: TensorView::from_buffer("indices", &self.indices, self.indices_shape)?,
            topk_length: None,
        })
    }
}
