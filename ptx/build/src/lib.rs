//! Compiles a crate of GPU kernels to finished, linted PTX, in the manner of Rust-CUDA's `cuda_builder` but with
//! rustc's own `nvptx64-nvidia-cuda` target.
//!
//! ```no_run
//! use oximla_ptx_build::{Arch, PtxBuilder};
//! # let contracts: &[oximla_types::launch::LaunchContract] = &[];
//!
//! let built = PtxBuilder::new("kernels-gpu")
//!     .arch(Arch::Sm90a)
//!     .contracts(contracts)
//!     .sync_sites("ptx/build/expected/sm_90a.json")
//!     .copy_to("host/ptx/sm_90a.ptx")
//!     .build()?;
//! println!("{} entries by {}", built.module.entries.len(), built.module.compiler);
//! # Ok::<(), oximla_ptx_build::BuildError>(())
//! ```
//!
//! One step, one module:
//!
//! 1. [`toolchain`]: find a compiler that can do it;
//! 2. `compile`: the crate becomes one PTX module, the same wherever the checkout lies;
//! 3. `finish`: the text is parsed, and the launch contracts become directives, which rustc has no attribute for;
//! 4. [`lint`]: no calls, no local memory, the right target;
//! 5. [`sync_sites`]: as many synchronising instructions as were blessed;
//! 6. [`manifest`]: what the module was made from and what its kernels need;
//! 7. [`assemble`]: with ptxas, where there is one. Not part of [`PtxBuilder::build`].

mod arch;
pub mod assemble;
mod compile;
mod error;
mod finish;
pub mod lint;
pub mod manifest;
mod project;
pub mod sync_sites;
pub mod toolchain;

use std::path::{Path, PathBuf};

use oximla_types::launch::LaunchContract;
use ptx_syntax::ast;

pub use arch::Arch;
pub use error::BuildError;
pub use finish::FinishError;
pub use ptx_syntax::ParseError;

use manifest::{Manifest, Module};
use project::Project;
use sync_sites::SyncSites;
use toolchain::Toolchain;

/// Name of the manifest, in the folder of the modules.
pub const MANIFEST: &str = "manifest.json";

/// Compiles a crate of kernels for one architecture.
#[derive(Clone, Debug)]
pub struct PtxBuilder {
    kernels: PathBuf,
    arch: Arch,
    feature: Option<String>,
    contracts: Vec<LaunchContract>,
    sync_sites: Option<PathBuf>,
    bless: bool,
    copy_to: Option<PathBuf>,
    preferred_compiler: Option<String>,
}

/// A finished module.
#[derive(Clone, Debug)]
pub struct Built {
    /// Its text.
    pub ptx: String,
    /// Where the text lies, below cargo's target folder.
    pub path: PathBuf,
    /// What the manifest says of it.
    pub module: Module,
    /// What blessing changed in the counts of synchronising instructions, one line each.
    pub blessed: Vec<String>,
}

impl PtxBuilder {
    /// Builds the crate in the folder `kernels`, a member of a workspace with a `ptx` profile.
    pub fn new(kernels: impl Into<PathBuf>) -> Self {
        Self {
            kernels: kernels.into(),
            arch: Arch::Sm90a,
            feature: None,
            contracts: Vec::new(),
            sync_sites: None,
            bless: false,
            copy_to: None,
            preferred_compiler: None,
        }
    }

    /// The architecture to build for.
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = arch;
        self
    }

    /// The cargo feature to build with.
    ///
    /// What only a feature brings in lies in modules of its name: without it they are no sources of the module.
    pub fn feature(mut self, feature: impl Into<String>) -> Self {
        self.feature = Some(feature.into());
        self
    }

    /// The launch contracts, one for each entry of the module.
    pub fn contracts(mut self, contracts: &[LaunchContract]) -> Self {
        self.contracts = contracts.to_vec();
        self
    }

    /// The file with the counts of synchronising instructions that the module must have.
    pub fn sync_sites(mut self, path: impl Into<PathBuf>) -> Self {
        self.sync_sites = Some(path.into());
        self
    }

    /// Whether to write the counts found instead of comparing them.
    pub fn bless(mut self, bless: bool) -> Self {
        self.bless = bless;
        self
    }

    /// The file to copy the module to; the manifest is written beside it.
    pub fn copy_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.copy_to = Some(path.into());
        self
    }

    /// The compiler to take if it is there, as a manifest names it.
    pub fn prefer_compiler(mut self, compiler: impl Into<String>) -> Self {
        self.preferred_compiler = Some(compiler.into());
        self
    }

    /// Finds the compiler a build would use.
    ///
    /// # Errors
    /// Where there is none.
    pub fn toolchain(&self) -> Result<Toolchain, BuildError> {
        Ok(Toolchain::find(self.preferred_compiler.as_deref())?)
    }

    /// Digest of what the module is made from.
    ///
    /// # Errors
    /// Where there is no compiler or the sources cannot be read.
    pub fn source_sha256(&self) -> Result<String, BuildError> {
        self.project(&self.toolchain()?)?.source_sha256(self.arch)
    }

    /// Compiles, finishes and lints; then writes what [`copy_to`](Self::copy_to) and [`bless`](Self::bless) ask for.
    ///
    /// # Errors
    /// At the first step that fails. Nothing is written outside cargo's target folder then.
    pub fn build(&self) -> Result<Built, BuildError> {
        let toolchain = self.toolchain()?;
        let project = self.project(&toolchain)?;
        let source_sha256 = project.source_sha256(self.arch)?;
        let compiled = compile::compile(&toolchain, &project, self.arch)?;

        let origin = format!("Made from {} by {}. Do not edit.", project.package, toolchain.compiler);
        let ptx = finish::finish(&compiled, &self.contracts, &origin)?;
        let path = project.target_dir.join(format!("{}.ptx", self.arch));
        manifest::write(&path, &ptx)?;
        let tree = ptx_syntax::parse(&ptx).map_err(FinishError::from)?;
        self.lint(&tree, &path)?;
        let blessed = self.compare_sync_sites(&tree)?;

        let module = Module {
            compiler: toolchain.compiler,
            source_sha256,
            ptx_sha256: project::sha256(ptx.as_bytes()),
            entries: manifest::entries(&self.contracts),
        };
        if let Some(copy) = &self.copy_to {
            let manifest_path = copy.with_file_name(MANIFEST);
            let mut manifest = Manifest::load(&manifest_path)?;
            manifest.modules.insert(self.arch.to_string(), module.clone());
            manifest::write(copy, &ptx)?;
            manifest.save(&manifest_path)?;
        }
        Ok(Built { ptx, path, module, blessed })
    }

    /// Checks a module that another compiler made: its text against the digest, its entries against the contracts,
    /// the sources against the digest, and the rules.
    ///
    /// # Errors
    /// At the first check that fails.
    pub fn verify(&self, ptx: &str, path: &Path, module: &Module) -> Result<(), BuildError> {
        let outdated = |what| Err(BuildError::Outdated { path: path.to_owned(), what });
        if module.ptx_sha256 != project::sha256(ptx.as_bytes()) {
            return outdated("its text was edited");
        }
        if module.source_sha256 != self.source_sha256()? {
            return outdated("the kernels' sources have changed");
        }
        if module.entries != manifest::entries(&self.contracts) {
            return outdated("the launch contracts have changed");
        }
        let tree = ptx_syntax::parse(ptx).map_err(FinishError::from)?;
        self.lint(&tree, path)?;
        Self { bless: false, ..self.clone() }.compare_sync_sites(&tree)?;
        Ok(())
    }

    fn project(&self, toolchain: &Toolchain) -> Result<Project, BuildError> {
        Project::load(&toolchain.cargo, &self.kernels, self.feature.as_deref())
    }

    fn lint(&self, tree: &ast::Module, path: &Path) -> Result<(), BuildError> {
        match lint::lint(tree, self.arch) {
            violations if violations.is_empty() => Ok(()),
            violations => Err(BuildError::Lint { path: path.to_owned(), violations }),
        }
    }

    /// Compares with the blessed counts or writes them; returns what was blessed.
    fn compare_sync_sites(&self, tree: &ast::Module) -> Result<Vec<String>, BuildError> {
        let Some(path) = &self.sync_sites else { return Ok(Vec::new()) };
        let found = sync_sites::sync_sites(tree);
        let expected =
            if self.bless && !path.exists() { SyncSites::new() } else { manifest::read_json(path)? };
        let differences = sync_sites::differences(&expected, &found);
        if differences.is_empty() {
            Ok(differences)
        } else if self.bless {
            manifest::write_json(path, &found)?;
            Ok(differences)
        } else {
            Err(BuildError::SyncSites { path: path.clone(), differences })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = include_str!("../fixtures/two_entries.ptx");

    #[test]
    fn changed_sync_sites_stop_a_build_until_blessed() {
        let path = std::env::temp_dir().join(format!("oximla-sync-sites-{}.json", std::process::id()));
        let builder = PtxBuilder::new("kernels").sync_sites(&path);
        let module = ptx_syntax::parse(MODULE).unwrap();
        assert!(
            matches!(builder.compare_sync_sites(&module), Err(BuildError::SyncSites { .. })),
            "nothing blessed yet"
        );
        let blessing = builder.clone().bless(true);
        let first = blessing.compare_sync_sites(&module).unwrap();
        assert_eq!(first.first().unwrap(), "copy_block is new");
        assert!(first.contains(&"copy_block: bar.sync 0 -> 2".to_owned()));
        assert!(builder.compare_sync_sites(&module).unwrap().is_empty());

        let changed = MODULE.replace("bar.sync \t0;", "bar.sync \t0; bar.sync \t0;");
        let changed = ptx_syntax::parse(&changed).unwrap();
        let error = builder.compare_sync_sites(&changed).unwrap_err().to_string();
        assert!(error.contains("copy_block: bar.sync 2 -> 3") && error.contains("--bless"), "{error}");
        assert_eq!(blessing.compare_sync_sites(&changed).unwrap(), ["copy_block: bar.sync 2 -> 3"]);
        assert!(builder.compare_sync_sites(&changed).unwrap().is_empty());
        std::fs::remove_file(path).unwrap();
    }
}
