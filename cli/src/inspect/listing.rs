//! PTX with counts.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use super::measure::Measured;
use super::report::{Count, WIDTH, clipped};

/// The lines of a kernel, each with how often warps execute it.
pub struct Listing<'a> {
    /// The module.
    pub ptx: &'a str,
    /// Counts of the kernel.
    pub measured: &'a Measured,
    /// What work grows with.
    pub unit: &'a str,
}

/// Width of a count and of a line's number.
const COLUMN: usize = 10;
const NUMBER: usize = 6;

impl Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of several instructions in a line, the one executed most counts.
        let mut counts: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for instruction in &self.measured.instructions {
            let [per_unit, fixed] = instruction.warps();
            let (most, most_fixed) = counts.entry(instruction.line).or_default();
            (*most, *most_fixed) = (most.max(per_unit), most_fixed.max(fixed));
        }
        let (Some((&first, _)), Some((&last, _))) = (counts.first_key_value(), counts.last_key_value())
        else {
            return write!(f, "no instruction was executed");
        };
        write!(f, "\n{:>COLUMN$}{:>COLUMN$}{:>NUMBER$}  PTX", format!("per {}", self.unit), "fixed", "line")?;
        let lines = self.ptx.lines().zip(1_u32..).skip_while(|(_, number)| *number < first);
        for (line, number) in lines.take_while(|(_, number)| *number <= last) {
            let text = line.replace('\t', " ");
            let text = clipped(text.trim_end(), WIDTH - 2 * COLUMN - NUMBER - 2);
            match counts.get(&number) {
                Some((per_unit, fixed)) => {
                    write!(
                        f,
                        "\n{:>COLUMN$}{:>COLUMN$}",
                        Count(*per_unit).to_string(),
                        Count(*fixed).to_string()
                    )?;
                }
                None => write!(f, "\n{:>COLUMN$}{:>COLUMN$}", "", "")?,
            }
            write!(f, "{number:>NUMBER$}  {text}")?;
        }
        Ok(())
    }
}
