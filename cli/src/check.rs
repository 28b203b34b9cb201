//! `oximla check`: do the answers in case files agree with a backend's?

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use oximla::Error;
use oximla::case_file::{Case, Expected};
use serde::Serialize;

use crate::Outcome;
use crate::backend::{Backend, Candidate, first_able};
use crate::compare::{Answer, Comparison, Tolerances};
use crate::layout::Layout;
use crate::oracle::Question;
use crate::progress::Progress;
use crate::report::Reporter;

#[derive(Args)]
#[command(after_help = LEGEND)]
pub struct Options {
    /// Case files (safetensors)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What computes the answers to compare with
    #[arg(long, value_enum, default_value_t = Checker::Backend(Backend::Auto))]
    backend: Checker,
    /// Do not count a file as failed whose operation the backend does not support
    #[arg(long)]
    skip_unsupported: bool,
    /// Print JSON, one object a file
    #[arg(long)]
    pub json: bool,
}

const LEGEND: &str = "\
A line says how far the backend's answer is from the file's: the largest absolute error (abs), the same over the
largest magnitude expected (rel), the cosine distance (1-cos); if that is too far, the first element out of bounds.";

/// Checks each file.
///
/// # Errors
/// When the backend is not there, or standard output cannot be written. What is wrong with a file is reported in its
/// line.
pub fn run(options: &Options, reporter: &mut Reporter) -> anyhow::Result<Outcome> {
    let judge = Judge::new(options.backend)?;
    let progress = Progress::counting("checking", options.files.len());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for file in &options.files {
        let report = judge.check(file, options.skip_unsupported);
        let count = match report.status {
            Status::Pass => &mut passed,
            Status::Fail => &mut failed,
            Status::Skip => &mut skipped,
        };
        *count += 1;
        progress.suspend(|| reporter.emit(&report))?;
        progress.advance();
    }
    drop(progress);
    reporter.note(&format!("{passed} passed, {failed} failed, {skipped} skipped"))?;
    Ok(if failed == 0 { Outcome::Passed } else { Outcome::Failed })
}

/// A backend, or the float64 reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checker {
    Backend(Backend),
    Reference,
}

impl ValueEnum for Checker {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Backend(Backend::Auto),
            Self::Backend(Backend::Cuda),
            Self::Backend(Backend::Cpu),
            Self::Backend(Backend::Emulated),
            Self::Reference,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Backend(backend) => backend.to_possible_value(),
            Self::Reference => Some(PossibleValue::new("reference").help("The float64 reference; slow")),
        }
    }
}

/// The devices to ask; none for the reference.
struct Judge(Option<Vec<Candidate>>);

impl Judge {
    fn new(checker: Checker) -> Result<Self, Error> {
        Ok(Self(match checker {
            Checker::Backend(backend) => Some(backend.candidates()?),
            Checker::Reference => None,
        }))
    }

    fn check(&self, file: &Path, skip_unsupported: bool) -> Report {
        let mut report = Report::new(file);
        let case = match Case::read(file) {
            Ok(case) => case,
            // The file's name is in the report already.
            Err(Error::File { reason, .. }) => return report.failed(reason),
            Err(error) => return report.failed(error.to_string()),
        };
        report.op = Some(case.op());
        let Some(expected) = case.expected() else {
            return report.failed("holds no answer to compare with".into());
        };
        let layout = Layout::of(&case);
        let actual = match self.answer(&case, &layout) {
            Ok((backend, actual)) => {
                report.backend = Some(backend);
                actual
            }
            Err(why @ Error::Unsupported { .. }) => {
                report.status = if skip_unsupported { Status::Skip } else { Status::Fail };
                report.reason = Some(format!("unsupported: {why}"));
                return report;
            }
            Err(error) => return report.failed(error.to_string()),
        };
        let comparison = Answer::whole(&layout, expected).compare(&layout, &actual, &Tolerances::of(&case));
        report.reason = comparison.failure();
        report.status = if report.reason.is_none() { Status::Pass } else { Status::Fail };
        report.error = Some(comparison);
        report
    }

    fn answer(&self, case: &Case, layout: &Layout) -> Result<(&'static str, Expected), Error> {
        let Some(candidates) = &self.0 else {
            let question = Question::all(case, layout)?;
            return Ok(("reference", question.answer(|| ()).to_f32(layout)));
        };
        let found = first_able(candidates, |candidate| case.run(&candidate.device))?;
        Ok((found.by.backend, found.value))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pass,
    Fail,
    Skip,
}

/// What is said about a file.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    status: Status,
    op: Option<&'static str>,
    /// What computed the answer.
    backend: Option<&'static str>,
    error: Option<Comparison>,
    /// Why it failed or was skipped.
    reason: Option<String>,
}

impl Report {
    fn new(file: &Path) -> Self {
        let file = file.display().to_string();
        Self { file, status: Status::Fail, op: None, backend: None, error: None, reason: None }
    }

    fn failed(self, reason: String) -> Self {
        Self { status: Status::Fail, reason: Some(reason), ..self }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self.status {
            Status::Pass => "pass",
            Status::Fail => "FAIL",
            Status::Skip => "skip",
        };
        write!(f, "{status}  {}", self.file)?;
        let facts = [self.op, self.backend];
        facts.into_iter().flatten().try_for_each(|fact| write!(f, "  {fact}"))?;
        if let Some(error) = &self.error {
            write!(f, "  {error}")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, "  {reason}")?;
        }
        Ok(())
    }
}
