//! Looking positions up in a page table on the CPU.

use super::checked_index;
use crate::{TopkToSlots, TopkToSlotsInputs, TopkToSlotsOutputs};
use rayon::prelude::*;

/// Translates the lists. The views are checked: shapes, memory.
pub(crate) fn run(problem: &TopkToSlots, inputs: &TopkToSlotsInputs<'_>, outputs: &TopkToSlotsOutputs<'_>) {
    let &TopkToSlots { batch, s_q, num_pages, page_size, max_pages, .. } = problem;
    (0..batch * s_q).into_par_iter().for_each(|list| {
        let [request, query] = [list / s_q, list % s_q];
        let seqlen = usize::try_from(inputs.seqlens.get([request])).unwrap_or(0);
        let len = seqlen.min(max_pages * page_size);
        let slot = |&position: &i32| {
            let position = checked_index(position, len)?;
            let page = inputs.page_table.get([request, position / page_size]);
            let page = checked_index(page, num_pages)?;
            Some((page * page_size + position % page_size) as i32)
        };
        let slots = inputs.positions.row(&[request, query]).iter().map(slot);
        let count = slots.clone().flatten().count() as i32;
        // SAFETY: every list and every count is written once, by this call.
        unsafe {
            outputs.slots.write_row(&[request, query], slots.map(|slot| slot.unwrap_or(-1)));
            outputs.counts.write([request, query], count);
        }
    });
}
