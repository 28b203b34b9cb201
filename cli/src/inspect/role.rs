//! Which warps of a CTA do the same work.

use std::ops::Range;

use oximla::ptx_emulator::profile::{Counts, Profile};

use super::quantity::mnemonic;

const WARPGROUP_WARPS: usize = 4;

/// Instructions that all four warps of a warpgroup execute together (PTX ISA, "wgmma.mma_async", "setmaxnreg").
const OF_WARPGROUPS: [&str; 2] = ["wgmma.mma_async", "setmaxnreg"];

/// What the warpgroups of a kernel are for, by the beginning of its name.
const NAMES: &[(&str, &[&str])] =
    &[("dense_decode_sm90", DENSE_DECODE_SM90), ("dense_decode_d512_sm90", DENSE_DECODE_SM90)];

const DENSE_DECODE_SM90: &[&str] = &["scores even", "scores odd", "values even", "values odd", "loads"];

/// Neighbouring warps with the same work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// For people.
    pub name: String,
    /// Warps of the CTA.
    pub warps: Range<usize>,
}

/// The roles of a kernel's warps: a warpgroup that computes as one, otherwise neighbours within a warpgroup that
/// executed the same instructions, however often.
pub fn roles(entry: &str, profile: &Profile) -> Vec<Role> {
    let mut roles = Vec::new();
    for first in (0..profile.warps.len()).step_by(WARPGROUP_WARPS) {
        let warpgroup = first..(first + WARPGROUP_WARPS).min(profile.warps.len());
        if warpgroup.clone().all(|warp| works_as_warpgroup(profile, warp)) {
            roles.push(Role { name: name(entry, first / WARPGROUP_WARPS), warps: warpgroup });
            continue;
        }
        let mut start = first;
        for warp in warpgroup.clone() {
            let next = warp + 1;
            if next == warpgroup.end || !same_instructions(&profile.warps[warp], &profile.warps[next]) {
                roles.push(Role { name: warps(&(start..next)), warps: start..next });
                start = next;
            }
        }
    }
    roles
}

/// Warps as text.
pub fn warps(range: &Range<usize>) -> String {
    match range.len() {
        1 => format!("warp {}", range.start),
        _ => format!("warps {}-{}", range.start, range.end - 1),
    }
}

fn name(entry: &str, warpgroup: usize) -> String {
    let known = NAMES.iter().find(|(prefix, _)| entry.starts_with(prefix));
    match known.and_then(|(_, names)| names.get(warpgroup)) {
        Some(name) => (*name).to_owned(),
        None => format!("warpgroup {warpgroup}"),
    }
}

fn works_as_warpgroup(profile: &Profile, warp: usize) -> bool {
    let mut executed =
        profile.instructions.iter().zip(&profile.warps[warp]).filter(|(_, counts)| counts.warps > 0);
    executed.any(|((text, _), _)| OF_WARPGROUPS.iter().any(|opcode| mnemonic(text).starts_with(opcode)))
}

fn same_instructions(one: &[Counts], other: &[Counts]) -> bool {
    one.iter().zip(other).all(|(a, b)| (a.warps > 0) == (b.warps > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(instructions: &[&str], executed: &[&[u64]]) -> Profile {
        let counts = |row: &&[u64]| row.iter().map(|&warps| Counts { warps, ..Counts::default() }).collect();
        Profile {
            instructions: instructions.iter().map(|text| ((*text).to_owned(), 1)).collect(),
            warps: executed.iter().map(counts).collect(),
            ..Profile::default()
        }
    }

    #[test]
    fn a_warpgroup_is_one_role() {
        let texts = ["wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16", "cp.async.bulk.tensor.4d"];
        let both: &[u64] = &[4, 1];
        let multiply: &[u64] = &[4, 0];
        let profile = profile(&texts, &[both, multiply, multiply, multiply]);
        let scores = Role { name: "scores even".into(), warps: 0..4 };
        assert_eq!(roles("dense_decode_sm90_bf16", &profile), [scores]);
        assert_eq!(roles("other", &profile)[0].name, "warpgroup 0");
    }

    #[test]
    fn other_warps_are_told_apart_by_what_they_executed() {
        let profile = profile(&["add.s32", "sub.s32"], &[&[1, 0], &[9, 0], &[0, 1], &[0, 1], &[0, 1]]);
        let names: Vec<String> = roles("other", &profile).into_iter().map(|role| role.name).collect();
        assert_eq!(names, ["warps 0-1", "warps 2-3", "warp 4"]);
    }
}
