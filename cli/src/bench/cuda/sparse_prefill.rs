//! Sparse prefill on a GPU.

use half::bf16;
use oximla::{
    SparsePrefillInputs, SparsePrefillOutputs, SparsePrefillPlan, Stream, TensorView, TensorViewMut,
    Workspace,
};

use super::graphs::Graphs;
use super::memory::{Memory, Tensors};
use crate::bench::inputs;
use crate::bench::ops::SparsePrefillShape;

/// Plans a case, brings its inputs into memory, and captures its graphs.
///
/// # Errors
/// Those of the plan and of its run, or when there is not enough memory.
pub fn load(memory: &Memory, shape: &SparsePrefillShape) -> anyhow::Result<(Graphs, Tensors)> {
    let problem = shape.problem();
    let plan = SparsePrefillPlan::new(&problem, &memory.device)?;
    let q_shape = [problem.s_q, problem.h_q, problem.head_dim];
    let kv_shape = [problem.s_kv, 1, problem.head_dim];
    let out_shape = [problem.s_q, problem.h_q, problem.head_dim_v];
    let row_shape = [problem.s_q, problem.h_q];

    let q = memory.random(q_shape.iter().product(), SparsePrefillShape::elements)?;
    let kv = memory.random(kv_shape.iter().product(), SparsePrefillShape::elements)?;
    let indices = memory.copied(&shape.indices())?;
    let attn_sink = memory.copied(&inputs::attn_sink(problem.h_q))?;
    let mut out = memory.output::<bf16>(&out_shape)?;
    let mut lse = memory.output::<f32>(&row_shape)?;
    let mut max_logits = memory.output::<f32>(&row_shape)?;
    let mut workspace = memory.output::<u8>(&[plan.workspace_bytes()])?;

    let stream = Stream::from(&*memory.stream);
    let inputs = SparsePrefillInputs {
        q: TensorView::from_cudarc("q", &q, q_shape, &memory.stream)?,
        kv: TensorView::from_cudarc("kv", &kv, kv_shape, &memory.stream)?,
        indices: TensorView::from_buffer("indices", &indices, [problem.s_q, 1, problem.topk])?,
        topk_length: None,
        attn_sink: Some(TensorView::from_buffer("attn_sink", &attn_sink, [problem.h_q])?),
    };
    let mut outputs = SparsePrefillOutputs {
        out: TensorViewMut::from_buffer("out", &mut out, out_shape)?,
        lse: TensorViewMut::from_buffer("lse", &mut lse, row_shape)?,
        max_logits: TensorViewMut::from_buffer("max_logits", &mut max_logits, row_shape)?,
    };
    let graphs = Graphs::capture(&memory.stream, || {
        Ok(plan.run(&stream, &inputs, &mut outputs, &mut Workspace::from_buffer(&mut workspace))?)
    })?;
    Ok((graphs, Box::new((q, kv, indices, attn_sink, out, lse, max_logits, workspace))))
}
