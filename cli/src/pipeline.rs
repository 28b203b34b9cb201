//! What a serving stack does before sparse decode: new tokens go into the FP8 cache, selected positions become slots.

use half::bf16;
use oximla::case_file::SparseDecodeCase;
use oximla::{
    Device, DeviceBuffer, Element, Error, InvalidProblem, KvInsert, KvInsertInputs, KvInsertPlan, TensorView,
    TensorViewMut, TopkToSlots, TopkToSlotsInputs, TopkToSlotsOutputs, TopkToSlotsPlan,
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
    /// Bytes of the cache, or indices.
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
        let mut case = self.case.clone();
        (case.scope.kv_cache, case.scope.indices) = (kv_cache, indices);
        Ok(([inserted, translated], case))
    }

    fn insert(&self, device: &Device) -> Result<(Stage, Vec<u8>), Error> {
        let (p, shape) = (&self.case.problem, &self.case.problem.scope);
        let (num_pages, page_size, tokens) = (shape.num_pages, shape.page_size, self.slot_mapping.len());
        let problem = KvInsert { format: p.format, num_pages, page_size, tokens };
        let plan = KvInsertPlan::new(&problem, device)?;
        let cache_shape = [num_pages, page_size, 1, p.format.bytes_per_token() as usize];
        let mut kv_cache = Buffer::of(device, vec![self.untouched; cache_shape.iter().product()])?;
        let latent = Buffer::of(device, self.latent.clone())?;
        let rope = Buffer::of(device, self.rope.clone())?;
        let slots = Buffer::of(device, self.slot_mapping.clone())?;
        let inputs = KvInsertInputs {
            latent: latent.view("latent", [tokens, p.format.nope_dim() as usize])?,
            rope: rope.view("rope", [tokens, p.format.rope_dim() as usize])?,
            slot_mapping: slots.view("slot_mapping", [tokens])?,
        };
        plan.run(&device.stream(), &inputs, &mut kv_cache.view_mut("kv_cache", cache_shape)?)?;
        let found = kv_cache.into_vec()?;
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
        let positions = Buffer::of(device, self.positions.clone())?;
        let page_table = Buffer::of(device, self.page_table.clone())?;
        let seqlens = Buffer::of(device, self.seqlens.clone())?;
        let mut slots = Buffer::of(device, vec![0; batch * s_q * topk])?;
        let mut counts = Buffer::of(device, vec![0; batch * s_q])?;
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
        let found = slots.into_vec()?;
        let expected = &self.case.scope.indices;
        let stage = Stage {
            op: "topk_to_slots",
            shape: format!("b {batch}, s_q {s_q}, topk {topk}, page {page_size}"),
            kernel: plan.kernel(),
            elements: expected.len(),
            wrong: differing(&found, expected),
        };
        Ok((stage, found))
    }
}

/// How many elements differ.
fn differing<T: PartialEq>(found: &[T], expected: &[T]) -> usize {
    found.iter().zip(expected).filter(|(found, expected)| found != expected).count()
}

/// A tensor in the memory of the device that works on it.
enum Buffer<T: Element> {
    Host(Vec<T>),
    Device(DeviceBuffer<T>),
}

impl<T: Element> Buffer<T> {
    fn of(device: &Device, elements: Vec<T>) -> Result<Self, Error> {
        match DeviceBuffer::from_slice(device, &elements) {
            // The CPU works on the host's.
            Err(Error::Unsupported { .. }) => Ok(Self::Host(elements)),
            buffer => Ok(Self::Device(buffer?)),
        }
    }

    fn view<const RANK: usize>(
        &self,
        name: &str,
        shape: [usize; RANK],
    ) -> Result<TensorView<'_, T, RANK>, InvalidProblem> {
        match self {
            Self::Host(elements) => TensorView::from_slice(name, elements, shape),
            Self::Device(buffer) => TensorView::from_buffer(name, buffer, shape),
        }
    }

    fn view_mut<const RANK: usize>(
        &mut self,
        name: &str,
        shape: [usize; RANK],
    ) -> Result<TensorViewMut<'_, T, RANK>, InvalidProblem> {
        match self {
            Self::Host(elements) => TensorViewMut::from_slice(name, elements, shape),
            Self::Device(buffer) => TensorViewMut::from_buffer(name, buffer, shape),
        }
    }

    /// The elements after all work on the device.
    fn into_vec(self) -> Result<Vec<T>, Error> {
        match self {
            Self::Host(elements) => Ok(elements),
            Self::Device(buffer) => buffer.to_vec(),
        }
    }
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
        assert!(stages[0].wrong >= 1 && stages[1].wrong == 1, "{stages:?}");
    }
}
