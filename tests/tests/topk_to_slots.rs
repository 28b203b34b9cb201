//! Translating top-k lists, against the oracle, on every backend and in every layout.

use oximla::{Error, InvalidProblem, TopkToSlots};
use oximla_conformance::backend::Backend;
use oximla_conformance::paged_cache::PAGE_SIZES;
use oximla_conformance::strided::Views;
use oximla_conformance::topk_to_slots::{TranslationCase, answer, case, run};
use oximla_reference::Translation;
use proptest::prelude::*;

fn problem() -> TopkToSlots {
    TopkToSlots { batch: 3, s_q: 2, topk: 70, max_pages: 9, num_pages: 31, page_size: 64 }
}

fn check_everywhere(case: &TranslationCase) {
    let expected = answer(case);
    for backend in Backend::all() {
        for views in [Views::Contiguous, Views::Padded, Views::Unaligned] {
            let found = run(&backend, case, views).unwrap_or_else(|why| panic!("{}: {why}", backend.name()));
            assert_eq!(found, expected, "{} {views:?} {:?}", backend.name(), case.problem);
        }
    }
}

#[test]
fn every_page_size() {
    for (seed, page_size) in (0..).zip(PAGE_SIZES) {
        check_everywhere(&case(TopkToSlots { page_size, ..problem() }, seed));
    }
}

/// Fewer and more positions than a thread, a warp or a CTA takes at once.
#[test]
fn lists_of_every_length() {
    for topk in [1, 31, 33, 255, 256, 257, 2048, 2049, 4200] {
        check_everywhere(&case(TopkToSlots { batch: 1, topk, ..problem() }, topk as u64));
    }
}

#[test]
fn nothing_to_do() {
    for empty in [
        TopkToSlots { batch: 0, ..problem() },
        TopkToSlots { s_q: 0, ..problem() },
        TopkToSlots { topk: 0, ..problem() },
        TopkToSlots { max_pages: 0, ..problem() },
    ] {
        check_everywhere(&case(empty, 0));
    }
}

/// The last slot that i32 numbers.
#[test]
fn the_largest_cache() {
    let problem =
        TopkToSlots { batch: 1, s_q: 1, topk: 4, max_pages: 2, num_pages: i32::MAX as usize, page_size: 1 };
    let (positions, page_table, seqlens) = (vec![0, 1, 2, -1], vec![i32::MAX - 1, i32::MAX], vec![2]);
    check_everywhere(&TranslationCase { problem, positions, page_table, seqlens });
}

/// What is past a request's length is none, though its page is there.
#[test]
fn lengths_bound_positions() {
    let mut case = case(problem(), 0);
    case.page_table.fill(1);
    case.seqlens = vec![5, 0, -1];
    case.positions.fill(4);
    case.positions[70..140].fill(5);
    assert_eq!(answer(&case).counts, [70, 0, 0, 0, 0, 0]);
    check_everywhere(&case);
}

#[test]
fn what_does_not_fit_is_refused() {
    let names = |result: Result<Translation, Error>| match result {
        Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => argument,
        other => panic!("{other:?}"),
    };
    let empty = TopkToSlots { s_q: 0, ..problem() };
    for backend in Backend::all() {
        let refused = |problem: TopkToSlots| {
            let case = TranslationCase { problem, ..case(empty.clone(), 0) };
            names(run(&backend, &case, Views::Contiguous))
        };
        assert_eq!(refused(TopkToSlots { num_pages: 0, ..empty.clone() }), "num_pages");
        assert_eq!(refused(TopkToSlots { page_size: 0, ..empty.clone() }), "page_size");
        assert_eq!(refused(TopkToSlots { page_size: 1 << 31, ..empty.clone() }), "page_size");
        assert_eq!(refused(TopkToSlots { page_size: 1 << 27, ..empty.clone() }), "num_pages · page_size");
        assert_eq!(refused(TopkToSlots { topk: 1 << 31, ..empty.clone() }), "topk");
        assert_eq!(refused(TopkToSlots { max_pages: usize::MAX, ..empty.clone() }), "max_pages");
        if backend.is_gpu() {
            assert_eq!(refused(TopkToSlots { batch: 65_536, ..empty.clone() }), "batch");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_translations(
        (batch, s_q, topk) in (0_usize..=4, 0_usize..=3, 0_usize..=300),
        (max_pages, num_pages) in (0_usize..=20, 1_usize..=50),
        page_size in prop::sample::select(PAGE_SIZES.to_vec()),
        seed in any::<u64>(),
    ) {
        check_everywhere(&case(TopkToSlots { batch, s_q, topk, max_pages, num_pages, page_size }, seed));
    }
}
