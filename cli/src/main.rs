//! `oximla`: multi-head latent attention on the command line.
//!
//! Exit status: 0 if all went well, 1 if a check or a run failed, 2 for a wrong command line.

mod backend;
mod bench;
mod check;
mod compare;
mod gpu;
mod info;
mod inspect;
mod layout;
mod oracle;
mod pipeline;
mod progress;
mod report;
mod run;
mod synthetic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use report::Reporter;

/// Multi-head latent attention (MLA), dense and sparse, on a GPU or the CPU
///
/// Without a command: `run`.
#[derive(Parser)]
#[command(name = "oximla", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Compute attention, time it and compare it with the float64 reference
    Run(run::Options),
    /// Compare the answers in case files with what a backend computes
    Check(check::Options),
    /// Time the standard cases, and plot the times
    Bench(bench::Options),
    /// Show devices, drivers and kernels
    Info(info::Options),
    /// Show what a kernel executes for each key block, and what bounds it
    Inspect(inspect::Options),
}

/// How a command that could be carried out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.command.unwrap_or(Command::Run(arguments.run)) {
        Command::Run(options) => run::run(&options, &mut Reporter::new(options.json)),
        Command::Check(options) => check::run(&options, &mut Reporter::new(options.json)),
        Command::Bench(options) => bench::run(&options, &mut Reporter::new(options.json)),
        Command::Info(options) => info::run(&mut Reporter::new(options.json)),
        Command::Inspect(options) => inspect::run(&options, &mut Reporter::new(options.json)),
    };
    match ended {
        Ok(Outcome::Passed) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}
