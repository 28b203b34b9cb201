//! Rules that a module of kernels compiled from Rust keeps.
//!
//! Kernels neither call nor use local memory: both cost, and either makes ptxas serialise `wgmma`. What breaks a rule is
//! therefore a mistake in the kernel, usually a bounds check or an array indexed by a variable.

use crate::ast::{Function, Item, Linkage, Module, Position, Space, Statement, Variable};

/// What the header of a module should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// `.version major.minor`
    pub version: (u32, u32),
    /// The only `.target`.
    pub target: &'a str,
    /// `.address_size`
    pub address_size: u32,
}

/// A rule a module can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// `.version` is the expected one.
    #[error("`.version` is not the architecture's")]
    Version,
    /// `.target` is the expected one, without options.
    #[error("`.target` is not the architecture")]
    Target,
    /// `.address_size` is the expected one.
    #[error("`.address_size` is not the architecture's")]
    AddressSize,
    /// Everything is inlined.
    #[error("a call; everything must be inlined, and panics (bounds checks, overflow, `unwrap`) are calls")]
    Call,
    /// There are no functions besides the entries.
    #[error("a function besides the entries; mark it `#[inline(always)]` or remove what refers to it")]
    Function,
    /// Nothing comes from outside.
    #[error("an external function; nothing is linked to the module")]
    ExternFunction,
    /// Registers suffice.
    #[error("local memory; index arrays with constants, and do not take a parameter's address")]
    LocalMemory,
}

/// A rule broken at one place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {rule}: `{text}`")]
pub struct Violation {
    /// Where.
    pub position: Position,
    /// The rule.
    pub rule: Rule,
    /// What stands there.
    pub text: String,
}

/// All violations in a module, those of the header first, then in the order of the text.
pub fn lint(module: &Module, expected: Header<'_>) -> Vec<Violation> {
    let mut violations = header(module, expected);
    for item in &module.items {
        match item {
            Item::Variable(variable) => violations.extend(local_variable(variable)),
            Item::Function(function) => {
                violations.extend(not_an_entry(function));
                violations.extend(function.statements().filter_map(broken_rule));
            }
        }
    }
    violations
}

/// What the header says that is not expected.
fn header(module: &Module, expected: Header<'_>) -> Vec<Violation> {
    let (major, minor) = module.version;
    let at = module.header;
    let rules = [
        (Rule::Version, module.version == expected.version, at.version, format!(".version {major}.{minor}")),
        (
            Rule::Target,
            module.target == [expected.target],
            at.target,
            format!(".target {}", module.target.join(", ")),
        ),
        (
            Rule::AddressSize,
            module.address_size == expected.address_size,
            at.address_size,
            format!(".address_size {}", module.address_size),
        ),
    ];
    let broken = rules.into_iter().filter(|(_, is_kept, ..)| !is_kept);
    broken.map(|(rule, _, position, text)| Violation { position, rule, text }).collect()
}

fn not_an_entry(function: &Function) -> Option<Violation> {
    let rule = match function.linkage {
        _ if function.is_entry => return None,
        Some(Linkage::Extern) => Rule::ExternFunction,
        _ => Rule::Function,
    };
    Some(Violation { position: function.position, rule, text: format!(".func {}", function.name) })
}

fn broken_rule(statement: &Statement) -> Option<Violation> {
    match statement {
        Statement::Variable(variable) => local_variable(variable),
        Statement::Instruction(instruction) => {
            let rule = if instruction.opcode == "call" {
                Rule::Call
            } else if instruction.has("local") {
                Rule::LocalMemory
            } else {
                return None;
            };
            Some(Violation { position: instruction.position, rule, text: instruction.to_string() })
        }
        _ => None,
    }
}

fn local_variable(variable: &Variable) -> Option<Violation> {
    (variable.space == Space::Local).then(|| Violation {
        position: variable.position,
        rule: Rule::LocalMemory,
        text: variable.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    const EXPECTED: Header<'_> = Header { version: (8, 4), target: "sm_90a", address_size: 64 };
    const CLEAN: &str = ".version 8.4
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 memory[];
.visible .entry k(.param .b64 p)
{
\t.reg .pred %p<2>;
\tsetp.gt.u32 %p1, %local, 3; // call f; ld.local x;
\tret;
}";

    fn found(text: &str) -> Vec<(Rule, String)> {
        let violations = lint(&parse(text).unwrap_or_else(|error| panic!("{error}: {text}")), EXPECTED);
        violations.into_iter().map(|violation| (violation.rule, violation.text)).collect()
    }

    #[test]
    fn each_rule_fires_alone() {
        assert_eq!(found(CLEAN), []);
        let body = |text: &str| CLEAN.replace("\tret;", &format!("{text} ret;"));
        let outside = |text: &str| format!("{CLEAN} {text}");
        let cases = [
            (CLEAN.replace("8.4", "8.0"), Rule::Version, ".version 8.0"),
            (CLEAN.replace("sm_90a", "sm_90"), Rule::Target, ".target sm_90"),
            (CLEAN.replace("sm_90a", "sm_90a, debug"), Rule::Target, ".target sm_90a, debug"),
            (CLEAN.replace("_size 64", "_size 32"), Rule::AddressSize, ".address_size 32"),
            (body("call.uni f, (x);"), Rule::Call, "call.uni f, (x)"),
            (body("@%p1 call (r), %rd1, (x), proto;"), Rule::Call, "@%p1 call (r), %rd1, (x), proto"),
            (body("{ ld.local.b32 %r1, [%rd1]; }"), Rule::LocalMemory, "ld.local.b32 %r1, [%rd1]"),
            (body("cvta.to.local.u64 %rd1, x;"), Rule::LocalMemory, "cvta.to.local.u64 %rd1, x"),
            (body(".local .align 4 .b8 depot[32];"), Rule::LocalMemory, ".local .align 4 .b8 depot[32]"),
            (outside(".local .b32 x;"), Rule::LocalMemory, ".local .b32 x"),
            (outside(".func f();"), Rule::Function, ".func f"),
            (outside(".visible .func (.param .b32 r) f() { ret; }"), Rule::Function, ".func f"),
            (outside(".extern .func vprintf (.param .b64 f);"), Rule::ExternFunction, ".func vprintf"),
        ];
        for (text, rule, what) in cases {
            assert_eq!(found(&text), [(rule, what.to_owned())]);
        }
    }

    #[test]
    fn violations_tell_where() {
        let text = CLEAN.replace("\tret;", "\t@%p1 call f;").replace("sm_90a", "sm_80");
        let violations = lint(&parse(&text).unwrap(), EXPECTED);
        let told: Vec<_> = violations.iter().map(ToString::to_string).collect();
        assert_eq!(told[0], "2:1: `.target` is not the architecture: `.target sm_80`");
        assert!(told[1].starts_with("9:2: a call; "), "{}", told[1]);
        assert_eq!(told.len(), 2);
    }
}
