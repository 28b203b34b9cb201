//! Dequantising tokens of FP8 caches: bit for bit what the oracle reads, on every backend.

use half::bf16;
use oximla::{Error, InvalidProblem, KvFormat, KvGather};
use oximla_conformance::backend::Backend;
use oximla_conformance::kv_gather::{answer, compare, run};
use oximla_conformance::noise::Noise;
use oximla_conformance::paged_cache::{CacheLayout, FORMATS, PAGE_SIZES, backends_and_views};
use oximla_conformance::sparse_decode::Invalid;
use oximla_conformance::strided::{Trap, Views};
use oximla_reference::Fp8Format;
use proptest::prelude::*;

/// Half the tokens of a cache random, the others NaN; slots that name the former, or nothing.
struct Spec {
    format: Fp8Format,
    num_pages: usize,
    page_size: usize,
    slots: usize,
    invalid: Invalid,
    seed: u64,
}

fn spec(format: Fp8Format) -> Spec {
    Spec { format, num_pages: 3, page_size: 64, slots: 21, invalid: Invalid::Extreme, seed: 0 }
}

fn check(backend: &Backend, layout: &CacheLayout, buffer: &[u8], slots: &[i32], views: Views) {
    let found =
        run(backend, layout, buffer, slots, views).unwrap_or_else(|why| panic!("{}: {why}", backend.name()));
    let expected = answer(layout, buffer, slots);
    if let Err(why) = compare(&found, &expected, layout.format.head_dim()) {
        panic!("{} {layout:?}: {why}", backend.name());
    }
}

fn check_everywhere(spec: &Spec) {
    let mut noise = Noise::new(spec.seed);
    let count = spec.num_pages * spec.page_size;
    let order = noise.permutation(count);
    let (named, _) = order.split_at(count.div_ceil(2));
    let head_dim = spec.format.head_dim();
    let tokens: Vec<Vec<bf16>> = named.iter().map(|_| noise.bf16(3.0, head_dim)).collect();
    let slots: Vec<i32> = (0..spec.slots).map(|_| spec.invalid.or(&mut noise, named, count)).collect();
    for (backend, all_views) in backends_and_views() {
        for views in all_views {
            let layout = CacheLayout::new(spec.format, spec.num_pages, spec.page_size, views);
            // Traps are NaN as codes, as scales and as bf16.
            let mut buffer = layout.buffer();
            for (slot, token) in named.iter().zip(&tokens) {
                let page = layout.page(&mut buffer, slot / spec.page_size);
                spec.format.write_token(page, spec.page_size, slot % spec.page_size, token);
            }
            check(&backend, &layout, &buffer, &slots, views);
        }
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
        for slots in [0, 1, 3, 4, 5, 15, 16, 17] {
            check_everywhere(&Spec { slots, invalid: Invalid::Never, ..spec(format) });
        }
    }
}

#[test]
fn no_slot_names_a_token() {
    for format in FORMATS {
        check_everywhere(&Spec { invalid: Invalid::Always, ..spec(format) });
    }
}

/// Caches of random bytes: all codes with scales of all magnitudes, NaN, infinite and negative ones too.
#[test]
fn any_bytes() {
    for format in FORMATS {
        for (backend, all_views) in backends_and_views() {
            for (seed, views) in (0..).zip(all_views) {
                let layout = CacheLayout::new(format, 2, 53, views);
                let mut noise = Noise::new(seed);
                let buffer: Vec<u8> = layout.buffer().iter().map(|_| noise.below(256) as u8).collect();
                let slots: Vec<i32> = (0..layout.tokens() as i32).collect();
                check(&backend, &layout, &buffer, &slots, views);
            }
        }
    }
}

/// Every code with every scale that a byte can say, or some f32, which bf16 rounds.
#[test]
fn every_code_and_scale() {
    let third = (0..256).map(|n| (n as f32 - 128.0) / 3.0).map(f32::to_le_bytes);
    let bytes: Vec<[u8; 4]> = (0..=u8::MAX).map(|n| [n; 4]).chain(third).collect();
    for format in FORMATS {
        let layout = CacheLayout::new(format, 1, bytes.len() * 4, Views::Contiguous);
        let mut buffer = layout.buffer();
        buffer.fill(0);
        let token: Vec<bf16> = vec![bf16::ONE; format.head_dim()];
        let page = layout.page(&mut buffer, 0);
        for slot in 0..layout.page_size {
            format.write_token(page, layout.page_size, slot, &token);
            let (codes, scales) = match format {
                Fp8Format::V32 => (slot * 656, slot * 656 + 512..slot * 656 + 528),
                Fp8Format::Model1 => {
                    (slot * 576, layout.page_size * 576 + slot * 8..layout.page_size * 576 + slot * 8 + 8)
                }
            };
            page[codes..codes + 448]
                .iter_mut()
                .enumerate()
                .for_each(|(n, code)| *code = (n + slot % 4 * 64) as u8);
            page[scales].chunks_mut(4).for_each(|scale| scale.copy_from_slice(&bytes[slot / 4]));
        }
        let slots: Vec<i32> = (0..layout.tokens() as i32).collect();
        for backend in Backend::all() {
            // The emulator takes a few of them.
            let step = if backend.is_emulated() { 37 } else { 1 };
            let slots: Vec<i32> = slots.iter().copied().step_by(step).collect();
            check(&backend, &layout, &buffer, &slots, Views::Contiguous);
        }
    }
}

#[test]
fn formats_without_fp8_are_refused() {
    for format in [KvFormat::Bf16, KvFormat::Fp16] {
        let problem = KvGather { format, num_pages: 1, page_size: 64, tokens: 1 };
        assert_eq!(problem.validate().unwrap_err().argument, "format");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let names = |result: Result<Vec<bf16>, Error>| match result {
        Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => argument,
        other => panic!("{other:?}"),
    };
    for (backend, format) in
        Backend::all().into_iter().flat_map(|backend| FORMATS.map(|format| (backend.clone(), format)))
    {
        let layout = CacheLayout::new(format, 3, 64, Views::Contiguous);
        let buffer = layout.buffer();
        let refused =
            |layout: &CacheLayout| names(run(&backend, layout, &buffer, &[1, i32::TRAP], Views::Contiguous));
        assert_eq!(refused(&CacheLayout { num_pages: 0, ..layout }), "num_pages");
        assert_eq!(refused(&CacheLayout { page_size: 0, ..layout }), "page_size");
        assert_eq!(
            refused(&CacheLayout { num_pages: 1 << 16, page_size: 1 << 15, ..layout }),
            "num_pages · page_size"
        );
        assert_eq!(
            refused(&CacheLayout { page_stride: layout.page_stride - 8, ..layout }),
            "kv_cache strides"
        );
        if backend.is_gpu() {
            assert_eq!(refused(&CacheLayout { offset: layout.offset + 4, ..layout }), "kv_cache");
            let unaligned = CacheLayout { num_pages: 2, page_stride: layout.page_stride + 4, ..layout };
            assert_eq!(refused(&unaligned), "kv_cache strides");
            assert_eq!(names(run(&backend, &layout, &buffer, &[1], Views::Unaligned)), "out");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_gatherings(
        format in prop::sample::select(FORMATS.to_vec()),
        page_size in prop::sample::select(PAGE_SIZES.to_vec()),
        (num_pages, slots) in (1_usize..=5, 0_usize..=40),
        seed in any::<u64>(),
    ) {
        check_everywhere(&Spec { format, num_pages, page_size, slots, invalid: Invalid::Extreme, seed });
    }
}
