//! Sparse prefill against the oracle, on every backend that has it and in every layout that the backend takes.

use oximla::Error;
use oximla_conformance::backend::{Backend, report};
use oximla_conformance::sparse_decode::Invalid;
use oximla_conformance::sparse_prefill::{Spec, answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::SPARSE_PREFILL;
use proptest::prelude::*;

const HEAD_DIMS: [usize; 2] = [512, 576];

fn check(backend: &Backend, spec: &Spec, views: Views) {
    let case = spec.case();
    // The run comes before the answer is known to anyone.
    let actual = match run(backend, &case, views) {
        Err(why @ Error::Unsupported { .. }) if backend.is_gpu() => {
            return report(&format!("sparse prefill on {} skipped: {why}", backend.name()));
        }
        result => result.unwrap_or_else(|why| panic!("{} {spec:?}: {why}", backend.name())),
    };
    let tolerances = SPARSE_PREFILL.for_scores(spec.score_sd);
    if let Err(why) = tolerances.check(&actual, &answer(&case)) {
        panic!("{} {views:?} {spec:?}: {why}", backend.name());
    }
}

/// `spec` with both head dimensions, everywhere.
fn check_everywhere(spec: &Spec) {
    for head_dim in HEAD_DIMS {
        let spec = Spec { head_dim, ..spec.clone() };
        for backend in Backend::all() {
            check(&backend, &spec, Views::Contiguous);
            check(&backend, &spec, Views::Padded);
            if !backend.is_gpu() {
                check(&backend, &spec, Views::Unaligned);
            }
        }
    }
}

#[test]
fn head_counts() {
    for h_q in [64, 128] {
        check_everywhere(&Spec { h_q, ..Spec::default() });
    }
}

#[test]
fn extreme_indices_are_masked() {
    check_everywhere(&Spec { invalid: Invalid::Extreme, s_q: 5, ..Spec::default() });
}

#[test]
fn no_valid_index() {
    for sinks in [false, true] {
        check_everywhere(&Spec { invalid: Invalid::Always, sinks, ..Spec::default() });
    }
}

#[test]
fn more_indices_than_keys() {
    check_everywhere(&Spec { s_kv: 1, s_q: 2, ..Spec::default() });
    check_everywhere(&Spec { s_kv: 32, topk: 1024, s_q: 1, ..Spec::default() });
}

#[test]
fn list_lengths_and_sinks() {
    let lengths = vec![0, 1, 63, 64, 65, 127, 128];
    check_everywhere(&Spec {
        s_q: lengths.len(),
        topk_length: Some(lengths),
        sinks: true,
        ..Spec::default()
    });
}

/// GPU kernels want multiples of 64; the definition does not.
#[test]
fn odd_list_widths() {
    let cpu = Backend::cpu();
    for topk in [1, 3, 63, 100] {
        check(&cpu, &Spec { topk, ..Spec::default() }, Views::Padded);
    }
}

#[test]
fn few_keys_dominate() {
    check_everywhere(&Spec { score_sd: 4.0, sinks: true, ..Spec::default() });
}

#[test]
fn many_queries() {
    check_everywhere(&Spec { s_q: 150, s_kv: 300, topk: 64, h_q: 64, ..Spec::default() });
}

fn specs() -> impl Strategy<Value = (Spec, Views)> {
    let views = prop::sample::select(&[Views::Contiguous, Views::Padded, Views::Unaligned][..]);
    let invalid =
        prop::sample::select(&[Invalid::Never, Invalid::Padding, Invalid::Extreme, Invalid::Always][..]);
    let score_sd = prop::sample::select(&[0.01_f32, 1.0, 4.0][..]);
    (1_usize..=6, 1_usize..=4).prop_flat_map(move |(s_q, blocks)| {
        let topk = 64 * blocks;
        let lengths = prop::option::of(prop::collection::vec(0..=topk, s_q));
        let sizes = (prop::sample::select(&HEAD_DIMS[..]), 1_usize..=400, lengths);
        let values = (invalid.clone(), any::<bool>(), score_sd.clone(), any::<u64>());
        (sizes, values, views.clone()).prop_map(
            move |((head_dim, s_kv, topk_length), (invalid, sinks, score_sd, seed), views)| {
                let h_q = 64;
                (Spec { s_q, h_q, head_dim, s_kv, topk, invalid, topk_length, sinks, score_sd, seed }, views)
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
