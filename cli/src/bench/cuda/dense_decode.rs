//! Dense decode on a GPU.

use half::bf16;
use oximla::{
    DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, KvFormat, Stream, TensorView, TensorViewMut,
    Workspace,
};

use super::graphs::Graphs;
use super::memory::{Memory, Tensors};
use crate::bench::inputs;
use crate::bench::ops::DenseDecodeShape;

/// Plans a case, brings its inputs into memory, and captures its graphs.
///
/// # Errors
/// Those of the plan and of its run, or when there is not enough memory.
pub fn load(memory: &Memory, shape: &DenseDecodeShape) -> anyhow::Result<(Graphs, Tensors)> {
    let problem = shape.problem();
    let plan = DenseDecodePlan::new(&problem, KvFormat::Bf16, &memory.device)?;
    let q_shape = [problem.batch, problem.s_q, problem.h_q, problem.head_dim];
    let kv_shape = [problem.num_pages, problem.page_size, problem.h_kv, problem.head_dim];
    let out_shape = [problem.batch, problem.s_q, problem.h_q, problem.head_dim_v];
    let lse_shape = [problem.batch, problem.h_q, problem.s_q];

    let q = memory.random(q_shape.iter().product(), DenseDecodeShape::elements)?;
    let kv_cache = memory.random(kv_shape.iter().product(), DenseDecodeShape::elements)?;
    let block_table = memory.copied(&inputs::block_table(problem.num_pages))?;
    let cache_seqlens = memory.copied(&inputs::cache_seqlens(&shape.lengths()))?;
    let mut out = memory.output::<bf16>(&out_shape)?;
    let mut lse = memory.output::<f32>(&lse_shape)?;
    let mut workspace = memory.output::<u8>(&[plan.workspace_bytes()])?;
    let mut schedule_memory = memory.output::<u8>(&[plan.schedule_bytes()])?;

    let stream = Stream::from(&*memory.stream);
    let inputs = DenseDecodeInputs {
        q: TensorView::from_cudarc("q", &q, q_shape, &memory.stream)?,
        kv_cache: TensorView::from_cudarc("kv_cache", &kv_cache, kv_shape, &memory.stream)?,
        block_table: TensorView::from_buffer(
            "block_table",
            &block_table,
            [problem.batch, problem.max_pages],
        )?,
        cache_seqlens: TensorView::from_buffer("cache_seqlens", &cache_seqlens, [problem.batch])?,
    };
    let mut outputs = DenseDecodeOutputs {
        out: TensorViewMut::from_buffer("out", &mut out, out_shape)?,
        lse: TensorViewMut::from_buffer("lse", &mut lse, lse_shape)?,
    };
    // Made beforehand, as those of the peers are: serving makes one for all layers.
    let schedule =
        plan.schedule(&stream, &inputs.cache_seqlens, Workspace::from_buffer(&mut schedule_memory))?;
    let graphs = Graphs::capture(&memory.stream, || {
        let mut workspace = Workspace::from_buffer(&mut workspace);
        Ok(plan.run_scheduled(&stream, &schedule, &inputs, &mut outputs, &mut workspace)?)
    })?;
    Ok((graphs, Box::new((q, kv_cache, block_table, cache_seqlens, out, lse, workspace, schedule_memory))))
}
