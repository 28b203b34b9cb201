//! `oximla inspect`: what a kernel executes and moves, and how fast that could be.
//!
//! The kernel runs on the emulator, twice: the second run has four more units of work (key blocks, or partial results).
//! Their difference is what a unit takes, and what is left of the first run is fixed.

mod listing;
mod measure;
mod quantity;
mod report;
mod role;
mod roofline;
mod workload;

use std::path::{Path, PathBuf};

use clap::Args;

use self::listing::Listing;
use self::measure::Measured;
use self::report::Report;
use self::workload::{Shape, Workload};
use crate::Outcome;
use crate::gpu::GpuName;
use crate::progress::Progress;
use crate::report::Reporter;

/// The library's own PTX, for the listing.
const LIBRARY_PTX: &str = include_str!("../../../host/ptx/sm_90a.ptx");

const DEFAULT_TOP: usize = 10;

#[derive(Args)]
pub struct Options {
    /// Operation (dense_decode, combine) or entry (such as dense_decode_sm90_fp16)
    kernel: String,
    #[command(flatten)]
    shape: Shape,
    /// GPU whose ceilings to compare with
    #[arg(long, value_enum, default_value_t = GpuName::H200)]
    gpu: GpuName,
    /// PTX to inspect in place of the library's, with the same entries
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Show the N instructions that take most of an SM's time
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TOP)]
    top: usize,
    /// Show the kernel's PTX, each line with how often warps execute it
    #[arg(long, conflicts_with = "json")]
    ptx: bool,
    /// Print JSON, with all instructions
    #[arg(long)]
    pub json: bool,
}

/// Inspects a kernel.
///
/// # Errors
/// For a kernel that there is not and a shape that it cannot have, for a module that cannot be read, and where the
/// emulator finds the kernel wrong.
pub fn run(options: &Options, reporter: &mut Reporter) -> anyhow::Result<Outcome> {
    let workload = Workload::new(&options.kernel, &options.shape)?;
    let module = options.module.as_deref().map(read).transpose()?;
    let progress = Progress::waiting("emulating");
    let measured = Measured::new(&workload, options.shape.seed, module.as_deref())?;
    drop(progress);
    reporter.emit(&Report::new(&workload, &measured, &options.gpu.ceilings(), options.top))?;
    if options.ptx {
        let ptx = module.as_deref().unwrap_or(LIBRARY_PTX);
        reporter.note(&Listing { ptx, measured: &measured, unit: workload.unit() }.to_string())?;
    }
    Ok(Outcome::Passed)
}

fn read(path: &Path) -> Result<String, oximla::Error> {
    std::fs::read_to_string(path)
        .map_err(|error| oximla::Error::File { path: path.display().to_string(), reason: error.to_string() })
}
