//! Why there is no module, and what to do about it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::finish::FinishError;
use crate::lint::Violation;
use crate::toolchain::NoToolchain;

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No compiler will do.
    #[error(transparent)]
    NoToolchain(#[from] NoToolchain),
    /// Cargo does not understand the workspace.
    #[error(transparent)]
    Workspace(#[from] cargo_metadata::Error),
    /// The crate, or one it depends on, is not a library of the workspace.
    #[error("{} is not the manifest of a library in the workspace", .0.display())]
    NotAMember(PathBuf),
    /// The workspace lacks the profile.
    #[error("{} has no [profile.ptx]", .0.display())]
    NoProfile(PathBuf),
    /// The kernels do not compile.
    #[error("compiling {package} for the GPU failed ({status}); the compiler's errors stand above")]
    Compile {
        /// The kernel crate.
        package: String,
        /// How cargo ended.
        status: ExitStatus,
    },
    /// The compiler left nothing.
    #[error("the compiler left no assembly below {}; remove that folder and try again", .dir.display())]
    NoAssembly {
        /// The target folder.
        dir: PathBuf,
    },
    /// Module and contracts do not fit.
    #[error(transparent)]
    Finish(#[from] FinishError),
    /// The module breaks rules.
    #[error("{} breaks {} rule(s):{}", .path.display(), .violations.len(), lines(.violations))]
    Lint {
        /// Where the module can be read.
        path: PathBuf,
        /// The places.
        violations: Vec<Violation>,
    },
    /// The counts of synchronising instructions are not the blessed ones.
    #[error(
        "synchronising instructions are not as {} says:{}\n`cargo xtask ptx --bless` accepts them; first make sure that \
         each new one stands in the source and is not LLVM's copy of another",
        .path.display(), lines(.differences)
    )]
    SyncSites {
        /// The file with the counts.
        path: PathBuf,
        /// What changed.
        differences: Vec<String>,
    },
    /// The committed module is not what the sources give.
    #[error("{} is out of date: {what}; run `cargo xtask ptx` and commit what it writes", .path.display())]
    Outdated {
        /// The module or its manifest.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// The override names no assembler.
    #[error("{} names {}, which is no file", crate::assemble::OVERRIDE, .0.display())]
    NoPtxas(PathBuf),
    /// The assembler is not content.
    #[error("ptxas refuses {}:{}", .path.display(), lines(.problems))]
    Assemble {
        /// The module.
        path: PathBuf,
        /// The lines of its report that matter.
        problems: Vec<String>,
    },
    /// A file or a program cannot be used.
    #[error("{}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system or the format said.
        reason: Box<dyn Error + Send + Sync>,
    },
}

impl BuildError {
    pub(crate) fn file(path: &Path, reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::File { path: path.to_owned(), reason: reason.into() }
    }
}

/// Items on lines of their own.
fn lines<T: ToString>(items: &[T]) -> String {
    items.iter().map(|item| format!("\n  {}", item.to_string())).collect()
}
