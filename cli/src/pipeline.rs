//! What a serving stack does before sparse decode: new tokens go into the FP8 cache, selected positions become slots.

use half::bf16;
use oximla::case_file::{Buffer, ScopeCase, SparseDecodeCase};
use oximla::{
    Device, Error, KvInsert, KvInsertInputs, KvInsertPlan, TopkToSlots, TopkToSlotsInputs,
    TopkToSlotsOutputs, TopkToSlotsPlan,
};

/// A sparse decode step together with what its cache and its indices are made from.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The step, with the cache and the indices as they should come out.
    pub case: SparseDecodeCase,
    /// What the cache's bytes are where no token goes.
    pub untouched: u8,
    /// NoPE elements of the tokens to insert `[tokens, nope_dim]`.
    pub latent: Vec<bf16>,
    /// RoPE elements of them `[tokens, rope_dim]`.
    pub rope: Vec<bf16>,
    /// Where each goes `[tokens]`.
    pub slot_mapping: Vec<i64>,
    /// Selected positions of each request `[batch, s_q, topk]`.
    pub positions: Vec<i32>,
    /// Pages of each request `[batch, max_pages]`.
    pub page_table: Vec<i32>,
    /// Tokens of each request `[batch]`.
    pub seqlens: Vec<i32>,
}

/// A stage that was run, and how much of what it left differs from what it should.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub op: &'static str,
    /// The problem in words.
    pub shape: String,
    pub kernel: &'static str,
    /// Bytes of the cache, or indices and how many of each list are slots.
    pub elements: usize,
    pub wrong: usize,
}

impl Pipeline {
    /// Runs the stages before the decode: returns them, and the step with the cache and the indices that they left.
    ///
    /// # Errors
    /// Those of the operations' plans and runs.
    pub fn prepare(&self, device: &Device) -> Result<([Stage; 2], SparseDecodeCase), Error> {
        let (inserted, kv_cache) = self.insert(device)?;
        let (translated, indices) = self.translate(device)?;
        // All but the cache and the indices, which may be large.
        let SparseDecodeCase { problem, q, scope, extra, attn_sink, inverse_rope, expected } = &self.case;
        let scope =
            ScopeCase { shape: scope.shape, kv_cache, indices, topk_length: scope.topk_length.clone() };
        let case = SparseDecodeCase {
            problem: problem.clone(),
            q: q.clone(),
            scope,
            extra: extra.clone(),
            attn_sink: attn_sink.clone(),
            inverse_rope: inverse_rope.clone(),
            expected: expected.clone(),
        };
        Ok(([inserted, translated], case))
    }

    fn insert(&self, device: &Device) -> Result<(Stage, Vec<u8>), Error> {
        let (p, shape) = (&self.case.problem, &self.case.problem.scope);
        let (num_pages, page_size, tokens) = (shape.num_pages, shape.page_size, self.slot_mapping.len());
        let problem = KvInsert { format: p.format, num_pages, page_size, tokens };
        let plan = KvInsertPlan::new(&problem, device)?;
        let cache_shape = [num_pages, page_size, 1, p.format.bytes_per_token() as usize];
        let mut kv_cache = Buffer::filled(device, self.untouched, cache_shape)?;
        let latent = Buffer::of(device, &self.latent)?;
        let rope = Buffer::of(device, &self.rope)?;
        let slots = Buffer::of(device, &self.slot_mapping)?;
        let inputs = KvInsertInputs {
            latent: latent.view("latent", [tokens, p.format.nope_dim() as usize])?,
            rope: rope.view("rope", [tokens, p.format.rope_dim() as usize])?,
            slot_mapping: slots.view("slot_mapping", [tokens])?,
        };
        plan.run(&device.stream(), &inputs, &mut kv_cache.view_mut("kv_cache", cache_shape)?)?;
        let found = kv_cache.to_vec()?;
        let expected = &self.case.scope.kv_cache;
        let stage = Stage {
            op: "kv_insert",
            shape: format!("{tokens} tokens into {num_pages} pages, {}", p.format),
            kernel: plan.kernel(),
            elements: expected.len(),
            wrong: differing(&found, expected),
        };
        Ok((stage, found))
    }

    fn translate(&self, device: &Device) -> Result<(Stage, Vec<i32>), Error> {
        let (p, shape) = (&self.case.problem, &self.case.problem.scope);
        let (batch, s_q, topk) = (p.batch, p.s_q, shape.topk);
        let max_pages = self.page_table.len() / batch;
        let (num_pages, page_size) = (shape.num_pages, shape.page_size);
        let problem = TopkToSlots { batch, s_q, topk, max_pages, num_pages, page_size };
        let plan = TopkToSlotsPlan::new(&problem, device)?;
        let positions = Buffer::of(device, &self.positions)?;
        let page_table = Buffer::of(device, &self.page_table)?;
        let seqlens = Buffer::of(device, &self.seqlens)?;
        let mut slots = Buffer::filled(device, 0, [batch, s_q, topk])?;
        let mut counts = Buffer::filled(device, 0, [batch, s_q])?;
        let inputs = TopkToSlotsInputs {
            positions: positions.view("positions", [batch, s_q, topk])?,
            page_table: page_table.view("page_table", [batch, max_pages])?,
            seqlens: seqlens.view("seqlens", [batch])?,
        };
        let mut outputs = TopkToSlotsOutputs {
            slots: slots.view_mut("slots", [batch, s_q, topk])?,
            counts: counts.view_mut("counts", [batch, s_q])?,
        };
        plan.run(&device.stream(), &inputs, &mut outputs)?;
        let (found, found_counts) = (slots.to_vec()?, counts.to_vec()?);
        let expected = &self.case.scope.indices;
        let expected_counts: Vec<i32> = expected.chunks(topk).map(count_of_slots).collect();
        let stage = Stage {
            op: "topk_to_slots",
            shape: format!("b {batch}, s_q {s_q}, topk {topk}, page {page_size}"),
            kernel: plan.kernel(),
            elements: expected.len() + expected_counts.len(),
            wrong: differing(&found, expected) + differing(&found_counts, &expected_counts),
        };
        Ok((stage, found))
    }
}

/// How many entries of a list are slots.
fn count_of_slots(list: &[i32]) -> i32 {
    list.iter().map(|&slot| i32::from(slot >= 0)).sum()
}

/// How many elements differ.
fn differing<T: PartialEq>(found: &[T], expected: &[T]) -> usize {
    found.iter().zip(expected).filter(|(found, expected)| found != expected).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Size, sparse_pipeline};

    const SMALL: Size = Size { batch: 2, keys: 300 };

    #[test]
    fn stages_leave_what_they_should() {
        let pipeline = sparse_pipeline(SMALL, 3);
        let (stages, case) = pipeline.prepare(&Device::cpu()).unwrap();
        for stage in stages {
            assert_eq!(stage.wrong, 0, "{stage:?}");
        }
        assert_eq!(case.scope.kv_cache, pipeline.case.scope.kv_cache);
        assert_eq!(case.scope.indices, pipeline.case.scope.indices);
    }

    #[test]
    fn wrong_stages_are_noticed() {
        let mut pipeline = sparse_pipeline(SMALL, 3);
        let there = pipeline.positions.iter().position(|&position| position >= 0).unwrap();
        pipeline.positions[there] = -1;
        pipeline.rope[7] = bf16::from_f32(1e4);
        let (stages, _) = pipeline.prepare(&Device::cpu()).unwrap();
        // An index and a count.
        assert!(stages[0].wrong >= 1 && stages[1].wrong == 2, "{stages:?}");
    }
}
