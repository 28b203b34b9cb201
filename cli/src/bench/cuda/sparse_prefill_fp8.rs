//! Sparse prefill over an FP8 cache on a GPU: from the cache as it is, or from a copy of it in bf16 that each call makes.

use cudarc::driver::CudaSlice;
use half::bf16;
use oximla::{
    DeviceBuffer, KvGatherInputs, KvGatherPlan, KvScope, SparsePrefillFp8Inputs, SparsePrefillFp8Plan,
    SparsePrefillInputs, SparsePrefillOutputs, SparsePrefillPlan, Stream, TensorView, TensorViewMut,
    Workspace,
};

use super::graphs::Graphs;
use super::memory::{Memory, Tensors, distinct_units};
use crate::bench::ops::{SparsePrefillFp8Shape, SparsePrefillShape};
use crate::bench::{fp8_pages, inputs};

/// What both ways read and write.
struct Common {
    q: CudaSlice<bf16>,
    kv_cache: CudaSlice<u8>,
    indices: DeviceBuffer<i32>,
    attn_sink: DeviceBuffer<f32>,
    out: DeviceBuffer<bf16>,
    lse: DeviceBuffer<f32>,
    max_logits: DeviceBuffer<f32>,
}

impl Common {
    fn new(memory: &Memory, shape: &SparsePrefillFp8Shape) -> anyhow::Result<Self> {
        let problem = shape.problem();
        let &SparsePrefillFp8Shape { s_q, h_q, d, .. } = shape;
        let [num_pages, page @ ..] = kv_shape(shape);
        let distinct = num_pages.min(distinct_units(page.iter().product()));
        let unit = fp8_pages::random(problem.format, problem.scope.page_size, distinct);
        Ok(Self {
            q: memory.random(s_q * h_q * d, SparsePrefillShape::elements)?,
            kv_cache: memory.repeated(num_pages * page.iter().product::<usize>(), &unit)?,
            indices: memory.copied(&shape.over_copy().indices())?,
            attn_sink: memory.copied(&inputs::attn_sink(h_q))?,
            out: memory.output(&[s_q, h_q, problem.format.head_dim_v() as usize])?,
            lse: memory.output(&[s_q, h_q])?,
            max_logits: memory.output(&[s_q, h_q])?,
        })
    }
}

fn kv_shape(shape: &SparsePrefillFp8Shape) -> [usize; 4] {
    let problem = shape.problem();
    [problem.scope.num_pages, problem.scope.page_size, 1, problem.format.bytes_per_token() as usize]
}

/// Plans a case, brings its inputs into memory, and captures its graphs.
///
/// # Errors
/// Those of the plan and of its run, or when there is not enough memory.
pub fn load_direct(memory: &Memory, shape: &SparsePrefillFp8Shape) -> anyhow::Result<(Graphs, Tensors)> {
    let plan = SparsePrefillFp8Plan::new(&shape.problem(), &memory.device)?;
    let &SparsePrefillFp8Shape { s_q, h_q, d, topk, .. } = shape;
    let mut tensors = Common::new(memory, shape)?;
    let mut workspace = memory.output::<u8>(&[plan.workspace_bytes()])?;

    let stream = Stream::from(&*memory.stream);
    let Common { q, kv_cache, indices, attn_sink, out, lse, max_logits } = &mut tensors;
    let inputs = SparsePrefillFp8Inputs {
        q: TensorView::from_cudarc("q", q, [s_q, h_q, d], &memory.stream)?,
        scope: KvScope {
            kv_cache: TensorView::from_cudarc("kv_cache", kv_cache, kv_shape(shape), &memory.stream)?,
            indices: TensorView::from_buffer("indices", indices, [s_q, 1, topk])?,
            topk_length: None,
        },
        extra: None,
        attn_sink: Some(TensorView::from_buffer("attn_sink", attn_sink, [h_q])?),
        inverse_rope: None,
    };
    let mut outputs = outputs(shape, out, lse, max_logits)?;
    let graphs = Graphs::capture(&memory.stream, || {
        Ok(plan.run(&stream, &inputs, &mut outputs, &mut Workspace::from_buffer(&mut workspace))?)
    })?;
    Ok((graphs, Box::new((tensors, workspace))))
}

/// As [`load_direct`], over a copy of the whole cache in bf16, which is made first in each call.
///
/// # Errors
/// As there.
pub fn load_with_copy(memory: &Memory, shape: &SparsePrefillFp8Shape) -> anyhow::Result<(Graphs, Tensors)> {
    let gather = KvGatherPlan::new(&shape.gathering(), &memory.device)?;
    let prefill = SparsePrefillPlan::new(&shape.over_copy().problem(), &memory.device)?;
    let &SparsePrefillFp8Shape { s_q, h_q, s_k, d, topk, .. } = shape;
    let mut tensors = Common::new(memory, shape)?;
    let slots: Vec<i32> = (0..).take(s_k).collect();
    let slots = memory.copied(&slots)?;
    let mut copy = memory.output::<bf16>(&[s_k, d])?;
    let mut workspace = memory.output::<u8>(&[prefill.workspace_bytes()])?;

    let stream = Stream::from(&*memory.stream);
    let Common { q, kv_cache, indices, attn_sink, out, lse, max_logits } = &mut tensors;
    let gathered = KvGatherInputs {
        kv_cache: TensorView::from_cudarc("kv_cache", kv_cache, kv_shape(shape), &memory.stream)?,
        slots: TensorView::from_buffer("slots", &slots, [s_k])?,
    };
    // Not in the capture: cudarc's buffers wait for earlier work by events, which a capture may not.
    let q = TensorView::from_cudarc("q", q, [s_q, h_q, d], &memory.stream)?;
    let mut outputs = outputs(shape, out, lse, max_logits)?;
    let graphs = Graphs::capture(&memory.stream, || {
        gather.run(&stream, &gathered, &mut TensorViewMut::from_buffer("out", &mut copy, [s_k, d])?)?;
        let inputs = SparsePrefillInputs {
            q,
            kv: TensorView::from_buffer("kv", &copy, [s_k, 1, d])?,
            indices: TensorView::from_buffer("indices", indices, [s_q, 1, topk])?,
            topk_length: None,
            attn_sink: Some(TensorView::from_buffer("attn_sink", attn_sink, [h_q])?),
        };
        Ok(prefill.run(&stream, &inputs, &mut outputs, &mut Workspace::from_buffer(&mut workspace))?)
    })?;
    Ok((graphs, Box::new((tensors, slots, copy, workspace))))
}

fn outputs<'a>(
    shape: &SparsePrefillFp8Shape,
    out: &'a mut DeviceBuffer<bf16>,
    lse: &'a mut DeviceBuffer<f32>,
    max_logits: &'a mut DeviceBuffer<f32>,
) -> anyhow::Result<SparsePrefillOutputs<'a>> {
    let &SparsePrefillFp8Shape { s_q, h_q, .. } = shape;
    let head_dim_v = shape.problem().format.head_dim_v() as usize;
    Ok(SparsePrefillOutputs {
        out: TensorViewMut::from_buffer("out", out, [s_q, h_q, head_dim_v])?,
        lse: TensorViewMut::from_buffer("lse", lse, [s_q, h_q])?,
        max_logits: TensorViewMut::from_buffer("max_logits", max_logits, [s_q, h_q])?,
    })
}
