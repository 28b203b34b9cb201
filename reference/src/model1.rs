//! The FP8 cache of DeepSeek V4 ("MODEL1"): 584 bytes a token, in two planes a page.
//!
//! | bytes of a page | content |
//! |---|---|
//! | `576 t .. 576 t + 448` | 448 e4m3 codes of token `t` |
//! | `576 t + 448 .. 576 t + 576` | 64 little-endian bf16: its rotary part |
//! | `576 page_size + 8 t ..` | 7 ue8m0 scales, one per 64 codes of token `t`, and a byte of padding |
//!
//! The value of a key is all of it, the rotary part too. Pages lie [`page_stride`] bytes apart, unless the
//! owner of the cache says otherwise.

use half::bf16;

use crate::fp8::{bf16_bytes, bf16_values, dequantise, quantise_tile, ue8m0_decode, ue8m0_encode};

/// Elements of a key.
pub const HEAD_DIM: usize = NOPE_DIM + ROPE_DIM;
/// Bytes of a token, both planes together.
pub const TOKEN_BYTES: usize = DATA_BYTES + SCALE_BYTES;

const NOPE_DIM: usize = 448;
const ROPE_DIM: usize = 64;
const TILE: usize = 64;
const TILES: usize = NOPE_DIM / TILE;
const DATA_BYTES: usize = NOPE_DIM + 2 * ROPE_DIM;
const SCALE_BYTES: usize = TILES + 1;
const PADDING: u8 = 0;

/// Bytes from one page to the next: those of a page, rounded up to a multiple of 576.
pub fn page_stride(page_size: usize) -> usize {
    (page_size * TOKEN_BYTES).next_multiple_of(DATA_BYTES)
}

/// The bytes of a page of tokens, `[page_size, HEAD_DIM]`, without padding after it.
pub fn quantise_page(tokens: &[bf16]) -> Vec<u8> {
    assert_eq!(tokens.len() % HEAD_DIM, 0, "elements of a page");
    let (mut data, mut scale_plane) = (Vec::new(), Vec::new());
    for token in tokens.chunks(HEAD_DIM) {
        let (nope, rope) = token.split_at(NOPE_DIM);
        for tile in nope.chunks(TILE) {
            let (scale, codes) = quantise_tile(tile);
            data.extend(codes);
            scale_plane.push(ue8m0_encode(scale));
        }
        scale_plane.push(PADDING);
        data.extend(bf16_bytes(rope));
    }
    [data, scale_plane].concat()
}

/// Writes a token of [`HEAD_DIM`] elements at `offset` in a page of `page_size` tokens.
pub fn write_token(page: &mut [u8], page_size: usize, offset: usize, token: &[bf16]) {
    assert_eq!(token.len(), HEAD_DIM, "elements of a token");
    let alone = quantise_page(token);
    let (data, scales) = alone.split_at(DATA_BYTES);
    let (data_plane, scale_plane) = page.split_at_mut(page_size * DATA_BYTES);
    data_plane[offset * DATA_BYTES..][..DATA_BYTES].copy_from_slice(data);
    scale_plane[offset * SCALE_BYTES..][..SCALE_BYTES].copy_from_slice(scales);
}

/// The [`HEAD_DIM`] elements of the token at `offset` in a page of `page_size` tokens, each a bf16 value.
pub fn dequantise_token(page: &[u8], page_size: usize, offset: usize) -> Vec<f64> {
    assert_eq!(page.len(), page_size * TOKEN_BYTES, "bytes of a page");
    assert!(offset < page_size, "offset {offset} in a page of {page_size}");
    let (data_plane, scale_plane) = page.split_at(page_size * DATA_BYTES);
    let (codes, rope) = data_plane[offset * DATA_BYTES..][..DATA_BYTES].split_at(NOPE_DIM);
    let scales = &scale_plane[offset * SCALE_BYTES..][..TILES];

    let mut token = Vec::with_capacity(HEAD_DIM);
    for (tile, &scale) in codes.chunks(TILE).zip(scales) {
        token.extend(tile.iter().map(|&code| dequantise(code, ue8m0_decode(scale))));
    }
    token.extend(bf16_values(rope));
    token
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn page_strides() {
        let strides = [(2, 1728), (64, 37_440), (72, 42_048), (256, 149_760)];
        for (page_size, stride) in strides {
            assert_eq!(page_stride(page_size), stride, "page of {page_size}");
        }
    }

    #[test]
    fn layout_when_reading() {
        // Token 1 of 2; everything that is not its own is NaN.
        let mut page = vec![0xff; 1168];
        page[576..1152].fill(0);
        page[1160..1167].fill(127); // scale 1
        page[576] = 0x38; // 1
        page[576 + 63] = 0x40; // 2
        page[576 + 64] = 0xb8; // -1, scale 1/2
        page[1161] = 126;
        page[576 + 447] = 0x7e; // 448, scale 2
        page[1166] = 128;
        page[1024..1026].copy_from_slice(&[0x80, 0x3f]); // bf16 1
        page[1150..1152].copy_from_slice(&[0x00, 0xc0]); // bf16 -2

        let mut expected = vec![0.0; 512];
        for (at, value) in [(0, 1.0), (63, 2.0), (64, -0.5), (447, 896.0), (448, 1.0), (511, -2.0)] {
            expected[at] = value;
        }
        assert_eq!(dequantise_token(&page, 2, 1), expected);
    }

    #[test]
    fn layout_when_writing() {
        let mut tokens = vec![bf16::ZERO; 2 * 512];
        tokens[512 + 66] = bf16::from_f32(448.0);
        tokens[512 + 67] = bf16::from_f32(-1.0);
        tokens[512 + 447] = bf16::from_f32(900.0); // scale 4: 225 lies nearest to 224
        tokens[512 + 448] = bf16::from_f32(1.0);

        let mut expected = vec![0u8; 1168];
        expected[576 + 66] = 0x7e;
        expected[576 + 67] = 0xb8;
        expected[576 + 447] = 0x76;
        expected[1024..1026].copy_from_slice(&[0x80, 0x3f]);
        expected[1152..1159].fill(127 - 13);
        expected[1160..1167].fill(127 - 13);
        expected[1161] = 127;
        expected[1166] = 129;
        assert_eq!(quantise_page(&tokens), expected);

        let mut page = vec![0xff; 1168];
        for (offset, token) in tokens.chunks(512).enumerate() {
            write_token(&mut page, 2, offset, token);
        }
        assert_eq!(page, expected);
    }

    proptest! {
        #[test]
        fn round_trip(values in prop::collection::vec(-8.0f32..8.0, 3 * 512), padding: u8) {
            let tokens: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            let mut page = quantise_page(&tokens);
            for offset in 0..3 {
                page[3 * 576 + offset * 8 + 7] = padding;
            }
            for (offset, token) in tokens.chunks(512).enumerate() {
                let back = dequantise_token(&page, 3, offset);
                for (tile, back) in token[..448].chunks(64).zip(back.chunks(64)) {
                    let amax = tile.iter().map(|x| x.to_f64().abs()).fold(0.0, f64::max);
                    for (value, back) in tile.iter().zip(back) {
                        let value = value.to_f64();
                        // The scale is below 2 · amax / 448 and the least step 2^-9 of it.
                        let bound = (value.abs() / 16.0).max(amax / 448.0 / 512.0);
                        prop_assert!((back - value).abs() <= bound, "{} for {}", back, value);
                    }
                }
                let rope: Vec<f64> = token[448..].iter().map(|x| x.to_f64()).collect();
                prop_assert_eq!(&back[448..], rope);
            }
        }
    }
}
