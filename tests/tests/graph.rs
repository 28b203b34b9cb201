//! A decode captured once in a CUDA graph computes whatever its tensors hold when the graph is launched.
//!
//! One test in this file, as a capture must have the process's stream to itself. Without a GPU, the emulated one enqueues
//! the same work anew each time.

use half::bf16;
use oximla::case_file::{DenseDecodeCase, Expected, HalfVec};
use oximla::{DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Determinism, KvFormat, Workspace};
use oximla_conformance::backend::{Backend, Buffer};
use oximla_conformance::dense_decode::{Spec, answer, select};
use oximla_conformance::strided::{Input, Output, Views};
use oximla_conformance::tolerance::DENSE_DECODE;

/// A planned decode with its tensors, which stay where they are.
struct Decode<'a> {
    backend: &'a Backend,
    plan: DenseDecodePlan,
    q: Input<bf16, 4>,
    kv_cache: Input<bf16, 4>,
    block_table: Input<i32, 2>,
    cache_seqlens: Input<i32, 1>,
    out: Output<bf16, 4>,
    lse: Output<f32, 3>,
    /// Memory of a schedule, where the decode is to have one.
    places: Option<Buffer<f32>>,
    workspace: Buffer<f32>,
}

fn halves(values: &HalfVec) -> &[bf16] {
    match values {
        HalfVec::Bf16(values) => values,
        HalfVec::Fp16(_) => panic!("the cases here are bf16"),
    }
}

impl<'a> Decode<'a> {
    fn new(backend: &'a Backend, case: &DenseDecodeCase, determinism: Determinism, scheduled: bool) -> Self {
        let p = &case.problem;
        let builder = DenseDecodePlan::builder(p, KvFormat::Bf16).determinism(determinism);
        let plan = builder.build(&backend.device).expect("a plan");
        let views = Views::Padded;
        let kv_shape = [p.num_pages, p.page_size, p.h_kv, p.head_dim];
        Self {
            backend,
            q: Input::new(backend, halves(&case.q), [p.batch, p.s_q, p.h_q, p.head_dim], views),
            kv_cache: Input::new(backend, halves(&case.kv_cache), kv_shape, views),
            block_table: Input::new(backend, &case.block_table, [p.batch, p.max_pages], views),
            cache_seqlens: Input::new(backend, &case.cache_seqlens, [p.batch], Views::Contiguous),
            out: Output::new(backend, [p.batch, p.s_q, p.h_q, p.head_dim_v], views),
            lse: Output::new(backend, [p.batch, p.h_q, p.s_q], views),
            places: scheduled.then(|| backend.workspace(plan.schedule_bytes())),
            workspace: backend.workspace(plan.workspace_bytes()),
            plan,
        }
    }

    /// Another case of the same shape in place of this one; the cache stays.
    fn change(&mut self, case: &DenseDecodeCase) {
        assert_eq!(case.problem, *self.plan.problem());
        self.q.write(halves(&case.q));
        self.block_table.write(&case.block_table);
        self.cache_seqlens.write(&case.cache_seqlens);
        self.out.reset();
        self.lse.reset();
    }

    /// What `enqueue` is given puts the decode on the backend's stream. It touches no buffer but through the plan, so
    /// that nothing else gets into a capture.
    fn prepared<R>(&mut self, enqueue: impl FnOnce(&mut dyn FnMut()) -> R) -> R {
        let inputs = DenseDecodeInputs {
            q: self.q.view(),
            kv_cache: self.kv_cache.view(),
            block_table: self.block_table.view(),
            cache_seqlens: self.cache_seqlens.view(),
        };
        let mut outputs = DenseDecodeOutputs { out: self.out.view(), lse: self.lse.view() };
        let mut workspace = self.workspace.as_workspace();
        let (plan, stream) = (&self.plan, self.backend.stream());
        let places = self.places.as_mut().map(|places| (places.address_mut(), plan.schedule_bytes()));
        enqueue(&mut || match places {
            None => plan.run(&stream, &inputs, &mut outputs, &mut workspace).expect("a run"),
            Some((address, bytes)) => {
                // SAFETY: the memory is the decode's, which nothing else uses.
                let memory = unsafe { Workspace::from_raw(address, bytes) };
                let schedule = plan.schedule(&stream, &inputs.cache_seqlens, memory).expect("a schedule");
                let run = plan.run_scheduled(&stream, &schedule, &inputs, &mut outputs, &mut workspace);
                run.expect("a run");
            }
        })
    }

    fn check(&self, case: &DenseDecodeCase, score_sd: f32) {
        let out = self.out.read("out").into_iter().map(bf16::to_f32).collect();
        let actual = Expected { out, lse: self.lse.read("lse"), max_logits: Vec::new() };
        let (backend, determinism) = (self.backend.name(), self.plan.determinism());
        if let Err(why) = DENSE_DECODE.for_scores(score_sd).check(&actual, &answer(case)) {
            panic!("{backend}, {determinism:?}, {:?}: {why}", case.cache_seqlens);
        }
    }
}

#[test]
fn a_captured_decode_follows_its_tensors() {
    let spec = Spec { lengths: vec![1100, 0, 130, 64], h_q: 8, score_sd: 1.0, ..Spec::default() };
    let first = spec.case();
    // The same requests in other places change queries, page table and lengths: all short, one long, two long.
    let cases = [&[1, 3, 2, 1], &[3, 0, 1, 2], &[0, 2, 0, 3]].map(|requests| select(&first, requests));
    for backend in Backend::gpus() {
        for (determinism, scheduled) in [
            (Determinism::RunToRun, false),
            (Determinism::BatchInvariant, false),
            (Determinism::RunToRun, true),
        ] {
            let mut decode = Decode::new(&backend, &first, determinism, scheduled);
            // Once as it is: the driver may load kernels at their first launch, which is no part of a graph.
            decode.prepared(|enqueue| enqueue());
            decode.check(&first, spec.score_sd);

            decode.out.reset();
            let graph = decode.prepared(|enqueue| backend.capture(enqueue));
            assert!(decode.out.is_untouched(), "a capture only records");
            for case in &cases {
                decode.change(case);
                match &graph {
                    Some(graph) => graph.launch().expect("a launch"),
                    None => decode.prepared(|enqueue| enqueue()),
                }
                decode.check(case, spec.score_sd);
            }
        }
    }
}
