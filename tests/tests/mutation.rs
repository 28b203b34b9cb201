//! Would the emulator notice a mistake in a shipped kernel? Each synchronising instruction is deleted or altered, one
//! at a time; the emulator has to report something, or the result has to differ.

use oximla::case_file::{Case, Expected};
use oximla::{Device, EmulatedOptions, EmulatedReports, Error, KvFormat};
use oximla_conformance::backend::report;
use oximla_conformance::dense_decode::Spec;
use oximla_conformance::mutation::{BarrierUses, Equivalent, Mutant, mutants, only};
use oximla_conformance::sparse_decode::{self, ScopeSpec};
use oximla_reference::Fp8Format;
use rayon::prelude::*;

const PTX: &str = include_str!("../../host/ptx/sm_90a.ptx");

/// Few enough that each CTA has several requests, and some requests are split.
const MULTIPROCESSORS: u32 = 2;

/// As many as a cluster has CTAs that combines by itself.
const FUSED_MULTIPROCESSORS: u32 = 16;

/// Interleavings to try before a mutant counts as a survivor.
const SEEDS: u64 = 3;

/// Share of the mutants that must be noticed.
const REQUIRED: f64 = 0.95;

/// Instructions a warp may execute: several times what it needs, so that endless loops end soon.
const MAX_STEPS: u64 = 60_000;

/// Of the kernels that combine, that for few rows is altered; that for many has a test by itself (`combine.rs`), as two partitions make
/// too few splits for all of it.
#[test]
fn mistakes_in_dense_decode_are_noticed() {
    check("dense_decode_sm90_bf16", ["combine_bf16", "combine_rows_bf16"], KvFormat::Bf16);
}

/// The kernels of bf16 and fp16 are made of the same source: the same could be wrong with them, in the same order, but for the
/// element's name in an instruction. So bf16 stands for both above.
#[test]
fn kernels_of_fp16_synchronise_as_those_of_bf16_do() {
    let mistakes = |entry: &str| -> Vec<(String, &'static str)> {
        let (all, _) = mutants(&only(PTX, &[entry]), entry, &BarrierUses::default());
        all.into_iter().map(|mutant| (mutant.instruction.replace("bf16", "f16"), mutant.change)).collect()
    };
    for [bf16, fp16] in [
        ["dense_decode_sm90_bf16", "dense_decode_sm90_fp16"],
        ["combine_bf16", "combine_fp16"],
        ["combine_rows_bf16", "combine_rows_fp16"],
    ] {
        let of_bf16 = mistakes(bf16);
        assert!(!of_bf16.is_empty(), "{bf16}");
        assert!(of_bf16 == mistakes(fp16), "{fp16}");
    }
}

/// A kernel that does not wait for the ones before it is found by what it touches of theirs: the combine kernel by what the
/// decode kernel leaves for it, the next decode kernel by the workspace and the outputs.
#[test]
fn kernels_that_run_into_earlier_ones_are_noticed() {
    for (format, entry) in
        [(KvFormat::Bf16, "dense_decode_sm90_bf16"), (KvFormat::Fp16, "dense_decode_sm90_fp16")]
    {
        let combine = if format == KvFormat::Bf16 { "combine_bf16" } else { "combine_fp16" };
        let waits = without_waits(&only(PTX, &[entry, combine]), entry);
        assert!(!waits.is_empty(), "{entry} waits for nothing");
        for (number, ptx) in waits.iter().enumerate() {
            let found = runs_into_earlier_ones(&short_case(format), options(ptx, 0));
            assert_eq!(found.as_deref(), Some(entry), "{entry} without wait {number}");
        }
    }
}

/// The combine kernel waits before it reads what it has to combine, before the first piece where it knows that already, and at the
/// end, where it may have had nothing to combine: what waits for it takes the decode kernel for ended.
#[test]
fn combinations_that_run_into_earlier_kernels_are_noticed() {
    let (sparse, few_heads) = ("sparse_decode_v32_sm90", "sparse_decode_v32_few_heads_sm90");
    // Each of the waits is one case's; without the last one, it is the next decode kernel that runs into the one before.
    let rows = "combine_rows_bf16";
    let trials = [
        (
            "dense_decode_sm90_bf16",
            "combine_bf16",
            short_case(KvFormat::Bf16),
            MULTIPROCESSORS,
            0,
            "combine_bf16",
        ),
        (
            "dense_decode_sm90_fp16",
            "combine_fp16",
            short_case(KvFormat::Fp16),
            MULTIPROCESSORS,
            0,
            "combine_fp16",
        ),
        (few_heads, "combine_bf16", sparse_case(3, 130), MULTIPROCESSORS, 1, "combine_bf16"),
        (few_heads, "combine_bf16", sparse_case(3, 30), MULTIPROCESSORS, 2, few_heads),
        // As many rows as count as many; six splits, three, and two.
        (sparse, rows, sparse_case(64, 768), 7, 2, rows),
        (sparse, rows, sparse_case(64, 384), 7, 1, rows),
        (sparse, rows, sparse_case(20, 130), MULTIPROCESSORS, 3, rows),
        (sparse, rows, sparse_case(20, 30), MULTIPROCESSORS, 4, sparse),
    ];
    for (decode, combine, case, multiprocessors, needed, finder) in trials {
        let options = |ptx: &str| EmulatedOptions { multiprocessors, ..options(ptx, 0) };
        let ptx = only(PTX, &[decode, combine]);
        run(&case, 2, options(&ptx)).unwrap_or_else(|why| panic!("{decode} as it is: {why}"));
        let waits = without_waits(&ptx, combine);
        // Before the records, before the first piece of each kind, and at the end.
        assert_eq!(waits.len(), if combine == rows { 5 } else { 3 });
        for (number, ptx) in waits.iter().enumerate() {
            let expected = (number == needed).then_some(finder);
            let found = runs_into_earlier_ones(&case, options(ptx));
            assert_eq!(found.as_deref(), expected, "{combine} behind {decode} without wait {number}");
        }
    }
}

/// Where outputs go by way of where values were: all warps are done with those before, and with the output before it is read, threads'
/// stores are fenced for the copy engine, and the loads come when it has read them.
#[test]
fn outputs_that_are_put_or_read_too_early_are_noticed() {
    let of = |batch, h_q, topk| {
        let scope = ScopeSpec { topk, ..ScopeSpec::default() };
        let spec = sparse_decode::Spec { batch, h_q, scope, ..sparse_decode::Spec::default() };
        Case::SparseDecode(spec.case())
    };
    // Query tokens that are not split, of more blocks than there is room for. On both sides: three meetings, and of each of two parts a
    // fence, a group, and a wait.
    let whole = vec![of(8, 30, 250)];
    let unnoticed =
        steps_not_missed("sparse_decode_v32_sm90", "combine_bf16", whole, stores_output, 2 * (3 + 2 * 3));
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}

/// The warpgroups that attend to few heads: warps meet when they have told each other of the largest queries, twice a block, and at a segment's
/// end when they have told what came of it, when the largest outputs are known of what is split, and when all have read that.
#[test]
fn warps_of_few_heads_that_go_on_too_early_are_noticed() {
    let of = |batch, topk, topk_length| {
        let scope = ScopeSpec { topk, topk_length, ..ScopeSpec::default() };
        let spec = sparse_decode::Spec { batch, h_q: 15, scope, ..sparse_decode::Spec::default() };
        Case::SparseDecode(spec.case())
    };
    // Whole query tokens and split ones, and some of one block or of none, which one warpgroup has by itself.
    let few = (0..16).map(|i| [64, 0, 40, 0, 200, 0, 64, 64][i % 8]).collect();
    // CTAs with the last block of a query token and the first one of the next.
    let ends = (0..6).map(|i| 320 - 3 * i).collect();
    let cases = vec![of(8, 250, None), of(3, 250, None), of(6, 320, Some(ends)), of(16, 256, Some(few))];
    let is_step =
        |lines: &[&str], number: usize| matches!(named_barrier(lines[number]), Some("1," | "2," | "3,"));
    let few_heads = "sparse_decode_v32_few_heads_sm90";
    // Of each warpgroup, and of both.
    let unnoticed = steps_not_missed(few_heads, "combine_bf16", cases, is_step, 2 * (1 + 2) + 3 * 3);
    // Where the second warpgroup has a segment by itself: none of these is one part of several, and the first one alone has segments without
    // blocks, before which what was told must have been read.
    let [largest, read] = &unnoticed[..] else { panic!("{unnoticed:?}") };
    assert!([largest, read].iter().all(|step| step.contains("bar.sync \t2,")), "{unnoticed:?}");
}

/// The named barrier at which a line meets others.
fn named_barrier(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    if words.next() == Some("bar.sync") { words.next() } else { None }
}

/// Whether a line is a step of the values when they store outputs.
fn stores_output(lines: &[&str], number: usize) -> bool {
    let meets = |line: &str| matches!(named_barrier(line), Some("2," | "3,"));
    let line = lines[number];
    let fences_output =
        line.contains("fence.proxy.async") && lines[number..][..6].iter().any(|line| meets(line));
    meets(line)
        || line.contains("cp.async.bulk.commit_group")
        || line.contains("wait_group.read")
        || fences_output
}

/// Of an entry's steps, of which there are so many, those without which no case shows it.
fn steps_not_missed(
    decode: &str,
    combine: &str,
    cases: Vec<Case>,
    is_step: impl Fn(&[&str], usize) -> bool,
    steps: usize,
) -> Vec<String> {
    let ptx = only(PTX, &[decode, combine]);
    let trials: Vec<Trial> = cases
        .into_iter()
        .map(|case| {
            let sound =
                run(&case, 1, options(&ptx, 0)).unwrap_or_else(|why| panic!("{decode} as it is: {why}"));
            Trial { case, rounds: 1, sound }
        })
        .collect();
    let lines: Vec<&str> = ptx.lines().collect();
    let needed: Vec<usize> = (0..lines.len()).filter(|&number| is_step(&lines, number)).collect();
    assert_eq!(needed.len(), steps, "{decode}");
    let is_missed = |&number: &usize| {
        let mutant = Mutant {
            entry: decode.to_owned(),
            line: number as u32 + 1,
            label: String::new(),
            instruction: lines[number].trim().to_owned(),
            change: "deleted",
            ptx: [&lines[..number], &lines[number + 1..]].concat().join("\n"),
        };
        trials.iter().any(|trial| (0..SEEDS).any(|seed| shows(trial, &mutant, seed)))
    };
    let unnoticed = needed.par_iter().filter(|number| !is_missed(number));
    unnoticed.map(|&number| format!("line {}: {}", number + 1, lines[number].trim())).collect()
}

/// Without any one of the synchronising steps behind the blocks, what a cluster combines is not there yet.
#[test]
fn combinations_within_a_cluster_that_begin_too_early_are_noticed() {
    let dense = Case::DenseDecode(Spec { lengths: vec![300], h_q: 3, ..Spec::default() }.case());
    let trials = [
        ("dense_decode_fused_sm90_bf16", dense),
        ("sparse_decode_model1_fused_sm90", sparse_case_of(Fp8Format::Model1, 3, 130)),
        ("sparse_decode_v32_fused_sm90", sparse_case_of(Fp8Format::V32, 3, 130)),
    ];
    for (entry, case) in trials {
        let options = |ptx: &str, seed| EmulatedOptions {
            multiprocessors: FUSED_MULTIPROCESSORS,
            ..options(ptx, seed)
        };
        let ptx = only(PTX, &[entry]);
        let sound = run(&case, 1, options(&ptx, 0)).unwrap_or_else(|why| panic!("{entry} as it is: {why}"));
        let (all, _) = mutants(&ptx, entry, &BarrierUses::default());
        let cluster: Vec<_> =
            all.into_iter().filter(|mutant| mutant.instruction.starts_with("barrier.cluster")).collect();
        assert!(cluster.len() >= 6, "{entry}: {} mutants", cluster.len());
        let is_noticed = |mutant: &&Mutant| {
            (0..SEEDS).any(|seed| match run(&case, 1, options(&mutant.ptx, seed)) {
                Ok(result) => !same_bits(&result, &sound),
                Err(Error::Emulated { .. }) => true,
                Err(why) => panic!("{entry}, line {}: {why}", mutant.line),
            })
        };
        let unnoticed: Vec<_> = cluster.par_iter().filter(|mutant| !is_noticed(mutant)).collect();
        // Who has stored denominators and combines nothing must arrive, but needs nothing that it waits for.
        let is_of_scores = |mutant: &&Mutant| mutant.instruction.starts_with("barrier.cluster.wait");
        assert!(
            unnoticed.len() <= 1 && unnoticed.iter().all(is_of_scores),
            "{entry}: {:?}",
            unnoticed
                .iter()
                .map(|mutant| (mutant.line, &mutant.instruction, mutant.change))
                .collect::<Vec<_>>()
        );
    }
}

/// The module with one wait of the entry deleted, for each of them.
fn without_waits(ptx: &str, entry: &str) -> Vec<String> {
    let (all, _) = mutants(ptx, entry, &BarrierUses::default());
    all.into_iter()
        .filter(|mutant| mutant.instruction == "griddepcontrol.wait")
        .map(|mutant| mutant.ptx.to_string())
        .collect()
}

/// The kernel that touches what an earlier one still does, when a case is computed twice in a row, if the emulator finds one.
fn runs_into_earlier_ones(case: &Case, options: EmulatedOptions) -> Option<String> {
    match run(case, 2, options) {
        Err(Error::Emulated { kernel, diagnostics }) => {
            let text = diagnostics[0].to_string();
            assert!(text.contains("by an earlier launch"), "{text}");
            Some(kernel.to_string())
        }
        Ok(_) => None,
        Err(why) => panic!("{why}"),
    }
}

/// Sparse decode of one query token with so many heads and indices, without lengths.
fn sparse_case(h_q: usize, topk: usize) -> Case {
    sparse_case_of(Fp8Format::V32, h_q, topk)
}

/// The same over a cache of either format.
fn sparse_case_of(format: Fp8Format, h_q: usize, topk: usize) -> Case {
    let scope = ScopeSpec { topk, ..ScopeSpec::default() };
    let spec = sparse_decode::Spec { batch: 1, h_q, format, scope, ..sparse_decode::Spec::default() };
    Case::SparseDecode(spec.case())
}

/// A case, and how often it is computed before anybody waits for it.
struct Trial {
    case: Case,
    rounds: u32,
    sound: Expected,
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

/// Two tiles of rows, whose CTAs may form a cluster, and enough blocks for every barrier to come around.
fn case_of_two_tiles(format: KvFormat) -> Case {
    Case::DenseDecode(Spec { lengths: vec![400, 40], h_q: 128, format, ..Spec::default() }.case())
}

fn run(case: &Case, rounds: u32, options: EmulatedOptions) -> Result<Expected, Error> {
    let device = Device::emulated(options)?;
    let mut prepared = case.prepare(&device)?;
    (0..rounds).try_for_each(|_| prepared.run())?;
    prepared.answer()
}

fn options(ptx: &str, seed: u64) -> EmulatedOptions {
    EmulatedOptions {
        multiprocessors: MULTIPROCESSORS,
        seed,
        max_steps: MAX_STEPS,
        max_findings: 1,
        ptx: Some(ptx.to_owned()),
        ..EmulatedOptions::default()
    }
}

/// On which mbarriers the instructions of an entry are executed.
fn barrier_uses(ptx: &str, entry: &str, trials: &[Trial]) -> BarrierUses {
    let mut uses = BarrierUses::default();
    for (Trial { case, rounds, .. }, seed) in
        trials.iter().flat_map(|trial| (0..SEEDS).map(move |seed| (trial, seed)))
    {
        let reports = EmulatedReports::default();
        let options = EmulatedOptions { profile: true, reports: Some(reports.clone()), ..options(ptx, seed) };
        run(case, *rounds, options).unwrap_or_else(|why| panic!("{entry} as it is: {why}"));
        for report in reports.take().iter().filter(|report| report.entry == entry) {
            uses.add(&report.report.profile);
        }
    }
    uses
}

fn check(decode: &str, [combine, of_many_rows]: [&str; 2], format: KvFormat) {
    let ptx = &only(PTX, &[decode, combine, of_many_rows]);
    // In a second round, kernels meet those of the first, which may still be running.
    let trials = [(short_case(format), 2), (case(format), 1), (case_of_two_tiles(format), 1)];
    let trials = trials.map(|(case, rounds)| {
        let sound =
            run(&case, rounds, options(ptx, 0)).unwrap_or_else(|why| panic!("{decode} as it is: {why}"));
        Trial { case, rounds, sound }
    });
    let uses = barrier_uses(ptx, decode, &trials);
    // One seed of each trial first: most mistakes show in one of them, whatever the seed.
    let runs = || (0..SEEDS).flat_map(|seed| trials.iter().map(move |trial| (trial, seed)));
    let check_sound = |ptx: &str, what: &str| {
        runs().par_bridge().for_each(|(trial, seed)| {
            let result = run(&trial.case, trial.rounds, options(ptx, seed))
                .unwrap_or_else(|why| panic!("{decode} {what}: {why}"));
            assert!(same_bits(&result, &trial.sound), "{decode} {what}: another result");
        });
    };
    let (mut mutants, mut equivalents) = mutants(ptx, decode, &uses);
    assert!(mutants.len() > 100, "{} mutants", mutants.len());
    let (others, no_mistakes) = self::mutants(ptx, combine, &BarrierUses::default());
    mutants.extend(others);
    equivalents.extend(no_mistakes);
    // What is said to be no mistake is none, be it all at once.
    for Equivalent { change, lines, ptx } in &equivalents {
        check_sound(ptx, &format!("with what is said to be no mistake: {change} {lines:?}"));
    }

    let is_noticed = |mutant: &&Mutant| runs().any(|(trial, seed)| shows(trial, mutant, seed));
    let wrong: Vec<&Mutant> = mutants.par_iter().filter(|mutant| !is_noticed(mutant)).collect();
    let (mistakes, noticed) = (mutants.len(), 1.0 - wrong.len() as f64 / mutants.len() as f64);
    report(&format!(
        "{decode}: {} of {mistakes} mistakes noticed ({:.1} %), {} mutants are none",
        mistakes - wrong.len(),
        100.0 * noticed,
        equivalents.iter().map(|equivalent| equivalent.lines.len()).sum::<usize>()
    ));
    for Mutant { entry, line, label, instruction, change, .. } in &wrong {
        let who = if entry == decode { uses.describe(*line) } else { combine.to_owned() };
        report(&format!("  not noticed: line {line} behind {label} ({who}): {instruction} {change}"));
    }
    assert!(noticed >= REQUIRED, "{:.1} % noticed", 100.0 * noticed);
}

/// Whether the emulator finds something, or the result differs. Any other error is the mutant's: it was never run.
fn shows(Trial { case, rounds, sound }: &Trial, mutant: &Mutant, seed: u64) -> bool {
    match run(case, *rounds, options(&mutant.ptx, seed)) {
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
