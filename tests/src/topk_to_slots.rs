//! Generated translations of top-k lists, their answers, and how to run them.

use oximla::{Error, TopkToSlots, TopkToSlotsInputs, TopkToSlotsOutputs, TopkToSlotsPlan};
use oximla_reference::Translation;

use crate::backend::Backend;
use crate::noise::Noise;
use crate::strided::{Input, Output, Trap, Views};

/// A translation with its tensors.
#[derive(Clone, Debug)]
pub struct TranslationCase {
    /// The shape.
    pub problem: TopkToSlots,
    /// `[batch, s_q, topk]`
    pub positions: Vec<i32>,
    /// `[batch, max_pages]`
    pub page_table: Vec<i32>,
    /// `[batch]`
    pub seqlens: Vec<i32>,
}

/// Lists with positions past the request, negative and extreme ones among them; page tables with pages that are not there;
/// lengths from negative ones to what no page table holds.
pub fn case(problem: TopkToSlots, seed: u64) -> TranslationCase {
    let mut noise = Noise::new(seed);
    let held = problem.max_pages * problem.page_size;
    let extreme = [-1, i32::MIN, i32::MAX, -123_456, i32::TRAP];
    let seqlens: Vec<i32> = (0..problem.batch)
        .map(|_| match noise.below(8) {
            0 => noise.pick(&[0, -1, i32::MIN, i32::MAX]),
            1 => held as i32,
            _ => noise.below(held + 1) as i32,
        })
        .collect();
    let page = |noise: &mut Noise| match noise.below(10) {
        0 => noise.pick(&[-1, problem.num_pages as i32, i32::MIN, i32::MAX, i32::TRAP]),
        _ => noise.below(problem.num_pages) as i32,
    };
    let page_table = (0..problem.batch * problem.max_pages).map(|_| page(&mut noise)).collect();
    let position = |noise: &mut Noise| match noise.below(10) {
        0 => noise.pick(&extreme),
        1 => held as i32 + noise.below(3) as i32 - 1,
        _ => noise.below(held.max(1)) as i32,
    };
    let positions = (0..problem.batch * problem.s_q * problem.topk).map(|_| position(&mut noise)).collect();
    TranslationCase { problem, positions, page_table, seqlens }
}

/// The oracle's answer.
pub fn answer(case: &TranslationCase) -> Translation {
    let p = &case.problem;
    oximla_reference::TopkToSlots {
        batch: p.batch,
        s_q: p.s_q,
        topk: p.topk,
        max_pages: p.max_pages,
        num_pages: p.num_pages,
        page_size: p.page_size,
        positions: &case.positions,
        page_table: &case.page_table,
        seqlens: &case.seqlens,
    }
    .run()
}

/// Runs the case on tensors laid out as `views` says.
///
/// # Errors
/// What planning or running says; the outputs were untouched then.
pub fn run(backend: &Backend, case: &TranslationCase, views: Views) -> Result<Translation, Error> {
    let p = &case.problem;
    let plan = TopkToSlotsPlan::new(p, &backend.device)?;
    let list_shape = [p.batch, p.s_q, p.topk];
    let positions = Input::new(backend, &case.positions, list_shape, views);
    let page_table = Input::new(backend, &case.page_table, [p.batch, p.max_pages], views);
    let seqlens = Input::new(backend, &case.seqlens, [p.batch], views);
    let mut slots = Output::<i32, 3>::new(backend, list_shape, views);
    let mut counts = Output::<i32, 2>::new(backend, [p.batch, p.s_q], views);
    let inputs = TopkToSlotsInputs {
        positions: positions.view(),
        page_table: page_table.view(),
        seqlens: seqlens.view(),
    };
    let mut outputs = TopkToSlotsOutputs { slots: slots.view(), counts: counts.view() };
    if let Err(why) = plan.run(&backend.stream(), &inputs, &mut outputs) {
        assert!(slots.is_untouched() && counts.is_untouched(), "outputs touched by a run that failed: {why}");
        return Err(why);
    }
    Ok(Translation { slots: slots.read("slots"), counts: counts.read("counts") })
}
