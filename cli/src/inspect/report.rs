//! What `oximla inspect` prints.

use std::fmt::{self, Display};

use serde::Serialize;

use super::measure::{InstructionCost, Line, Measured};
use super::quantity::{QUANTITIES, Quantity, Tally};
use super::role::warps;
use super::roofline::{LaunchBound, Resource, bound, resources};
use super::workload::Workload;
use crate::gpu::Gpu;
use crate::report::{Digits, Seconds};

/// Columns that tables may take.
pub const WIDTH: usize = 110;

const LABEL: usize = 24;
const NUMBER: usize = 10;
/// Two numbers and the space between them.
const PAIR: usize = 2 * NUMBER + 1;
/// Roles of one table, so that it fits; all roles together come last.
const ROLES_PER_TABLE: usize = 3;

#[derive(Serialize)]
pub struct Report {
    kernel: &'static str,
    shape: String,
    /// What the work grows with.
    unit: &'static str,
    unit_is: &'static str,
    /// Units of a column of CTAs in the two runs.
    units: [f64; 2],
    threads: u32,
    roles: Vec<Column>,
    all: Column,
    gpu: Gpu,
    /// CTAs of a cluster.
    cluster: u32,
    /// Clusters that share what comes from memory.
    sharers: u32,
    /// Of a unit.
    resources: [Resource; 5],
    bound: &'static str,
    launch: LaunchBound,
    /// Those that were executed, in the order of the PTX.
    instructions: Vec<Row>,
    #[serde(skip)]
    top: usize,
}

#[derive(Clone, Serialize)]
struct Column {
    role: String,
    warps: String,
    per_unit: Tally,
    fixed: Tally,
}

#[derive(Serialize)]
struct Row {
    line: u32,
    text: String,
    class: Quantity,
    roles: Vec<String>,
    per_unit: Tally,
    fixed: Tally,
    /// Cycles of an SM that a unit takes here, by the resource that takes longest.
    cycles: f64,
    bound: &'static str,
}

impl Report {
    /// Of a kernel on a GPU. People are shown the `top` instructions.
    pub fn new(workload: &Workload, measured: &Measured, gpu: &Gpu, top: usize) -> Self {
        let sharers = workload.sharers();
        let column = |role: &str, warps: String, line: &Line| Column {
            role: role.to_owned(),
            warps,
            per_unit: line.per_unit,
            fixed: line.fixed,
        };
        let roles: Vec<Column> =
            measured.roles.iter().map(|(role, line)| column(&role.name, warps(&role.warps), line)).collect();
        let row = |instruction: &InstructionCost| {
            let InstructionCost { text, line, class, roles: executing, cost } = instruction;
            let bound = bound(&resources(&cost.per_unit, sharers, gpu));
            Row {
                line: *line,
                text: text.clone(),
                class: *class,
                roles: executing.iter().map(|index| roles[*index].role.clone()).collect(),
                per_unit: cost.per_unit,
                fixed: cost.fixed,
                cycles: bound.cycles,
                bound: bound.resource,
            }
        };
        let resources = resources(&measured.all.per_unit, sharers, gpu);
        Self {
            kernel: workload.entry,
            shape: workload.description(),
            unit: workload.unit(),
            unit_is: workload.unit_description(),
            units: measured.units,
            threads: measured.threads,
            instructions: measured.instructions.iter().map(row).collect(),
            all: column("all", String::new(), &measured.all),
            roles,
            gpu: *gpu,
            cluster: workload.cluster(),
            sharers,
            bound: bound(&resources).resource,
            resources,
            launch: LaunchBound::new(&measured.total, measured.ctas, sharers, gpu),
            top,
        }
    }

    fn seconds(&self, cycles: f64) -> Seconds {
        Seconds(cycles / self.gpu.clock)
    }

    fn table(&self, f: &mut fmt::Formatter<'_>, columns: &[&Column]) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, label: &str, cells: &[[String; 2]]| {
            let cells: String = cells.iter().map(|[a, b]| format!("{a:>NUMBER$} {b:>NUMBER$}")).collect();
            write!(f, "\n{}", format!("{label:<LABEL$}{cells}").trim_end())
        };
        writeln!(f)?;
        let head = |f: &mut fmt::Formatter<'_>, names: Vec<&str>| {
            let names: String = names.iter().map(|name| format!("{name:>PAIR$}")).collect();
            if names.trim().is_empty() {
                Ok(())
            } else {
                write!(f, "\n{}", format!("{:LABEL$}{names}", "").trim_end())
            }
        };
        head(f, columns.iter().map(|column| column.role.as_str()).collect())?;
        // A role without a name is called by its warps.
        head(
            f,
            columns
                .iter()
                .map(|column| if column.role == column.warps { "" } else { &column.warps })
                .collect(),
        )?;
        let heads = vec![[format!("per {}", self.unit), "fixed".to_owned()]; columns.len()];
        line(f, "", &heads)?;
        for (quantity, _, label) in QUANTITIES {
            let is_zero = |tally: &Tally| Count(tally.get(quantity)).is_zero();
            if is_zero(&self.all.per_unit) && is_zero(&self.all.fixed) {
                continue;
            }
            let cell = |tally: &Tally| Count(tally.get(quantity)).to_string();
            let cells: Vec<_> =
                columns.iter().map(|column| [cell(&column.per_unit), cell(&column.fixed)]).collect();
            line(f, label, &cells)?;
        }
        Ok(())
    }

    fn roofline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gpu { name, multiprocessors, clock, source, .. } = self.gpu;
        write!(
            f,
            "\n\nAt best, a {} on an SM of {name}, all {multiprocessors} SMs alike at {} GHz:\n",
            self.unit,
            Digits(clock / 1e9)
        )?;
        write!(f, "{:<LABEL$}{:>12} {:<13}{:>14}{:>12}{:>12}", "", "work", "", "a cycle", "cycles", "time")?;
        let used = self.resources.iter().filter(|resource| resource.work > 0.0);
        for &Resource { resource, work, unit, per_cycle, cycles } in used {
            let (work, per_cycle, seconds) =
                (Count(work).to_string(), Digits(per_cycle), self.seconds(cycles));
            let mark = if resource == self.bound { "  < bound" } else { "" };
            let columns = [per_cycle.to_string(), Count(cycles).to_string(), seconds.to_string()];
            let [per_cycle, cycles, seconds] = columns;
            write!(
                f,
                "\n{resource:<LABEL$}{work:>12} {unit:<13}{per_cycle:>14}{cycles:>12}{seconds:>12}{mark}"
            )?;
        }
        let LaunchBound { ctas, us, bound } = self.launch;
        let plural = if ctas == 1 { "" } else { "s" };
        write!(
            f,
            "\nTensor and memory ceilings: {source}.\nThe launch of {ctas} CTA{plural} takes at least {} on {name} (bound: \
             {bound}).",
            Seconds(us * 1e-6)
        )
    }

    fn hottest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<&Row> = self.instructions.iter().filter(|row| row.cycles > 0.0).collect();
        rows.sort_by(|a, b| b.cycles.total_cmp(&a.cycles).then(a.line.cmp(&b.line)));
        rows.truncate(self.top);
        if rows.is_empty() {
            return Ok(());
        }
        write!(f, "\n\nInstructions that take most cycles of an SM, a {}:", self.unit)?;
        write!(f, "\n{:>8}{:>8}{:>7}  {:<18}{:<13}instruction", "cycles", "warps", "line", "by", "role")?;
        for row in rows {
            let role = if row.roles.len() == 1 { row.roles[0].as_str() } else { "several" };
            let start = format!(
                "{:>8}{:>8}{:>7}  {:<18}{role:<13}",
                Count(row.cycles).to_string(),
                Count(row.per_unit.get(Quantity::Instructions)).to_string(),
                row.line,
                row.bound
            );
            write!(f, "\n{start}{}", clipped(&row.text, WIDTH.saturating_sub(start.chars().count())))?;
        }
        Ok(())
    }
}

impl InstructionCost {
    /// How often warps execute it: for a unit, and besides.
    pub fn warps(&self) -> [f64; 2] {
        [self.cost.per_unit, self.cost.fixed].map(|tally| tally.get(Quantity::Instructions))
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, shape, unit, unit_is, units: [few, many], threads, .. } = self;
        write!(f, "{kernel}  {shape}")?;
        write!(
            f,
            "\n  from emulated runs of {} and {} {unit}s, CTAs of {threads} threads\n  a {unit} is {unit_is}; fixed is what a \
             CTA does besides",
            Count(*few),
            Count(*many)
        )?;
        let roles: Vec<&Column> = self.roles.iter().collect();
        let tables = roles.len().div_ceil(ROLES_PER_TABLE);
        for (index, roles) in roles.chunks(ROLES_PER_TABLE).enumerate() {
            // Where there is one role, it is all.
            let is_last = index + 1 == tables && self.roles.len() > 1;
            let columns: Vec<&Column> = roles.iter().copied().chain(is_last.then_some(&self.all)).collect();
            self.table(f, &columns)?;
        }
        self.roofline(f)?;
        self.hottest(f)?;
        let sharing = match (self.cluster, self.sharers) {
            (1, 1) => String::new(),
            (1, sharers) => format!(
                "\n{sharers} CTAs read the same keys; each is charged its part of what comes from memory."
            ),
            (cluster, sharers) => format!(
                "\n{} CTAs, in clusters of {cluster}, read the same keys; each is charged its part of what comes from \
                 memory.",
                cluster * sharers
            ),
        };
        write!(f, "\n\n{FOOTNOTES}{sharing}")
    }
}

const FOOTNOTES: &str = "\
Times are what each resource alone needs for the work counted: lower bounds, not a simulation. Latency,
waiting and the order of work are left out. Instructions are PTX's: the assembler drops most moves (left out
of the issue slots), fuses some instructions and expands others. Global memory is counted in 32-byte sectors,
as if all came from memory and none from the L2 cache. Waiting loops poll, so waits and the counts around them
vary with the seed; where a branch depends on data, so does the difference of two runs.";

/// A count: whole numbers as they are, means with a digit.
#[derive(Clone, Copy, Debug)]
pub struct Count(pub f64);

impl Count {
    fn is_zero(self) -> bool {
        self.0.abs() < 0.05
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded = self.0.round();
        match self {
            _ if self.is_zero() => write!(f, "-"),
            _ if (self.0 - rounded).abs() < 0.05 || rounded.abs() >= 100_000.0 => write!(f, "{rounded:.0}"),
            _ => write!(f, "{:.1}", self.0),
        }
    }
}

/// Text cut to a width.
pub fn clipped(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short() {
        let texts = [0.0, 12.0, 12.25, -0.01, 8_912_896.0, 123_456.7].map(|number| Count(number).to_string());
        assert_eq!(texts, ["-", "12", "12.2", "-", "8912896", "123457"]);
    }

    #[test]
    fn long_text_is_clipped() {
        assert_eq!((clipped("abcd", 4).as_str(), clipped("abcde", 4).as_str()), ("abcd", "abc…"));
    }
}
