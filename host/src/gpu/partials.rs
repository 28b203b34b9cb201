//! Memory for the partial results of split requests.

use super::checks::{ALIGNMENT, check_element_alignment};
use crate::{Error, InvalidProblem, Workspace};
use oximla_types::kernels::decode::{GridShape, HEAD_DIM_V, PartialResults, PartialSide, SIDES, SplitRecord};
use oximla_types::layout::partial;
use oximla_types::schedule::{Determinism, MIN_CHUNK};

/// Byte offsets in the workspace of a decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartialsPlan {
    /// Slots of partial results.
    pub(super) slots: u32,
    splits: u64,
    sides: u64,
    out: u64,
    pub(super) bytes: usize,
}

impl PartialsPlan {
    /// For requests of at most `max_blocks` blocks of keys.
    pub(super) fn new(
        requests: usize,
        max_blocks: u32,
        determinism: Determinism,
        shape: &GridShape,
    ) -> Result<Self, Error> {
        let slots = determinism.slots(requests as u32, shape.partitions, max_blocks);
        let sizes = u32::try_from(slots).ok().and_then(|slots| {
            let rows = (slots as usize).checked_mul(shape.total_rows as usize)?;
            let splits = (requests * size_of::<SplitRecord>()).next_multiple_of(ALIGNMENT as usize);
            let sides = rows.checked_mul(SIDES as usize * size_of::<PartialSide>())?;
            let out = rows.checked_mul((HEAD_DIM_V * partial::COLUMN_BYTES) as usize)?;
            let bytes = splits.checked_add(sides)?.checked_add(out)?;
            Some(Self { slots, splits: 0, sides: splits as u64, out: (splits + sides) as u64, bytes })
        });
        sizes.ok_or_else(|| {
            let found = format!("{slots} slots of {} rows", shape.total_rows);
            InvalidProblem::new("workspace", found, "a size that 64 bits can count").into()
        })
    }

    /// Where the parts are in a workspace at `address`.
    pub(super) fn at(&self, address: u64) -> PartialResults {
        PartialResults { out: address + self.out, sides: address + self.sides, splits: address + self.splits }
    }
}

/// Whether any request may be split, for the combine kernel to put together again.
pub(super) fn may_split(determinism: Determinism, shape: &GridShape, max_blocks: u32) -> bool {
    match determinism {
        Determinism::RunToRun => shape.partitions > 1,
        Determinism::BatchInvariant => max_blocks > MIN_CHUNK,
    }
}

/// Checks the size and the alignment of memory for a kernel's own use.
pub(super) fn check_memory(
    name: &str,
    memory: &Workspace<'_>,
    needed_bytes: usize,
) -> Result<(), InvalidProblem> {
    if memory.bytes < needed_bytes {
        let needed = format!("at least {needed_bytes} bytes");
        return Err(InvalidProblem::new(name, format!("{} bytes", memory.bytes), needed));
    }
    check_element_alignment(name, memory.address, ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn workspace_parts_are_aligned_and_disjoint() {
        let shape = GridShape::new(1, 9, NonZeroU32::new(3).unwrap(), 132);
        // A slot for each request and partition; one for each of three chunks of 16 blocks.
        for (determinism, slots) in [(Determinism::RunToRun, 3 + 44), (Determinism::BatchInvariant, 3 * 3)] {
            let plan = PartialsPlan::new(3, 40, determinism, &shape).unwrap();
            assert!(plan.sides >= plan.splits + 3 * 8 && plan.sides.is_multiple_of(16));
            assert!(plan.out >= plan.sides + slots * 9 * 2 * 8 && plan.out.is_multiple_of(16));
            assert_eq!(plan.bytes as u64, plan.out + slots * 9 * 512 * 2);
        }
    }
}
