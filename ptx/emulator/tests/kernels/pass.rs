//! Sound kernels: no findings whatever the order in which things happen, and the right results.

use crate::case::cases;

const SEEDS: u64 = 64;

#[test]
fn sound_kernels_pass() {
    let mut failures = Vec::new();
    for case in cases("pass") {
        assert!(!case.results.is_empty(), "{}: the header has no `result`", case.name);
        for seed in 0..SEEDS {
            let outcome = match case.run(seed) {
                Ok(outcome) => outcome,
                Err(error) => {
                    failures.push(format!("{}: {error}", case.name));
                    break;
                }
            };
            let wrong = case.results.iter().find(|(index, words)| outcome.buffers[*index] != *words);
            if outcome.diagnostics().next().is_some() || wrong.is_some() {
                let wrong = wrong.map_or_else(String::new, |(index, words)| {
                    format!("parameter {index} is {:?}; needed is {words:?}", outcome.buffers[*index])
                });
                failures.push(format!("{}, seed {seed}:\n{}{wrong}", case.name, outcome.text()));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
