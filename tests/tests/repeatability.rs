//! The same run gives the same bits, each time and in each layout.

use oximla::Error;
use oximla::case_file::Expected;
use oximla_conformance::backend::Backend;
use oximla_conformance::strided::Views;
use oximla_conformance::{dense_decode, sparse_decode, sparse_prefill, sparse_prefill_fp8};

const RUNS: u64 = 100;
/// On the emulator, which is slow, but draws another order of events each time.
const EMULATED_RUNS: u64 = 5;

fn check(operation: &str, run: impl Fn(&Backend, Views) -> Result<Expected, Error>) {
    for backend in Backend::all() {
        let first = bits(&run(&backend, Views::Contiguous).expect(operation));
        let runs = if backend.is_emulated() { EMULATED_RUNS } else { RUNS };
        for again in 1..runs {
            let backend =
                if backend.is_emulated() { Backend::emulated_with_seed(again) } else { backend.clone() };
            let views = if again % 2 == 0 { Views::Contiguous } else { Views::Padded };
            let bits = bits(&run(&backend, views).expect(operation));
            let difference = bits.iter().zip(&first).position(|(a, b)| a != b);
            assert_eq!(difference, None, "{operation} on {}: run {again} differs", backend.name());
        }
    }
}

fn bits(answer: &Expected) -> Vec<u32> {
    [&answer.out, &answer.lse, &answer.max_logits].into_iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn dense_decode_is_bitwise_repeatable() {
    let lengths = vec![900, 0, 130, 64];
    let spec = dense_decode::Spec { lengths, s_q: 2, causal: true, score_sd: 1.0, ..Default::default() };
    let case = spec.case();
    check("dense decode", |backend, views| dense_decode::run(backend, &case, views));
}

#[test]
fn sparse_decode_is_bitwise_repeatable() {
    let extra = Some(sparse_decode::ScopeSpec { topk: 256, num_pages: 10, ..Default::default() });
    let case = sparse_decode::Spec { extra, sinks: true, ..Default::default() }.case();
    check("sparse decode", |backend, views| sparse_decode::run(backend, &case, views));
}

/// So many query tokens that no cluster has all splits of one, and so few that they are split.
#[test]
fn sparse_decode_for_few_heads_is_bitwise_repeatable() {
    let scope = sparse_decode::ScopeSpec { topk: 330, ..Default::default() };
    let case = sparse_decode::Spec { batch: 9, h_q: 16, scope, sinks: true, ..Default::default() }.case();
    check("sparse decode for few heads", |backend, views| sparse_decode::run(backend, &case, views));
}

#[test]
fn sparse_prefill_is_bitwise_repeatable() {
    let case = sparse_prefill::Spec { sinks: true, ..Default::default() }.case();
    check("sparse prefill", |backend, views| sparse_prefill::run(backend, &case, views));
}

#[test]
fn sparse_prefill_over_fp8_is_bitwise_repeatable() {
    let decode = sparse_decode::Spec { batch: 3, sinks: true, ..Default::default() }.case();
    let case = sparse_prefill_fp8::of_decode(decode);
    check("sparse prefill over FP8", |backend, views| sparse_prefill_fp8::run(backend, &case, views));
}
