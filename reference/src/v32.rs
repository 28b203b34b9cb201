//! The FP8 cache of DeepSeek V3.2: 656 bytes a token, tokens one after another in a page.
//!
//! | bytes of a token | content |
//! |---|---|
//! | 0..512 | 512 e4m3 codes: the latent part, which is also the value |
//! | 512..528 | 4 little-endian f32 scales, one per 128 of them |
//! | 528..656 | 64 little-endian bf16: the rotary part |

use half::bf16;

use crate::fp8::{bf16_bytes, bf16_values, dequantise, quantise_tile};

/// Elements of a key.
pub const HEAD_DIM: usize = LATENT_DIM + ROPE_DIM;
/// Bytes of a token.
pub const TOKEN_BYTES: usize = ROPE_AT + 2 * ROPE_DIM;

const LATENT_DIM: usize = 512;
const ROPE_DIM: usize = 64;
const TILE: usize = 128;
const SCALES_AT: usize = LATENT_DIM;
const ROPE_AT: usize = SCALES_AT + 4 * (LATENT_DIM / TILE);

/// The bytes of one token of [`HEAD_DIM`] elements; scales are powers of two.
pub fn quantise_token(token: &[bf16]) -> Vec<u8> {
    assert_eq!(token.len(), HEAD_DIM, "elements of a token");
    let (latent, rope) = token.split_at(LATENT_DIM);
    let (scales, codes): (Vec<f32>, Vec<Vec<u8>>) = latent.chunks(TILE).map(quantise_tile).unzip();

    let mut bytes = codes.concat();
    bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
    bytes.extend(bf16_bytes(rope));
    bytes
}

/// The bytes of a page of tokens, `[page_size, HEAD_DIM]`, without padding.
pub fn quantise_page(tokens: &[bf16]) -> Vec<u8> {
    tokens.chunks(HEAD_DIM).flat_map(quantise_token).collect()
}

/// The [`HEAD_DIM`] elements of one token's bytes, each a bf16 value. Scales need not be powers of two.
pub fn dequantise_token(bytes: &[u8]) -> Vec<f64> {
    assert_eq!(bytes.len(), TOKEN_BYTES, "bytes of a token");
    let scales =
        bytes[SCALES_AT..ROPE_AT].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));

    let mut token = Vec::with_capacity(HEAD_DIM);
    for (tile, scale) in bytes[..LATENT_DIM].chunks(TILE).zip(scales) {
        token.extend(tile.iter().map(|&code| dequantise(code, scale)));
    }
    token.extend(bf16_values(&bytes[ROPE_AT..]));
    token
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_when_reading() {
        let mut bytes = vec![0u8; 656];
        bytes[0] = 0x38; // 1
        bytes[127] = 0x40; // 2
        bytes[128] = 0xb8; // -1
        bytes[511] = 0x7e; // 448
        for (at, scale) in [(512, 1.0f32), (516, 0.5), (520, 1.0), (524, 0.25)] {
            bytes[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        }
        bytes[528..530].copy_from_slice(&[0x80, 0x3f]); // bf16 1
        bytes[654..656].copy_from_slice(&[0x00, 0xc0]); // bf16 -2

        let mut expected = vec![0.0; 576];
        for (at, value) in [(0, 1.0), (127, 2.0), (128, -0.5), (511, 112.0), (512, 1.0), (575, -2.0)] {
            expected[at] = value;
        }
        assert_eq!(dequantise_token(&bytes), expected);
    }

    #[test]
    fn layout_when_writing() {
        let mut token = vec![bf16::ZERO; 576];
        token[130] = bf16::from_f32(448.0);
        token[131] = bf16::from_f32(-1.0);
        token[511] = bf16::from_f32(900.0); // scale 4: 225 lies nearest to 224
        token[512] = bf16::from_f32(1.0);

        let mut expected = vec![0u8; 656];
        expected[130] = 0x7e;
        expected[131] = 0xb8;
        expected[511] = 0x76;
        for (at, scale) in [(512, 2f32.powi(-13)), (516, 1.0), (520, 2f32.powi(-13)), (524, 4.0)] {
            expected[at..at + 4].copy_from_slice(&scale.to_le_bytes());
        }
        expected[528..530].copy_from_slice(&[0x80, 0x3f]);
        assert_eq!(quantise_token(&token), expected);
        assert_eq!(quantise_page(&[token.clone(), token].concat()), expected.repeat(2));
    }

    #[test]
    fn scales_that_are_no_powers_of_two_are_rounded_to_bf16() {
        let mut bytes = vec![0x3e; 512]; // 1.75
        bytes.extend((1.0f32 / 3.0).to_le_bytes().repeat(4));
        bytes.extend([0; 128]);
        assert_eq!(dequantise_token(&bytes)[..512], [150.0 / 256.0; 512]);
    }

    proptest! {
        #[test]
        fn round_trip(values in prop::collection::vec(-8.0f32..8.0, 576)) {
            let token: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            let back = dequantise_token(&quantise_token(&token));
            for (tile, back) in token[..512].chunks(128).zip(back.chunks(128)) {
                let amax = tile.iter().map(|x| x.to_f64().abs()).fold(0.0, f64::max);
                for (value, back) in tile.iter().zip(back) {
                    let value = value.to_f64();
                    // The scale is below 2 · amax / 448 and the least step 2^-9 of it.
                    let bound = (value.abs() / 16.0).max(amax / 448.0 / 512.0);
                    prop_assert!((back - value).abs() <= bound, "{} for {}", back, value);
                }
            }
            let rope: Vec<f64> = token[512..].iter().map(|x| x.to_f64()).collect();
            prop_assert_eq!(&back[512..], rope);
        }
    }
}
