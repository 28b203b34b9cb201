//! All cases of a file on every device at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use super::case::{Bound, Case};
use super::compare;
use super::cuda::Gpu;
use super::emulated::Emulator;
use super::file;

/// A folder that a GPU's results are written to, a file for each instruction file, as lines for
/// `tests/instructions/recorded.txt`.
pub const RECORD: &str = "OXIMLA_RECORD_INSTRUCTIONS";

/// A folder that the modules are written to, for an assembler to look at.
pub const MODULES: &str = "OXIMLA_INSTRUCTION_MODULES";

/// A part of the names of the cases to run; all, if not set.
pub const ONLY: &str = "OXIMLA_INSTRUCTION_CASES";

/// Orders of execution that the emulator tries.
const SEEDS: [u64; 2] = [0, 1];

/// Hashes of what a GPU gave, by name of the case.
static RECORDED: LazyLock<BTreeMap<&str, u64>> = LazyLock::new(|| {
    let lines = include_str!("../../instructions/recorded.txt").lines().filter(|line| !line.starts_with('#'));
    let entry = |line: &'static str| {
        let (name, hash) = line.split_once(' ')?;
        Some((name, u64::from_str_radix(hash, 16).ok()?))
    };
    lines.map(|line| entry(line).unwrap_or_else(|| panic!("recorded.txt: {line}"))).collect()
});

/// Runs a file's cases on the emulator and, where there is one, on a GPU; compares both, what the file expects, and
/// what a GPU once gave.
///
/// # Panics
/// With everything that disagrees; and if the file breaks its notation.
pub fn check(stem: &str, text: &str) {
    let mut cases = file::cases(stem, text).unwrap_or_else(|error| panic!("{stem}: {error}"));
    assert!(!cases.is_empty(), "{stem} has no cases");
    if let Ok(only) = std::env::var(ONLY) {
        cases.retain(|case| case.name.contains(&only));
    }
    write_modules(&cases);
    let (mut emulator, mut gpu) = (Emulator::default(), Gpu::first());
    let mut wrong = Vec::new();
    let mut record = String::new();
    for case in &cases {
        let complaints = check_case(case, &mut emulator, gpu.as_mut(), &mut record);
        wrong.extend(complaints.into_iter().map(|complaint| format!("{}: {complaint}", case.name)));
        if gpu.as_ref().is_some_and(|gpu| !gpu.is_usable()) {
            wrong
                .push("the GPU's context is lost: the cases behind this one ran on the emulator only".into());
            gpu = None;
        }
    }
    if let Some(folder) = std::env::var_os(RECORD) {
        let path = PathBuf::from(folder).join(format!("{}.txt", stem.replace('/', "_")));
        std::fs::write(&path, record).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    println!("{stem}: {} cases", cases.len());
    assert!(wrong.is_empty(), "{} of {} cases disagree\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn check_case(
    case: &Case,
    emulator: &mut Emulator,
    gpu: Option<&mut Gpu>,
    record: &mut String,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(finding) = &case.refused {
        match emulator.run(case, SEEDS[0]) {
            Err(found) if found.contains(finding) => {}
            other => wrong.push(format!("the emulator should find `{finding}`, but: {other:?}")),
        }
        return wrong;
    }
    let mut emulated = None;
    for seed in SEEDS {
        match emulator.run(case, seed) {
            Ok(output) => {
                wrong.extend(compare::with_expected(case, "emulator", &output));
                if emulated.as_ref().is_some_and(|first| *first != output) {
                    wrong.push(format!("the emulator gives something else with seed {seed}"));
                }
                emulated.get_or_insert(output);
            }
            Err(error) => wrong.push(format!("emulator: {error}")),
        }
        // A table's rows know nothing of each other.
        if case.table.is_some() || !wrong.is_empty() {
            break;
        }
    }
    if let (Some(output), Some(recorded)) = (&emulated, RECORDED.get(case.name.as_str()))
        && hash(output) != *recorded
    {
        wrong.push("the emulator does not give what a GPU once gave".into());
    }
    let Some(gpu) = gpu else { return wrong };
    match gpu.run(case) {
        Ok(output) => {
            wrong.extend(compare::with_expected(case, "cuda", &output));
            if let Some(emulated) = &emulated {
                wrong.extend(compare::outputs(case, ["emulator", "cuda"], [emulated, &output]));
                if case.bound != Bound::Exact {
                    let most = compare::largest_difference(case, [emulated, &output]);
                    crate::backend::report(&format!("{}: {most:e} of {:?}", case.name, case.bound));
                }
            }
            if case.bound == Bound::Exact {
                *record += &format!("{} {:016x}\n", case.name, hash(&output));
            }
        }
        Err(error) => wrong.push(format!("cuda: {error}")),
    }
    wrong
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn write_modules(cases: &[Case]) {
    let Some(folder) = std::env::var_os(MODULES) else { return };
    let modules: BTreeMap<*const u8, &Case> =
        cases.iter().rev().map(|case| (case.ptx.as_ptr(), case)).collect();
    for case in modules.into_values() {
        let path = PathBuf::from(&folder).join(format!("{}.ptx", case.name.replace('/', "_")));
        std::fs::write(&path, &*case.ptx).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
