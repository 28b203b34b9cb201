//! Quantising tokens into FP8 caches: bit for bit what the oracle writes, and nothing else, on every backend.

use half::bf16;
use oximla::{Error, InvalidProblem, KvFormat, KvInsert};
use oximla_conformance::backend::Backend;
use oximla_conformance::kv_gather;
use oximla_conformance::kv_insert::{InsertCase, Spec, answer, run};
use oximla_conformance::paged_cache::{CacheLayout, FORMATS, PAGE_SIZES, backends_and_views};
use oximla_conformance::strided::Views;
use oximla_reference::Fp8Format;
use proptest::prelude::*;

fn spec(format: Fp8Format) -> Spec {
    Spec { format, num_pages: 3, page_size: 64, tokens: 21, one_skipped_in: 5, seed: 0 }
}

fn check(backend: &Backend, case: &InsertCase, views: Views) {
    let layout = CacheLayout::new(case.format, case.num_pages, case.page_size, views);
    let found = run(backend, case, &layout, views).unwrap_or_else(|why| panic!("{}: {why}", backend.name()));
    let expected = answer(case, &layout);
    if let Some(at) = found.iter().zip(&expected).position(|(found, expected)| found != expected) {
        let (page, byte) = (
            at.saturating_sub(layout.offset) / layout.page_stride,
            at.saturating_sub(layout.offset) % layout.page_stride,
        );
        let (found, expected) = (found[at], expected[at]);
        panic!(
            "{} {layout:?}: byte {byte} of page {page} is {found:#04x}, not {expected:#04x}",
            backend.name()
        );
    }
}

fn check_everywhere(spec: &Spec) {
    let case = spec.case();
    for (backend, views) in backends_and_views() {
        views.into_iter().for_each(|views| check(&backend, &case, views));
    }
}

#[test]
fn every_page_size() {
    for format in FORMATS {
        for (seed, page_size) in (0..).zip(PAGE_SIZES) {
            check_everywhere(&Spec { page_size, seed, ..spec(format) });
        }
    }
}

/// Fewer and more tokens than a warp or a CTA takes.
#[test]
fn odd_numbers_of_tokens() {
    for format in FORMATS {
        for tokens in [0, 1, 2, 7, 8, 9] {
            check_everywhere(&Spec { tokens, one_skipped_in: usize::MAX, ..spec(format) });
        }
    }
}

#[test]
fn all_tokens_go_nowhere() {
    for format in FORMATS {
        check_everywhere(&Spec { one_skipped_in: 1, ..spec(format) });
    }
}

/// Every value that bf16 has, each in a tile of its own among zeros.
#[test]
fn every_value() {
    for format in FORMATS {
        let (tokens, tile) = (0x8000_usize.div_ceil(448 / 64), 64);
        let case =
            Spec { num_pages: tokens.div_ceil(64), tokens, one_skipped_in: usize::MAX, ..spec(format) }
                .case();
        let head_dim = format.head_dim();
        let mut values = vec![bf16::ZERO; tokens * head_dim];
        for (bits, start) in (0..0x8000_u16).zip((0..).map(|n| n / 7 * head_dim + n % 7 * tile)) {
            // Half of them negative, but no NaN: the sign of its codes is no matter of the format.
            let value = bf16::from_bits(bits);
            values[start + usize::from(bits) % tile] =
                if bits & 1 == 1 && !value.is_nan() { -value } else { value };
        }
        let case = InsertCase { tokens: values, ..case };
        let backends = Backend::all();
        backends
            .iter()
            .filter(|backend| !backend.is_emulated())
            .for_each(|backend| check(backend, &case, Views::Padded));
    }
}

/// A NaN of either sign makes its tile NaN: scale and codes.
#[test]
fn nan_of_either_sign() {
    let case =
        Spec { num_pages: 1, page_size: 1, tokens: 1, one_skipped_in: usize::MAX, ..spec(Fp8Format::V32) }
            .case();
    let mut tokens = vec![bf16::ONE; 576];
    (tokens[5], tokens[255]) = (bf16::NAN, -bf16::NAN);
    let case = InsertCase { tokens, ..case };
    for backend in Backend::all() {
        let layout = CacheLayout::new(case.format, 1, 1, Views::Contiguous);
        let mut buffer = run(&backend, &case, &layout, Views::Contiguous).unwrap();
        let token = layout.page(&mut buffer, 0);
        assert!(token[..256].iter().all(|code| code & 0x7f == 0x7f), "{}", backend.name());
        let scales = token[512..528].chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        assert_eq!(
            scales.map(f32::is_nan).collect::<Vec<_>>(),
            [true, true, false, false],
            "{}",
            backend.name()
        );
    }
}

/// Of two tokens with one slot the CPU keeps the last one.
#[test]
fn the_last_one_stays_on_the_cpu() {
    let case = Spec { tokens: 2, one_skipped_in: usize::MAX, ..spec(Fp8Format::Model1) }.case();
    check(&Backend::cpu(), &InsertCase { slots: vec![7, 7], ..case }, Views::Contiguous);
}

/// What is gathered is what was inserted, within half a step of the codes.
#[test]
fn tokens_come_back() {
    for format in FORMATS {
        let layout = CacheLayout::new(format, 2, 53, Views::Padded);
        let case = Spec { num_pages: 2, page_size: 53, one_skipped_in: usize::MAX, ..spec(format) }.case();
        let tokens: Vec<bf16> = (0..case.tokens.len()).map(|n| bf16::from_f32((n as f32).sin())).collect();
        let case = InsertCase { tokens, ..case };
        let slots: Vec<i32> = case.slots.iter().map(|&slot| slot as i32).collect();
        for backend in Backend::all() {
            let buffer = run(&backend, &case, &layout, Views::Padded).unwrap();
            let back = kv_gather::run(&backend, &layout, &buffer, &slots, Views::Padded).unwrap();
            let head_dim = format.head_dim();
            for (n, (back, value)) in back.iter().zip(&case.tokens).enumerate() {
                let (back, value) = (back.to_f32(), value.to_f32());
                let bound = if n % head_dim < head_dim - 64 {
                    (value.abs() / 16.0).max(1.0 / 448.0 / 512.0)
                } else {
                    0.0
                };
                assert!((back - value).abs() <= bound, "{} {format:?}: {back} for {value}", backend.name());
            }
        }
    }
}

#[test]
fn formats_without_fp8_are_refused() {
    for format in [KvFormat::Bf16, KvFormat::Fp16] {
        let problem = KvInsert { format, num_pages: 1, page_size: 64, tokens: 1 };
        assert_eq!(problem.validate().unwrap_err().argument, "format");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let names = |result: Result<Vec<u8>, Error>| match result {
        Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => argument,
        other => panic!("{other:?}"),
    };
    for (backend, format) in
        Backend::all().into_iter().flat_map(|backend| FORMATS.map(|format| (backend.clone(), format)))
    {
        let case = spec(format).case();
        let layout = CacheLayout::new(format, case.num_pages, case.page_size, Views::Contiguous);
        let refused =
            |case: &InsertCase, layout: &CacheLayout| names(run(&backend, case, layout, Views::Contiguous));
        assert_eq!(refused(&InsertCase { num_pages: 0, ..case.clone() }, &layout), "num_pages");
        assert_eq!(refused(&InsertCase { page_size: 0, ..case.clone() }, &layout), "page_size");
        let huge = InsertCase { num_pages: 1 << 16, page_size: 1 << 15, ..case.clone() };
        assert_eq!(refused(&huge, &layout), "num_pages · page_size");
        assert_eq!(refused(&InsertCase { num_pages: 2, ..case.clone() }, &layout), "kv_cache");
        let overlapping = CacheLayout { page_stride: layout.page_stride - 8, ..layout };
        assert_eq!(refused(&case, &overlapping), "kv_cache strides");
        if backend.is_gpu() {
            let unaligned = CacheLayout { offset: layout.offset + 4, ..layout };
            assert_eq!(refused(&case, &unaligned), "kv_cache");
            let unaligned = CacheLayout { page_stride: layout.page_stride + 4, ..layout };
            assert_eq!(refused(&case, &unaligned), "kv_cache strides");
            assert_eq!(names(run(&backend, &case, &layout, Views::Unaligned)), "latent");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_insertions(
        format in prop::sample::select(FORMATS.to_vec()),
        page_size in prop::sample::select(PAGE_SIZES.to_vec()),
        (num_pages, tokens, one_skipped_in) in (1_usize..=5, 0_usize..=30, 1_usize..=9),
        seed in any::<u64>(),
    ) {
        check_everywhere(&Spec { format, num_pages, page_size, tokens, one_skipped_in, seed });
    }
}
