//! Dense decode against the oracle, on every backend and in every layout that the backend takes.

use half::bf16;
use oximla::KvFormat;
use oximla::case_file::{DenseDecodeCase, HalfVec};
use oximla_conformance::backend::Backend;
use oximla_conformance::dense_decode::{Spec, answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::DENSE_DECODE;
use proptest::prelude::*;

/// Orders of events in which the emulator runs each random problem.
const ORDERS: u64 = 3;

/// Page size of the GPU kernels.
const GPU_PAGE: usize = 64;
/// Rows and keys of a tile, of which [`EMULATED_TILES`] are a few seconds of the emulator's time.
const TILE: usize = 64;
const EMULATED_TILES: usize = 60;

fn check(backend: &Backend, spec: &Spec, views: Views) {
    let case = spec.case();
    // The run comes before the answer is known to anyone.
    let actual =
        run(backend, &case, views).unwrap_or_else(|why| panic!("{} {spec:?}: {why}", backend.name()));
    if let Err(why) = DENSE_DECODE.for_scores(spec.score_sd).check(&actual, &answer(&case)) {
        panic!("{} {views:?} {spec:?}: {why}", backend.name());
    }
}

fn check_everywhere(spec: &Spec) {
    for backend in Backend::all() {
        if backend.is_gpu() && spec.page_size != GPU_PAGE
            || backend.is_emulated() && tiles(spec) > EMULATED_TILES
        {
            continue;
        }
        check(&backend, spec, Views::Padded);
        if !backend.is_emulated() {
            check(&backend, spec, Views::Contiguous);
        }
        if !backend.is_gpu() {
            check(&backend, spec, Views::Unaligned);
        }
    }
}

fn tiles(spec: &Spec) -> usize {
    let blocks: usize = spec.lengths.iter().map(|len| len.div_ceil(TILE).max(1)).sum();
    blocks * spec.h_kv * (spec.s_q * spec.h_q / spec.h_kv).div_ceil(TILE)
}

#[test]
fn one_key() {
    check_everywhere(&Spec { lengths: vec![1], ..Spec::default() });
}

#[test]
fn lengths_around_page_borders() {
    let lengths = vec![63, 64, 65, 127, 128, 129, 192];
    check_everywhere(&Spec { lengths, h_q: 8, ..Spec::default() });
}

/// Requests that the emulated GPU splits in two, in a few, and in more parts: of so many rows that several are combined at a time,
/// and of fewer.
#[test]
fn many_rows_of_few_splits() {
    for h_q in [48, 7] {
        check_everywhere(&Spec { h_q, lengths: vec![130, 700, 1500], score_sd: 1.0, ..Spec::default() });
    }
}

/// Values near the largest and the smallest numbers, whose partial results are kept in a format with a smaller range. Queries are as
/// much smaller or larger, so that the answer is the same but for the scale of its outputs.
#[test]
fn split_requests_of_any_magnitude() {
    let spec = Spec { h_q: 7, lengths: vec![130, 1500], ..Spec::default() };
    let case = spec.case();
    let expected = answer(&case);
    let scaled = |values: &HalfVec, scale: f32| match values {
        HalfVec::Bf16(values) => {
            HalfVec::Bf16(values.iter().map(|x| bf16::from_f32(x.to_f32() * scale)).collect())
        }
        HalfVec::Fp16(_) => panic!("a range that fp16 has not"),
    };
    for scale in [f32::powi(2.0, 110), f32::powi(2.0, -110)] {
        let (q, kv_cache) = (scaled(&case.q, scale.recip()), scaled(&case.kv_cache, scale));
        let case = DenseDecodeCase { q, kv_cache, ..case.clone() };
        for backend in Backend::all() {
            let mut actual = run(&backend, &case, Views::Contiguous).unwrap();
            actual.out.iter_mut().for_each(|x| *x /= scale);
            if let Err(why) = DENSE_DECODE.check(&actual, &expected) {
                panic!("{} {scale:e}: {why}", backend.name());
            }
        }
    }
}

#[test]
fn zero_lengths() {
    check_everywhere(&Spec { lengths: vec![0, 90, 0], s_q: 2, ..Spec::default() });
    check_everywhere(&Spec { lengths: vec![0, 0], s_q: 2, causal: true, ..Spec::default() });
}

#[test]
fn causal_queries_before_the_first_key() {
    let spec = Spec { s_q: 4, causal: true, ..Spec::default() };
    check_everywhere(&Spec { lengths: vec![1, 2, 3, 4, 5, 0, 66], ..spec });
}

/// The last queries see one more page than the first ones.
#[test]
fn causal_queries_on_both_sides_of_a_page_border() {
    check_everywhere(&Spec { lengths: vec![65, 66, 67], s_q: 3, causal: true, ..Spec::default() });
}

#[test]
fn few_keys_dominate() {
    for format in [KvFormat::Bf16, KvFormat::Fp16] {
        let spec = Spec { lengths: vec![300, 64], score_sd: 4.0, format, ..Spec::default() };
        check_everywhere(&spec);
    }
}

#[test]
fn head_counts() {
    for (h_q, h_kv) in [(1, 1), (3, 1), (9, 3), (63, 1), (64, 8), (126, 2), (128, 1)] {
        check_everywhere(&Spec { h_q, h_kv, lengths: vec![70], seed: 7, ..Spec::default() });
    }
}

#[test]
fn page_sizes() {
    for page_size in [1, 2, 53, 61, 64, 69, 256] {
        let lengths = vec![139, 1, 0, 2 * page_size];
        check_everywhere(&Spec { page_size, lengths, h_q: 4, s_q: 2, causal: true, ..Spec::default() });
    }
}

#[test]
fn requests_share_pages() {
    check_everywhere(&Spec { lengths: vec![400, 300, 130], full_pages: 2, ..Spec::default() });
}

/// Enough keys that a request is divided among several workers, next to ones that are not.
#[test]
fn long_and_short_requests() {
    let lengths = vec![2500, 3, 0, 700];
    check_everywhere(&Spec { lengths, h_q: 4, format: KvFormat::Fp16, score_sd: 1.0, ..Spec::default() });
}

fn specs() -> impl Strategy<Value = (Spec, Views)> {
    let heads = prop_oneof![
        (1_usize..=20).prop_map(|h_q| (h_q, 1)),
        (1_usize..=6, 2_usize..=4).prop_map(|(group, h_kv)| (group * h_kv, h_kv)),
    ];
    let page_size = prop_oneof![2 => Just(GPU_PAGE), 1 => 1_usize..=100];
    let format = prop_oneof![Just(KvFormat::Bf16), Just(KvFormat::Fp16)];
    let views = prop_oneof![Just(Views::Contiguous), Just(Views::Padded), Just(Views::Unaligned)];
    let lengths = prop::collection::vec(prop_oneof![1 => Just(0_usize), 4 => 0_usize..=260], 1..=5);
    let score_sd = prop_oneof![Just(0.01_f32), Just(1.0), Just(4.0)];
    let head_dim = prop_oneof![2 => Just(576), 1 => Just(512)];
    let shape = (1_usize..=4, heads, head_dim);
    (shape, page_size, lengths, format, any::<bool>(), score_sd, any::<u64>(), views).prop_map(
        |((s_q, (h_q, h_kv), head_dim), page_size, lengths, format, causal, score_sd, seed, views)| {
            let full_pages = usize::MAX;
            let spec = Spec {
                s_q,
                h_q,
                h_kv,
                head_dim,
                page_size,
                lengths,
                format,
                causal,
                score_sd,
                full_pages,
                seed,
            };
            (spec, views)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn random_problems((spec, views) in specs()) {
        for backend in Backend::all() {
            if backend.is_emulated() {
                continue;
            }
            if !backend.is_gpu() || (spec.page_size == GPU_PAGE && views != Views::Unaligned) {
                check(&backend, &spec, views);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 15,
        max_shrink_iters: 20,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn random_emulated_problems((spec, views) in specs()) {
        let views = if views == Views::Unaligned { Views::Padded } else { views };
        let spec = Spec { page_size: GPU_PAGE, ..spec };
        if tiles(&spec) <= EMULATED_TILES {
            for order in 0..ORDERS {
                check(&Backend::emulated_with_seed(spec.seed.wrapping_add(order)), &spec, views);
            }
        }
    }
}
