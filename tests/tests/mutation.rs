//! Would the emulator notice a mistake in a shipped kernel? Each synchronising instruction is deleted or altered, one
//! at a time; the emulator has to report something, or the result has to differ.

use oximla::case_file::{Case, Expected};
use oximla::{Device, EmulatedOptions, Error, KvFormat};
use oximla_conformance::backend::report;
use oximla_conformance::dense_decode::Spec;
use oximla_conformance::mutation::{Mutant, mutants};
use rayon::prelude::*;

const PTX: &str = include_str!("../../host/ptx/sm_90a.ptx");

/// Few enough that each CTA has several requests, and some requests are split.
const MULTIPROCESSORS: u32 = 2;

/// Interleavings to try before a mutant counts as a survivor.
const SEEDS: u64 = 3;

/// Share of the mutants that must be noticed.
const REQUIRED: f64 = 0.95;

/// Instructions a warp may execute: several times what it needs, so that endless loops end soon.
const MAX_STEPS: u64 = 60_000;

#[test]
fn mistakes_in_dense_decode_are_noticed() {
    check("dense_decode_sm90_bf16", KvFormat::Bf16);
}

#[test]
fn mistakes_in_dense_decode_of_fp16_are_noticed() {
    check("dense_decode_sm90_fp16", KvFormat::Fp16);
}

/// A few blocks of one request, which show most mistakes in a fraction of the time.
fn short_case(format: KvFormat) -> Case {
    Case::DenseDecode(Spec { lengths: vec![200], h_q: 3, format, ..Spec::default() }.case())
}

/// Lengths with whole and ragged last blocks, an empty request, queries that see different keys, enough blocks for
/// every barrier to come around twice, requests of one block in a row, between which fewest things are ordered, and
/// query rows in all four warps of a tile.
fn case(format: KvFormat) -> Case {
    let lengths = vec![330, 0, 70, 64, 33, 5, 20];
    let spec = Spec { lengths, s_q: 2, h_q: 30, causal: true, score_sd: 2.0, format, ..Spec::default() };
    Case::DenseDecode(spec.case())
}

fn run(case: &Case, ptx: &str, seed: u64) -> Result<Expected, Error> {
    let options = EmulatedOptions {
        multiprocessors: MULTIPROCESSORS,
        seed,
        max_steps: MAX_STEPS,
        max_findings: 1,
        ptx: Some(ptx.to_owned()),
        ..EmulatedOptions::default()
    };
    case.run(&Device::emulated(options)?)
}

fn check(entry: &str, format: KvFormat) {
    let cases = [short_case(format), case(format)].map(|case| {
        let sound = run(&case, PTX, 0).unwrap_or_else(|why| panic!("{entry} as it is: {why}"));
        (case, sound)
    });
    let mutants = mutants(PTX, entry);
    assert!(mutants.len() > 100, "{} mutants", mutants.len());
    let is_noticed = |mutant: &Mutant| {
        cases.iter().any(|(case, sound)| (0..SEEDS).any(|seed| shows(case, sound, mutant, seed)))
    };
    let survivors: Vec<&Mutant> = mutants.par_iter().filter(|mutant| !is_noticed(mutant)).collect();

    let wrong: Vec<&Mutant> =
        survivors.iter().copied().filter(|mutant| mutant.equivalent.is_none()).collect();
    let equivalent = mutants.iter().filter(|mutant| mutant.equivalent.is_some()).count();
    let mistakes = mutants.len() - equivalent;
    let noticed = 1.0 - wrong.len() as f64 / mistakes as f64;
    report(&format!(
        "{entry}: {} of {mistakes} mistakes noticed ({:.1} %), {equivalent} mutants are none",
        mistakes - wrong.len(),
        100.0 * noticed
    ));
    for mutant in &survivors {
        let reason = mutant.equivalent.unwrap_or("not noticed");
        report(&format!("  line {}: {} {}: {reason}", mutant.line, mutant.instruction, mutant.change));
    }
    assert!(noticed >= REQUIRED, "{:.1} % noticed", 100.0 * noticed);
}

/// Whether the emulator finds something, or the result differs. Any other error is the mutant's: it was never run.
fn shows(case: &Case, sound: &Expected, mutant: &Mutant, seed: u64) -> bool {
    match run(case, &mutant.ptx, seed) {
        Ok(result) => !same_bits(&result, sound),
        Err(Error::Emulated { .. }) => true,
        Err(why) => {
            panic!("line {}: {} {} does not run: {why}", mutant.line, mutant.instruction, mutant.change)
        }
    }
}

fn same_bits(a: &Expected, b: &Expected) -> bool {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    bits(&a.out) == bits(&b.out) && bits(&a.lse) == bits(&b.lse)
}
