//! Dense decode over the product of shapes that serving meets: every one on a GPU, a part of them on the CPU.
//!
//! The oracle is what costs time, so of all but the smallest problems it computes randomly chosen rows only.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use oximla::KvFormat;
use oximla::case_file::{DenseDecodeCase, Expected};
use oximla_conformance::backend::{Backend, report};
use oximla_conformance::dense_decode::{HEAD_DIM, HEAD_DIM_V, Part, Spec, answer, run};
use oximla_conformance::noise::Noise;
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::{DENSE_DECODE, Mismatch};
use rayon::prelude::*;

const BATCHES: [usize; 4] = [1, 2, 6, 64];
const QUERIES: [usize; 4] = [1, 2, 3, 4];
const KEYS: [usize; 4] = [20, 140, 1000, 4096];
const HEADS: [usize; 7] = [1, 3, 9, 63, 64, 126, 128];
const KV_HEADS: [usize; 4] = [1, 2, 3, 8];
const FORMATS: [KvFormat; 2] = [KvFormat::Bf16, KvFormat::Fp16];

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
    sweep(&Backend::cpu(), specs.map(|(_, spec)| spec).collect());
}

#[test]
fn cuda() {
    if let Some(cuda) = Backend::cuda() {
        sweep(&cuda, specs());
    }
}

fn sweep(backend: &Backend, specs: Vec<Spec>) {
    let (total, done) = (specs.len(), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    specs.into_par_iter().for_each(|spec| {
        if let Err(why) = check(backend, &spec) {
            failures.lock().expect("no panic while locked").push(format!("{spec:?}: {why}"));
        }
        done.fetch_add(1, Ordering::Relaxed);
    });
    let failures = failures.into_inner().expect("no panic while locked");
    let done = done.into_inner();
    report(&format!(
        "dense decode sweep on {}: {done} of {total} problems, {} failed",
        backend.name(),
        failures.len()
    ));
    let shown = failures.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {total} problems failed, among them\n{shown}", failures.len());
}

fn check(backend: &Backend, spec: &Spec) -> Result<(), String> {
    let case = spec.case();
    let views = if spec.seed.is_multiple_of(2) { Views::Contiguous } else { Views::Padded };
    let actual = run(backend, &case, views).map_err(|why| why.to_string())?;
    // All elements are looked at for what is wrong in itself; how much is right, the oracle says.
    let sound = actual.out.iter().all(|x| x.is_finite()) && actual.lse.iter().all(|&x| x > f32::NEG_INFINITY);
    if !sound {
        return Err("not a number, or an infinity in its place".into());
    }
    compare(&case, &actual, spec).map_err(|why| why.to_string())
}

fn compare(case: &DenseDecodeCase, actual: &Expected, spec: &Spec) -> Result<(), Mismatch> {
    if work(spec) <= WHOLE_WORK {
        return DENSE_DECODE.check(actual, &answer(case));
    }
    let parts = Part::sample(&case.problem, &mut Noise::new(spec.seed), SAMPLES);
    parts.iter().try_for_each(|part| {
        DENSE_DECODE.check(&part.of_outputs(&case.problem, actual), &answer(&part.of_case(case)))
    })
}

fn work(spec: &Spec) -> usize {
    spec.lengths.iter().sum::<usize>() * spec.s_q * spec.h_q * (HEAD_DIM + HEAD_DIM_V)
}

fn specs() -> Vec<Spec> {
    let mut specs = Vec::new();
    for batch in BATCHES {
        for s_q in QUERIES {
            for s_k in KEYS {
                for (h_q, h_kv) in heads() {
                    for format in FORMATS {
                        for causal in [false, true] {
                            for lengths in [Lengths::Equal, Lengths::Varied, Lengths::SomeZero] {
                                let seed = specs.len() as u64;
                                specs.push(Spec {
                                    s_q,
                                    h_q,
                                    h_kv,
                                    page_size: 64,
                                    lengths: lengths.draw(batch, s_k, &mut Noise::new(seed)),
                                    format,
                                    causal,
                                    score_sd: [0.01, 3.0][specs.len() / 3 % 2],
                                    full_pages: CACHE_ELEMENTS / (64 * h_kv * HEAD_DIM),
                                    seed,
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    specs
}

fn heads() -> impl Iterator<Item = (usize, usize)> {
    let pairs = HEADS.into_iter().flat_map(|h_q| KV_HEADS.map(|h_kv| (h_q, h_kv)));
    pairs.filter(|(h_q, h_kv)| h_q % h_kv == 0)
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
