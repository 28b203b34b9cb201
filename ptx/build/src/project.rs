//! The kernel crate, the workspace around it, and a hash of everything its PTX is made from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, TargetKind};
use sha2::{Digest, Sha256};

use crate::compile::PROFILE;
use crate::{Arch, BuildError};

/// What cargo knows of the kernel crate.
#[derive(Debug)]
pub(crate) struct Project {
    pub package: String,
    pub lib_name: String,
    pub manifest: PathBuf,
    pub target_dir: PathBuf,
    /// The feature it is built with.
    pub feature: Option<String>,
    /// Names of the modules that belong to other features.
    left_out: Vec<String>,
    workspace: PathBuf,
    /// The crate and those of the workspace it depends on.
    crates: Vec<PathBuf>,
}

impl Project {
    /// Asks `cargo` about the crate in `dir`, to be built with a feature.
    pub fn load(cargo: &Path, dir: &Path, feature: Option<&str>) -> Result<Self, BuildError> {
        let manifest = dir.join("Cargo.toml");
        let manifest = manifest.canonicalize().map_err(|error| BuildError::file(&manifest, error))?;
        let metadata = MetadataCommand::new().cargo_path(cargo).manifest_path(&manifest).no_deps().exec()?;
        let package = member(&metadata, &manifest)?;
        let library = package.targets.iter().find(|target| target.kind.contains(&TargetKind::Lib));
        let library = library.ok_or_else(|| BuildError::NotAMember(manifest.clone()))?.name.replace('-', "_");
        let left_out = package.features.keys().filter(|name| Some(name.as_str()) != feature);
        Ok(Self {
            package: package.name.to_string(),
            lib_name: library,
            // Apart, as cargo gives the assembly the same name with every feature.
            target_dir: metadata.target_directory.join("ptx").join(feature.unwrap_or_default()).into(),
            feature: feature.map(str::to_owned),
            left_out: left_out.map(|name| name.replace('-', "_")).collect(),
            workspace: metadata.workspace_root.clone().into(),
            crates: crates(&metadata, package)?,
            manifest,
        })
    }

    /// SHA-256 over the sources of the crate and its dependencies in the workspace, over the profile and over the
    /// compiler's flags: where it is the same, the same compiler makes the same PTX.
    pub fn source_sha256(&self, arch: Arch) -> Result<String, BuildError> {
        let mut files = Vec::new();
        for dir in &self.crates {
            files.push(dir.join("Cargo.toml"));
            collect(&dir.join("src"), &self.left_out, &mut files)
                .map_err(|error| BuildError::file(&dir.join("src"), error))?;
        }
        files.sort();

        let mut hash = Sha256::new();
        let mut add = |name: &str, content: &[u8]| {
            for part in [name.as_bytes(), content] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        };
        for file in files {
            let content = fs::read(&file).map_err(|error| BuildError::file(&file, error))?;
            let name = file.strip_prefix(&self.workspace).unwrap_or(&file);
            add(&name.to_string_lossy(), &content);
        }
        add("feature", self.feature.as_deref().unwrap_or_default().as_bytes());
        add(PROFILE, self.profile()?.as_bytes());
        add(arch.name(), arch.rustflags().join(" ").as_bytes());
        Ok(hex(&hash.finalize()))
    }

    /// The `ptx` profile with what it inherits, as text.
    fn profile(&self) -> Result<String, BuildError> {
        let path = self.workspace.join("Cargo.toml");
        let text = fs::read_to_string(&path).map_err(|error| BuildError::file(&path, error))?;
        effective_profile(&text).ok_or(BuildError::NoProfile(path))
    }
}

/// SHA-256 as lower-case hexadecimal digits.
pub(crate) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn member<'a>(metadata: &'a Metadata, manifest: &Path) -> Result<&'a Package, BuildError> {
    let found = metadata.packages.iter().find(|package| package.manifest_path == manifest);
    found.ok_or_else(|| BuildError::NotAMember(manifest.to_owned()))
}

/// Folders of a package and of the workspace's packages it is built from.
fn crates(metadata: &Metadata, package: &Package) -> Result<Vec<PathBuf>, BuildError> {
    let mut manifests = vec![package.manifest_path.clone()];
    let mut next = 0;
    while let Some(manifest) = manifests.get(next) {
        let package = member(metadata, manifest.as_std_path())?;
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            let manifest = dependency.path.as_ref().map(|dir| dir.join("Cargo.toml"));
            manifests.extend(manifest.filter(|manifest| !manifests.contains(manifest)));
        }
        next += 1;
    }
    Ok(manifests.into_iter().filter_map(|manifest| Some(manifest.parent()?.into())).collect())
}

/// The files of a folder, without the modules that are left out.
fn collect(dir: &Path, left_out: &[String], files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|module| left_out.iter().any(|name| module == name.as_str())) {
            continue;
        }
        if path.is_dir() { collect(&path, left_out, files)? } else { files.push(path) }
    }
    Ok(())
}

/// Settings of a profile laid over those it inherits; `release` is the end of the chain.
fn effective_profile(manifest: &str) -> Option<String> {
    let manifest: toml::Table = manifest.parse().ok()?;
    let profiles = manifest.get("profile")?.as_table()?;
    let mut settings = toml::Table::new();
    let mut name = PROFILE.to_owned();
    profiles.get(PROFILE)?;
    while let Some(profile) = profiles.get(&name).and_then(|profile| profile.as_table()) {
        for (key, value) in profile {
            settings.entry(key.clone()).or_insert_with(|| value.clone());
        }
        match profile.get("inherits").and_then(|parent| parent.as_str()) {
            Some(parent) => name = parent.to_owned(),
            None => break,
        }
    }
    let mut lines: Vec<_> = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    lines.sort();
    Some(lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_is_laid_over_what_it_inherits() {
        let manifest = "[profile.release]\ndebug = 1\nopt-level = 3\n[profile.ptx]\ninherits = \"release\"\ndebug = false";
        let expected = "debug = false\ninherits = \"release\"\nopt-level = 3\n";
        assert_eq!(effective_profile(manifest).unwrap(), expected);
        assert_eq!(effective_profile(&manifest.replace("debug = 1", "debug = 2")).unwrap(), expected);
        assert_ne!(effective_profile(&manifest.replace("= 3", "= 2")).unwrap(), expected);
        assert_eq!(effective_profile("[profile.release]"), None);
    }

    #[test]
    fn digests_are_standard() {
        // FIPS 180-4, the message "abc".
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn hash_follows_the_sources_and_nothing_else() {
        let workspace = std::env::temp_dir().join(format!("oximla-project-{}", std::process::id()));
        let project = |name: &str| Project {
            package: "kernels".into(),
            lib_name: "kernels".into(),
            manifest: "Cargo.toml".into(),
            target_dir: "target".into(),
            feature: None,
            left_out: vec!["extra_kernels".into()],
            workspace: workspace.join(name),
            crates: vec![workspace.join(name).join("types"), workspace.join(name).join("kernels")],
        };
        for name in ["one", "two"] {
            for crate_name in ["kernels", "types"] {
                let dir = workspace.join(name).join(crate_name);
                fs::create_dir_all(dir.join("src/deep")).unwrap();
                fs::write(dir.join("Cargo.toml"), crate_name).unwrap();
                fs::write(dir.join("src/lib.rs"), "mod deep;").unwrap();
                fs::write(dir.join("src/deep/mod.rs"), "").unwrap();
            }
            fs::write(workspace.join(name).join("Cargo.toml"), "[profile.ptx]\nlto = \"fat\"").unwrap();
        }
        let hash = |name: &str| project(name).source_sha256(Arch::Sm90a).unwrap();
        let first = hash("one");
        assert_eq!(first, hash("two"), "the checkout's path does not matter");

        fs::write(workspace.join("two/README.md"), "not a source").unwrap();
        assert_eq!(first, hash("two"));
        let extra = [("kernels/src/extra_kernels", "mod.rs"), ("types/src/deep", "extra_kernels.rs")];
        for (folder, file) in extra.map(|(folder, file)| (workspace.join("two").join(folder), file)) {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), "// of a feature").unwrap();
        }
        assert_eq!(first, hash("two"), "another feature's modules do not matter");
        let with_extra =
            Project { feature: Some("extra-kernels".into()), left_out: vec![], ..project("two") };
        assert_ne!(first, with_extra.source_sha256(Arch::Sm90a).unwrap());
        for (file, content) in [
            ("types/src/deep/mod.rs", "// new"),
            ("kernels/Cargo.toml", "kernels, later"),
            ("Cargo.toml", "[profile.ptx]\nlto = \"off\""),
        ] {
            let before = hash("two");
            fs::write(workspace.join("two").join(file), content).unwrap();
            assert_ne!(before, hash("two"), "{file}");
        }
        fs::rename(workspace.join("two/types/src/lib.rs"), workspace.join("two/types/src/main.rs")).unwrap();
        let renamed = hash("two");
        fs::rename(workspace.join("two/types/src/main.rs"), workspace.join("two/types/src/lib.rs")).unwrap();
        assert_ne!(renamed, hash("two"), "names are sources too");
        fs::remove_dir_all(&workspace).unwrap();
    }
}
