//! Sparse decode on the CPU.

use super::attention::{Operation, RowResult, TILE_ROWS, TileDims};
use super::inverse_rope::{Angles, rotate_back};
use super::schedule::Schedule;
use super::{ListLengths, checked_index, fp8};
use crate::{
    Error, KvScope, KvScopeShape, SparseDecode, SparseDecodeInputs, SparseDecodeOutputs, TensorViewMut,
    Workspace,
};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use oximla_types::rope::ROPE_COLUMN;
use std::ops::Range;

/// A sparse decode planned for the CPU.
#[derive(Clone, Debug)]
pub(crate) struct SparseDecodePlan {
    problem: SparseDecode,
    schedule: Schedule,
}

impl SparseDecodePlan {
    pub(crate) fn new(problem: &SparseDecode) -> Self {
        let dims = TileDims {
            rows: problem.h_q.min(TILE_ROWS),
            head_dim: problem.format.head_dim() as usize,
            head_dim_v: problem.format.head_dim_v() as usize,
            softmax_scale: problem.softmax_scale,
        };
        let tiles = problem.batch * problem.s_q * problem.h_q.div_ceil(TILE_ROWS);
        let positions = problem.scope.topk + problem.extra.map_or(0, |extra| extra.topk);
        Self { problem: problem.clone(), schedule: Schedule::new(dims, tiles, positions) }
    }

    pub(crate) fn workspace_bytes(&self) -> usize {
        self.schedule.workspace_bytes()
    }

    /// The views are checked: shapes, memory, and lengths. A prefill has `max_logits` `[batch · s_q, h_q]`.
    pub(crate) fn run(
        &self,
        inputs: &SparseDecodeInputs<'_>,
        outputs: &mut SparseDecodeOutputs<'_>,
        max_logits: Option<&TensorViewMut<'_, f32, 2>>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        let problem = &self.problem;
        let extra = match (&inputs.extra, &problem.extra) {
            (Some(scope), Some(shape)) => Some(Scope::new(scope, shape)),
            _ => None,
        };
        let inverse_rope = match (&problem.inverse_rope, &inputs.inverse_rope) {
            (Some(angles), Some(inputs)) => Some(Angles::new(angles, inputs)),
            _ => None,
        };
        let scope = Scope::new(&inputs.scope, &problem.scope);
        let operation = Sparse { problem, inputs, outputs, max_logits, scope, extra, inverse_rope };
        let workspace = workspace.as_f32(self.workspace_bytes())?;
        self.schedule.run(&operation, workspace);
        Ok(())
    }
}

/// Rows of a tile are heads of one query token; its positions are those of the two index lists, one after the other.
struct Sparse<'a> {
    problem: &'a SparseDecode,
    inputs: &'a SparseDecodeInputs<'a>,
    outputs: &'a SparseDecodeOutputs<'a>,
    max_logits: Option<&'a TensorViewMut<'a, f32, 2>>,
    scope: Scope<'a>,
    extra: Option<Scope<'a>>,
    inverse_rope: Option<Angles<'a>>,
}

struct Scope<'a> {
    tensors: &'a KvScope<'a>,
    shape: &'a KvScopeShape,
    lengths: ListLengths<'a, 2>,
}

/// Where a tile is.
struct Place {
    request: usize,
    query: usize,
    first_head: usize,
}

impl<'a> Scope<'a> {
    fn new(tensors: &'a KvScope<'a>, shape: &'a KvScopeShape) -> Self {
        let lengths = ListLengths { lengths: tensors.topk_length, topk: shape.topk };
        Self { tensors, shape, lengths }
    }
}

impl Sparse<'_> {
    fn place(&self, tile: usize) -> Place {
        let head_tiles = self.problem.h_q.div_ceil(TILE_ROWS);
        let (token, head_tile) = (tile / head_tiles, tile % head_tiles);
        let s_q = self.problem.s_q;
        Place { request: token / s_q, query: token % s_q, first_head: head_tile * TILE_ROWS }
    }

    /// Request, query token and head of a row.
    fn query(&self, tile: usize, row: usize) -> [usize; 3] {
        let Place { request, query, first_head } = self.place(tile);
        [request, query, first_head + row]
    }
}

impl Operation for Sparse<'_> {
    fn rows(&self, tile: usize) -> usize {
        (self.problem.h_q - self.place(tile).first_head).min(TILE_ROWS)
    }

    fn positions(&self, tile: usize) -> usize {
        let Place { request, query, .. } = self.place(tile);
        let extra = self.extra.as_ref().map_or(0, |extra| extra.lengths.get([request, query]));
        self.scope.lengths.get([request, query]) + extra
    }

    fn load_query(&self, tile: usize, row: usize, to: &mut [f32]) {
        self.inputs.q.row(&self.query(tile, row)).convert_to_f32_slice(to);
    }

    fn load_keys(&self, tile: usize, positions: Range<usize>, to: &mut [f32]) -> usize {
        let Place { request, query, .. } = self.place(tile);
        let format = self.problem.format;
        let mut rows = to.chunks_exact_mut(format.head_dim() as usize);
        let mut count = 0;
        let mut first = 0;
        for scope in std::iter::once(&self.scope).chain(&self.extra) {
            let length = scope.lengths.get([request, query]);
            let within = |position: usize| position.saturating_sub(first).min(length);
            let indices =
                &scope.tensors.indices.row(&[request, query])[within(positions.start)..within(positions.end)];
            let KvScopeShape { num_pages, page_size, .. } = *scope.shape;
            for slot in indices.iter().filter_map(|&index| checked_index(index, num_pages * page_size)) {
                let Some(to) = rows.next() else { break };
                let page = scope.tensors.kv_cache.outermost(slot / page_size);
                fp8::load_token(format, page, page_size, slot % page_size, to);
                count += 1;
            }
            first += length;
        }
        count
    }

    fn sink(&self, tile: usize, row: usize) -> Option<f32> {
        let [_, _, head] = self.query(tile, row);
        self.inputs.attn_sink.map(|sinks| sinks.get([head]))
    }

    unsafe fn store(&self, tile: usize, row: usize, result: RowResult<'_>) {
        let [request, query, head] = self.query(tile, row);
        if let Some(angles) = &self.inverse_rope {
            rotate_back(&mut result.out[ROPE_COLUMN as usize..], &angles.rotations(request, query));
        }
        // SAFETY: the caller's promise; every row of every tile has elements of its own.
        unsafe {
            self.outputs
                .out
                .write_row(&[request, query, head], result.out.iter().copied().map(bf16::from_f32));
            self.outputs.lse.write([request, head, query], result.lse);
            if let Some(max_logits) = self.max_logits {
                max_logits.write([request * self.problem.s_q + query, head], result.max_logit);
            }
        }
    }
}
