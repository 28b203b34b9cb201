//! Loading a module and launching its entries.

use crate::diagnostic::Diagnostic;
use crate::memory::GlobalMemory;
use crate::profile::Profile;

/// A module, parsed and decoded: every instruction is known and has operands that fit.
#[derive(Debug)]
pub struct Module {}

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
    /// Findings after which a launch is given up.
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
    pub fn load(_ptx: &str) -> Result<Self, LaunchError> {
        Ok(Self {})
    }
}

/// Runs an entry to its end.
///
/// # Errors
/// Where the launch does not fit the entry. What is wrong with the kernel itself is in the report.
pub fn launch(
    _module: &Module,
    _memory: &GlobalMemory,
    _launch: &Launch<'_>,
    _options: &Options,
) -> Result<Report, LaunchError> {
    Ok(Report::default())
}
