use proptest::prelude::*;

use crate::{check, run};

const M1: u64 = 0xffff_ffff;
const M1_64: u64 = u64::MAX;
const MIN32: u64 = 0x8000_0000;
const MIN64: u64 = 1 << 63;

#[test]
fn sums() {
    check(&[
        ("add.s32 d, a, b", &[M1, 1], &[0]),
        ("add.u32 d, a, b", &[7, 8], &[15]),
        ("add.s64 d, a, b", &[M1_64, 2], &[1]),
        ("add.u16 d, a, b", &[0xffff, 2], &[1]),
        ("add.sat.s32 d, a, b", &[0x7fff_ffff, 1], &[0x7fff_ffff]),
        ("add.sat.s32 d, a, b", &[MIN32, M1], &[MIN32]),
        ("sub.sat.s32 d, a, b", &[MIN32, 1], &[MIN32]),
        ("sub.sat.s32 d, a, b", &[5, 7], &[M1 - 1]),
        ("sub.s32 d, a, b", &[3, 5], &[M1 - 1]),
        ("sub.s64 d, a, b", &[0, 1], &[M1_64]),
        ("sub.u16 d, a, b", &[0, 1], &[0xffff]),
        ("add.u16x2 d, a, b", &[0x0001_ffff, 0x0002_0001], &[0x0003_0000]),
        ("add.s16x2 d, a, b", &[0x7fff_0001, 0x0001_0001], &[0x8000_0002]),
    ]);
}

#[test]
fn carries() {
    check(&[
        ("add.cc.u32 d, a, b", &[M1, 1], &[0, 1]),
        ("add.cc.s32 d, a, b", &[0x7fff_ffff, 1], &[MIN32, 0]),
        ("addc.u32 d, a, b", &[1, 2, 1], &[4]),
        ("addc.cc.u32 d, a, b", &[M1, 0, 1], &[0, 1]),
        ("addc.cc.u32 d, a, b", &[M1, M1, 1], &[M1, 1]),
        ("addc.cc.u64 d, a, b", &[M1_64, 0, 1], &[0, 1]),
        ("sub.cc.u32 d, a, b", &[0, 1], &[M1, 1]),
        ("sub.cc.u32 d, a, b", &[1, 1], &[0, 0]),
        ("subc.u32 d, a, b", &[5, 2, 1], &[2]),
        ("subc.cc.s32 d, a, b", &[0, M1, 1], &[0, 1]),
        ("subc.cc.s64 d, a, b", &[0, 0, 1], &[M1_64, 1]),
        ("mad.lo.cc.u32 d, a, b, c", &[0x1_0000, 0x1_0001, 0xffff_0000], &[0, 1]),
        ("mad.hi.cc.u32 d, a, b, c", &[M1, M1, 2], &[0, 1]),
        ("madc.hi.u32 d, a, b, c", &[M1, M1, 0, 1], &[M1]),
        ("madc.lo.cc.s32 d, a, b, c", &[M1, 1, 0, 1], &[0, 1]),
    ]);
}

#[test]
fn products() {
    check(&[
        ("mul.lo.s32 d, a, b", &[0x1_0001, 0x1_0001], &[0x2_0001]),
        ("mul.lo.u16 d, a, b", &[0x101, 0x101], &[0x0201]),
        ("mul.hi.s32 d, a, b", &[M1, 2], &[M1]),
        ("mul.hi.u32 d, a, b", &[M1, 2], &[1]),
        ("mul.hi.s16 d, a, b", &[0x8000, 0x8000], &[0x4000]),
        ("mul.hi.u64 d, a, b", &[M1_64, M1_64], &[M1_64 - 1]),
        ("mul.hi.s64 d, a, b", &[M1_64, 5], &[M1_64]),
        ("mul.wide.s16 d, a, b", &[0xffff, 2], &[M1 - 1]),
        ("mul.wide.u16 d, a, b", &[0xffff, 2], &[0x1_fffe]),
        ("mul.wide.s32 d, a, b", &[M1, 3], &[M1_64 - 2]),
        ("mul.wide.u32 d, a, b", &[M1, M1], &[0xffff_fffe_0000_0001]),
        ("mad.lo.s32 d, a, b, c", &[3, 4, M1], &[11]),
        ("mad.lo.s64 d, a, b, c", &[1 << 40, 1 << 30, 7], &[7]),
        ("mad.hi.u32 d, a, b, c", &[M1, 2, 5], &[6]),
        ("mad.hi.sat.s32 d, a, b, c", &[0x4000_0000, 4, 0x7fff_ffff], &[0x7fff_ffff]),
        ("mad.wide.u32 d, a, b, c", &[M1, 2, 5], &[0x2_0000_0003]),
        ("mad.wide.s16 d, a, b, c", &[0xffff, 1, 0], &[M1]),
        ("mul24.lo.u32 d, a, b", &[0xff00_0003, 5], &[15]),
        ("mul24.lo.s32 d, a, b", &[0x00ff_ffff, 5], &[M1 - 4]),
        ("mul24.hi.u32 d, a, b", &[0x00ff_ffff, 0x00ff_ffff], &[0xffff_fe00]),
        ("mul24.hi.s32 d, a, b", &[0x0080_0000, 0x0080_0000], &[0x4000_0000]),
        ("mad24.lo.u32 d, a, b, c", &[3, 5, 1], &[16]),
        ("mad24.hi.sat.s32 d, a, b, c", &[0x0080_0000, 0x0080_0000, 0x7fff_ffff], &[0x7fff_ffff]),
    ]);
}

#[test]
fn quotients() {
    check(&[
        ("div.s32 d, a, b", &[M1 - 6, 2], &[M1 - 2]),
        ("rem.s32 d, a, b", &[M1 - 6, 2], &[M1]),
        ("div.u32 d, a, b", &[M1 - 6, 2], &[0x7fff_fffc]),
        ("rem.u32 d, a, b", &[17, 5], &[2]),
        ("div.s32 d, a, b", &[MIN32, M1], &[MIN32]),
        ("rem.s32 d, a, b", &[MIN32, M1], &[0]),
        ("div.u32 d, a, b", &[9, 0], &[M1]),
        ("rem.u32 d, a, b", &[9, 0], &[9]),
        ("div.s64 d, a, b", &[9, 0], &[M1_64]),
        ("rem.s64 d, a, b", &[M1_64, 0], &[M1_64]),
        ("div.u16 d, a, b", &[0xffff, 0x10], &[0xfff]),
        ("div.u64 d, a, b", &[M1_64, 10], &[1_844_674_407_370_955_161]),
    ]);
}

#[test]
fn signs_and_extremes() {
    check(&[
        ("abs.s32 d, a", &[M1], &[1]),
        ("abs.s32 d, a", &[MIN32], &[MIN32]),
        ("abs.s16 d, a", &[0xfffe], &[2]),
        ("neg.s64 d, a", &[1], &[M1_64]),
        ("neg.s64 d, a", &[MIN64], &[MIN64]),
        ("min.s32 d, a, b", &[M1, 1], &[M1]),
        ("min.u32 d, a, b", &[M1, 1], &[1]),
        ("max.s32 d, a, b", &[M1, 1], &[1]),
        ("max.u32 d, a, b", &[M1, 1], &[M1]),
        ("max.s64 d, a, b", &[MIN64, 0], &[0]),
        ("min.s16 d, a, b", &[0x8000, 1], &[0x8000]),
        ("max.relu.s32 d, a, b", &[M1, M1 - 1], &[0]),
        ("min.relu.s32 d, a, b", &[5, 3], &[3]),
        ("min.s16x2 d, a, b", &[0xffff_0001, 0x0001_ffff], &[0xffff_ffff]),
        ("max.u16x2 d, a, b", &[0xffff_0001, 0x0001_0002], &[0xffff_0002]),
        ("max.relu.s16x2 d, a, b", &[0xffff_0005, 0xfffe_0003], &[5]),
        ("sad.u32 d, a, b, c", &[3, 10, 100], &[107]),
        ("sad.s32 d, a, b, c", &[M1, 1, 10], &[12]),
        ("sad.u32 d, a, b, c", &[M1, 1, 0], &[M1 - 1]),
        ("sad.s32 d, a, b, c", &[0x7fff_ffff, MIN32, 0], &[M1]),
        ("sad.u16 d, a, b, c", &[1, 3, 0xffff], &[1]),
    ]);
}

#[test]
fn dot_products() {
    check(&[
        ("dp4a.u32.u32 d, a, b, c", &[0x0403_0201, 0x0807_0605, 10], &[10 + 5 + 12 + 21 + 32]),
        ("dp4a.s32.s32 d, a, b, c", &[0xff01_ff01, 0x0202_0202, 0], &[0]),
        ("dp4a.s32.u32 d, a, b, c", &[0x0000_00ff, 0x0000_00ff, 0], &[M1 - 254]),
        ("dp4a.u32.s32 d, a, b, c", &[0x0000_00ff, 0x0000_00ff, 0], &[M1 - 254]),
        ("dp2a.lo.u32.u32 d, a, b, c", &[0x0002_0001, 0x0403_0201, 1], &[1 + 1 + 4]),
        ("dp2a.hi.u32.u32 d, a, b, c", &[0x0002_0001, 0x0403_0201, 1], &[1 + 3 + 8]),
        ("dp2a.lo.s32.s32 d, a, b, c", &[0xffff_0000, 0x0000_ff00, 0], &[1]),
    ]);
}

/// A value of `bits` bits as a number.
fn number(value: u64, bits: u32, signed: bool) -> i128 {
    let unsigned = i128::from(value) & ((1 << bits) - 1);
    if signed && unsigned >> (bits - 1) != 0 { unsigned - (1 << bits) } else { unsigned }
}

fn wrapped(value: i128, bits: u32) -> u64 {
    (value & ((1 << bits) - 1)) as u64
}

proptest! {
    #[test]
    fn agrees_with_big_integers(a: u64, b: u64, c: u64, carry: bool) {
        for (bits, letter) in [(16, 'u'), (16, 's'), (32, 'u'), (32, 's'), (64, 'u'), (64, 's')] {
            let signed = letter == 's';
            let [x, y, z] = [a, b, c].map(|value| number(value, bits, signed));
            let [a, b, c] = [x, y, z].map(|value| wrapped(value, bits));
            let evaluate = |name: &str, operands: &[u64]| {
                let list = ["d", "a", "b", "c"][..=operands.len()].join(", ");
                run(&format!("{name}.{letter}{bits} {list}"), operands)[0]
            };
            prop_assert_eq!(evaluate("add", &[a, b]), wrapped(x + y, bits));
            prop_assert_eq!(evaluate("sub", &[a, b]), wrapped(x - y, bits));
            // Products of u64 do not fit i128: wrapping leaves their lower half right.
            prop_assert_eq!(evaluate("mul.lo", &[a, b]), wrapped(x.wrapping_mul(y), bits));
            prop_assert_eq!(evaluate("mad.lo", &[a, b, c]), wrapped(x.wrapping_mul(y).wrapping_add(z), bits));
            if bits < 64 {
                prop_assert_eq!(evaluate("mul.hi", &[a, b]), wrapped((x * y) >> bits, bits));
                prop_assert_eq!(evaluate("mul.wide", &[a, b]), wrapped(x * y, 2 * bits));
                prop_assert_eq!(evaluate("mad.hi", &[a, b, c]), wrapped(((x * y) >> bits) + z, bits));
            }
            prop_assert_eq!(evaluate("min", &[a, b]), wrapped(x.min(y), bits));
            prop_assert_eq!(evaluate("max", &[a, b]), wrapped(x.max(y), bits));
            prop_assert_eq!(evaluate("sad", &[a, b, c]), wrapped(z + (x - y).abs(), bits));
            if y != 0 {
                prop_assert_eq!(evaluate("div", &[a, b]), wrapped(x / y, bits));
                prop_assert_eq!(evaluate("rem", &[a, b]), wrapped(x % y, bits));
            }
            if bits >= 32 {
                let [x, y] = [a, b].map(i128::from);
                let sum = x + y + i128::from(carry);
                let with_carry = run(&format!("addc.cc.{letter}{bits} d, a, b"), &[a, b, carry.into()]);
                prop_assert_eq!(with_carry, vec![wrapped(sum, bits), u64::from(sum >> bits != 0)]);
                let difference = x - y - i128::from(carry);
                let with_borrow = run(&format!("subc.cc.{letter}{bits} d, a, b"), &[a, b, carry.into()]);
                prop_assert_eq!(with_borrow, vec![wrapped(difference, bits), u64::from(difference < 0)]);
            }
        }
    }
}
