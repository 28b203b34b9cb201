//! Cases put together by hand whose parts contradict each other.

use half::{bf16, f16};
use oximla::case_file::{Case, DenseDecodeCase, Expected, HalfVec, SparseDecodeCase, SparsePrefillCase};
use oximla_conformance::backend::Backend;
use oximla_conformance::dense_decode::Spec;
use oximla_conformance::tolerance::{DENSE_DECODE, SPARSE_DECODE, SPARSE_PREFILL};
use oximla_conformance::{dense_decode, sparse_decode, sparse_prefill};
use proptest::prelude::*;

use crate::{argument_of, config, wrong_size};

/// One change to a case: some vector gets another length, or some size another value.
#[derive(Clone, Copy, Debug)]
enum Change {
    Length { which: usize, choice: usize },
    Size { which: usize, choice: usize },
    OtherType,
}

/// Far more than any vector here needs.
const MAX_LENGTH: usize = 1 << 20;

fn resize<T: Clone + Default>(values: &mut Vec<T>, choice: usize) {
    values.resize(wrong_size(values.len(), choice).min(MAX_LENGTH), T::default());
}

fn resize_half(values: &mut HalfVec, choice: usize) {
    match values {
        HalfVec::Bf16(values) => resize(values, choice),
        HalfVec::Fp16(values) => resize(values, choice),
    }
}

fn replace_size(sizes: &mut [&mut usize], which: usize, choice: usize) {
    let count = sizes.len();
    let size = &mut sizes[which % count];
    **size = wrong_size(**size, choice);
}

fn change_dense(case: &mut DenseDecodeCase, change: Change) {
    match change {
        Change::Length { which, choice } => match which % 4 {
            0 => resize_half(&mut case.q, choice),
            1 => resize_half(&mut case.kv_cache, choice),
            2 => resize(&mut case.block_table, choice),
            _ => resize(&mut case.cache_seqlens, choice),
        },
        Change::Size { which, choice } => {
            let p = &mut case.problem;
            let mut sizes = [
                &mut p.batch,
                &mut p.s_q,
                &mut p.h_q,
                &mut p.h_kv,
                &mut p.head_dim,
                &mut p.head_dim_v,
                &mut p.page_size,
                &mut p.num_pages,
                &mut p.max_pages,
            ];
            replace_size(&mut sizes, which, choice);
        }
        Change::OtherType => {
            if let HalfVec::Bf16(q) = &case.q {
                case.q = HalfVec::Fp16(q.iter().map(|x| f16::from_f32(x.to_f32())).collect());
            }
        }
    }
}

fn change_sparse(case: &mut SparseDecodeCase, change: Change) {
    let extra = case.extra.as_mut().expect("the base has two scopes");
    match change {
        Change::Length { which, choice } => match which % 8 {
            0 => resize(&mut case.q, choice),
            1 => resize(&mut case.scope.kv_cache, choice),
            2 => resize(&mut case.scope.indices, choice),
            3 => resize(case.scope.topk_length.as_mut().expect("lengths"), choice),
            4 => resize(&mut extra.kv_cache, choice),
            5 => resize(&mut extra.indices, choice),
            6 => resize(extra.topk_length.as_mut().expect("lengths"), choice),
            _ => resize(case.attn_sink.as_mut().expect("sinks"), choice),
        },
        Change::Size { which, choice } => {
            let p = &mut case.problem;
            let of_problem = p.extra.as_mut().expect("the base has two scopes");
            let mut sizes = [
                &mut p.batch,
                &mut p.s_q,
                &mut p.h_q,
                &mut p.scope.num_pages,
                &mut p.scope.page_size,
                &mut p.scope.topk,
                &mut of_problem.topk,
                &mut case.scope.shape.page_size,
                &mut case.scope.shape.topk,
                &mut extra.shape.num_pages,
            ];
            replace_size(&mut sizes, which, choice);
        }
        Change::OtherType => case.extra = None,
    }
}

fn change_prefill(case: &mut SparsePrefillCase, change: Change) {
    match change {
        Change::Length { which, choice } => match which % 5 {
            0 => resize(&mut case.q, choice),
            1 => resize(&mut case.kv, choice),
            2 => resize(&mut case.indices, choice),
            3 => resize(case.topk_length.as_mut().expect("lengths"), choice),
            _ => resize(case.attn_sink.as_mut().expect("sinks"), choice),
        },
        Change::Size { which, choice } => {
            let p = &mut case.problem;
            let mut sizes =
                [&mut p.s_q, &mut p.h_q, &mut p.head_dim, &mut p.head_dim_v, &mut p.s_kv, &mut p.topk];
            replace_size(&mut sizes, which, choice);
        }
        Change::OtherType => case.attn_sink = None,
    }
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0_usize..8, 0_usize..8).prop_map(|(which, choice)| Change::Length { which, choice }),
        4 => (0_usize..10, 0_usize..8).prop_map(|(which, choice)| Change::Size { which, choice }),
        1 => Just(Change::OtherType),
    ]
}

proptest! {
    #![proptest_config(config(400))]
    #[test]
    fn dense_decodes(change in changes()) {
        let mut case = crate::dense_decode::base();
        change_dense(&mut case, change);
        if let Ok(actual) = Case::DenseDecode(case.clone()).run(&Backend::cpu().device) {
            DENSE_DECODE.check(&actual, &dense_decode::answer(&case))?;
        }
    }

    #[test]
    fn sparse_decodes(change in changes()) {
        let mut case = crate::sparse_decode::base();
        change_sparse(&mut case, change);
        if let Ok(actual) = Case::SparseDecode(case.clone()).run(&Backend::cpu().device) {
            SPARSE_DECODE.check(&actual, &sparse_decode::answer(&case))?;
        }
    }

    #[test]
    fn sparse_prefills(change in changes()) {
        let mut case = crate::sparse_prefill::base();
        change_prefill(&mut case, change);
        if let Ok(actual) = Case::SparsePrefill(case.clone()).run(&Backend::cpu().device) {
            SPARSE_PREFILL.check(&actual, &sparse_prefill::answer(&case))?;
        }
    }
}

proptest! {
    #![proptest_config(config(40))]
    #[test]
    fn dense_decodes_on_the_emulator(change in changes()) {
        let mut case = for_gpus();
        change_dense(&mut case, change);
        if let Ok(actual) = Case::DenseDecode(case.clone()).run(&Backend::emulated().device) {
            DENSE_DECODE.check(&actual, &dense_decode::answer(&case))?;
        }
    }

    #[test]
    fn sparse_decodes_on_the_emulator(change in changes()) {
        let mut case = crate::sparse_decode::base();
        change_sparse(&mut case, change);
        if let Ok(actual) = Case::SparseDecode(case.clone()).run(&Backend::emulated().device) {
            SPARSE_DECODE.check(&actual, &sparse_decode::answer(&case))?;
        }
    }
}

/// A dense decode with the page size of the GPU kernels.
fn for_gpus() -> DenseDecodeCase {
    Spec { lengths: vec![5, 3], ..Spec::default() }.case()
}

#[test]
fn short_vectors_are_named() {
    fn refused(case: Case, on: &Backend) -> String {
        argument_of(&case.run(&on.device).unwrap_err()).to_string()
    }
    let cpu = Backend::cpu();
    for (dense, backend) in [(crate::dense_decode::base(), &cpu), (for_gpus(), &Backend::emulated())] {
        let q = HalfVec::Bf16(vec![bf16::ZERO; 3]);
        assert_eq!(refused(Case::DenseDecode(DenseDecodeCase { q, ..dense.clone() }), backend), "q");
        let short = Case::DenseDecode(DenseDecodeCase { cache_seqlens: vec![1], ..dense });
        assert_eq!(refused(short, backend), "cache_seqlens");
    }
    for backend in [&cpu, &Backend::emulated()] {
        let sparse = crate::sparse_decode::base();
        let q = vec![bf16::ZERO; 3];
        assert_eq!(refused(Case::SparseDecode(SparseDecodeCase { q, ..sparse.clone() }), backend), "q");
        let short = Case::SparseDecode(SparseDecodeCase { attn_sink: Some(vec![1.0]), ..sparse });
        assert_eq!(refused(short, backend), "attn_sink");
    }
    let prefill = crate::sparse_prefill::base();
    let indices = Vec::new();
    assert_eq!(refused(Case::SparsePrefill(SparsePrefillCase { indices, ..prefill }), &cpu), "indices");
}

/// An answer of the wrong size is refused before a file is made.
#[test]
fn wrong_answers_are_not_written() {
    let path = std::env::temp_dir().join(format!("oximla-wrong-answer-{}.safetensors", std::process::id()));
    let answer = Expected { out: vec![0.0], lse: Vec::new(), max_logits: Vec::new() };
    let error = Case::DenseDecode(crate::dense_decode::base()).write(&path, &answer).unwrap_err();
    assert_eq!(argument_of(&error), "out");
    assert!(!path.exists());
}
