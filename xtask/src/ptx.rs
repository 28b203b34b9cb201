//! `cargo xtask ptx`: the kernels' PTX and its manifest.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use oximla_ptx_build::assemble::Ptxas;
use oximla_ptx_build::manifest::{Manifest, Module};
use oximla_ptx_build::{Arch, BuildError, Built, MANIFEST, PtxBuilder};
use oximla_types::kernels::SM90A_CONTRACTS;

const ARCH: Arch = Arch::Sm90a;

#[derive(clap::Args)]
pub struct Options {
    /// Write nothing; fail unless host/ptx is what the sources give
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
    let committed = root.join("host/ptx").join(format!("{ARCH}.ptx"));
    let manifest_path = committed.with_file_name(MANIFEST);
    let expected = root.join("ptx/build/expected").join(format!("{ARCH}.json"));
    let manifest = Manifest::load(&manifest_path)?;
    let module = manifest.modules.get(ARCH.name());
    let mut builder = PtxBuilder::new(root.join("kernels-gpu"))
        .arch(ARCH)
        .contracts(SM90A_CONTRACTS)
        .sync_sites(expected)
        .bless(options.bless);
    if let Some(module) = module {
        builder = builder.prefer_compiler(&module.compiler);
    }

    if options.check {
        let module = module.with_context(|| format!("{} lacks {ARCH}", manifest_path.display()))?;
        check(&builder, &committed, &manifest_path, module)?;
    } else {
        let built = builder.copy_to(&committed).build()?;
        for difference in &built.blessed {
            println!("blessed: {difference}");
        }
        let (entries, compiler) = (built.module.entries.len(), &built.module.compiler);
        println!("{}: {entries} entries by {compiler}", committed.display());
    }
    assemble(&committed, options.require_ptxas)
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
