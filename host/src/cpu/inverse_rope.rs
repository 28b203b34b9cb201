//! Inverse RoPE on the CPU.

use crate::ops::inverse_rope::frequencies;
use crate::{InverseRope, InverseRopeInputs, RopeAngles, StateElement, TensorView, TensorViewMut};
use oximla_types::rope::{ROPE_COLUMN, ROPE_PAIRS, Rotation};
use rayon::prelude::*;

/// The rotations of each pair.
type Rotations = [Rotation; ROPE_PAIRS as usize];

/// The angles of a problem's query tokens.
pub(super) struct Angles<'a> {
    positions: TensorView<'a, i32, 2>,
    source: Source<'a>,
}

enum Source<'a> {
    /// What a position adds to each pair's angle, in radians.
    Frequencies([f64; ROPE_PAIRS as usize]),
    /// Cosines, then sines of each position.
    Table(TensorView<'a, f32, 2>),
}

impl<'a> Angles<'a> {
    /// Of checked inputs.
    pub(super) fn new(angles: &RopeAngles, inputs: &InverseRopeInputs<'a>) -> Self {
        let source = match (angles, inputs.cos_sin) {
            (_, Some(table)) => Source::Table(table),
            (&RopeAngles::Theta(theta), None) => Source::Frequencies(frequencies(theta)),
            (RopeAngles::Table { .. }, None) => {
                unreachable!("checked: a table is there where the problem has one")
            }
        };
        Self { positions: inputs.positions, source }
    }

    /// Those of a query token; NaN where the table has no such position.
    pub(super) fn rotations(&self, request: usize, query: usize) -> Rotations {
        let position = self.positions.get([request, query]);
        match &self.source {
            Source::Frequencies(frequencies) => frequencies.map(|frequency| {
                let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                Rotation { cos: cos as f32, sin: sin as f32 }
            }),
            Source::Table(table) => {
                let [max_positions, _] = table.shape();
                let Some(position) = super::checked_index(position, max_positions) else {
                    return [Rotation::NAN; ROPE_PAIRS as usize];
                };
                let (cos, sin) = table.row(&[position]).split_at(ROPE_PAIRS as usize);
                std::array::from_fn(|pair| Rotation { cos: cos[pair], sin: sin[pair] })
            }
        }
    }
}

/// Turns the last elements of a row back.
pub(super) fn rotate_back<T: StateElement>(row: &mut [T], rotations: &Rotations) {
    let (pairs, _) = row[ROPE_COLUMN as usize..].as_chunks_mut::<2>();
    for (pair, rotation) in pairs.iter_mut().zip(rotations) {
        let (&Rotation { cos, sin }, [even, odd]) = (rotation, pair.map(T::to_f32));
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
            let mut row = out.view.row(&[request, query, head]).to_vec();
            rotate_back(&mut row, &rotations);
            // SAFETY: every row is written once, by this call, which has ended its borrow.
            unsafe { out.write_row(&[request, query, head], row.into_iter()) };
        }
    });
}
