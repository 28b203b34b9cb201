//! What can go wrong, with the values that were wrong.

/// Why a call was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument contradicts the problem or another argument. Nothing was launched or written.
    #[error(transparent)]
    InvalidProblem(#[from] InvalidProblem),
    /// The problem is sound, but this device or build has nothing that computes it.
    #[error("{what} needs {need}; there is {have}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// What it takes.
        need: String,
        /// What was found instead.
        have: String,
    },
    /// A call into the GPU driver, or into the emulator in its place, failed.
    #[error("{call} failed{}: {code}", .kernel.map(|k| format!(" for {k}")).unwrap_or_default())]
    Driver {
        /// The driver function.
        call: &'static str,
        /// The driver's error code with its description.
        code: String,
        /// The kernel concerned, if one was.
        kernel: Option<&'static str>,
    },
    /// The emulator found mistakes in a kernel while it ran. What it had written by then, the outputs hold.
    #[cfg(feature = "emulated")]
    #[error("{kernel}: {}", list(.diagnostics))]
    Emulated {
        /// The kernel.
        kernel: &'static str,
        /// The findings; at least one.
        diagnostics: Vec<ptx_emulator::Diagnostic>,
    },
    /// A case file could not be read or written.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the system or the format said.
        reason: String,
    },
}

/// An argument that contradicts the problem or another argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{argument} is {found}; needed is {needed}")]
pub struct InvalidProblem {
    /// Name of the argument, as in the API.
    pub argument: String,
    /// What it was.
    pub found: String,
    /// What it should have been.
    pub needed: String,
}

impl InvalidProblem {
    /// An error about `argument`.
    pub fn new(
        argument: impl Into<String>,
        found: impl std::fmt::Display,
        needed: impl std::fmt::Display,
    ) -> Self {
        Self { argument: argument.into(), found: found.to_string(), needed: needed.to_string() }
    }
}

/// How many findings, and each in full.
#[cfg(feature = "emulated")]
fn list(diagnostics: &[ptx_emulator::Diagnostic]) -> String {
    let plural = if diagnostics.len() == 1 { "" } else { "s" };
    let findings = diagnostics.iter().map(|diagnostic| format!("\n{diagnostic}"));
    std::iter::once(format!("{} finding{plural} of the emulator", diagnostics.len()))
        .chain(findings)
        .collect()
}
