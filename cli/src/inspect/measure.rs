//! What a kernel's warps do for each unit of work, from the difference of two runs.

use oximla::ptx_emulator::profile::Profile;
use oximla::{Device, EmulatedOptions, EmulatedReports, Error};

use super::quantity::{Quantity, Tally, class};
use super::role::{Role, roles};
use super::workload::{Run, Workload};

/// Work as a line: `fixed + units · per_unit`, of one CTA.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    /// What a unit takes.
    pub per_unit: Tally,
    /// What is left where there are no units.
    pub fixed: Tally,
}

/// One instruction of the kernel, all warps together.
#[derive(Clone, Debug)]
pub struct InstructionCost {
    /// As the PTX has it.
    pub text: String,
    /// Line of the PTX.
    pub line: u32,
    /// Its class.
    pub class: Quantity,
    /// Indices of the roles that executed it.
    pub roles: Vec<usize>,
    /// What it took.
    pub cost: Line,
}

/// What was measured of a kernel.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Roles of the warps of a CTA.
    pub roles: Vec<(Role, Line)>,
    /// All roles together.
    pub all: Line,
    /// Instructions that were executed, in the order of the PTX.
    pub instructions: Vec<InstructionCost>,
    /// CTAs of the smaller run.
    pub ctas: u32,
    /// Threads of a CTA.
    pub threads: u32,
    /// Units of work of one column of CTAs: in the smaller run and in the larger.
    pub units: [f64; 2],
    /// Counts of the whole smaller run.
    pub total: Tally,
}

/// Counts of one run.
struct Sample {
    profile: Profile,
    grid: [u32; 2],
    /// Units that all CTAs did together.
    units: f64,
}

impl Measured {
    /// Runs the workload twice on the emulator.
    ///
    /// # Errors
    /// What the library says of the problem, and what the emulator finds wrong with the kernel.
    pub fn new(workload: &Workload, seed: u64, ptx: Option<&str>) -> Result<Self, Error> {
        let runs = workload.runs();
        let (small, large) =
            (&sample(workload, &runs[0], seed, ptx)?, &sample(workload, &runs[1], seed, ptx)?);
        let ctas = small.grid[0] * small.grid[1];
        let line = |small_counts: Tally, large_counts: Tally| {
            let per_unit = (large_counts - small_counts) / (large.units - small.units);
            let fixed = (small_counts - per_unit * small.units) / f64::from(ctas);
            Line { per_unit, fixed }
        };

        let classes: Vec<Quantity> = small.profile.instructions.iter().map(|(text, _)| class(text)).collect();
        let sum = |sample: &Sample, warps: std::ops::Range<usize>, instructions: std::ops::Range<usize>| {
            let mut sum = Tally::default();
            for counts in &sample.profile.warps[warps] {
                instructions.clone().for_each(|index| sum += Tally::new(classes[index], &counts[index]));
            }
            sum
        };
        let (warps, count) = (small.profile.warps.len(), classes.len());
        let of = |warps: std::ops::Range<usize>, instructions: std::ops::Range<usize>| {
            line(sum(small, warps.clone(), instructions.clone()), sum(large, warps, instructions))
        };

        let roles = roles(workload.entry, &large.profile);
        let executes = |role: &Role, index: usize| {
            large.profile.warps[role.warps.clone()].iter().any(|counts| counts[index].warps > 0)
        };
        let instructions =
            large.profile.instructions.iter().enumerate().map(|(index, (text, line))| InstructionCost {
                text: text.clone(),
                line: *line,
                class: classes[index],
                roles: (0..roles.len()).filter(|role| executes(&roles[*role], index)).collect(),
                cost: of(0..warps, index..index + 1),
            });
        let instructions = instructions.filter(|instruction| !instruction.roles.is_empty()).collect();
        Ok(Self {
            all: of(0..warps, 0..count),
            total: sum(small, 0..warps, 0..count),
            roles: roles.into_iter().map(|role| (role.clone(), of(role.warps, 0..count))).collect(),
            instructions,
            ctas,
            threads: 32 * warps as u32,
            units: [runs[0].units, runs[1].units],
        })
    }
}

fn sample(workload: &Workload, run: &Run, seed: u64, ptx: Option<&str>) -> Result<Sample, Error> {
    let reports = EmulatedReports::default();
    let device = Device::emulated(EmulatedOptions {
        multiprocessors: run.multiprocessors,
        seed,
        races: false,
        profile: true,
        reports: Some(reports.clone()),
        ptx: ptx.map(str::to_owned),
        ..EmulatedOptions::default()
    })?;
    run.case.run(&device)?;
    let report = reports.take().into_iter().find(|report| report.entry == workload.entry);
    let report = report.ok_or_else(|| Error::Unsupported {
        what: workload.entry,
        need: "a problem that runs it".into(),
        have: workload.description(),
    })?;
    let units = workload.units(run, report.grid);
    Ok(Sample { profile: report.report.profile, grid: report.grid, units })
}
