//! Sparse decode against the oracle, on every backend and in every layout that the backend takes.

use oximla_conformance::backend::Backend;
use oximla_conformance::sparse_decode::{Invalid, ScopeSpec, Spec, answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::SPARSE_DECODE;
use oximla_reference::Fp8Format;
use proptest::prelude::*;

const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];
/// Orders of events in which the emulator runs each random problem.
const ORDERS: u64 = 3;

const PAGE_SIZES: [usize; 7] = [1, 2, 53, 61, 64, 69, 256];

fn check(backend: &Backend, spec: &Spec, views: Views) {
    let case = spec.case();
    // The run comes before the answer is known to anyone.
    let actual =
        run(backend, &case, views).unwrap_or_else(|why| panic!("{} {spec:?}: {why}", backend.name()));
    let tolerances = SPARSE_DECODE.for_scores(spec.score_sd);
    if let Err(why) = tolerances.check(&actual, &answer(&case)) {
        panic!("{} {views:?} {spec:?}: {why}", backend.name());
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

/// `spec` in both formats.
fn check_formats(spec: &Spec) {
    for format in FORMATS {
        check_everywhere(&Spec { format, ..spec.clone() });
    }
}

#[test]
fn head_counts() {
    for h_q in [1, 16, 63, 64, 65, 128] {
        check_formats(&Spec { h_q, s_q: 2, ..Spec::default() });
    }
}

#[test]
fn page_sizes() {
    for page_size in PAGE_SIZES {
        let scope = ScopeSpec { page_size, num_pages: 300_usize.div_ceil(page_size), ..ScopeSpec::default() };
        check_formats(&Spec { scope, batch: 1, ..Spec::default() });
    }
}

#[test]
fn extreme_indices_are_masked() {
    let scope = ScopeSpec { invalid: Invalid::Extreme, ..ScopeSpec::default() };
    check_formats(&Spec { scope, s_q: 3, batch: 1, ..Spec::default() });
}

#[test]
fn no_valid_index() {
    let scope = ScopeSpec { invalid: Invalid::Always, ..ScopeSpec::default() };
    for sinks in [false, true] {
        check_formats(&Spec { scope: scope.clone(), sinks, ..Spec::default() });
    }
}

#[test]
fn infinite_sinks_with_and_without_keys() {
    let scope = ScopeSpec { topk_length: Some(vec![0, 40, 64]), ..ScopeSpec::default() };
    check_formats(&Spec { batch: 3, scope, sinks: true, ..Spec::default() });
}

#[test]
fn every_list_length() {
    let topk = 65;
    for topk_length in [vec![0, 1, 2], vec![31, 32, 33], vec![63, 64, 65]] {
        let scope = ScopeSpec { topk, topk_length: Some(topk_length), ..ScopeSpec::default() };
        check_formats(&Spec { batch: 3, scope, ..Spec::default() });
    }
}

/// Serving engines fill batches up with requests of no keys. So many requests that a worker has several of both kinds.
#[test]
fn requests_without_keys_among_others() {
    for lengths in [&[64, 0][..], &[64, 64, 0], &[128, 0, 0, 0], &[0, 0, 1]] {
        let batch = 12 * lengths.len();
        let topk_length = Some(lengths.iter().copied().cycle().take(batch).collect());
        let scope = ScopeSpec { topk: 128, topk_length, ..ScopeSpec::default() };
        check_formats(&Spec { batch, h_q: 1, scope, ..Spec::default() });
    }
}

#[test]
fn odd_list_widths() {
    for topk in [1, 3, 63, 100] {
        let scope = ScopeSpec { topk, ..ScopeSpec::default() };
        check_formats(&Spec { scope: scope.clone(), batch: 1, ..Spec::default() });
        // The second scope's keys begin in the middle of a block.
        check_formats(&Spec { extra: Some(scope.clone()), scope, s_q: 2, batch: 1, ..Spec::default() });
    }
}

#[test]
fn a_second_scope() {
    let extra =
        ScopeSpec { page_size: 2, num_pages: 150, topk: 128, invalid: Invalid::Extreme, topk_length: None };
    let spec = Spec { extra: Some(extra.clone()), sinks: true, ..Spec::default() };
    check_formats(&spec);

    // Either scope may be empty, or both.
    let with_lengths = |scope: &ScopeSpec, lengths: [usize; 4]| ScopeSpec {
        topk_length: Some(lengths.to_vec()),
        ..scope.clone()
    };
    let scope = with_lengths(&spec.scope, [0, 50, 0, 64]);
    let extra = Some(with_lengths(&extra, [0, 0, 77, 128]));
    check_formats(&Spec { batch: 4, scope, extra, ..spec });
}

#[test]
fn few_keys_dominate() {
    check_formats(&Spec { score_sd: 4.0, sinks: true, ..Spec::default() });
}

/// Enough keys that a query is divided among several workers.
#[test]
fn long_lists() {
    let scope = ScopeSpec { topk: 2048, num_pages: 20, ..ScopeSpec::default() };
    check_formats(&Spec { scope, batch: 1, ..Spec::default() });
}

fn scopes(batch: usize) -> impl Strategy<Value = ScopeSpec> {
    let page_size = prop::sample::select(&PAGE_SIZES[..]);
    let invalid =
        prop::sample::select(&[Invalid::Never, Invalid::Padding, Invalid::Extreme, Invalid::Always][..]);
    let topk = prop_oneof![(1_usize..=3).prop_map(|blocks| 64 * blocks), 1_usize..=200];
    (page_size, 64_usize..=300, topk, invalid).prop_flat_map(move |(page_size, keys, topk, invalid)| {
        let lengths = prop::option::of(prop::collection::vec(0..=topk, batch));
        lengths.prop_map(move |topk_length| {
            let num_pages = keys.div_ceil(page_size);
            ScopeSpec { page_size, num_pages, topk, invalid, topk_length }
        })
    })
}

fn specs() -> impl Strategy<Value = (Spec, Views)> {
    let views = prop::sample::select(&[Views::Contiguous, Views::Padded, Views::Unaligned][..]);
    let score_sd = prop::sample::select(&[0.01_f32, 1.0, 4.0][..]);
    (1_usize..=3).prop_flat_map(move |batch| {
        let h_q = prop::sample::select(&[16_usize, 64, 128][..]);
        let scalars = (1_usize..=2, h_q, prop::sample::select(&FORMATS[..]), any::<bool>(), any::<u64>());
        (scalars, scopes(batch), prop::option::of(scopes(batch)), score_sd.clone(), views.clone()).prop_map(
            move |((s_q, h_q, format, sinks, seed), scope, extra, score_sd, views)| {
                (Spec { batch, s_q, h_q, format, scope, extra, sinks, score_sd, seed }, views)
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        max_shrink_iters: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn random_problems((spec, views) in specs()) {
        for backend in Backend::all() {
            if !backend.is_emulated() && (!backend.is_gpu() || views != Views::Unaligned) {
                check(&backend, &spec, views);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        max_shrink_iters: 20,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn random_emulated_problems((spec, views) in specs()) {
        let views = if views == Views::Unaligned { Views::Padded } else { views };
        for order in 0..ORDERS {
            check(&Backend::emulated_with_seed(spec.seed.wrapping_add(order)), &spec, views);
        }
    }
}
