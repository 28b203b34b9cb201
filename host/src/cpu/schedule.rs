//! Which thread computes what, and where in the workspace.
//!
//! A key list is cut into chunks by its own length alone. Chunks are computed from nothing and merged in order, on one
//! thread or on several: the numbers are the same either way, so results depend neither on the number of threads nor
//! on the rest of the batch. Where there are fewer tiles than threads could use, chunks run side by side.
//!
//! Workspace: one [`Scratch`] a thread, then one partial result a chunk if chunks run side by side.

use super::attention::{BLOCK_KEYS, Operation, Partial, Scratch, TileDims};
use rayon::prelude::*;
use std::sync::{Condvar, Mutex, PoisonError};

/// Keys that are worth a merge.
const MIN_CHUNK: usize = 512;

/// Chunks of a list at most, which bounds the workspace.
const MAX_CHUNKS: usize = 16;

/// Tiles a thread from which on whole tiles keep threads equally busy.
const TILES_PER_THREAD: usize = 2;

/// How the tiles of a problem are computed.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    dims: TileDims,
    tiles: usize,
    threads: usize,
    /// Partial results of each tile in the workspace; 1 if a tile is computed as a whole.
    chunks: usize,
}

impl Schedule {
    /// For `tiles` tiles with up to `max_positions` positions, on the threads of rayon's current pool.
    pub(super) fn new(dims: TileDims, tiles: usize, max_positions: usize) -> Self {
        Self::on_threads(dims, tiles, max_positions, rayon::current_num_threads())
    }

    fn on_threads(dims: TileDims, tiles: usize, max_positions: usize, threads: usize) -> Self {
        let busy = tiles >= TILES_PER_THREAD * threads;
        let chunks =
            if busy || threads == 1 { 1 } else { max_positions.div_ceil(MIN_CHUNK).clamp(1, MAX_CHUNKS) };
        Self { dims, tiles, threads: threads.min(tiles * chunks), chunks }
    }

    /// Bytes of the workspace.
    pub(super) fn workspace_bytes(&self) -> usize {
        (self.threads * self.dims.scratch_len() + self.partials_len()) * size_of::<f32>()
    }

    /// Computes and stores all tiles.
    pub(super) fn run(&self, operation: &impl Operation, workspace: &mut [f32]) {
        let (scratch, partials) = workspace.split_at_mut(self.threads * self.dims.scratch_len());
        let scratch = ScratchPool::new(&self.dims, scratch);
        if self.chunks == 1 {
            (0..self.tiles).into_par_iter().with_max_len(1).for_each(|tile| {
                scratch.lend(|scratch| {
                    let chunk = chunk_len(operation.positions(tile));
                    let result = scratch.attend_in_chunks(&self.dims, operation, tile, chunk);
                    // SAFETY: this is the only call for this tile.
                    unsafe { result.store(&self.dims, operation, tile) };
                });
            });
        } else {
            self.run_chunks(operation, &scratch, &mut partials[..self.partials_len()]);
        }
    }

    /// Chunks side by side, then tiles side by side.
    fn run_chunks(&self, operation: &impl Operation, scratch: &ScratchPool<'_>, partials: &mut [f32]) {
        let dims = &self.dims;
        partials.par_chunks_exact_mut(dims.partial_len()).with_max_len(1).enumerate().for_each(
            |(index, partial)| {
                let (tile, chunk) = (index / self.chunks, index % self.chunks);
                let positions = operation.positions(tile);
                let chunk_len = chunk_len(positions);
                let start = chunk * chunk_len;
                // The first chunk is there even if it is empty.
                if start < positions || chunk == 0 {
                    let mut partial = Partial::in_memory(dims, partial);
                    let end = positions.min(start + chunk_len);
                    scratch.lend(|scratch| scratch.attend(dims, operation, tile, start..end, &mut partial));
                }
            },
        );
        partials.par_chunks_exact_mut(self.chunks * dims.partial_len()).enumerate().for_each(
            |(tile, partials)| {
                let positions = operation.positions(tile);
                let used = positions.div_ceil(chunk_len(positions)).max(1);
                let mut partials = partials.chunks_exact_mut(dims.partial_len()).take(used);
                let mut partials = partials.by_ref().map(|partial| Partial::in_memory(dims, partial));
                if let Some(mut total) = partials.next() {
                    partials.for_each(|partial| total.merge(dims, &partial));
                    // SAFETY: this is the only call for this tile.
                    unsafe { total.store(dims, operation, tile) };
                }
            },
        );
    }

    fn partials_len(&self) -> usize {
        if self.chunks == 1 { 0 } else { self.tiles * self.chunks * self.dims.partial_len() }
    }
}

/// Positions of a chunk of a list: a function of nothing but the list's length, and at least 1.
fn chunk_len(positions: usize) -> usize {
    positions.div_ceil(MAX_CHUNKS).max(MIN_CHUNK).next_multiple_of(BLOCK_KEYS)
}

/// One scratch a thread. A run in a pool with more threads than it was planned for has the others wait.
struct ScratchPool<'a> {
    free: Mutex<Vec<Scratch<'a>>>,
    returned: Condvar,
}

impl<'a> ScratchPool<'a> {
    fn new(dims: &TileDims, memory: &'a mut [f32]) -> Self {
        let free = memory.chunks_exact_mut(dims.scratch_len()).map(|memory| Scratch::in_memory(dims, memory));
        Self { free: Mutex::new(free.collect()), returned: Condvar::new() }
    }

    fn lend<R>(&self, work: impl FnOnce(&mut Scratch<'a>) -> R) -> R {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = loop {
            match free.pop() {
                Some(scratch) => break scratch,
                None => free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(free);
        let result = work(&mut scratch);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        self.returned.notify_one();
        result
    }
}
