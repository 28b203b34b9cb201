//! Generated sparse prefills over FP8 caches: sparse decodes whose requests have one query token each.

use half::bf16;
use oximla::case_file::{Expected, SparseDecodeCase, SparsePrefillFp8Case};
use oximla::{
    Error, SparseDecode, SparsePrefillFp8, SparsePrefillFp8Inputs, SparsePrefillFp8Plan, SparsePrefillOutputs,
};

use crate::backend::Backend;
use crate::inverse_rope::RopeTensors;
use crate::sparse_decode::{self, HEAD_DIM_V, ScopeTensors, Settings};
use crate::strided::{Input, Output, Views};
use crate::tolerance::Answer;

/// A decode's requests as the query tokens of a prefill.
///
/// # Panics
/// If they have more than one query token each: a query token of a prefill has lengths of its own.
pub fn of_decode(case: SparseDecodeCase) -> SparsePrefillFp8Case {
    let SparseDecode { batch, s_q, h_q, format, scope, extra, softmax_scale, inverse_rope } = case.problem;
    assert_eq!(s_q, 1, "query tokens of a request");
    SparsePrefillFp8Case {
        problem: SparsePrefillFp8 { s_q: batch, h_q, format, scope, extra, softmax_scale, inverse_rope },
        q: case.q,
        scope: case.scope,
        extra: case.extra,
        attn_sink: case.attn_sink,
        inverse_rope: case.inverse_rope,
        expected: None,
    }
}

/// The other way round.
pub fn as_decode(case: &SparsePrefillFp8Case) -> SparseDecodeCase {
    let SparsePrefillFp8 { s_q, h_q, format, scope, extra, softmax_scale, inverse_rope } = case.problem;
    let case = case.clone();
    SparseDecodeCase {
        problem: SparseDecode { batch: s_q, s_q: 1, h_q, format, scope, extra, softmax_scale, inverse_rope },
        q: case.q,
        scope: case.scope,
        extra: case.extra,
        attn_sink: case.attn_sink,
        inverse_rope: case.inverse_rope,
        expected: None,
    }
}

/// The oracle's answer.
pub fn answer(case: &SparsePrefillFp8Case) -> Answer {
    let SparsePrefillFp8 { s_q, h_q, .. } = case.problem;
    let attention = sparse_decode::with_reference(&as_decode(case), |decode| decode.run_as_prefill());
    Answer {
        out: attention.out,
        out_shape: vec![s_q, h_q, HEAD_DIM_V],
        lse: attention.lse,
        max_logits: attention.max_logits,
        lse_shape: vec![s_q, h_q],
    }
}

/// Runs the case on tensors laid out as `views` says.
///
/// # Errors
/// What planning or running says; the outputs were untouched then.
pub fn run(backend: &Backend, case: &SparsePrefillFp8Case, views: Views) -> Result<Expected, Error> {
    let SparsePrefillFp8 { s_q, h_q, format, .. } = case.problem;
    let plan = SparsePrefillFp8Plan::new(&case.problem, &backend.device)?;
    let settings = Settings { views, ..Settings::default() };
    let decode = as_decode(case).problem;
    let tensors = |scope| ScopeTensors::new(backend, &decode, scope, settings);
    let q = Input::new(backend, &case.q, [s_q, h_q, format.head_dim() as usize], views);
    let (scope, extra) = (tensors(&case.scope), case.extra.as_ref().map(tensors));
    let sinks = case.attn_sink.as_ref();
    let attn_sink = sinks.map(|sinks| Input::new(backend, sinks, [h_q], Views::Contiguous));
    let rope = case.inverse_rope.as_ref().map(|rope| RopeTensors::new(backend, rope, [s_q, 1], views));
    let mut out = Output::<bf16, 3>::new(backend, [s_q, h_q, HEAD_DIM_V], views);
    let mut lse = Output::<f32, 2>::new(backend, [s_q, h_q], views);
    let mut max_logits = Output::<f32, 2>::new(backend, [s_q, h_q], views);
    let mut workspace = backend.workspace(plan.workspace_bytes());

    let inputs = SparsePrefillFp8Inputs {
        q: q.view(),
        scope: scope.view(),
        extra: extra.as_ref().map(ScopeTensors::view),
        attn_sink: attn_sink.as_ref().map(Input::view),
        inverse_rope: rope.as_ref().map(RopeTensors::view),
    };
    let mut outputs =
        SparsePrefillOutputs { out: out.view(), lse: lse.view(), max_logits: max_logits.view() };
    if let Err(why) = plan.run(&backend.stream(), &inputs, &mut outputs, &mut workspace.as_workspace()) {
        let untouched = out.is_untouched() && lse.is_untouched() && max_logits.is_untouched();
        assert!(untouched, "outputs touched by a run that failed: {why}");
        return Err(why);
    }
    let out = out.read("out").into_iter().map(bf16::to_f32).collect();
    Ok(Expected { out, lse: lse.read("lse"), max_logits: max_logits.read("max_logits") })
}
