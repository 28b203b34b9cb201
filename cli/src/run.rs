//! `oximla run`: compute, time and compare with the float64 reference.

use std::fmt::{self, Display};
use std::path::PathBuf;

use clap::Args;
use oximla::case_file::{Case, Expected, Prepared};
use oximla::{Error, KvFormat, KvScopeShape};
use serde::Serialize;

use crate::Outcome;
use crate::backend::{Backend, Candidate, Found, first_able};
use crate::compare::{Comparison, Tolerances};
use crate::layout::Layout;
use crate::oracle::Question;
use crate::pipeline::Stage;
use crate::progress::Progress;
use crate::report::{Digits, Reporter, Seconds};
use crate::synthetic::{self, Size};

#[derive(Args)]
pub struct Options {
    /// Case file (safetensors) to compute; without it, dense and sparse decode steps in the shape of DeepSeek V3.2
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Case file to write the input and the computed answer to
    #[arg(long, value_name = "FILE", requires = "input")]
    output: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Seed of the generated data, and of the choice of heads to compare
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON, one object a step
    #[arg(long)]
    pub json: bool,
}

/// Time that repeating a call may take, in seconds. A call that takes longer is not repeated.
const TIMING_BUDGET: f64 = 1.0;
const MIN_CALLS: usize = 5;
const MAX_CALLS: usize = 100;

/// Floating-point operations that the reference may take: about a second on two cores.
const REFERENCE_BUDGET: f64 = 2.5e9;

/// Runs a case file, or the generated steps.
///
/// # Errors
/// When the backend is not there, a file cannot be read or written, or computing fails.
pub fn run(options: &Options, reporter: &mut Reporter) -> anyhow::Result<Outcome> {
    let candidates = options.backend.candidates()?;
    let Some(input) = &options.input else {
        return run_generated(&candidates, options.seed, reporter);
    };
    let case = Case::read(input)?;
    let step = first_able(&candidates, |candidate| Step::compute(&case, candidate, options.seed))?;
    let (report, answer) = step.value;
    if let Some(output) = &options.output {
        case.write(output, &answer)?;
    }
    let report = Report { note: note(&step.passed_over), ..report };
    reporter.emit(&report)?;
    Ok(report.outcome())
}

fn run_generated(candidates: &[Candidate], seed: u64, reporter: &mut Reporter) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::Passed;
    let dense = first_able(candidates, |candidate| {
        let case = generated(|| synthetic::dense_decode(Size::of(candidate.backend), seed));
        Ok((Vec::new(), Step::compute(&case, candidate, seed)?))
    });
    let sparse = |candidate: &Candidate| {
        let pipeline = generated(|| synthetic::sparse_pipeline(Size::of(candidate.backend), seed));
        let (stages, case) = pipeline.prepare(&candidate.device)?;
        // Compared with what follows from the cache and the indices as they should be.
        let reference = Case::SparseDecode(pipeline.case);
        let step = Step::compare(&Case::SparseDecode(case), &reference, candidate, seed)?;
        let stage = |stage| StageReport::new(stage, candidate);
        Ok((Vec::from(stages.map(stage)), step))
    };
    emit("dense_decode", dense, &mut outcome, reporter)?;
    emit("sparse_decode", first_able(candidates, sparse), &mut outcome, reporter)?;
    Ok(outcome)
}

fn generated<T>(generate: impl FnOnce() -> T) -> T {
    let _progress = Progress::waiting("generating data");
    generate()
}

/// What a generated step was made of.
type Generated = (Vec<StageReport>, (Report, Expected));

/// Reports a generated step, and the stages before it. One that nothing computes does not keep the others from being shown.
fn emit(
    op: &'static str,
    step: Result<Found<'_, Generated>, Error>,
    outcome: &mut Outcome,
    reporter: &mut Reporter,
) -> anyhow::Result<()> {
    let Found { value: (stages, (report, _)), passed_over, .. } = match step {
        Ok(found) => found,
        Err(why @ Error::Unsupported { .. }) => {
            return Ok(reporter.emit(&Unsupported { op, unsupported: why.to_string() })?);
        }
        Err(error) => return Err(error.into()),
    };
    for stage in stages {
        reporter.emit(&stage)?;
        if stage.wrong > 0 {
            *outcome = Outcome::Failed;
        }
    }
    let report = Report { note: note(&passed_over), ..report };
    reporter.emit(&report)?;
    if report.outcome() == Outcome::Failed {
        *outcome = Outcome::Failed;
    }
    Ok(())
}

fn note(passed_over: &[String]) -> Option<String> {
    (!passed_over.is_empty()).then(|| passed_over.join("; "))
}

struct Step;

impl Step {
    fn compute(case: &Case, on: &Candidate, seed: u64) -> Result<(Report, Expected), Error> {
        Self::compare(case, case, on, seed)
    }

    /// Computes a case, and compares with the answer to `reference`, which has the same problem.
    fn compare(
        case: &Case,
        reference: &Case,
        on: &Candidate,
        seed: u64,
    ) -> Result<(Report, Expected), Error> {
        let progress = Progress::waiting("computing");
        let mut prepared = case.prepare(&on.device)?;
        let (seconds, calls) = time(&mut prepared)?;
        let answer = prepared.answer()?;
        drop(progress);

        let layout = Layout::of(case);
        let per_head = prepared.flop() / (layout.batch * layout.h_q) as f64;
        let heads = (REFERENCE_BUDGET / per_head.max(1.0)).max(1.0) as usize;
        let question = Question::sample(reference, &layout, heads, seed)?;
        let progress = Progress::counting("float64 reference", question.steps());
        let reference = question.answer(|| progress.advance());
        drop(progress);
        let error = reference.compare(&layout, &answer, &Tolerances::of(case));

        let report = Report {
            op: case.op(),
            shape: shape(case),
            backend: on.backend,
            device: on.name.clone(),
            kernel: prepared.kernel(),
            us: seconds * 1e6,
            calls,
            tflops: prepared.flop() / seconds / 1e12,
            gbps: prepared.bytes() / seconds / 1e9,
            rows: layout.row_count(),
            rows_compared: reference.rows.len(),
            failure: error.failure(),
            error,
            note: None,
        };
        Ok((report, answer))
    }
}

/// Median seconds of a call, and of how many calls.
fn time(prepared: &mut Prepared<'_>) -> Result<(f64, usize), Error> {
    let mut seconds = || prepared.time(1).map(|duration| duration.as_secs_f64());
    let warm_up = seconds()?;
    if warm_up > TIMING_BUDGET {
        return Ok((warm_up, 1));
    }
    let calls = ((TIMING_BUDGET / warm_up) as usize).clamp(MIN_CALLS, MAX_CALLS);
    let mut samples = (0..calls).map(|_| seconds()).collect::<Result<Vec<f64>, Error>>()?;
    samples.sort_by(f64::total_cmp);
    Ok((samples[calls / 2], calls))
}

/// The problem in words.
fn shape(case: &Case) -> String {
    match case {
        Case::DenseDecode(case) => {
            let (p, format) = (&case.problem, case.kv_cache.format());
            let shortest = case.cache_seqlens.iter().min().unwrap_or(&0);
            let longest = case.cache_seqlens.iter().max().unwrap_or(&0);
            let causal = if p.causal { ", causal" } else { "" };
            format!(
                "b {}, s_q {}, h_q {}, h_kv {}, {}, page {}, {shortest} to {longest} keys{causal}",
                p.batch, p.s_q, p.h_q, p.h_kv, format, p.page_size
            )
        }
        Case::SparseDecode(case) => {
            let p = &case.problem;
            let cache = cache(p.format, &p.scope, p.extra.as_ref());
            format!("b {}, s_q {}, h_q {}, {cache}", p.batch, p.s_q, p.h_q)
        }
        Case::SparsePrefillFp8(case) => {
            let p = &case.problem;
            format!("s_q {}, h_q {}, {}", p.s_q, p.h_q, cache(p.format, &p.scope, p.extra.as_ref()))
        }
        Case::SparsePrefill(case) => {
            let p = &case.problem;
            format!("s_q {}, h_q {}, d {}, {} keys, topk {}", p.s_q, p.h_q, p.head_dim, p.s_kv, p.topk)
        }
    }
}

/// FP8 caches and index lists in words.
fn cache(format: KvFormat, scope: &KvScopeShape, extra: Option<&KvScopeShape>) -> String {
    let extra = extra.map(|extra| format!(" + {}", extra.topk)).unwrap_or_default();
    format!("{format}, page {}, topk {}{extra}", scope.page_size, scope.topk)
}

/// A step that was computed.
#[derive(Debug, Serialize)]
struct Report {
    op: &'static str,
    shape: String,
    backend: &'static str,
    device: String,
    kernel: &'static str,
    /// Median time of a call.
    us: f64,
    calls: usize,
    tflops: f64,
    gbps: f64,
    rows: usize,
    rows_compared: usize,
    error: Comparison,
    /// What is out of bounds.
    failure: Option<String>,
    /// Why another backend did not compute it.
    note: Option<String>,
}

impl Report {
    fn outcome(&self) -> Outcome {
        if self.failure.is_none() { Outcome::Passed } else { Outcome::Failed }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}", self.op, self.shape)?;
        if let Some(note) = &self.note {
            writeln!(f, "  note   {note}")?;
        }
        writeln!(f, "  on     {} ({}), kernel {}", self.device, self.backend, self.kernel)?;
        writeln!(
            f,
            "  time   {} (median of {} call{}), {} TFLOP/s, {} GB/s",
            Seconds(self.us * 1e-6),
            self.calls,
            if self.calls == 1 { "" } else { "s" },
            Digits(self.tflops),
            Digits(self.gbps)
        )?;
        write!(f, "  error  {}", self.error)?;
        write!(f, "; {} of {} rows compared with float64", self.rows_compared, self.rows)?;
        if let Some(failure) = &self.failure {
            write!(f, "\n  FAIL   {failure}")?;
        }
        Ok(())
    }
}

/// A stage before a step.
#[derive(Debug, Serialize)]
struct StageReport {
    op: &'static str,
    shape: String,
    backend: &'static str,
    device: String,
    kernel: &'static str,
    /// Bytes that it left, or indices and counts.
    elements: usize,
    /// How many of them are not what they should be.
    wrong: usize,
}

impl StageReport {
    fn new(stage: Stage, on: &Candidate) -> Self {
        let Stage { op, shape, kernel, elements, wrong } = stage;
        Self { op, shape, backend: on.backend, device: on.name.clone(), kernel, elements, wrong }
    }
}

impl Display for StageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {}", self.op, self.shape)?;
        writeln!(f, "  on     {} ({}), kernel {}", self.device, self.backend, self.kernel)?;
        let verdict = if self.wrong == 0 { "error" } else { "FAIL " };
        write!(f, "  {verdict}  {} of {} differ from the reference", self.wrong, self.elements)
    }
}

/// A step that no chosen backend computes.
#[derive(Debug, Serialize)]
struct Unsupported {
    op: &'static str,
    unsupported: String,
}

impl Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  unsupported: {}", self.op, self.unsupported)
    }
}
