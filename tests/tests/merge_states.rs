//! Merging states against the oracle, on every backend and in every layout that the backend takes.

use oximla::case_file::Expected;
use oximla::{Error, InvalidProblem, StateFormat};
use oximla_conformance::backend::Backend;
use oximla_conformance::dense_decode;
use oximla_conformance::merge_states::{MergeCase, Spec, answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::{DENSE_DECODE, MERGE_STATES};
use proptest::prelude::*;

const FORMATS: [StateFormat; 3] = [StateFormat::Bf16, StateFormat::Fp16, StateFormat::F32];

fn check(backend: &Backend, case: &MergeCase, views: Views) {
    let actual = run(backend, case, views).unwrap_or_else(|why| panic!("{}: {why}", backend.name()));
    if let Err(why) = MERGE_STATES.check(&actual, &answer(case)) {
        panic!("{} {views:?} {:?} {}: {why}", backend.name(), case.problem, case.format);
    }
}

fn check_everywhere(spec: &Spec) {
    let case = spec.case();
    for backend in Backend::all() {
        check(&backend, &case, Views::Padded);
        if !backend.is_emulated() {
            check(&backend, &case, Views::Contiguous);
        }
        if !backend.is_gpu() {
            check(&backend, &case, Views::Unaligned);
        }
    }
}

#[test]
fn two_states() {
    for format in FORMATS {
        check_everywhere(&Spec { format, ..Spec::default() });
    }
}

#[test]
fn one_state_stays_what_it_is() {
    for format in FORMATS {
        let case = Spec { states: 1, format, one_empty_in: usize::MAX, ..Spec::default() }.case();
        for backend in Backend::all() {
            let merged = run(&backend, &case, Views::Padded).unwrap();
            assert_eq!(merged.out, case.states[0].0, "{} {format}", backend.name());
        }
    }
}

/// One more than the kernel looks at together, as many as a warp has lanes, and odd numbers between.
#[test]
fn many_states() {
    for states in [3, 8, 9, 31, 32] {
        check_everywhere(&Spec { states, batch: 1, ..Spec::default() });
    }
}

#[test]
fn odd_shapes() {
    for (batch, s_q, h_q) in [(1, 1, 1), (3, 5, 7), (1, 2, 128), (17, 1, 9), (300, 1, 1)] {
        check_everywhere(&Spec { batch, s_q, h_q, ..Spec::default() });
    }
}

#[test]
fn states_without_keys() {
    for one_empty_in in [1, 2] {
        check_everywhere(&Spec { one_empty_in, states: 3, s_q: 2, ..Spec::default() });
    }
}

/// exp(lse) would be infinite or 0.
#[test]
fn large_and_small_lse() {
    for (lse_sd, shift) in [(300.0, 0.0), (0.1, 1000.0), (0.1, -1000.0), (0.0, 0.0)] {
        let mut case = Spec { lse_sd, states: 3, s_q: 2, ..Spec::default() }.case();
        case.states.iter_mut().flat_map(|(_, lse)| lse).for_each(|lse| *lse += shift);
        Backend::all().iter().for_each(|backend| check(backend, &case, Views::Contiguous));
    }
}

/// A NaN that takes part is not hidden.
#[test]
fn nan_spreads() {
    let mut case = Spec { batch: 1, h_q: 4, one_empty_in: usize::MAX, ..Spec::default() }.case();
    // Of the first row the lse of one state, of the second one those of both, of the third one an output.
    for (state, row) in [(0, 0), (0, 1), (1, 1)] {
        case.states[state].1[row] = f32::NAN;
    }
    case.states[1].0[2 * case.problem.head_dim_v + 5] = f32::NAN;
    for backend in Backend::all() {
        let Expected { out, lse, .. } = run(&backend, &case, Views::Contiguous).unwrap();
        let nan = |row: usize| out[row * 512..][..512].iter().filter(|x| x.is_nan()).count();
        assert_eq!([0, 1, 2, 3].map(nan), [512, 512, 1, 0], "{}", backend.name());
        assert_eq!(
            [0, 1, 2, 3].map(|row| lse[row].is_nan()),
            [true, true, false, false],
            "{}",
            backend.name()
        );
    }
}

/// What merging is for: two decodes of one half of the keys each give what one decode of all keys gives.
#[test]
fn halves_of_a_decode_merge_to_the_whole() {
    let spec = dense_decode::Spec { lengths: vec![256, 320], score_sd: 1.0, ..dense_decode::Spec::default() };
    let case = spec.case();
    let (max_pages, left_pages) = (case.problem.max_pages, 2);
    let mut halves = [case.clone(), case.clone()];
    for (half, request) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let row = &mut halves[half].block_table[request * max_pages..][..max_pages];
        row.rotate_left(half * left_pages);
        let left_keys = left_pages as i32 * 64;
        let keys = &mut halves[half].cache_seqlens[request];
        *keys = if half == 0 { left_keys } else { *keys - left_keys };
    }
    for backend in Backend::all() {
        let states = halves.each_ref().map(|half| {
            let answer = dense_decode::run(&backend, half, Views::Contiguous).unwrap();
            (answer.out, answer.lse)
        });
        let shape = Spec { batch: 2, h_q: spec.h_q, ..Spec::default() };
        let merge = MergeCase { states: states.to_vec(), ..shape.case() };
        let merged = run(&backend, &merge, Views::Contiguous).unwrap();
        DENSE_DECODE.check(&merged, &dense_decode::answer(&case)).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let names = |result: Result<Expected, Error>| match result {
        Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => argument,
        other => panic!("{other:?}"),
    };
    let zero_heads = |mut case: MergeCase| {
        case.problem.h_q = 0;
        case
    };
    for backend in Backend::all() {
        let mut case = Spec { states: 3, ..Spec::default() }.case();
        case.problem.states = 2;
        assert_eq!(names(run(&backend, &case, Views::Contiguous)), "states");
        case.problem.states = 0;
        assert_eq!(names(run(&backend, &case, Views::Contiguous)), "states");
        case.problem.head_dim_v = 256;
        case.problem.states = 3;
        assert_eq!(names(run(&backend, &case, Views::Contiguous)), "head_dim_v");
        assert_eq!(names(run(&backend, &zero_heads(case), Views::Contiguous)), "h_q");
        if backend.is_gpu() {
            let case = Spec::default().case();
            assert_eq!(names(run(&backend, &case, Views::Unaligned)), "states[0].out");
            let case = Spec { states: 33, batch: 1, ..Spec::default() }.case();
            assert_eq!(names(run(&backend, &case, Views::Contiguous)), "states");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_merges(
        (states, batch, s_q, h_q) in (1_usize..=12, 1_usize..=4, 1_usize..=3, 1_usize..=9),
        format in prop::sample::select(FORMATS.to_vec()),
        lse_sd in prop::sample::select(vec![0.0_f32, 1.0, 20.0]),
        one_empty_in in 1_usize..=9,
        seed in any::<u64>(),
    ) {
        let spec = Spec { states, batch, s_q, h_q, format, lse_sd, one_empty_in, seed };
        check_everywhere(&spec);
    }
}
