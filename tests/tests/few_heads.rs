//! Sparse decode for few heads, whose query tokens are not split: against the oracle, and which decodes those are.

use oximla::{Determinism, RopeAngles, SparseDecodePlan};
use oximla_conformance::backend::Backend;
use oximla_conformance::sparse_decode::{Invalid, ScopeSpec, Spec, answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::SPARSE_DECODE;
use oximla_reference::Fp8Format;

/// Orders of events in which the emulator runs each problem.
const ORDERS: u64 = 3;

const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];

/// GPUs so small that query tokens are whole.
fn emulated(multiprocessors: u32, seed: u64) -> impl Iterator<Item = Backend> {
    (0..ORDERS).map(move |order| Backend::emulated_of_size(multiprocessors, seed + order))
}

fn kernel(backend: &Backend, spec: &Spec) -> &'static str {
    SparseDecodePlan::builder(&spec.case().problem).build(&backend.device).unwrap().kernel()
}

fn check(backend: &Backend, spec: &Spec) {
    let case = spec.case();
    let actual = run(backend, &case, Views::Padded).unwrap();
    if let Err(why) = SPARSE_DECODE.for_scores(spec.score_sd).check(&actual, &answer(&case)) {
        panic!("{} {spec:?}: {why}", backend.name());
    }
}

fn check_formats(multiprocessors: u32, spec: &Spec) {
    for format in FORMATS {
        let spec = Spec { format, ..spec.clone() };
        for backend in emulated(multiprocessors, spec.seed) {
            assert!(kernel(&backend, &spec).contains("few_heads"), "{spec:?}");
            check(&backend, &spec);
        }
    }
}

#[test]
fn lists_of_all_lengths_and_heads() {
    // Blocks are the one or the other loads warpgroup's: odd and even numbers of them, several query tokens a CTA.
    for (topk, h_q, batch) in [(1, 1, 6), (64, 3, 4), (65, 8, 6), (200, 15, 2), (330, 16, 4)] {
        let scope = ScopeSpec { topk, num_pages: 20, invalid: Invalid::Extreme, ..ScopeSpec::default() };
        check_formats(2, &Spec { scope, batch, h_q, sinks: true, score_sd: 3.0, ..Default::default() });
    }
}

#[test]
fn lengths_in_memory() {
    let topk_length = Some(vec![0, 1, 0, 200, 64, 0, 65, 129]);
    let scope = ScopeSpec { topk: 200, topk_length, ..ScopeSpec::default() };
    check_formats(2, &Spec { scope, batch: 8, h_q: 16, sinks: true, ..Default::default() });
    let topk_length = Some(vec![0; 3]);
    let scope = ScopeSpec { topk: 100, topk_length, ..ScopeSpec::default() };
    check_formats(1, &Spec { scope, batch: 3, h_q: 5, ..Default::default() });
}

#[test]
fn two_caches_and_several_query_tokens() {
    let scope = ScopeSpec { page_size: 53, topk: 70, ..ScopeSpec::default() };
    let extra =
        Some(ScopeSpec { page_size: 61, topk: 77, invalid: Invalid::Extreme, ..ScopeSpec::default() });
    check_formats(3, &Spec { scope, extra, batch: 2, s_q: 3, h_q: 16, score_sd: 2.0, ..Default::default() });
    let scope = ScopeSpec { topk: 100, invalid: Invalid::Always, ..ScopeSpec::default() };
    check_formats(1, &Spec { scope, s_q: 2, h_q: 9, sinks: true, ..Default::default() });
}

#[test]
fn a_gpu_computes_many_query_tokens() {
    // An H200's; GPUs of other sizes may split some of these.
    let size = Backend::emulated_of_size(132, 0);
    // One, two and three query tokens a CTA; with lists of lengths in memory, too.
    let lengths: Vec<usize> = (0..264).map(|i| i * 7 % 331).collect();
    let problems =
        [(132, 330, 16, None), (264, 129, 8, None), (396, 64, 1, None), (264, 330, 15, Some(lengths))];
    for (batch, topk, h_q, topk_length) in problems {
        let scope =
            ScopeSpec { topk, num_pages: 30, invalid: Invalid::Extreme, topk_length, ..ScopeSpec::default() };
        for format in FORMATS {
            let scope = scope.clone();
            let spec = Spec { scope, format, batch, h_q, sinks: true, score_sd: 2.0, ..Default::default() };
            assert!(kernel(&size, &spec).contains("few_heads"), "{batch} of {topk}");
            if let Some(backend) = Backend::cuda() {
                check(&backend, &spec);
            }
        }
    }
}

#[test]
fn others_are_decoded_as_if_heads_were_many() {
    let backend = Backend::emulated_of_size(2, 0);
    let few = Spec { batch: 4, h_q: 16, ..Default::default() };
    assert!(kernel(&backend, &few).contains("few_heads"));
    let others = [
        Spec { h_q: 17, ..few.clone() },
        Spec { inverse_rope: Some(RopeAngles::Theta(1e4)), format: Fp8Format::Model1, ..few.clone() },
        // Split.
        Spec { batch: 1, scope: ScopeSpec { topk: 2048, ..ScopeSpec::default() }, ..few.clone() },
    ];
    for spec in others {
        assert!(!kernel(&backend, &spec).contains("few_heads"), "{spec:?}");
    }
    let plan = SparseDecodePlan::builder(&few.case().problem).determinism(Determinism::BatchInvariant);
    assert!(!plan.build(&backend.device).unwrap().kernel().contains("few_heads"));
}
