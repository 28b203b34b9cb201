use proptest::prelude::*;

use crate::{check, run};

const M1: u64 = 0xffff_ffff;

#[test]
fn logic() {
    check(&[
        ("and.b32 d, a, b", &[0xff00_ff00, 0x0ff0_0ff0], &[0x0f00_0f00]),
        ("or.b64 d, a, b", &[1 << 63, 1], &[1 << 63 | 1]),
        ("xor.b16 d, a, b", &[0xff00, 0x0ff0], &[0xf0f0]),
        ("not.b32 d, a", &[0xffff_0000], &[0x0000_ffff]),
        ("not.b16 d, a", &[0], &[0xffff]),
        ("not.pred d, a", &[0], &[1]),
        ("not.pred d, a", &[1], &[0]),
        ("and.pred d, a, b", &[1, 0], &[0]),
        ("or.pred d, a, b", &[1, 0], &[1]),
        ("xor.pred d, a, b", &[1, 1], &[0]),
        ("cnot.b32 d, a", &[0], &[1]),
        ("cnot.b64 d, a", &[1 << 40], &[0]),
        ("lop3.b32 d, a, b, c, 128", &[0b1100, 0b1010, 0b1111, 0x80], &[0b1000]),
        ("lop3.b32 d, a, b, c, 150", &[0b1100, 0b1010, 0b1111, 0x96], &[0b1001]),
        ("lop3.b32 d, a, b, c, 0", &[1, 2, 3, 0], &[0]),
        ("lop3.b32 d, a, b, c, 255", &[1, 2, 3, 0xff], &[M1]),
        ("lop3.or.b32 d|p, a, b, c, 0, q", &[1, 2, 3, 0, 1], &[0, 1]),
        ("lop3.and.b32 d|p, a, b, c, 255, q", &[1, 2, 3, 0xff, 0], &[M1, 0]),
    ]);
}

#[test]
fn shifts() {
    check(&[
        ("shl.b32 d, a, b", &[1, 31], &[0x8000_0000]),
        ("shl.b32 d, a, b", &[1, 32], &[0]),
        ("shl.b64 d, a, b", &[1, 63], &[1 << 63]),
        ("shl.b64 d, a, b", &[1, M1], &[0]),
        ("shl.b16 d, a, b", &[0xffff, 8], &[0xff00]),
        ("shr.u32 d, a, b", &[0x8000_0000, 31], &[1]),
        ("shr.u32 d, a, b", &[0x8000_0000, 32], &[0]),
        ("shr.s32 d, a, b", &[0x8000_0000, 4], &[0xf800_0000]),
        ("shr.s32 d, a, b", &[0x8000_0000, 99], &[M1]),
        ("shr.s32 d, a, b", &[0x7fff_ffff, 99], &[0]),
        ("shr.s16 d, a, b", &[0x8000, 16], &[0xffff]),
        ("shr.b64 d, a, b", &[1 << 63, 60], &[8]),
        ("shr.s64 d, a, b", &[1 << 63, 64], &[u64::MAX]),
        ("shf.l.wrap.b32 d, a, b, c", &[0x8000_0000, 0x1, 1], &[3]),
        ("shf.l.wrap.b32 d, a, b, c", &[0x8000_0000, 0x1, 33], &[3]),
        ("shf.l.clamp.b32 d, a, b, c", &[0x1234_5678, 0x1, 33], &[0x1234_5678]),
        ("shf.r.wrap.b32 d, a, b, c", &[0x8000_0000, 0x1, 31], &[3]),
        ("shf.r.clamp.b32 d, a, b, c", &[0x8000_0000, 0x5, 40], &[5]),
        ("shf.r.wrap.b32 d, a, b, c", &[7, 5, 32], &[7]),
    ]);
}

#[test]
fn counting_and_searching() {
    check(&[
        ("popc.b32 d, a", &[0xf0f0_0001], &[9]),
        ("popc.b64 d, a", &[u64::MAX], &[64]),
        ("clz.b32 d, a", &[0], &[32]),
        ("clz.b32 d, a", &[1], &[31]),
        ("clz.b64 d, a", &[1], &[63]),
        ("brev.b32 d, a", &[1], &[0x8000_0000]),
        ("brev.b64 d, a", &[0b1011], &[0b1101 << 60]),
        ("bfind.u32 d, a", &[0], &[M1]),
        ("bfind.u32 d, a", &[0x0001_0000], &[16]),
        ("bfind.s32 d, a", &[M1], &[M1]),
        ("bfind.s32 d, a", &[0xffff_0000], &[15]),
        ("bfind.shiftamt.u32 d, a", &[0x0001_0000], &[15]),
        ("bfind.shiftamt.u32 d, a", &[0], &[M1]),
        ("bfind.u64 d, a", &[1 << 50], &[50]),
        ("bfind.s64 d, a", &[u64::MAX << 20], &[19]),
    ]);
}

#[test]
fn fields() {
    check(&[
        ("bfe.u32 d, a, b, c", &[0x1234_5678, 8, 8], &[0x56]),
        ("bfe.u32 d, a, b, c", &[0x1234_5678, 28, 8], &[1]),
        ("bfe.u32 d, a, b, c", &[M1, 0, 32], &[M1]),
        ("bfe.u32 d, a, b, c", &[M1, 4, 255], &[0x0fff_ffff]),
        ("bfe.u32 d, a, b, c", &[M1, 32, 4], &[0]),
        ("bfe.s32 d, a, b, c", &[0x0000_0f00, 8, 4], &[M1]),
        ("bfe.s32 d, a, b, c", &[0x0000_0700, 8, 4], &[7]),
        ("bfe.s32 d, a, b, c", &[0x8000_0000, 40, 4], &[M1]),
        ("bfe.s32 d, a, b, c", &[0x8000_0000, 30, 8], &[M1 - 1]),
        ("bfe.s32 d, a, b, c", &[M1, 3, 0], &[0]),
        ("bfe.u64 d, a, b, c", &[0x1234_5678_9abc_def0, 36, 16], &[0x4567]),
        ("bfe.s64 d, a, b, c", &[1 << 63, 60, 4], &[u64::MAX - 7]),
        ("bfi.b32 d, a, b, c, e", &[0xff, 0, 8, 4], &[0xf00]),
        ("bfi.b32 d, a, b, c, e", &[0, M1, 8, 8], &[0xffff_00ff]),
        ("bfi.b32 d, a, b, c, e", &[0xff, 0x1234, 30, 8], &[0xc000_1234]),
        ("bfi.b32 d, a, b, c, e", &[0xff, 0x1234, 32, 8], &[0x1234]),
        ("bfi.b32 d, a, b, c, e", &[0xff, 0x1234, 0, 0], &[0x1234]),
        ("bfi.b64 d, a, b, c, e", &[0xabc, 0, 40, 12], &[0xabc << 40]),
        ("bmsk.clamp.b32 d, a, b", &[4, 8], &[0xff0]),
        ("bmsk.clamp.b32 d, a, b", &[4, 100], &[0xffff_fff0]),
        ("bmsk.clamp.b32 d, a, b", &[32, 1], &[0]),
        ("bmsk.clamp.b32 d, a, b", &[0x100, 1], &[0]),
        ("bmsk.wrap.b32 d, a, b", &[36, 33], &[0x10]),
        ("szext.wrap.u32 d, a, b", &[0x1ff, 8], &[0xff]),
        ("szext.wrap.s32 d, a, b", &[0x80, 8], &[0xffff_ff80]),
        ("szext.wrap.s32 d, a, b", &[0x81, 33], &[M1]),
        ("szext.clamp.s32 d, a, b", &[0x8000_0001, 77], &[0x8000_0001]),
        ("szext.clamp.u32 d, a, b", &[M1, 0], &[0]),
    ]);
}

#[test]
fn permutations() {
    let (a, b) = (0x3322_1100, 0x7766_5544);
    check(&[
        ("prmt.b32 d, a, b, c", &[a, b, 0x7531], &[0x7755_3311]),
        ("prmt.b32 d, a, b, c", &[a, b, 0x0123], &[0x0011_2233]),
        ("prmt.b32 d, a, b, c", &[0x0000_80ff, 0, 0xa981], &[0x00ff_ff80]),
        ("prmt.b32.f4e d, a, b, c", &[a, b, 1], &[0x4433_2211]),
        ("prmt.b32.f4e d, a, b, c", &[a, b, 3], &[0x6655_4433]),
        ("prmt.b32.b4e d, a, b, c", &[a, b, 0], &[0x5566_7700]),
        ("prmt.b32.b4e d, a, b, c", &[a, b, 2], &[0x7700_1122]),
        ("prmt.b32.rc8 d, a, b, c", &[a, b, 2], &[0x2222_2222]),
        ("prmt.b32.ecl d, a, b, c", &[a, b, 1], &[0x3322_1111]),
        ("prmt.b32.ecl d, a, b, c", &[a, b, 2], &[0x3322_2222]),
        ("prmt.b32.ecr d, a, b, c", &[a, b, 1], &[0x1111_1100]),
        ("prmt.b32.ecr d, a, b, c", &[a, b, 2], &[0x2222_1100]),
        ("prmt.b32.rc16 d, a, b, c", &[a, b, 0], &[0x1100_1100]),
        ("prmt.b32.rc16 d, a, b, c", &[a, b, 3], &[0x3322_3322]),
    ]);
}

/// The bits of a word of `bits` bits, each by its position.
fn collect(bits: u64, bit: impl Fn(u64) -> bool) -> u64 {
    (0..bits).filter(|&position| bit(position)).map(|position| 1 << position).sum()
}

proptest! {
    #[test]
    fn fields_bit_by_bit(a: u64, b: u64, start in 0..300u64, length in 0..300u64, wide: bool) {
        let bits = if wide { 64 } else { 32 };
        let (a, b) = if wide { (a, b) } else { (a & M1, b & M1) };
        let bit = |word: u64, position: u64| word >> position & 1 != 0;
        // Positions and lengths are bytes.
        let (from, count) = (start % 256, length % 256);
        let last = (from + count).saturating_sub(1).min(bits - 1);
        for signed in [false, true] {
            let sign = signed && count != 0 && bit(a, last);
            let extracted = |i| if i < count && from + i < bits { bit(a, from + i) } else { sign };
            let expected = collect(bits, extracted);
            let text = format!("bfe.{}{bits} d, a, b, c", if signed { 's' } else { 'u' });
            prop_assert_eq!(run(&text, &[a, start, length]), vec![expected], "{}", text);
        }
        let in_field = |i| i >= from && i < from + count;
        let inserted = collect(bits, |i| if in_field(i) { bit(a, i - from) } else { bit(b, i) });
        prop_assert_eq!(run(&format!("bfi.b{bits} d, a, b, c, e"), &[a, b, start, length]), vec![inserted]);
    }

    #[test]
    fn tables_bit_by_bit(a: u32, b: u32, c: u32, table: u8) {
        let [a, b, c, table] = [a, b, c, u32::from(table)].map(u64::from);
        let expected = collect(32, |i| {
            let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
            table >> index & 1 != 0
        });
        prop_assert_eq!(run("lop3.b32 d, a, b, c, t", &[a, b, c, table]), vec![expected]);
    }

    #[test]
    fn funnels_bit_by_bit(a: u32, b: u32, amount in 0..100u64) {
        let [a, b] = [a, b].map(u64::from);
        let both = b << 32 | a;
        for (mode, amount_used) in [("wrap", amount % 32), ("clamp", amount.min(32))] {
            let left = collect(32, |i| both >> (32 + i - amount_used) & 1 != 0);
            let right = collect(32, |i| i + amount_used < 64 && both >> (i + amount_used) & 1 != 0);
            prop_assert_eq!(run(&format!("shf.l.{mode}.b32 d, a, b, c"), &[a, b, amount]), vec![left]);
            prop_assert_eq!(run(&format!("shf.r.{mode}.b32 d, a, b, c"), &[a, b, amount]), vec![right]);
        }
    }
}
