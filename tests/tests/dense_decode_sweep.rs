//! Dense decode over the product of shapes that serving meets: every one on a GPU, a part of them on the CPU.
//!
//! The oracle is what costs time, so of all but the smallest problems it computes randomly chosen rows only.

use oximla::KvFormat;
use oximla::case_file::{DenseDecodeCase, Expected};
use oximla_conformance::backend::Backend;
use oximla_conformance::dense_decode::{HEAD_DIM, HEAD_DIM_V, Part, Settings, Spec, answer, run_with};
use oximla_conformance::noise::Noise;
use oximla_conformance::strided::Views;
use oximla_conformance::sweep::{check_samples, check_sound, sweep};
use oximla_conformance::tolerance::{DENSE_DECODE, Mismatch};

const BATCHES: [usize; 4] = [1, 2, 6, 64];
const QUERIES: [usize; 4] = [1, 2, 3, 4];
const KEYS: [usize; 4] = [20, 140, 1000, 4096];
const HEADS: [usize; 7] = [1, 3, 9, 63, 64, 126, 128];
const KV_HEADS: [usize; 4] = [1, 2, 3, 8];
const FORMATS: [KvFormat; 2] = [KvFormat::Bf16, KvFormat::Fp16];
const CAUSAL: [bool; 2] = [false, true];
const LENGTHS: [Lengths; 3] = [Lengths::Equal, Lengths::Varied, Lengths::SomeZero];
const SCORE_SDS: [f32; 2] = [0.01, 3.0];

/// Elements of a cache; longer requests share pages.
const CACHE_ELEMENTS: usize = 16 << 20;
/// Multiply-adds of the oracle up to which it computes the whole problem.
const WHOLE_WORK: usize = 10_000_000;
/// (request, head) pairs computed of larger problems.
const SAMPLES: usize = 12;
/// The CPU takes every so many-th problem; a prime, so that it meets all values of every dimension.
const CPU_STEP: usize = 23;
/// Multiply-adds that one problem may have on the CPU.
const CPU_WORK: usize = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
enum Lengths {
    Equal,
    Varied,
    SomeZero,
}

#[test]
fn cpu() {
    let specs =
        specs().into_iter().enumerate().filter(|(at, spec)| at % CPU_STEP == 0 && work(spec) <= CPU_WORK);
    let specs: Vec<Spec> = specs.map(|(_, spec)| spec).collect();
    sweep("dense decode", &Backend::cpu(), &specs, check);
}

#[test]
fn cuda() {
    if let Some(cuda) = Backend::cuda() {
        sweep("dense decode", &cuda, &specs(), check);
    }
}

fn check(backend: &Backend, spec: &Spec) -> Result<(), String> {
    let case = spec.case();
    // All four ways to run: both bits of the number vary with every dimension.
    let views = if spec.seed.is_multiple_of(2) { Views::Contiguous } else { Views::Padded };
    let settings = Settings { views, scheduled: spec.seed / 2 % 2 == 1, ..Settings::default() };
    let actual = run_with(backend, &case, settings).map_err(|why| why.to_string())?;
    check_sound(&actual)?;
    compare(&case, &actual, spec).map_err(|why| why.to_string())
}

fn compare(case: &DenseDecodeCase, actual: &Expected, spec: &Spec) -> Result<(), Mismatch> {
    let tolerances = DENSE_DECODE.for_scores(spec.score_sd);
    if work(spec) <= WHOLE_WORK {
        return tolerances.check(actual, &answer(case));
    }
    let parts = Part::sample(&case.problem, &mut Noise::new(spec.seed), SAMPLES);
    let sample = |part: &Part| (part.of_outputs(&case.problem, actual), answer(&part.of_case(case)));
    check_samples(tolerances, spec.format, parts.iter().map(sample))
}

fn work(spec: &Spec) -> usize {
    spec.lengths.iter().sum::<usize>() * spec.s_q * spec.h_q * (HEAD_DIM + HEAD_DIM_V)
}

/// The product of all dimensions, the first one varying fastest.
fn specs() -> Vec<Spec> {
    let pairs = HEADS.into_iter().flat_map(|h_q| KV_HEADS.map(|h_kv| (h_q, h_kv)));
    let heads: Vec<(usize, usize)> = pairs.filter(|(h_q, h_kv)| h_q % h_kv == 0).collect();
    let sizes =
        [LENGTHS.len(), CAUSAL.len(), FORMATS.len(), heads.len(), KEYS.len(), QUERIES.len(), BATCHES.len()];
    let spec = |seed: usize| {
        let mut rest = seed;
        let [lengths, causal, format, head, s_k, s_q, batch] = sizes.map(|size| {
            let digit = rest % size;
            rest /= size;
            digit
        });
        let (h_q, h_kv) = heads[head];
        let mut noise = Noise::new(seed as u64);
        Spec {
            s_q: QUERIES[s_q],
            h_q,
            h_kv,
            head_dim: noise.pick(&[HEAD_DIM, HEAD_DIM_V]),
            page_size: 64,
            lengths: LENGTHS[lengths].draw(BATCHES[batch], KEYS[s_k], &mut noise),
            format: FORMATS[format],
            causal: CAUSAL[causal],
            score_sd: noise.pick(&SCORE_SDS),
            full_pages: CACHE_ELEMENTS / (64 * h_kv * HEAD_DIM),
            seed: seed as u64,
        }
    };
    (0..sizes.iter().product()).map(spec).collect()
}

impl Lengths {
    fn draw(self, batch: usize, s_k: usize, noise: &mut Noise) -> Vec<usize> {
        let draw = |request| match self {
            Self::Equal => s_k,
            Self::Varied => 1 + noise.below(s_k),
            Self::SomeZero if request % 3 == 0 => 0,
            Self::SomeZero => noise.below(s_k + 1),
        };
        (0..batch).map(draw).collect()
    }
}
