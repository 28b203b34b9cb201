//! How often each synchronising instruction stands in each entry.

use std::collections::BTreeMap;

use crate::ast::{Instruction, Module};

/// For each entry, for each synchronising instruction with its modifiers, the places where it stands.
pub type SyncSites = BTreeMap<String, BTreeMap<String, usize>>;

/// Counts the synchronising instructions of each entry.
pub fn sync_sites(module: &Module) -> SyncSites {
    let entries = module.functions().filter(|function| function.is_entry);
    entries
        .map(|entry| {
            let mut counts = BTreeMap::new();
            for instruction in entry.instructions().filter(|instruction| is_synchronising(instruction)) {
                *counts.entry(instruction.mnemonic()).or_default() += 1;
            }
            (entry.name.clone(), counts)
        })
        .collect()
}

/// Whether an instruction needs the other threads of its warp, CTA or cluster: it says `.sync` or `.aligned`, or it is
/// one of those that need them without saying so.
pub fn is_synchronising(instruction: &Instruction) -> bool {
    matches!(instruction.opcode.as_str(), "bar" | "barrier" | "activemask")
        || instruction.has("sync")
        || instruction.has("aligned")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_unchecked;

    fn module(body: &str) -> Module {
        parse_unchecked(&format!(
            ".version 8.4 .target sm_90a .entry k() {{ {body} }} .entry none() {{ ret; }}"
        ))
        .unwrap()
    }

    #[test]
    fn counts_by_entry_and_instruction() {
        let counted = sync_sites(&module(
            "@p bar.sync 0; { x: bar.sync 1, 128; add.s32 a, b, c; } shfl.sync.idx.b32 a, b;",
        ));
        let sites = BTreeMap::from([("bar.sync".to_owned(), 2), ("shfl.sync.idx.b32".to_owned(), 1)]);
        let expected = [("k".to_owned(), sites), ("none".to_owned(), BTreeMap::new())];
        assert_eq!(counted, BTreeMap::from(expected));
    }

    #[test]
    fn knows_which_instructions_synchronise() {
        let are_synchronising = |mnemonics: &str| -> Vec<bool> {
            let module = module(
                &mnemonics.split_whitespace().map(|mnemonic| format!("{mnemonic};")).collect::<String>(),
            );
            let entry = module.functions().next();
            entry.into_iter().flat_map(|entry| entry.instructions().map(is_synchronising)).collect()
        };
        let synchronising = "bar.sync bar.arrive bar.red.popc.u32 bar.warp.sync barrier.sync barrier.cta.arrive \
            barrier.cluster.arrive.release barrier.cluster.wait.acquire.aligned wgmma.fence.sync.aligned \
            wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 wgmma.commit_group.sync.aligned \
            wgmma.wait_group.sync.aligned setmaxnreg.inc.sync.aligned.u32 elect.sync shfl.sync.bfly.b32 \
            vote.sync.any.pred match.any.sync.b32 redux.sync.add.s32 activemask.b32 \
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 stmatrix.sync.aligned.m8n8.x4.shared.b16 \
            mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 tcgen05.alloc.cta_group::1.sync.aligned.b32 \
            fence.proxy.tensormap::generic.acquire.sync.aligned";
        assert_eq!(are_synchronising(synchronising), [true; 24]);
        let independent = "mbarrier.try_wait.parity.shared::cta.b64 mbarrier.arrive.shared::cta.b64 membar.gl \
            fence.proxy.async.shared::cta fence.proxy.async::generic.acquire.sync_restrict::shared::cta \
            cp.async.bulk.wait_group.read griddepcontrol.wait ld.global.b32 bra.uni ret";
        assert_eq!(are_synchronising(independent), [false; 10]);
    }
}
