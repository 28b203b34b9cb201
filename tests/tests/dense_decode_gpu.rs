//! What holds for dense decode on a GPU only, real or emulated: its memory cannot be looked at before a run.

use half::bf16;
use oximla::case_file::HalfVec;
use oximla::{Determinism, Error, InvalidProblem};
use oximla_conformance::backend::Backend;
use oximla_conformance::dense_decode::{Settings, Spec, answer, run, run_with};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::DENSE_DECODE;

fn spec() -> Spec {
    Spec { s_q: 2, lengths: vec![500, 70, 200], causal: true, ..Spec::default() }
}

fn assert_names(result: Result<impl Sized, Error>, name: &str) {
    match result.map(drop) {
        Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => assert_eq!(argument, name),
        other => panic!("{other:?} does not name {name}"),
    }
}

#[test]
fn pages_outside_the_cache_count_as_absent() {
    for gpu in Backend::gpus() {
        let mut case = spec().case();
        let num_pages = i32::try_from(case.problem.num_pages).expect("a small cache");
        let max_pages = case.problem.max_pages;
        for (entry, page) in [(0, -1), (2, num_pages), (5, i32::MIN), (max_pages, i32::MAX)] {
            case.block_table[entry] = page;
        }
        // All pages of the last request.
        case.block_table[2 * max_pages..].fill(num_pages + 1);
        let actual = run(&gpu, &case, Views::Contiguous).expect("contents that the GPU cannot look at");
        DENSE_DECODE.check(&actual, &answer(&case)).unwrap();
    }
}

#[test]
fn lengths_are_clamped_to_the_page_table() {
    for gpu in Backend::gpus() {
        let mut case = spec().case();
        case.cache_seqlens.copy_from_slice(&[i32::MAX, -1, i32::MIN]);
        let actual = run(&gpu, &case, Views::Contiguous).expect("contents that the GPU cannot look at");
        let mut expected = answer(&case);
        // The first request now sees the NaN behind its last key; that it ended at all is what counts.
        let nan_rows = case.problem.s_q * case.problem.h_q;
        assert!(expected.lse[..nan_rows].iter().all(|x| x.is_nan()));
        let (out, lse) = (nan_rows * case.problem.head_dim_v, nan_rows);
        expected.out.drain(..out);
        expected.lse.drain(..lse);
        expected.out_shape[0] -= 1;
        expected.lse_shape[0] -= 1;
        let rest = oximla::case_file::Expected {
            out: actual.out[out..].to_vec(),
            lse: actual.lse[lse..].to_vec(),
            max_logits: Vec::new(),
        };
        DENSE_DECODE.check(&rest, &expected).unwrap();
    }
}

/// Split or not, a NaN shows in all that its query gives, and nowhere else.
#[test]
fn nan_in_a_query_spreads() {
    for gpu in Backend::gpus() {
        let mut case = Spec { lengths: vec![900, 3], h_q: 2, ..Spec::default() }.case();
        let HalfVec::Bf16(q) = &mut case.q else { panic!("the default format") };
        q[7] = bf16::NAN;
        q[2 * case.problem.head_dim + 1] = bf16::NAN;
        let actual = run(&gpu, &case, Views::Contiguous).unwrap();
        let head_dim_v = case.problem.head_dim_v;
        for (row, is_nan) in [true, false, true, false].into_iter().enumerate() {
            assert!(actual.out[row * head_dim_v..][..head_dim_v].iter().all(|x| x.is_nan() == is_nan));
            assert_eq!(actual.lse[row].is_nan(), is_nan, "{}: row {row}", gpu.name());
        }
    }
}

/// Tiles hold whole tokens, or some heads of one: of few and of many heads, that fill tiles and that do not, with tiles in
/// pairs and without. The last key block of some requests is seen by the last token alone.
#[test]
fn tiles_of_any_heads_and_tokens() {
    let shapes =
        [(128, 1, 2), (128, 2, 2), (96, 1, 3), (130, 1, 2), (48, 1, 3), (9, 3, 4), (40, 2, 5), (1, 1, 70)];
    for (h_q, h_kv, s_q) in shapes {
        let lengths = vec![65, 129, 64, 1, 0, 193];
        let case = Spec { h_q, h_kv, s_q, lengths, causal: true, ..Spec::default() }.case();
        let expected = answer(&case);
        for gpu in Backend::gpus() {
            let actual =
                run(&gpu, &case, Views::Padded).unwrap_or_else(|error| panic!("{h_q} {h_kv} {s_q}: {error}"));
            DENSE_DECODE
                .check(&actual, &expected)
                .unwrap_or_else(|error| panic!("{h_q} {h_kv} {s_q}: {error}"));
        }
    }
}

#[test]
fn unaligned_rows_are_refused() {
    for gpu in Backend::gpus() {
        assert_names(run(&gpu, &spec().case(), Views::Unaligned), "q");
    }
}

#[test]
fn a_small_workspace_is_refused() {
    for gpu in Backend::gpus() {
        let case = spec().case();
        for less in [|_| 16, |needed| needed - 4] {
            for determinism in [Determinism::RunToRun, Determinism::BatchInvariant] {
                let settings = Settings { determinism, workspace_bytes: less, ..Settings::default() };
                assert_names(run_with(&gpu, &case, settings), "workspace");
            }
        }
    }
}

#[test]
fn other_page_sizes_are_unsupported() {
    for gpu in Backend::gpus() {
        let case = Spec { page_size: 32, ..spec() }.case();
        let result = run(&gpu, &case, Views::Contiguous);
        assert!(matches!(result, Err(Error::Unsupported { .. })), "{:?}", result.map(drop));
    }
}
