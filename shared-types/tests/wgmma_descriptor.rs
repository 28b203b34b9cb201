//! `wgmma` descriptors: golden values bit by bit, and that the hardware's walk finds the tile's elements.

use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::layout::swizzle::Swizzle;
use oximla_types::layout::tile::{Position, Tile};

/// Columns of K in one instruction.
const STEP: u32 = 16;

#[test]
fn k_major_with_128_byte_swizzle() {
    // swizzle 1 at bit 62; stride 1024/16 = 0x40 at bit 32; leading 16/16 = 1 at bit 16; start 0x1_2400/16.
    let descriptor = SharedDescriptor::k_major_sw128(0x1_2400);
    assert_eq!(descriptor.bits(), 0x4000_0040_0001_1240);
    assert_eq!(SharedDescriptor::k_major(Tile::new(64, Swizzle::Bytes128), 0x1_2400), descriptor);
    // 32 bytes along the row.
    assert_eq!(descriptor.advance(32).bits(), 0x4000_0040_0001_1242);
}

#[test]
fn mn_major_with_128_byte_swizzle() {
    // leading 8192/16 = 0x200: the next 64 columns; stride 0x40: the next 8 rows.
    let descriptor = SharedDescriptor::mn_major_sw128(0x1_2000, 8192);
    assert_eq!(descriptor.bits(), 0x4000_0040_0200_1200);
    assert_eq!(SharedDescriptor::mn_major(Tile::new(64, Swizzle::Bytes128), 0x1_2000), descriptor);
    // 16 rows of 128 bytes.
    assert_eq!(descriptor.advance(2048).bits(), 0x4000_0040_0200_1280);
}

#[test]
fn k_major_without_swizzle() {
    // leading 1024/16 = 0x40: the next 8 columns; stride 128/16 = 8: the next 8 rows.
    let descriptor = SharedDescriptor::k_major(Tile::new(64, Swizzle::None), 0x400);
    assert_eq!(descriptor.bits(), 0x0000_0008_0040_0040);
}

#[test]
fn mn_major_without_swizzle() {
    // leading 8: the next 8 rows; stride 0x40: the next 8 columns.
    let descriptor = SharedDescriptor::mn_major(Tile::new(64, Swizzle::None), 0x400);
    assert_eq!(descriptor.bits(), 0x0000_0040_0008_0040);
}

#[test]
fn narrow_swizzles() {
    let bits = |swizzle| SharedDescriptor::k_major(Tile::new(64, swizzle), 0).bits();
    assert_eq!(bits(Swizzle::Bytes64), 0x8000_0020_0001_0000);
    assert_eq!(bits(Swizzle::Bytes32), 0xC000_0010_0001_0000);
    let bits = |swizzle| SharedDescriptor::mn_major(Tile::new(64, swizzle), 0).bits();
    assert_eq!(bits(Swizzle::Bytes64), 0x8000_0020_0100_0000);
    assert_eq!(bits(Swizzle::Bytes32), 0xC000_0010_0080_0000);
}

#[test]
fn start_addresses_reach_all_of_shared_memory_and_leave_the_rest() {
    for address in (0..232_448).step_by(16) {
        let fresh = SharedDescriptor::mn_major_sw128(address, 8192);
        assert_eq!(fresh.bits() & 0xFFFF, u64::from(address / 16));
        assert_eq!(fresh.bits() >> 16, 0x4000_0040_0200);
        assert_eq!(SharedDescriptor::mn_major_sw128(0x2400, 8192).with_start(address), fresh);
        assert_eq!(SharedDescriptor::mn_major_sw128(0, 8192).advance(address), fresh);
    }
}

/// The walk of the tensor cores, from the descriptor's bits alone (PTX ISA, "Strides" and "Swizzling modes"): the byte
/// address of element `mn`, `k` of one step's operand.
fn walk(bits: u64, k_major: bool, mn: u32, k: u32) -> u32 {
    let field = |bit: u32| (bits >> bit & 0x3FFF) as u32 * 16;
    let (start, leading, stride) = (field(0), field(16), field(32));
    let (row, xor_mask) = match bits >> 62 {
        0 => (16, 0x00),
        1 => (128, 0x70),
        2 => (64, 0x30),
        _ => (32, 0x10),
    };
    let address = match (k_major, row) {
        (true, 16) => start + mn / 8 * stride + k / 8 * leading + mn % 8 * 16 + k % 8 * 2,
        (true, _) => start + mn / 8 * stride + mn % 8 * row + k * 2,
        (false, 16) => start + mn / 8 * stride + k / 8 * leading + k % 8 * 16 + mn % 8 * 2,
        (false, _) => start + mn * 2 / row * leading + k / 8 * stride + k % 8 * row + mn * 2 % row,
    };
    address ^ (address >> 3 & xor_mask)
}

#[test]
fn the_walk_finds_every_element() {
    const BASE: u32 = 0x1_2400;
    for swizzle in Swizzle::ALL {
        let tile = Tile::new(64, swizzle);
        for step in 0..4 {
            let rows_of_mn = SharedDescriptor::k_major(tile, BASE).advance(tile.column_offset(STEP * step));
            let rows_of_k = SharedDescriptor::mn_major(tile, BASE).advance(tile.row_offset(STEP * step));
            for mn in 0..256 {
                for k in 0..STEP {
                    let along_k = STEP * step + k;
                    let element = |row, column| BASE + tile.element(Position { row, column });
                    assert_eq!(walk(rows_of_k.bits(), false, mn, k), element(along_k, mn), "{swizzle:?}");
                    if mn < 64 {
                        assert_eq!(walk(rows_of_mn.bits(), true, mn, k), element(mn, along_k), "{swizzle:?}");
                    }
                }
            }
        }
    }
}
