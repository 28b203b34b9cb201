//! Damaged text gives an error with a place in the text, or a tree that survives printing; never a panic, and never
//! more time than its length explains.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ptx_syntax::lexer::{TokenKind, tokens};
use ptx_syntax::{parse, parse_unchecked};

const SHIPPED: &str = include_str!("../../../host/ptx/sm_90a.ptx");
const FIXTURES: [&str; 2] =
    [include_str!("../../build/fixtures/two_entries.ptx"), include_str!("../../build/fixtures/calling.ptx")];
/// Constructs that neither has.
const RARE: &str = ".version 8.4 .target sm_90a, debug .address_size 64
    .weak .const .align 8 .v2 .f64 pi = {3.25, -1e-3}; .global .u64 t[2][2] = {{generic(x)+8, x}, {x-8, 0xff00(x)}};
    .visible .entry k(.param .u64 .ptr .global .align 16 p) .maxntid 128, 1, 1 .explicitcluster {
    .loc 1 2 3, function_name $L+4, inlined_at 1 2 3
    .reg .v4 .f32 %v<2>, w; .pragma \"nounroll\"; targets: .branchtargets a, b;
    proto : .callprototype (.param .b32 _) _ (.param .b64 _) .noreturn;
    mov.f32 w.x, %v1.w; @!p ld.global.b32 %r1, [%rd1-8]; call (r), %rd1, (a, 1), proto; setp.eq.s32 a|b, c, 0b101U; }
    .section .debug_abbrev { .b8 1 }";
const SEED: u64 = 0x0b5e_55ed_0b5e_55ed;
/// The shipped module's lines of instructions, but for the very long ones.
static LINES: LazyLock<Vec<&str>> =
    LazyLock::new(|| SHIPPED.lines().filter(|line| line.starts_with('\t') && line.len() < 200).collect());
/// How many of them are in one sample.
const SAMPLE_LINES: usize = 24;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// PTX without mistakes: a fixture, or some lines of the shipped module in an entry.
fn sample(random: &mut Random) -> String {
    match random.below(8) {
        0 => RARE.to_owned(),
        1 | 2 => (*random.choose(&FIXTURES)).to_owned(),
        _ => {
            let first = random.below(LINES.len() - SAMPLE_LINES);
            let body = LINES[first..first + SAMPLE_LINES].join("\n");
            format!(".version 8.4\n.target sm_90a\n.entry k()\n{{\n{body}\n}}\n")
        }
    }
}

/// Parses; whether there is a tree.
fn parses(text: &str) -> bool {
    match parse_unchecked(text) {
        Ok(module) => {
            let printed = module.to_string();
            let again =
                parse_unchecked(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}\nfrom\n{text}"));
            assert_eq!(again.without_positions(), module.without_positions(), "{text}");
            // Whatever the grammar says of it.
            let _ = parse(text).map_err(|error| error.to_string());
            true
        }
        Err(error) => {
            let line = text.split('\n').nth(error.position.line as usize - 1);
            let columns = line.unwrap_or_else(|| panic!("{error} is behind\n{text}")).chars().count();
            assert!(
                (1..=columns + 1).contains(&(error.position.column as usize)),
                "{error} is beside\n{text}"
            );
            assert!(!error.message.is_empty());
            false
        }
    }
}

/// Runs cases that `damage` makes of samples. Most must be errors, or they test nothing.
fn most_fail(cases: usize, damage: impl Fn(&mut Random, String) -> String) {
    let mut random = Random(SEED);
    let mut trees = 0;
    for _ in 0..cases {
        let text = sample(&mut random);
        let damaged = damage(&mut random, text);
        trees += usize::from(parses(&damaged));
    }
    assert!(trees < cases / 2, "{trees} of {cases} are well-formed");
}

#[test]
fn samples_are_well_formed() {
    let mut random = Random(SEED);
    // Cut out of its surroundings, a block may have lost its end.
    let trees = (0..400).filter(|_| parses(&sample(&mut random))).count();
    assert!(trees > 300, "{trees} of 400");
}

#[test]
fn truncations() {
    most_fail(5_000, |random, mut text| {
        let mut end = random.below(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    });
}

#[test]
fn edits_of_tokens() {
    const STRAY: [&str; 24] = [
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "<",
        ">",
        ",",
        ";",
        ":",
        "=",
        "+",
        "-",
        "!",
        "|",
        "@",
        "_",
        ".reg",
        "%r1",
        "0x",
        "0fZ",
        "99999999999999999999",
        ".section",
    ];
    most_fail(10_000, |random, text| {
        let mut words: Vec<_> = tokens(&text)
            .unwrap()
            .into_iter()
            .map(|token| match token.kind {
                TokenKind::Dotted => format!(".{}", token.text),
                TokenKind::String => format!("\"{}\"", token.text),
                _ => token.text.to_owned(),
            })
            .collect();
        for _ in 0..=random.below(3) {
            let [at, other] = [random.below(words.len()), random.below(words.len())];
            match random.below(5) {
                0 => drop(words.remove(at)),
                1 => words.insert(at, words[other].clone()),
                2 => words.swap(at, other),
                3 => words[at] = words[other].clone(),
                _ => words[at] = (*random.choose(&STRAY)).to_owned(),
            }
        }
        words.join(" ")
    });
}

#[test]
fn noise() {
    const NOISE: [&str; 12] = ["\0", "\n", "\"", "/*", "//", "#", "é", "\u{1f600}", "%", ".", "::", "\u{7f}"];
    most_fail(5_000, |random, text| {
        let mut characters: Vec<_> = text.chars().map(String::from).collect();
        for _ in 0..=random.below(8) {
            let at = random.below(characters.len());
            characters[at] = if random.below(2) == 0 {
                (*random.choose(&NOISE)).to_owned()
            } else {
                char::from(random.next() as u8).to_string()
            };
        }
        characters.concat()
    });
}

#[test]
fn nothing_but_noise() {
    most_fail(2_000, |random, _| {
        let bytes: Vec<_> = (0..random.below(200)).map(|_| random.next() as u8).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    });
}

#[test]
fn deep_nesting_is_an_error() {
    const DEPTH: usize = 100_000;
    let body = |text: &str| format!(".version 8.4 .target sm_90a .entry k() {{ {text}");
    let outside = |text: &str| format!(".version 8.4 .target sm_90a {text}");
    let cases = [
        (body(&"{".repeat(DEPTH)), "more than 64 blocks in each other"),
        (body(&format!("a {}", "{".repeat(DEPTH))), "more than 4 operands in each other"),
        (body(&format!("a {}", "(".repeat(DEPTH))), "more than 4 operands in each other"),
        (body(&format!("a {}", "[a,{".repeat(DEPTH))), "more than 4 operands in each other"),
        (body(&format!("a {}", "!".repeat(DEPTH))), "expected a predicate register, found `!`"),
        (body(&format!("a {}", "-".repeat(DEPTH))), "expected a number, found `-`"),
        (body(&format!("a {}", "0x1(".repeat(DEPTH))), "expected a name, found `0x1`"),
        (body(&format!("a {}", "generic(".repeat(DEPTH))), "found `(`"),
        (
            outside(&format!(".global .b32 x = {}", "{".repeat(DEPTH))),
            "expected at most 4 braces in each other",
        ),
        (outside(&".section .x {".repeat(DEPTH)), "expected `}`, found the end of the text"),
    ];
    for (text, message) in cases {
        let error = parse(&text).unwrap_err();
        assert!(error.message.contains(message), "{error}");
    }
}

#[test]
fn time_is_linear() {
    const REPETITIONS: usize = 20_000;
    /// Of a debug build on a slow machine; a quadratic parser needs hours.
    const BOUND: Duration = Duration::from_secs(60);
    let start = Instant::now();
    for piece in [
        "a, ",
        "x: ",
        "@p a; ",
        "{ } ",
        "a [b], ",
        "/* */ ",
        "/ ",
        ".a",
        "a|b|",
        "\"",
        ".reg .b32 %r<2>; ",
        "1.e+",
    ] {
        let text = format!(".version 8.4 .target sm_90a .entry k() {{ a {} }}", piece.repeat(REPETITIONS));
        let _ = parses(&text);
    }
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
}
