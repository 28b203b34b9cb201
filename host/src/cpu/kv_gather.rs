//! Dequantising tokens of a cache on the CPU.

use super::{checked_index, fp8};
use crate::{KvGather, KvGatherInputs, TensorViewMut};
use half::bf16;
use rayon::prelude::*;

/// Gathers the tokens. The views are checked: shapes, memory.
pub(crate) fn run(problem: &KvGather, inputs: &KvGatherInputs<'_>, out: &TensorViewMut<'_, bf16, 2>) {
    let &KvGather { format, num_pages, page_size, tokens } = problem;
    let elements = || vec![0.0_f32; format.head_dim() as usize];
    (0..tokens).into_par_iter().for_each_init(elements, |elements, token| {
        match checked_index(inputs.slots.get([token]), num_pages * page_size) {
            Some(slot) => {
                let page = inputs.kv_cache.outermost(slot / page_size);
                fp8::load_token(format, page, page_size, slot % page_size, elements);
            }
            None => elements.fill(0.0),
        }
        // SAFETY: every row is written once, by this call.
        unsafe { out.write_row(&[token], elements.iter().copied().map(bf16::from_f32)) };
    });
}
