//! Generated sparse prefills, their answers, and how to run them on strided tensors.

use half::bf16;
use oximla::case_file::{Expected, SparsePrefillCase};
use oximla::{Error, SparsePrefill, SparsePrefillInputs, SparsePrefillOutputs, SparsePrefillPlan};

use crate::backend::Backend;
use crate::noise::{KEY_SD, Noise};
use crate::sparse_decode::Invalid;
use crate::strided::{Input, Output, Trap, Views};
use crate::tolerance::Answer;

/// Elements of a value.
pub const HEAD_DIM_V: usize = 512;

/// A sparse prefill to generate.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Queries.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Elements of a query and of a key.
    pub head_dim: usize,
    /// Keys.
    pub s_kv: usize,
    /// Indices of a query.
    pub topk: usize,
    /// Which indices name no key.
    pub invalid: Invalid,
    /// Valid prefix of each query's list; `None`: all of it.
    pub topk_length: Option<Vec<usize>>,
    /// Whether there are attention sinks, infinite ones among them.
    pub sinks: bool,
    /// Standard deviation of the scaled scores.
    pub score_sd: f32,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            s_q: 3,
            h_q: 64,
            head_dim: 576,
            s_kv: 150,
            topk: 128,
            invalid: Invalid::Padding,
            topk_length: None,
            sinks: false,
            score_sd: 1.0,
            seed: 0,
        }
    }
}

impl Spec {
    /// The problem with its tensors.
    pub fn case(&self) -> SparsePrefillCase {
        let mut noise = Noise::new(self.seed);
        let softmax_scale = (self.head_dim as f32).powf(-0.5);
        let q = noise.bf16(self.score_sd / KEY_SD, self.s_q * self.h_q * self.head_dim);

        // Lists name the first half of the shuffled keys; the other half is for entries that must not be read.
        let order = noise.permutation(self.s_kv);
        let (named, unnamed) = order.split_at(self.s_kv.div_ceil(2));
        let mut kv = vec![bf16::TRAP; self.s_kv * self.head_dim];
        for &key in named {
            kv[key * self.head_dim..][..self.head_dim].copy_from_slice(&noise.bf16(KEY_SD, self.head_dim));
        }
        let mut indices = Vec::with_capacity(self.s_q * self.topk);
        for query in 0..self.s_q {
            let length = self.topk_length.as_ref().map_or(self.topk, |lengths| lengths[query]);
            indices.extend((0..length).map(|_| self.invalid.or(&mut noise, named, self.s_kv)));
            let rest = (length..self.topk).map(|_| Invalid::Extreme.or(&mut noise, unnamed, self.s_kv));
            indices.extend(rest);
        }

        SparsePrefillCase {
            problem: SparsePrefill {
                s_q: self.s_q,
                h_q: self.h_q,
                head_dim: self.head_dim,
                head_dim_v: HEAD_DIM_V,
                s_kv: self.s_kv,
                topk: self.topk,
                softmax_scale,
            },
            q,
            kv,
            indices,
            topk_length: self.topk_length.as_ref().map(|lengths| {
                lengths.iter().map(|&length| i32::try_from(length).expect("a length")).collect()
            }),
            attn_sink: self.sinks.then(|| noise.sinks(self.h_q)),
            expected: None,
        }
    }
}

/// The oracle's answer.
pub fn answer(case: &SparsePrefillCase) -> Answer {
    let p = &case.problem;
    let widen = |values: &[bf16]| -> Vec<f64> { values.iter().copied().map(bf16::to_f64).collect() };
    let attention = oximla_reference::SparsePrefill {
        s_q: p.s_q,
        h_q: p.h_q,
        head_dim: p.head_dim,
        head_dim_v: p.head_dim_v,
        s_kv: p.s_kv,
        topk: p.topk,
        q: &widen(&case.q),
        kv: &widen(&case.kv),
        indices: &case.indices,
        topk_length: case.topk_length.as_deref(),
        attn_sink: case.attn_sink.as_deref(),
        softmax_scale: f64::from(p.softmax_scale),
    }
    .run();
    Answer {
        out: attention.out,
        out_shape: vec![p.s_q, p.h_q, p.head_dim_v],
        lse: attention.lse,
        max_logits: attention.max_logits,
        lse_shape: vec![p.s_q, p.h_q],
    }
}

/// What one head of one query token makes, as a case of its own over the same keys.
pub fn row_of_case(case: &SparsePrefillCase, query: usize, head: usize) -> SparsePrefillCase {
    let SparsePrefill { h_q, head_dim, topk, .. } = case.problem;
    SparsePrefillCase {
        problem: SparsePrefill { s_q: 1, h_q: 1, ..case.problem },
        q: case.q[(query * h_q + head) * head_dim..][..head_dim].to_vec(),
        kv: case.kv.clone(),
        indices: case.indices[query * topk..][..topk].to_vec(),
        topk_length: case.topk_length.as_ref().map(|lengths| vec![lengths[query]]),
        attn_sink: case.attn_sink.as_ref().map(|sinks| vec![sinks[head]]),
        expected: None,
    }
}

/// The same of the whole problem's outputs.
pub fn row_of_outputs(problem: &SparsePrefill, outputs: &Expected, query: usize, head: usize) -> Expected {
    let row = query * problem.h_q + head;
    Expected {
        out: outputs.out[row * HEAD_DIM_V..][..HEAD_DIM_V].to_vec(),
        lse: vec![outputs.lse[row]],
        max_logits: vec![outputs.max_logits[row]],
    }
}

/// Runs the case on tensors laid out as `views` says.
///
/// # Errors
/// What planning or running says; the outputs were untouched then.
pub fn run(backend: &Backend, case: &SparsePrefillCase, views: Views) -> Result<Expected, Error> {
    let p = &case.problem;
    let plan = SparsePrefillPlan::new(p, &backend.device)?;
    let q = Input::new(backend, &case.q, [p.s_q, p.h_q, p.head_dim], views);
    let kv = Input::new(backend, &case.kv, [p.s_kv, 1, p.head_dim], views);
    let indices = Input::new(backend, &case.indices, [p.s_q, 1, p.topk], views);
    let topk_length = case.topk_length.as_ref().map(|l| Input::new(backend, l, [p.s_q], Views::Contiguous));
    let attn_sink =
        case.attn_sink.as_ref().map(|sinks| Input::new(backend, sinks, [p.h_q], Views::Contiguous));
    let mut out = Output::<bf16, 3>::new(backend, [p.s_q, p.h_q, p.head_dim_v], views);
    let mut lse = Output::<f32, 2>::new(backend, [p.s_q, p.h_q], views);
    let mut max_logits = Output::<f32, 2>::new(backend, [p.s_q, p.h_q], views);
    let mut workspace = backend.workspace(plan.workspace_bytes());

    let inputs = SparsePrefillInputs {
        q: q.view(),
        kv: kv.view(),
        indices: indices.view(),
        topk_length: topk_length.as_ref().map(Input::view),
        attn_sink: attn_sink.as_ref().map(Input::view),
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
