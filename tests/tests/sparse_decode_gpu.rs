//! What holds for sparse decode on a GPU only, real or emulated: its memory cannot be looked at before a run.

use half::bf16;
use oximla::case_file::{Expected, SparseDecodeCase};
use oximla::{Error, InvalidProblem, SparseDecodePlan};
use oximla_conformance::backend::Backend;
use oximla_conformance::sparse_decode::{
    HEAD_DIM_V, Invalid, ScopeSpec, Settings, Spec, answer, run, run_with,
};
use oximla_conformance::strided::Views;
use oximla_conformance::tolerance::{Answer, SPARSE_DECODE};
use oximla_reference::Fp8Format;

const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];

/// Keys in a block, of which a query with several may be divided.
const BLOCK: usize = 64;

/// Two requests of two query tokens, each with enough keys that it is divided.
fn spec(format: Fp8Format) -> Spec {
    let scope = ScopeSpec { topk: 10 * BLOCK, num_pages: 12, ..ScopeSpec::default() };
    Spec { format, s_q: 2, scope, ..Spec::default() }
}

/// The same with a second cache.
fn spec_with_extra(format: Fp8Format) -> Spec {
    Spec { extra: Some(ScopeSpec { page_size: 2, num_pages: 99, ..ScopeSpec::default() }), ..spec(format) }
}

/// One query token of two tiles of heads.
fn shared_keys(format: Fp8Format, page_size: usize) -> Spec {
    let scope = ScopeSpec { page_size, ..spec(format).scope };
    Spec { batch: 1, s_q: 1, h_q: 128, scope, ..spec(format) }
}

/// GPUs so small that query tokens are whole, with few heads, so that the kernel for these is taken.
fn few_heads(format: Fp8Format) -> (Backend, Spec) {
    let (gpu, spec) = (Backend::emulated_of_size(2, 0), Spec { h_q: 16, ..spec(format) });
    let plan = SparseDecodePlan::builder(&spec.case().problem).build(&gpu.device).unwrap();
    assert!(plan.kernel().contains("few_heads"), "{}", plan.kernel());
    (gpu, spec)
}

fn assert_names(result: Result<impl Sized, Error>, name: &str) {
    match result.map(drop) {
        Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => assert_eq!(argument, name),
        other => panic!("{other:?} does not name {name}"),
    }
}

/// NaN must stand where it is expected and nowhere else; the rest is compared as always.
fn check(gpu: &Backend, case: &SparseDecodeCase, settings: Settings) {
    let mut actual = run_with(gpu, case, settings).expect("contents that the GPU cannot look at");
    let mut expected = answer(case);
    for (name, actual, expected) in
        [("out", &mut actual.out, &mut expected.out), ("lse", &mut actual.lse, &mut expected.lse)]
    {
        for (at, (actual, expected)) in actual.iter_mut().zip(expected).enumerate() {
            assert_eq!(actual.is_nan(), expected.is_nan(), "{} {name}: element {at}", gpu.name());
            if expected.is_nan() {
                (*actual, *expected) = (0.0, 0.0);
            }
        }
    }
    SPARSE_DECODE.check(&actual, &expected).unwrap_or_else(|why| panic!("{}: {why}", gpu.name()));
}

/// Which `[batch, s_q, h_q]` rows of an answer are NaN: all of a row must be, or nothing.
fn nan_rows(case: &SparseDecodeCase, actual: &Expected) -> Vec<usize> {
    let p = &case.problem;
    let rows = 0..p.batch * p.s_q * p.h_q;
    rows.filter(|row| {
        let (request, query, head) = (row / (p.s_q * p.h_q), row / p.h_q % p.s_q, row % p.h_q);
        let is_nan = actual.lse[(request * p.h_q + head) * p.s_q + query].is_nan();
        let out = &actual.out[row * HEAD_DIM_V..][..HEAD_DIM_V];
        assert!(out.iter().all(|x| x.is_nan() == is_nan), "row {row}");
        is_nan
    })
    .collect()
}

#[test]
fn unaligned_rows_are_refused() {
    for gpu in Backend::gpus() {
        assert_names(run(&gpu, &spec(Fp8Format::V32).case(), Views::Unaligned), "q");
    }
}

#[test]
fn unaligned_pages_are_refused() {
    for gpu in Backend::gpus() {
        for format in FORMATS {
            let case = spec(format).case();
            for bytes in [1, 2, 4, 12] {
                let offset = Settings { page_offset: bytes, ..Settings::default() };
                assert_names(run_with(&gpu, &case, offset), "scope.kv_cache");
                let gap = Settings { page_gap: bytes, ..Settings::default() };
                assert_names(run_with(&gpu, &case, gap), "scope.kv_cache page stride");
            }
        }
    }
}

/// Both caches lie alike: with gaps that leave the pages of the first, of one page, where they are, the second is at fault.
#[test]
fn unaligned_pages_of_the_second_cache_are_named() {
    for gpu in Backend::gpus() {
        let one_page = ScopeSpec { num_pages: 1, ..ScopeSpec::default() };
        let case = Spec { scope: one_page, ..spec_with_extra(Fp8Format::V32) }.case();
        let gap = Settings { page_gap: 4, ..Settings::default() };
        assert_names(run_with(&gpu, &case, gap), "extra.kv_cache page stride");
    }
}

/// Pages that begin at multiples of 8 bytes but not of 16 have their tokens read in other pieces.
#[test]
fn pages_at_odd_multiples_of_8_bytes() {
    for gpu in Backend::gpus() {
        for format in FORMATS {
            // 53 tokens of MODEL1 are an odd multiple of 8 bytes by themselves, 64 an even one.
            for page_size in [53, 64] {
                let spec = spec_with_extra(format);
                let case = Spec { scope: ScopeSpec { page_size, ..spec.scope }, batch: 1, ..spec }.case();
                for (page_offset, page_gap) in [(8, 0), (0, 8), (16, 24)] {
                    check(&gpu, &case, Settings { page_offset, page_gap, ..Settings::default() });
                }
                // As many heads as two CTAs would have that share the keys.
                let case = shared_keys(format, page_size).case();
                check(&gpu, &case, Settings { page_offset: 8, ..Settings::default() });
            }
        }
    }
    // With few heads another kernel takes such pages, which may split query tokens, with lengths in memory and without.
    for format in FORMATS {
        let (gpu, few) = few_heads(format);
        for topk_length in [None, Some(vec![10 * BLOCK, 70])] {
            let scope = ScopeSpec { topk_length, ..few.scope.clone() };
            let case = Spec { scope, ..few.clone() }.case();
            check(&gpu, &case, Settings { page_offset: 8, ..Settings::default() });
        }
    }
}

#[test]
fn a_small_workspace_is_refused() {
    for gpu in Backend::gpus() {
        let case = spec(Fp8Format::V32).case();
        for workspace_bytes in [|_| 16, |needed| needed - 4] {
            let settings = Settings { workspace_bytes, ..Settings::default() };
            assert_names(run_with(&gpu, &case, settings), "workspace");
        }
    }
}

/// The CPU refuses such lengths; a GPU takes 0 or the whole list instead.
#[test]
fn lengths_are_clamped_to_the_lists() {
    for gpu in Backend::gpus() {
        for format in FORMATS {
            let spec = spec_with_extra(format);
            let mut case = Spec { batch: 5, s_q: 1, ..spec }.case();
            let extra = case.extra.as_mut().expect("two caches");
            let topk = i32::try_from(case.scope.shape.topk).expect("a short list");
            case.scope.topk_length = Some(vec![i32::MAX, -1, topk + 1, i32::MIN, 3]);
            extra.topk_length = Some(vec![-1, i32::MAX, 1 << 30, i32::MIN, i32::MAX]);
            check(&gpu, &case, Settings::default());
        }
    }
}

/// Lists of every value that names no token: at the ends of blocks, filling a block, and filling a list.
#[test]
fn indices_outside_the_cache_name_no_key() {
    for gpu in Backend::gpus() {
        for format in FORMATS {
            let mut case = Spec {
                scope: ScopeSpec { invalid: Invalid::Never, ..spec(format).scope },
                ..spec_with_extra(format)
            }
            .case();
            let shape = &case.scope.shape;
            let (topk, tokens) = (shape.topk, (shape.num_pages * shape.page_size) as i32);
            // Some have bytes of valid indices in them, some come back into the cache when multiplied by a token's bytes.
            let outside =
                [tokens, i32::MIN, -1, i32::MAX, tokens + 1, -tokens, 1 << 30, i32::MIN + 1, 1 << 16];
            let at = [0, BLOCK - 1, BLOCK, 2 * BLOCK - 1, topk - 1].into_iter().chain(4 * BLOCK..5 * BLOCK);
            for (entry, index) in at.zip(outside.into_iter().cycle()) {
                case.scope.indices[entry] = index;
            }
            let last_list = case.scope.indices.chunks_mut(topk).next_back().expect("a list");
            for (entry, index) in last_list.iter_mut().zip(outside.into_iter().cycle()) {
                *entry = index;
            }
            check(&gpu, &case, Settings::default());
        }
    }
}

/// Divided or not, a NaN shows in all that its query row gives, and nowhere else.
#[test]
fn nan_in_a_query_spreads() {
    for gpu in Backend::gpus() {
        for format in FORMATS {
            let lengths = Some(vec![10 * BLOCK, 3]);
            let scope = ScopeSpec { topk_length: lengths, ..spec(format).scope };
            let mut case = Spec { h_q: 66, scope, ..spec(format) }.case();
            let h_q = case.problem.h_q;
            // In the first and the last tile of heads; of values and of positions alone.
            let rows = [0, h_q - 1, 2 * h_q + 5, 4 * h_q - 2];
            for (row, element) in rows.into_iter().zip([7, format.head_dim() - 1, 450, 0]) {
                case.q[row * format.head_dim() + element] = bf16::NAN;
            }
            let actual = run(&gpu, &case, Views::Contiguous).unwrap();
            assert_eq!(nan_rows(&case, &actual), rows, "{}: {format:?}", gpu.name());
        }
    }
    for format in FORMATS {
        let (gpu, few) = few_heads(format);
        let mut case = few.case();
        // Of each query token; of values and of positions alone.
        let rows = [0, 15, 16 + 7, 2 * 16 + 8, 4 * 16 - 1];
        for (row, element) in rows.into_iter().zip([7, format.head_dim() - 1, 450, 0, 300]) {
            case.q[row * format.head_dim() + element] = bf16::NAN;
        }
        let actual = run(&gpu, &case, Views::Contiguous).unwrap();
        assert_eq!(nan_rows(&case, &actual), rows, "{format:?}");
    }
}

/// A block with a scale of 2⁸ or more is converted in a way of its own. Codes are as small as can be then, so that the keys are not.
#[test]
fn large_scales() {
    for format in FORMATS {
        let many = Backend::gpus().into_iter().map(|gpu| (gpu, spec(format)));
        let shared = Backend::gpus().into_iter().map(|gpu| (gpu, shared_keys(format, 64)));
        for (gpu, spec) in many.chain(shared).chain([few_heads(format)]) {
            let scope = ScopeSpec { invalid: Invalid::Never, ..spec.scope.clone() };
            let mut case = Spec { scope, ..spec }.case();
            let page_size = case.scope.shape.page_size;
            // Keys of one query token's first, second and last block, and a scale of each.
            for (key, tile) in [(9, 0), (BLOCK, 1), (10 * BLOCK - 1, 3)] {
                let slot = case.scope.indices[key] as usize;
                let page = slot / page_size * format.page_bytes(page_size);
                let offset = slot % page_size;
                let (token, codes, scale, large) = match format {
                    Fp8Format::V32 => {
                        (offset * 656, 128 * tile, offset * 656 + 512 + 4 * tile, 256_f32.to_le_bytes())
                    }
                    Fp8Format::Model1 => {
                        (offset * 576, 64 * tile, page_size * 576 + offset * 8 + tile, [127 + 8, 0, 0, 0])
                    }
                };
                let (columns, scale_bytes) = if format == Fp8Format::V32 { (128, 4) } else { (64, 1) };
                case.scope.kv_cache[page + token + codes..][..columns].fill(1);
                case.scope.kv_cache[page + scale..][..scale_bytes].copy_from_slice(&large[..scale_bytes]);
            }
            check(&gpu, &case, Settings::default());
        }
    }
}

/// A byte of all ones is NaN in every part of a token: in codes, in scales of both formats and, doubled, in positions.
#[test]
fn nan_in_a_selected_token_spreads_to_its_queries() {
    for gpu in Backend::gpus() {
        for format in FORMATS {
            nan_in_a_selected_token_spreads(&gpu, &spec(format), 9);
            // With 128 heads two CTAs may share the keys: of 16, the first eight are one's, the others the other one's.
            let scope = ScopeSpec { topk: 2 * BLOCK, ..spec(format).scope };
            let shared = Spec { h_q: 128, scope, ..spec(format) };
            nan_in_a_selected_token_spreads(&gpu, &shared, 3);
            nan_in_a_selected_token_spreads(&gpu, &shared, 9);
        }
    }
    for format in FORMATS {
        // Of the second and of the first warpgroup that attends: in the middle of a list of ten blocks, and of twelve.
        let (gpu, few) = few_heads(format);
        nan_in_a_selected_token_spreads(&gpu, &few, 9);
        let scope = ScopeSpec { topk: 12 * BLOCK, ..few.scope.clone() };
        nan_in_a_selected_token_spreads(&gpu, &Spec { scope, ..few }, 3);
    }
}

/// The token is key number `key` of a block of the third query token.
fn nan_in_a_selected_token_spreads(gpu: &Backend, spec: &Spec, key: usize) {
    let scope = ScopeSpec { invalid: Invalid::Never, ..spec.scope.clone() };
    let sound = Spec { scope, ..spec.clone() }.case();
    // After this, one index of the third query token's list names the token, and no other index does.
    let (topk, page_size) = (sound.scope.shape.topk, sound.scope.shape.page_size);
    let [slot, other] = [sound.scope.indices[0], sound.scope.indices[1]];
    let format = spec.format;
    for (number, part) in parts(format, page_size, slot as usize % page_size).into_iter().enumerate() {
        let mut case = sound.clone();
        for index in &mut case.scope.indices {
            *index = if *index == slot { other } else { *index };
        }
        let block = 2 * topk + topk / BLOCK / 2 * BLOCK;
        case.scope.indices[block + key] = slot;
        let page = slot as usize / page_size * format.page_bytes(page_size);
        case.scope.kv_cache[page..][part.clone()].fill(0xff);
        // Among other keys, and, with its first code, as the only one of the 16 that a warp looks up.
        let ways: &[bool] = if number == 0 { &[false, true] } else { &[false] };
        for &is_alone in ways {
            if is_alone {
                let first = block + key / 16 * 16;
                case.scope.indices[first..first + 16].fill(-1);
                case.scope.indices[block + key] = slot;
            }
            let Answer { lse, .. } = answer(&case);
            assert_eq!(lse.iter().filter(|x| x.is_nan()).count(), case.problem.h_q, "{part:?}");
            check(gpu, &case, Settings::default());
        }
    }
}

/// Bytes in a page to make NaN: of the token at `offset`, the first and the last code, a scale, a position.
fn parts(format: Fp8Format, page_size: usize, offset: usize) -> Vec<std::ops::Range<usize>> {
    let (start, of_token) = match format {
        // 512 codes, 4 scales of 4 bytes, 64 positions of 2 bytes.
        Fp8Format::V32 => (offset * 656, [0..1, 511..512, 516..520, 654..656]),
        // 448 codes and 64 positions of 2 bytes; 8 bytes of scales, 7 in use, behind all tokens of the page.
        Fp8Format::Model1 => {
            let scale = page_size * 576 + offset * 8 - offset * 576 + 6;
            (offset * 576, [0..1, 447..448, scale..scale + 1, 574..576])
        }
    };
    of_token.map(|part| start + part.start..start + part.end).to_vec()
}
