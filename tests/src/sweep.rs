//! Many problems on one backend, of which the oracle, as it is what costs time, computes samples.

use std::fmt::Debug;

use oximla::KvFormat;
use oximla::case_file::Expected;
use rayon::prelude::*;

use crate::backend::{Backend, report};
use crate::tolerance::{Answer, Mismatch, Tolerances};

const SHOWN_FAILURES: usize = 10;

/// Checks all of `specs`.
///
/// # Panics
/// If one fails.
pub fn sweep<S: Debug + Sync>(
    op: &str,
    backend: &Backend,
    specs: &[S],
    check: impl Fn(&Backend, &S) -> Result<(), String> + Sync,
) {
    let failures: Vec<String> = specs
        .par_iter()
        .filter_map(|spec| check(backend, spec).err().map(|why| format!("{spec:?}: {why}")))
        .collect();
    let summary = format!("{} of {} problems failed", failures.len(), specs.len());
    report(&format!("{op} sweep on {}: {summary}", backend.name()));
    let shown = failures.iter().take(SHOWN_FAILURES).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{summary}, among them\n{shown}");
}

/// Looks at all elements for what is wrong in itself; how much is right, the oracle says.
///
/// # Errors
/// If an output is no number, or an infinity in its place.
pub fn check_sound(outputs: &Expected) -> Result<(), String> {
    let is_sound = outputs.out.iter().all(|x| x.is_finite())
        && outputs.lse.iter().all(|&x| x > f32::NEG_INFINITY)
        && outputs.max_logits.iter().all(|&x| x < f32::INFINITY);
    if is_sound { Ok(()) } else { Err("not a number, or an infinity in its place".into()) }
}

/// Compares rows taken out of a problem, whose outputs have this format: each by itself, and all together with the bounds
/// that are made for whole tensors.
///
/// # Errors
/// The first that is out of bounds.
pub fn check_samples(
    tolerances: Tolerances,
    format: KvFormat,
    samples: impl IntoIterator<Item = (Expected, Answer)>,
) -> Result<(), Mismatch> {
    let mut all = Expected { out: Vec::new(), lse: Vec::new(), max_logits: Vec::new() };
    let mut answers = Answer {
        out: Vec::new(),
        out_shape: Vec::new(),
        lse: Vec::new(),
        max_logits: Vec::new(),
        lse_shape: Vec::new(),
    };
    for (outputs, answer) in samples {
        tolerances.for_row(format).check(&outputs, &answer)?;
        all.out.extend(outputs.out);
        all.lse.extend(outputs.lse);
        all.max_logits.extend(outputs.max_logits);
        answers.out.extend(answer.out);
        answers.lse.extend(answer.lse);
        answers.max_logits.extend(answer.max_logits);
    }
    (answers.out_shape, answers.lse_shape) = (vec![answers.out.len()], vec![answers.lse.len()]);
    tolerances.for_samples().check(&all, &answers)
}
