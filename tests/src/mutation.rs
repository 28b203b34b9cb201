//! Kernels with one mistake: copies of a module in which one synchronising instruction is gone or altered.
//!
//! Whoever checks kernels can be checked with them: a mistake that nothing notices is either none, or a gap.

use ptx_syntax::ast::{Instruction, Operand};

/// A module with one mistake.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Entry with the mistake.
    pub entry: String,
    /// Line of the instruction.
    pub line: u32,
    /// The instruction as it was, without its operands.
    pub instruction: String,
    /// What was done to it.
    pub change: &'static str,
    /// The whole text.
    pub ptx: String,
    /// Why this is no mistake, where that is known.
    pub equivalent: Option<&'static str>,
}

/// An alteration of one instruction: what it is, the text in its place, and why it may be none.
type Change = (&'static str, String, Option<&'static str>);

/// Bits of a matrix descriptor: the lowest of its leading and of its stride byte offset, in units of 16 bytes (PTX
/// ISA, "Matrix Descriptor Format").
const LEADING_OFFSET_BIT: u32 = 16;
const STRIDE_OFFSET_BIT: u32 = 32;

/// How much the altered offsets differ: 128 bytes, so that what they lead to stays aligned.
const OFFSET_CHANGE: u32 = 3;

/// Every mutant of an entry.
///
/// # Panics
/// If the text is not PTX.
pub fn mutants(ptx: &str, entry: &str) -> Vec<Mutant> {
    let module = ptx_syntax::parse(ptx).expect("PTX");
    let function = module.functions().find(|function| function.name == entry).expect("the entry");
    let line_starts: Vec<usize> =
        std::iter::once(0).chain(ptx.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut mutants = Vec::new();
    for instruction in function.instructions() {
        let start =
            line_starts[instruction.position.line as usize - 1] + instruction.position.column as usize - 1;
        let end = start + ptx[start..].find(';').expect("the end of an instruction") + 1;
        for (change, replacement, equivalent) in changes(instruction) {
            mutants.push(Mutant {
                entry: entry.to_owned(),
                line: instruction.position.line,
                instruction: instruction.mnemonic(),
                change,
                ptx: format!("{}{replacement}{}", &ptx[..start], &ptx[end..]),
                equivalent,
            });
        }
    }
    mutants
}

fn changes(instruction: &Instruction) -> Vec<Change> {
    let mnemonic = instruction.mnemonic();
    let starts_with = |prefix: &str| mnemonic.starts_with(prefix);
    let gone = || ("deleted", String::new(), None);
    if starts_with("mbarrier.try_wait") || starts_with("mbarrier.test_wait") {
        let Operand::Name(done) = &instruction.operands[0] else { return Vec::new() };
        let passes = ("deleted", format!("setp.eq.b32 {done}, 0, 0;"), None);
        return vec![passes, altered(instruction, 2, "of the other phase", "xor.b32", 1)];
    }
    if starts_with("mbarrier.init") {
        let count = |change, count: i64| {
            let mut other = instruction.clone();
            if let Operand::Integer(value) = &mut other.operands[1] {
                *value += count;
                return (change, format!("{other};"), None);
            }
            altered(instruction, 1, change, "add.s32", count as i32)
        };
        return vec![count("with one arrival more", 1), count("with one arrival less", -1)];
    }
    if starts_with("mbarrier.arrive.expect_tx") {
        // One copy of the smallest size more or less.
        const BYTES: i32 = 16;
        return vec![
            gone(),
            altered(instruction, 2, "expecting more bytes", "add.s32", BYTES),
            altered(instruction, 2, "expecting fewer bytes", "add.s32", -BYTES),
        ];
    }
    if starts_with("wgmma.mma_async") {
        // The last two immediates say along which dimension the operands lie; 0 is along k.
        let along_k = |back: usize| {
            let operands = &instruction.operands;
            operands.get(operands.len().wrapping_sub(back)) == Some(&Operand::Integer(0))
        };
        let unused = "the leading offset of a swizzled operand along k has no meaning";
        return [
            (1, along_k(2), ["A with another leading offset", "A with another stride"]),
            (2, along_k(1), ["B with another leading offset", "B with another stride"]),
        ]
        .into_iter()
        .filter(|(operand, ..)| matches!(instruction.operands[*operand], Operand::Name(_)))
        .flat_map(|(operand, along_k, [leading, stride])| {
            let change =
                |text, bit: u32| altered_wide(instruction, operand, text, 1_u64 << (bit + OFFSET_CHANGE));
            let mut leading = change(leading, LEADING_OFFSET_BIT);
            leading.2 = along_k.then_some(unused);
            [leading, change(stride, STRIDE_OFFSET_BIT)]
        })
        .collect();
    }
    let synchronises = [
        "bar",
        "barrier",
        "fence",
        "membar",
        "mbarrier.arrive",
        "mbarrier.expect_tx",
        "cp.async.wait",
        "cp.async.commit",
        "cp.async.bulk.wait",
        "cp.async.bulk.commit",
        "wgmma.fence",
        "wgmma.commit_group",
        "wgmma.wait_group",
        "griddepcontrol.wait",
    ];
    // Whole words of the mnemonic: `bar` is not the beginning of `barrier`.
    let is = |prefix: &str| {
        mnemonic.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_']))
    };
    if synchronises.into_iter().any(is) { vec![gone()] } else { Vec::new() }
}

/// The instruction with an operand of 32 bits to which something was done before.
fn altered(
    instruction: &Instruction,
    operand: usize,
    change: &'static str,
    operation: &str,
    value: i32,
) -> Change {
    (
        change,
        with_other_operand(instruction, operand, "b32", &format!("{operation} %altered, {{}}, {value};")),
        None,
    )
}

/// The instruction with some bits of an operand of 64 bits flipped.
fn altered_wide(instruction: &Instruction, operand: usize, change: &'static str, bits: u64) -> Change {
    (
        change,
        with_other_operand(instruction, operand, "b64", &format!("xor.b64 %altered, {{}}, {bits};")),
        None,
    )
}

fn with_other_operand(instruction: &Instruction, operand: usize, ty: &str, computation: &str) -> String {
    let mut other = instruction.clone();
    let before = std::mem::replace(&mut other.operands[operand], Operand::Name("%altered".into()));
    let computation = computation.replace("{}", &before.to_string());
    format!("{{ .reg .{ty} %altered; {computation} {other}; }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = "\
.version 8.4
.target sm_90a
.address_size 64
.visible .entry k()
{
	.reg .pred %p;
	.reg .b32 %r<3>;
	mov.b32 %r1, 0;
	mbarrier.try_wait.parity.shared::cta.b64 %p, [%r1], %r2;
	bar.sync 0;
	ret;
}
";

    #[test]
    fn each_change_is_in_its_place_and_the_rest_is_as_before() {
        let found = mutants(MODULE, "k");
        let changes: Vec<_> = found.iter().map(|m| (m.line, m.instruction.as_str(), m.change)).collect();
        assert_eq!(
            changes,
            [
                (9, "mbarrier.try_wait.parity.shared::cta.b64", "deleted"),
                (9, "mbarrier.try_wait.parity.shared::cta.b64", "of the other phase"),
                (10, "bar.sync", "deleted"),
            ]
        );
        let line =
            |mutant: &Mutant, line: usize| mutant.ptx.lines().nth(line - 1).map(str::trim).map(str::to_owned);
        assert_eq!(line(&found[0], 9).unwrap(), "setp.eq.b32 %p, 0, 0;");
        let other = "{ .reg .b32 %altered; xor.b32 %altered, %r2, 1; \
                     mbarrier.try_wait.parity.shared::cta.b64 %p, [%r1], %altered; }";
        assert_eq!(line(&found[1], 9).unwrap(), other);
        assert_eq!(line(&found[2], 10).unwrap(), "");
        for mutant in &found {
            let same = MODULE.lines().zip(mutant.ptx.lines()).filter(|(a, b)| a == b).count();
            assert_eq!(same, MODULE.lines().count() - 1);
            ptx_syntax::parse(&mutant.ptx).unwrap();
        }
    }
}
