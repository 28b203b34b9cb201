//! Generated sparse decodes, their answers, and how to run them on strided tensors.

use half::bf16;
use oximla::case_file::{Expected, InverseRopeCase, ScopeCase, SparseDecodeCase};
use oximla::{
    Determinism, Error, KvFormat, KvScope, KvScopeShape, RopeAngles, SparseDecode, SparseDecodeInputs,
    SparseDecodeOutputs, SparseDecodePlan,
};
use oximla_reference::Fp8Format;

use crate::backend::Backend;
use crate::inverse_rope::{RopeTensors, query_angles, rope_case};
use crate::noise::{KEY_SD, Noise};
use crate::strided::{ALIGNMENT, Input, Layout, Output, Trap, Views};
use crate::tolerance::Answer;

/// Elements of a value, in both formats.
pub const HEAD_DIM_V: usize = 512;

/// A sparse decode to generate.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Requests.
    pub batch: usize,
    /// Query tokens per request.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Format of the caches.
    pub format: Fp8Format,
    /// The cache.
    pub scope: ScopeSpec,
    /// The second cache.
    pub extra: Option<ScopeSpec>,
    /// Whether there are attention sinks, infinite ones among them.
    pub sinks: bool,
    /// Whether the output is turned back, and where the angles come from.
    pub inverse_rope: Option<RopeAngles>,
    /// Standard deviation of the scaled scores.
    pub score_sd: f32,
    /// Of the random numbers.
    pub seed: u64,
}

/// A cache and the index lists into it.
#[derive(Clone, Debug)]
pub struct ScopeSpec {
    /// Keys per page.
    pub page_size: usize,
    /// Pages in the cache.
    pub num_pages: usize,
    /// Indices of a query.
    pub topk: usize,
    /// Which indices name no key.
    pub invalid: Invalid,
    /// Valid prefix of each query token's list, or of all of a request's; `None`: all of them.
    pub topk_length: Option<Vec<usize>>,
}

/// Which entries of index lists name no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// No entry.
    Never,
    /// Some are −1.
    Padding,
    /// Some are one of the values that an address computation is most likely to get wrong.
    Extreme,
    /// All of them, extreme values included.
    Always,
}

impl Default for ScopeSpec {
    fn default() -> Self {
        Self { page_size: 64, num_pages: 6, topk: 64, invalid: Invalid::Padding, topk_length: None }
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            batch: 2,
            s_q: 1,
            h_q: 64,
            format: Fp8Format::V32,
            scope: ScopeSpec::default(),
            extra: None,
            sinks: false,
            inverse_rope: None,
            score_sd: 1.0,
            seed: 0,
        }
    }
}

impl Spec {
    /// The problem with its tensors.
    pub fn case(&self) -> SparseDecodeCase {
        let mut noise = Noise::new(self.seed);
        let head_dim = self.format.head_dim();
        let softmax_scale = (head_dim as f32).powf(-0.5);
        let q = noise.bf16(self.score_sd / KEY_SD, self.batch * self.s_q * self.h_q * head_dim);
        let scope = self.scope_case(&self.scope, &mut noise);
        let extra = self.extra.as_ref().map(|extra| self.scope_case(extra, &mut noise));
        let attn_sink = self.sinks.then(|| noise.sinks(self.h_q));
        let tokens = self.batch * self.s_q;
        let inverse_rope = self.inverse_rope.map(|angles| rope_case(angles, tokens, &mut noise));

        let shape = |scope: &ScopeCase| KvScopeShape {
            num_pages: scope.shape.num_pages,
            page_size: scope.shape.page_size,
            topk: scope.shape.topk,
        };
        let problem = SparseDecode {
            batch: self.batch,
            s_q: self.s_q,
            h_q: self.h_q,
            format: match self.format {
                Fp8Format::V32 => KvFormat::V32Fp8,
                Fp8Format::Model1 => KvFormat::Model1Fp8,
            },
            scope: shape(&scope),
            extra: extra.as_ref().map(shape),
            softmax_scale,
            inverse_rope: self.inverse_rope,
        };
        SparseDecodeCase { problem, q, scope, extra, attn_sink, inverse_rope, expected: None }
    }

    fn scope_case(&self, spec: &ScopeSpec, noise: &mut Noise) -> ScopeCase {
        let slots = spec.num_pages * spec.page_size;
        // Lists name the first half of a shuffled cache; the other half is for entries that must not be read.
        let order = noise.permutation(slots);
        let (named, unnamed) = order.split_at(slots.div_ceil(2));

        let mut indices = Vec::with_capacity(self.batch * self.s_q * spec.topk);
        for request in 0..self.batch {
            for query in 0..self.s_q {
                let length = spec.topk_length.as_ref().map_or(spec.topk, |lengths| {
                    let by_request = lengths.len() == self.batch;
                    lengths[if by_request { request } else { request * self.s_q + query }]
                });
                indices.extend((0..length).map(|_| spec.invalid.or(noise, named, slots)));
                indices.extend((length..spec.topk).map(|_| Invalid::Extreme.or(noise, unnamed, slots)));
            }
        }

        let head_dim = self.format.head_dim();
        let mut keys = vec![bf16::NAN; slots * head_dim];
        for &slot in named {
            keys[slot * head_dim..][..head_dim].copy_from_slice(&noise.bf16(KEY_SD, head_dim));
        }
        let page_len = spec.page_size * head_dim;
        let kv_cache = keys.chunks(page_len).flat_map(|page| self.format.quantise_page(page)).collect();
        ScopeCase {
            shape: KvScopeShape { num_pages: spec.num_pages, page_size: spec.page_size, topk: spec.topk },
            kv_cache,
            indices,
            topk_length: spec.topk_length.as_ref().map(|lengths| {
                lengths.iter().map(|&length| i32::try_from(length).expect("a length")).collect()
            }),
        }
    }
}

impl Invalid {
    /// One of the `named` keys, or now and then an index that is none of the `count` keys.
    pub fn or(self, noise: &mut Noise, named: &[usize], count: usize) -> i32 {
        let count = i32::try_from(count).expect("a small cache");
        let extreme = [-1, i32::MIN, i32::MAX, count, count + 1, -123_456, i32::TRAP];
        let invalid = match self {
            Self::Never => false,
            Self::Padding | Self::Extreme => noise.one_in(4),
            Self::Always => true,
        };
        match self {
            Self::Padding if invalid => -1,
            _ if invalid || named.is_empty() => noise.pick(&extreme),
            _ => i32::try_from(noise.pick(named)).expect("a small cache"),
        }
    }
}

/// What the oracle calls a cache format.
pub fn reference_format(format: KvFormat) -> Fp8Format {
    match format {
        KvFormat::V32Fp8 => Fp8Format::V32,
        _ => Fp8Format::Model1,
    }
}

/// What `ask` gets from the oracle for the case.
pub fn with_reference<R>(
    case: &SparseDecodeCase,
    ask: impl FnOnce(&oximla_reference::SparseDecode<'_>) -> R,
) -> R {
    let p = &case.problem;
    let format = reference_format(p.format);
    let q: Vec<f64> = case.q.iter().copied().map(bf16::to_f64).collect();
    ask(&oximla_reference::SparseDecode {
        batch: p.batch,
        s_q: p.s_q,
        h_q: p.h_q,
        format,
        q: &q,
        scope: reference_scope(format, &case.scope),
        extra: case.extra.as_ref().map(|extra| reference_scope(format, extra)),
        attn_sink: case.attn_sink.as_deref(),
        softmax_scale: f64::from(p.softmax_scale),
        inverse_rope: p
            .inverse_rope
            .zip(case.inverse_rope.as_ref())
            .map(|(angles, rope)| query_angles(angles, rope)),
    })
}

/// The oracle's answer.
pub fn answer(case: &SparseDecodeCase) -> Answer {
    let p = &case.problem;
    let attention = with_reference(case, |decode| decode.run());
    Answer {
        out: attention.out,
        out_shape: vec![p.batch, p.s_q, p.h_q, HEAD_DIM_V],
        lse: attention.lse,
        max_logits: attention.max_logits,
        lse_shape: vec![p.batch, p.h_q, p.s_q],
    }
}

fn reference_scope(format: Fp8Format, scope: &ScopeCase) -> oximla_reference::Scope<'_> {
    let page_size = scope.shape.page_size;
    oximla_reference::Scope {
        kv_cache: &scope.kv_cache,
        page_size,
        page_stride: format.page_bytes(page_size),
        indices: &scope.indices,
        topk: scope.shape.topk,
        topk_length: scope.topk_length.as_deref(),
    }
}

/// Runs the case on tensors laid out as `views` says.
///
/// # Errors
/// What planning or running says; the outputs were untouched then.
pub fn run(backend: &Backend, case: &SparseDecodeCase, views: Views) -> Result<Expected, Error> {
    run_with(backend, case, Settings { views, ..Settings::default() })
}

/// How to run a case.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What the bits may depend on.
    pub determinism: Determinism,
    /// How the tensors lie.
    pub views: Views,
    /// Bytes from the start of a cache's buffer, which is aligned, to its first page.
    pub page_offset: usize,
    /// Bytes between pages, besides those that `views` asks for.
    pub page_gap: usize,
    /// Bytes of the workspace, from those needed.
    pub workspace_bytes: fn(usize) -> usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            determinism: Determinism::default(),
            views: Views::Contiguous,
            page_offset: 0,
            page_gap: 0,
            workspace_bytes: |needed| needed,
        }
    }
}

/// As [`run`], with more to choose.
///
/// # Errors
/// As [`run`].
pub fn run_with(backend: &Backend, case: &SparseDecodeCase, settings: Settings) -> Result<Expected, Error> {
    let p = &case.problem;
    let views = settings.views;
    let plan = SparseDecodePlan::builder(p).determinism(settings.determinism).build(&backend.device)?;
    let head_dim = case.q.len() / (p.batch * p.s_q * p.h_q);
    let q = Input::new(backend, &case.q, [p.batch, p.s_q, p.h_q, head_dim], views);
    let scope = ScopeTensors::new(backend, p, &case.scope, settings);
    let extra = case.extra.as_ref().map(|extra| ScopeTensors::new(backend, p, extra, settings));
    let attn_sink =
        case.attn_sink.as_ref().map(|sinks| Input::new(backend, sinks, [p.h_q], Views::Contiguous));
    let rope =
        case.inverse_rope.as_ref().map(|rope| RopeTensors::new(backend, rope, [p.batch, p.s_q], views));
    let mut out = Output::<bf16, 4>::new(backend, [p.batch, p.s_q, p.h_q, HEAD_DIM_V], views);
    let mut lse = Output::<f32, 3>::new(backend, [p.batch, p.h_q, p.s_q], views);
    let mut workspace = backend.workspace((settings.workspace_bytes)(plan.workspace_bytes()));

    let inputs = SparseDecodeInputs {
        q: q.view(),
        scope: scope.view(),
        extra: extra.as_ref().map(ScopeTensors::view),
        attn_sink: attn_sink.as_ref().map(Input::view),
        inverse_rope: rope.as_ref().map(RopeTensors::view),
    };
    let mut outputs = SparseDecodeOutputs { out: out.view(), lse: lse.view() };
    if let Err(why) = plan.run(&backend.stream(), &inputs, &mut outputs, &mut workspace.as_workspace()) {
        assert!(out.is_untouched() && lse.is_untouched(), "outputs touched by a run that failed: {why}");
        return Err(why);
    }
    let out = out.read("out").into_iter().map(bf16::to_f32).collect();
    Ok(Expected { out, lse: lse.read("lse"), max_logits: Vec::new() })
}

/// The case with these of its requests, in this order, over the same caches.
pub fn select(case: &SparseDecodeCase, requests: &[usize]) -> SparseDecodeCase {
    fn take<T: Copy>(values: &[T], batch: usize, requests: &[usize]) -> Vec<T> {
        let len = values.len() / batch;
        requests.iter().flat_map(|request| values[request * len..][..len].iter().copied()).collect()
    }
    let batch = case.problem.batch;
    let scope = |scope: &ScopeCase| ScopeCase {
        indices: take(&scope.indices, batch, requests),
        topk_length: scope.topk_length.as_ref().map(|lengths| take(lengths, batch, requests)),
        ..scope.clone()
    };
    SparseDecodeCase {
        problem: SparseDecode { batch: requests.len(), ..case.problem.clone() },
        q: take(&case.q, batch, requests),
        scope: scope(&case.scope),
        extra: case.extra.as_ref().map(scope),
        inverse_rope: case.inverse_rope.as_ref().map(|rope| InverseRopeCase {
            positions: take(&rope.positions, batch, requests),
            ..rope.clone()
        }),
        ..case.clone()
    }
}

/// What one head of one request makes, as a case of its own over the same caches.
pub fn row_of_case(case: &SparseDecodeCase, request: usize, head: usize) -> SparseDecodeCase {
    let mut row = select(case, &[request]);
    let head_dim = row.q.len() / (row.problem.s_q * row.problem.h_q);
    let heads = row.problem.h_q;
    row.q = row.q.chunks(heads * head_dim).flat_map(|q| q[head * head_dim..][..head_dim].to_vec()).collect();
    row.attn_sink = row.attn_sink.map(|sinks| vec![sinks[head]]);
    row.problem.h_q = 1;
    row
}

/// The same of the whole problem's outputs.
pub fn row_of_outputs(problem: &SparseDecode, outputs: &Expected, request: usize, head: usize) -> Expected {
    let SparseDecode { s_q, h_q, .. } = *problem;
    let out = (0..s_q).flat_map(|query| {
        let row = (request * s_q + query) * h_q + head;
        outputs.out[row * HEAD_DIM_V..][..HEAD_DIM_V].to_vec()
    });
    let lse = outputs.lse[(request * h_q + head) * s_q..][..s_q].to_vec();
    Expected { out: out.collect(), lse, max_logits: Vec::new() }
}

/// A cache and its index lists in a backend's memory.
#[derive(Debug)]
pub struct ScopeTensors {
    kv_cache: Input<u8, 4>,
    indices: Input<i32, 3>,
    topk_length: Option<Input<i32, 2>>,
}

impl ScopeTensors {
    /// Lays the tensors of `scope` out as the settings say.
    pub fn new(backend: &Backend, problem: &SparseDecode, scope: &ScopeCase, settings: Settings) -> Self {
        let Settings { views, page_offset, page_gap, .. } = settings;
        let KvScopeShape { num_pages, page_size, topk } = scope.shape;
        let page_bytes = scope.kv_cache.len() / num_pages;
        let cache_shape = [num_pages, page_size, 1, page_bytes / page_size];
        // The formats fix how a page's bytes lie; pages themselves may be apart.
        let page_stride = match views {
            Views::Contiguous => page_bytes,
            _ => padded_page_stride(problem.format, page_bytes),
        };
        let cache_layout = Layout::with_outer_stride(cache_shape, page_stride + page_gap).after(page_offset);
        let indices = Input::new(backend, &scope.indices, [problem.batch, problem.s_q, topk], views);
        let topk_length = scope.topk_length.as_ref();
        Self {
            kv_cache: Input::with_layout(backend, &scope.kv_cache, cache_layout),
            indices,
            topk_length: topk_length.map(|lengths| {
                let queries = lengths.len() / problem.batch;
                let views = if queries == 1 { Views::Contiguous } else { views };
                Input::new(backend, lengths, [problem.batch, queries], views)
            }),
        }
    }

    /// Other lists of the same shape in place of these; the cache stays.
    pub fn change_lists(&mut self, scope: &ScopeCase) {
        self.indices.write(&scope.indices);
        if let (Some(tensor), Some(lengths)) = (&mut self.topk_length, &scope.topk_length) {
            tensor.write(lengths);
        }
    }

    /// The tensors.
    pub fn view(&self) -> KvScope<'_> {
        KvScope {
            kv_cache: self.kv_cache.view(),
            indices: self.indices.view(),
            topk_length: self.topk_length.as_ref().map(Input::view),
        }
    }
}

/// Bytes from page to page as serving engines have them: MODEL1 rounds up to whole data rows of 576 bytes.
fn padded_page_stride(format: KvFormat, page_bytes: usize) -> usize {
    const MODEL1_DATA_BYTES: usize = 576;
    match format {
        KvFormat::Model1Fp8 => (page_bytes + 1).next_multiple_of(MODEL1_DATA_BYTES),
        _ => (page_bytes + 1).next_multiple_of(ALIGNMENT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_beyond_the_length_are_nan_and_the_answer_is_not() {
        let scope =
            ScopeSpec { topk_length: Some(vec![5, 0]), invalid: Invalid::Extreme, ..Default::default() };
        let case = Spec { scope, seed: 3, ..Default::default() }.case();
        let with_all = SparseDecodeCase { scope: ScopeCase { topk_length: None, ..case.scope }, ..case };
        assert!(answer(&with_all).out.iter().any(|x| x.is_nan()));
        let scope = ScopeCase { topk_length: Some(vec![5, 0]), ..with_all.scope };
        let case = SparseDecodeCase { scope, ..with_all };
        let answer = answer(&case);
        assert!(answer.out.iter().all(|x| x.is_finite()));
        assert!(answer.lse[..64].iter().all(|x| x.is_finite()));
        assert!(answer.lse[64..].iter().all(|&x| x == f64::INFINITY));
    }
}
