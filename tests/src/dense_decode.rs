//! Generated dense decodes, their answers, and how to run them on strided tensors.

use half::{bf16, f16};
use oximla::case_file::{DenseDecodeCase, Expected, HalfVec};
use oximla::{
    DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Determinism, Error, Half,
    InvalidProblem, KvFormat,
};

use crate::backend::Backend;
use crate::noise::{KEY_SD, Noise, Rows};
use crate::strided::{Input, Output, Trap, Views};
use crate::tolerance::Answer;

/// Elements of a query and of a key.
pub const HEAD_DIM: usize = 576;
/// Elements of a value.
pub const HEAD_DIM_V: usize = 512;

/// Pages that no request uses, full of NaN.
const SPARE_PAGES: usize = 2;
/// Entries at the end of every row of the page table that no request needs.
const SPARE_ENTRIES: usize = 2;

/// A dense decode to generate.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Query tokens per request.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Key/value heads.
    pub h_kv: usize,
    /// Elements of a query and of a key: 576 or 512.
    pub head_dim: usize,
    /// Keys per page.
    pub page_size: usize,
    /// Keys of each request.
    pub lengths: Vec<usize>,
    /// Bf16 or fp16.
    pub format: KvFormat,
    /// Whether the queries are the last tokens of their request.
    pub causal: bool,
    /// Standard deviation of the scaled scores: from near 0, all keys alike, to several, a few keys dominate.
    pub score_sd: f32,
    /// Full pages that the cache holds at most; with longer requests, several entries share a page.
    pub full_pages: usize,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            s_q: 1,
            h_q: 16,
            h_kv: 1,
            head_dim: HEAD_DIM,
            page_size: 64,
            lengths: vec![200],
            format: KvFormat::Bf16,
            causal: false,
            score_sd: 0.01,
            full_pages: usize::MAX,
            seed: 0,
        }
    }
}

impl Spec {
    /// The problem with its tensors.
    pub fn case(&self) -> DenseDecodeCase {
        match self.format {
            KvFormat::Fp16 => self.typed_case(HalfVec::Fp16),
            _ => self.typed_case(HalfVec::Bf16),
        }
    }

    fn typed_case<T: Half + Trap>(&self, wrap: impl Fn(Vec<T>) -> HalfVec) -> DenseDecodeCase {
        let mut noise = Noise::new(self.seed);
        let pages = PageTable::new(self, &mut noise);

        let row_len = self.h_kv * self.head_dim;
        let rows = Rows::new(&mut noise, row_len, T::from_f32);
        let mut kv_cache = vec![T::TRAP; pages.used.len() * self.page_size * row_len];
        for (page, &used) in kv_cache.chunks_mut(self.page_size * row_len).zip(&pages.used) {
            for row in page.chunks_mut(row_len).take(used) {
                row.copy_from_slice(rows.draw(&mut noise));
            }
        }

        let softmax_scale = (self.head_dim as f32).powf(-0.5);
        // Of q·k over `head_dim` independent elements, times the scale.
        let q_sd = self.score_sd / KEY_SD;
        let q_len = self.lengths.len() * self.s_q * self.h_q * self.head_dim;
        let q = noise.normal(q_sd, q_len).into_iter().map(T::from_f32).collect();

        let problem = DenseDecode {
            batch: self.lengths.len(),
            s_q: self.s_q,
            h_q: self.h_q,
            h_kv: self.h_kv,
            head_dim: self.head_dim,
            head_dim_v: HEAD_DIM_V,
            page_size: self.page_size,
            num_pages: pages.used.len(),
            max_pages: pages.width,
            softmax_scale,
            causal: self.causal,
        };
        let cache_seqlens = self.lengths.iter().map(|&len| to_i32(len)).collect();
        DenseDecodeCase {
            problem,
            q: wrap(q),
            kv_cache: wrap(kv_cache),
            block_table: pages.entries,
            cache_seqlens,
            expected: None,
        }
    }
}

/// Which page holds what.
struct PageTable {
    width: usize,
    entries: Vec<i32>,
    /// Keys in use, per page.
    used: Vec<usize>,
}

impl PageTable {
    fn new(spec: &Spec, noise: &mut Noise) -> Self {
        let full = |len: usize| len / spec.page_size;
        let rest = |len: usize| len % spec.page_size;
        let width =
            spec.lengths.iter().map(|&len| len.div_ceil(spec.page_size)).max().unwrap_or(0) + SPARE_ENTRIES;

        let all_full: usize = spec.lengths.iter().map(|&len| full(len)).sum();
        let shared = all_full.min(spec.full_pages);
        let partial = spec.lengths.iter().filter(|&&len| rest(len) > 0).count();
        let order = noise.permutation(shared + partial + SPARE_PAGES);
        let mut used = vec![0; order.len()];
        let (full_pages, other_pages) = order.split_at(shared);
        let (mut full_pages, mut other_pages) = (full_pages.iter().cycle(), other_pages.iter());

        let mut entries = Vec::with_capacity(spec.lengths.len() * width);
        for (request, &len) in spec.lengths.iter().enumerate() {
            let mut push = |page: usize, keys: usize| {
                used[page] = keys;
                entries.push(to_i32(page));
            };
            full_pages.by_ref().take(full(len)).for_each(|&page| push(page, spec.page_size));
            if rest(len) > 0 {
                push(*other_pages.next().expect("one page per request"), rest(len));
            }
            entries.resize((request + 1) * width, i32::TRAP);
        }
        Self { width, entries, used }
    }
}

/// The oracle's answer.
pub fn answer(case: &DenseDecodeCase) -> Answer {
    let p = &case.problem;
    let attention = oximla_reference::DenseDecode {
        batch: p.batch,
        s_q: p.s_q,
        h_q: p.h_q,
        h_kv: p.h_kv,
        head_dim: p.head_dim,
        head_dim_v: p.head_dim_v,
        page_size: p.page_size,
        max_pages: p.max_pages,
        q: &widen(&case.q),
        kv_cache: &widen(&case.kv_cache),
        block_table: &case.block_table,
        cache_seqlens: &case.cache_seqlens,
        softmax_scale: f64::from(p.softmax_scale),
        causal: p.causal,
    }
    .run();
    Answer {
        out: attention.out,
        out_shape: vec![p.batch, p.s_q, p.h_q, p.head_dim_v],
        lse: attention.lse,
        max_logits: attention.max_logits,
        lse_shape: vec![p.batch, p.h_q, p.s_q],
    }
}

/// Runs the case on tensors laid out as `views` says.
///
/// # Errors
/// What planning or running says; the outputs were untouched then.
pub fn run(backend: &Backend, case: &DenseDecodeCase, views: Views) -> Result<Expected, Error> {
    run_with(backend, case, Settings { views, ..Settings::default() })
}

/// How to run a case.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How the tensors lie.
    pub views: Views,
    /// What the plan promises.
    pub determinism: Determinism,
    /// Whether the division of the requests is computed beforehand.
    pub scheduled: bool,
    /// Bytes of the workspace, from those needed.
    pub workspace_bytes: fn(usize) -> usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            views: Views::Contiguous,
            determinism: Determinism::default(),
            scheduled: false,
            workspace_bytes: |needed| needed,
        }
    }
}

/// As [`run`], with more to choose.
///
/// # Errors
/// As [`run`].
pub fn run_with(backend: &Backend, case: &DenseDecodeCase, settings: Settings) -> Result<Expected, Error> {
    match (&case.q, &case.kv_cache) {
        (HalfVec::Bf16(q), HalfVec::Bf16(kv)) => run_typed(backend, case, q, kv, settings),
        (HalfVec::Fp16(q), HalfVec::Fp16(kv)) => run_typed(backend, case, q, kv, settings),
        _ => Err(InvalidProblem::new("kv_cache", "of another type than q", "the type of q").into()),
    }
}

fn run_typed<T: Half + Trap>(
    backend: &Backend,
    case: &DenseDecodeCase,
    q: &[T],
    kv_cache: &[T],
    settings: Settings,
) -> Result<Expected, Error> {
    let p = &case.problem;
    let Settings { views, determinism, scheduled, workspace_bytes } = settings;
    let plan = DenseDecodePlan::builder(p, T::FORMAT).determinism(determinism).build(&backend.device)?;
    let q = Input::new(backend, q, [p.batch, p.s_q, p.h_q, p.head_dim], views);
    let kv_cache = Input::new(backend, kv_cache, [p.num_pages, p.page_size, p.h_kv, p.head_dim], views);
    let block_table = Input::new(backend, &case.block_table, [p.batch, p.max_pages], views);
    // One dimension has no stride but that of its elements.
    let cache_seqlens = Input::new(backend, &case.cache_seqlens, [p.batch], Views::Contiguous);
    let mut out = Output::<T, 4>::new(backend, [p.batch, p.s_q, p.h_q, p.head_dim_v], views);
    let mut lse = Output::<f32, 3>::new(backend, [p.batch, p.h_q, p.s_q], views);
    let mut workspace = backend.workspace(workspace_bytes(plan.workspace_bytes()));

    let inputs = DenseDecodeInputs {
        q: q.view(),
        kv_cache: kv_cache.view(),
        block_table: block_table.view(),
        cache_seqlens: cache_seqlens.view(),
    };
    let mut outputs = DenseDecodeOutputs { out: out.view(), lse: lse.view() };
    let mut places = backend.workspace(plan.schedule_bytes());
    let (stream, mut workspace) = (backend.stream(), workspace.as_workspace());
    let result = if scheduled {
        let schedule = plan.schedule(&stream, &cache_seqlens.view(), places.as_workspace())?;
        plan.run_scheduled(&stream, &schedule, &inputs, &mut outputs, &mut workspace)
    } else {
        plan.run(&stream, &inputs, &mut outputs, &mut workspace)
    };
    if let Err(why) = result {
        assert!(out.is_untouched() && lse.is_untouched(), "outputs touched by a run that failed: {why}");
        return Err(why);
    }
    let out = out.read("out").into_iter().map(T::to_f32).collect();
    Ok(Expected { out, lse: lse.read("lse"), max_logits: Vec::new() })
}

/// The part of a problem that one request, one KV head and some of its query heads make.
#[derive(Clone, Debug)]
pub struct Part {
    /// The request.
    pub request: usize,
    /// The KV head.
    pub kv_head: usize,
    /// Query heads that read it.
    pub heads: Vec<usize>,
}

impl Part {
    /// `count` random parts of one query head each.
    pub fn sample(problem: &DenseDecode, noise: &mut Noise, count: usize) -> Vec<Self> {
        let part = |_| {
            let head = noise.below(problem.h_q);
            let kv_head = head / (problem.h_q / problem.h_kv);
            Self { request: noise.below(problem.batch), kv_head, heads: vec![head] }
        };
        (0..count).map(part).collect()
    }

    /// The part as a problem of its own, with only the pages that its request uses.
    pub fn of_case(&self, case: &DenseDecodeCase) -> DenseDecodeCase {
        let p = &case.problem;
        let len = case.cache_seqlens[self.request];
        let pages = usize::try_from(len).expect("a generated length").div_ceil(p.page_size);
        let used = &case.block_table[self.request * p.max_pages..][..pages];

        let q_rows = (0..p.s_q).flat_map(|query| {
            self.heads.iter().map(move |head| (self.request * p.s_q + query) * p.h_q + head)
        });
        let key_rows = used.iter().flat_map(|&page| {
            let first = usize::try_from(page).expect("a page in use") * p.page_size;
            (first..first + p.page_size).map(|token| token * p.h_kv + self.kv_head)
        });
        DenseDecodeCase {
            problem: DenseDecode {
                batch: 1,
                h_q: self.heads.len(),
                h_kv: 1,
                num_pages: pages,
                max_pages: pages,
                ..p.clone()
            },
            q: take_rows(&case.q, q_rows, p.head_dim),
            kv_cache: take_rows(&case.kv_cache, key_rows, p.head_dim),
            block_table: (0..pages).map(to_i32).collect(),
            cache_seqlens: vec![len],
            expected: None,
        }
    }

    /// The part of the whole problem's outputs.
    pub fn of_outputs(&self, problem: &DenseDecode, outputs: &Expected) -> Expected {
        let DenseDecode { s_q, h_q, head_dim_v, .. } = *problem;
        let mut part = Expected { out: Vec::new(), lse: Vec::new(), max_logits: Vec::new() };
        for query in 0..s_q {
            for head in &self.heads {
                let row = (self.request * s_q + query) * h_q + head;
                part.out.extend(&outputs.out[row * head_dim_v..][..head_dim_v]);
            }
        }
        for head in &self.heads {
            part.lse.extend(&outputs.lse[(self.request * h_q + head) * s_q..][..s_q]);
        }
        part
    }
}

/// The case with these of its requests, in this order, over the same cache.
pub fn select(case: &DenseDecodeCase, requests: &[usize]) -> DenseDecodeCase {
    let p = &case.problem;
    let rows = p.s_q * p.h_q;
    let q_rows = requests.iter().flat_map(|request| request * rows..(request + 1) * rows);
    let pages = requests.iter().flat_map(|request| &case.block_table[request * p.max_pages..][..p.max_pages]);
    DenseDecodeCase {
        problem: DenseDecode { batch: requests.len(), ..p.clone() },
        q: take_rows(&case.q, q_rows, p.head_dim),
        kv_cache: case.kv_cache.clone(),
        block_table: pages.copied().collect(),
        cache_seqlens: requests.iter().map(|&request| case.cache_seqlens[request]).collect(),
        expected: None,
    }
}

fn take_rows(values: &HalfVec, rows: impl Iterator<Item = usize>, row_len: usize) -> HalfVec {
    fn take<T: Copy>(values: &[T], rows: impl Iterator<Item = usize>, row_len: usize) -> Vec<T> {
        rows.flat_map(|row| values[row * row_len..][..row_len].iter().copied()).collect()
    }
    match values {
        HalfVec::Bf16(values) => HalfVec::Bf16(take(values, rows, row_len)),
        HalfVec::Fp16(values) => HalfVec::Fp16(take(values, rows, row_len)),
    }
}

fn widen(values: &HalfVec) -> Vec<f64> {
    match values {
        HalfVec::Bf16(values) => values.iter().copied().map(bf16::to_f64).collect(),
        HalfVec::Fp16(values) => values.iter().copied().map(f16::to_f64).collect(),
    }
}

fn to_i32(value: usize) -> i32 {
    i32::try_from(value).expect("a number of a generated problem")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts are what the sweep compares: they must say the same as the whole.
    #[test]
    fn parts_agree_with_the_whole() {
        let spec = Spec { s_q: 2, h_q: 6, h_kv: 3, lengths: vec![70, 0, 1], causal: true, ..Spec::default() };
        let case = spec.case();
        let whole = answer(&case);
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect();
        let outputs = Expected { out: narrow(&whole.out), lse: narrow(&whole.lse), max_logits: Vec::new() };
        for request in 0..3 {
            for kv_head in 0..3 {
                let part = Part { request, kv_head, heads: vec![2 * kv_head, 2 * kv_head + 1] };
                let alone = answer(&part.of_case(&case));
                let of_whole = part.of_outputs(&case.problem, &outputs);
                assert_eq!(narrow(&alone.out), of_whole.out);
                assert_eq!(narrow(&alone.lse), of_whole.lse);
            }
        }
    }

    #[test]
    fn unused_keys_are_nan_and_used_ones_are_not() {
        let case = Spec { lengths: vec![65, 3], full_pages: 1, ..Spec::default() }.case();
        let keys = widen(&case.kv_cache);
        let finite = keys.iter().filter(|x| x.is_finite()).count();
        assert_eq!(finite, (64 + 1 + 3) * HEAD_DIM);
        assert_eq!(case.block_table[2..4], [i32::TRAP; 2]);
        assert!(answer(&case).lse.iter().all(|x| x.is_finite()));
    }
}
