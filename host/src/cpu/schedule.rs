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
const MIN_CHUNK: usize = 128;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::toy::{Toy, ToyResult};

    /// Tiles of three rows with lists of these lengths.
    fn toy(lengths: &[usize]) -> Toy {
        let number = |seed: usize| ((seed * 7919 + 13) % 1009) as f32 / 251.0 - 2.0;
        let query = |tile: usize, row: usize| [number(31 * tile + row), number(17 * tile + row)];
        let key =
            |tile: usize, at: usize| Some([number(tile + at), number(3 * tile + at)]).filter(|_| at % 5 != 3);
        Toy {
            queries: (0..lengths.len()).map(|tile| (0..3).map(|row| query(tile, row)).collect()).collect(),
            keys: (0..).zip(lengths).map(|(tile, &len)| (0..len).map(|at| key(tile, at)).collect()).collect(),
            ..Toy::default()
        }
    }

    /// Planned for one number of threads, run on another.
    fn run(lengths: &[usize], planned: usize, actual: usize) -> Vec<ToyResult> {
        let toy = toy(lengths);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let schedule = Schedule::on_threads(toy.dims(), lengths.len(), longest, planned);
        let mut workspace = vec![f32::NAN; schedule.workspace_bytes() / size_of::<f32>()];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(actual).build().unwrap();
        pool.install(|| schedule.run(&toy, &mut workspace));
        toy.results()
    }

    #[test]
    fn results_do_not_depend_on_threads() {
        let lengths = [3000, 0, 511, 20_000, 1];
        let alone = run(&lengths, 1, 1);
        for (planned, actual) in [(1, 4), (2, 2), (3, 1), (16, 2), (16, 5)] {
            assert_eq!(
                run(&lengths, planned, actual),
                alone,
                "planned for {planned} threads, run on {actual}"
            );
        }
    }

    #[test]
    fn results_do_not_depend_on_the_batch() {
        let batch = run(&[1300, 700, 9000], 2, 2);
        assert_eq!(run(&[1300, 64], 8, 2)[..3], batch[..3]);
        assert_eq!(run(&[1300], 1, 1), batch[..3]);
    }

    #[test]
    fn chunks_follow_from_the_length() {
        assert_eq!(
            [0, 1, 2048, 8192, 8193, 16_384, 16_385].map(chunk_len),
            [128, 128, 128, 512, 576, 1024, 1088]
        );
        for positions in 0..40_000_usize {
            let chunks = positions.div_ceil(chunk_len(positions)).max(1);
            let dims = toy(&[1]).dims();
            assert!(chunks <= Schedule::on_threads(dims, 1, positions, 8).chunks, "{positions}");
        }
    }

    #[test]
    fn workspace_follows_threads_and_chunks() {
        let dims = toy(&[1]).dims();
        let (scratch, partial) = (4 * dims.scratch_len(), 4 * dims.partial_len());
        let bytes = |tiles, positions, threads| {
            Schedule::on_threads(dims, tiles, positions, threads).workspace_bytes()
        };
        assert_eq!(bytes(100, 1_000_000, 8), 8 * scratch, "tiles enough");
        assert_eq!(bytes(1, 100, 8), scratch, "one tile, one chunk");
        assert_eq!(bytes(3, 256, 8), 6 * scratch + 6 * partial, "three tiles of two chunks");
        assert_eq!(bytes(1, 1_000_000, 8), 8 * scratch + 16 * partial, "chunks are bounded");
        assert_eq!(bytes(1, 1_000_000, 1), scratch, "one thread");
    }
}
