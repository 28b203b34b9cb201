//! Kernels with one mistake each: what is found is compared with the text beside them, to the letter.

use ptx_emulator::diagnostic::Check;

use crate::case::{Case, Outcome, cases};

/// Seeds with which a mistake must be found.
const SEEDS: u64 = 8;

/// Seeds of which one must show a mistake that needs luck.
const LUCKY_SEEDS: u64 = 64;

#[test]
fn every_mistake_is_found() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut failures = Vec::new();
    for case in cases("fail") {
        let found = match find(&case) {
            Ok(outcome) => outcome.text(),
            Err(failure) => {
                failures.push(format!("{}: {failure}", case.name));
                continue;
            }
        };
        let path = format!("{}/tests/fail/{}.txt", env!("CARGO_MANIFEST_DIR"), case.name);
        if bless {
            std::fs::write(&path, &found).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != found {
            failures.push(format!("{}: found is\n{found}", case.name));
        }
    }
    assert!(failures.is_empty(), "{}\n(BLESS=1 rewrites the texts)", failures.join("\n"));
}

/// The outcome to be compared: the first one that shows the mistake.
fn find(case: &Case) -> Result<Outcome, String> {
    let Some((check, with_luck)) = &case.finds else { return Err("the header has no `finds`".to_owned()) };
    let mut first = None;
    for seed in 0..if *with_luck { LUCKY_SEEDS } else { SEEDS } {
        let outcome = case.run(seed).map_err(|error| error.to_string())?;
        let finds = outcome.diagnostics().any(|diagnostic| diagnostic.check.name() == check);
        match (finds, with_luck) {
            (true, true) => return Ok(outcome),
            (false, false) => return Err(format!("seed {seed} finds no {check}, but:\n{}", outcome.text())),
            _ => {}
        }
        first.get_or_insert(outcome);
    }
    first.filter(|_| !with_luck).ok_or_else(|| format!("no seed finds a {check}"))
}

#[test]
fn every_check_has_a_mistake() {
    let mut found: Vec<String> = cases("fail").into_iter().filter_map(|case| Some(case.finds?.0)).collect();
    found.sort();
    found.dedup();
    let mut all: Vec<String> = Check::ALL.iter().map(|(_, name)| (*name).to_owned()).collect();
    all.sort();
    assert_eq!(found, all);
}
