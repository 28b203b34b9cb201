//! Instructions that compute in one thread, against answers from hand, from big integers, or from the host's own
//! arithmetic where that is a different method.

mod approximate;
mod bits;
mod compare;
mod convert;
mod decode;
mod exact;
mod float;
mod fp8;
mod half;
mod integer;
mod moves;
mod robustness;

use ptx_emulator::arithmetic::{DecodeError, LANES, Lanes, Operation};
use ptx_syntax::ast::{Address, Instruction, Operand, Position};

/// An instruction from text: `mov.b64 {a, b}, c`; enough of the syntax for this family.
fn instruction(text: &str) -> Instruction {
    let (mnemonic, operands) = text.split_once(' ').unwrap_or((text, ""));
    let mut parts = mnemonic.split('.').map(str::to_owned);
    Instruction {
        position: Position::default(),
        guard: None,
        opcode: parts.next().unwrap_or_default(),
        modifiers: parts.collect(),
        operands: split(operands).into_iter().map(operand).collect(),
    }
}

/// Splits at commas outside braces.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

fn operand(text: &str) -> Operand {
    if let Some(elements) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        return Operand::Vector(split(elements).into_iter().map(operand).collect());
    }
    if let Some(base) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Operand::Address(Address { base: Some(base.to_owned()), offset: 0, coordinates: Vec::new() });
    }
    if let Some((first, second)) = text.split_once('|') {
        return Operand::Pair(Box::new(operand(first)), Box::new(operand(second)));
    }
    match (text, text.strip_prefix('!'), text.parse()) {
        ("_", ..) => Operand::Sink,
        (_, Some(name), _) => Operand::Not(name.to_owned()),
        (.., Ok(integer)) => Operand::Integer(integer),
        _ => Operand::Name(text.to_owned()),
    }
}

fn decode(text: &str) -> Result<Option<Operation>, DecodeError> {
    Operation::decode(&instruction(text))
}

/// The operation of an instruction that must be of this family.
fn operation(text: &str) -> Operation {
    decode(text)
        .unwrap_or_else(|error| panic!("{error}"))
        .unwrap_or_else(|| panic!("`{text}` is not of the family"))
}

/// Computes with the same operands in all lanes.
fn evaluate(operation: &Operation, operands: &[u64]) -> Vec<u64> {
    let operands: Vec<Lanes> = operands.iter().map(|&value| [value; LANES]).collect();
    let mut results = vec![[u64::MAX; LANES]; operation.results().len()];
    operation.evaluate(&operands, &mut results);
    for lanes in &results {
        assert!(lanes.iter().all(|lane| lane == &lanes[0]), "lanes differ");
    }
    results.iter().map(|lanes| lanes[0]).collect()
}

/// Decodes and computes; carries are the last operand and result.
fn run(text: &str, operands: &[u64]) -> Vec<u64> {
    evaluate(&operation(text), operands)
}

/// Computes each of many cases in its own lane; one result.
fn run_many<const N: usize>(text: &str, cases: &[[u64; N]]) -> Vec<u64> {
    let operation = operation(text);
    let mut answers = Vec::with_capacity(cases.len());
    for chunk in cases.chunks(LANES) {
        let mut operands = [[0; LANES]; N];
        for (lane, case) in chunk.iter().enumerate() {
            for (register, value) in operands.iter_mut().zip(case) {
                register[lane] = *value;
            }
        }
        let mut results = [[0; LANES]];
        operation.evaluate(&operands, &mut results);
        answers.extend_from_slice(&results[0][..chunk.len()]);
    }
    answers
}

/// Instruction, operands, results.
type Case<'a> = (&'a str, &'a [u64], &'a [u64]);

fn check(cases: &[Case<'_>]) {
    for (text, operands, results) in cases {
        let found = run(text, operands);
        assert_eq!(found, *results, "`{text}` of {operands:x?} is {found:x?}, not {results:x?}");
    }
}
