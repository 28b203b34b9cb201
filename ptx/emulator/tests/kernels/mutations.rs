//! Nothing that can be written makes the emulator panic: kernels with some words replaced, launched in odd ways.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ptx_emulator::{Checks, Options};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::case::{Case, Parameter, cases};

const MUTANTS: u64 = 10_000;

/// Instructions that a warp of a mutant may execute.
const STEPS: u64 = 400;

/// Lines of a piece of the shipped kernels.
const PIECE: usize = 60;

/// Words that are often where limits are.
const ODD_WORDS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "3",
    "7",
    "31",
    "32",
    "33",
    "255",
    "1023",
    "65536",
    "0x7fffffff",
    "0xffffffff",
    "4294967296",
    "0x7fffffffffffffff",
    "0xffffffffffffffff",
    "0f7fc00000",
    "_",
    "%laneid",
    "%clock64",
    "%tid.x",
    "%nctaid.z",
];

const ODD_SIZES: [u32; 12] = [0, 1, 2, 3, 5, 16, 31, 33, 64, 1025, 65_536, u32::MAX];

#[test]
fn mutants_do_not_panic() {
    let mut corpus = cases("fail");
    corpus.extend(cases("pass"));
    let shipped =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host/ptx/sm_90a.ptx"));
    let pieces = pieces(&shipped.unwrap());
    corpus.extend(pieces);
    let words: Vec<String> = corpus.iter().flat_map(|case| words_of(&case.ptx)).map(str::to_owned).collect();
    let (mut loaded, mut panicked) = (0, Vec::new());
    for seed in 0..MUTANTS {
        let mutant = mutant(&corpus, &words, &mut StdRng::seed_from_u64(seed));
        // Each check also has to do without the other one.
        let checks = Checks { races: seed % 4 != 3, profile: seed % 2 == 1 };
        let options = Options { seed, max_steps: mutant.max_steps, checks, ..Options::default() };
        match catch_unwind(AssertUnwindSafe(|| mutant.run_with(&options).is_ok())) {
            Ok(ran) => loaded += u64::from(ran),
            Err(_) => panicked.push((seed, mutant)),
        }
    }
    if let Some((seed, mutant)) = panicked.first() {
        panic!("{} of {MUTANTS} panic; the first is {seed}:\n{}", panicked.len(), describe(mutant));
    }
    assert!(loaded > MUTANTS / 10, "only {loaded} of {MUTANTS} could be run");
}

fn describe(mutant: &Case) -> String {
    let Case { ptx, grid, block, cluster, shared_bytes, .. } = mutant;
    format!("{ptx}\ngrid {grid:?}, block {block:?}, cluster {cluster:?}, shared {shared_bytes}")
}

/// A kernel of the corpus with a few words or lines changed, and at times another launch.
fn mutant(corpus: &[Case], words: &[String], random: &mut StdRng) -> Case {
    let mut case = corpus.choose(random).unwrap().clone();
    case.max_steps = case.max_steps.min(STEPS);
    for _ in 0..random.random_range(1..4) {
        case.ptx = if random.random_bool(0.75) {
            with_another_word(&case.ptx, words, random)
        } else {
            with_another_line(&case.ptx, random)
        };
    }
    if random.random_bool(0.1) {
        let size = *ODD_SIZES.choose(random).unwrap();
        let axis = random.random_range(0..3);
        match random.random_range(0..5) {
            0 => case.grid[axis] = size.min(16),
            1 => case.block[axis] = size,
            2 => case.cluster[axis] = size,
            3 => case.shared_bytes = size,
            _ => drop(case.parameters.pop()),
        }
    }
    case
}

fn with_another_word(ptx: &str, words: &[String], random: &mut StdRng) -> String {
    let (header, body) = ptx.split_at(ptx.find(".version").unwrap_or(0));
    let own: Vec<&str> = words_of(body).collect();
    let Some(old) = own.choose(random).copied() else { return ptx.to_owned() };
    let new = match random.random_range(0..8) {
        0 => words.choose(random).unwrap(),
        1..3 if kind(old) == Kind::Number => *ODD_WORDS.choose(random).unwrap(),
        _ => own
            .iter()
            .copied()
            .filter(|word| kind(word) == kind(old))
            .collect::<Vec<_>>()
            .choose(random)
            .unwrap(),
    };
    // The word as it stands in the text, so that its place is known.
    let at = old.as_ptr() as usize - body.as_ptr() as usize;
    format!("{header}{}{new}{}", &body[..at], &body[at + old.len()..])
}

/// What is of the same kind often makes a kernel that still can be loaded.
#[derive(PartialEq)]
enum Kind {
    Register,
    Number,
    Name,
}

fn kind(word: &str) -> Kind {
    match word.as_bytes()[0] {
        b'%' => Kind::Register,
        b'0'..=b'9' => Kind::Number,
        _ => Kind::Name,
    }
}

/// Leaves out a line, or writes it somewhere else as well.
fn with_another_line(ptx: &str, random: &mut StdRng) -> String {
    let mut lines: Vec<&str> = ptx.lines().collect();
    let line = lines[random.random_range(0..lines.len())];
    let at = random.random_range(0..lines.len());
    if random.random_bool(0.5) {
        lines.remove(at);
    } else {
        lines.insert(at, line);
    }
    lines.join("\n")
}

/// Names, numbers, and the modifiers between dots.
fn words_of(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.split(|c: char| !(c.is_alphanumeric() || "_%$:".contains(c))).filter(|word| !word.is_empty())
}

/// Kernels made of some lines of the shipped ones, with no branches, started with whatever stands in the registers.
fn pieces(ptx: &str) -> Vec<Case> {
    let lines: Vec<&str> = ptx.lines().map(str::trim).collect();
    let body = lines.iter().rposition(|line| line.starts_with(".visible .entry")).unwrap();
    let registers: Vec<&str> =
        lines[body..].iter().copied().filter(|line| line.starts_with(".reg")).collect();
    let is_plain = |line: &&str| line.ends_with(';') && !line.starts_with('.') && !line.contains("$L");
    let is_parameter = |line: &&str| line.starts_with("ld.param");
    let plain: Vec<&str> =
        lines[body..].iter().copied().filter(is_plain).filter(|line| !is_parameter(line)).collect();
    let globals: Vec<&str> =
        lines.iter().copied().filter(|line| line.starts_with(".extern .shared")).collect();
    let piece = |(index, lines): (usize, &[&str])| Case {
        name: format!("piece {index}"),
        ptx: format!(
            ".version 8.7\n.target sm_90a\n.address_size 64\n{}\n.visible .entry kernel(.param .u64 a) {{\n{}\n{}\n}}\n",
            globals.join("\n"),
            registers.join("\n"),
            lines.join("\n")
        ),
        grid: [2, 1, 1],
        block: [128, 1, 1],
        cluster: [1; 3],
        shared_bytes: 4096,
        max_steps: STEPS,
        parameters: vec![Parameter::Words(64, Vec::new())],
        ..Case::default()
    };
    plain.chunks(PIECE).enumerate().map(piece).collect()
}
