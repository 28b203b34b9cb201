//! `manifest.json` beside the modules: what each was made from and what its kernels need.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use oximla_types::launch::LaunchContract;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::BuildError;

/// The modules by architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest {
    /// Key: the architecture, as in `sm_90a`.
    pub modules: BTreeMap<String, Module>,
}

/// One module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Release, commit and LLVM version of the compiler.
    pub compiler: String,
    /// Digest of the sources, the profile and the flags.
    pub source_sha256: String,
    /// Digest of the module's text.
    pub ptx_sha256: String,
    /// The kernels, in order of their names.
    pub entries: Vec<Entry>,
}

/// One kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name of the `.entry`.
    pub name: String,
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs that fit on one multiprocessor.
    pub min_ctas_per_sm: u32,
    /// CTAs of a cluster.
    pub cluster: u32,
    /// Dynamic shared memory, in bytes.
    pub shared_bytes: u32,
    /// Registers a thread has at entry.
    pub registers_at_entry: u32,
}

impl Manifest {
    /// Reads a manifest; empty where there is no file.
    ///
    /// # Errors
    /// Where the file cannot be read or is no manifest.
    pub fn load(path: &Path) -> Result<Self, BuildError> {
        read_json(path)
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), BuildError> {
        write_json(path, self)
    }
}

impl From<&LaunchContract> for Entry {
    fn from(contract: &LaunchContract) -> Self {
        Self {
            name: contract.entry.to_owned(),
            threads: contract.threads,
            min_ctas_per_sm: contract.min_ctas_per_sm,
            cluster: contract.cluster,
            shared_bytes: contract.shared_bytes,
            registers_at_entry: contract.registers_at_entry(),
        }
    }
}

/// What the manifest says of `contracts`.
pub fn entries(contracts: &[LaunchContract]) -> Vec<Entry> {
    let mut entries: Vec<_> = contracts.iter().map(Entry::from).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// Reads a file; nothing where there is no file.
pub(crate) fn read_json<T: Default + DeserializeOwned>(path: &Path) -> Result<T, BuildError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| BuildError::file(path, error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(BuildError::file(path, error)),
    }
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), BuildError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| BuildError::file(path, error))?;
    text.push('\n');
    write(path, &text)
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), BuildError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| BuildError::file(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: LaunchContract = LaunchContract {
        entry: "two",
        threads: 384,
        min_ctas_per_sm: 1,
        cluster: 2,
        shared_bytes: 230_400,
        param_align: 64,
    };

    #[test]
    fn describes_contracts_in_order_of_names() {
        let one = LaunchContract { entry: "one", threads: 256, min_ctas_per_sm: 2, cluster: 1, ..CONTRACT };
        let text = serde_json::to_string(&entries(&[CONTRACT, one])).unwrap();
        // 65,536 registers over 512 and over 384 threads, rounded down to a multiple of 8.
        let one = r#"{"name":"one","threads":256,"min_ctas_per_sm":2,"cluster":1,"shared_bytes":230400,"registers_at_entry":128}"#;
        let two = r#"{"name":"two","threads":384,"min_ctas_per_sm":1,"cluster":2,"shared_bytes":230400,"registers_at_entry":168}"#;
        assert_eq!(text, format!("[{one},{two}]"));
    }

    #[test]
    fn survives_writing_and_reading() {
        let dir = std::env::temp_dir().join(format!("oximla-manifest-{}", std::process::id()));
        let path = dir.join("new/manifest.json");
        assert_eq!(Manifest::load(&path).unwrap(), Manifest::default());
        let module = Module {
            compiler: "rustc".into(),
            source_sha256: "s".into(),
            ptx_sha256: "p".into(),
            entries: entries(&[CONTRACT]),
        };
        let manifest = Manifest { modules: BTreeMap::from([("sm_90a".to_owned(), module)]) };
        manifest.save(&path).unwrap();
        assert_eq!(Manifest::load(&path).unwrap(), manifest);
        assert!(
            fs::read_to_string(&path).unwrap().starts_with("{\n  \"sm_90a\": {\n    \"compiler\": \"rustc\"")
        );

        fs::write(&path, "{\"sm_90a\": 1}").unwrap();
        let error = Manifest::load(&path).unwrap_err().to_string();
        assert!(error.contains("manifest.json"), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }
}
