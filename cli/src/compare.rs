//! How far an answer is from the one it should be, and how far it may be.

use std::fmt::{self, Display};

use oximla::case_file::{Case, Expected};
use serde::Serialize;

use crate::layout::{Layout, Row};

/// Bounds for one tensor. An element passes where either its absolute or its relative error is within bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// On `|a − e|`.
    pub abs: f64,
    /// On `|a − e| / |e|`.
    pub rel: f64,
    /// On the cosine distance `1 − 2⟨a, e⟩ / (⟨a, a⟩ + ⟨e, e⟩)` of the whole tensors.
    pub cosine: Option<f64>,
}

/// Bounds for the outputs of an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    pub out: Tolerance,
    /// For `lse` and `max_logits`.
    pub lse: Tolerance,
}

/// An answer in float64, whole or some rows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub rows: Vec<Row>,
    /// `[rows, head_dim_v]`
    pub out: Vec<f64>,
    /// `[rows]`
    pub lse: Vec<f64>,
    /// `[rows]`, or empty where the operation has none.
    pub max_logits: Vec<f64>,
}

/// How far the outputs of an operation are from what they should be.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub out: Difference,
    pub lse: Difference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_logits: Option<Difference>,
}

/// How far a tensor is from what it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    #[serde(skip)]
    name: &'static str,
    /// Elements compared.
    pub elements: usize,
    /// Elements out of bounds, misplaced infinities and NaN among them.
    pub wrong: usize,
    /// Largest absolute error of a finite element.
    pub max_abs: f64,
    /// The same over the largest magnitude that is expected. (Relative errors of single elements say little: where
    /// values cancel, any error is large.)
    pub max_rel: f64,
    /// See [`Tolerance::cosine`]; finite elements only.
    pub cosine_distance: f64,
    /// The first element out of bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_wrong: Option<Element>,
    #[serde(skip)]
    cosine_bound: Option<f64>,
}

/// An element that is not what it should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Element {
    pub index: Vec<usize>,
    pub actual: f64,
    pub expected: f64,
}

impl Tolerances {
    const DENSE_DECODE: Self = Self {
        out: Tolerance { abs: 8e-4, rel: 2.01 / 128.0, cosine: Some(5e-6) },
        lse: Tolerance { abs: 1e-6, rel: 8.01 / 65536.0, cosine: None },
    };
    const SPARSE_DECODE: Self = Self {
        out: Tolerance { abs: 1e-3, rel: 2.01 / 128.0, cosine: Some(5e-6) },
        lse: Tolerance { abs: 1e-6, rel: 8.01 / 65536.0, cosine: None },
    };
    const SPARSE_PREFILL: Self = Self {
        out: Tolerance { abs: 8e-4, rel: 3.01 / 128.0, cosine: Some(7e-6) },
        lse: Tolerance { abs: 1e-6, rel: 2.01 / 65536.0, cosine: None },
    };

    /// The bounds for this case's operation.
    pub fn of(case: &Case) -> Self {
        match case {
            Case::DenseDecode(_) => Self::DENSE_DECODE,
            Case::SparseDecode(_) => Self::SPARSE_DECODE,
            Case::SparsePrefill(_) | Case::SparsePrefillFp8(_) => Self::SPARSE_PREFILL,
        }
    }
}

impl Answer {
    /// All rows of an answer in f32.
    pub fn whole(layout: &Layout, answer: &Expected) -> Self {
        let rows: Vec<Row> = layout.rows().collect();
        let by_row = |values: &[f32]| rows.iter().map(|row| element(values, row.lse)).collect();
        let max_logits = if answer.max_logits.is_empty() { Vec::new() } else { by_row(&answer.max_logits) };
        let out = (0..rows.len() * layout.head_dim_v).map(|at| element(&answer.out, at)).collect();
        Self { out, lse: by_row(&answer.lse), max_logits, rows }
    }

    /// The answer as a backend would give it; NaN in rows that are not there.
    pub fn to_f32(&self, layout: &Layout) -> Expected {
        let len = layout.head_dim_v;
        let mut out = vec![f32::NAN; layout.row_count() * len];
        for (row, values) in self.rows.iter().zip(self.out.chunks(len)) {
            for (to, &from) in out[row.out * len..].iter_mut().zip(values) {
                *to = from as f32;
            }
        }
        let by_place = |values: &[f64]| {
            let mut placed = vec![f32::NAN; layout.row_count()];
            self.rows.iter().zip(values).for_each(|(row, &value)| placed[row.lse] = value as f32);
            placed
        };
        let max_logits = if self.max_logits.is_empty() { Vec::new() } else { by_place(&self.max_logits) };
        Expected { out, lse: by_place(&self.lse), max_logits }
    }

    /// Compares the rows that are in this answer.
    pub fn compare(&self, layout: &Layout, actual: &Expected, tolerances: &Tolerances) -> Comparison {
        let len = layout.head_dim_v;
        let places = self.rows.iter().flat_map(|row| row.out * len..(row.out + 1) * len);
        let out = tolerances.out.compare("out", &layout.out_shape, places, &actual.out, &self.out);
        let by_row = |name, actual: &[f32], expected: &[f64]| {
            let places = self.rows.iter().map(|row| row.lse);
            tolerances.lse.compare(name, &layout.lse_shape, places, actual, expected)
        };
        let lse = by_row("lse", &actual.lse, &self.lse);
        let has_max_logits = !(self.max_logits.is_empty() && actual.max_logits.is_empty());
        let max_logits = has_max_logits.then(|| by_row("max_logits", &actual.max_logits, &self.max_logits));
        Comparison { out, lse, max_logits }
    }
}

impl Tolerance {
    /// Compares a row-major tensor at `places` with as many `expected` elements. One that is missing counts as NaN.
    fn compare(
        &self,
        name: &'static str,
        shape: &[usize],
        places: impl Iterator<Item = usize>,
        actual: &[f32],
        expected: &[f64],
    ) -> Difference {
        let mut difference = Difference::new(name, self.cosine);
        let (mut product, mut squares, mut largest) = (0.0, 0.0, 0.0_f64);
        for (nth, place) in places.enumerate() {
            let a = element(actual, place);
            let e = expected.get(nth).copied().unwrap_or(f64::NAN);
            difference.elements += 1;
            if !self.admits(a, e) {
                difference.wrong += 1;
                let index = || unravel(place, shape);
                difference.first_wrong.get_or_insert_with(|| Element {
                    index: index(),
                    actual: a,
                    expected: e,
                });
            }
            if !(a.is_finite() && e.is_finite()) {
                continue;
            }
            let error = (a - e).abs();
            difference.max_abs = difference.max_abs.max(error);
            largest = largest.max(e.abs());
            product += a * e;
            squares += a * a + e * e;
        }
        if largest > 0.0 {
            difference.max_rel = difference.max_abs / largest;
        }
        if squares > 0.0 {
            difference.cosine_distance = 1.0 - 2.0 * product / squares;
        }
        difference
    }

    fn admits(&self, actual: f64, expected: f64) -> bool {
        if !(actual.is_finite() && expected.is_finite()) {
            return actual == expected;
        }
        let error = (actual - expected).abs();
        error <= self.abs || error <= self.rel * expected.abs()
    }
}

impl Comparison {
    /// The first output that is not within bounds, and where.
    pub fn failure(&self) -> Option<String> {
        let outputs = [Some(&self.out), Some(&self.lse), self.max_logits.as_ref()];
        outputs.into_iter().flatten().find_map(Difference::failure)
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { max_abs, max_rel, cosine_distance, .. } = self.out;
        write!(f, "out abs {max_abs:.1e} rel {max_rel:.1e} 1-cos {cosine_distance:.1e}")?;
        write!(f, ", lse abs {:.1e}", self.lse.max_abs)?;
        if let Some(max_logits) = &self.max_logits {
            write!(f, ", max_logits abs {:.1e}", max_logits.max_abs)?;
        }
        Ok(())
    }
}

impl Difference {
    fn new(name: &'static str, cosine_bound: Option<f64>) -> Self {
        Self {
            name,
            elements: 0,
            wrong: 0,
            max_abs: 0.0,
            max_rel: 0.0,
            cosine_distance: 0.0,
            first_wrong: None,
            cosine_bound,
        }
    }

    fn failure(&self) -> Option<String> {
        let Self { name, elements, wrong, cosine_distance, .. } = self;
        if let Some(Element { index, actual, expected }) = &self.first_wrong {
            let where_and_what = format!("{name}{index:?} is {actual:e}, expected is {expected:e}");
            return Some(format!("{where_and_what}; {wrong} of {elements} elements differ"));
        }
        let bound = self.cosine_bound?;
        (*cosine_distance > bound)
            .then(|| format!("{name} has cosine distance {cosine_distance:.1e}, more than {bound:e}"))
    }
}

fn element(values: &[f32], at: usize) -> f64 {
    values.get(at).map_or(f64::NAN, |&value| f64::from(value))
}

/// The index of the element `at` in a row-major tensor of `shape`.
fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &dim) in index.iter_mut().zip(shape).rev() {
        *i = at % dim;
        at /= dim;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;
    const LOOSE: Tolerance = Tolerance { abs: 0.1, rel: 0.1, cosine: Some(0.01) };
    const BOTH: Tolerances = Tolerances { out: LOOSE, lse: Tolerance { cosine: None, ..LOOSE } };

    fn difference(actual: &[f32], expected: &[f64]) -> Difference {
        LOOSE.compare("out", &[actual.len() / 2, 2], 0..actual.len(), actual, expected)
    }

    #[test]
    fn either_bound_is_enough() {
        let difference = difference(&[0.0625, 109.0, -3.0, 0.0], &[0.0, 100.0, -3.0, 0.0]);
        assert_eq!(difference.failure(), None);
        assert_eq!((difference.elements, difference.max_abs), (4, 9.0));
        assert!((difference.max_rel - 0.09).abs() < 1e-12);
    }

    #[test]
    fn the_first_wrong_element_is_named() {
        let difference = difference(&[1.0, 2.0, 5.0, 9.0], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(difference.first_wrong, Some(Element { index: vec![1, 0], actual: 5.0, expected: 3.0 }));
        let failure = difference.failure().unwrap();
        assert_eq!(failure, "out[1, 0] is 5e0, expected is 3e0; 2 of 4 elements differ");
    }

    #[test]
    fn infinities_must_agree_and_nan_never_passes() {
        assert_eq!(difference(&[f32::INFINITY, f32::NEG_INFINITY], &[INF, -INF]).wrong, 0);
        for (actual, expected) in [
            (f32::NEG_INFINITY, INF),
            (f32::MAX, INF),
            (f32::INFINITY, 0.0),
            (f32::NAN, INF),
            (f32::NAN, 0.0),
            (f32::NAN, f64::NAN),
            (0.0, f64::NAN),
        ] {
            let difference = difference(&[0.0, actual], &[0.0, expected]);
            assert_eq!(difference.wrong, 1, "{actual} {expected}");
            assert_eq!(difference.max_abs, 0.0, "only finite elements have an error");
        }
    }

    #[test]
    fn small_errors_all_one_way_show_in_the_angle() {
        let (actual, expected) = ([0.1_f32, -0.05].repeat(50), [0.05, 0.02].repeat(50));
        let difference = difference(&actual, &expected);
        assert_eq!(difference.wrong, 0);
        // Per pair: the product is 0.004, the squares are 0.0125 and 0.0029.
        assert!((difference.cosine_distance - (1.0 - 0.008 / 0.0154)).abs() < 1e-6);
        let failure = difference.failure().unwrap();
        assert_eq!(failure, "out has cosine distance 4.8e-1, more than 1e-2");
    }

    #[test]
    fn missing_elements_are_wrong() {
        assert_eq!(LOOSE.compare("out", &[2], 0..2, &[0.0], &[0.0, 0.0]).wrong, 1);
        assert_eq!(LOOSE.compare("out", &[2], 0..2, &[0.0; 2], &[0.0]).wrong, 1);
    }

    /// Two query tokens, two heads, values of one element: `lse` is transposed.
    fn answer() -> (Layout, Expected) {
        let (out, lse) = (vec![1.0, 2.0, 3.0, 4.0], vec![10.0, 30.0, 20.0, 40.0]);
        (Layout::decode(1, 2, 2, 1), Expected { out, lse, max_logits: vec![] })
    }

    #[test]
    fn an_answer_agrees_with_itself_and_survives_conversion() {
        let (layout, actual) = answer();
        let whole = Answer::whole(&layout, &actual);
        assert_eq!(whole.lse, [10.0, 20.0, 30.0, 40.0], "in the order of rows");
        let comparison = whole.compare(&layout, &actual, &BOTH);
        assert!(comparison.failure().is_none() && comparison.max_logits.is_none());
        assert_eq!((comparison.out.max_abs, comparison.lse.max_abs), (0.0, 0.0));
        let back = whole.to_f32(&layout);
        assert_eq!((back.out, back.lse), (actual.out, actual.lse));
    }

    #[test]
    fn only_the_rows_of_the_answer_are_compared() {
        let (layout, mut actual) = answer();
        let row = layout.row(0, 1, 0);
        let part = Answer { rows: vec![row], out: vec![3.0], lse: vec![30.0], max_logits: vec![] };
        actual.out[3] = f32::NAN;
        actual.lse[3] = f32::NAN;
        let comparison = part.compare(&layout, &actual, &BOTH);
        assert_eq!(comparison.failure(), None);
        assert_eq!((comparison.out.elements, comparison.lse.elements), (1, 1));
        actual.lse[1] = 50.0;
        let failure = part.compare(&layout, &actual, &BOTH).failure().unwrap();
        assert_eq!(failure, "lse[0, 0, 1] is 5e1, expected is 3e1; 1 of 1 elements differ");
    }

    #[test]
    fn max_logits_must_be_on_both_sides() {
        let (layout, actual) = answer();
        let with = Expected { max_logits: vec![1.0; 4], ..actual.clone() };
        let expected = Answer::whole(&layout, &with);
        assert_eq!(expected.compare(&layout, &with, &BOTH).failure(), None);
        assert!(expected.compare(&layout, &actual, &BOTH).failure().is_some());
        assert!(Answer::whole(&layout, &actual).compare(&layout, &with, &BOTH).failure().is_some());
    }
}
