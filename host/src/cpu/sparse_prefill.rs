//! Sparse prefill on the CPU.

use super::attention::{Operation, RowResult, TILE_ROWS, TileDims};
use super::schedule::Schedule;
use super::{ListLengths, checked_index};
use crate::{Error, SparsePrefill, SparsePrefillInputs, SparsePrefillOutputs, Workspace};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// A sparse prefill planned for the CPU.
#[derive(Clone, Debug)]
pub(crate) struct SparsePrefillPlan {
    problem: SparsePrefill,
    schedule: Schedule,
}

impl SparsePrefillPlan {
    pub(crate) fn new(problem: &SparsePrefill) -> Self {
        let dims = TileDims {
            rows: problem.h_q.min(TILE_ROWS),
            head_dim: problem.head_dim,
            head_dim_v: problem.head_dim_v,
            softmax_scale: problem.softmax_scale,
        };
        let tiles = problem.s_q * problem.h_q.div_ceil(TILE_ROWS);
        Self { problem: problem.clone(), schedule: Schedule::new(dims, tiles, problem.topk) }
    }

    pub(crate) fn workspace_bytes(&self) -> usize {
        self.schedule.workspace_bytes()
    }

    /// The views are checked: shapes, memory, and lengths.
    pub(crate) fn run(
        &self,
        inputs: &SparsePrefillInputs<'_>,
        outputs: &mut SparsePrefillOutputs<'_>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        let problem = &self.problem;
        let operation = Prefill {
            problem,
            inputs,
            outputs,
            lengths: ListLengths { lengths: inputs.topk_length, topk: problem.topk },
        };
        let workspace = workspace.as_f32(self.workspace_bytes())?;
        self.schedule.run(&operation, workspace);
        Ok(())
    }
}

/// Rows of a tile are heads of one query token.
struct Prefill<'a> {
    problem: &'a SparsePrefill,
    inputs: &'a SparsePrefillInputs<'a>,
    outputs: &'a SparsePrefillOutputs<'a>,
    lengths: ListLengths<'a, 1>,
}

impl Prefill<'_> {
    /// Query token and first head of a tile.
    fn place(&self, tile: usize) -> (usize, usize) {
        let head_tiles = self.problem.h_q.div_ceil(TILE_ROWS);
        (tile / head_tiles, tile % head_tiles * TILE_ROWS)
    }

    /// Query token and head of a row.
    fn query(&self, tile: usize, row: usize) -> [usize; 2] {
        let (query, first_head) = self.place(tile);
        [query, first_head + row]
    }
}

impl Operation for Prefill<'_> {
    fn rows(&self, tile: usize) -> usize {
        (self.problem.h_q - self.place(tile).1).min(TILE_ROWS)
    }

    fn positions(&self, tile: usize) -> usize {
        self.lengths.get([self.place(tile).0])
    }

    fn load_query(&self, tile: usize, row: usize, to: &mut [f32]) {
        self.inputs.q.row(&self.query(tile, row)).convert_to_f32_slice(to);
    }

    fn load_keys(&self, tile: usize, positions: Range<usize>, to: &mut [f32]) -> usize {
        let (query, _) = self.place(tile);
        let indices = &self.inputs.indices.row(&[query, 0])[positions];
        let keys = indices.iter().filter_map(|&index| checked_index(index, self.problem.s_kv));
        let mut count = 0;
        for (key, to) in keys.zip(to.chunks_exact_mut(self.problem.head_dim)) {
            self.inputs.kv.row(&[key, 0]).convert_to_f32_slice(to);
            count += 1;
        }
        count
    }

    fn sink(&self, tile: usize, row: usize) -> Option<f32> {
        let [_, head] = self.query(tile, row);
        self.inputs.attn_sink.map(|sinks| sinks.get([head]))
    }

    unsafe fn store(&self, tile: usize, row: usize, result: RowResult<'_>) {
        let [query, head] = self.query(tile, row);
        // SAFETY: the caller's promise; every row of every tile has elements of its own.
        unsafe {
            self.outputs.out.write_row(&[query, head], result.out.iter().copied().map(bf16::from_f32));
            self.outputs.lse.write([query, head], result.lse);
            self.outputs.max_logits.write([query, head], result.max_logit);
        }
    }
}
