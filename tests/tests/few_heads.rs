//! Sparse decode for few heads: against the oracle, and which decodes those are.

use half::bf16;
use oximla::{Determinism, RopeAngles, SparseDecodePlan};
use oximla_conformance::backend::Backend;
use oximla_conformance::sparse_decode::{HEAD_DIM_V, Invalid, ScopeSpec, Spec, answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::SPARSE_DECODE;
use oximla_reference::Fp8Format;

/// Orders of events in which the emulator runs each problem.
const ORDERS: u64 = 3;

const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];

/// GPUs so small that query tokens are whole where they are many.
fn emulated(multiprocessors: u32, seed: u64) -> impl Iterator<Item = Backend> {
    (0..ORDERS).map(move |order| Backend::emulated_of_size(multiprocessors, seed + order))
}

fn kernel(backend: &Backend, spec: &Spec, determinism: Determinism) -> &'static str {
    let plan = SparseDecodePlan::builder(&spec.case().problem).determinism(determinism);
    plan.build(&backend.device).unwrap().kernel()
}

fn has_few_heads(backend: &Backend, spec: &Spec) -> bool {
    kernel(backend, spec, Determinism::RunToRun).contains("few_heads")
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
        // Of values that carry no positions, no output is turned back.
        let inverse_rope = spec.inverse_rope.filter(|_| format == Fp8Format::Model1);
        let spec = Spec { format, inverse_rope, ..spec.clone() };
        for backend in emulated(multiprocessors, spec.seed) {
            assert!(has_few_heads(&backend, &spec), "{spec:?}");
            check(&backend, &spec);
        }
    }
}

#[test]
fn lists_of_all_lengths_and_heads() {
    // Odd and even numbers of blocks, as two are looked up at a time; several query tokens a CTA.
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

/// On several multiprocessors, so few query tokens that some are split: in two to six parts, which begin with blocks of even and of odd
/// numbers.
#[test]
fn lists_that_are_split() {
    for (topk, h_q, batch, multiprocessors) in
        [(640, 16, 1, 3), (350, 5, 1, 2), (1100, 9, 1, 6), (700, 16, 3, 5), (130, 1, 2, 5)]
    {
        let scope = ScopeSpec { topk, num_pages: 20, invalid: Invalid::Extreme, ..ScopeSpec::default() };
        let spec = Spec { scope, batch, h_q, sinks: true, score_sd: 3.0, ..Default::default() };
        check_formats(multiprocessors, &spec);
    }
}

#[test]
fn splits_by_lengths_in_memory() {
    let topk_length = Some(vec![700, 0, 65, 1]);
    let scope = ScopeSpec { topk: 700, num_pages: 20, topk_length, ..ScopeSpec::default() };
    let topk_length = Some(vec![0, 3, 70, 64]);
    let extra = Some(ScopeSpec { topk: 70, topk_length, ..ScopeSpec::default() });
    check_formats(5, &Spec { scope, extra, batch: 4, h_q: 16, sinks: true, ..Default::default() });
}

/// Whole and split, by angles that are computed and by a table's; with heads of every one of a thread's accumulators.
#[test]
fn turned_back() {
    for inverse_rope in [RopeAngles::Theta(1e4), RopeAngles::Table { max_positions: 30 }].map(Some) {
        for (topk, batch, multiprocessors) in [(100, 4, 2), (640, 1, 3)] {
            let scope = ScopeSpec { topk, num_pages: 20, ..ScopeSpec::default() };
            let spec =
                Spec { scope, batch, s_q: 2, h_q: 16, inverse_rope, sinks: true, ..Default::default() };
            check_formats(multiprocessors, &spec);
        }
    }
}

/// CTAs with the last block of a query token and the first one of the next, which are split: each warpgroup has one of them by itself.
#[test]
fn splits_of_single_blocks() {
    for (batch, topk, multiprocessors) in [(4, 192, 6), (5, 256, 7), (6, 320, 11)] {
        let topk_length = Some((0..batch).map(|i| topk - 3 * i).collect());
        let scope = ScopeSpec { topk, num_pages: 20, topk_length, ..ScopeSpec::default() };
        check_formats(multiprocessors, &Spec { scope, batch, h_q: 16, ..Default::default() });
    }
}

/// Of split query tokens, values near the largest and the smallest numbers, each in one half of the parts. What is stored of a half is
/// relative to its largest column.
#[test]
fn splits_of_any_magnitude() {
    const PART: usize = 128;
    let factor = |part: usize| f32::powi(2.0, if part.is_multiple_of(2) { 100 } else { -100 });
    let scope = ScopeSpec { topk: 640, num_pages: 12, invalid: Invalid::Never, ..ScopeSpec::default() };
    // More than clusters that an H200 would have for them.
    let spec = Spec { scope, batch: 9, h_q: 13, ..Default::default() };
    assert!(has_few_heads(&Backend::emulated_of_size(132, 0), &spec));
    let mut case = spec.case();
    // Scores are of positions alone, which values do not have.
    let head_dim = spec.format.head_dim();
    case.q.chunks_mut(head_dim).for_each(|row| row[..HEAD_DIM_V].fill(bf16::ZERO));
    let expected = answer(&case);
    for token in case.scope.kv_cache.chunks_mut(656) {
        for (part, scale) in token[512..][..16].chunks_mut(4).enumerate() {
            let value = f32::from_le_bytes(scale.try_into().unwrap());
            scale.copy_from_slice(&(value * factor(part)).to_le_bytes());
        }
    }
    for backend in emulated(4, 0).chain(Backend::cuda()) {
        let mut actual = run(&backend, &case, Views::Contiguous).unwrap();
        for (column, x) in actual.out.iter_mut().enumerate() {
            *x /= factor(column % HEAD_DIM_V / PART);
        }
        if let Err(why) = SPARSE_DECODE.check(&actual, &expected) {
            panic!("{}: {why}", backend.name());
        }
    }
}

/// Queries are multiplied as fp16 relative to a power of two of their head, and values relative to one of their slab: all heads' queries very
/// large or very small, those of some far smaller than of others, and keys' scales of many magnitudes.
#[test]
fn queries_and_scales_of_any_magnitude() {
    let scope = ScopeSpec { topk: 330, num_pages: 12, ..ScopeSpec::default() };
    let spec = Spec { scope, batch: 4, h_q: 16, ..Default::default() };
    for exponent in [-100, 0, 90] {
        let mut case = spec.case();
        let head_dim = spec.format.head_dim();
        for (row, queries) in case.q.chunks_mut(head_dim).enumerate() {
            let factor = f32::powi(2.0, exponent - (row % 16) as i32);
            queries.iter_mut().for_each(|q| *q = bf16::from_f32(q.to_f32() * factor));
        }
        case.problem.softmax_scale *= f32::powi(2.0, -exponent);
        for (number, token) in case.scope.kv_cache.chunks_mut(656).enumerate() {
            for scale in token[512..][..16].chunks_mut(4) {
                let value = f32::from_le_bytes(scale.try_into().unwrap());
                let factor = f32::powi(2.0, -((number * 13 % 40) as i32));
                scale.copy_from_slice(&(value * factor).to_le_bytes());
            }
        }
        for backend in emulated(2, 0).chain(Backend::cuda()) {
            let actual = run(&backend, &case, Views::Contiguous).unwrap();
            if let Err(why) = SPARSE_DECODE.check(&actual, &answer(&case)) {
                panic!("{}, 2^{exponent}: {why}", backend.name());
            }
        }
    }
}

#[test]
fn a_gpu_computes_many_query_tokens() {
    // An H200's; GPUs of other sizes may split others of these.
    let size = Backend::emulated_of_size(132, 0);
    // One, two and three query tokens a CTA; with lists of lengths in memory, too; and split ones.
    let lengths = |batch| Some((0..batch).map(|i| i * 7 % 331).collect());
    let problems = [
        (132, 330, 16, None),
        (264, 129, 8, None),
        (396, 64, 1, None),
        (264, 330, 15, lengths(264)),
        (60, 700, 16, None),
        (40, 331, 7, lengths(40)),
    ];
    for (batch, topk, h_q, topk_length) in problems {
        let scope =
            ScopeSpec { topk, num_pages: 30, invalid: Invalid::Extreme, topk_length, ..ScopeSpec::default() };
        for format in FORMATS {
            let scope = scope.clone();
            let spec = Spec { scope, format, batch, h_q, sinks: true, score_sd: 2.0, ..Default::default() };
            assert!(has_few_heads(&size, &spec), "{batch} of {topk}");
            if let Some(backend) = Backend::cuda() {
                check(&backend, &spec);
            }
        }
    }
}

#[test]
fn which_decodes_have_few_heads() {
    let small = Backend::emulated_of_size(2, 0);
    let few = Spec { batch: 4, h_q: 16, ..Default::default() };
    assert!(has_few_heads(&small, &few));
    assert!(!has_few_heads(&small, &Spec { h_q: 17, ..few.clone() }));
    let inverse_rope = Some(RopeAngles::Theta(1e4));
    assert!(has_few_heads(&small, &Spec { inverse_rope, format: Fp8Format::Model1, ..few.clone() }));
    // Where a cluster has all splits of a query token, it has any number of heads; but not where bits depend on the query token alone.
    let large = Backend::emulated_of_size(132, 0);
    let split = Spec { batch: 1, scope: ScopeSpec { topk: 2048, ..ScopeSpec::default() }, ..few };
    assert!(kernel(&large, &split, Determinism::RunToRun).contains("fused"));
    for gpu in [&small, &large] {
        assert!(kernel(gpu, &split, Determinism::BatchInvariant).contains("few_heads"));
    }
}
