//! Sparse prefill over FP8 caches against the oracle, on every backend and in every layout that the backend takes.
//!
//! It shares its kernel with sparse decode; here is what differs: whole query tokens, and the largest scores.

use oximla::case_file::SparsePrefillFp8Case;
use oximla::{Error, InvalidProblem, KvFormat, RopeAngles};
use oximla_conformance::backend::Backend;
use oximla_conformance::sparse_decode::{Invalid, ScopeSpec, Spec};
use oximla_conformance::sparse_prefill_fp8::{answer, of_decode, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::SPARSE_PREFILL;
use oximla_reference::Fp8Format;
use proptest::prelude::*;

const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];

fn check(backend: &Backend, spec: &Spec, views: Views) {
    let case = of_decode(spec.case());
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

/// More query tokens than CTAs at a time, so that each takes several, of lists of one index and of many.
#[test]
fn many_queries() {
    for (s_q, topk) in [(40, 1), (20, 130)] {
        let scope = ScopeSpec { topk, page_size: 53, ..ScopeSpec::default() };
        check_formats(&Spec { batch: s_q, h_q: 1, scope, ..Spec::default() });
    }
}

fn specs() -> impl Strategy<Value = (Spec, Views)> {
    let views = prop::sample::select(&[Views::Contiguous, Views::Padded][..]);
    let invalid = prop::sample::select(&[Invalid::Never, Invalid::Padding, Invalid::Extreme][..]);
    let scope = move |batch: usize| {
        let pages = (prop::sample::select(&[1_usize, 2, 61, 64, 256][..]), 1_usize..=9);
        (pages, 1_usize..=200, invalid.clone()).prop_flat_map(
            move |((page_size, num_pages), topk, invalid)| {
                prop::option::of(prop::collection::vec(0..=topk, batch)).prop_map(move |topk_length| {
                    ScopeSpec { page_size, num_pages, topk, invalid, topk_length }
                })
            },
        )
    };
    (1_usize..=5).prop_flat_map(move |batch| {
        let h_q = prop::sample::select(&[1_usize, 16, 64, 100, 128][..]);
        let score_sd = prop::sample::select(&[0.01_f32, 1.0, 4.0][..]);
        let kind = (prop::sample::select(&FORMATS[..]), h_q, views.clone());
        let values = (any::<bool>(), any::<bool>(), score_sd, any::<u64>());
        (kind, scope(batch), prop::option::of(scope(batch)), values).prop_map(
            move |((format, h_q, views), scope, extra, (sinks, turns, score_sd, seed))| {
                let turns = turns && format == Fp8Format::Model1;
                let inverse_rope = turns.then_some(RopeAngles::Theta(1.6e5));
                (
                    Spec { batch, s_q: 1, h_q, format, scope, extra, sinks, inverse_rope, score_sd, seed },
                    views,
                )
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_problems((spec, views) in specs()) {
        for backend in Backend::all() {
            check(&backend, &spec, views);
        }
    }
}

/// What does not fit is named before anything is written.
#[test]
fn what_does_not_fit_is_refused() {
    let spec = |format| Spec { batch: 2, h_q: 3, format, sinks: true, ..Spec::default() };
    let v32 = of_decode(spec(Fp8Format::V32).case());
    let turned = Spec { inverse_rope: Some(RopeAngles::Theta(1e4)), ..spec(Fp8Format::Model1) };
    let turned = of_decode(turned.case());
    for backend in Backend::all() {
        let refused = |case: &SparsePrefillFp8Case, change: &dyn Fn(&mut SparsePrefillFp8Case)| {
            let mut case = case.clone();
            change(&mut case);
            match run(&backend, &case, Views::Contiguous) {
                Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => argument,
                other => panic!("{}: {other:?}", backend.name()),
            }
        };
        assert_eq!(refused(&v32, &|case| case.problem.format = KvFormat::Bf16), "format");
        assert_eq!(refused(&v32, &|case| case.problem.softmax_scale = f32::NAN), "softmax_scale");
        assert_eq!(refused(&v32, &|case| case.problem.scope.topk = 0), "scope.topk");
        assert_eq!(refused(&v32, &|case| case.problem.scope.page_size = 0), "scope.page_size");
        assert_eq!(refused(&v32, &|case| case.problem.extra = Some(case.problem.scope)), "extra");
        assert_eq!(refused(&v32, &|case| case.extra = Some(case.scope.clone())), "extra");
        let turn = |case: &mut SparsePrefillFp8Case| case.problem.inverse_rope = turned.problem.inverse_rope;
        assert_eq!(refused(&v32, &turn), "inverse_rope");
        assert_eq!(refused(&turned, &|case| case.inverse_rope = None), "inverse_rope");
        assert_eq!(refused(&turned, &|case| case.problem.inverse_rope = None), "inverse_rope");
    }
}
