//! Inverse RoPE on the CPU.

use super::checked_index;
use crate::ops::inverse_rope::frequencies;
use crate::{InverseRope, InverseRopeInputs, RopeAngles, StateElement, TensorView, TensorViewMut};
use oximla_types::rope::{ROPE_COLUMN, ROPE_DIM, ROPE_PAIRS, Rotation};
use rayon::prelude::*;

/// The rotations of each pair.
type Rotations = [Rotation; ROPE_PAIRS as usize];

/// The angles of a problem's query tokens.
pub(super) struct Angles<'a> {
    positions: TensorView<'a, i32, 2>,
    /// Cosines, then sines of each position.
    cos_sin: Option<TensorView<'a, f32, 2>>,
    /// Without those, what a position adds to each pair's angle, in radians.
    frequencies: [f64; ROPE_PAIRS as usize],
}

impl<'a> Angles<'a> {
    /// Of checked inputs.
    pub(super) fn new(angles: &RopeAngles, inputs: &InverseRopeInputs<'a>) -> Self {
        let frequencies = match *angles {
            RopeAngles::Theta(theta) => frequencies(theta),
            RopeAngles::Table { .. } => [f64::NAN; ROPE_PAIRS as usize],
        };
        Self { positions: inputs.positions, cos_sin: inputs.cos_sin, frequencies }
    }

    /// Those of a query token; NaN where the table has no such position.
    pub(super) fn rotations(&self, request: usize, query: usize) -> Rotations {
        let position = self.positions.get([request, query]);
        let Some(table) = &self.cos_sin else {
            return self.frequencies.map(|frequency| {
                let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                Rotation { cos: cos as f32, sin: sin as f32 }
            });
        };
        let Some(position) = checked_index(position, table.shape[0]) else {
            return [Rotation::NAN; ROPE_PAIRS as usize];
        };
        let (cos, sin) = table.row(&[position]).split_at(ROPE_PAIRS as usize);
        std::array::from_fn(|pair| Rotation { cos: cos[pair], sin: sin[pair] })
    }
}

/// Turns the last elements of a row back.
pub(super) fn rotate_back<T: StateElement>(last: &mut [T], rotations: &Rotations) {
    let (pairs, _) = last.as_chunks_mut::<2>();
    for (pair, &Rotation { cos, sin }) in pairs.iter_mut().zip(rotations) {
        let [even, odd] = pair.map(T::to_f32);
        *pair = [even * cos + odd * sin, odd * cos - even * sin].map(T::from_f32);
    }
}

/// Rotates outputs; the views are checked: shapes, memory.
pub(crate) fn run<T: StateElement>(
    problem: &InverseRope,
    inputs: &InverseRopeInputs<'_>,
    out: &TensorViewMut<'_, T, 4>,
) {
    let &InverseRope { batch, s_q, h_q, .. } = problem;
    let angles = Angles::new(&problem.angles, inputs);
    (0..batch * s_q).into_par_iter().for_each(|token| {
        let [request, query] = [token / s_q, token % s_q];
        let rotations = angles.rotations(request, query);
        for head in 0..h_q {
            let row = out.view.row(&[request, query, head]);
            let mut last: [T; ROPE_DIM as usize] = std::array::from_fn(|at| row[ROPE_COLUMN as usize + at]);
            rotate_back(&mut last, &rotations);
            for (column, value) in (ROPE_COLUMN as usize..).zip(last) {
                // SAFETY: only this call accesses the row, and no longer borrows it.
                unsafe { out.write([request, query, head, column], value) };
            }
        }
    });
}
