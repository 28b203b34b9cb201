//! Compiling the kernel crate to one PTX module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::project::Project;
use crate::toolchain::Toolchain;
use crate::{Arch, BuildError};

/// The profile in the workspace's Cargo.toml: whole-program optimisation into one module.
pub(crate) const PROFILE: &str = "ptx";

const TARGET: &str = "nvptx64-nvidia-cuda";

/// Stands in for `llvm-bitcode-linker`, which is not always packaged: the assembly is complete before linking.
const NO_LINKER: &str = "true";

/// Compiles and returns the module as LLVM wrote it.
///
/// The text depends on the sources, the profile and the compiler, not on where the checkout lies: cargo names the
/// crates of a workspace relative to it, and paths reach the text through panics only, which the lint refuses.
pub(crate) fn compile(toolchain: &Toolchain, project: &Project, arch: Arch) -> Result<String, BuildError> {
    let target_dir = project.target_dir.join(arch.name());
    let status = Command::new(&toolchain.cargo)
        .args(["rustc", "--quiet", "--lib", "--profile", PROFILE, "--target", TARGET])
        .args(["-Zbuild-std=core", "--crate-type", "cdylib", "--package", &project.package])
        .arg("--manifest-path")
        .arg(&project.manifest)
        .arg("--target-dir")
        .arg(&target_dir)
        .args(project.feature.iter().flat_map(|feature| ["--features", feature]))
        .args(["--", "--emit=asm"])
        .env("RUSTC", &toolchain.rustc)
        // Device code uses features that no stable compiler lets through otherwise.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_NVPTX64_NVIDIA_CUDA_LINKER", NO_LINKER)
        .env("CARGO_ENCODED_RUSTFLAGS", arch.rustflags().join("\u{1f}"))
        .status()
        .map_err(|error| BuildError::file(&toolchain.cargo, error))?;
    if !status.success() {
        return Err(BuildError::Compile { package: project.package.clone(), status });
    }
    let assembly = assembly(&target_dir, &project.lib_name);
    let assembly = assembly.ok_or_else(|| BuildError::NoAssembly { dir: target_dir })?;
    fs::read_to_string(&assembly).map_err(|error| BuildError::file(&assembly, error))
}

/// `LIBRARY.s`, in whatever folder this cargo puts it.
fn assembly(dir: &Path, library: &str) -> Option<PathBuf> {
    let mut folders = vec![dir.join(TARGET).join(PROFILE)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "s")
                && path.file_stem().is_some_and(|s| s == library)
            {
                return Some(path);
            }
        }
    }
    None
}
