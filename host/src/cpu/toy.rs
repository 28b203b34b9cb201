//! An operation small enough to compute by hand: keys of two elements, values of one.

use super::attention::{Operation, RowResult, TileDims};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

/// What a row got, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ToyResult {
    pub out: f32,
    pub lse: f32,
    pub max_logit: f32,
}

/// Tiles of rows that share a key list.
#[derive(Debug, Default)]
pub(super) struct Toy {
    /// Queries of every tile, as many in each.
    pub queries: Vec<Vec<[f32; 2]>>,
    /// Key lists; `None` takes no part.
    pub keys: Vec<Vec<Option<[f32; 2]>>>,
    /// Positions that row `i` of any tile sees, all without this.
    pub visible: Option<Vec<usize>>,
    /// Of row `i` of any tile.
    pub sinks: Option<Vec<f32>>,
    /// By tile and row.
    pub results: Mutex<BTreeMap<(usize, usize), ToyResult>>,
}

impl Toy {
    /// One tile of one row whose scores are `scores` and whose values are the scores too.
    pub(super) fn of_scores(scores: &[f32]) -> Self {
        let keys = scores.iter().map(|&score| Some([score, 0.0])).collect();
        Self { queries: vec![vec![[1.0, 0.0]]], keys: vec![keys], ..Self::default() }
    }

    pub(super) fn dims(&self) -> TileDims {
        TileDims { rows: self.queries[0].len(), head_dim: 2, head_dim_v: 1, softmax_scale: 1.0 }
    }

    /// All rows of all tiles, in order. Every row must have been stored once.
    pub(super) fn results(self) -> Vec<ToyResult> {
        let results = self.results.into_inner().unwrap();
        assert_eq!(results.len(), self.queries.iter().map(Vec::len).sum::<usize>(), "rows stored");
        results.into_values().collect()
    }
}

impl Operation for Toy {
    fn rows(&self, tile: usize) -> usize {
        self.queries[tile].len()
    }

    fn positions(&self, tile: usize) -> usize {
        self.keys[tile].len()
    }

    fn load_query(&self, tile: usize, row: usize, to: &mut [f32]) {
        to.copy_from_slice(&self.queries[tile][row]);
    }

    fn load_keys(&self, tile: usize, positions: Range<usize>, to: &mut [f32]) -> usize {
        let keys = self.keys[tile][positions].iter().flatten();
        keys.zip(to.chunks_exact_mut(2)).map(|(key, to)| to.copy_from_slice(key)).count()
    }

    fn visible(&self, _tile: usize, row: usize) -> usize {
        self.visible.as_ref().map_or(usize::MAX, |visible| visible[row])
    }

    fn sink(&self, _tile: usize, row: usize) -> Option<f32> {
        self.sinks.as_ref().map(|sinks| sinks[row])
    }

    unsafe fn store(&self, tile: usize, row: usize, result: RowResult<'_>) {
        let RowResult { out, lse, max_logit } = result;
        let result = ToyResult { out: out[0], lse, max_logit };
        let earlier = self.results.lock().unwrap().insert((tile, row), result);
        assert_eq!(earlier, None, "tile {tile}, row {row} is stored once");
    }
}
