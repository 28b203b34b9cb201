//! Assembling a finished module with NVIDIA's ptxas, where there is one, and reading what it says.

use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::{env, fs};

use crate::{Arch, BuildError};

/// Environment variable that names the assembler to use.
pub const OVERRIDE: &str = "OXIMLA_PTXAS";

/// Where the `nvidia-cuda-nvcc` wheel puts it, below a `site-packages`.
const IN_WHEEL: &str = "nvidia/cu13/bin/ptxas";

/// The one advisory that is tolerated: ptxas put in the arrive before the first `wgmma` of a stage, where the wait
/// stays the kernel's own. All others of the family say that `wgmma` is serialised or `setmaxnreg` ignored.
const TOLERATED: &str = "C7519";

/// An assembler.
#[derive(Clone, Debug)]
pub struct Ptxas {
    path: PathBuf,
}

/// What an entry uses once it is assembled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryResources {
    /// The entry.
    pub name: String,
    /// Registers a thread; those at entry, where the kernel moves registers between its warps.
    pub registers: u32,
    /// Static shared memory, in bytes.
    pub shared_bytes: u32,
}

impl Ptxas {
    /// Looks at [`OVERRIDE`], then in PATH, then among the packages of `python3`.
    ///
    /// # Errors
    /// Where [`OVERRIDE`] names no file.
    pub fn find() -> Result<Option<Self>, BuildError> {
        if let Some(path) = env::var_os(OVERRIDE).map(PathBuf::from) {
            return if path.is_file() { Ok(Some(Self { path })) } else { Err(BuildError::NoPtxas(path)) };
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let in_path = env::split_paths(&path).map(|dir| dir.join("ptxas"));
        let python = Command::new("python3").args(["-c", "import sys; print('\\n'.join(sys.path))"]).output();
        let packages =
            python.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into());
        let in_packages =
            packages.lines().filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join(IN_WHEEL));
        Ok(in_path.chain(in_packages).find(|path| path.is_file()).map(|path| Self { path }))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Assembles the module at `ptx`, to see what comes of it.
    ///
    /// # Errors
    /// Where ptxas refuses the module, spills registers, or warns that `wgmma` is serialised or `setmaxnreg` ignored.
    pub fn assemble(&self, ptx: &Path, arch: Arch) -> Result<Vec<EntryResources>, BuildError> {
        let cubin = env::temp_dir().join(format!("oximla-{}-{arch}.cubin", process::id()));
        let output = Command::new(&self.path)
            .args(["-v", "-arch", arch.name(), "-o"])
            .args([&cubin, ptx])
            .output()
            .map_err(|error| BuildError::file(&self.path, error))?;
        // Where ptxas fails it leaves no file.
        let _ = fs::remove_file(&cubin);
        // Which stream it writes to has changed over time.
        let report =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        let problems = problems(&report);
        if output.status.success() && problems.is_empty() {
            Ok(resources(&report))
        } else {
            Err(BuildError::Assemble { path: ptx.to_owned(), problems })
        }
    }
}

/// The lines of a report that make a module unfit.
fn problems(report: &str) -> Vec<String> {
    let mut entry = None;
    let mut problems = Vec::new();
    for line in report.lines() {
        entry = compiled_entry(line).or(entry);
        let frame = number_before(line, " bytes stack frame").unwrap_or(0);
        let spills = number_before(line, " bytes spill stores").unwrap_or(0)
            + number_before(line, " bytes spill loads").unwrap_or(0);
        if frame + spills > 0 {
            problems.push(format!("{}: {}", entry.unwrap_or("module"), line.trim()));
        } else if line.contains("error   :") || line.contains("fatal   :") || is_refused_advisory(line) {
            problems.push(line.trim().to_owned());
        }
    }
    problems
}

fn resources(report: &str) -> Vec<EntryResources> {
    let mut entries = Vec::new();
    let mut name = None;
    for line in report.lines() {
        name = compiled_entry(line).or(name);
        let registers = number_before(line, " registers");
        if let (Some(name), Some(registers)) = (name, registers) {
            let shared_bytes = number_before(line, " bytes smem").unwrap_or(0);
            entries.push(EntryResources { name: name.to_owned(), registers, shared_bytes });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// The name in `Compiling entry function 'NAME' for 'sm_90a'`.
fn compiled_entry(line: &str) -> Option<&str> {
    line.split_once("Compiling entry function '")?.1.split('\'').next()
}

/// The number that stands before `unit`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let (before, _) = line.split_once(unit)?;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether a line bears an advisory `(C75xx)` other than the tolerated one.
fn is_refused_advisory(line: &str) -> bool {
    let code = line.split_once("(C75").and_then(|(_, rest)| rest.split(')').next());
    code.is_some_and(|digits| format!("C75{digits}") != TOLERATED)
}

#[cfg(test)]
mod tests {
    use super::*;

    // What ptxas 13.0.88 wrote about small kernels.
    const CLEAN: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'two' for 'sm_90a'
ptxas info    : Function properties for two
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 1024 bytes smem
ptxas info    : Compile time = 2.711 ms
ptxas info    : Compiling entry function 'one' for 'sm_90a'
ptxas info    : Function properties for one
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Compile time = 1.534 ms
";
    const SPILLS: &str = "\
ptxas info    : Compiling entry function 'spilly' for 'sm_90a'
ptxas info    : Function properties for spilly
    528 bytes stack frame, 524 bytes spill stores, 524 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 528 bytes cumulative stack size
";
    const IGNORED: &str = "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to \
        determine register count at entry.";
    const REFUSED: &str = "\
ptxas k.ptx, line 14; error   : Unknown modifier '.foo'
ptxas k.ptx, line 14; error   : Not a name of any known instruction: 'bla'
ptxas fatal   : Ptx assembly aborted due to errors
";

    #[test]
    fn reads_resources_by_entry() {
        let entry = |name: &str, registers, shared_bytes| EntryResources {
            name: name.into(),
            registers,
            shared_bytes,
        };
        assert_eq!(resources(CLEAN), [entry("one", 8, 0), entry("two", 168, 1024)]);
        assert_eq!(problems(CLEAN), [""; 0]);
    }

    #[test]
    fn spills_and_frames_are_problems_of_their_entry() {
        let stack = "spilly: 528 bytes stack frame, 524 bytes spill stores, 524 bytes spill loads";
        assert_eq!(problems(SPILLS), [stack]);
        for used in ["8 bytes stack frame, 0 bytes spill stores", "0 bytes stack frame, 4 bytes spill stores"]
        {
            assert_eq!(problems(&format!("{used}, 0 bytes spill loads")).len(), 1);
        }
        assert_eq!(problems("0 bytes stack frame, 0 bytes spill stores, 4 bytes spill loads").len(), 1);
    }

    #[test]
    fn advisories_are_problems_but_for_one() {
        assert_eq!(problems(IGNORED), [IGNORED]);
        assert_eq!(problems(&IGNORED.replace("C7508", "C7510")).len(), 1);
        assert_eq!(problems(&IGNORED.replace("C7508", TOLERATED)), [""; 0]);
    }

    #[test]
    fn errors_are_problems() {
        assert_eq!(problems(REFUSED), REFUSED.lines().collect::<Vec<_>>());
    }

    #[test]
    fn failing_and_missing_assemblers_are_errors() {
        let assemble = |path: &str| Ptxas { path: path.into() }.assemble(Path::new("k.ptx"), Arch::Sm90a);
        assert!(
            matches!(assemble("false"), Err(BuildError::Assemble { problems, .. }) if problems.is_empty())
        );
        assert!(matches!(assemble("/nowhere/ptxas"), Err(BuildError::File { .. })));
    }
}
