//! Loading a module and launching its entries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::diagnostic::{Check, Diagnostic};
use crate::machine::{Context, Dependency, Unit};
use crate::memory::GlobalMemory;
use crate::order::{Footprint, Toucher};
use crate::profile::Profile;
use crate::program::Program;
use crate::stream::{Earlier, site};

/// Limits of a launch (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", 9.0).
const MAX_THREADS: u32 = 1024;
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
const MAX_GRID: [u32; 3] = [0x7fff_ffff, 65_535, 65_535];
const MAX_SHARED_BYTES: u32 = 232_448;

/// CTAs of a cluster, non-portable sizes included.
const MAX_CLUSTER: u32 = 16;

/// CTAs of a launch, which are all listed before it begins; if they can speak to each other, they also need a number of 16
/// bits each.
const MAX_CTAS: u64 = 1 << 20;
const MAX_COMMUNICATING_CTAS: u64 = u16::MAX as u64;

/// A module, parsed and decoded: every instruction is known and has operands that fit.
#[derive(Debug)]
pub struct Module {
    programs: Vec<Arc<Program>>,
}

/// One launch of an entry.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Name of the entry.
    pub entry: &'a str,
    /// CTAs in each dimension.
    pub grid: [u32; 3],
    /// Threads of a CTA in each dimension.
    pub block: [u32; 3],
    /// CTAs of a cluster in each dimension; `[1, 1, 1]` takes what the entry asks for.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a CTA, in bytes.
    pub shared_bytes: u32,
    /// The bytes of each parameter.
    pub parameters: &'a [&'a [u8]],
}

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Draws the order of warps and of asynchronous completions. The same seed gives the same run.
    pub seed: u64,
    /// Instructions a warp may execute before the launch is given up, so that endless loops end.
    pub max_steps: u64,
    /// What to look for.
    pub checks: Checks,
    /// Findings after which a launch is given up; at least one.
    pub max_diagnostics: usize,
}

/// Which of the costly checks to make; the others are always on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Data races and missing proxy fences.
    pub races: bool,
    /// Counting bank conflicts and sectors, per instruction.
    pub profile: bool,
}

/// What a launch did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong with the kernel; empty for a sound run.
    pub diagnostics: Vec<Diagnostic>,
    /// Counts, if they were asked for.
    pub profile: Profile,
}

/// Why a module could not be loaded or launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The text is not PTX that this emulator knows.
    #[error("{0}")]
    Syntax(String),
    /// An instruction is PTX, but with modifiers or operands that this emulator does not run.
    #[error("line {position}: {instruction}: {reason}")]
    Unsupported {
        /// Where it stands.
        position: ptx_syntax::ast::Position,
        /// The instruction.
        instruction: String,
        /// What about it.
        reason: String,
    },
    /// The launch itself makes no sense.
    #[error("{argument} is {found}; needed is {needed}")]
    Argument {
        /// What of the launch.
        argument: &'static str,
        /// What it was.
        found: String,
        /// What it should have been.
        needed: String,
    },
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            max_steps: 50_000_000,
            checks: Checks { races: true, profile: false },
            max_diagnostics: 16,
        }
    }
}

impl Module {
    /// Parses and decodes PTX.
    ///
    /// # Errors
    /// Where the text is not PTX, or holds an instruction that cannot be run.
    pub fn load(ptx: &str) -> Result<Self, LaunchError> {
        let module = ptx_syntax::parse(ptx).map_err(|error| LaunchError::Syntax(error.to_string()))?;
        Ok(Self { programs: Program::of_module(&module)?.into_iter().map(Arc::new).collect() })
    }

    /// Names of the entries.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.programs.iter().map(|program| program.name.as_str())
    }
}

/// A launch that has ended, and what later ones have to know of it.
pub(crate) struct Ran {
    pub(crate) report: Report,
    pub(crate) program: Arc<Program>,
    /// `%ctaid`s of the CTAs that ran together.
    pub(crate) units: Vec<Vec<[u32; 3]>>,
    pub(crate) footprint: Footprint,
    pub(crate) dependency: Dependency,
}

/// Runs an entry to its end, after everything before it has ended; see [`crate::Stream`] for launches that overlap.
///
/// CTAs of different clusters run in parallel, on the threads of rayon's current pool, unless the entry has
/// instructions through which they could speak to each other.
///
/// # Errors
/// Where the launch does not fit the entry. What is wrong with the kernel itself is in the report.
pub fn launch(
    module: &Module,
    memory: &GlobalMemory,
    launch: &Launch<'_>,
    options: &Options,
) -> Result<Report, LaunchError> {
    run(module, memory, launch, options, &[]).map(|ran| ran.report)
}

/// As [`launch`], of a grid that may overlap earlier ones.
pub(crate) fn run(
    module: &Module,
    memory: &GlobalMemory,
    launch: &Launch<'_>,
    options: &Options,
    earlier: &[Earlier],
) -> Result<Ran, LaunchError> {
    let program = module.programs.iter().find(|program| program.name == launch.entry).ok_or_else(|| {
        let names: Vec<&str> = module.entries().collect();
        argument("entry", launch.entry, format!("one of {}", names.join(", ")))
    })?;
    let context = context(program, memory, launch, options, earlier)?;
    let clusters = clusters(&context);
    let units: Vec<Vec<[u32; 3]>> =
        if program.communicates { vec![clusters.into_iter().flatten().collect()] } else { clusters };

    // The first unit with so many findings that the report is full. Those before it still run, so that the report does
    // not depend on which came first.
    let last = AtomicUsize::new(units.len());
    let run = |(index, ctas): (usize, &Vec<[u32; 3]>)| {
        if index > last.load(Ordering::Relaxed) {
            return None;
        }
        let finished = Unit::new(&context, ctas, index as u64).run();
        if finished.diagnostics.len() >= options.max_diagnostics {
            last.fetch_min(index, Ordering::Relaxed);
        }
        Some(finished)
    };
    let results: Vec<_> = units.par_iter().enumerate().map(run).collect();

    let mut report = Report { diagnostics: Vec::new(), profile: Profile::new(&context) };
    let mut dependency = Dependency::default();
    let mut footprints = Vec::new();
    for finished in results.into_iter().take(last.into_inner().saturating_add(1)).flatten() {
        report.diagnostics.extend(finished.diagnostics);
        report.profile.add(&finished.profile, &finished.mbarrier_uses);
        dependency = dependency.and(finished.dependency);
        footprints.push(finished.footprint);
    }
    let footprint = Footprint::new(footprints);
    if let Some((first, second, address)) = footprint.conflict_of_groups() {
        report.diagnostics.push(conflict_between(&context, &units, &first, &second, address));
    }
    report.diagnostics.truncate(options.max_diagnostics.max(1));
    Ok(Ran { report, program: Arc::clone(program), units, footprint, dependency })
}

fn context<'a>(
    program: &'a Program,
    memory: &GlobalMemory,
    launch: &Launch<'_>,
    options: &'a Options,
    earlier: &'a [Earlier],
) -> Result<Context<'a>, LaunchError> {
    let cluster = match (launch.cluster, program.cluster) {
        ([1, 1, 1], Some(required)) => required,
        (given, _) => given,
    };
    let threads =
        launch.block.iter().try_fold(1_u32, |product, axis| product.checked_mul(*axis)).unwrap_or(u32::MAX);
    let shape = |[x, y, z]: [u32; 3]| format!("{x} x {y} x {z}");
    let most = program.max_threads.unwrap_or(MAX_THREADS).min(MAX_THREADS);
    if threads == 0 || threads > most {
        return Err(argument("block", shape(launch.block), format!("1 to {most} threads")));
    }
    for (argument_name, given, most) in [("block", launch.block, MAX_BLOCK), ("grid", launch.grid, MAX_GRID)]
    {
        if given.iter().zip(most).any(|(given, most)| *given > most) {
            return Err(argument(argument_name, shape(given), format!("at most {}", shape(most))));
        }
    }
    if let Some(required) = program.block.filter(|required| *required != launch.block) {
        return Err(argument(
            "block",
            shape(launch.block),
            format!("{}, as the entry says", shape(required)),
        ));
    }
    let ctas = launch.grid.iter().try_fold(1_u64, |product, axis| product.checked_mul(u64::from(*axis)));
    let most_ctas = if program.communicates { MAX_COMMUNICATING_CTAS } else { MAX_CTAS };
    if !ctas.is_some_and(|ctas| ctas > 0 && ctas <= most_ctas) {
        return Err(argument("grid", shape(launch.grid), format!("1 to {most_ctas} CTAs")));
    }
    let divides = launch.grid.iter().zip(cluster).all(|(grid, cluster)| cluster > 0 && grid % cluster == 0);
    if !divides || cluster.iter().product::<u32>() > MAX_CLUSTER {
        let needed = format!("a divisor of the grid, of at most {MAX_CLUSTER} CTAs");
        return Err(argument("cluster", shape(cluster), needed));
    }
    if program.cluster.is_some_and(|required| required != cluster) {
        let needed = program.cluster.map(shape).unwrap_or_default();
        return Err(argument("cluster", shape(cluster), format!("{needed}, as the entry says")));
    }
    let shared = u64::from(program.static_shared) + u64::from(launch.shared_bytes);
    if shared > u64::from(MAX_SHARED_BYTES) {
        let needed = format!("at most {MAX_SHARED_BYTES}, static memory included");
        return Err(argument("shared_bytes", shared, needed));
    }
    if launch.parameters.len() != program.parameters.len() {
        return Err(argument("parameters", launch.parameters.len(), program.parameters.len()));
    }
    let mut parameters = Vec::new();
    for (given, parameter) in launch.parameters.iter().zip(&program.parameters) {
        if given.len() != parameter.bytes as usize {
            let needed = format!("{} bytes for {}", parameter.bytes, parameter.name);
            return Err(argument("parameters", format!("{} bytes", given.len()), needed));
        }
        parameters.resize(parameter.offset as usize, 0);
        parameters.extend_from_slice(given);
    }
    let mut allocations = program.variables.to_vec();
    allocations.extend(memory.snapshot());
    allocations.sort_by_key(|allocation| allocation.base);
    Ok(Context {
        program,
        options,
        grid: launch.grid,
        block: launch.block,
        cluster,
        shared_bytes: launch.shared_bytes,
        parameters,
        allocations,
        earlier,
    })
}

/// The CTAs of each cluster, in order of their ranks.
fn clusters(context: &Context<'_>) -> Vec<Vec<[u32; 3]>> {
    let [cx, cy, cz] = context.cluster;
    let [nx, ny, nz] = [0, 1, 2].map(|axis| context.grid[axis] / context.cluster[axis]);
    let mut clusters = Vec::new();
    for (z, y, x) in (0..nz).flat_map(|z| (0..ny).flat_map(move |y| (0..nx).map(move |x| (z, y, x)))) {
        let ranks = (0..cz).flat_map(|k| (0..cy).flat_map(move |j| (0..cx).map(move |i| (i, j, k))));
        clusters.push(ranks.map(|(i, j, k)| [x * cx + i, y * cy + j, z * cz + k]).collect());
    }
    clusters
}

/// Two clusters that accessed the same memory without being able to order it.
fn conflict_between(
    context: &Context<'_>,
    units: &[Vec<[u32; 3]>],
    first: &Toucher,
    second: &Toucher,
    address: u64,
) -> Diagnostic {
    let site = |toucher: &Toucher| site(context.program, units, context.threads(), toucher);
    let noun = |toucher: &Toucher| if toucher.writes { "write" } else { "read" };
    let message = format!(
        "a {} of global memory at {address:#x} and a {} by another CTA are not ordered; nothing in this entry can order \
         them",
        noun(second),
        noun(first)
    );
    let related = vec![(format!("{} by the other CTA at", noun(first)), site(first))];
    Diagnostic { check: Check::DataRace, message, site: Some(site(second)), related }
}

fn argument(argument: &'static str, found: impl ToString, needed: impl ToString) -> LaunchError {
    LaunchError::Argument { argument, found: found.to_string(), needed: needed.to_string() }
}
