//! Random pages of FP8 caches.

use half::bf16;
use oximla::KvFormat;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;

/// NoPE elements have e4m3 codes below this one: numbers from 0 to 120, and none that is not finite.
const CODES: u8 = 0x70;
/// Binary exponent of all scales: elements are then below 2.
const SCALE_EXPONENT: i32 = -6;
/// The exponent that `ue8m0` writes as 0 (OCP Microscaling Formats 1.0, section 5.4.1).
const UE8M0_BIAS: i32 = 127;
/// Standard deviation of RoPE elements.
const ROPE_SPREAD: f32 = 0.1;

/// `count` pages of `page_size` tokens one behind the other, drawn on all threads; the same ones every time.
///
/// `format` is one with FP8 elements.
pub fn random(format: KvFormat, page_size: usize, count: usize) -> Vec<u8> {
    let page_bytes = page_size * format.bytes_per_token() as usize;
    let rope_elements = Normal::new(0.0, ROPE_SPREAD).expect("a finite standard deviation");
    let layout = format.page(page_size as u32);
    let scale = scale(format);
    let mut pages = vec![0; count * page_bytes];
    pages.par_chunks_mut(page_bytes).enumerate().for_each(|(number, page)| {
        let mut random = StdRng::seed_from_u64(number as u64);
        let field = |range: std::ops::Range<u64>| range.start as usize..range.end as usize;
        for token in 0..page_size as u32 {
            page[field(layout.nope(token))].fill_with(|| random.random_range(0..CODES));
            for element in page[field(layout.rope(token))].chunks_exact_mut(size_of::<bf16>()) {
                element.copy_from_slice(&bf16::from_f32(rope_elements.sample(&mut random)).to_le_bytes());
            }
            for bytes in page[field(layout.scales(token))].chunks_exact_mut(scale.len()) {
                bytes.copy_from_slice(&scale);
            }
        }
    });
    pages
}

/// The scale as the format stores it.
fn scale(format: KvFormat) -> Vec<u8> {
    if format == KvFormat::Model1Fp8 {
        vec![(SCALE_EXPONENT + UE8M0_BIAS) as u8]
    } else {
        2_f32.powi(SCALE_EXPONENT).to_le_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use oximla_reference::{model1, v32};

    use super::*;

    /// Checks a token's elements: of either format the last 64 are RoPE.
    fn check(token: &[f64]) {
        let (nope, rope) = token.split_at(token.len() - 64);
        assert!(nope.iter().all(|element| (0.0..=1.875).contains(element)), "{nope:?}");
        assert!(nope.iter().any(|&element| element > 1.0) && nope.iter().any(|&element| element < 0.1));
        let mean_square = rope.iter().map(|element| element * element).sum::<f64>() / 64.0;
        assert!((0.05..0.15).contains(&mean_square.sqrt()), "{rope:?}");
    }

    #[test]
    fn pages_are_what_the_references_read() {
        let pages = random(KvFormat::V32Fp8, 3, 2);
        assert_eq!(pages.len(), 2 * 3 * 656);
        for token in pages.chunks(656) {
            check(&v32::dequantise_token(token));
        }
        let pages = random(KvFormat::Model1Fp8, 3, 2);
        assert_eq!(pages.len(), 2 * 3 * 584);
        for page in pages.chunks(3 * 584) {
            (0..3).for_each(|token| check(&model1::dequantise_token(page, 3, token)));
        }
    }

    #[test]
    fn pages_differ() {
        let pages = random(KvFormat::V32Fp8, 2, 2);
        assert_ne!(pages[..1312], pages[1312..]);
        assert_eq!(pages, random(KvFormat::V32Fp8, 2, 2));
    }
}
