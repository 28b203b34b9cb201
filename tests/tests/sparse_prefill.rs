//! Sparse prefill against the oracle, on every backend and in every layout that the backend takes.

use oximla_conformance::backend::Backend;
use oximla_conformance::sparse_decode::Invalid;
use oximla_conformance::sparse_prefill::{Spec, answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::SPARSE_PREFILL;
use proptest::prelude::*;

const HEAD_DIMS: [usize; 2] = [512, 576];
/// Orders of events in which the emulator runs each random problem.
const ORDERS: u64 = 3;

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
    for h_q in [1, 16, 63, 64, 65, 128] {
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

#[test]
fn odd_list_widths() {
    for topk in [1, 3, 63, 65, 100] {
        check_everywhere(&Spec { topk, ..Spec::default() });
    }
}

/// So many query tokens that a worker has several with and without keys, in changing order.
#[test]
fn queries_without_keys_among_others() {
    for lengths in [&[64, 0][..], &[64, 64, 0], &[128, 0, 0, 0], &[0, 0, 1]] {
        let s_q = 12 * lengths.len() + 1;
        let topk_length = Some(lengths.iter().copied().cycle().take(s_q).collect());
        check_everywhere(&Spec { s_q, h_q: 1, topk_length, ..Spec::default() });
    }
}

/// The largest score rises and falls again from block to block, further than the softmax lets it lag behind, or less.
#[test]
fn largest_scores_of_long_lists() {
    for score_sd in [1.0, 3.0] {
        check_everywhere(&Spec { s_q: 2, h_q: 4, s_kv: 1300, topk: 640, score_sd, ..Spec::default() });
    }
}

#[test]
fn few_keys_dominate() {
    check_everywhere(&Spec { score_sd: 4.0, sinks: true, ..Spec::default() });
}

#[test]
fn many_queries() {
    check_everywhere(&Spec { s_q: 50, s_kv: 300, topk: 64, h_q: 64, ..Spec::default() });
}

fn specs() -> impl Strategy<Value = (Spec, Views)> {
    let views = prop::sample::select(&[Views::Contiguous, Views::Padded, Views::Unaligned][..]);
    let invalid =
        prop::sample::select(&[Invalid::Never, Invalid::Padding, Invalid::Extreme, Invalid::Always][..]);
    let score_sd = prop::sample::select(&[0.01_f32, 1.0, 4.0][..]);
    let topk = prop_oneof![(1_usize..=4).prop_map(|blocks| 64 * blocks), 1_usize..=256];
    (1_usize..=6, topk).prop_flat_map(move |(s_q, topk)| {
        let lengths = prop::option::of(prop::collection::vec(0..=topk, s_q));
        let h_q = prop::sample::select(&[16_usize, 64, 128][..]);
        let sizes = (h_q, prop::sample::select(&HEAD_DIMS[..]), 1_usize..=400, lengths);
        let values = (invalid.clone(), any::<bool>(), score_sd.clone(), any::<u64>());
        (sizes, values, views.clone()).prop_map(
            move |((h_q, head_dim, s_kv, topk_length), (invalid, sinks, score_sd, seed), views)| {
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
