//! Decodes whose splits a cluster combines, on GPUs large enough for them: against the oracle, and which decodes those are.

use oximla::{DenseDecode, DenseDecodePlan, Determinism, KvFormat, RopeAngles, SparseDecodePlan};
use oximla_conformance::backend::Backend;
use oximla_conformance::sparse_decode::{Invalid, ScopeSpec};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::{DENSE_DECODE, SPARSE_DECODE};
use oximla_conformance::{dense_decode, sparse_decode as sparse};
use oximla_reference::Fp8Format;

/// Those of an H200; the tests of other files have too few for a cluster. An H200 grants seven clusters at a time or so.
const MULTIPROCESSORS: u32 = 132;

/// Orders of events in which the emulator runs each problem.
const ORDERS: u64 = 2;

/// The first GPU, if there is one, and emulated ones.
fn gpus(seed: u64) -> impl Iterator<Item = Backend> {
    let emulated = (0..ORDERS).map(move |order| Backend::emulated_of_size(MULTIPROCESSORS, seed + order));
    Backend::cuda().into_iter().chain(emulated)
}

fn check_dense(spec: &dense_decode::Spec) {
    let case = spec.case();
    for backend in gpus(spec.seed) {
        let plan = DenseDecodePlan::builder(&case.problem, spec.format).build(&backend.device).unwrap();
        assert!(plan.kernel().contains("fused"), "{} {spec:?}: {}", backend.name(), plan.kernel());
        let actual = dense_decode::run(&backend, &case, Views::Padded).unwrap();
        if let Err(why) = DENSE_DECODE.for_scores(spec.score_sd).check(&actual, &dense_decode::answer(&case))
        {
            panic!("{} {spec:?}: {why}", backend.name());
        }
    }
}

fn check_sparse(spec: &sparse::Spec) {
    for format in [Fp8Format::V32, Fp8Format::Model1] {
        // Only MODEL1's values carry positions.
        let inverse_rope = spec.inverse_rope.filter(|_| format == Fp8Format::Model1);
        let spec = sparse::Spec { format, inverse_rope, ..spec.clone() };
        let case = spec.case();
        for backend in gpus(spec.seed) {
            let plan = SparseDecodePlan::builder(&case.problem).build(&backend.device).unwrap();
            assert!(plan.kernel().contains("fused"), "{} {spec:?}: {}", backend.name(), plan.kernel());
            let actual = sparse::run(&backend, &case, Views::Padded).unwrap();
            let tolerances = SPARSE_DECODE.for_scores(spec.score_sd);
            if let Err(why) = tolerances.check(&actual, &sparse::answer(&case)) {
                panic!("{} {spec:?}: {why}", backend.name());
            }
        }
    }
}

#[test]
fn dense_requests_of_all_lengths() {
    // Of as many blocks as half of a cluster, of one more, and of nearly as many as there may be.
    for (lengths, h_q) in [(vec![0, 1, 64], 3), (vec![65, 512], 16), (vec![513, 896], 64)] {
        for (format, head_dim) in [(KvFormat::Bf16, 576), (KvFormat::Fp16, 512)] {
            let lengths = lengths.clone();
            check_dense(&dense_decode::Spec {
                lengths,
                h_q,
                format,
                head_dim,
                score_sd: 3.0,
                ..Default::default()
            });
        }
    }
}

#[test]
fn dense_rows_of_several_tiles() {
    for (format, head_dim) in [(KvFormat::Bf16, 512), (KvFormat::Fp16, 576)] {
        check_dense(&dense_decode::Spec {
            lengths: vec![330],
            h_q: 128,
            format,
            head_dim,
            ..Default::default()
        });
    }
    let spec = dense_decode::Spec { lengths: vec![300], h_q: 9, h_kv: 3, s_q: 2, ..Default::default() };
    check_dense(&spec);
}

#[test]
fn dense_queries_that_see_different_splits() {
    // The first tokens see nothing of the last splits, and where keys are fewer than tokens nothing at all.
    for (s_q, h_q, len) in [(70, 1, 200), (5, 32, 3), (5, 32, 130)] {
        check_dense(&dense_decode::Spec { lengths: vec![len], s_q, h_q, causal: true, ..Default::default() });
    }
}

#[test]
fn sparse_lists_of_all_lengths() {
    for topk in [65, 130, 513, 1025] {
        let scope = ScopeSpec { topk, num_pages: 20, invalid: Invalid::Extreme, ..ScopeSpec::default() };
        check_sparse(&sparse::Spec { scope, batch: 1, h_q: 16, sinks: true, ..Default::default() });
    }
    let topk_length = Some(vec![0, 1, 64, 200]);
    let scope = ScopeSpec { topk: 200, topk_length, ..ScopeSpec::default() };
    check_sparse(&sparse::Spec { scope, batch: 4, sinks: true, ..Default::default() });
}

#[test]
fn sparse_lists_into_two_caches() {
    let extra = ScopeSpec { page_size: 61, topk: 77, invalid: Invalid::Extreme, ..ScopeSpec::default() };
    let inverse_rope = Some(RopeAngles::Theta(1e4));
    for h_q in [1, 65, 128] {
        let extra = Some(extra.clone());
        check_sparse(&sparse::Spec {
            h_q,
            batch: 1,
            extra,
            inverse_rope,
            score_sd: 3.0,
            ..Default::default()
        });
    }
    let scope = ScopeSpec { topk: 100, invalid: Invalid::Always, ..ScopeSpec::default() };
    check_sparse(&sparse::Spec { scope, s_q: 3, batch: 1, sinks: true, ..Default::default() });
}

#[test]
fn the_same_call_gives_the_same_bits_with_a_schedule_or_without() {
    let spec = dense_decode::Spec { lengths: vec![1000, 300], score_sd: 2.0, ..Default::default() };
    let case = spec.case();
    for backend in gpus(1) {
        let bits = |scheduled| {
            let settings = dense_decode::Settings { scheduled, ..Default::default() };
            let outputs = dense_decode::run_with(&backend, &case, settings).unwrap();
            outputs.out.iter().chain(&outputs.lse).map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let first = bits(false);
        assert!(first == bits(false) && first == bits(true), "{}", backend.name());
    }
}

/// Longer splits, more requests than clusters for them, and what must not depend on the batch take the other way.
#[test]
fn where_it_pays() {
    let device = Backend::emulated_of_size(MULTIPROCESSORS, 0).device;
    let dense = |batch, h_q, max_pages, determinism| {
        let problem = DenseDecode {
            batch,
            s_q: 1,
            h_q,
            h_kv: 1,
            head_dim: 576,
            head_dim_v: 512,
            page_size: 64,
            num_pages: 100,
            max_pages,
            softmax_scale: 0.1,
            causal: false,
        };
        let plan = DenseDecodePlan::builder(&problem, KvFormat::Bf16).determinism(determinism);
        plan.build(&device).unwrap().kernel()
    };
    let (default, invariant) = (Determinism::RunToRun, Determinism::BatchInvariant);
    let (fused, other) = ("dense_decode_fused_sm90_bf16", "dense_decode_sm90_bf16");
    assert_eq!(dense(1, 16, 16, default), fused);
    assert_eq!(dense(8, 16, 2, default), fused);
    assert_eq!(dense(4, 128, 16, default), fused);
    assert_eq!(dense(9, 16, 2, default), other, "nine clusters of 16 of 132");
    assert_eq!(dense(5, 128, 16, default), other);
    assert_eq!(dense(1, 16, 17, default), other, "splits of two blocks");
    assert_eq!(dense(1, 16, 1, default), other, "nothing to split");
    assert_eq!(dense(1, 16, 16, invariant), other);
}
