//! `cargo xtask bundle`: programs and cases for a GPU machine without Rust.

use std::ffi::OsStr;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use cargo_metadata::{Artifact, Message};

/// Folder of the workspace that git ignores.
const FOLDER: &str = "bundle";

#[derive(clap::Args)]
pub struct Options {
    /// Folder with case files to take along
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
}

pub fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    // Looked at before the old bundle goes.
    let cases = options.cases.as_deref().map(case_files).transpose()?.unwrap_or_default();
    let programs = executables(root, &["build", "--release", "--package", "oximla-cli"])?;
    let tests = executables(root, &["test", "--release", "--package", "oximla-conformance", "--no-run"])?;
    ensure!(!programs.is_empty() && !tests.is_empty(), "cargo built no executables");

    let bundle = root.join(FOLDER);
    if bundle.exists() {
        fs::remove_dir_all(&bundle).with_context(|| bundle.display().to_string())?;
    }
    for folder in ["tests", "cases"] {
        fs::create_dir_all(bundle.join(folder)).with_context(|| bundle.display().to_string())?;
    }
    for (name, program) in programs {
        strip(&program, &bundle.join(name))?;
    }
    for (name, test) in tests {
        strip(&test, &bundle.join("tests").join(name))?;
    }
    for case in cases {
        let name = case.file_name().context("a case file has a name")?;
        fs::copy(&case, bundle.join("cases").join(name)).with_context(|| case.display().to_string())?;
    }
    println!("{}: {:.1} MB", bundle.display(), bytes(&bundle)? as f64 / 1e6);
    Ok(())
}

/// Runs cargo and returns the executables it built, with the names of their targets.
fn executables(root: &Path, arguments: &[&str]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo)
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo")?;
    let messages = BufReader::new(build.stdout.take().context("cargo's output")?);
    let mut found = Vec::new();
    for message in Message::parse_stream(messages) {
        if let Message::CompilerArtifact(Artifact { executable: Some(path), target, .. }) = message? {
            found.push((target.name, path.into()));
        }
    }
    let status = build.wait()?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(found)
}

fn case_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|path| path.extension() == Some(OsStr::new("safetensors")));
    ensure!(!files.is_empty(), "{} holds no .safetensors files", folder.display());
    Ok(files)
}

/// Copies an executable without symbols and debug information.
fn strip(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("strip").arg("-o").args([to, from]).status();
    let status = status.context("strip, which comes with binutils")?;
    ensure!(status.success(), "strip {} failed", from.display());
    Ok(())
}

/// Size of all files in a folder.
fn bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let size = entry.metadata()?;
        sum += if size.is_dir() { bytes(&entry.path())? } else { size.len() };
    }
    Ok(sum)
}
