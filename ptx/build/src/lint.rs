//! Rules every module keeps, checked on its text.
//!
//! Kernels neither call nor use local memory: both cost, and either makes ptxas serialise `wgmma`. What the lint finds
//! is therefore a mistake in the kernel, usually a bounds check or an array indexed by a variable.

use crate::Arch;
use crate::text::{self, Statement};

/// A rule a module can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// `.version` is the architecture's.
    #[error("`.version` is not the architecture's")]
    Version,
    /// `.target` is the architecture.
    #[error("`.target` is not the architecture")]
    Target,
    /// Addresses have 64 bits.
    #[error("`.address_size` is not 64")]
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
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {rule}: `{text}`")]
pub struct Violation {
    /// Line, counted from 1.
    pub line: usize,
    /// The rule.
    pub rule: Rule,
    /// What stands there.
    pub text: String,
}

/// All violations in a module, in order.
pub fn lint(ptx: &str, arch: Arch) -> Vec<Violation> {
    let code = text::without_comments(ptx);
    let (major, minor) = arch.ptx_version();
    let header = [
        (".version", format!("{major}.{minor}"), Rule::Version),
        (".target", arch.name().to_owned(), Rule::Target),
        (".address_size", "64".to_owned(), Rule::AddressSize),
    ];
    let header = header.into_iter().filter_map(|(name, value, rule)| directive(&code, name, &value, rule));
    let body = text::statements(&code, 0..code.len()).filter_map(|statement| {
        let (rule, at) = broken_rule(&statement)?;
        let text = statement.text[at..].split_whitespace().collect::<Vec<_>>().join(" ");
        Some(Violation { line: text::line_of(&code, statement.offset + at), rule, text })
    });
    header.chain(body).collect()
}

/// Checks that the only directive `name` says `value`.
fn directive(code: &str, name: &str, value: &str, rule: Rule) -> Option<Violation> {
    let mut found =
        code.lines().zip(1..).filter(|(line, _)| line.split_whitespace().next() == Some(name)).fuse();
    match (found.next(), found.next()) {
        (Some((line, _)), None) if line.split_whitespace().skip(1).eq([value]) => None,
        (Some((_, _)), Some((text, line))) | (Some((text, line)), None) => {
            Some(Violation { line, rule, text: text.trim().to_owned() })
        }
        (None, _) => Some(Violation { line: 1, rule, text: String::new() }),
    }
}

/// The rule a statement breaks, and where in the statement.
fn broken_rule(statement: &Statement<'_>) -> Option<(Rule, usize)> {
    // The directives at the top of a module end without `;`, so a function need not begin its statement.
    if let Some(function) = statement.text.find(".func") {
        return Some(match statement.text.find(".extern") {
            Some(external) => (Rule::ExternFunction, external),
            None => (Rule::Function, function),
        });
    }
    let mut modifiers = statement.mnemonic().split('.');
    if modifiers.next() == Some("call") {
        Some((Rule::Call, 0))
    } else if modifiers.any(|modifier| modifier == "local") {
        Some((Rule::LocalMemory, 0))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = include_str!("../fixtures/two_entries.ptx");
    /// Compiled from a kernel that indexes a table and calls a function that is not inlined.
    const CALLING: &str = include_str!("../fixtures/calling.ptx");

    fn rules(ptx: &str) -> Vec<Rule> {
        lint(ptx, Arch::Sm90a).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn clean_module_passes() {
        assert_eq!(lint(CLEAN, Arch::Sm90a), []);
    }

    #[test]
    fn compiled_calls_are_found() {
        let found = rules(CALLING);
        let count = |rule| found.iter().filter(|found| **found == rule).count();
        assert_eq!(count(Rule::Call), 5);
        assert_eq!(count(Rule::Function), 4, "one declaration and three definitions");
        assert_eq!(count(Rule::LocalMemory), 10, "the depot, eight stores and a load");
        assert_eq!(found.len(), 19);
    }

    #[test]
    fn each_rule_fires_alone() {
        let after = |place: &str, text: &str| CLEAN.replacen(place, &format!("{place}\n{text}"), 1);
        let body = "setp.gt.u32 \t%p1, %r1, 3;";
        let cases = [
            (CLEAN.replace(".version 8.4", ".version 8.0"), Rule::Version, ".version 8.0"),
            (CLEAN.replace(".version 8.4", ""), Rule::Version, ""),
            (after(".version 8.4", ".version 8.4"), Rule::Version, ".version 8.4"),
            (CLEAN.replace(".target sm_90a", ".target sm_90"), Rule::Target, ".target sm_90"),
            (CLEAN.replace(".target sm_90a", ".target sm_90a, debug"), Rule::Target, ".target sm_90a, debug"),
            (CLEAN.replace("_size 64", "_size 32"), Rule::AddressSize, ".address_size 32"),
            (after(body, "call.uni f, (x);"), Rule::Call, "call.uni f, (x)"),
            (after(body, "@%p1 call (r), %rd1, (x), proto;"), Rule::Call, "call (r), %rd1, (x), proto"),
            (after(body, "ld.local.b32 %r1, [%rd1];"), Rule::LocalMemory, "ld.local.b32 %r1, [%rd1]"),
            (after(body, "cvta.local.u64 %rd1, %rd1;"), Rule::LocalMemory, "cvta.local.u64 %rd1, %rd1"),
            (after(body, "cvta.to.local.u64 %rd1, x;"), Rule::LocalMemory, "cvta.to.local.u64 %rd1, x"),
            (
                after(body, ".local .align 4 .b8 __local_depot0[32];"),
                Rule::LocalMemory,
                ".local .align 4 .b8 __local_depot0[32]",
            ),
        ];
        for (ptx, rule, text) in cases {
            let found = lint(&ptx, Arch::Sm90a);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!((found[0].rule, found[0].text.as_str()), (rule, text));
        }
    }

    #[test]
    fn functions_are_found_outside_entries() {
        let external = ".extern .func (.param .b32 r) vprintf (.param .b64 f);";
        let size = ".address_size 64\n";
        let found = lint(&CLEAN.replace(size, &format!("{size}{external}")), Arch::Sm90a).remove(0);
        assert_eq!((found.rule, found.line), (Rule::ExternFunction, 8));
        assert_eq!(found.text, external.trim_end_matches(';'));
        assert_eq!(rules(&format!("{CLEAN}\n.visible .func f()\n{{ ret; }}")), [Rule::Function]);
    }

    #[test]
    fn comments_and_names_break_no_rule() {
        let harmless =
            CLEAN.replace("// begin inline asm", "// call f; ld.local x;").replace("%r9", "%local");
        assert_eq!(lint(&harmless, Arch::Sm90a), []);
    }

    #[test]
    fn violations_tell_where() {
        let violation = lint(&CLEAN.replace("\tbar.sync \t0;", "call f;"), Arch::Sm90a).remove(0);
        let line = CLEAN.lines().position(|line| line == "\tbar.sync \t0;").unwrap() + 1;
        assert_eq!(violation.line, line);
        assert!(violation.to_string().starts_with(&format!("line {line}: a call; ")), "{violation}");
    }
}
