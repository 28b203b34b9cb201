//! What holds for sparse prefill on a GPU only, real or emulated: its memory cannot be looked at before a run.

use half::bf16;
use oximla::case_file::{Expected, SparsePrefillCase};
use oximla::{Error, InvalidProblem, SparsePrefillPlan};
use oximla_conformance::backend::Backend;
use oximla_conformance::sparse_decode::Invalid;
use oximla_conformance::sparse_prefill::{HEAD_DIM_V, Spec, answer, run};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::SPARSE_PREFILL;

const HEAD_DIMS: [usize; 2] = [512, 576];

/// Keys in a block.
const BLOCK: usize = 64;

/// As many query tokens as let a CTA have several.
fn spec(head_dim: usize) -> Spec {
    Spec { s_q: 14, h_q: 66, head_dim, topk: 3 * BLOCK, ..Spec::default() }
}

fn check(gpu: &Backend, case: &SparsePrefillCase) {
    let actual = run(gpu, case, Views::Contiguous).expect("contents that the GPU cannot look at");
    check_answer(gpu, case, &actual);
}

fn check_answer(gpu: &Backend, case: &SparsePrefillCase, actual: &Expected) {
    SPARSE_PREFILL.check(actual, &answer(case)).unwrap_or_else(|why| panic!("{}: {why}", gpu.name()));
}

/// The `[s_q, h_q]` rows of what the GPU gives that are NaN: all of a row must be, or nothing.
fn nan_rows(gpu: &Backend, case: &SparsePrefillCase) -> Vec<usize> {
    let actual = run(gpu, case, Views::Contiguous).expect("a run");
    let rows = 0..case.problem.s_q * case.problem.h_q;
    rows.filter(|row| {
        let is_nan = actual.lse[*row].is_nan();
        assert_eq!(actual.max_logits[*row].is_nan(), is_nan, "row {row}");
        let out = &actual.out[row * HEAD_DIM_V..][..HEAD_DIM_V];
        assert!(out.iter().all(|x| x.is_nan() == is_nan), "row {row}");
        is_nan
    })
    .collect()
}

#[test]
fn unaligned_rows_are_refused() {
    for gpu in Backend::gpus() {
        match run(&gpu, &spec(576).case(), Views::Unaligned).map(drop) {
            Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => assert_eq!(argument, "q"),
            other => panic!("{other:?} does not name q"),
        }
    }
}

#[test]
fn no_workspace_is_needed() {
    for gpu in Backend::gpus() {
        for head_dim in HEAD_DIMS {
            let plan = SparsePrefillPlan::new(&spec(head_dim).case().problem, &gpu.device).expect("a plan");
            assert_eq!(plan.workspace_bytes(), 0);
        }
    }
}

/// The CPU refuses such lengths; a GPU takes 0 or the whole list instead.
#[test]
fn lengths_are_clamped_to_the_lists() {
    for gpu in Backend::gpus() {
        for head_dim in HEAD_DIMS {
            let mut case = spec(head_dim).case();
            let topk = i32::try_from(case.problem.topk).expect("a short list");
            let lengths = [i32::MAX, -1, topk + 1, i32::MIN, 3, 1 << 30, 0];
            case.topk_length = Some(lengths.into_iter().cycle().take(case.problem.s_q).collect());
            check(&gpu, &case);
        }
    }
}

/// Lists of every value that names no key: at the ends of blocks, filling a block, and filling a list.
#[test]
fn indices_outside_the_keys_name_none() {
    for gpu in Backend::gpus() {
        for head_dim in HEAD_DIMS {
            let mut case = Spec { invalid: Invalid::Never, sinks: true, ..spec(head_dim) }.case();
            let (topk, s_kv) = (case.problem.topk, i32::try_from(case.problem.s_kv).expect("few keys"));
            // Some have bytes of valid indices in them, some come back to the keys when multiplied by a key's bytes.
            let outside = [s_kv, i32::MIN, -1, i32::MAX, s_kv + 1, -s_kv, 1 << 30, i32::MIN + 1, 1 << 16];
            let at = [0, BLOCK - 1, topk - 1].into_iter().chain(BLOCK..2 * BLOCK);
            for (entry, index) in at.zip(outside.into_iter().cycle()) {
                case.indices[entry] = index;
            }
            let last_list = case.indices.chunks_mut(topk).next_back().expect("a list");
            for (entry, index) in last_list.iter_mut().zip(outside.into_iter().cycle()) {
                *entry = index;
            }
            check(&gpu, &case);
        }
    }
}

/// The largest scaled score is then that of the smallest product.
#[test]
fn a_negative_scale() {
    for gpu in Backend::gpus() {
        for head_dim in HEAD_DIMS {
            let mut case = Spec { s_q: 2, ..spec(head_dim) }.case();
            case.problem.softmax_scale = -0.03;
            check(&gpu, &case);
        }
    }
}

/// All scores are 0 then, or nearly.
#[test]
fn a_scale_of_zero() {
    for gpu in Backend::gpus() {
        for head_dim in HEAD_DIMS {
            let mut case = Spec { s_q: 2, ..spec(head_dim) }.case();
            case.problem.softmax_scale = 0.0;
            let mut actual = run(&gpu, &case, Views::Contiguous).expect("a run");
            for max_logit in &mut actual.max_logits {
                assert!(max_logit.abs() < f32::EPSILON, "{}: {max_logit}", gpu.name());
                *max_logit = 0.0;
            }
            check_answer(&gpu, &case, &actual);
        }
    }
}

#[test]
fn nan_in_a_query_spreads_over_its_row() {
    for gpu in Backend::gpus() {
        for head_dim in HEAD_DIMS {
            let mut case = spec(head_dim).case();
            let h_q = case.problem.h_q;
            // In the first and the last tile of heads; in query tiles in registers, in shared memory, and in the last one.
            let rows = [0, h_q - 1, 2 * h_q + 5, 13 * h_q + 64];
            for (row, element) in rows.into_iter().zip([7, head_dim - 1, 450, 0]) {
                case.q[row * head_dim + element] = bf16::NAN;
            }
            assert_eq!(nan_rows(&gpu, &case), rows, "{}", gpu.name());
        }
    }
}

/// In the first and the last element of a key that one query token names.
#[test]
fn nan_in_a_selected_key_spreads_to_its_queries() {
    for gpu in Backend::gpus() {
        for head_dim in HEAD_DIMS {
            let mut case = Spec { s_q: 3, ..spec(head_dim) }.case();
            let (topk, h_q) = (case.problem.topk, case.problem.h_q);
            let [key, other] = [case.indices[0], case.indices[1]];
            for index in &mut case.indices {
                *index = if *index == key { other } else { *index };
            }
            case.indices[topk + 2 * BLOCK + 9] = key;
            for element in [0, head_dim - 1] {
                let mut case = case.clone();
                case.kv[key as usize * head_dim + element] = bf16::NAN;
                let queries: Vec<usize> = (h_q..2 * h_q).collect();
                assert_eq!(nan_rows(&gpu, &case), queries, "{}: element {element}", gpu.name());
            }
        }
    }
}
