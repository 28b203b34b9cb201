//! Sparse decode, and sparse prefill over FP8 caches, over shapes that serving meets, drawn at random: many on a GPU, some on
//! the CPU.
//!
//! The oracle is what costs time, so it computes randomly chosen rows only.

use oximla::case_file::{Expected, SparseDecodeCase};
use oximla::{KvFormat, RopeAngles};
use oximla_conformance::backend::Backend;
use oximla_conformance::noise::Noise;
use oximla_conformance::sparse_decode::{
    HEAD_DIM_V, Invalid, ScopeSpec, Spec, answer, row_of_case, row_of_outputs, run,
};
use oximla_conformance::sparse_prefill_fp8::{self, of_decode};
use oximla_conformance::strided::Views;
use oximla_conformance::sweep::{check_samples, check_sound, sweep};
use oximla_conformance::tolerance::{Mismatch, SPARSE_DECODE, SPARSE_PREFILL};
use oximla_reference::Fp8Format;

const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];
const BATCHES: [usize; 3] = [4, 74, 321];
const QUERIES: [usize; 2] = [1, 3];
const HEADS: [usize; 6] = [1, 8, 16, 63, 64, 128];
const TOPKS: [usize; 9] = [1, 63, 64, 100, 128, 511, 512, 1024, 2048];
const PAGE_SIZES: [usize; 7] = [2, 53, 61, 64, 69, 256, 576];
/// MODEL1's bases, and a table.
const ANGLES: [RopeAngles; 3] =
    [RopeAngles::Theta(1e4), RopeAngles::Theta(1.6e5), RopeAngles::Table { max_positions: 1000 }];
const INVALID: [Invalid; 4] = [Invalid::Never, Invalid::Padding, Invalid::Extreme, Invalid::Always];

/// Tokens of a cache, about.
const CACHE_TOKENS: usize = 4000;
/// Query rows of a problem at most; with more requests there are fewer heads.
const MAX_ROWS: usize = 1 << 15;
/// (request, head) pairs that the oracle computes of a problem.
const SAMPLES: usize = 8;

const GPU_PROBLEMS: u64 = 600;
const CPU_PROBLEMS: u64 = 60;
/// Multiply-adds that one problem may have on the CPU.
const CPU_WORK: usize = 300_000_000;

#[test]
fn cpu() {
    let specs = (0..CPU_PROBLEMS).map(draw).filter(|spec| work(spec) <= CPU_WORK);
    sweep("sparse decode", &Backend::cpu(), &specs.collect::<Vec<_>>(), check);
}

#[test]
fn cuda() {
    if let Some(cuda) = Backend::cuda() {
        sweep("sparse decode", &cuda, &(0..GPU_PROBLEMS).map(draw).collect::<Vec<_>>(), check);
    }
}

#[test]
fn prefill_cpu() {
    let specs = (0..CPU_PROBLEMS).map(draw_prefill).filter(|spec| work(spec) <= CPU_WORK);
    sweep("sparse prefill over FP8", &Backend::cpu(), &specs.collect::<Vec<_>>(), check_prefill);
}

#[test]
fn prefill_cuda() {
    if let Some(cuda) = Backend::cuda() {
        let specs = (0..GPU_PROBLEMS).map(draw_prefill).collect::<Vec<_>>();
        sweep("sparse prefill over FP8", &cuda, &specs, check_prefill);
    }
}

/// More query tokens than a grid may have CTAs along any dimension but the first.
#[test]
fn more_query_tokens_than_a_grid_is_high() {
    let specs = FORMATS.map(|format| {
        let (batch, topk) = (70_000, 70);
        let topk_length = Some((0..batch).map(|query| query % (topk + 1)).collect());
        let scope = ScopeSpec { topk, topk_length, ..ScopeSpec::default() };
        Spec { batch, s_q: 1, h_q: 2, format, scope, sinks: true, ..Spec::default() }
    });
    for backend in Backend::all().into_iter().filter(|backend| !backend.is_emulated()) {
        sweep("sparse prefill over FP8", &backend, &specs, check_prefill);
    }
}

fn views(spec: &Spec) -> Views {
    if spec.seed.is_multiple_of(2) { Views::Contiguous } else { Views::Padded }
}

fn check(backend: &Backend, spec: &Spec) -> Result<(), String> {
    let case = spec.case();
    let actual = run(backend, &case, views(spec)).map_err(|why| why.to_string())?;
    check_sound(&actual)?;
    compare(&case, &actual, spec).map_err(|why| why.to_string())
}

fn check_prefill(backend: &Backend, spec: &Spec) -> Result<(), String> {
    let case = spec.case();
    let prefill = of_decode(case.clone());
    let actual = sparse_prefill_fp8::run(backend, &prefill, views(spec)).map_err(|why| why.to_string())?;
    check_sound(&actual)?;
    compare_prefill(&case, &actual, spec).map_err(|why| why.to_string())
}

/// The last query token is always among the samples.
fn compare_prefill(case: &SparseDecodeCase, actual: &Expected, spec: &Spec) -> Result<(), Mismatch> {
    let mut noise = Noise::new(spec.seed);
    let samples = (0..SAMPLES).map(|sample| {
        let query = if sample == 0 { spec.batch - 1 } else { noise.below(spec.batch) };
        let head = noise.below(spec.h_q);
        let max_logits = vec![actual.max_logits[query * spec.h_q + head]];
        let outputs = Expected { max_logits, ..row_of_outputs(&case.problem, actual, query, head) };
        (outputs, sparse_prefill_fp8::answer(&of_decode(row_of_case(case, query, head))))
    });
    check_samples(SPARSE_PREFILL.for_scores(spec.score_sd), KvFormat::Bf16, samples)
}

fn compare(case: &SparseDecodeCase, actual: &Expected, spec: &Spec) -> Result<(), Mismatch> {
    let mut noise = Noise::new(spec.seed);
    let samples = (0..SAMPLES).map(|_| {
        let (request, head) = (noise.below(spec.batch), noise.below(spec.h_q));
        let outputs = row_of_outputs(&case.problem, actual, request, head);
        (outputs, answer(&row_of_case(case, request, head)))
    });
    check_samples(SPARSE_DECODE.for_scores(spec.score_sd), KvFormat::Bf16, samples)
}

fn work(spec: &Spec) -> usize {
    let topk = spec.scope.topk + spec.extra.as_ref().map_or(0, |extra| extra.topk);
    spec.batch * spec.s_q * spec.h_q * topk * (spec.format.head_dim() + HEAD_DIM_V)
}

fn draw(seed: u64) -> Spec {
    draw_of(seed, &QUERIES)
}

/// As [`draw`], whose requests are query tokens.
fn draw_prefill(seed: u64) -> Spec {
    draw_of(seed, &[1])
}

fn draw_of(seed: u64, queries: &[usize]) -> Spec {
    let mut noise = Noise::new(seed);
    let (batch, s_q) = (noise.pick(&BATCHES), noise.pick(queries));
    let h_q = noise.pick(&HEADS).min(MAX_ROWS / (batch * s_q));
    let scope = draw_scope(batch, s_q, &mut noise);
    let extra = noise.one_in(2).then(|| draw_scope(batch, s_q, &mut noise));
    let (format, sinks) = (noise.pick(&FORMATS), noise.one_in(2));
    let carries_rope = format == Fp8Format::Model1 && noise.one_in(2);
    let inverse_rope = carries_rope.then(|| noise.pick(&ANGLES));
    Spec { batch, s_q, h_q, format, scope, extra, sinks, inverse_rope, score_sd: 1.0, seed }
}

fn draw_scope(batch: usize, s_q: usize, noise: &mut Noise) -> ScopeSpec {
    let (page_size, topk) = (noise.pick(&PAGE_SIZES), noise.pick(&TOPKS));
    let lengths = |noise: &mut Noise| {
        // By query token, or by request.
        let count = if noise.one_in(2) { batch * s_q } else { batch };
        (0..count).map(|_| if noise.one_in(4) { 0 } else { noise.below(topk + 1) }).collect()
    };
    ScopeSpec {
        page_size,
        num_pages: CACHE_TOKENS.div_ceil(page_size),
        topk,
        invalid: noise.pick(&INVALID),
        topk_length: noise.one_in(2).then(|| lengths(noise)),
    }
}
