//! Sparse prefill over shapes that serving meets, drawn at random: many on a GPU, some on the CPU and on the emulator.
//!
//! The oracle is what costs time, so it computes randomly chosen rows only.

use oximla::KvFormat;
use oximla::case_file::{Expected, SparsePrefillCase};
use oximla_conformance::backend::Backend;
use oximla_conformance::noise::Noise;
use oximla_conformance::sparse_decode::Invalid;
use oximla_conformance::sparse_prefill::{HEAD_DIM_V, Spec, answer, row_of_case, row_of_outputs, run};
use oximla_conformance::strided::Views;
use oximla_conformance::sweep::{check_samples, check_sound, sweep};
use oximla_conformance::tolerance::{Mismatch, SPARSE_PREFILL};

const HEAD_DIMS: [usize; 2] = [512, 576];
const QUERIES: [usize; 6] = [1, 7, 62, 213, 1031, 4096];
const HEADS: [usize; 7] = [1, 16, 63, 64, 65, 127, 128];
const TOPKS: [usize; 10] = [1, 63, 64, 65, 100, 128, 511, 512, 1024, 2048];
const KEYS: [usize; 4] = [1, 32, 700, 8192];
const INVALID: [Invalid; 4] = [Invalid::Never, Invalid::Padding, Invalid::Extreme, Invalid::Always];

/// Query rows of a problem at most; with more query tokens there are fewer heads.
const MAX_ROWS: usize = 1 << 16;
/// Rows that the oracle computes of a problem.
const SAMPLES: usize = 8;

const GPU_PROBLEMS: u64 = 600;
const CPU_PROBLEMS: u64 = 60;
/// Multiply-adds that one problem may have on the CPU.
const CPU_WORK: usize = 300_000_000;
const EMULATED_PROBLEMS: u64 = 100;
/// Blocks of 64 keys by tiles of 64 heads that one problem may have on the emulator.
const EMULATED_BLOCKS: usize = 40;

#[test]
fn cpu() {
    let specs = (0..CPU_PROBLEMS).map(draw).filter(|spec| work(spec) <= CPU_WORK);
    sweep("sparse prefill", &Backend::cpu(), &specs.collect::<Vec<_>>(), check);
}

#[test]
fn emulated() {
    let specs = (0..EMULATED_PROBLEMS).map(draw).filter(|spec| blocks(spec) <= EMULATED_BLOCKS);
    sweep("sparse prefill", &Backend::emulated(), &specs.collect::<Vec<_>>(), check);
}

#[test]
fn cuda() {
    if let Some(cuda) = Backend::cuda() {
        sweep("sparse prefill", &cuda, &(0..GPU_PROBLEMS).map(draw).collect::<Vec<_>>(), check);
    }
}

/// More query tokens than a grid may have CTAs along any dimension but the first.
#[test]
fn more_query_tokens_than_a_grid_is_high() {
    let specs = HEAD_DIMS.map(|head_dim| {
        let (s_q, topk) = (70_000, 70);
        let topk_length = Some((0..s_q).map(|query| query % (topk + 1)).collect());
        Spec { s_q, h_q: 2, head_dim, topk, topk_length, sinks: true, ..Spec::default() }
    });
    for backend in Backend::all().into_iter().filter(|backend| !backend.is_emulated()) {
        sweep("sparse prefill", &backend, &specs, check);
    }
}

fn check(backend: &Backend, spec: &Spec) -> Result<(), String> {
    let case = spec.case();
    let views = if spec.seed.is_multiple_of(2) { Views::Contiguous } else { Views::Padded };
    let actual = run(backend, &case, views).map_err(|why| why.to_string())?;
    check_sound(&actual)?;
    compare(&case, &actual, spec).map_err(|why| why.to_string())
}

/// The last query token is always among the samples.
fn compare(case: &SparsePrefillCase, actual: &Expected, spec: &Spec) -> Result<(), Mismatch> {
    let mut noise = Noise::new(spec.seed);
    let samples = (0..SAMPLES).map(|sample| {
        let query = if sample == 0 { spec.s_q - 1 } else { noise.below(spec.s_q) };
        let head = noise.below(spec.h_q);
        let outputs = row_of_outputs(&case.problem, actual, query, head);
        (outputs, answer(&row_of_case(case, query, head)))
    });
    check_samples(SPARSE_PREFILL.for_scores(spec.score_sd), KvFormat::Bf16, samples)
}

fn work(spec: &Spec) -> usize {
    spec.s_q * spec.h_q * spec.topk * (spec.head_dim + HEAD_DIM_V)
}

fn blocks(spec: &Spec) -> usize {
    spec.s_q * spec.h_q.div_ceil(64) * spec.topk.div_ceil(64)
}

fn draw(seed: u64) -> Spec {
    let mut noise = Noise::new(seed);
    let s_q = noise.pick(&QUERIES);
    let h_q = noise.pick(&HEADS).min(MAX_ROWS / s_q);
    let (head_dim, s_kv, topk) = (noise.pick(&HEAD_DIMS), noise.pick(&KEYS), noise.pick(&TOPKS));
    let lengths = |noise: &mut Noise| {
        (0..s_q).map(|_| if noise.one_in(4) { 0 } else { noise.below(topk + 1) }).collect()
    };
    let topk_length = noise.one_in(2).then(|| lengths(&mut noise));
    let (invalid, sinks) = (noise.pick(&INVALID), noise.one_in(2));
    Spec { s_q, h_q, head_dim, s_kv, topk, invalid, topk_length, sinks, score_sd: 1.0, seed }
}
