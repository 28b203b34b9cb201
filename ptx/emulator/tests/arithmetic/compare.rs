use crate::{check, run};

const TWO: u64 = 0x4000_0000;
const ONE: u64 = 0x3f80_0000;
const NAN: u64 = 0x7fc0_0000;

/// Comparison, and whether it holds for (1, 2), (1, 1), (2, 1), (1, NaN).
const FLOAT_COMPARISONS: [(&str, [bool; 4]); 14] = [
    ("eq", [false, true, false, false]),
    ("ne", [true, false, true, false]),
    ("lt", [true, false, false, false]),
    ("le", [true, true, false, false]),
    ("gt", [false, false, true, false]),
    ("ge", [false, true, true, false]),
    ("equ", [false, true, false, true]),
    ("neu", [true, false, true, true]),
    ("ltu", [true, false, false, true]),
    ("leu", [true, true, false, true]),
    ("gtu", [false, false, true, true]),
    ("geu", [false, true, true, true]),
    ("num", [true, true, true, false]),
    ("nan", [false, false, false, true]),
];

#[test]
fn floating_point_comparisons() {
    let codes = [
        ("f32", [ONE, TWO, NAN]),
        ("f64", [1.0f64.to_bits(), 2.0f64.to_bits(), f64::NAN.to_bits()]),
        ("f16", [0x3c00, 0x4000, 0x7e00]),
        ("bf16", [0x3f80, 0x4000, 0x7fc0]),
    ];
    for (ty, [one, two, nan]) in codes {
        for (name, expected) in FLOAT_COMPARISONS {
            let operands = [[one, two], [one, one], [two, one], [one, nan]];
            for (operands, holds) in operands.iter().zip(expected) {
                let text = format!("setp.{name}.{ty} p|q, a, b");
                assert_eq!(
                    run(&text, operands),
                    [u64::from(holds), u64::from(!holds)],
                    "{text} {operands:x?}"
                );
            }
        }
    }
}

#[test]
fn integer_comparisons() {
    let m1 = 0xffff_ffff;
    check(&[
        ("setp.lt.s32 p, a, b", &[m1, 0], &[1]),
        ("setp.lt.u32 p, a, b", &[m1, 0], &[0]),
        ("setp.lo.u32 p, a, b", &[0, m1], &[1]),
        ("setp.ls.u32 p, a, b", &[5, 5], &[1]),
        ("setp.hi.u32 p, a, b", &[m1, 0], &[1]),
        ("setp.hs.u32 p, a, b", &[4, 5], &[0]),
        ("setp.ge.s64 p, a, b", &[u64::MAX, 0], &[0]),
        ("setp.gt.u64 p, a, b", &[u64::MAX, 0], &[1]),
        ("setp.ne.b16 p, a, b", &[1, 2], &[1]),
        ("setp.eq.b32 p, a, b", &[3, 3], &[1]),
        ("setp.le.s16 p, a, b", &[0x8000, 0x7fff], &[1]),
    ]);
}

#[test]
fn combines_with_a_predicate() {
    for (name, combine) in
        [("and", (|t, c| t & c) as fn(u64, u64) -> u64), ("or", |t, c| t | c), ("xor", |t, c| t ^ c)]
    {
        for (b, c) in [(ONE, 0), (ONE, 1), (TWO, 0), (TWO, 1)] {
            let t = u64::from(b == TWO);
            let text = format!("setp.lt.{name}.f32 p|q, a, b, c");
            assert_eq!(run(&text, &[ONE, b, c]), [combine(t, c), combine(1 - t, c)], "{text} {b:x} {c}");
            let text = format!("setp.lt.{name}.f32 p, a, b, c");
            assert_eq!(run(&text, &[ONE, b, c]), [combine(t, c)]);
        }
    }
}

#[test]
fn zeros_and_subnormal_numbers() {
    check(&[
        ("setp.eq.f32 p, a, b", &[0, 0x8000_0000], &[1]),
        ("setp.lt.f32 p, a, b", &[0x8000_0000, 0], &[0]),
        ("setp.gt.f32 p, a, b", &[1, 0], &[1]),
        ("setp.gt.ftz.f32 p, a, b", &[1, 0], &[0]),
        ("setp.gt.ftz.f16 p, a, b", &[1, 0], &[0]),
        ("setp.gt.f16 p, a, b", &[1, 0], &[1]),
    ]);
}

#[test]
fn pairs() {
    check(&[
        ("setp.lt.f16x2 p|q, a, b", &[0x4000_3c00, 0x3c00_4000], &[1, 0]),
        ("setp.ge.bf16x2 p|q, a, b", &[0x4000_3f80, 0x3f80_4000], &[0, 1]),
        ("setp.lt.and.f16x2 p|q, a, b, c", &[0x3c00_3c00, 0x4000_4000, 0], &[0, 0]),
        ("set.lt.f16x2.f16x2 d, a, b", &[0x4000_3c00, 0x3c00_4000], &[0x0000_3c00]),
        ("set.ge.or.bf16x2.bf16x2 d, a, b, c", &[0, 0x3f80_3f80, 1], &[0x3f80_3f80]),
    ]);
}

#[test]
fn sets_values() {
    check(&[
        ("set.lt.u32.f32 d, a, b", &[ONE, TWO], &[0xffff_ffff]),
        ("set.lt.f32.s32 d, a, b", &[0xffff_ffff, 0], &[ONE]),
        ("set.gt.f32.s32 d, a, b", &[0xffff_ffff, 0], &[0]),
        ("set.eq.s32.b64 d, a, b", &[1 << 40, 1 << 40], &[0xffff_ffff]),
        ("set.lt.and.u32.u32 d, a, b, c", &[1, 2, 0], &[0]),
        ("set.lt.f16.f16 d, a, b", &[0x3c00, 0x4000], &[0x3c00]),
        ("set.lt.u16.f16 d, a, b", &[0x3c00, 0x4000], &[0xffff]),
    ]);
}

#[test]
fn selections() {
    check(&[
        ("selp.b32 d, a, b, p", &[7, 9, 1], &[7]),
        ("selp.f32 d, a, b, p", &[7, 9, 0], &[9]),
        ("selp.b64 d, a, b, p", &[7, u64::MAX, 0], &[u64::MAX]),
        ("selp.b16 d, a, b, p", &[7, 9, 1], &[7]),
        ("slct.u32.s32 d, a, b, c", &[7, 9, 0], &[7]),
        ("slct.u32.s32 d, a, b, c", &[7, 9, 0xffff_ffff], &[9]),
        ("slct.f32.f32 d, a, b, c", &[7, 9, 0x8000_0000], &[7]),
        ("slct.f32.f32 d, a, b, c", &[7, 9, NAN], &[9]),
        ("slct.b64.f32 d, a, b, c", &[7, 9, 0x8000_0001], &[9]),
        ("slct.ftz.b64.f32 d, a, b, c", &[7, 9, 0x8000_0001], &[7]),
    ]);
}
