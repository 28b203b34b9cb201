//! Merging attention results over disjoint sets of keys.

use crate::attention::Attention;

/// What attention to one set of keys has left.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// `[batch, s_q, h_q, head_dim_v]`
    pub out: &'a [f64],
    /// `[batch, h_q, s_q]`, natural logarithms; either infinity stands for no keys.
    pub lse: &'a [f64],
}

/// A merge: the result of attention to the union of the states' keys.
#[derive(Clone, Debug)]
pub struct MergeStates<'a> {
    /// Requests.
    pub batch: usize,
    /// Queries of a request.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Elements of an output row.
    pub head_dim_v: usize,
    /// What is merged.
    pub states: &'a [State<'a>],
}

impl MergeStates<'_> {
    /// Computes `out [batch, s_q, h_q, head_dim_v]` and `lse [batch, h_q, s_q]`.
    ///
    /// With `w_i = exp(lse_i − max)`: `out = Σ w_i·out_i / Σ w_i` and `lse = max + ln Σ w_i`, over the states with keys.
    pub fn run(&self) -> Attention {
        let rows = self.batch * self.s_q * self.h_q;
        for state in self.states {
            assert_eq!(state.out.len(), rows * self.head_dim_v, "out");
            assert_eq!(state.lse.len(), rows, "lse");
        }
        let (mut out, mut lse) = (vec![0.0; rows * self.head_dim_v], vec![f64::INFINITY; rows]);
        for request in 0..self.batch {
            for query in 0..self.s_q {
                for head in 0..self.h_q {
                    let out_row = (request * self.s_q + query) * self.h_q + head;
                    let lse_row = (request * self.h_q + head) * self.s_q + query;
                    let out = &mut out[out_row * self.head_dim_v..][..self.head_dim_v];
                    self.merge_row(out_row, lse_row, out, &mut lse[lse_row]);
                }
            }
        }
        Attention { out, lse, max_logits: Vec::new() }
    }

    fn merge_row(&self, out_row: usize, lse_row: usize, out: &mut [f64], lse: &mut f64) {
        let with_keys: Vec<&State<'_>> =
            self.states.iter().filter(|state| !state.lse[lse_row].is_infinite()).collect();
        if with_keys.is_empty() {
            return;
        }
        let max = with_keys.iter().map(|state| state.lse[lse_row]).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = with_keys.iter().map(|state| (state.lse[lse_row] - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (state, weight) in with_keys.iter().zip(&weights) {
            let values = &state.out[out_row * self.head_dim_v..][..self.head_dim_v];
            out.iter_mut().zip(values).for_each(|(o, value)| *o += weight / total * value);
        }
        *lse = max + total.ln();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DenseDecode;

    fn merge(states: &[State<'_>]) -> Attention {
        MergeStates { batch: 1, s_q: 1, h_q: 1, head_dim_v: 2, states }.run()
    }

    #[test]
    fn merged_by_hand() {
        // Three keys in one state, one in the other, all of the same weight.
        let (a, b) = ([1.0, 2.0], [5.0, -2.0]);
        let merged = merge(&[State { out: &a, lse: &[3_f64.ln()] }, State { out: &b, lse: &[0.0] }]);
        assert!((merged.out[0] - 2.0).abs() < 1e-15 && (merged.out[1] - 1.0).abs() < 1e-15);
        assert!((merged.lse[0] - 4_f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn states_without_keys_do_not_count() {
        let nan = [f64::NAN; 2];
        for empty in [f64::INFINITY, f64::NEG_INFINITY] {
            let empty = State { out: &nan, lse: &[empty] };
            let merged = merge(&[empty, State { out: &[3.0, 4.0], lse: &[-700.0] }]);
            assert_eq!((merged.out, merged.lse), (vec![3.0, 4.0], vec![-700.0]));
            let merged = merge(&[empty, empty]);
            assert_eq!((merged.out, merged.lse), (vec![0.0; 2], vec![f64::INFINITY]));
        }
    }

    /// The definition: attention to the union of the keys.
    #[test]
    fn halves_merge_to_the_whole() {
        let (s_q, h_q, head_dim) = (2, 3, 4);
        let number = |seed: usize| ((seed * 7919 + 13) % 1009) as f64 / 251.0 - 2.0;
        let q: Vec<f64> = (0..s_q * h_q * head_dim).map(number).collect();
        let keys: Vec<f64> = (0..8 * head_dim).map(|i| number(31 * i + 7)).collect();
        let attend = |table: &[i32], len: i32| {
            DenseDecode {
                batch: 1,
                s_q,
                h_q,
                h_kv: 1,
                head_dim,
                head_dim_v: 3,
                page_size: 2,
                max_pages: table.len(),
                q: &q,
                kv_cache: &keys,
                block_table: table,
                cache_seqlens: &[len],
                softmax_scale: 0.5,
                causal: false,
            }
            .run()
        };
        let (left, right, whole) = (attend(&[2, 0], 4), attend(&[3, 1], 3), attend(&[2, 0, 3, 1], 7));
        let states = [&left, &right].map(|part| State { out: &part.out, lse: &part.lse });
        let merged = MergeStates { batch: 1, s_q, h_q, head_dim_v: 3, states: &states }.run();
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(&merged.out, &whole.out) && close(&merged.lse, &whole.lse));
    }
}
