//! Sparse prefill over FP8 caches against the oracle, on every backend and in every layout that the backend takes.
//!
//! It shares its kernel with sparse decode; here is what differs: whole query tokens, and the largest scores.

use oximla::RopeAngles;
use oximla_conformance::backend::Backend;
use oximla_conformance::sparse_decode::{Invalid, ScopeSpec, Spec};
use oximla_conformance::sparse_prefill_fp8::{answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::SPARSE_PREFILL;
use oximla_reference::Fp8Format;

const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];

fn check(backend: &Backend, spec: &Spec, views: Views) {
    let case = spec.case();
    // The run comes before the answer is known to anyone.
    let actual =
        run(backend, &case, views).unwrap_or_else(|why| panic!("{} {spec:?}: {why}", backend.name()));
    let tolerances = SPARSE_PREFILL.for_scores(spec.score_sd);
    if let Err(why) = tolerances.check(&actual, &answer(&case)) {
        panic!("{} {views:?} {spec:?}: {why}", backend.name());
    }
}

/// `spec`, of one query token a request, in both formats.
fn check_formats(spec: &Spec) {
    for format in FORMATS {
        check_everywhere(&Spec { format, s_q: 1, ..spec.clone() });
    }
}

fn check_everywhere(spec: &Spec) {
    for backend in Backend::all() {
        check(&backend, spec, Views::Contiguous);
        check(&backend, spec, Views::Padded);
        if !backend.is_gpu() {
            check(&backend, spec, Views::Unaligned);
        }
    }
}

#[test]
fn head_counts() {
    for h_q in [1, 63, 64, 65, 128] {
        check_formats(&Spec { h_q, batch: 3, ..Spec::default() });
    }
}

/// More than a CTA for each: those with several, and those with none, in changing order.
#[test]
fn queries_without_keys_among_others() {
    for lengths in [&[64, 0][..], &[128, 0, 0, 0], &[0, 0, 1]] {
        let batch = 12 * lengths.len() + 1;
        let topk_length = Some(lengths.iter().copied().cycle().take(batch).collect());
        let scope = ScopeSpec { topk: 128, topk_length, ..ScopeSpec::default() };
        check_formats(&Spec { batch, h_q: 1, scope, sinks: true, ..Spec::default() });
    }
}

/// Long lists, and few query tokens for many CTAs: a decode would split them.
#[test]
fn long_lists_are_not_split() {
    for score_sd in [1.0, 3.0] {
        let scope = ScopeSpec { topk: 640, num_pages: 12, ..ScopeSpec::default() };
        check_formats(&Spec { batch: 2, h_q: 4, scope, score_sd, ..Spec::default() });
    }
}

#[test]
fn a_second_scope() {
    let scope = ScopeSpec { topk: 100, ..ScopeSpec::default() };
    let extra =
        ScopeSpec { page_size: 2, num_pages: 150, topk: 128, invalid: Invalid::Extreme, topk_length: None };
    let spec = Spec { batch: 4, scope, extra: Some(extra), sinks: true, ..Spec::default() };
    check_formats(&spec);
    // Either scope may be empty, or both.
    let with_lengths = |scope: &ScopeSpec, lengths: [usize; 4]| ScopeSpec {
        topk_length: Some(lengths.to_vec()),
        ..scope.clone()
    };
    let scope = with_lengths(&spec.scope, [0, 50, 0, 64]);
    let extra = spec.extra.as_ref().map(|extra| with_lengths(extra, [0, 0, 77, 128]));
    check_formats(&Spec { scope, extra, ..spec });
}

/// MODEL1's outputs turned back, by a base and by a table, of queries without keys, too.
#[test]
fn turned_back() {
    for angles in [RopeAngles::Theta(1e4), RopeAngles::Table { max_positions: 40 }] {
        let scope =
            ScopeSpec { topk: 100, topk_length: Some(vec![100, 0, 1, 64, 65]), ..ScopeSpec::default() };
        let (format, inverse_rope) = (Fp8Format::Model1, Some(angles));
        let spec = Spec { batch: 5, h_q: 65, format, scope, inverse_rope, sinks: true, ..Spec::default() };
        check_everywhere(&spec);
    }
}

#[test]
fn no_valid_index() {
    let scope = ScopeSpec { invalid: Invalid::Always, ..ScopeSpec::default() };
    check_formats(&Spec { batch: 2, scope, sinks: true, ..Spec::default() });
}
