//! Insertions into FP8 caches and gatherings from them on a GPU. The first call's result is compared with the CPU's.

use anyhow::ensure;
use cudarc::driver::{CudaSlice, DeviceRepr, ValidAsZeroBits};
use half::bf16;
use oximla::{
    KvGather, KvGatherInputs, KvGatherPlan, KvInsert, KvInsertInputs, KvInsertPlan, Stream, TensorView,
    TensorViewMut,
};

use super::graphs::Graphs;
use super::memory::{Memory, Tensors, distinct_units};
use crate::bench::ops::CachedTokensShape;

/// A byte of a cache that nothing was written to: NaN as a code and as a part of any scale.
const UNWRITTEN: u8 = 0xff;

/// Elements at a time of a tensor that begins as the same ones everywhere.
const FILLED: usize = 1 << 20;

/// Plans an insertion, brings its inputs into memory, and captures its graphs.
///
/// # Errors
/// Those of the plan and of its run, when there is not enough memory, or when the result is wrong.
pub fn load_insertion(memory: &Memory, shape: &CachedTokensShape) -> anyhow::Result<(Graphs, Tensors)> {
    let problem = shape.insertion();
    let plan = KvInsertPlan::new(&problem, &memory.device)?;
    let KvInsert { format, num_pages, page_size, tokens } = problem;
    let [nope_dim, rope_dim, token_bytes] =
        [format.nope_dim(), format.rope_dim(), format.bytes_per_token()].map(|size| size as usize);

    let page_table = shape.page_table();
    let distinct = num_pages.min(distinct_units(page_size * format.head_dim() as usize * size_of::<bf16>()));
    let pages = shape.inserted_pages(distinct)?;
    let latent = memory.repeated(tokens * nope_dim, &pages.latent)?;
    let rope = memory.repeated(tokens * rope_dim, &pages.rope)?;
    let slots = memory.copied(&shape.slots::<i64>(&page_table))?;
    let mut kv_cache = memory.repeated(tokens * token_bytes, &[UNWRITTEN; FILLED])?;

    let stream = Stream::from(&*memory.stream);
    let inputs = KvInsertInputs {
        latent: TensorView::from_cudarc("latent", &latent, [tokens, nope_dim], &memory.stream)?,
        rope: TensorView::from_cudarc("rope", &rope, [tokens, rope_dim], &memory.stream)?,
        slot_mapping: TensorView::from_buffer("slot_mapping", &slots, [tokens])?,
    };
    let kv_shape = [num_pages, page_size, 1, token_bytes];
    let mut output = TensorViewMut::from_cudarc("kv_cache", &mut kv_cache, kv_shape, &memory.stream)?;
    let graphs = Graphs::capture(&memory.stream, || Ok(plan.run(&stream, &inputs, &mut output)?))?;
    let page_bytes = page_size * token_bytes;
    for (number, &page) in page_table.iter().enumerate() {
        let expected = part(&pages.bytes, number % distinct, page_bytes);
        check(memory, &kv_cache, page as usize, expected)?;
    }
    Ok((graphs, Box::new((latent, rope, slots, kv_cache))))
}

/// Plans a gathering, brings its inputs into memory, and captures its graphs.
///
/// # Errors
/// Those of the plan and of its run, when there is not enough memory, or when the result is wrong.
pub fn load_gathering(memory: &Memory, shape: &CachedTokensShape) -> anyhow::Result<(Graphs, Tensors)> {
    let problem = shape.gathering();
    let plan = KvGatherPlan::new(&problem, &memory.device)?;
    let KvGather { format, num_pages, page_size, tokens } = problem;
    let [head_dim, token_bytes] = [format.head_dim(), format.bytes_per_token()].map(|size| size as usize);

    let page_table = shape.page_table();
    let distinct = num_pages.min(distinct_units(page_size * token_bytes));
    let (bytes, elements) = shape.gathered_pages(distinct)?;
    let kv_cache = memory.repeated(tokens * token_bytes, &bytes)?;
    let slots = memory.copied(&shape.slots::<i32>(&page_table))?;
    let mut out = memory.repeated(tokens * head_dim, &[bf16::NAN; FILLED])?;

    let stream = Stream::from(&*memory.stream);
    let kv_shape = [num_pages, page_size, 1, token_bytes];
    let inputs = KvGatherInputs {
        kv_cache: TensorView::from_cudarc("kv_cache", &kv_cache, kv_shape, &memory.stream)?,
        slots: TensorView::from_buffer("slots", &slots, [tokens])?,
    };
    let mut output = TensorViewMut::from_cudarc("out", &mut out, [tokens, head_dim], &memory.stream)?;
    let graphs = Graphs::capture(&memory.stream, || Ok(plan.run(&stream, &inputs, &mut output)?))?;
    let page_elements = page_size * head_dim;
    for (number, &page) in page_table.iter().enumerate() {
        let expected = part(&elements, page as usize % distinct, page_elements);
        check(memory, &out, number, expected)?;
    }
    Ok((graphs, Box::new((kv_cache, slots, out))))
}

/// A page of a tensor.
fn part<T>(tensor: &[T], page: usize, len: usize) -> &[T] {
    &tensor[page * len..][..len]
}

/// Checks a page of a result. What was never written is NaN, which is like nothing, or [`UNWRITTEN`], which is no code.
fn check<T: DeviceRepr + ValidAsZeroBits + Copy + Default + PartialEq>(
    memory: &Memory,
    result: &CudaSlice<T>,
    page: usize,
    expected: &[T],
) -> anyhow::Result<()> {
    let start = page * expected.len();
    let found = memory.stream.clone_dtoh(&result.slice(start..start + expected.len()))?;
    ensure!(found == expected, "page {page} of the result differs from what the CPU computes");
    Ok(())
}
