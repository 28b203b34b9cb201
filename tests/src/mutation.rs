//! Kernels with one mistake: copies of a module in which one synchronising instruction is gone or altered.
//!
//! Whoever checks kernels can be checked with them: a mistake that nothing notices is either none, or a gap. What is known
//! to be none, and why:
//!
//! * the leading offset of a swizzled operand that lies along k: the PTX ISA gives it no meaning;
//! * a `wgmma.commit_group` that is followed by another one before any wait: the later group takes in what the earlier one
//!   would have held ([`Flow::commits_again`]);
//! * a `wgmma.fence` with nothing to order ([`Flow::has_nothing_to_fence`]);
//! * a wait that was never for a phase that somebody has to complete ([`BarrierUses::never_waits`]).

mod flow;
mod uses;

pub use flow::Flow;
pub use uses::BarrierUses;

use std::collections::BTreeMap;

use ptx_syntax::ast::{Function, Instruction, Module, Operand};

/// A module with one mistake.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Entry with the mistake.
    pub entry: String,
    /// Line of the instruction.
    pub line: u32,
    /// The label before it, which is where to look in the source's control flow.
    pub label: String,
    /// The instruction as it was, without its operands.
    pub instruction: String,
    /// What was done to it.
    pub change: &'static str,
    /// The whole text.
    pub ptx: String,
}

/// A module with all alterations at once that are known to be no mistakes and are of the same kind.
#[derive(Clone, Debug)]
pub struct Equivalent {
    /// What was done to the instructions.
    pub change: &'static str,
    /// The lines of the instructions, and why it is no mistake.
    pub lines: Vec<(u32, &'static str)>,
    /// The whole text.
    pub ptx: String,
}

/// An alteration of one instruction: what it is, the text in its place, and why it may be none.
type Change = (&'static str, String, Option<&'static str>);

/// What was done where nothing is left.
const DELETED: &str = "deleted";

/// Bits of a matrix descriptor: the lowest of its leading and of its stride byte offset, in units of 16 bytes (PTX
/// ISA, "Matrix Descriptor Format").
const LEADING_OFFSET_BIT: u32 = 16;
const STRIDE_OFFSET_BIT: u32 = 32;

/// How much the altered offsets differ: 128 bytes, so that what they lead to stays aligned.
const OFFSET_CHANGE: u32 = 3;

/// Every mutant of an entry that is a mistake, and what is none. `uses` tells what its instructions on mbarriers were
/// executed on.
///
/// # Panics
/// If the text is not PTX, or has no such entry.
pub fn mutants(ptx: &str, entry: &str, uses: &BarrierUses) -> (Vec<Mutant>, Vec<Equivalent>) {
    let module = parse(ptx);
    let function = entry_of(&module, entry);
    let text = Text::new(ptx);
    let flow = Flow::of(function);
    let mut mutants = Vec::new();
    let mut equivalents: BTreeMap<&str, Vec<(&Instruction, String, &str)>> = BTreeMap::new();
    for (at, instruction) in flow.instructions().enumerate() {
        let mnemonic = instruction.mnemonic();
        let line = instruction.position.line;
        for (change, replacement, equivalent) in changes(instruction).into_iter().chain(weaker(instruction)) {
            let deletion = || match mnemonic.as_str() {
                "wgmma.commit_group.sync.aligned" => flow.commits_again(at).then_some("another one follows"),
                "wgmma.fence.sync.aligned" => flow.has_nothing_to_fence(at).then_some("it orders nothing"),
                _ if is_wait(&mnemonic) => uses.never_waits(line).then_some("it never waits"),
                _ => None,
            };
            if let Some(why) = equivalent.or_else(|| if change == DELETED { deletion() } else { None }) {
                equivalents.entry(change).or_default().push((instruction, replacement, why));
                continue;
            }
            mutants.push(Mutant {
                entry: entry.to_owned(),
                line,
                label: flow.label(at).to_owned(),
                instruction: mnemonic.clone(),
                change,
                ptx: text.with([(instruction, replacement)]),
            });
        }
    }
    let equivalents = equivalents.into_iter().map(|(change, all)| Equivalent {
        change,
        lines: all.iter().map(|(instruction, _, why)| (instruction.position.line, *why)).collect(),
        ptx: text.with(all.into_iter().map(|(instruction, replacement, _)| (instruction, replacement))),
    });
    (mutants, equivalents.collect())
}

/// The module with nothing to do in other entries than these: it is loaded in a fraction of the time. All lines keep their
/// numbers.
pub fn only(ptx: &str, entries: &[&str]) -> String {
    let mut text = String::with_capacity(ptx.len());
    let (mut is_emptied, mut depth) = (false, 0_i32);
    for line in ptx.split_inclusive('\n') {
        if let Some((_, declaration)) = line.split_once(".entry ") {
            is_emptied = !entries.iter().any(|entry| declaration.starts_with(&format!("{entry}(")));
        }
        let before = depth;
        depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
        match (before, depth) {
            _ if !is_emptied => text.push_str(line),
            (0, 1) => text.push_str("{ ret;\n"),
            (0, _) | (_, 0) => text.push_str(line),
            _ => text.push('\n'),
        }
    }
    text
}

fn parse(ptx: &str) -> Module {
    ptx_syntax::parse(ptx).expect("PTX")
}

fn entry_of<'a>(module: &'a Module, entry: &str) -> &'a Function {
    module.functions().find(|function| function.name == entry).expect("the entry")
}

/// PTX in which instructions can be replaced.
struct Text<'a> {
    ptx: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Text<'a> {
    fn new(ptx: &'a str) -> Self {
        let behind_breaks = ptx.match_indices('\n').map(|(at, _)| at + 1);
        Self { ptx, line_starts: std::iter::once(0).chain(behind_breaks).collect() }
    }

    /// The text with other ones in the place of some instructions, in their order.
    fn with<'b>(&self, changes: impl IntoIterator<Item = (&'b Instruction, String)>) -> String {
        let (mut text, mut done) = (String::with_capacity(self.ptx.len()), 0);
        for (instruction, replacement) in changes {
            let position = instruction.position;
            let start = self.line_starts[position.line as usize - 1] + position.column as usize - 1;
            text.push_str(&self.ptx[done..start]);
            text.push_str(&replacement);
            done = start + self.ptx[start..].find(';').expect("the end of an instruction") + 1;
        }
        text.push_str(&self.ptx[done..]);
        text
    }
}

fn is_wait(mnemonic: &str) -> bool {
    mnemonic.starts_with("mbarrier.try_wait") || mnemonic.starts_with("mbarrier.test_wait")
}

/// What stands in the place of a wait that passes at once; none where nobody asks whether it has.
fn passing(wait: &Instruction) -> Option<String> {
    let Operand::Name(done) = &wait.operands[0] else { return None };
    Some(format!("setp.eq.b32 {done}, 0, 0;"))
}

fn changes(instruction: &Instruction) -> Vec<Change> {
    let mnemonic = instruction.mnemonic();
    let starts_with = |prefix: &str| mnemonic.starts_with(prefix);
    let gone = || (DELETED, String::new(), None);
    if is_wait(&mnemonic) {
        let Some(passes) = passing(instruction) else { return Vec::new() };
        return vec![(DELETED, passes, None), altered(instruction, 2, "of the other phase", "xor.b32", 1)];
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

/// The instruction with less of what it orders or reaches.
fn weaker(instruction: &Instruction) -> Vec<Change> {
    let mut changes = Vec::new();
    let with_other_modifier = |old: &[&str], new: &str| {
        let at = instruction.modifiers.iter().position(|modifier| old.contains(&modifier.as_str()))?;
        let mut other = instruction.clone();
        new.clone_into(&mut other.modifiers[at]);
        Some(format!("{other};"))
    };
    let mnemonic = instruction.mnemonic();
    // A fence is deleted, and a wait for the cluster's barrier has no relaxed form.
    if instruction.opcode != "fence" && !mnemonic.starts_with("barrier.cluster.wait") {
        let relaxed = with_other_modifier(&["acquire", "release", "acq_rel"], "relaxed");
        changes.extend(relaxed.map(|text| ("relaxed", text, None)));
    }
    if instruction.opcode == "mbarrier" {
        let for_cta = with_other_modifier(&["cluster"], "cta");
        changes.extend(for_cta.map(|text| ("for the CTA alone", text, None)));
    }
    if instruction.has("wait_group")
        && let Some(Operand::Integer(left)) = instruction.operands.first()
    {
        let mut other = instruction.clone();
        other.operands[0] = Operand::Integer(left + 1);
        changes.push(("leaving one group more", format!("{other};"), None));
    }
    if instruction.has("multicast::cluster") {
        let behind = usize::from(instruction.has("L2::cache_hint"));
        let operand = instruction.operands.len() - 1 - behind;
        let text = with_other_operand(instruction, operand, "b16", "xor.b16 %altered, {}, 1;");
        changes.push(("to other CTAs", text, None));
    }
    changes
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
        let (found, _) = mutants(MODULE, "k", &BarrierUses::default());
        let changes: Vec<_> = found.iter().map(|m| (m.line, m.instruction.as_str(), m.change)).collect();
        assert_eq!(
            changes,
            [
                (9, "mbarrier.try_wait.parity.shared::cta.b64", DELETED),
                (9, "mbarrier.try_wait.parity.shared::cta.b64", "of the other phase"),
                (10, "bar.sync", DELETED),
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

    #[test]
    fn what_orders_less_is_a_mutant_too() {
        let body = "\
mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r1];
mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p, [%r1], 0;
atom.acq_rel.gpu.global.add.u32 %r0, [%d0], 1;
cp.async.bulk.wait_group.read 0;
fence.acq_rel.gpu;
barrier.cluster.wait.acquire.aligned;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%d0], 16, [%r2], 3;
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%r1], [%d0], 16, [%r2], %h0, %d1;
";
        let ptx = MODULE.replace("\tbar.sync 0;\n", &format!(".reg .b64 %d<2>; .reg .b16 %h<1>;\n{body}"));
        let (found, _) = mutants(&ptx, "k", &BarrierUses::default());
        let line = |mutant: &Mutant| mutant.ptx.lines().nth(mutant.line as usize - 1).unwrap().to_owned();
        let changed = |change: &str| {
            found.iter().filter(|mutant| mutant.change == change).map(line).collect::<Vec<_>>()
        };
        assert_eq!(
            changed("relaxed"),
            [
                "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%r1];",
                "mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 %p, [%r1], 0;",
                "atom.relaxed.gpu.global.add.u32 %r0, [%d0], 1;",
            ]
        );
        assert_eq!(
            changed("for the CTA alone"),
            [
                "mbarrier.arrive.release.cta.shared::cluster.b64 _, [%r1];",
                "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p, [%r1], 0;",
            ]
        );
        assert_eq!(changed("leaving one group more"), ["cp.async.bulk.wait_group.read 1;"]);
        let masks = changed("to other CTAs");
        assert!(masks.len() == 2 && masks[0].contains("xor.b16 %altered, 3, 1;"), "{masks:?}");
        assert!(masks[1].contains("xor.b16 %altered, %h0, 1;"), "{masks:?}");
        for mutant in &found {
            ptx_syntax::parse(&mutant.ptx).unwrap_or_else(|error| panic!("{}: {error}", line(mutant)));
        }
    }

    #[test]
    fn what_is_no_mistake_is_done_at_once() {
        let body = "\
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %d0, %d1, 1, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %d0, %d1, 1, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
";
        let ptx = MODULE.replace("\tbar.sync 0;\n", &format!(".reg .b64 %d<2>; .reg .f32 %f<4>;\n{body}"));
        let (found, equivalents) = mutants(&ptx, "k", &BarrierUses::default());
        let lines = |change: &str| {
            let of = equivalents.iter().find(|equivalent| equivalent.change == change).unwrap();
            let same = ptx.lines().zip(of.ptx.lines()).filter(|(a, b)| a == b).count();
            assert_eq!(same, ptx.lines().count() - of.lines.len());
            ptx_syntax::parse(&of.ptx).unwrap();
            of.lines.iter().map(|(line, _)| *line).collect::<Vec<_>>()
        };
        assert_eq!(lines("A with another leading offset"), [12, 15]);
        assert_eq!(lines("B with another leading offset"), [12, 15]);
        // The first group goes into the second, and the second fence has nothing to order.
        assert_eq!(lines(DELETED), [13, 14]);
        assert_eq!(equivalents.len(), 3);
        let deleted = |mutant: &&Mutant| mutant.change == DELETED && mutant.instruction.starts_with("wgmma");
        let deleted: Vec<u32> = found.iter().filter(deleted).map(|mutant| mutant.line).collect();
        assert_eq!(deleted, [11, 16, 17]);
    }

    #[test]
    fn other_entries_do_nothing_and_lines_keep_their_numbers() {
        let (_, entry) = MODULE.split_once(".visible").unwrap();
        let both = format!("{MODULE}.visible{}", entry.replace("k()", "kk()"));
        assert_eq!(only(&both, &["k", "kk"]), both);
        let (whole, first, second) = (parse(&both), only(&both, &["k"]), only(&both, &["kk"]));
        let (first, second) = (parse(&first), parse(&second));
        // Instructions tell their lines.
        let instructions =
            |module, entry| entry_of(module, entry).instructions().cloned().collect::<Vec<_>>();
        for (module, kept, emptied) in [(&first, "k", "kk"), (&second, "kk", "k")] {
            assert_eq!(instructions(module, kept), instructions(&whole, kept));
            let [only_one] = &instructions(module, emptied)[..] else { panic!("{emptied} does something") };
            assert_eq!(only_one.opcode, "ret");
        }
    }
}
