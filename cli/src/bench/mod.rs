//! `oximla bench`: the time of the standard cases, and plots of it.
//!
//! Times are of whole calls. On a GPU each measurement is of CUDA graphs, between events: of ten calls, replayed back to
//! back (*sustained*), and of one call, after an idle gap and a write that flushes the L2 cache (*burst*). A round is the
//! median of one such measurement; records hold the median of the rounds and their spread. What only moves bytes is also
//! compared with a copy of as many bytes, timed in the same way in the same round.

mod cpu;
mod cuda;
mod fp8_pages;
mod inputs;
mod interactive;
mod ops;
mod plot;
mod record;
mod standard;
mod timing;

use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use self::cpu::Cpu;
use self::cuda::Gpu;
use self::record::{HEADER, Record, Regime, Round, Skipped};
use self::standard::StandardCase;
use self::timing::Stopwatch;
use crate::Outcome;
use crate::report::Reporter;

#[derive(Args)]
pub struct Options {
    /// Cases to time, by parts of their names; all standard ones without any
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
    let mut cases = standard::read(options.cases.as_deref())?;
    // Whoever asks for cases by name may mean the further ones.
    if options.cases.is_none() && (options.interactive || !options.names.is_empty()) {
        cases.extend(standard::further()?);
    }
    let cases = standard::select(cases, &options.names)?;
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
        let regimes = options.regime.map_or(vec![Regime::Sustained, Regime::Burst], |regime| vec![regime]);
        measure(&cases, &regimes, options.rounds, &mut *options.backend.stopwatch()?, reporter)?
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

/// Times the cases and prints their records. A case that the device does not support is named and passed over.
fn measure(
    cases: &[StandardCase],
    regimes: &[Regime],
    rounds: u16,
    stopwatch: &mut dyn Stopwatch,
    reporter: &mut Reporter,
) -> anyhow::Result<Vec<Record>> {
    reporter.note(&format!("on {}\n{HEADER}", stopwatch.device().name))?;
    let mut records = Vec::new();
    for case in cases {
        match stopwatch.load(&case.shape) {
            Ok(()) => {}
            Err(error) if is_unsupported(&error) => {
                let skipped =
                    Skipped { name: &case.name, op: case.shape.op(), skipped: format!("{error:#}") };
                reporter.emit(&skipped)?;
                continue;
            }
            Err(error) => return Err(error.context(case.name.clone())),
        }
        for &regime in regimes {
            let rounds = (0..rounds).map(|_| stopwatch.round(regime));
            let rounds = rounds.collect::<anyhow::Result<Vec<Round>>>()?;
            let record = Record::new(case, regime, rounds, stopwatch.device());
            reporter.emit(&record)?;
            records.push(record);
        }
    }
    Ok(records)
}

fn is_unsupported(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(oximla::Error::Unsupported { .. }))
}

impl Processor {
    fn stopwatch(self) -> anyhow::Result<Box<dyn Stopwatch>> {
        Ok(match self {
            Self::Cuda => Box::new(Gpu::new()?),
            Self::Cpu => Box::new(Cpu::new()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use oximla::DeviceInfo;

    use super::ops::Shape;
    use super::*;

    /// A device that only knows dense decode, and whose calls take 1 µs, then 2 µs and so on.
    struct DenseOnly {
        info: DeviceInfo,
        calls: f64,
    }

    impl Stopwatch for DenseOnly {
        fn device(&self) -> &DeviceInfo {
            &self.info
        }

        fn load(&mut self, shape: &Shape) -> anyhow::Result<()> {
            match shape {
                Shape::DenseDecode(_) => Ok(()),
                Shape::SparseDecode(_) => Err(oximla::Error::Unsupported {
                    what: "sparse decode",
                    need: "something".into(),
                    have: "nothing".into(),
                }
                .into()),
                _ => anyhow::bail!("out of memory"),
            }
        }

        fn time(&mut self, _: Regime) -> anyhow::Result<f64> {
            self.calls += 1.0;
            Ok(self.calls)
        }
    }

    fn measured(names: &[&str]) -> anyhow::Result<Vec<Record>> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let cases = standard::select(standard::read(None)?, &names)?;
        let mut stopwatch = DenseOnly { info: oximla::Device::cpu().info()?, calls: 0.0 };
        measure(&cases, &[Regime::Burst], 2, &mut stopwatch, &mut Reporter::new(true))
    }

    #[test]
    fn what_a_device_does_not_support_is_passed_over_and_failures_are_not() {
        let records = measured(&["sparse-m1-b2-", "dense-b4-", "dense-b1-h16-"]).unwrap();
        let times: Vec<(&str, f64)> =
            records.iter().map(|record| (record.name.as_str(), record.us)).collect();
        assert_eq!(times, [("dense-b4-h128-q1-k8192", 1.5), ("dense-b1-h16-q1-k131072", 3.5)]);
        let why = format!("{:#}", measured(&["dense-b4-", "prefill-d576-h128-topk2048-k8192"]).unwrap_err());
        assert_eq!(why, "prefill-d576-h128-topk2048-k8192: out of memory");
    }
}
