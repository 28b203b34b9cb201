//! Sparse MLA decode over FP8 caches for few heads: how the CTA uses its shared memory.
//!
//! Two warpgroups attend, each to every other block of keys, and a third one gathers tokens. A block's tokens have *slots*, 64 of them; scores
//! and probabilities lie in the order of *places*, so that a lane's keys are neighbours.

use super::decode::{
    BARRIER_BYTES, FEW_HEADS, HEAD_DIM_V, PART_TILES, SharedPlan, TILE_COLUMNS, VALUE_PARTS, WARPGROUP_WARPS,
};
use super::sparse_decode::{BLOCKS_OFFSET, RawLayout, STAGING_BYTES, contract};
use crate::launch::{LaunchContract, WARPGROUP_THREADS};
use crate::schedule::BLOCK_KEYS;

/// Warpgroups that attend.
pub const GROUPS: u32 = 2;

/// Threads that attend.
pub const ATTENDING_THREADS: u32 = GROUPS * WARPGROUP_THREADS;

/// Threads of a CTA: those that attend, and a warpgroup that gathers.
pub const THREADS: u32 = ATTENDING_THREADS + WARPGROUP_THREADS;

/// Slabs of 64 columns that have values: a warp that attends has those of a part.
pub const SLABS: u32 = HEAD_DIM_V / TILE_COLUMNS;
const _: () = assert!(VALUE_PARTS == WARPGROUP_WARPS && SLABS == VALUE_PARTS * PART_TILES);

/// Registers of a thread that attends: 64 accumulators of the output, 48 for queries, 32 accumulators of scores, and what it takes to have many
/// accesses of shared memory under way.
pub const ATTEND_REGISTERS: u32 = 216;

/// Registers of a thread that gathers.
pub const GATHER_REGISTERS: u32 = 72;

/// Blocks whose tokens there is room for.
pub const STAGES: u32 = 4;

/// From one staged token to the next one: room for a row, and such that four of them in a row begin 32 bytes of banks apart.
pub const TOKEN_BYTES: u32 = 672;
const _: () = assert!(TOKEN_BYTES % 128 == 32);
const _: () = assert!(RawLayout::V32.row_bytes <= TOKEN_BYTES && RawLayout::MODEL1.row_bytes <= TOKEN_BYTES);

/// Room for the scales of a token, where they are not in its row.
pub const SCALE_BYTES: u32 = 8;
const _: () = assert!(RawLayout::MODEL1.scale_bytes <= SCALE_BYTES);

/// Bytes of the address of a row.
pub const ROW_ADDRESS_BYTES: u32 = 8;

/// Bytes of an f32 for each place of a block.
pub const PLACES_BYTES: u32 = BLOCK_KEYS * 4;

/// Bytes of an f32 for each head and each place.
pub const HEADS_BYTES: u32 = FEW_HEADS * PLACES_BYTES;

/// Bytes of an f32 for each of the four places of a quad.
pub const QUAD_BYTES: u32 = 16;

/// Heads of a lane in fragments of `mma`: number `row` and the one this much further.
pub const HEADS_APART: u32 = FEW_HEADS / 2;

/// Bytes of the probabilities of a quad's keys, fp16, for a lane's two heads.
pub const PROBABILITIES_BYTES: u32 = 16;

/// Where the probabilities of a quad are for a head: for all heads they lie next to each other, in an order by which neither lanes of one head nor
/// those of one quad want the same banks.
pub const fn probabilities(head: u32, quad: u32) -> u32 {
    let row = head % HEADS_APART;
    let pair = quad * HEADS_APART + (row ^ (quad % HEADS_APART));
    pair * PROBABILITIES_BYTES + head / HEADS_APART * (PROBABILITIES_BYTES / 2)
}

/// Bytes of the probabilities of all heads and places.
const ALL_PROBABILITIES_BYTES: u32 = FEW_HEADS * BLOCK_KEYS * 2;

/// Where the relative scale, an fp16, of a place is: those of a lane's places of all steps lie next to each other.
pub const fn relative_scale(place: u32) -> u32 {
    let (step, lane, of_lane) = (place / STEP_KEYS, place % STEP_KEYS / 4, place % 4);
    ((lane * (BLOCK_KEYS / STEP_KEYS) + step) * 4 + of_lane) * 2
}

/// Bytes of those of a lane's places.
pub const LANE_SCALES_BYTES: u32 = BLOCK_KEYS / 4 * 2;

/// Bytes of those of all places.
pub const RELATIVE_SCALES_BYTES: u32 = BLOCK_KEYS * 2;

/// Keys of a step of `mma`, and of a warp that gathers.
pub const STEP_KEYS: u32 = 16;
const _: () = assert!(STEP_KEYS == BLOCK_KEYS / WARPGROUP_WARPS);

/// The slot of key `2·lane + odd` of eight, `lane` below 4: so that neighbours lie 64 bytes of banks apart, and those of four lanes 32.
pub const fn slot_of_eight(lane: u32, odd: u32) -> u32 {
    4 * odd + (lane ^ (2 * odd))
}

/// The place of a slot: of the four keys of 16 that a lane has, its own two of each eight, next to each other.
pub const fn place(slot: u32) -> u32 {
    let (step, half, within) = (slot / STEP_KEYS, slot / 8 % 2, slot % 8);
    let odd = within / 4;
    let lane = (within % 4) ^ (2 * odd);
    STEP_KEYS * step + 4 * lane + 2 * half + odd
}

/// Bytes of the largest output of each slab and head.
pub const LARGEST_OUTPUTS_BYTES: u32 = SLABS * FEW_HEADS * 4;

/// Where what lies in the staging.
#[derive(Clone, Copy, Debug)]
pub struct FewHeadsStaging {
    /// Per stage: rows of tokens.
    pub tokens: u32,
    /// Per stage: scales of tokens, where they are not in the rows.
    pub scales: u32,
    /// What each warpgroup that attends has for itself.
    pub groups: u32,
    /// Per stage: a word for each warp that gathers, which of its tokens there are.
    pub present: u32,
    /// Per slab and head: the largest output, of a segment that both warpgroups have, then of segments that the first or the second one has by
    /// itself.
    pub largest_outputs: u32,
    /// For each token of a block: the address of its row.
    pub rows: u32,
    /// What the warps that gather know of the blocks to come, from [`BLOCKS_OFFSET`] on as of one loads warpgroup.
    pub blocks: u32,
    /// A stage's tokens have come: one barrier a stage.
    pub landed: u32,
    /// A stage's tokens are used up: one barrier a stage.
    pub taken: u32,
    /// Bytes in all.
    pub bytes: u32,
}

/// Where what lies of a warpgroup that attends.
#[derive(Clone, Copy, Debug)]
pub struct GroupStaging {
    /// Of each part, and of elements with position embedding, for each head and place: what they add to the score, f32. At a segment's end
    /// the output of a slab of each part, for the other warpgroup.
    pub partial_scores: u32,
    /// For each head and place: the probability, fp16.
    pub probabilities: u32,
    /// For each slab and place: the scale of its codes, f32.
    pub scales: u32,
    /// The same relative to the slab's unit, fp16.
    pub relative_scales: u32,
    /// Per part and head: the largest query element.
    pub largest_queries: u32,
    /// Per head: what the output so far is multiplied by before the block is added.
    pub corrections: u32,
    /// Per head: the softmax's maximum and its denominator.
    pub softmax: u32,
    /// Bytes in all.
    pub bytes: u32,
}

/// What a warpgroup that attends has.
pub const GROUP: GroupStaging = {
    let partial_scores = 0;
    let probabilities = partial_scores + (VALUE_PARTS + 1) * HEADS_BYTES;
    let scales = probabilities + ALL_PROBABILITIES_BYTES;
    let relative_scales = scales + SLABS * PLACES_BYTES;
    let largest_queries = relative_scales + SLABS * RELATIVE_SCALES_BYTES;
    let corrections = largest_queries + VALUE_PARTS * FEW_HEADS * 4;
    let softmax = corrections + FEW_HEADS * 4;
    assert!(probabilities.is_multiple_of(128));
    let bytes = (softmax + FEW_HEADS * 8).next_multiple_of(128);
    GroupStaging {
        partial_scores,
        probabilities,
        scales,
        relative_scales,
        largest_queries,
        corrections,
        softmax,
        bytes,
    }
};

/// The staging.
pub const STAGING: FewHeadsStaging = {
    let tokens = 0;
    let scales = tokens + STAGES * BLOCK_KEYS * TOKEN_BYTES;
    let groups = scales + STAGES * BLOCK_KEYS * SCALE_BYTES;
    let present = groups + GROUPS * GROUP.bytes;
    let largest_outputs = present + STAGES * WARPGROUP_WARPS * 4;
    let rows = largest_outputs + (1 + GROUPS) * LARGEST_OUTPUTS_BYTES;
    let blocks = rows + BLOCK_KEYS * ROW_ADDRESS_BYTES;
    let landed = blocks + STAGING_BYTES - BLOCKS_OFFSET;
    let taken = landed + STAGES * BARRIER_BYTES;
    let bytes = taken + STAGES * BARRIER_BYTES;
    // Two addresses are loaded at once.
    assert!(rows.is_multiple_of(2 * ROW_ADDRESS_BYTES));
    assert!(groups.is_multiple_of(128) && blocks.is_multiple_of(16) && landed.is_multiple_of(BARRIER_BYTES));
    FewHeadsStaging { tokens, scales, groups, present, largest_outputs, rows, blocks, landed, taken, bytes }
};

/// The CTA's shared memory. Of what all decode kernels have there is only the queue of segments.
pub const PLAN: SharedPlan = SharedPlan::new(0, 0, 0, STAGING.bytes);

/// The contract of a kernel for few heads.
const fn few_heads_contract(entry: &'static str) -> LaunchContract {
    let contract = LaunchContract { threads: THREADS, shared_bytes: PLAN.bytes, ..contract(entry, 1) };
    let registers = GROUPS * ATTEND_REGISTERS + GATHER_REGISTERS;
    assert!(registers <= (GROUPS + 1) * contract.registers_at_entry());
    contract.checked()
}

/// The kernel for V3.2 caches on Hopper and few heads.
pub const V32_SM90: LaunchContract = few_heads_contract("sparse_decode_v32_few_heads_sm90");

/// The kernel for MODEL1 caches on Hopper and few heads.
pub const MODEL1_SM90: LaunchContract = few_heads_contract("sparse_decode_model1_few_heads_sm90");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_has_four_places_next_to_each_other() {
        for (step, lane, half, odd) in (0..4)
            .flat_map(|s| (0..4).flat_map(move |l| (0..2).flat_map(move |h| [(s, l, h, 0), (s, l, h, 1)])))
        {
            let slot = STEP_KEYS * step + 8 * half + slot_of_eight(lane, odd);
            assert_eq!(place(slot), STEP_KEYS * step + 4 * lane + 2 * half + odd);
        }
        let mut seen = [false; BLOCK_KEYS as usize];
        (0..BLOCK_KEYS).for_each(|slot| seen[place(slot) as usize] = true);
        assert_eq!(seen, [true; BLOCK_KEYS as usize]);
    }

    #[test]
    fn no_two_lanes_want_the_same_banks() {
        // Of the bytes of all banks, 128, which ones accesses of so many bytes of each of some keys take.
        let all_banks = |slots: &[u32], bytes: u32| {
            let mut taken = [0; 128];
            for slot in slots {
                (0..bytes).for_each(|byte| taken[((slot * TOKEN_BYTES + byte) % 128) as usize] += 1);
            }
            taken == [1; 128]
        };
        for lane in 0..4 {
            assert!(all_banks(&[0, 1].map(|odd| slot_of_eight(lane, odd)), 64), "neighbours of lane {lane}");
        }
        for odd in 0..2 {
            assert!(all_banks(&[0, 1, 2, 3].map(|lane| slot_of_eight(lane, odd)), 32), "four lanes, {odd}");
        }
    }

    #[test]
    fn probabilities_have_places_of_their_own() {
        let mut seen = [false; (ALL_PROBABILITIES_BYTES / 8) as usize];
        for (head, quad) in (0..FEW_HEADS).flat_map(|head| (0..BLOCK_KEYS / 4).map(move |quad| (head, quad)))
        {
            let at = probabilities(head, quad);
            assert_eq!(at % 8, 0);
            assert!(!core::mem::replace(&mut seen[(at / 8) as usize], true), "head {head}, quad {quad}");
        }
        // A lane loads its two heads' of a quad at once; eight lanes that load the same quad's find all banks, and so do eight that store
        // one head's, but for the half of each 16 bytes that is the other head's.
        for number in 0..HEADS_APART {
            assert_eq!(
                probabilities(number + HEADS_APART, 5),
                probabilities(number, 5) + PROBABILITIES_BYTES / 2
            );
            let chunk = |at: u32| at / PROBABILITIES_BYTES % 8;
            let (mut heads, mut quads) = (0, 0);
            for i in 0..8 {
                heads |= 1 << chunk(probabilities(i, number));
                quads |= 1 << chunk(probabilities(number, i));
            }
            assert_eq!((heads, quads), (0xff, 0xff));
        }
    }

    #[test]
    fn relative_scales_have_places_of_their_own() {
        let mut seen = [false; BLOCK_KEYS as usize];
        for place in 0..BLOCK_KEYS {
            let at = relative_scale(place);
            assert_eq!(at / LANE_SCALES_BYTES, place % STEP_KEYS / 4);
            assert!(!core::mem::replace(&mut seen[(at / 2) as usize], true), "{place}");
        }
    }
}
