//! A batch-invariant decode gives a request the same bits alone, first, last and among others.

use oximla::case_file::{DenseDecodeCase, Expected, SparseDecodeCase};
use oximla::{Determinism, KvFormat};
use oximla_conformance::backend::Backend;
use oximla_conformance::dense_decode::{Part, Settings, Spec, answer, run_with, select};
use oximla_conformance::sparse_decode;
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::{DENSE_DECODE, SPARSE_DECODE};
use oximla_reference::Fp8Format;

/// Orders of the requests of [`spec`]: the long ones first, last and in between, with other neighbours.
const BATCHES: [&[usize]; 3] = [&[0, 1, 2, 3], &[3, 2, 0], &[2, 0, 2]];

/// Requests of two chunks, of no key, of two chunks whose last is short, and of one key.
fn spec() -> Spec {
    Spec { lengths: vec![1200, 0, 1030, 1], h_q: 4, score_sd: 1.0, ..Spec::default() }
}

fn run(backend: &Backend, case: &DenseDecodeCase, determinism: Determinism, views: Views) -> Expected {
    let settings = Settings { determinism, views, ..Settings::default() };
    run_with(backend, case, settings).unwrap_or_else(|why| panic!("{}: {why}", backend.name()))
}

fn bits(answer: &Expected) -> Vec<u32> {
    [&answer.out, &answer.lse].into_iter().flatten().map(|x| x.to_bits()).collect()
}

/// Requests whose bits differ between a run alone and a run in one of [`BATCHES`].
fn differing(backend: &Backend, spec: &Spec, determinism: Determinism) -> Vec<usize> {
    let case = spec.case();
    let part = |request| Part { request, kv_head: 0, heads: (0..spec.h_q).collect() };
    let alone: Vec<Vec<u32>> = (0..spec.lengths.len())
        // A cache and a page table of its own, no larger than it needs, or it has no keys.
        .map(|request| {
            let alone = if spec.lengths[request] > 0 && spec.h_kv == 1 {
                part(request).of_case(&case)
            } else {
                select(&case, &[request])
            };
            bits(&run(backend, &alone, determinism, Views::Contiguous))
        })
        .collect();
    let mut differing = Vec::new();
    for requests in BATCHES {
        let batch = select(&case, requests);
        let outputs = run(backend, &batch, determinism, Views::Padded);
        DENSE_DECODE.for_scores(spec.score_sd).check(&outputs, &answer(&batch)).unwrap();
        for (place, &request) in requests.iter().enumerate() {
            let here = Part { request: place, ..part(request) }.of_outputs(&batch.problem, &outputs);
            if bits(&here) != alone[request] {
                differing.push(request);
            }
        }
    }
    differing
}

fn assert_same_bits(backend: &Backend, spec: &Spec) {
    let differing = differing(backend, spec, Determinism::BatchInvariant);
    assert!(differing.is_empty(), "{}: requests {differing:?} of {spec:?}", backend.name());
}

#[test]
fn a_request_has_the_same_bits_in_every_batch() {
    for backend in Backend::all() {
        assert_same_bits(&backend, &Spec { s_q: 2, causal: true, format: KvFormat::Fp16, ..spec() });
        // The emulator takes its time.
        if !backend.is_emulated() {
            assert_same_bits(&backend, &Spec { h_q: 6, h_kv: 3, ..spec() });
            // Chunks are longer than the shortest ones.
            let lengths = vec![131_072, 0, 65_537, 5000];
            assert_same_bits(&backend, &Spec { lengths, full_pages: 64, ..spec() });
        }
    }
}

/// The other mode makes no such promise on a GPU: if bits never differed there, the tests above would show nothing.
#[test]
fn otherwise_bits_depend_on_the_batch() {
    for gpu in Backend::gpus() {
        let differing = differing(&gpu, &spec(), Determinism::RunToRun);
        assert!(differing.contains(&0) && differing.contains(&2), "{}: only {differing:?}", gpu.name());
    }
}

/// Numbers of heads so small that sparse decode has a kernel of its own for them, and just above.
const HEADS: [usize; 2] = [4, 17];

/// Requests whose queries have lists of two chunks, of none, and of a part of one.
fn sparse_spec(format: Fp8Format, h_q: usize) -> sparse_decode::Spec {
    let scope = sparse_decode::ScopeSpec {
        num_pages: 20,
        topk: 1100,
        topk_length: Some(vec![1100, 0, 300]),
        ..Default::default()
    };
    let extra = sparse_decode::ScopeSpec { topk: 70, ..Default::default() };
    sparse_decode::Spec {
        batch: 3,
        h_q,
        format,
        scope,
        extra: Some(extra),
        sinks: true,
        ..Default::default()
    }
}

/// Requests of [`sparse_spec`] whose bits differ between a run alone and a run among others.
fn sparse_differing(backend: &Backend, spec: &sparse_decode::Spec, determinism: Determinism) -> Vec<usize> {
    const BATCHES: [&[usize]; 2] = [&[0, 1, 2], &[2, 0]];
    let case = spec.case();
    let run = |case: &SparseDecodeCase, views| {
        let settings = sparse_decode::Settings { determinism, views, ..Default::default() };
        sparse_decode::run_with(backend, case, settings)
            .unwrap_or_else(|why| panic!("{}: {why}", backend.name()))
    };
    let alone: Vec<Vec<u32>> = (0..case.problem.batch)
        .map(|request| bits(&run(&sparse_decode::select(&case, &[request]), Views::Contiguous)))
        .collect();
    let mut differing = Vec::new();
    for requests in BATCHES {
        let batch = sparse_decode::select(&case, requests);
        let outputs = run(&batch, Views::Padded);
        SPARSE_DECODE.check(&outputs, &sparse_decode::answer(&batch)).unwrap();
        let part = |values: &[f32], place: usize| -> Vec<f32> {
            let len = values.len() / requests.len();
            values[place * len..][..len].to_vec()
        };
        for (place, &request) in requests.iter().enumerate() {
            let (out, lse) = (part(&outputs.out, place), part(&outputs.lse, place));
            if bits(&Expected { out, lse, max_logits: Vec::new() }) != alone[request] {
                differing.push(request);
            }
        }
    }
    differing
}

#[test]
fn a_request_of_sparse_decode_has_the_same_bits_in_every_batch() {
    for backend in Backend::all() {
        for (format, h_q) in
            [Fp8Format::V32, Fp8Format::Model1].into_iter().flat_map(|f| HEADS.map(|h| (f, h)))
        {
            let differing =
                sparse_differing(&backend, &sparse_spec(format, h_q), Determinism::BatchInvariant);
            assert!(differing.is_empty(), "{}: requests {differing:?} of {h_q} {format:?}", backend.name());
        }
    }
}

#[test]
fn otherwise_bits_of_sparse_decode_depend_on_the_batch() {
    // On a large GPU a cluster has all splits of a request here, whatever else there is.
    let gpu = Backend::emulated();
    for h_q in HEADS {
        let differing = sparse_differing(&gpu, &sparse_spec(Fp8Format::V32, h_q), Determinism::RunToRun);
        assert!(differing.contains(&2), "{h_q} heads: only {differing:?}");
    }
}
