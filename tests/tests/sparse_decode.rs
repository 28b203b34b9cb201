//! Sparse decode against the oracle, on every backend and in every layout that the backend takes.

use oximla::case_file::SparseDecodeCase;
use oximla::{Error, InvalidProblem, InverseRope, RopeAngles, StateFormat};
use oximla_conformance::backend::Backend;
use oximla_conformance::inverse_rope::{self, ROPE_DIM, RotationCase};
use oximla_conformance::sparse_decode::{HEAD_DIM_V, Invalid, ScopeSpec, Spec, answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::SPARSE_DECODE;
use oximla_reference::Fp8Format;
use proptest::prelude::*;

const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];
/// MODEL1's bases, and a table.
const ANGLES: [RopeAngles; 3] =
    [RopeAngles::Theta(1e4), RopeAngles::Theta(1.6e5), RopeAngles::Table { max_positions: 30 }];
/// Orders of events in which the emulator runs each random problem.
const ORDERS: u64 = 3;

/// Numbers of heads so small that there is a kernel of its own for them, and just above.
const HEADS: [usize; 2] = [3, 17];

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

/// By query token in one cache, by request or by token in the other; of few heads, of one tile of them, and of two that may share keys.
#[test]
fn lengths_of_query_tokens() {
    let scope = |topk, lengths: &[usize]| ScopeSpec {
        topk,
        num_pages: 12,
        topk_length: Some(lengths.to_vec()),
        invalid: Invalid::Extreme,
        ..ScopeSpec::default()
    };
    let by_token = [130, 0, 64, 1, 65, 100];
    let extras: [&[usize]; 2] = [&[70, 3], &[0, 0, 1, 70, 64, 65]];
    for (h_q, lengths) in [3, 17, 128].into_iter().flat_map(|h_q| extras.map(|lengths| (h_q, lengths))) {
        let (scope, extra) = (scope(130, &by_token), Some(scope(70, lengths)));
        check_formats(&Spec { scope, extra, batch: 2, s_q: 3, h_q, sinks: true, ..Spec::default() });
    }
    // Long enough to be split, and by request where the other is by token.
    let (scope, extra) = (scope(70, &[3, 70]), Some(scope(600, &[600, 64, 0, 450])));
    check_formats(&Spec { scope, extra, batch: 2, s_q: 2, h_q: 16, ..Spec::default() });
}

#[test]
fn lengths_that_do_not_fit_are_named() {
    let of = |lengths: &[i32]| {
        let mut case = Spec { s_q: 3, h_q: 1, ..Spec::default() }.case();
        case.scope.topk_length = Some(lengths.to_vec());
        case
    };
    let refused = |backend: &Backend, case: &SparseDecodeCase| match run(backend, case, Views::Contiguous) {
        Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => argument,
        other => panic!("{}: {other:?}", backend.name()),
    };
    for backend in Backend::all() {
        // Neither one for each request, nor for each query token.
        assert_eq!(refused(&backend, &of(&[1; 4])), "scope.topk_length");
        if !backend.is_gpu() {
            assert_eq!(refused(&backend, &of(&[0, 64, 1, 2, 3, 65])), "scope.topk_length[1, 2]");
            assert_eq!(refused(&backend, &of(&[0, -1])), "scope.topk_length[1]");
        }
    }
}

/// Serving engines fill batches up with requests of no keys. So many requests that a worker has several of both kinds.
#[test]
fn requests_without_keys_among_others() {
    for lengths in [&[64, 0][..], &[64, 64, 0], &[128, 0, 0, 0], &[0, 0, 1]] {
        let batch = 12 * lengths.len();
        let topk_length = Some(lengths.iter().copied().cycle().take(batch).collect());
        let scope = ScopeSpec { topk: 128, topk_length, ..ScopeSpec::default() };
        for h_q in HEADS {
            check_formats(&Spec { batch, h_q, scope: scope.clone(), ..Spec::default() });
        }
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

/// `spec` with MODEL1's cache and with its output turned back.
fn check_turned_back(spec: &Spec) {
    for angles in ANGLES {
        check_everywhere(&Spec { format: Fp8Format::Model1, inverse_rope: Some(angles), ..spec.clone() });
    }
}

#[test]
fn turned_back() {
    check_turned_back(&Spec { s_q: 3, h_q: 65, sinks: true, ..Spec::default() });
}

#[test]
fn turned_back_with_a_second_scope_and_without_keys() {
    let scope = |topk_length: [usize; 4]| ScopeSpec {
        topk: 100,
        topk_length: Some(topk_length.to_vec()),
        ..ScopeSpec::default()
    };
    let (scope, extra) = (scope([0, 50, 0, 64]), Some(scope([0, 0, 77, 100])));
    for h_q in HEADS {
        let (scope, extra) = (scope.clone(), extra.clone());
        check_turned_back(&Spec { batch: 4, h_q, scope, extra, sinks: true, ..Spec::default() });
    }
}

/// What is turned back are partial results here.
#[test]
fn turned_back_in_splits() {
    let scope = ScopeSpec { topk: 600, num_pages: 20, ..ScopeSpec::default() };
    for h_q in HEADS {
        check_turned_back(&Spec { scope: scope.clone(), batch: 1, h_q, sinks: true, ..Spec::default() });
    }
}

/// Within the decode or after it, that is the same but for one rounding to bf16.
#[test]
fn turned_back_at_once_or_later() {
    let lists = [64, 600].into_iter().flat_map(|topk| HEADS.map(|h_q| (topk, h_q)));
    for ((topk, h_q), angles) in lists.flat_map(|list| ANGLES.map(|angles| (list, angles))) {
        let scope = ScopeSpec { topk, num_pages: 20, ..ScopeSpec::default() };
        let inverse_rope = Some(angles);
        let (batch, s_q, format) = (1, 2, Fp8Format::Model1);
        let mut fused = Spec { batch, s_q, h_q, format, scope, inverse_rope, ..Spec::default() }.case();
        let rope = fused.inverse_rope.as_mut().expect("positions");
        if matches!(angles, RopeAngles::Theta(_)) {
            // Not 0, where nothing is turned.
            rope.positions = vec![7, 131_071];
        }
        let rope = rope.clone();
        let mut plain = fused.clone();
        (plain.problem.inverse_rope, plain.inverse_rope) = (None, None);
        for backend in Backend::all() {
            let [fused, plain] = [&fused, &plain].map(|case| run(&backend, case, Views::Contiguous).unwrap());
            assert_eq!(fused.lse, plain.lse, "{}", backend.name());
            let later = RotationCase {
                problem: InverseRope { batch, s_q, h_q, head_dim_v: HEAD_DIM_V, angles },
                format: StateFormat::Bf16,
                out: plain.out.clone(),
                rope: rope.clone(),
            };
            let later = inverse_rope::run(&backend, &later, Views::Contiguous).unwrap();
            let rows = [&fused.out, &plain.out, &later].map(|out| out.chunks(HEAD_DIM_V));
            let [fused, plain, later] = rows;
            for (row, ((fused, plain), later)) in fused.zip(plain).zip(later).enumerate() {
                check_fused_row(fused, plain, later, topk > 64)
                    .unwrap_or_else(|why| panic!("{} {angles:?} row {row}: {why}", backend.name()));
            }
        }
    }
}

/// A row that was turned back within the decode, one that was not, and the latter turned back afterwards; `may_split`: whether they may
/// come of partial results.
fn check_fused_row(fused: &[f32], plain: &[f32], later: &[f32], may_split: bool) -> Result<(), String> {
    let (kept, turned) = fused.split_at(HEAD_DIM_V - ROPE_DIM);
    if kept != &plain[..kept.len()] {
        return Err("what has no position embedding differs".into());
    }
    if turned == &plain[kept.len()..] {
        return Err("it was not turned".into());
    }
    let largest = plain.iter().fold(0_f32, |largest, x| largest.max(x.abs()));
    let pairs = turned.chunks(2).zip(later[kept.len()..].chunks(2));
    for (pair, (fused, later)) in pairs.enumerate() {
        // Three roundings to 8 bits in all, each of numbers no larger than the pair is long.
        let rounding = 3.0 / 256.0 * later[0].hypot(later[1]);
        // Partial results round to 11 bits in both ways, and may be much longer than the pair that they add up to.
        let bound = if may_split { rounding + 2.0 / 2048.0 * largest } else { rounding };
        if fused.iter().zip(later).any(|(fused, later)| (fused - later).abs() > bound) {
            return Err(format!("pair {pair}: {fused:?} at once, {later:?} later"));
        }
    }
    Ok(())
}

/// A position that the table lacks: NaN in what is turned, nothing else, and never an access outside the table.
#[test]
fn positions_outside_the_table() {
    let angles = RopeAngles::Table { max_positions: 30 };
    for h_q in HEADS {
        positions_outside_the_table_of(angles, h_q);
    }
}

fn positions_outside_the_table_of(angles: RopeAngles, h_q: usize) {
    let inverse_rope = Some(angles);
    let spec = Spec { format: Fp8Format::Model1, s_q: 3, h_q, inverse_rope, ..Spec::default() };
    let mut case = spec.case();
    let expected = answer(&case);
    let outside = [-1, 30, i32::MIN, i32::MAX];
    case.inverse_rope.as_mut().expect("positions").positions[1..5].copy_from_slice(&outside);
    for backend in Backend::all() {
        let found = run(&backend, &case, Views::Padded).unwrap();
        for (row, (found, expected)) in
            found.out.chunks(HEAD_DIM_V).zip(expected.out.chunks(HEAD_DIM_V)).enumerate()
        {
            let is_outside = (1..5).contains(&(row / h_q));
            let (kept, turned) = found.split_at(HEAD_DIM_V - ROPE_DIM);
            assert!(turned.iter().all(|x| x.is_nan() == is_outside), "{} row {row}", backend.name());
            SPARSE_DECODE.out.check("out", &[kept.len()], kept, &expected[..kept.len()]).unwrap();
        }
    }
}

#[test]
fn only_values_with_rope_are_turned_back() {
    for backend in Backend::all() {
        let refused = |spec: Spec, change: fn(&mut SparseDecodeCase)| {
            let mut case = spec.case();
            change(&mut case);
            match run(&backend, &case, Views::Contiguous) {
                Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => argument,
                other => panic!("{other:?}"),
            }
        };
        let spec =
            |angles| Spec { format: Fp8Format::Model1, inverse_rope: angles, h_q: 2, ..Spec::default() };
        let (theta, table) = (spec(Some(ANGLES[0])), spec(Some(ANGLES[2])));
        let v32 = Spec { format: Fp8Format::V32, ..theta.clone() };
        assert_eq!(refused(v32, |_| ()), "inverse_rope");
        assert_eq!(refused(theta.clone(), |case| case.inverse_rope = None), "inverse_rope");
        assert_eq!(refused(theta.clone(), |case| case.problem.inverse_rope = None), "inverse_rope");
        for bad in [0.5, -1e4, f64::NAN, f64::INFINITY] {
            let spec = Spec { inverse_rope: Some(RopeAngles::Theta(bad)), ..theta.clone() };
            assert_eq!(refused(spec, |_| ()), "inverse_rope.theta");
        }
        let no_table = |case: &mut SparseDecodeCase| {
            case.inverse_rope.as_mut().expect("positions").cos_sin = None;
        };
        assert_eq!(refused(table.clone(), no_table), "inverse_rope.cos_sin");
        assert_eq!(
            refused(table.clone(), |case| case.problem.inverse_rope = Some(ANGLES[0])),
            "inverse_rope.cos_sin"
        );
        assert_eq!(
            refused(table.clone(), |case| {
                case.problem.inverse_rope = Some(RopeAngles::Table { max_positions: 31 });
            }),
            "inverse_rope.cos_sin"
        );
        assert_eq!(
            refused(table, |case| {
                case.problem.inverse_rope = Some(RopeAngles::Table { max_positions: 0 });
            }),
            "inverse_rope.max_positions"
        );
    }
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
        let formats =
            (prop::sample::select(&FORMATS[..]), prop::option::of(prop::sample::select(&ANGLES[..])))
                .prop_map(|(format, angles)| (format, angles.filter(|_| format == Fp8Format::Model1)));
        let scalars = (1_usize..=2, h_q, formats, any::<bool>(), any::<u64>());
        (scalars, scopes(batch), prop::option::of(scopes(batch)), score_sd.clone(), views.clone()).prop_map(
            move |((s_q, h_q, (format, inverse_rope), sinks, seed), scope, extra, score_sd, views)| {
                (Spec { batch, s_q, h_q, format, scope, extra, sinks, inverse_rope, score_sd, seed }, views)
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
