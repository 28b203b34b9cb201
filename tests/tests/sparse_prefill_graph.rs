//! A sparse prefill captured once in a CUDA graph computes whatever its tensors hold when the graph is launched: over bf16
//! keys, and over FP8 caches.
//!
//! One test in this file, as a capture must have the process's stream to itself. Without a GPU, the emulated one enqueues
//! the same work anew each time.

use half::bf16;
use oximla::case_file::{Expected, SparsePrefillCase, SparsePrefillFp8Case};
use oximla::{
    SparsePrefillFp8Inputs, SparsePrefillFp8Plan, SparsePrefillInputs, SparsePrefillOutputs,
    SparsePrefillPlan, Workspace,
};
use oximla_conformance::backend::{Backend, Buffer};
use oximla_conformance::sparse_decode::{self, ScopeSpec, ScopeTensors, Settings};
use oximla_conformance::strided::{Input, Output, Views};
use oximla_conformance::tolerance::{Answer, SPARSE_PREFILL};
use oximla_conformance::{sparse_prefill, sparse_prefill_fp8};
use oximla_reference::Fp8Format;

const VIEWS: Views = Views::Padded;

/// A planned prefill with its inputs, which stay where they are.
trait Prefill {
    type Case;

    fn new(backend: &Backend, case: &Self::Case) -> Self;

    /// Another case of the same shape in place of this one; keys and sinks stay.
    fn change(&mut self, case: &Self::Case);

    fn workspace_bytes(&self) -> usize;

    /// What `enqueue` is given puts the prefill on the backend's stream. It touches no buffer but through the plan, so that
    /// nothing else gets into a capture.
    fn prepared<R>(
        &self,
        backend: &Backend,
        outputs: &mut Outputs,
        enqueue: impl FnOnce(&mut dyn FnMut()) -> R,
    ) -> R;

    fn answer(case: &Self::Case) -> Answer;
}

struct Outputs {
    out: Output<bf16, 3>,
    lse: Output<f32, 2>,
    max_logits: Output<f32, 2>,
    workspace: Buffer<f32>,
}

impl Outputs {
    fn views(&mut self) -> (SparsePrefillOutputs<'_>, Workspace<'_>) {
        let Self { out, lse, max_logits, workspace } = self;
        let outputs =
            SparsePrefillOutputs { out: out.view(), lse: lse.view(), max_logits: max_logits.view() };
        (outputs, workspace.as_workspace())
    }

    fn reset(&mut self) {
        self.out.reset();
        self.lse.reset();
        self.max_logits.reset();
    }

    fn read(&self) -> Expected {
        let out = self.out.read("out").into_iter().map(bf16::to_f32).collect();
        Expected { out, lse: self.lse.read("lse"), max_logits: self.max_logits.read("max_logits") }
    }
}

struct OverKeys {
    plan: SparsePrefillPlan,
    q: Input<bf16, 3>,
    kv: Input<bf16, 3>,
    indices: Input<i32, 3>,
    topk_length: Input<i32, 1>,
    attn_sink: Input<f32, 1>,
}

impl Prefill for OverKeys {
    type Case = SparsePrefillCase;

    fn new(backend: &Backend, case: &SparsePrefillCase) -> Self {
        let p = &case.problem;
        let lengths = case.topk_length.as_ref().expect("lengths");
        let sinks = case.attn_sink.as_ref().expect("sinks");
        Self {
            plan: SparsePrefillPlan::new(p, &backend.device).expect("a plan"),
            q: Input::new(backend, &case.q, [p.s_q, p.h_q, p.head_dim], VIEWS),
            kv: Input::new(backend, &case.kv, [p.s_kv, 1, p.head_dim], VIEWS),
            indices: Input::new(backend, &case.indices, [p.s_q, 1, p.topk], VIEWS),
            topk_length: Input::new(backend, lengths, [p.s_q], VIEWS),
            attn_sink: Input::new(backend, sinks, [p.h_q], VIEWS),
        }
    }

    fn change(&mut self, case: &SparsePrefillCase) {
        assert_eq!(case.problem, *self.plan.problem());
        self.q.write(&case.q);
        self.indices.write(&case.indices);
        self.topk_length.write(case.topk_length.as_ref().expect("lengths"));
    }

    fn workspace_bytes(&self) -> usize {
        self.plan.workspace_bytes()
    }

    fn prepared<R>(
        &self,
        backend: &Backend,
        outputs: &mut Outputs,
        enqueue: impl FnOnce(&mut dyn FnMut()) -> R,
    ) -> R {
        let inputs = SparsePrefillInputs {
            q: self.q.view(),
            kv: self.kv.view(),
            indices: self.indices.view(),
            topk_length: Some(self.topk_length.view()),
            attn_sink: Some(self.attn_sink.view()),
        };
        let (stream, (mut outputs, mut workspace)) = (backend.stream(), outputs.views());
        enqueue(&mut || self.plan.run(&stream, &inputs, &mut outputs, &mut workspace).expect("a run"))
    }

    fn answer(case: &SparsePrefillCase) -> Answer {
        sparse_prefill::answer(case)
    }
}

struct OverFp8 {
    plan: SparsePrefillFp8Plan,
    q: Input<bf16, 3>,
    scope: ScopeTensors,
    attn_sink: Input<f32, 1>,
}

impl Prefill for OverFp8 {
    type Case = SparsePrefillFp8Case;

    fn new(backend: &Backend, case: &SparsePrefillFp8Case) -> Self {
        let p = &case.problem;
        let decode = sparse_prefill_fp8::as_decode(case).problem;
        let settings = Settings { views: VIEWS, ..Settings::default() };
        let sinks = case.attn_sink.as_ref().expect("sinks");
        Self {
            plan: SparsePrefillFp8Plan::new(p, &backend.device).expect("a plan"),
            q: Input::new(backend, &case.q, [p.s_q, p.h_q, p.format.head_dim() as usize], VIEWS),
            scope: ScopeTensors::new(backend, &decode, &case.scope, settings),
            attn_sink: Input::new(backend, sinks, [p.h_q], VIEWS),
        }
    }

    fn change(&mut self, case: &SparsePrefillFp8Case) {
        assert_eq!(case.problem, *self.plan.problem());
        self.q.write(&case.q);
        self.scope.change_lists(&case.scope);
    }

    fn workspace_bytes(&self) -> usize {
        self.plan.workspace_bytes()
    }

    fn prepared<R>(
        &self,
        backend: &Backend,
        outputs: &mut Outputs,
        enqueue: impl FnOnce(&mut dyn FnMut()) -> R,
    ) -> R {
        let inputs = SparsePrefillFp8Inputs {
            q: self.q.view(),
            scope: self.scope.view(),
            extra: None,
            attn_sink: Some(self.attn_sink.view()),
            inverse_rope: None,
        };
        let (stream, (mut outputs, mut workspace)) = (backend.stream(), outputs.views());
        enqueue(&mut || self.plan.run(&stream, &inputs, &mut outputs, &mut workspace).expect("a run"))
    }

    fn answer(case: &SparsePrefillFp8Case) -> Answer {
        sparse_prefill_fp8::answer(case)
    }
}

/// Captures the first case, whose outputs have this shape, and launches it with the others' contents.
fn follow<P: Prefill>(cases: &[P::Case; 4], shape: [usize; 3]) {
    let [s_q, h_q, _] = shape;
    let first = &cases[0];
    for backend in Backend::gpus() {
        let check = |outputs: &Outputs, case| {
            SPARSE_PREFILL
                .check(&outputs.read(), &P::answer(case))
                .unwrap_or_else(|why| panic!("{}: {why}", backend.name()));
        };
        let mut prefill = P::new(&backend, first);
        let mut outputs = Outputs {
            out: Output::new(&backend, shape, VIEWS),
            lse: Output::new(&backend, [s_q, h_q], VIEWS),
            max_logits: Output::new(&backend, [s_q, h_q], VIEWS),
            workspace: backend.workspace(prefill.workspace_bytes()),
        };
        // Once as it is: the driver may load kernels at their first launch, which is no part of a graph.
        prefill.prepared(&backend, &mut outputs, |enqueue| enqueue());
        check(&outputs, first);

        outputs.reset();
        let graph = prefill.prepared(&backend, &mut outputs, |enqueue| backend.capture(enqueue));
        assert!(outputs.out.is_untouched(), "a capture only records");
        for case in &cases[1..] {
            prefill.change(case);
            outputs.reset();
            match &graph {
                Some(graph) => graph.launch().expect("a launch"),
                None => prefill.prepared(&backend, &mut outputs, |enqueue| enqueue()),
            }
            check(&outputs, case);
        }
    }
}

/// Which query tokens each case has, of the first one's, in which order: all short, one long, two long.
const ORDERS: [[usize; 4]; 4] = [[0, 1, 2, 3], [1, 3, 2, 1], [3, 0, 1, 2], [0, 2, 0, 3]];
const LENGTHS: [usize; 4] = [320, 0, 130, 64];

/// The case with these of its query tokens, over the same keys.
fn select(case: &SparsePrefillCase, queries: &[usize]) -> SparsePrefillCase {
    fn take<T: Copy>(values: &[T], queries: &[usize]) -> Vec<T> {
        let len = values.len() / queries.len();
        queries.iter().flat_map(|query| values[query * len..][..len].iter().copied()).collect()
    }
    SparsePrefillCase {
        q: take(&case.q, queries),
        indices: take(&case.indices, queries),
        topk_length: case.topk_length.as_ref().map(|lengths| take(lengths, queries)),
        ..case.clone()
    }
}

#[test]
fn a_captured_prefill_follows_its_tensors() {
    let (s_q, h_q, topk) = (LENGTHS.len(), 5, LENGTHS[0]);
    for head_dim in [512, 576] {
        let topk_length = Some(LENGTHS.to_vec());
        let spec =
            sparse_prefill::Spec { s_q, h_q, head_dim, topk, topk_length, sinks: true, ..Default::default() };
        let first = spec.case();
        follow::<OverKeys>(&ORDERS.map(|queries| select(&first, &queries)), [s_q, h_q, 512]);
    }
    for format in [Fp8Format::V32, Fp8Format::Model1] {
        let scope = ScopeSpec { topk, topk_length: Some(LENGTHS.to_vec()), ..ScopeSpec::default() };
        let spec = sparse_decode::Spec { batch: s_q, h_q, format, scope, sinks: true, ..Default::default() };
        let first = spec.case();
        let case =
            |queries: [usize; 4]| sparse_prefill_fp8::of_decode(sparse_decode::select(&first, &queries));
        follow::<OverFp8>(&ORDERS.map(case), [s_q, h_q, sparse_decode::HEAD_DIM_V]);
    }
}
