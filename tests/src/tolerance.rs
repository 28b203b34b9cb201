//! How far an answer may be from the oracle's.
//!
//! An element passes if its absolute or its relative error does; infinities must be at the same positions with the
//! same sign, and NaN never passes. On top of that the two tensors as vectors must point in the same direction.

use std::fmt;

use oximla::KvFormat;
use oximla::case_file::Expected;

/// Bounds for one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// On `|a − e|`.
    pub abs: f64,
    /// On `|a − e| / (|e| + 1e-6)`.
    pub rel: f64,
    /// On `1 − 2⟨a, e⟩ / (⟨a, a⟩ + ⟨e, e⟩)`.
    pub cosine: f64,
}

/// Bounds for the outputs of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Tolerances {
    /// For `out`, which is rounded to 16 bits.
    pub out: Tolerance,
    /// For `lse` and `max_logits`, which are f32.
    pub lse: Tolerance,
}

/// Dense decode.
pub const DENSE_DECODE: Tolerances = Tolerances {
    out: Tolerance { abs: 8e-4, rel: 2.01 / 128.0, cosine: 5e-6 },
    lse: Tolerance { abs: 1e-6, rel: 8.01 / 65536.0, cosine: 1e-7 },
};
/// Sparse decode.
pub const SPARSE_DECODE: Tolerances = Tolerances {
    out: Tolerance { abs: 1e-3, rel: 2.01 / 128.0, cosine: 5e-6 },
    lse: Tolerance { abs: 1e-6, rel: 8.01 / 65536.0, cosine: 1e-7 },
};
/// Sparse prefill.
pub const SPARSE_PREFILL: Tolerances = Tolerances {
    out: Tolerance { abs: 8e-4, rel: 3.01 / 128.0, cosine: 7e-6 },
    lse: Tolerance { abs: 1e-6, rel: 2.01 / 65536.0, cosine: 1e-7 },
};

/// Merging states: little more than the rounding of the result to bf16.
pub const MERGE_STATES: Tolerances = Tolerances {
    out: Tolerance { abs: 1e-5, rel: 1.01 / 256.0, cosine: 5e-6 },
    lse: Tolerance { abs: 1e-6, rel: 1e-6, cosine: 1e-7 },
};

/// Keeps the relative error of an expected 0 finite.
const REL_FLOOR: f64 = 1e-6;

/// The outputs of an operation in f64, with their shapes.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Attention output.
    pub out: Vec<f64>,
    /// Shape of `out`.
    pub out_shape: Vec<usize>,
    /// Log-sum-exp.
    pub lse: Vec<f64>,
    /// Largest scaled scores, where the operation has them.
    pub max_logits: Vec<f64>,
    /// Shape of `lse` and `max_logits`.
    pub lse_shape: Vec<usize>,
}

/// Where and how much two tensors differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch(String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

impl Tolerances {
    /// The bounds for scores of this standard deviation.
    ///
    /// The absolute bound on `lse` is made for scores of about 1 and below. A larger score, summed in f32 by tensor
    /// cores that do not round to nearest, has an error in proportion, which `lse` inherits, and where the logarithm
    /// happens to cancel to nearly 0 no relative bound covers it.
    pub fn for_scores(mut self, score_sd: f32) -> Self {
        self.lse.abs *= f64::from(score_sd.max(1.0));
        self
    }

    /// The bounds for a few rows taken out of a problem: one `lse` that happens to be nearly 0 is then all there is, and
    /// has no direction to judge. The other bounds stay.
    pub fn for_samples(mut self) -> Self {
        self.lse.cosine = f64::INFINITY;
        self
    }

    /// The bounds for one row, of outputs in this format.
    ///
    /// Where a single key has nearly all of a row's weight, rounding its probability to bf16, by up to 2⁻⁸, scales the whole
    /// row, which evens out over several: half the square of that, and a third as much for rounding each element of the
    /// output.
    pub fn for_row(self, format: KvFormat) -> Self {
        const BF16_HALF_ULP: f64 = 1.0 / 256.0;
        let mut row = self.for_samples();
        if format == KvFormat::Bf16 {
            row.out.cosine = BF16_HALF_ULP * BF16_HALF_ULP / 2.0 * (1.0 + 1.0 / 3.0);
        }
        row
    }

    /// Compares all outputs of an operation.
    ///
    /// # Errors
    /// The first tensor that is out of bounds, and where.
    pub fn check(&self, actual: &Expected, expected: &Answer) -> Result<(), Mismatch> {
        self.out.check("out", &expected.out_shape, &actual.out, &expected.out)?;
        self.lse.check("lse", &expected.lse_shape, &actual.lse, &expected.lse)?;
        let shape: &[usize] = if expected.max_logits.is_empty() { &[0] } else { &expected.lse_shape };
        self.lse.check("max_logits", shape, &actual.max_logits, &expected.max_logits)
    }
}

impl Tolerance {
    /// Compares the tensor `name`, row-major of shape `shape`.
    ///
    /// # Errors
    /// The first element out of bounds, with its index and how many there are, or the angle between the two.
    pub fn check(
        &self,
        name: &str,
        shape: &[usize],
        actual: &[f32],
        expected: &[f64],
    ) -> Result<(), Mismatch> {
        let elements: usize = shape.iter().product();
        if [actual.len(), expected.len()] != [elements; 2] {
            let (got, expected) = (actual.len(), expected.len());
            return Err(Mismatch(format!(
                "{name} has {got} elements, expected are {expected}, of shape {shape:?}"
            )));
        }
        let pairs = || actual.iter().map(|&a| f64::from(a)).zip(expected.iter().copied());

        let mut wrong = pairs().enumerate().filter(|&(_, (a, e))| !self.admits(a, e));
        if let Some((at, (a, e))) = wrong.next() {
            let index = unravel(at, shape);
            let more = wrong.count();
            let total = format!("{} of {elements} elements differ", more + 1);
            return Err(Mismatch(format!("{name}{index:?} is {a:e}, expected is {e:e}; {total}")));
        }

        let distance = cosine_distance(pairs().filter(|(_, e)| e.is_finite()));
        if distance <= self.cosine {
            return Ok(());
        }
        Err(Mismatch(format!("{name} has cosine distance {distance:e}, more than {:e}", self.cosine)))
    }

    fn admits(&self, actual: f64, expected: f64) -> bool {
        if !expected.is_finite() || !actual.is_finite() {
            return actual == expected;
        }
        let error = (actual - expected).abs();
        error <= self.abs || error / (expected.abs() + REL_FLOOR) <= self.rel
    }
}

fn cosine_distance(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (product, squares) = pairs.fold((0.0, 0.0), |(p, s), (a, e)| (p + a * e, s + a * a + e * e));
    if squares == 0.0 { 0.0 } else { 1.0 - 2.0 * product / squares }
}

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

    const LOOSE: Tolerance = Tolerance { abs: 0.1, rel: 0.1, cosine: 0.01 };

    fn message(actual: &[f32], expected: &[f64]) -> String {
        LOOSE.check("out", &[actual.len() / 2, 2], actual, expected).unwrap_err().to_string()
    }

    #[test]
    fn either_bound_is_enough() {
        let actual = [0.05, 109.0, -3.0];
        assert_eq!(LOOSE.check("out", &[3], &actual, &[0.0, 100.0, -3.0]), Ok(()));
    }

    #[test]
    fn the_first_mismatch_has_an_address() {
        let text = message(&[1.0, 2.0, 5.0, 9.0], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(text, "out[1, 0] is 5e0, expected is 3e0; 2 of 4 elements differ");
    }

    #[test]
    fn infinities_must_agree() {
        let inf = f64::INFINITY;
        assert_eq!(LOOSE.check("lse", &[2], &[f32::INFINITY, f32::NEG_INFINITY], &[inf, -inf]), Ok(()));
        for actual in [f32::NEG_INFINITY, f32::NAN, f32::MAX] {
            assert!(LOOSE.check("lse", &[1], &[actual], &[inf]).is_err(), "{actual}");
        }
        assert!(LOOSE.check("lse", &[1], &[f32::INFINITY], &[0.0]).is_err());
        assert!(LOOSE.check("lse", &[1], &[f32::NAN], &[0.0]).is_err());
    }

    #[test]
    fn small_errors_all_one_way_show_in_the_angle() {
        let (actual, expected) = ([0.1_f32, -0.05].repeat(50), [0.05, 0.02].repeat(50));
        assert!(message(&actual, &expected).starts_with("out has cosine distance"));
    }

    #[test]
    fn lengths_must_agree() {
        assert!(LOOSE.check("out", &[2], &[0.0], &[0.0, 0.0]).is_err());
        assert!(LOOSE.check("out", &[2], &[0.0; 2], &[0.0]).is_err());
    }
}
