use ptx_emulator::arithmetic::Width;

use crate::{check, operation};

#[test]
fn copies() {
    check(&[
        ("mov.pred d, a", &[1], &[1]),
        ("mov.b16 d, a", &[0xabcd], &[0xabcd]),
        ("mov.u32 d, a", &[0xdead_beef], &[0xdead_beef]),
        ("mov.f32 d, a", &[0x7f80_0001], &[0x7f80_0001]),
        ("mov.b64 d, a", &[u64::MAX], &[u64::MAX]),
        ("mov.f64 d, a", &[0x7ff0_0000_0000_0001], &[0x7ff0_0000_0000_0001]),
    ]);
}

#[test]
fn packs_and_unpacks() {
    check(&[
        ("mov.b64 d, {a, b}", &[0x1111_2222, 0x3333_4444], &[0x3333_4444_1111_2222]),
        ("mov.b64 {a, b}, c", &[0x3333_4444_1111_2222], &[0x1111_2222, 0x3333_4444]),
        ("mov.b64 {_, b}, c", &[0x3333_4444_1111_2222], &[0x1111_2222, 0x3333_4444]),
        ("mov.b64 d, {a, b, c, e}", &[1, 2, 3, 4], &[0x0004_0003_0002_0001]),
        ("mov.b64 {a, b, c, e}, d", &[0x0004_0003_0002_0001], &[1, 2, 3, 4]),
        ("mov.b32 d, {a, b}", &[0x1111, 0x2222], &[0x2222_1111]),
        ("mov.b32 {a, b}, d", &[0x2222_1111], &[0x1111, 0x2222]),
        ("mov.b32 d, {a, b, c, e}", &[0x11, 0x22, 0x33, 0x44], &[0x4433_2211]),
        ("mov.b32 {a, b, c, e}, d", &[0x4433_2211], &[0x11, 0x22, 0x33, 0x44]),
        ("mov.b16 {a, b}, d", &[0x2211], &[0x11, 0x22]),
    ]);
}

#[test]
fn widths_of_elements() {
    let unpack = operation("mov.b64 {a, b}, c");
    assert_eq!(unpack.results(), [Width::B32, Width::B32]);
    assert_eq!(unpack.operands(), [Width::B64]);
    let pack = operation("mov.b32 d, {a, b, c, e}");
    assert_eq!(pack.results(), [Width::B32]);
    assert_eq!(pack.operands(), [Width::B8; 4]);
}
