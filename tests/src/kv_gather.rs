//! Gathering tokens of FP8 caches: answers, and how to run it.

use half::bf16;
use oximla::{Error, KvGather, KvGatherInputs, KvGatherPlan};

use crate::backend::Backend;
use crate::paged_cache::CacheLayout;
use crate::strided::{Input, Output, Views};

/// What a cache in a buffer of that layout has at the slots.
pub fn answer(layout: &CacheLayout, buffer: &[u8], slots: &[i32]) -> Vec<f64> {
    oximla_reference::KvGather {
        format: layout.format,
        num_pages: layout.num_pages,
        page_size: layout.page_size,
        kv_cache: &buffer[layout.offset..],
        page_stride: layout.page_stride,
        slots,
    }
    .run()
}

/// Gathers the slots of a cache in a buffer of that layout; slots and result lie as `views` says.
///
/// # Errors
/// What planning or running says; the output was untouched then.
pub fn run(
    backend: &Backend,
    layout: &CacheLayout,
    buffer: &[u8],
    slots: &[i32],
    views: Views,
) -> Result<Vec<bf16>, Error> {
    let problem = KvGather {
        format: layout.kv_format(),
        num_pages: layout.num_pages,
        page_size: layout.page_size,
        tokens: slots.len(),
    };
    let plan = KvGatherPlan::new(&problem, &backend.device)?;
    let buffer = backend.upload(buffer.to_vec());
    let slots = Input::new(backend, slots, [slots.len()], views);
    let mut out = Output::<bf16, 2>::new(backend, [problem.tokens, layout.format.head_dim()], views);
    let inputs = KvGatherInputs { kv_cache: layout.view(&buffer), slots: slots.view() };
    if let Err(why) = plan.run(&backend.stream(), &inputs, &mut out.view()) {
        assert!(out.is_untouched(), "output touched by a run that failed: {why}");
        return Err(why);
    }
    Ok(out.read("out"))
}

/// Checks that two results are the same, bit for bit but for NaN.
///
/// # Errors
/// The first element that differs.
pub fn compare(found: &[bf16], expected: &[f64], head_dim: usize) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} elements, not {}", found.len(), expected.len()));
    }
    let same = |found: bf16, expected: f64| {
        found.to_f64().to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
    };
    let wrong = found.iter().zip(expected).position(|(&found, &expected)| !same(found, expected));
    match wrong {
        None => Ok(()),
        Some(at) => {
            let (row, element) = (at / head_dim, at % head_dim);
            Err(format!("row {row}, element {element}: {:e}, not {:e}", found[at], expected[at]))
        }
    }
}
