//! One example of each rule that arguments must keep, with the name that its error gives.

use oximla::{KvFormat, RopeAngles};

use crate::argument::{Flaw, Stride};
use crate::argument_of;
use crate::dense_decode::{self, Tensor as Dense, Wrong as DenseWrong};
use crate::sparse_decode::{self, Tensor as Sparse, Wrong as SparseWrong};
use crate::sparse_prefill::{self, Tensor as Prefill, Wrong as PrefillWrong};

const WRONG_SIZE: Flaw = Flaw::Size { dim: 0, choice: 2 };
const NO_ELEMENTS: Flaw = Flaw::Size { dim: 0, choice: 0 };
const GAPS_INSIDE_ROWS: Flaw = Flaw::Stride { dim: usize::MAX, to: Stride::Doubled };
const NEGATIVE: Flaw = Flaw::Stride { dim: 0, to: Stride::Negated };
const ENDLESS: Flaw = Flaw::Stride { dim: 0, to: Stride::Max };
const OVERLAP: Flaw = Flaw::Stride { dim: 0, to: Stride::OneLess };
const TOKENS_APART: Flaw = Flaw::Stride { dim: 1, to: Stride::Doubled };
const BROADCAST: Flaw = Flaw::Stride { dim: 0, to: Stride::Zero };

/// What is wrong with a tensor and how its name goes on in the error.
const OF_INPUTS: [(Flaw, &str); 7] = [
    (WRONG_SIZE, ""),
    (NO_ELEMENTS, ""),
    (Flaw::Misaligned, ""),
    (Flaw::OtherMemory, ""),
    (GAPS_INSIDE_ROWS, " strides"),
    (NEGATIVE, " strides"),
    (ENDLESS, " strides"),
];
const OF_BYTES: [(Flaw, &str); 6] = [
    (WRONG_SIZE, ""),
    (Flaw::OtherMemory, ""),
    (GAPS_INSIDE_ROWS, " strides"),
    (NEGATIVE, " strides"),
    (OVERLAP, " strides"),
    (TOKENS_APART, " strides"),
];
const OF_VECTORS: [(Flaw, &str); 5] = [
    (WRONG_SIZE, ""),
    (Flaw::Misaligned, ""),
    (Flaw::OtherMemory, ""),
    (NEGATIVE, " strides"),
    (ENDLESS, " strides"),
];
const OF_OUTPUTS: [(Flaw, &str); 9] = [
    (WRONG_SIZE, ""),
    (NO_ELEMENTS, ""),
    (Flaw::Misaligned, ""),
    (Flaw::OtherMemory, ""),
    (GAPS_INSIDE_ROWS, " strides"),
    (NEGATIVE, " strides"),
    (ENDLESS, " strides"),
    (OVERLAP, " strides"),
    (BROADCAST, " strides"),
];

#[test]
fn dense_decode() {
    type Change = fn(&mut oximla::DenseDecode);
    let problems: [(Change, &str); 16] = [
        (|p| p.batch = 0, "batch"),
        (|p| p.s_q = 0, "s_q"),
        (|p| p.h_kv = 0, "h_kv"),
        (|p| p.h_q = 0, "h_q"),
        (|p| p.h_q = 1 << 31, "h_q"),
        (|p| (p.h_q, p.h_kv) = (3, 2), "h_q"),
        (|p| p.head_dim = 575, "head_dim"),
        (|p| p.head_dim_v = 511, "head_dim_v"),
        (|p| p.page_size = 0, "page_size"),
        (|p| p.num_pages = 0, "num_pages"),
        (|p| p.max_pages = 0, "max_pages"),
        (|p| p.softmax_scale = f32::NAN, "softmax_scale"),
        (|p| p.softmax_scale = f32::INFINITY, "softmax_scale"),
        (|p| (p.batch, p.s_q) = (i32::MAX as usize, i32::MAX as usize), "q"),
        (|p| (p.num_pages, p.page_size) = (i32::MAX as usize, i32::MAX as usize), "kv_cache"),
        (|p| (p.max_pages, p.page_size) = (1 << 16, 1 << 15), "max_pages · page_size"),
    ];
    for (change, argument) in problems {
        let mut call = dense_decode::Call::new(dense_decode::base());
        change(&mut call.case.problem);
        assert_eq!(argument_of(&call.run().unwrap_err()), argument);
    }

    let mut rules = vec![
        (DenseWrong::Format(KvFormat::V32Fp8), "kv_format".to_string()),
        (DenseWrong::Format(KvFormat::Fp16), "q".into()),
        (DenseWrong::Length { request: 1, length: -1 }, "cache_seqlens[1]".into()),
        (DenseWrong::Length { request: 0, length: 11 }, "cache_seqlens[0]".into()),
        (DenseWrong::Page { request: 1, entry: 1, page: -1 }, "block_table[1][1]".into()),
        (DenseWrong::Page { request: 0, entry: 2, page: i32::MAX }, "block_table[0][2]".into()),
    ];
    let mut tensor = |tensor: Dense, flaws: &[(Flaw, &str)]| {
        let rule = |&(flaw, rest): &_| (DenseWrong::Tensor(tensor, flaw), format!("{}{rest}", tensor.name()));
        rules.extend(flaws.iter().map(rule));
    };
    tensor(Dense::Q, &OF_INPUTS);
    tensor(Dense::KvCache, &OF_INPUTS);
    tensor(Dense::BlockTable, &OF_INPUTS);
    tensor(Dense::CacheSeqlens, &OF_VECTORS);
    tensor(Dense::Out, &OF_OUTPUTS);
    tensor(Dense::Lse, &OF_OUTPUTS);
    for (wrong, argument) in rules {
        let mut call = dense_decode::Call::new(dense_decode::base());
        call.spoil_contents(wrong);
        call.spoil(wrong);
        let error = call.run().expect_err(&argument);
        assert_eq!(argument_of(&error), argument, "{wrong:?}: {error}");
    }
}

#[test]
fn sparse_decode() {
    type Change = fn(&mut oximla::SparseDecode);
    let problems: [(Change, &str); 12] = [
        (|p| p.batch = 0, "batch"),
        (|p| p.s_q = 0, "s_q"),
        (|p| p.h_q = 0, "h_q"),
        (|p| p.format = KvFormat::Bf16, "format"),
        (|p| p.softmax_scale = f32::NAN, "softmax_scale"),
        (|p| p.scope.num_pages = 0, "scope.num_pages"),
        (|p| p.scope.page_size = 0, "scope.page_size"),
        (|p| p.scope.topk = 0, "scope.topk"),
        (|p| p.extra.as_mut().expect("two scopes").topk = 1 << 31, "extra.topk"),
        (|p| (p.batch, p.s_q) = (i32::MAX as usize, i32::MAX as usize), "q"),
        (
            |p| (p.scope.num_pages, p.scope.page_size) = (i32::MAX as usize, i32::MAX as usize),
            "scope.kv_cache",
        ),
        (|p| p.extra = None, "extra"),
    ];
    for (change, argument) in problems {
        let mut call = sparse_decode::Call::new(sparse_decode::base());
        change(&mut call.case.problem);
        assert_eq!(argument_of(&call.run().unwrap_err()), argument);
    }

    let mut rules = vec![
        (SparseWrong::ExtraMismatch { given: true }, "extra".to_string()),
        (SparseWrong::ExtraMismatch { given: false }, "extra".into()),
        (SparseWrong::Format(KvFormat::V32Fp8), "inverse_rope".into()),
        (SparseWrong::Angles(None), "inverse_rope".into()),
        (SparseWrong::Angles(Some(RopeAngles::Theta(0.0))), "inverse_rope.theta".into()),
        (SparseWrong::Angles(Some(RopeAngles::Theta(1e4))), "inverse_rope.cos_sin".into()),
        (
            SparseWrong::Angles(Some(RopeAngles::Table { max_positions: 0 })),
            "inverse_rope.max_positions".into(),
        ),
        (SparseWrong::Length { extra: false, request: 1, length: -1 }, "scope.topk_length[1]".into()),
        (SparseWrong::Length { extra: true, request: 0, length: 5 }, "extra.topk_length[0]".into()),
    ];
    let mut tensor = |tensor: Sparse, flaws: &[(Flaw, &str)]| {
        let rule =
            |&(flaw, rest): &_| (SparseWrong::Tensor(tensor, flaw), format!("{}{rest}", tensor.name()));
        rules.extend(flaws.iter().map(rule));
    };
    tensor(Sparse::Q, &OF_INPUTS);
    tensor(Sparse::AttnSink, &OF_VECTORS);
    tensor(Sparse::Positions, &OF_INPUTS);
    tensor(Sparse::CosSin, &OF_INPUTS);
    tensor(Sparse::Out, &OF_OUTPUTS);
    tensor(Sparse::Lse, &OF_OUTPUTS);
    for extra in [false, true] {
        tensor(Sparse::KvCache { extra }, &OF_BYTES);
        tensor(Sparse::Indices { extra }, &OF_INPUTS);
        tensor(Sparse::TopkLength { extra }, &OF_VECTORS);
    }
    for (wrong, argument) in rules {
        let mut call = sparse_decode::Call::new(sparse_decode::base());
        call.spoil_contents(wrong);
        call.spoil(wrong);
        let error = call.run().expect_err(&argument);
        assert_eq!(argument_of(&error), argument, "{wrong:?}: {error}");
    }
}

#[test]
fn sparse_prefill() {
    type Change = fn(&mut oximla::SparsePrefill);
    let problems: [(Change, &str); 9] = [
        (|p| p.s_q = 0, "s_q"),
        (|p| p.h_q = 0, "h_q"),
        (|p| p.head_dim = 575, "head_dim"),
        (|p| p.head_dim_v = 511, "head_dim_v"),
        (|p| p.s_kv = 0, "s_kv"),
        (|p| p.topk = 1 << 31, "topk"),
        (|p| p.softmax_scale = f32::NEG_INFINITY, "softmax_scale"),
        (|p| (p.s_q, p.h_q) = (i32::MAX as usize, i32::MAX as usize), "q"),
        (|p| (p.s_q, p.topk) = (i32::MAX as usize, i32::MAX as usize), "indices"),
    ];
    for (change, argument) in problems {
        let mut call = sparse_prefill::Call::new(sparse_prefill::base());
        change(&mut call.case.problem);
        assert_eq!(argument_of(&call.run().unwrap_err()), argument);
    }

    let mut rules = vec![
        (PrefillWrong::Length { query: 2, length: -1 }, "topk_length[2]".to_string()),
        (PrefillWrong::Length { query: 0, length: 5 }, "topk_length[0]".into()),
    ];
    let mut tensor = |tensor: Prefill, flaws: &[(Flaw, &str)]| {
        let rule =
            |&(flaw, rest): &_| (PrefillWrong::Tensor(tensor, flaw), format!("{}{rest}", tensor.name()));
        rules.extend(flaws.iter().map(rule));
    };
    tensor(Prefill::Q, &OF_INPUTS);
    tensor(Prefill::Kv, &OF_INPUTS);
    tensor(Prefill::Indices, &OF_INPUTS);
    tensor(Prefill::TopkLength, &OF_VECTORS);
    tensor(Prefill::AttnSink, &OF_VECTORS);
    tensor(Prefill::Out, &OF_OUTPUTS);
    tensor(Prefill::Lse, &OF_OUTPUTS);
    tensor(Prefill::MaxLogits, &OF_OUTPUTS);
    for (wrong, argument) in rules {
        let mut call = sparse_prefill::Call::new(sparse_prefill::base());
        call.spoil_contents(wrong);
        call.spoil(wrong);
        let error = call.run().expect_err(&argument);
        assert_eq!(argument_of(&error), argument, "{wrong:?}: {error}");
    }
}
