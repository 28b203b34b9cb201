//! Sparse prefill on a GPU: which kernel, how query tokens are divided among CTAs.

use super::GpuDevice;
use super::checks::{MAX_GRID_Y, check_alignment, check_element_alignment};
use super::kernels::{Grid, Kernel};
use super::tensor_map::HalfTensor4;
use crate::{Error, InvalidProblem, SparsePrefill, SparsePrefillInputs, SparsePrefillOutputs, Stream};
use bytemuck::Zeroable;
use half::bf16;
use oximla_types::kernels::decode::{
    DecodeParams, GridShape, HEAD_DIM_V, PartialResults, QueryTiling, TILE_ROWS,
};
use oximla_types::kernels::sparse_prefill::{self as contract, SparsePrefillParams};
use std::num::NonZeroU32;
use std::sync::Arc;

/// A sparse prefill planned for a GPU.
#[derive(Clone, Debug)]
pub(crate) struct PrefillPlan {
    device: Arc<GpuDevice>,
    problem: SparsePrefill,
    kernel: Kernel,
    shape: GridShape,
}

impl PrefillPlan {
    pub(crate) fn new(problem: &SparsePrefill, device: &Arc<GpuDevice>) -> Result<Self, Error> {
        let kernel = if problem.head_dim == HEAD_DIM_V as usize {
            contract::D512_SM90_BF16
        } else {
            contract::SM90_BF16
        };
        let limit = i32::MAX as usize / TILE_ROWS as usize;
        if problem.h_q > limit {
            return Err(InvalidProblem::new("h_q", problem.h_q, format!("at most {limit}")).into());
        }
        Ok(Self {
            device: Arc::clone(device),
            problem: problem.clone(),
            kernel: device.kernel(&kernel)?,
            shape: grid_shape(problem, device.multiprocessors),
        })
    }

    pub(crate) fn kernel(&self) -> &'static str {
        self.kernel.contract.entry
    }

    /// Checks that the stream is one of the planned GPU's driver.
    pub(crate) fn check_stream(&self, stream: &Stream) -> Result<(), InvalidProblem> {
        self.device.driver.check_stream(stream.0)
    }

    /// The views are checked: shapes, memory.
    pub(crate) fn run(
        &self,
        stream: &Stream,
        inputs: &SparsePrefillInputs<'_>,
        outputs: &mut SparsePrefillOutputs<'_>,
    ) -> Result<(), Error> {
        let SparsePrefillInputs { q, kv, indices, topk_length, attn_sink } = inputs;
        let (out, lse, max_logits) = (&outputs.out.view, &outputs.lse.view, &outputs.max_logits.view);
        check_alignment("q", q.address, &q.strides[..2], size_of::<bf16>())?;
        check_alignment("kv", kv.address, &kv.strides[..1], size_of::<bf16>())?;
        check_alignment("out", out.address, &out.strides[..2], size_of::<bf16>())?;
        check_element_alignment("indices", indices.address, size_of::<i32>() as u64)?;
        check_element_alignment("lse", lse.address, size_of::<f32>() as u64)?;
        check_element_alignment("max_logits", max_logits.address, size_of::<f32>() as u64)?;
        if let Some(lengths) = topk_length {
            check_element_alignment("topk_length", lengths.address, size_of::<i32>() as u64)?;
        }
        if let Some(sink) = attn_sink {
            check_element_alignment("attn_sink", sink.address, size_of::<f32>() as u64)?;
        }

        let problem = &self.problem;
        // Each query token has keys of its own.
        let tiling =
            QueryTiling::of_single_tokens(NonZeroU32::new(problem.h_q as u32).unwrap_or(NonZeroU32::MIN));
        let (topk_length, topk_length_stride) =
            topk_length.as_ref().map_or((0, 0), |lengths| (lengths.address, lengths.strides[0]));
        let (attn_sink, attn_sink_stride) =
            attn_sink.as_ref().map_or((0, 0), |sink| (sink.address, sink.strides[0]));
        let params = SparsePrefillParams {
            q_map: self.device.driver.encode(&HalfTensor4::query_rows(&q.with_unit_axis(0), tiling))?,
            decode: DecodeParams {
                places: 0,
                out: out.address,
                lse: lse.address,
                partial: PartialResults::zeroed(),
                out_strides: [out.strides[0], 0, out.strides[1]],
                lse_strides: [lse.strides[0], lse.strides[1], 0],
                requests: problem.s_q as u32,
                s_q: 1,
                group: problem.h_q as u32,
                rows: self.shape.rows,
                total_rows: self.shape.total_rows,
                row_tiles: self.shape.row_tiles,
                tiling,
                partitions: self.shape.partitions,
                chunk_slots: 0,
                scale_log2: problem.softmax_scale * std::f32::consts::LOG2_E,
            },
            kv: kv.address,
            indices: indices.address,
            topk_length,
            attn_sink,
            max_logits: max_logits.address,
            kv_stride_bytes: kv.strides[0] * size_of::<bf16>() as i64,
            indices_stride: indices.strides[0],
            topk_length_stride,
            attn_sink_stride,
            max_logits_strides: max_logits.strides,
            s_kv: problem.s_kv as u32,
            topk: problem.topk as u32,
        };
        let grid = Grid::of([self.shape.columns, self.shape.partitions]);
        // SAFETY: the parameters are the kernel's own type; the views promise live memory of the checked shapes, and the
        // kernel reaches no element outside them; the stream's maker promised a live one.
        unsafe { self.kernel.launch(&*self.device.driver, stream.0, grid, &params) }
    }
}

/// How CTAs cover the problem: tiles of heads side by side, every so many-th query token each.
fn grid_shape(problem: &SparsePrefill, multiprocessors: u32) -> GridShape {
    let shape = GridShape::new(1, problem.h_q as u32, NonZeroU32::MIN, multiprocessors);
    // No more of them than query tokens.
    let most = problem.s_q.min(MAX_GRID_Y) as u32;
    GridShape { partitions: shape.partitions.min(most), ..shape }
}
