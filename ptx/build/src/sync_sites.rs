//! How often each synchronising instruction stands in each entry, and the committed counts it must equal.
//!
//! To LLVM an `asm!` block is not convergent: it may copy one into both arms of a branch. A warp-wide instruction in
//! two copies is executed by parts of a warp, which is a hang or worse. After inlining, nothing in the text tells a
//! copy from a second use in the source. So this is a ratchet, not a proof: the counts were looked at once, are
//! committed, and do not change unnoticed. Whoever blesses new counts answers for each difference being meant.

use std::collections::{BTreeMap, BTreeSet};

pub use ptx_syntax::sync_sites::{SyncSites, sync_sites};

/// What changed, one line each: `entry: instruction 2 -> 4`.
pub fn differences(expected: &SyncSites, found: &SyncSites) -> Vec<String> {
    let entries: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let mut differences = Vec::new();
    let none = BTreeMap::new();
    for entry in entries {
        match (expected.contains_key(entry), found.contains_key(entry)) {
            (false, _) => differences.push(format!("{entry} is new")),
            (_, false) => differences.push(format!("{entry} is gone")),
            _ => {}
        }
        let [expected, found] = [expected, found].map(|sites| sites.get(entry).unwrap_or(&none));
        let instructions: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        for instruction in instructions {
            let count = |sites: &BTreeMap<String, usize>| sites.get(instruction).copied().unwrap_or(0);
            if count(expected) != count(found) {
                differences.push(format!("{entry}: {instruction} {} -> {}", count(expected), count(found)));
            }
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = include_str!("../fixtures/two_entries.ptx");

    fn count(ptx: &str) -> SyncSites {
        sync_sites(&ptx_syntax::parse(ptx).unwrap())
    }

    #[test]
    fn counts_by_entry_and_instruction() {
        let sites = count(MODULE);
        let block = BTreeMap::from([("bar.sync".to_owned(), 2), ("shfl.sync.idx.b32".to_owned(), 1)]);
        let expected = [("copy_block".to_owned(), block), ("copy_scalar".to_owned(), BTreeMap::new())];
        assert_eq!(sites, BTreeMap::from(expected));
    }

    #[test]
    fn a_duplicated_barrier_is_a_difference() {
        let barrier = "\t// begin inline asm\n\tbar.sync 1, 128;\n\t// end inline asm\n";
        assert_eq!(MODULE.matches(barrier).count(), 1);
        let duplicated = MODULE.replace("$L__BB0_3:\n", &format!("$L__BB0_3:\n{barrier}"));
        let [before, after] = [MODULE, &duplicated].map(count);
        assert_eq!(differences(&before, &before), [""; 0]);
        assert_eq!(differences(&before, &after), ["copy_block: bar.sync 2 -> 3"]);
    }

    #[test]
    fn lost_and_new_instructions_and_entries_are_differences() {
        let before = count(MODULE);
        let after = MODULE.replace("shfl.sync.idx", "shfl.sync.up").replace("copy_scalar", "scalar");
        assert_eq!(
            differences(&before, &count(&after)),
            [
                "copy_block: shfl.sync.idx.b32 1 -> 0",
                "copy_block: shfl.sync.up.b32 0 -> 1",
                "copy_scalar is gone",
                "scalar is new",
            ]
        );
    }
}
