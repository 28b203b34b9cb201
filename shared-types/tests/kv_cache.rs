//! The cache formats: facts by hand, and that tokens share no byte.

use oximla_types::kv_cache::{KvFormat, UnknownKvFormat};
use proptest::prelude::*;

const FP8: [KvFormat; 2] = [KvFormat::V32Fp8, KvFormat::Model1Fp8];

#[test]
fn names_and_numbers_come_back() {
    let names = ["bf16", "fp16", "v32_fp8", "model1_fp8"];
    for (number, (format, name)) in (0_u32..).zip(KvFormat::ALL.into_iter().zip(names)) {
        assert_eq!(format.name(), name);
        assert_eq!(format.to_string(), name);
        assert_eq!(KvFormat::from_name(name), Some(format));
        assert_eq!(u32::from(format), number);
        assert_eq!(KvFormat::try_from(number), Ok(format));
    }
    assert_eq!(KvFormat::from_name("V32_FP8"), None);
    assert_eq!(KvFormat::from_name(""), None);
    assert_eq!(KvFormat::try_from(4), Err(UnknownKvFormat(4)));
}

#[test]
fn dimensions() {
    let facts = KvFormat::ALL.map(|format| {
        let dims = [format.head_dim(), format.head_dim_v(), format.nope_dim(), format.rope_dim()];
        (dims, format.bytes_per_token(), format.quant_tile(), format.scale_count(), format.scale_bytes())
    });
    assert_eq!(
        facts,
        [
            ([576, 512, 512, 64], 1152, None, 0, 0),
            ([576, 512, 512, 64], 1152, None, 0, 0),
            ([576, 512, 512, 64], 656, Some(128), 4, 4),
            ([512, 512, 448, 64], 584, Some(64), 7, 1),
        ]
    );
    assert_eq!(KvFormat::ALL.map(KvFormat::is_fp8), [false, false, true, true]);
}

#[test]
fn dense_tokens_by_hand() {
    let page = KvFormat::Bf16.page(64);
    assert_eq!(page.token_data(2), 2304..3456);
    assert_eq!(page.nope(2), 2304..3328);
    assert_eq!(page.rope(2), 3328..3456);
    assert!(page.scales(2).is_empty());
    assert_eq!(KvFormat::Fp16.page_bytes(64), 73_728);
    assert_eq!(KvFormat::Fp16.page_stride(64), 73_728);
}

#[test]
fn v32_tokens_by_hand() {
    let page = KvFormat::V32Fp8.page(61);
    assert_eq!(page.nope(0), 0..512);
    assert_eq!(page.scales(0), 512..528);
    assert_eq!(page.rope(0), 528..656);
    assert_eq!(page.token_data(60), 39_360..40_016);
    assert_eq!(page.scales(60), 39_872..39_888);
    assert_eq!(KvFormat::V32Fp8.page_bytes(61), 40_016);
    assert_eq!(KvFormat::V32Fp8.page_stride(61), 40_016);
}

#[test]
fn model1_tokens_by_hand() {
    let page = KvFormat::Model1Fp8.page(64);
    assert_eq!(page.nope(0), 0..448);
    assert_eq!(page.rope(0), 448..576);
    assert_eq!(page.token_data(63), 36_288..36_864);
    assert_eq!(page.scales(0), 36_864..36_871);
    assert_eq!(page.scales(63), 37_368..37_375);
}

#[test]
fn model1_page_strides() {
    let strides = [(1, 584, 1152), (2, 1168, 1728), (53, 30_952, 31_104), (64, 37_376, 37_440)];
    for (page_size, bytes, stride) in
        strides.into_iter().chain([(256, 149_504, 149_760), (576, 336_384, 336_384)])
    {
        assert_eq!(KvFormat::Model1Fp8.page_bytes(page_size), bytes);
        assert_eq!(KvFormat::Model1Fp8.page_stride(page_size), stride);
    }
}

#[test]
fn offsets_of_the_largest_page_do_not_overflow() {
    for format in KvFormat::ALL {
        let page = format.page(u32::MAX);
        let bytes = u64::from(u32::MAX) * u64::from(format.bytes_per_token());
        assert_eq!(format.page_bytes(u32::MAX), bytes);
        assert!(format.page_stride(u32::MAX) >= bytes);
        let ends = [page.token_data(u32::MAX - 1), page.scales(u32::MAX - 1)].map(|field| field.end);
        // The pad byte ends a MODEL1 page.
        let pad = u64::from(format == KvFormat::Model1Fp8);
        assert_eq!(ends.into_iter().max(), Some(bytes - pad));
    }
}

proptest! {
    /// Every byte of a page belongs to one field of one token, but for MODEL1's pad bytes.
    #[test]
    fn every_byte_has_one_owner(format in prop::sample::select(&KvFormat::ALL[..]), page_size in 1_u32..300) {
        let page = format.page(page_size);
        let mut owners = vec![0_u8; format.page_bytes(page_size) as usize];
        for token in 0..page_size {
            for field in [page.nope(token), page.scales(token), page.rope(token)] {
                prop_assert!(field.end <= format.page_bytes(page_size));
                for byte in field {
                    owners[byte as usize] += 1;
                }
            }
        }
        prop_assert!(owners.iter().all(|&count| count <= 1));
        let unowned: Vec<u64> = (0..).zip(&owners).filter(|(_, count)| **count == 0).map(|(byte, _)| byte).collect();
        let pads: Vec<u64> = match format {
            KvFormat::Model1Fp8 => (0..page_size).map(|token| page.scales(token).end).collect(),
            _ => Vec::new(),
        };
        prop_assert_eq!(unowned, pads);
    }

    /// A token's row holds its elements, and fields have the lengths their elements need.
    #[test]
    fn fields_fit_their_elements(format in prop::sample::select(&KvFormat::ALL[..]), page_size in 1_u32..300) {
        let page = format.page(page_size);
        let element_bytes = if format.is_fp8() { 1 } else { 2 };
        for token in 0..page_size {
            let row = page.token_data(token);
            prop_assert_eq!(page.nope(token).start, row.start);
            prop_assert_eq!(page.rope(token).end, row.end);
            prop_assert_eq!(page.nope(token).count() as u32, format.nope_dim() * element_bytes);
            prop_assert_eq!(page.rope(token).count() as u32, format.rope_dim() * 2);
            prop_assert_eq!(page.scales(token).count() as u32, format.scale_count() * format.scale_bytes());
        }
    }

    /// What a reader may assume of a page that starts at a multiple of 64 bytes.
    #[test]
    fn fields_are_aligned(page_size in 1_u32..300) {
        let v32 = KvFormat::V32Fp8.page(page_size);
        let model1 = KvFormat::Model1Fp8.page(page_size);
        for token in 0..page_size {
            for field in [v32.nope(token), v32.scales(token), v32.rope(token)] {
                prop_assert_eq!(field.start % 16, 0);
            }
            for field in [model1.nope(token), model1.rope(token)] {
                prop_assert_eq!(field.start % 64, 0);
            }
            prop_assert_eq!(model1.scales(token).start % 8, 0);
        }
    }

    /// Conventional strides keep every page aligned; a MODEL1 page without padding is aligned to 8 bytes only.
    #[test]
    fn strides(page_size in 1_u32..10_000) {
        for format in KvFormat::ALL {
            prop_assert!(format.page_stride(page_size) >= format.page_bytes(page_size));
        }
        for format in FP8 {
            prop_assert_eq!(format.page_stride(page_size) % 16, 0);
        }
        let padding = KvFormat::Model1Fp8.page_stride(page_size) - KvFormat::Model1Fp8.page_bytes(page_size);
        prop_assert!(padding < 576);
        prop_assert_eq!(KvFormat::Model1Fp8.page_stride(page_size) % 576, 0);
        prop_assert_eq!(KvFormat::Model1Fp8.page_bytes(page_size) % 16, if page_size % 2 == 0 { 0 } else { 8 });
    }
}
