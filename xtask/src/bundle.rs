//! `cargo xtask bundle`: programs, cases and the comparison with other programs for a GPU machine without Rust.

use std::ffi::OsStr;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use cargo_metadata::{Artifact, Message};

/// Folder of the workspace that git ignores.
const FOLDER: &str = "bundle";

/// What compares speeds, in the workspace and in the bundle.
const BENCH: &str = "bench";
/// Folder of the scripts in there that run the peers, and of the peers' operators in that.
const PEERS: &str = "peers";
const LIBRARIES: &str = "lib";
/// Files of those operators.
const LIBRARY_EXTENSION: &str = "so";
const COMPRESSED_EXTENSION: &str = "xz";

#[derive(clap::Args)]
pub struct Options {
    /// Folder with case files to take along
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Folder with the peers' operators (.so, or .so.xz as bench/peers/fetch.py --xz makes them) to take along
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Test executable to take along; may be given several times, and all go along without it
    #[arg(long, value_name = "NAME")]
    test: Vec<String>,
    /// Take no test executables along
    #[arg(long, conflicts_with = "test")]
    no_tests: bool,
}

pub fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    // Looked at before the old bundle goes.
    let cases = options.cases.as_deref().map(case_files).transpose()?.unwrap_or_default();
    let libraries = options.peers.as_deref().map(libraries).transpose()?.unwrap_or_default();
    let programs = executables(root, &["build", "--release", "--package", "oximla-cli"])?;
    let tests = if options.no_tests { Vec::new() } else { tests(root, &options.test)? };
    ensure!(!programs.is_empty() && (options.no_tests || !tests.is_empty()), "cargo built no executables");

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
        copy_into(&case, &bundle.join("cases"))?;
    }
    comparison(&root.join(BENCH), &bundle.join(BENCH), &libraries)?;
    println!("{}: {:.1} MB", bundle.display(), bytes(&bundle)? as f64 / 1e6);
    Ok(())
}

/// The test executables of these names, or all.
fn tests(root: &Path, names: &[String]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut arguments = vec!["test", "--release", "--package", "oximla-conformance", "--no-run"];
    for name in names {
        arguments.extend(["--test", name]);
    }
    executables(root, &arguments)
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
    let files = files(folder, &["safetensors"])?;
    ensure!(!files.is_empty(), "{} holds no .safetensors files", folder.display());
    Ok(files)
}

/// The peers' operators in a folder; where there is a compressed file, that one.
fn libraries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_library =
        |path: &PathBuf| path.with_extension("").extension() == Some(OsStr::new(LIBRARY_EXTENSION));
    let mut libraries = files(folder, &[COMPRESSED_EXTENSION])?;
    libraries.retain(is_library);
    for plain in files(folder, &[LIBRARY_EXTENSION])? {
        if !libraries.iter().any(|compressed| compressed.with_extension("") == plain) {
            libraries.push(plain);
        }
    }
    ensure!(!libraries.is_empty(), "{} holds no .so or .so.xz files", folder.display());
    Ok(libraries)
}

/// Takes along the scripts and cases of the comparison, and the peers' operators, compressed.
fn comparison(from: &Path, to: &Path, libraries: &[PathBuf]) -> anyhow::Result<()> {
    let (peers, kept) = (to.join(PEERS), to.join(PEERS).join(LIBRARIES));
    fs::create_dir_all(&kept).with_context(|| kept.display().to_string())?;
    for (from, to) in [(from.to_owned(), to.to_owned()), (from.join(PEERS), peers)] {
        for file in files(&from, &["py", "json"])? {
            copy_into(&file, &to)?;
        }
    }
    for library in libraries {
        if library.extension() == Some(OsStr::new(COMPRESSED_EXTENSION)) {
            copy_into(library, &kept)?;
        } else {
            compress(library, &kept)?;
        }
    }
    Ok(())
}

/// Compresses a file into a folder.
fn compress(file: &Path, folder: &Path) -> anyhow::Result<()> {
    let mut name = file.file_name().context("a library has a name")?.to_owned();
    name.push(".");
    name.push(COMPRESSED_EXTENSION);
    let output = fs::File::create(folder.join(name))?;
    let status = Command::new("xz").args(["-9", "--threads=0", "--stdout"]).arg(file).stdout(output).status();
    ensure!(status.context("xz, which comes with xz-utils")?.success(), "xz {} failed", file.display());
    Ok(())
}

/// The files in a folder that have one of the extensions, by name.
fn files(folder: &Path, extensions: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|path| extensions.iter().any(|extension| path.extension() == Some(OsStr::new(extension))));
    files.sort();
    Ok(files)
}

/// Copies a file into a folder.
fn copy_into(file: &Path, folder: &Path) -> anyhow::Result<()> {
    let name = file.file_name().with_context(|| format!("{} has no name", file.display()))?;
    fs::copy(file, folder.join(name)).with_context(|| file.display().to_string())?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_libraries_are_taken_rather_than_plain_ones() {
        let folder = std::env::temp_dir().join(format!("oximla-libraries-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(libraries(&folder).unwrap_err().to_string().ends_with("holds no .so or .so.xz files"));
        for name in ["a.so", "a.so.xz", "b.so", "notes.xz", "c.py"] {
            fs::write(folder.join(name), name).unwrap();
        }
        let found = libraries(&folder).unwrap();
        assert_eq!(found, ["a.so.xz", "b.so"].map(|name| folder.join(name)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_comparison_is_complete_without_the_workspace() {
        let bundle = std::env::temp_dir().join(format!("oximla-comparison-{}", std::process::id()));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        comparison(&root.join(BENCH), &bundle, &[]).unwrap();
        for file in ["compare.py", "cases.json", "peers/cases.py", "peers/worker.py", "peers/flashmla.py"] {
            assert!(bundle.join(file).exists(), "{file}");
        }
        fs::remove_dir_all(bundle).unwrap();
    }
}
