//! `oximla bench`: the time of the standard cases, and plots of it.
//!
//! Times are of whole calls. On a GPU each measurement is of CUDA graphs, between events: of ten calls, replayed back to
//! back (*sustained*), and of one call, after an idle gap and a write that flushes the L2 cache (*burst*). A round is the
//! median of one such measurement; records hold the median of the rounds and their spread.

mod cpu;
mod cuda;
mod inputs;
mod interactive;
mod plot;
mod record;
mod standard;
mod timing;

use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use self::cpu::Cpu;
use self::cuda::Gpu;
use self::record::{HEADER, Record, Regime, Skipped};
use self::standard::{Shape, StandardCase};
use self::timing::Stopwatch;
use crate::Outcome;
use crate::report::Reporter;

#[derive(Args)]
pub struct Options {
    /// Cases to time, by parts of their names; all of them without any
    #[arg(value_name = "CASE")]
    names: Vec<String>,
    /// Show the cases and what they take
    #[arg(long)]
    list: bool,
    /// Cases in place of the standard ones (JSON, as in bench/cases.json)
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Processor::Cuda)]
    backend: Processor,
    /// How calls follow one another; both ways without it
    #[arg(long, value_enum)]
    regime: Option<Regime>,
    /// Measurements of each case and regime
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Measure on request: lines of a case and a regime on standard input, answered by JSON objects
    #[arg(long, requires = "json", conflicts_with_all = ["list", "plot"])]
    interactive: bool,
    /// Folder for plots (SVG) of the records
    #[arg(long, value_name = "FOLDER")]
    plot: Option<PathBuf>,
    /// File with records to plot, one JSON object a line, in place of measuring; may be given several times
    #[arg(long, value_name = "FILE", requires = "plot")]
    from: Vec<PathBuf>,
    /// Print JSON, one object a record
    #[arg(long)]
    pub json: bool,
}

/// What `--backend` may say: what has a speed of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Processor {
    /// The first GPU
    Cuda,
    /// The CPU; takes hours for all cases
    Cpu,
}

/// Lists, times or plots cases.
///
/// # Errors
/// When there is no such case or device, computing fails, or files cannot be read or written.
pub fn run(options: &Options, reporter: &mut Reporter) -> anyhow::Result<Outcome> {
    let cases = standard::select(standard::read(options.cases.as_deref())?, &options.names)?;
    if options.list {
        for case in &cases {
            reporter.emit(case)?;
        }
        return Ok(Outcome::Passed);
    }
    if options.interactive {
        let mut stopwatch = options.backend.stopwatch()?;
        interactive::serve(io::stdin().lock(), &cases, &mut *stopwatch, reporter)?;
        return Ok(Outcome::Passed);
    }
    let records = if options.from.is_empty() {
        measure(&cases, options, reporter)?
    } else {
        record::read(&options.from)?
    };
    if let Some(folder) = &options.plot {
        for file in plot::draw(folder, &records)? {
            reporter.note(&file.display().to_string())?;
        }
    }
    Ok(Outcome::Passed)
}

/// Times the cases and prints their records.
fn measure(
    cases: &[StandardCase],
    options: &Options,
    reporter: &mut Reporter,
) -> anyhow::Result<Vec<Record>> {
    let mut stopwatch = options.backend.stopwatch()?;
    reporter.note(&format!("on {}\n{HEADER}", stopwatch.device().name))?;
    let regimes = options.regime.map_or(vec![Regime::Sustained, Regime::Burst], |regime| vec![regime]);
    let mut records = Vec::new();
    for case in cases {
        let Shape::DenseDecode(shape) = &case.shape else {
            reporter.emit(&Skipped { name: &case.name, op: case.op(), skipped: unsupported(case.op()) })?;
            continue;
        };
        stopwatch.load(shape)?;
        for &regime in &regimes {
            let rounds = (0..options.rounds).map(|_| stopwatch.time(regime));
            let rounds = rounds.collect::<anyhow::Result<Vec<f64>>>()?;
            let record = Record::new(case, regime, rounds, stopwatch.device());
            reporter.emit(&record)?;
            records.push(record);
        }
    }
    Ok(records)
}

impl Processor {
    fn stopwatch(self) -> anyhow::Result<Box<dyn Stopwatch>> {
        Ok(match self {
            Self::Cuda => Box::new(Gpu::new()?),
            Self::Cpu => Box::new(Cpu::new()?),
        })
    }
}

/// Why a case is skipped.
fn unsupported(op: &str) -> String {
    format!("this benchmark times dense_decode, not {op}")
}
