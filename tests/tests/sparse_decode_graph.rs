//! A sparse decode captured once in a CUDA graph computes whatever its tensors hold when the graph is launched.
//!
//! One test in this file, as a capture must have the process's stream to itself. Without a GPU, the emulated one enqueues
//! the same work anew each time.

use half::bf16;
use oximla::case_file::{Expected, ScopeCase, SparseDecodeCase};
use oximla::{SparseDecodeInputs, SparseDecodeOutputs, SparseDecodePlan};
use oximla_conformance::backend::{Backend, Buffer};
use oximla_conformance::sparse_decode::{HEAD_DIM_V, ScopeSpec, ScopeTensors, Settings, Spec, answer};
use oximla_conformance::strided::{Input, Output, Views};
use oximla_conformance::tolerance::SPARSE_DECODE;
use oximla_reference::Fp8Format;

/// A planned decode with its tensors, which stay where they are.
struct Decode<'a> {
    backend: &'a Backend,
    plan: SparseDecodePlan,
    q: Input<bf16, 4>,
    scope: ScopeTensors,
    extra: Option<ScopeTensors>,
    attn_sink: Option<Input<f32, 1>>,
    out: Output<bf16, 4>,
    lse: Output<f32, 3>,
    workspace: Buffer<f32>,
}

impl<'a> Decode<'a> {
    fn new(backend: &'a Backend, case: &SparseDecodeCase) -> Self {
        let p = &case.problem;
        let plan = SparseDecodePlan::new(p, &backend.device).expect("a plan");
        let views = Views::Padded;
        let settings = Settings { views, ..Settings::default() };
        let scope = |scope| ScopeTensors::new(backend, p, scope, settings);
        let head_dim = p.format.head_dim() as usize;
        let sinks = case.attn_sink.as_ref();
        Self {
            backend,
            q: Input::new(backend, &case.q, [p.batch, p.s_q, p.h_q, head_dim], views),
            scope: scope(&case.scope),
            extra: case.extra.as_ref().map(scope),
            attn_sink: sinks.map(|sinks| Input::new(backend, sinks, [p.h_q], Views::Contiguous)),
            out: Output::new(backend, [p.batch, p.s_q, p.h_q, HEAD_DIM_V], views),
            lse: Output::new(backend, [p.batch, p.h_q, p.s_q], views),
            workspace: backend.workspace(plan.workspace_bytes()),
            plan,
        }
    }

    /// Another case of the same shape in place of this one; the caches and the sinks stay.
    fn change(&mut self, case: &SparseDecodeCase) {
        assert_eq!(case.problem, *self.plan.problem());
        self.q.write(&case.q);
        self.scope.change_lists(&case.scope);
        if let (Some(tensors), Some(extra)) = (&mut self.extra, &case.extra) {
            tensors.change_lists(extra);
        }
        self.out.reset();
        self.lse.reset();
    }

    /// What `enqueue` is given puts the decode on the backend's stream. It touches no buffer but through the plan, so
    /// that nothing else gets into a capture.
    fn prepared<R>(&mut self, enqueue: impl FnOnce(&mut dyn FnMut()) -> R) -> R {
        let inputs = SparseDecodeInputs {
            q: self.q.view(),
            scope: self.scope.view(),
            extra: self.extra.as_ref().map(ScopeTensors::view),
            attn_sink: self.attn_sink.as_ref().map(Input::view),
            inverse_rope: None,
        };
        let mut outputs = SparseDecodeOutputs { out: self.out.view(), lse: self.lse.view() };
        let mut workspace = self.workspace.as_workspace();
        let (plan, stream) = (&self.plan, self.backend.stream());
        enqueue(&mut || plan.run(&stream, &inputs, &mut outputs, &mut workspace).expect("a run"))
    }

    fn check(&self, case: &SparseDecodeCase) {
        let out = self.out.read("out").into_iter().map(bf16::to_f32).collect();
        let actual = Expected { out, lse: self.lse.read("lse"), max_logits: Vec::new() };
        if let Err(why) = SPARSE_DECODE.check(&actual, &answer(case)) {
            panic!("{}, {:?}: {why}", self.backend.name(), case.scope.topk_length);
        }
    }
}

/// The case with these of its requests, in this order, over the same caches.
fn select(case: &SparseDecodeCase, requests: &[usize]) -> SparseDecodeCase {
    fn take<T: Copy>(values: &[T], batch: usize, requests: &[usize]) -> Vec<T> {
        let of_request = values.len() / batch;
        requests.iter().flat_map(|request| &values[request * of_request..][..of_request]).copied().collect()
    }
    let batch = case.problem.batch;
    assert_eq!(requests.len(), batch);
    let scope = |scope: &ScopeCase| ScopeCase {
        indices: take(&scope.indices, batch, requests),
        topk_length: scope.topk_length.as_ref().map(|lengths| take(lengths, batch, requests)),
        ..scope.clone()
    };
    SparseDecodeCase {
        q: take(&case.q, batch, requests),
        scope: scope(&case.scope),
        extra: case.extra.as_ref().map(scope),
        ..case.clone()
    }
}

#[test]
fn a_captured_decode_follows_its_tensors() {
    let scope = |topk, topk_length| ScopeSpec { topk, num_pages: 20, topk_length, ..ScopeSpec::default() };
    let formats = [Fp8Format::V32, Fp8Format::Model1].into_iter();
    // Of few heads so many that no cluster of an H200 has all splits of one.
    for (format, (h_q, times)) in formats.flat_map(|format| [(16, 3), (64, 1)].map(|size| (format, size))) {
        let first = Spec {
            format,
            batch: 4 * times,
            h_q,
            scope: scope(1024, Some([1024, 0, 130, 64].repeat(times))),
            extra: Some(scope(64, Some([64, 0, 5, 0].repeat(times)))),
            sinks: true,
            ..Spec::default()
        }
        .case();
        // The same requests in other places change queries, lists and lengths: all short, one long, two long.
        let cases = [[1, 3, 2, 1], [3, 0, 1, 2], [0, 2, 0, 3]]
            .map(|requests| select(&first, &requests.repeat(times)));
        for backend in Backend::gpus() {
            let mut decode = Decode::new(&backend, &first);
            // Once as it is: the driver may load kernels at their first launch, which is no part of a graph.
            decode.prepared(|enqueue| enqueue());
            decode.check(&first);

            decode.out.reset();
            let graph = decode.prepared(|enqueue| backend.capture(enqueue));
            assert!(decode.out.is_untouched(), "a capture only records");
            for case in &cases {
                decode.change(case);
                match &graph {
                    Some(graph) => graph.launch().expect("a launch"),
                    None => decode.prepared(|enqueue| enqueue()),
                }
                decode.check(case);
            }
        }
    }
}
