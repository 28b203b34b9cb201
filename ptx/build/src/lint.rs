//! The rules every module keeps: [`ptx_syntax::lint`], for an architecture.

use ptx_syntax::ast::Module;
use ptx_syntax::lint::Header;
pub use ptx_syntax::lint::{Rule, Violation};

use crate::Arch;

/// Bits of an address. There are 32-bit modules no more.
const ADDRESS_SIZE: u32 = 64;

/// All violations in a module.
pub fn lint(module: &Module, arch: Arch) -> Vec<Violation> {
    let expected = Header { version: arch.ptx_version(), target: arch.name(), address_size: ADDRESS_SIZE };
    ptx_syntax::lint::lint(module, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = include_str!("../fixtures/two_entries.ptx");
    /// Compiled from a kernel that indexes a table and calls a function that is not inlined.
    const CALLING: &str = include_str!("../fixtures/calling.ptx");

    fn rules(ptx: &str) -> Vec<Rule> {
        let module = ptx_syntax::parse(ptx).unwrap();
        lint(&module, Arch::Sm90a).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn clean_module_passes() {
        assert_eq!(rules(CLEAN), []);
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
    fn header_is_the_architectures() {
        assert_eq!(rules(&CLEAN.replace(".version 8.4", ".version 8.0")), [Rule::Version]);
        assert_eq!(rules(&CLEAN.replace(".target sm_90a", ".target sm_90")), [Rule::Target]);
        assert_eq!(rules(&CLEAN.replace("_size 64", "_size 32")), [Rule::AddressSize]);
    }

    #[test]
    fn header_stands_once() {
        assert!(ptx_syntax::parse(&CLEAN.replace(".version 8.4", "")).is_err());
        assert!(ptx_syntax::parse(&CLEAN.replace(".version 8.4", ".version 8.4\n.version 8.4")).is_err());
    }
}
