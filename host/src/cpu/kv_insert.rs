//! Quantising tokens into a cache on the CPU.

use super::fp8;
use crate::{KvInsert, KvInsertInputs, TensorViewMut};

/// Inserts the tokens one after the other, as two of them may have the same slot. The views are checked: shapes, memory.
pub(crate) fn run(problem: &KvInsert, inputs: &KvInsertInputs<'_>, kv_cache: &mut TensorViewMut<'_, u8, 4>) {
    let &KvInsert { format, num_pages, page_size, tokens } = problem;
    for token in 0..tokens {
        let slot = usize::try_from(inputs.slot_mapping.get([token]));
        let Some(slot) = slot.ok().filter(|&slot| slot < num_pages * page_size) else { continue };
        let page = kv_cache.outermost_mut(slot / page_size);
        let (latent, rope) = (inputs.latent.row(&[token]), inputs.rope.row(&[token]));
        fp8::store_token(format, page, page_size, slot % page_size, latent, rope);
    }
}
