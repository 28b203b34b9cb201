//! Dense decode on the CPU.

use super::attention::{Operation, RowResult, TILE_ROWS, TileDims};
use super::schedule::Schedule;
use crate::{DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, Error, Half, Workspace};
use std::ops::Range;

/// A dense decode planned for the CPU.
#[derive(Clone, Debug)]
pub(crate) struct DensePlan {
    problem: DenseDecode,
    schedule: Schedule,
}

impl DensePlan {
    pub(crate) fn new(problem: &DenseDecode) -> Self {
        let rows = rows_per_kv_head(problem);
        let dims = TileDims {
            rows: rows.min(TILE_ROWS),
            head_dim: problem.head_dim,
            head_dim_v: problem.head_dim_v,
            softmax_scale: problem.softmax_scale,
        };
        let tiles = problem.batch * problem.h_kv * rows.div_ceil(TILE_ROWS);
        let schedule = Schedule::new(dims, tiles, problem.max_pages * problem.page_size);
        Self { problem: problem.clone(), schedule }
    }

    pub(crate) fn workspace_bytes(&self) -> usize {
        self.schedule.workspace_bytes()
    }

    /// The views are checked: shapes, memory, lengths, and the pages in use.
    pub(crate) fn run<T: Half>(
        &self,
        inputs: &DenseDecodeInputs<'_, T>,
        outputs: &mut DenseDecodeOutputs<'_, T>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        let problem = &self.problem;
        let workspace = workspace.as_f32(self.workspace_bytes())?;
        let operation = Dense { problem, inputs, outputs };
        self.schedule.run(&operation, workspace);
        Ok(())
    }
}

/// Rows of a tile are query tokens, and heads within them.
struct Dense<'a, T> {
    problem: &'a DenseDecode,
    inputs: &'a DenseDecodeInputs<'a, T>,
    outputs: &'a DenseDecodeOutputs<'a, T>,
}

/// Where a tile is.
struct Place {
    request: usize,
    kv_head: usize,
    first_row: usize,
}

impl<T: Half> Dense<'_, T> {
    fn place(&self, tile: usize) -> Place {
        let row_tiles = rows_per_kv_head(self.problem).div_ceil(TILE_ROWS);
        let (unit, row_tile) = (tile / row_tiles, tile % row_tiles);
        let h_kv = self.problem.h_kv;
        Place { request: unit / h_kv, kv_head: unit % h_kv, first_row: row_tile * TILE_ROWS }
    }

    /// Request, query token and head of a row.
    fn query(&self, tile: usize, row: usize) -> [usize; 3] {
        let Place { request, kv_head, first_row } = self.place(tile);
        let group = self.problem.h_q / self.problem.h_kv;
        let row = first_row + row;
        [request, row / group, kv_head * group + row % group]
    }

    fn length(&self, request: usize) -> usize {
        self.inputs.cache_seqlens.get([request]) as usize
    }
}

impl<T: Half> Operation for Dense<'_, T> {
    fn rows(&self, tile: usize) -> usize {
        (rows_per_kv_head(self.problem) - self.place(tile).first_row).min(TILE_ROWS)
    }

    fn positions(&self, tile: usize) -> usize {
        self.length(self.place(tile).request)
    }

    fn load_query(&self, tile: usize, row: usize, to: &mut [f32]) {
        T::widen(self.inputs.q.row(&self.query(tile, row)), to);
    }

    fn load_keys(&self, tile: usize, positions: Range<usize>, to: &mut [f32]) -> usize {
        let Place { request, kv_head, .. } = self.place(tile);
        let pages = self.inputs.block_table.row(&[request]);
        let page_size = self.problem.page_size;
        let count = positions.len();
        for (position, to) in positions.zip(to.chunks_exact_mut(self.problem.head_dim)) {
            let page = pages[position / page_size] as usize;
            T::widen(self.inputs.kv_cache.row(&[page, position % page_size, kv_head]), to);
        }
        count
    }

    fn visible(&self, tile: usize, row: usize) -> usize {
        if !self.problem.causal {
            return usize::MAX;
        }
        let [request, query, _] = self.query(tile, row);
        (self.length(request) + query + 1).saturating_sub(self.problem.s_q)
    }

    unsafe fn store(&self, tile: usize, row: usize, result: RowResult<'_>) {
        let [request, query, head] = self.query(tile, row);
        // SAFETY: the caller's promise; every row of every tile has elements of its own.
        unsafe {
            self.outputs.out.write_row(&[request, query, head], result.out.iter().copied().map(T::from_f32));
            self.outputs.lse.write([request, head, query], result.lse);
        }
    }
}

fn rows_per_kv_head(problem: &DenseDecode) -> usize {
    problem.s_q * (problem.h_q / problem.h_kv)
}
