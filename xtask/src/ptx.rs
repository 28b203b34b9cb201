//! `cargo xtask ptx`: the PTX of the kernels and of the kernels that test wrappers, each with its manifest.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use oximla_ptx_build::assemble::Ptxas;
use oximla_ptx_build::manifest::{Manifest, Module};
use oximla_ptx_build::{Arch, BuildError, Built, MANIFEST, PtxBuilder};
use oximla_types::kernels::SM90A_CONTRACTS;
use oximla_types::kernels::wrapper_tests::WRAPPER_CONTRACTS;
use oximla_types::launch::LaunchContract;

const ARCH: Arch = Arch::Sm90a;

/// A module that is committed. Paths are the workspace's.
struct Committed {
    path: &'static str,
    contracts: &'static [LaunchContract],
    /// The feature of kernels-gpu that it takes.
    feature: Option<&'static str>,
    /// Counts of synchronising instructions; none where running every entry on the emulator says more.
    sync_sites: Option<&'static str>,
}

const MODULES: [Committed; 2] = [
    Committed {
        path: "host/ptx/sm_90a.ptx",
        contracts: SM90A_CONTRACTS,
        feature: None,
        sync_sites: Some("ptx/build/expected/sm_90a.json"),
    },
    Committed {
        path: "tests/ptx/wrappers_sm_90a.ptx",
        contracts: WRAPPER_CONTRACTS,
        feature: Some("wrapper-tests"),
        sync_sites: None,
    },
];

#[derive(clap::Args)]
pub struct Options {
    /// Write nothing; fail unless the committed modules are what the sources give
    #[arg(long)]
    check: bool,
    /// Accept the counts of synchronising instructions found
    #[arg(long, conflicts_with = "check")]
    bless: bool,
    /// Fail where no ptxas is found to assemble the result
    #[arg(long)]
    require_ptxas: bool,
}

pub fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    MODULES.iter().try_for_each(|module| build(root, module, options))
}

/// Builds or checks a module, and assembles it.
fn build(root: &Path, committed: &Committed, options: &Options) -> anyhow::Result<()> {
    let path = root.join(committed.path);
    let manifest_path = path.with_file_name(MANIFEST);
    let manifest = Manifest::load(&manifest_path)?;
    let module = manifest.modules.get(ARCH.name());
    let mut builder = PtxBuilder::new(root.join("kernels-gpu"))
        .arch(ARCH)
        .contracts(committed.contracts)
        .bless(options.bless);
    if let Some(feature) = committed.feature {
        builder = builder.feature(feature);
    }
    if let Some(sync_sites) = committed.sync_sites {
        builder = builder.sync_sites(root.join(sync_sites));
    }
    if let Some(module) = module {
        builder = builder.prefer_compiler(&module.compiler);
    }

    if options.check {
        let module = module.with_context(|| format!("{} lacks {ARCH}", manifest_path.display()))?;
        check(&builder, &path, &manifest_path, module)?;
    } else {
        let built = builder.copy_to(&path).build()?;
        for difference in &built.blessed {
            println!("blessed: {difference}");
        }
        let (entries, compiler) = (built.module.entries.len(), &built.module.compiler);
        println!("{}: {entries} entries by {compiler}", path.display());
    }
    assemble(&path, options.require_ptxas)
}

/// Compares the committed module with one built now; by digest of the sources where the compiler is another one.
fn check(builder: &PtxBuilder, path: &Path, manifest: &Path, committed: &Module) -> anyhow::Result<()> {
    let ptx = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let compiler = builder.toolchain()?.compiler;
    if compiler != committed.compiler {
        println!(
            "{} was made by {}, and here is {compiler}: comparing the sources' digest instead of the text",
            path.display(),
            committed.compiler
        );
        return Ok(builder.verify(&ptx, path, committed)?);
    }
    let Built { ptx: rebuilt, module, path: rebuilt_path, .. } = builder.build()?;
    if rebuilt != ptx {
        bail!(
            "{} is out of date: compare {}, then run `cargo xtask ptx` and commit what it writes",
            path.display(),
            rebuilt_path.display()
        );
    }
    if module != *committed {
        let what = "the sources or the launch contracts have changed";
        return Err(BuildError::Outdated { path: manifest.to_owned(), what }.into());
    }
    println!("{} is up to date", path.display());
    Ok(())
}

/// Assembles the module where there is a ptxas, and tells what its entries use.
fn assemble(ptx: &Path, required: bool) -> anyhow::Result<()> {
    let Some(ptxas) = Ptxas::find()? else {
        let found = "no ptxas; `pip install --no-deps nvidia-cuda-nvcc==13.0.88` brings one";
        if required {
            bail!(found);
        }
        println!("{found}; not assembled");
        return Ok(());
    };
    for entry in ptxas.assemble(ptx, ARCH)? {
        let (registers, shared) = (entry.registers, entry.shared_bytes);
        println!("{}: {registers} registers, {shared} B static shared memory, no spills", entry.name);
    }
    Ok(())
}
