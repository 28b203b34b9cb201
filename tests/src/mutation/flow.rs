//! Where control goes in an entry, and what that makes of its `wgmma.fence`s and `wgmma.commit_group`s.

use std::collections::{HashMap, HashSet};

use ptx_syntax::ast::{Function, Instruction, Operand, Statement};

/// The instructions of an entry, and which may follow which.
pub struct Flow<'a> {
    instructions: Vec<&'a Instruction>,
    /// The label before each instruction.
    labels: Vec<&'a str>,
    successors: Vec<Vec<usize>>,
    predecessors: Vec<Vec<usize>>,
    /// Registers that some `wgmma` accumulates into or takes its first operand from.
    matrix_registers: HashSet<&'a str>,
}

/// What a walk finds behind an instruction.
enum Step {
    Go,
    /// This path is done.
    Stop,
    /// There is no need to look further: the answer is no.
    Fail,
}

impl<'a> Flow<'a> {
    /// Follows the branches of an entry.
    pub fn of(function: &'a Function) -> Self {
        let mut listing = Listing::default();
        listing.add(function.body.as_deref().unwrap_or_default());
        let Listing { instructions, labels, targets, lists, .. } = listing;
        let successors: Vec<Vec<usize>> = (0..instructions.len())
            .map(|at| {
                let instruction = instructions[at];
                let named = |name: &str| targets.get(name).copied();
                let mut next: Vec<usize> = match (instruction.opcode.as_str(), instruction.operands.last()) {
                    ("bra", Some(Operand::Name(label))) => named(label).into_iter().collect(),
                    ("brx", Some(Operand::Name(list))) => {
                        let labels = lists.get(list.as_str()).copied().unwrap_or_default();
                        labels.iter().filter_map(|label| named(label)).collect()
                    }
                    _ => Vec::new(),
                };
                let leaves = matches!(instruction.opcode.as_str(), "bra" | "brx" | "ret" | "exit" | "trap");
                if !leaves || instruction.guard.is_some() {
                    next.push(at + 1);
                }
                next.retain(|next| *next < instructions.len());
                next
            })
            .collect();
        let mut predecessors = vec![Vec::new(); instructions.len()];
        for (at, next) in successors.iter().enumerate() {
            next.iter().for_each(|next| predecessors[*next].push(at));
        }
        let multiplications = instructions.iter().filter(|instruction| is_multiply(instruction));
        let matrix_registers = multiplications
            .flat_map(|multiply| &multiply.operands[..2])
            .filter_map(
                |operand| if let Operand::Vector(registers) = operand { Some(registers) } else { None },
            )
            .flatten()
            .filter_map(
                |register| if let Operand::Name(name) = register { Some(name.as_str()) } else { None },
            )
            .collect();
        Self { instructions, labels, successors, predecessors, matrix_registers }
    }

    /// The instructions in the order of the text.
    pub fn instructions(&self) -> impl Iterator<Item = &'a Instruction> {
        self.instructions.iter().copied()
    }

    /// The label before an instruction; empty where there is none.
    pub fn label(&self, at: usize) -> &'a str {
        self.labels[at]
    }

    /// Whether every path from a `wgmma.commit_group` comes to another one before any `wgmma.wait_group`, and all waits of
    /// the entry are for all groups, so that none counts them: then the later group may as well hold everything.
    pub fn commits_again(&self, at: usize) -> bool {
        let counts = |instruction: &&Instruction| {
            is(instruction, "wgmma.wait_group") && instruction.operands.first() != Some(&Operand::Integer(0))
        };
        let step = |at: usize| {
            let instruction = self.instructions[at];
            if is(instruction, "wgmma.commit_group") {
                Step::Stop
            } else if is(instruction, "wgmma.wait_group") || self.successors[at].is_empty() {
                Step::Fail
            } else {
                Step::Go
            }
        };
        !self.instructions.iter().any(counts) && walk(&self.successors, at, step)
    }

    /// Whether a `wgmma.fence` has nothing to order: on every path to it there is an earlier one, and between them no thread
    /// accesses a register that a `wgmma` takes, other than by `wgmma`s of one shape accumulating in turn, which are in order
    /// without a fence (PTX ISA, "wgmma.fence"). The same has to hold of those behind it.
    pub fn has_nothing_to_fence(&self, at: usize) -> bool {
        let mut shapes = HashSet::new();
        let before = walk(&self.predecessors, at, |at| {
            let instruction = self.instructions[at];
            if is_multiply(instruction) {
                shapes.insert(instruction.mnemonic());
            }
            let accesses = !is_multiply(instruction) && self.takes_matrix_register(instruction);
            if is(instruction, "wgmma.fence") {
                Step::Stop
            } else if accesses || self.predecessors[at].is_empty() {
                Step::Fail
            } else {
                Step::Go
            }
        });
        let behind = walk(&self.successors, at, |at| {
            let instruction = self.instructions[at];
            if is_multiply(instruction) {
                shapes.insert(instruction.mnemonic());
            }
            if is(instruction, "wgmma.fence") || is(instruction, "wgmma.wait_group") {
                Step::Stop
            } else {
                Step::Go
            }
        });
        before && behind && shapes.len() <= 1
    }

    fn takes_matrix_register(&self, instruction: &Instruction) -> bool {
        let takes = |operand: &Operand| self.names_matrix_register(operand);
        instruction.operands.iter().any(takes)
    }

    fn names_matrix_register(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Name(name) | Operand::Not(name) => self.matrix_registers.contains(name.as_str()),
            Operand::Vector(parts) | Operand::List(parts) => {
                parts.iter().any(|part| self.names_matrix_register(part))
            }
            Operand::Pair(first, second) => {
                self.names_matrix_register(first) || self.names_matrix_register(second)
            }
            Operand::Address(address) => {
                address.base.iter().any(|base| self.matrix_registers.contains(base.as_str()))
                    || address.coordinates.iter().any(|coordinate| self.names_matrix_register(coordinate))
            }
            _ => false,
        }
    }
}

/// A body as one list.
#[derive(Default)]
struct Listing<'a> {
    instructions: Vec<&'a Instruction>,
    labels: Vec<&'a str>,
    label: &'a str,
    /// Where labels point to.
    targets: HashMap<&'a str, usize>,
    /// The lists of `brx.idx`.
    lists: HashMap<&'a str, &'a [String]>,
}

impl<'a> Listing<'a> {
    fn add(&mut self, statements: &'a [Statement]) {
        for statement in statements {
            match statement {
                Statement::Label { name, .. } => {
                    self.targets.insert(name, self.instructions.len());
                    self.label = name;
                }
                Statement::BranchTargets { labels, .. } => {
                    self.lists.insert(self.label, labels);
                }
                Statement::Block(inner) => self.add(inner),
                Statement::Instruction(instruction) => {
                    self.instructions.push(instruction);
                    self.labels.push(self.label);
                }
                _ => {}
            }
        }
    }
}

/// Walks over all paths from the neighbours of an instruction on; false where a step fails.
fn walk(edges: &[Vec<usize>], from: usize, mut step: impl FnMut(usize) -> Step) -> bool {
    let (mut seen, mut open) = (HashSet::new(), edges[from].clone());
    while let Some(at) = open.pop() {
        if !seen.insert(at) {
            continue;
        }
        match step(at) {
            Step::Go => open.extend(&edges[at]),
            Step::Stop => {}
            Step::Fail => return false,
        }
    }
    !edges[from].is_empty()
}

fn is_multiply(instruction: &Instruction) -> bool {
    is(instruction, "wgmma.mma_async")
}

fn is(instruction: &Instruction, name: &str) -> bool {
    let (opcode, modifier) = name.split_once('.').unwrap_or((name, ""));
    instruction.opcode == opcode && instruction.modifiers.first().is_some_and(|first| first == modifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MULTIPLY: &str = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 \
        {%f0, %f1, %f2, %f3}, %d0, %d1, 1, 1, 1, 0, 0;";

    /// What holds of the second instruction of a name in an entry whose body has `*` for a multiplication.
    fn second(name: &str, body: &str, holds: impl Fn(&Flow, usize) -> bool) -> bool {
        let text = format!(
            ".version 8.4\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n.reg .pred %p;\n.reg .f32 %f<5>;\n\
             .reg .b64 %d<2>;\n{}\nret;\n}}",
            body.replace('*', MULTIPLY)
        );
        let module = ptx_syntax::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let flow = Flow::of(module.functions().next().unwrap());
        let mut named = flow.instructions().enumerate().filter(|(_, instruction)| is(instruction, name));
        let (at, _) = named.nth(1).unwrap();
        holds(&flow, at)
    }

    const FENCE: &str = "wgmma.fence.sync.aligned;";
    const COMMIT: &str = "wgmma.commit_group.sync.aligned;";
    const WAIT: &str = "wgmma.wait_group.sync.aligned 0;";

    #[test]
    fn fences_are_needed_where_registers_were_accessed() {
        let cases = [
            (format!("{FENCE} * {FENCE} * {COMMIT} {WAIT}"), true),
            (format!("{FENCE} * poll: @%p bra poll; {FENCE} * {COMMIT} {WAIT}"), true),
            (format!("{FENCE} * {WAIT} add.f32 %f4, %f0, %f1; {FENCE} * {WAIT}"), false),
            (format!("@%p bra skip; {FENCE} * skip: {FENCE} * {WAIT}"), false),
            (format!("{FENCE} * * again: {FENCE} * @%p bra again; {WAIT}"), true),
            (format!("{FENCE} * again: {FENCE} * mov.f32 %f0, %f4; @%p bra again; {WAIT}"), false),
        ];
        for (body, expected) in cases {
            assert_eq!(
                second("wgmma.fence", &body, |flow, at| flow.has_nothing_to_fence(at)),
                expected,
                "{body}"
            );
        }
        let other =
            "wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%f0, %f1, %f2, %f3}, %d0, %d1, 1, 1, 1;";
        let body = format!("{FENCE} * {FENCE} {other} {WAIT}");
        assert!(!second("wgmma.fence", &body, |flow, at| flow.has_nothing_to_fence(at)), "another shape");
    }

    #[test]
    fn commits_are_needed_before_waits() {
        let last_wait = "wgmma.wait_group.sync.aligned 1;";
        let cases = [
            (format!("{FENCE} * {COMMIT} * {COMMIT} * {COMMIT} {WAIT}"), true),
            (format!("{FENCE} * {COMMIT} * {COMMIT} poll: @%p bra poll; * {COMMIT} {WAIT}"), true),
            (format!("{FENCE} * {COMMIT} * {COMMIT} {WAIT}"), false),
            (format!("{FENCE} * {COMMIT} * {COMMIT} @%p bra end; * {COMMIT} end: {WAIT}"), false),
            (format!("{FENCE} * {COMMIT} * {COMMIT} * {COMMIT} {last_wait} {WAIT}"), false),
        ];
        for (body, expected) in cases {
            assert_eq!(
                second("wgmma.commit_group", &body, |flow, at| flow.commits_again(at)),
                expected,
                "{body}"
            );
        }
    }
}
