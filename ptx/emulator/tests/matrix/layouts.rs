//! Which address of shared memory an element of an operand comes from.

use std::collections::HashSet;

use half::bf16;
use proptest::prelude::*;
use ptx_emulator::matrix::tile::Tile;
use ptx_emulator::matrix::wgmma::Multiply;

use crate::wgmma;

const NONE: u64 = 0;
const BYTES_128: u64 = 1;
const BYTES_64: u64 = 2;
const BYTES_32: u64 = 3;

fn descriptor(start: u64, leading: u64, stride: u64, swizzle: u64) -> u64 {
    start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | swizzle << 62
}

fn bf16_multiply(n: usize, trans_a: i64, trans_b: i64) -> Multiply {
    Multiply::decode(&wgmma(n, 16, "f32.bf16.bf16", false, &[1, 1, trans_a, trans_b])).unwrap()
}

fn tf32_multiply(n: usize) -> Multiply {
    Multiply::decode(&wgmma(n, 8, "f32.tf32.tf32", false, &[1, 1])).unwrap()
}

/// Address of every element, row-major, found by reading memory in which every element holds its own number: one digit
/// to base 256 after the other, as all types here hold the numbers to 255.
fn addresses(tile: &Tile, bytes: u32) -> Vec<u32> {
    let digit = |place: u32| {
        let content: Vec<u8> = tile
            .chunks()
            .iter()
            .flat_map(|chunk| (0..16 / bytes).map(move |i| chunk / bytes + i))
            .flat_map(|number| {
                let digit = (number >> (8 * place)) as u8;
                match bytes {
                    1 => vec![digit],
                    2 => bf16::from_f32(digit.into()).to_le_bytes().to_vec(),
                    _ => f32::from(digit).to_le_bytes().to_vec(),
                }
            })
            .collect();
        tile.values(&content)
    };
    let digits = [digit(0), digit(1), digit(2)];
    (0..digits[0].len())
        .map(|i| bytes * (digits[0][i] as u32 + 256 * digits[1][i] as u32 + 65536 * digits[2][i] as u32))
        .collect()
}

/// Checks single elements, (row, k, address), and that no two share an address.
fn check(tile: &Tile, bytes: u32, expected: &[(usize, usize, u32)]) {
    let addresses = addresses(tile, bytes);
    for (row, k, address) in expected {
        assert_eq!(addresses[row * (32 / bytes as usize) + k], *address, "row {row}, k {k}");
    }
    assert_eq!(addresses.iter().collect::<HashSet<_>>().len(), addresses.len());
}

#[test]
fn k_major_without_swizzle_tf32() {
    // Figure "K major, no-swizzling and tf32 type": elements numbered in memory, LBO 64 of them, SBO 32.
    let tile = tf32_multiply(16).b_tile(descriptor(0, 64 * 4, 32 * 4, NONE)).unwrap();
    let figure = [
        (0, 0, 0),
        (0, 3, 3),
        (1, 0, 4),
        (7, 3, 31),
        (8, 0, 32),
        (15, 3, 63),
        (0, 4, 64),
        (7, 7, 95),
        (8, 4, 96),
        (15, 7, 127),
    ];
    check(&tile, 4, &figure.map(|(row, k, number)| (row, k, 4 * number)));
}

#[test]
fn k_major_32_bytes_tf32() {
    // Figure "K major, 32B swizzling and tf32 type": rows 0 to 3 in order, rows 4 to 7 with their halves exchanged.
    let tile = tf32_multiply(16).b_tile(descriptor(0, 16, 64 * 4, BYTES_32)).unwrap();
    let figure = [
        (0, 0, 0),
        (0, 4, 4),
        (1, 0, 8),
        (3, 7, 31),
        (4, 0, 36),
        (4, 4, 32),
        (7, 3, 63),
        (7, 7, 59),
        (8, 0, 64),
        (12, 0, 100),
    ];
    check(&tile, 4, &figure.map(|(row, k, number)| (row, k, 4 * number)));
}

#[test]
fn mn_major_without_swizzle_bf16() {
    // Figure "MN major, no-swizzling and bf16 type": LBO 128 elements, SBO 64.
    let tile = bf16_multiply(16, 0, 1).b_tile(descriptor(0, 128 * 2, 64 * 2, NONE)).unwrap();
    let figure =
        [(0, 0, 0), (7, 0, 7), (0, 1, 8), (7, 7, 63), (8, 0, 64), (0, 8, 128), (8, 8, 192), (15, 15, 255)];
    check(&tile, 2, &figure.map(|(row, k, number)| (row, k, 2 * number)));
}

#[test]
fn mn_major_32_bytes_bf16() {
    // Figure "MN major, 32B swizzling and bf16 type": LBO 128 elements, SBO 256; four k in a line of 128 bytes.
    let tile = bf16_multiply(32, 0, 1).b_tile(descriptor(0, 128 * 2, 256 * 2, BYTES_32)).unwrap();
    let figure = [
        (0, 0, 0),
        (8, 0, 8),
        (0, 1, 16),
        (15, 3, 63),
        (0, 4, 72),
        (8, 4, 64),
        (16, 0, 128),
        (16, 4, 200),
        (0, 8, 256),
        (31, 15, 128 + 256 + 64 + 3 * 16 + 7),
    ];
    check(&tile, 2, &figure.map(|(row, k, number)| (row, k, 2 * number)));
}

#[test]
fn mn_major_64_bytes_bf16() {
    // Figure "MN major, 64B swizzling and bf16 type": LBO 256 elements, SBO 512; two k in a line of 128 bytes.
    let tile = bf16_multiply(64, 0, 1).b_tile(descriptor(0, 256 * 2, 512 * 2, BYTES_64)).unwrap();
    let figure = [
        (0, 0, 0),
        (24, 0, 24),
        (0, 1, 32),
        (0, 2, 72),
        (8, 2, 64),
        (0, 4, 144),
        (24, 6, 192),
        (32, 0, 256),
        (0, 8, 512),
        (63, 15, 256 + 512 + 7 * 32 + 7),
    ];
    check(&tile, 2, &figure.map(|(row, k, number)| (row, k, 2 * number)));
}

#[test]
fn k_major_128_bytes_bf16() {
    // Figure "K major 128B swizzling": in line r, the run that belongs in column c stands in column c ^ r.
    let tile = bf16_multiply(64, 0, 0).b_tile(descriptor(0x8000, 16, 1024, BYTES_128)).unwrap();
    let figure = [
        (0, 0, 0x8000),
        (0, 8, 0x8010),
        (1, 0, 0x8090),
        (1, 8, 0x8080),
        (2, 0, 0x8120),
        (3, 15, 0x81ae),
        (7, 0, 0x83f0),
        (7, 8, 0x83e0),
        (8, 0, 0x8400),
        (63, 15, 0x9fee),
    ];
    check(&tile, 2, &figure);
    // The third step of 16 begins 64 bytes further: columns 4 and 5.
    let tile = bf16_multiply(64, 0, 0).a_tile(descriptor(0x8040, 16, 1024, BYTES_128)).unwrap();
    check(&tile, 2, &[(0, 0, 0x8040), (1, 0, 0x80d0), (4, 0, 0x8200), (5, 8, 0x8280), (7, 8, 0x83a0)]);
}

#[test]
fn mn_major_128_bytes_bf16() {
    // Figure "MN major 128B swizzling": a line holds 64 rows of one k. With n = 128 the second half is LBO further.
    let tile = bf16_multiply(128, 0, 1).b_tile(descriptor(0x4000, 8192, 1024, BYTES_128)).unwrap();
    let figure = [
        (0, 0, 0x4000),
        (63, 0, 0x407e),
        (0, 1, 0x4090),
        (8, 1, 0x4080),
        (16, 3, 0x4190),
        (0, 7, 0x43f0),
        (0, 8, 0x4400),
        (64, 0, 0x6000),
        (64, 9, 0x6490),
        (127, 15, 0x678e),
    ];
    check(&tile, 2, &figure);
}

#[test]
fn operands_of_attention() {
    // 64 tokens of 512 dimensions, as keys and as values; both ways verified on an H200.
    let tile = |d: u32| d / 64 * 8192;
    let swizzled = |t: u32, d: u32| tile(d) + t * 128 + ((d % 64 / 8) ^ (t % 8)) * 16 + d % 8 * 2;
    let plain = |t: u32, d: u32| d / 8 * 1024 + t * 16 + d % 8 * 2;
    let expect = |tile: &Tile, at: &dyn Fn(u32, u32) -> u32| {
        let rows = tile.values(&[]).len() as u32 / 16;
        let expected: Vec<u32> = (0..rows).flat_map(|row| (0..16).map(move |k| at(row, k))).collect();
        assert_eq!(addresses(tile, 2), expected);
    };
    for step in 0..4 {
        let (s, along) = (u64::from(step), 16 * step);
        let keys = bf16_multiply(64, 0, 0);
        let values = bf16_multiply(256, 0, 1);
        let dims = bf16_multiply(16, 1, 0);
        let start = 0x400;
        expect(&keys.b_tile(descriptor(start + s * 32, 16, 1024, BYTES_128)).unwrap(), &|token, k| {
            0x400 + swizzled(token, along + k)
        });
        expect(&values.b_tile(descriptor(start + s * 2048, 8192, 1024, BYTES_128)).unwrap(), &|dim, k| {
            0x400 + swizzled(along + k, dim)
        });
        expect(&keys.b_tile(descriptor(start + s * 2048, 1024, 128, NONE)).unwrap(), &|token, k| {
            0x400 + plain(token, along + k)
        });
        expect(&values.b_tile(descriptor(start + s * 256, 128, 1024, NONE)).unwrap(), &|dim, k| {
            0x400 + plain(along + k, dim)
        });
        expect(&dims.a_tile(descriptor(start + s * 2048, 0, 1024, BYTES_128)).unwrap(), &|dim, k| {
            0x400 + swizzled(along + k, dim)
        });
    }
}

#[test]
fn eight_bit_rows_are_32_elements() {
    let multiply = Multiply::decode(&wgmma(8, 32, "s32.u8.u8", false, &[])).unwrap();
    let tile = multiply.b_tile(descriptor(0, 128, 0, NONE)).unwrap();
    check(&tile, 1, &[(0, 0, 0), (0, 15, 15), (0, 16, 128), (3, 1, 49), (7, 31, 255)]);
}

#[test]
fn a_warp_reads_its_sixteen_rows_of_a() {
    for (trans, leading, swizzle) in [(0, 16, BYTES_128), (0, 128, NONE), (1, 1024, BYTES_64), (1, 128, NONE)]
    {
        let stride = if swizzle == BYTES_64 && trans == 1 { 512 } else { 2048 };
        let multiply = bf16_multiply(32, trans, 0);
        let tile = multiply.a_tile(descriptor(0x2000, leading, stride, swizzle)).unwrap();
        let addresses = addresses(&tile, 2);
        for warp in 0..4 {
            let rows = &addresses[warp as usize * 256..][..256];
            let runs: HashSet<u32> = rows.iter().map(|address| address / 16 * 16).collect();
            assert_eq!(tile.chunks_of_warp(warp).iter().copied().collect::<HashSet<_>>(), runs);
            assert_eq!(tile.chunks_of_warp(warp).len(), 32);
        }
        assert!(tile.chunks_of_warp(4).is_empty());
        let b = multiply.b_tile(descriptor(0x2000, 128, 256, NONE)).unwrap();
        assert_eq!((b.chunks_of_warp(3), b.chunks().len()), (b.chunks(), 64));
    }
}

#[test]
fn a_base_offset_moves_the_pattern() {
    // A pattern that begins three lines behind a multiple of 1024: its first line is in order.
    let tile = bf16_multiply(8, 0, 0).b_tile(descriptor(0x580, 16, 0, BYTES_128) | 3 << 49).unwrap();
    check(&tile, 2, &[(0, 0, 0x580), (1, 0, 0x610), (2, 0, 0x6a0), (7, 8, 0x960)]);
}

#[test]
fn a_row_must_fit_into_the_span() {
    for (start, swizzle) in [(0x70, BYTES_128), (0x30, BYTES_64), (0x10, BYTES_32)] {
        let error = bf16_multiply(64, 0, 0).b_tile(descriptor(start, 16, 1024, swizzle)).unwrap_err();
        assert!(error.field.starts_with("start address"), "{error}");
        assert_eq!(error.found, start);
    }
    // Eight rows fit anywhere MN-major, 64 only at the beginning of the span.
    let start = descriptor(0x70, 0, 1024, BYTES_128);
    assert!(bf16_multiply(8, 0, 1).b_tile(start).is_ok());
    assert!(bf16_multiply(64, 0, 1).b_tile(start).is_err());
    assert!(bf16_multiply(64, 0, 0).b_tile(descriptor(0x30, 128, 256, NONE)).is_ok());
}

proptest! {
    #[test]
    fn any_descriptor_gives_a_tile_or_an_error(descriptor: u64, trans_a in 0..2i64, trans_b in 0..2i64) {
        let reserved = 3 << 14 | 3 << 30 | 7 << 46 | 0x3ff << 52;
        let multiply = bf16_multiply(256, trans_a, trans_b);
        if let Ok(tile) = multiply.b_tile(descriptor & !reserved) {
            prop_assert_eq!(tile.chunks().len(), 512);
            prop_assert_eq!(tile.values(&[0; 3]).len(), 256 * 16);
        }
        prop_assert_eq!(multiply.a_tile(descriptor).is_ok() && descriptor & reserved != 0, false);
    }
}
