//! How often each synchronising instruction stands in each entry, and the committed counts it must equal.
//!
//! To LLVM an `asm!` block is not convergent: it may copy one into both arms of a branch. A warp-wide instruction in
//! two copies is executed by parts of a warp, which is a hang or worse. After inlining, nothing in the text tells a
//! copy from a second use in the source. So this is a ratchet, not a proof: the counts were looked at once, are
//! committed, and do not change unnoticed. Whoever blesses new counts answers for each difference being meant.

use std::collections::{BTreeMap, BTreeSet};

use crate::text::{self, MalformedPtx};

/// For each entry, for each synchronising instruction with its modifiers, the places where it stands.
pub type SyncSites = BTreeMap<String, BTreeMap<String, usize>>;

/// Counts the synchronising instructions of a module.
///
/// # Errors
/// Where the text is not PTX.
pub fn sync_sites(ptx: &str) -> Result<SyncSites, MalformedPtx> {
    let code = text::without_comments(ptx);
    let entries = text::entries(&code)?;
    let sites = entries.into_iter().map(|entry| {
        let mut counts = BTreeMap::new();
        for statement in text::statements(&code, entry.body) {
            if is_synchronising(statement.mnemonic()) {
                *counts.entry(statement.mnemonic().to_owned()).or_default() += 1;
            }
        }
        (entry.name.to_owned(), counts)
    });
    Ok(sites.collect())
}

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

/// Whether an instruction needs the other threads of its warp or CTA: it says `.sync` or `.aligned`, or it is one of
/// those that need them without saying so.
fn is_synchronising(mnemonic: &str) -> bool {
    let (operation, modifiers) = mnemonic.split_once('.').unwrap_or((mnemonic, ""));
    matches!(operation, "bar" | "barrier" | "activemask")
        || modifiers.split('.').any(|modifier| matches!(modifier, "sync" | "aligned"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = include_str!("../fixtures/two_entries.ptx");

    #[test]
    fn counts_by_entry_and_instruction() {
        let sites = sync_sites(MODULE).unwrap();
        let block = BTreeMap::from([("bar.sync".to_owned(), 2), ("shfl.sync.idx.b32".to_owned(), 1)]);
        let expected = [("copy_block".to_owned(), block), ("copy_scalar".to_owned(), BTreeMap::new())];
        assert_eq!(sites, BTreeMap::from(expected));
    }

    #[test]
    fn knows_which_instructions_synchronise() {
        let synchronising = "bar.sync bar.arrive bar.red.popc.u32 bar.warp.sync barrier.sync barrier.cta.arrive \
            barrier.cluster.arrive.release barrier.cluster.wait.acquire.aligned wgmma.fence.sync.aligned \
            wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 wgmma.commit_group.sync.aligned \
            wgmma.wait_group.sync.aligned setmaxnreg.inc.sync.aligned.u32 elect.sync shfl.sync.bfly.b32 \
            vote.sync.any.pred match.any.sync.b32 redux.sync.add.s32 activemask.b32 \
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 stmatrix.sync.aligned.m8n8.x4.shared.b16 \
            mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 tcgen05.alloc.cta_group::1.sync.aligned.b32 \
            fence.proxy.tensormap::generic.acquire.sync.aligned";
        for mnemonic in synchronising.split_whitespace() {
            assert!(is_synchronising(mnemonic), "{mnemonic}");
        }
        let independent = "mbarrier.try_wait.parity.shared::cta.b64 mbarrier.arrive.shared::cta.b64 membar.gl \
            fence.proxy.async.shared::cta fence.proxy.async::generic.acquire.sync_restrict::shared::cta \
            cp.async.bulk.wait_group.read griddepcontrol.wait ld.global.b32 bra.uni ret .reg";
        for mnemonic in independent.split_whitespace() {
            assert!(!is_synchronising(mnemonic), "{mnemonic}");
        }
    }

    #[test]
    fn a_duplicated_barrier_is_a_difference() {
        let barrier = "\t// begin inline asm\n\tbar.sync 1, 128;\n\t// end inline asm\n";
        assert_eq!(MODULE.matches(barrier).count(), 1);
        let duplicated = MODULE.replace("$L__BB0_3:\n", &format!("$L__BB0_3:\n{barrier}"));
        let [before, after] = [MODULE, &duplicated].map(|ptx| sync_sites(ptx).unwrap());
        assert_eq!(differences(&before, &before), [""; 0]);
        assert_eq!(differences(&before, &after), ["copy_block: bar.sync 2 -> 3"]);
    }

    #[test]
    fn lost_and_new_instructions_and_entries_are_differences() {
        let before = sync_sites(MODULE).unwrap();
        let after = MODULE.replace("shfl.sync.idx", "shfl.sync.up").replace("copy_scalar", "scalar");
        assert_eq!(
            differences(&before, &sync_sites(&after).unwrap()),
            [
                "copy_block: shfl.sync.idx.b32 1 -> 0",
                "copy_block: shfl.sync.up.b32 0 -> 1",
                "copy_scalar is gone",
                "scalar is new",
            ]
        );
    }
}
