//! Merging states on the CPU.

use crate::{MergeStates, MergedState, PartialState, StateElement};
use rayon::prelude::*;

/// Merges the states, whose views are checked: number, shapes, memory.
pub(crate) fn run<T: StateElement>(
    problem: &MergeStates,
    states: &[PartialState<'_, T>],
    merged: &MergedState<'_, T>,
) {
    let &MergeStates { batch, s_q, h_q, head_dim_v, .. } = problem;
    let columns = || vec![0.0_f32; head_dim_v];
    (0..batch * s_q * h_q).into_par_iter().for_each_init(columns, |columns, row| {
        let [request, query, head] = [row / (s_q * h_q), row / h_q % s_q, row % h_q];
        let lse = |state: &PartialState<'_, T>| f64::from(state.lse.get([request, head, query]));
        let present = || states.iter().filter(|state| !lse(state).is_infinite());
        // A NaN is passed over here, but not in the sum.
        let max = present().map(lse).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = present().map(|state| (lse(state) - max).exp()).sum();
        columns.fill(0.0);
        for state in present() {
            let weight = ((lse(state) - max).exp() / sum) as f32;
            let values = state.out.row(&[request, query, head]);
            columns.iter_mut().zip(values).for_each(|(column, value)| *column += weight * value.to_f32());
        }
        let log = if present().next().is_none() { f64::INFINITY } else { max + sum.ln() };
        // SAFETY: every row is written once, by this call.
        unsafe {
            merged.out.write_row(&[request, query, head], columns.iter().copied().map(T::from_f32));
            merged.lse.write([request, head, query], log as f32);
        }
    });
}
