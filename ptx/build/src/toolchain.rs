//! Finding a Rust compiler that can build device code.
//!
//! That takes [`MINIMUM`] or later, for an LLVM that knows the instructions, and the source of the library, since
//! nobody ships `core` for the GPU. In order of preference:
//!
//! 1. the compiler named by [`OVERRIDE`];
//! 2. rustup toolchains with the `rust-src` component;
//! 3. `/usr/bin/rustc`, with Debian's library source.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::semver::Version;

/// Environment variable that names the compiler to use, as a path to `rustc`.
pub const OVERRIDE: &str = "OXIMLA_PTX_RUSTC";

/// The oldest compiler whose PTX is good.
pub const MINIMUM: Version = Version::new(1, 96, 0);

const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build device code, with its cargo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Path to `rustc` itself, not to a proxy of rustup's.
    pub rustc: PathBuf,
    /// Path to the `cargo` beside it.
    pub cargo: PathBuf,
    /// Version, commit and LLVM version: equal ones produce equal PTX.
    pub compiler: String,
}

/// No compiler was found that will do.
#[derive(Debug, thiserror::Error)]
#[error(
    "compiling the GPU kernels takes rustc {MINIMUM} or later with its library source; get one with `rustup toolchain \
     install nightly --profile minimal --component rust-src` or, on Debian, `apt-get install rustc-web cargo-web \
     rust-web-src`, or name one in {OVERRIDE} ({})",
    .rejected.iter().map(|(path, reason)| format!("{}: {reason}", path.display())).collect::<Vec<_>>().join("; ")
)]
pub struct NoToolchain {
    /// The compilers that were looked at, each with what is wrong with it.
    pub rejected: Vec<(PathBuf, Rejection)>,
}

/// Why a compiler will not do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It does not run, or says nothing that can be read.
    #[error("`{0}` failed")]
    NoAnswer(&'static str),
    /// It is too old.
    #[error("rustc {0} is too old")]
    TooOld(Version),
    /// A file of the toolchain is not there.
    #[error("{0} is missing")]
    Missing(PathBuf),
}

impl Toolchain {
    /// Finds a toolchain; one whose [`compiler`](Self::compiler) is `preferred` comes before all others.
    ///
    /// # Errors
    /// Where no compiler will do, or the one named by [`OVERRIDE`] will not.
    pub fn find(preferred: Option<&str>) -> Result<Self, NoToolchain> {
        let candidates = match env::var_os(OVERRIDE) {
            Some(rustc) => vec![rustc.into()],
            None => rustup_compilers().into_iter().chain([SYSTEM_RUSTC.into()]).collect(),
        };
        Self::choose(candidates, preferred, Self::probe)
    }

    /// Examines the toolchain that `rustc` belongs to.
    fn probe(rustc: &Path) -> Result<Self, Rejection> {
        let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]));
        let sysroot = PathBuf::from(sysroot.ok_or(Rejection::NoAnswer("rustc --print sysroot"))?.trim());
        let version = output(Command::new(rustc).arg("-vV")).ok_or(Rejection::NoAnswer("rustc -vV"))?;
        let (release, compiler) = parse_version(&version).ok_or(Rejection::NoAnswer("rustc -vV"))?;
        if release < MINIMUM {
            return Err(Rejection::TooOld(release));
        }
        let [rustc, cargo, source] =
            ["bin/rustc", "bin/cargo", "lib/rustlib/src/rust/library/core/Cargo.toml"]
                .map(|path| sysroot.join(path));
        if let Some(missing) = [&rustc, &cargo, &source].into_iter().find(|path| !path.exists()) {
            return Err(Rejection::Missing(missing.clone()));
        }
        Ok(Self { rustc, cargo, compiler })
    }

    fn choose(
        candidates: Vec<PathBuf>,
        preferred: Option<&str>,
        probe: impl Fn(&Path) -> Result<Self, Rejection>,
    ) -> Result<Self, NoToolchain> {
        let mut suitable = None;
        let mut rejected = Vec::new();
        for candidate in candidates {
            match probe(&candidate) {
                Ok(found) if Some(found.compiler.as_str()) == preferred => return Ok(found),
                Ok(found) => suitable = suitable.or(Some(found)),
                Err(reason) => rejected.push((candidate, reason)),
            }
        }
        suitable.ok_or(NoToolchain { rejected })
    }
}

/// The compilers of all rustup toolchains; empty without rustup.
fn rustup_compilers() -> Vec<PathBuf> {
    let names = output(Command::new("rustup").args(["toolchain", "list", "--quiet"])).unwrap_or_default();
    let rustc = |name| output(Command::new("rustup").args(["which", "--toolchain", name, "rustc"]));
    names.lines().filter_map(rustc).map(|path| path.trim().into()).collect()
}

/// Release and identity from what `rustc -vV` prints. A development release counts as the release it will be.
fn parse_version(verbose: &str) -> Option<(Version, String)> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let release = field("release")?;
    let number = Version { pre: Default::default(), ..Version::parse(release).ok()? };
    let commit = field("commit-hash")?;
    let llvm = field("LLVM version")?;
    Some((number, format!("rustc {release} ({}), LLVM {llvm}", commit.get(..9).unwrap_or(commit))))
}

/// What a successful command prints.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
        commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96\ncommit-date: 2026-05-25\n\
        host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    fn toolchain(name: &str) -> Toolchain {
        Toolchain { rustc: name.into(), cargo: name.into(), compiler: name.into() }
    }

    #[test]
    fn reads_versions() {
        let (release, compiler) = parse_version(DEBIAN).unwrap();
        assert_eq!(release, MINIMUM);
        assert_eq!(compiler, "rustc 1.96.0 (ac68faa20), LLVM 22.1.8");

        let (nightly, compiler) = parse_version(&DEBIAN.replace("1.96.0", "1.96.0-nightly")).unwrap();
        assert!(nightly >= MINIMUM);
        assert!(compiler.starts_with("rustc 1.96.0-nightly (ac68faa20)"));
        assert!(parse_version(&DEBIAN.replace("1.96.0", "1.95.1")).unwrap().0 < MINIMUM);
        assert_eq!(parse_version("rustc 1.96.0"), None);
    }

    #[test]
    fn prefers_the_compiler_asked_for_then_the_first() {
        let candidates = || vec!["a".into(), "b".into()];
        let probe = |path: &Path| Ok(toolchain(path.to_str().unwrap()));
        let chosen = |preferred| Toolchain::choose(candidates(), preferred, probe).unwrap().compiler;
        assert_eq!(chosen(None), "a");
        assert_eq!(chosen(Some("b")), "b");
        assert_eq!(chosen(Some("gone")), "a");
    }

    #[test]
    fn unsuitable_compilers_are_named_with_the_way_out() {
        let probe = |path: &Path| match path.to_str() {
            Some("new") => Ok(toolchain("new")),
            _ => Err(Rejection::TooOld(Version::new(1, 95, 0))),
        };
        let both = Toolchain::choose(vec!["old".into(), "new".into()], None, probe);
        assert_eq!(both.unwrap(), toolchain("new"));
        let error = Toolchain::choose(vec!["old".into()], None, probe).unwrap_err().to_string();
        for part in [
            "1.96.0",
            "rustup toolchain install",
            "apt-get install",
            OVERRIDE,
            "old: rustc 1.95.0 is too old",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn programs_that_are_no_compiler_are_rejected() {
        assert_eq!(
            Toolchain::probe(Path::new("/nowhere/rustc")),
            Err(Rejection::NoAnswer("rustc --print sysroot"))
        );
    }
}
