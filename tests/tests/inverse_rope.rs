//! Inverse RoPE against the oracle, on every backend and in every layout that the backend takes.

use oximla::{Error, InvalidProblem, RopeAngles, StateFormat};
use oximla_conformance::backend::Backend;
use oximla_conformance::inverse_rope::{HEAD_DIM_V, ROPE_DIM, RotationCase, Spec, answer, compare, run};
use oximla_conformance::strided::Views;
use proptest::prelude::*;

const FORMATS: [StateFormat; 3] = [StateFormat::Bf16, StateFormat::Fp16, StateFormat::F32];
/// MODEL1's bases, the least there is, where all pairs turn alike, and tables.
const ANGLES: [RopeAngles; 5] = [
    RopeAngles::Theta(1e4),
    RopeAngles::Theta(1.6e5),
    RopeAngles::Theta(1.0),
    RopeAngles::Table { max_positions: 40 },
    RopeAngles::Table { max_positions: 1 },
];

fn check(backend: &Backend, case: &RotationCase, views: Views) {
    let found = run(backend, case, views).unwrap_or_else(|why| panic!("{}: {why}", backend.name()));
    if let Err(why) = compare(case, &found, &answer(case)) {
        panic!("{} {views:?} {:?} {}: {why}", backend.name(), case.problem, case.format);
    }
}

fn check_everywhere(case: &RotationCase) {
    for backend in Backend::all() {
        check(&backend, case, Views::Contiguous);
        check(&backend, case, Views::Padded);
        if !backend.is_gpu() {
            check(&backend, case, Views::Unaligned);
        }
    }
}

#[test]
fn every_format_and_source_of_angles() {
    for format in FORMATS {
        for angles in ANGLES {
            check_everywhere(&Spec { format, angles, ..Spec::default() }.case());
        }
    }
}

/// Fewer and more heads than lanes take together, a warp, or a CTA.
#[test]
fn odd_shapes() {
    for (batch, s_q, h_q) in [(1, 1, 1), (1, 1, 2), (2, 3, 7), (1, 5, 8), (3, 1, 33), (1, 2, 128), (70, 1, 1)]
    {
        check_everywhere(&Spec { batch, s_q, h_q, ..Spec::default() }.case());
    }
}

#[test]
fn nothing_to_do() {
    for (batch, s_q, h_q) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
        check_everywhere(&Spec { batch, s_q, h_q, ..Spec::default() }.case());
    }
}

/// Angles of far positions are right to the last bit that f32 tells: no error of a frequency is multiplied by a position.
#[test]
fn far_positions() {
    let positions = [0, 1, -1, 4095, 131_071, 999_999, 1 << 20, (1 << 24) + 1, i32::MAX, i32::MIN];
    for theta in [1.0, 1e4, 1.6e5, 1e7] {
        let angles = RopeAngles::Theta(theta);
        let spec = Spec { batch: positions.len(), s_q: 1, h_q: 2, format: StateFormat::F32, angles, seed: 1 };
        let mut case = spec.case();
        case.rope.positions = positions.to_vec();
        check_everywhere(&case);
    }
}

#[test]
fn position_0_changes_nothing() {
    for format in FORMATS {
        let mut case = Spec { format, angles: RopeAngles::Theta(1e4), ..Spec::default() }.case();
        case.rope.positions.fill(0);
        for backend in Backend::all() {
            assert_eq!(run(&backend, &case, Views::Padded).unwrap(), case.out, "{} {format}", backend.name());
        }
    }
}

/// A rotation and the opposite one.
#[test]
fn there_and_back() {
    let angles = RopeAngles::Theta(1e4);
    let mut case = Spec { format: StateFormat::F32, angles, ..Spec::default() }.case();
    case.rope.positions.iter_mut().for_each(|position| *position = (*position).max(-i32::MAX));
    for backend in Backend::all() {
        let there = run(&backend, &case, Views::Contiguous).unwrap();
        let mut back = RotationCase { out: there, ..case.clone() };
        back.rope.positions.iter_mut().for_each(|position| *position = -*position);
        let back = run(&backend, &back, Views::Contiguous).unwrap();
        assert!(back.iter().zip(&case.out).all(|(a, b)| (a - b).abs() < 1e-5), "{}", backend.name());
    }
}

/// NaN, and no access outside the table, which has NaN on either side and ends where its last page does.
#[test]
fn positions_outside_the_table() {
    for format in FORMATS {
        let mut case = Spec { format, ..Spec::default() }.case();
        case.rope.positions[1..5].copy_from_slice(&[-1, 40, i32::MIN, i32::MAX]);
        let row_len = case.problem.h_q * HEAD_DIM_V;
        let nan = |token: &[f64]| token.iter().filter(|x| x.is_nan()).count();
        let rotated = case.problem.h_q * ROPE_DIM;
        assert_eq!(
            answer(&case).chunks(row_len).map(nan).collect::<Vec<_>>(),
            [0, rotated, rotated, rotated, rotated, 0]
        );
        check_everywhere(&case);
    }
}

/// A NaN spreads to the other element of its pair, and no further; what is not rotated may be anything.
#[test]
fn nan_stays_in_its_pair() {
    let mut case = Spec { angles: RopeAngles::Theta(1e4), ..Spec::default() }.case();
    case.rope.positions.fill(3);
    for column in [0, 447, 450, 511] {
        case.out[HEAD_DIM_V + column] = f32::NAN;
    }
    for backend in Backend::all() {
        let found = run(&backend, &case, Views::Contiguous).unwrap();
        let nan: Vec<usize> = (0..found.len()).filter(|&at| found[at].is_nan()).collect();
        assert_eq!(nan, [0, 447, 450, 451, 510, 511].map(|column| HEAD_DIM_V + column), "{}", backend.name());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let names = |result: Result<Vec<f32>, Error>| match result {
        Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => argument,
        other => panic!("{other:?}"),
    };
    let spec = |angles| Spec { angles, ..Spec::default() };
    let (theta, table) = (spec(ANGLES[0]).case(), spec(ANGLES[3]).case());
    for backend in Backend::all() {
        let refused = |case: &RotationCase, change: &dyn Fn(&mut RotationCase)| {
            let mut case = case.clone();
            change(&mut case);
            names(run(&backend, &case, Views::Contiguous))
        };
        for bad in [0.5, 0.0, -1e4, f64::NAN, f64::INFINITY] {
            assert_eq!(refused(&theta, &|case| case.problem.angles = RopeAngles::Theta(bad)), "theta");
        }
        let positions = |max_positions| {
            move |case: &mut RotationCase| {
                case.problem.angles = RopeAngles::Table { max_positions };
            }
        };
        assert_eq!(refused(&table, &positions(0)), "max_positions");
        assert_eq!(refused(&table, &positions(1 << 31)), "max_positions");
        assert_eq!(refused(&table, &positions(39)), "cos_sin");
        assert_eq!(refused(&theta, &positions(40)), "cos_sin");
        assert_eq!(refused(&table, &|case| case.problem.angles = ANGLES[0]), "cos_sin");
        // Without outputs, so that sizes are refused for what they are.
        let empty = Spec { h_q: 0, ..Spec::default() }.case();
        assert_eq!(refused(&empty, &|case| case.problem.batch = usize::MAX), "batch");
        assert_eq!(refused(&empty, &|case| case.problem.s_q = 1 << 31), "s_q");
        assert_eq!(refused(&empty, &|case| case.problem.h_q = 1 << 31), "h_q");
        assert_eq!(refused(&empty, &|case| case.problem.head_dim_v = 576), "head_dim_v");
        if backend.is_gpu() {
            assert_eq!(names(run(&backend, &table, Views::Unaligned)), "out");
            let many = |case: &mut RotationCase| {
                (case.problem.batch, case.problem.s_q, case.problem.h_q) = (2, 1 << 30, 1);
            };
            assert_eq!(refused(&empty, &many), "batch · s_q · h_q");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_rotations(
        (batch, s_q, h_q) in (0_usize..=4, 0_usize..=3, 0_usize..=20),
        format in prop::sample::select(FORMATS.to_vec()),
        angles in prop::sample::select(ANGLES.to_vec()),
        seed in any::<u64>(),
    ) {
        check_everywhere(&Spec { batch, s_q, h_q, format, angles, seed }.case());
    }
}
