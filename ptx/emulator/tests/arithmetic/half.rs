use proptest::prelude::*;

use crate::exact::{BF16, F16, Layout, product, sum};
use crate::{check, run, run_many};

const FORMATS: [(&str, Layout); 2] = [("f16", F16), ("bf16", BF16)];
const NAN: u64 = 0x7fff;

#[test]
fn special_numbers() {
    check(&[
        ("add.f16 d, a, b", &[0x7c00, 0xfc00], &[NAN]),
        ("add.rn.f16 d, a, b", &[0x7bff, 0x7bff], &[0x7c00]),
        ("mul.bf16 d, a, b", &[0x7f80, 0], &[NAN]),
        ("sub.f16 d, a, b", &[0x3c00, 0x3c00], &[0]),
        ("mul.f16 d, a, b", &[0x8000, 0x3c00], &[0x8000]),
        ("add.ftz.f16 d, a, b", &[1, 1], &[0]),
        ("add.f16 d, a, b", &[1, 1], &[2]),
        ("mul.ftz.f16 d, a, b", &[0x0400, 0x3800], &[0]),
        ("add.sat.f16 d, a, b", &[0x3c00, 0x3c00], &[0x3c00]),
        ("add.sat.f16 d, a, b", &[0xfe00, 0x3c00], &[0]),
        ("sub.sat.f16 d, a, b", &[0, 0x3c00], &[0]),
        ("fma.rn.relu.f16 d, a, b, c", &[0xbc00, 0x3c00, 0], &[0]),
        ("fma.rn.relu.f16 d, a, b, c", &[0x7e00, 0x3c00, 0], &[NAN]),
        ("fma.rn.relu.bf16 d, a, b, c", &[0x3f80, 0x3f80, 0x3f80], &[0x4000]),
        ("min.f16 d, a, b", &[0x7e00, 0x3c00], &[0x3c00]),
        ("max.NaN.f16 d, a, b", &[0x7e00, 0x3c00], &[NAN]),
        ("min.f16 d, a, b", &[0, 0x8000], &[0x8000]),
        ("max.bf16 d, a, b", &[0x8000, 0], &[0]),
        ("max.xorsign.abs.bf16 d, a, b", &[0xbf80, 0x4000], &[0xc000]),
        ("max.ftz.f16 d, a, b", &[1, 0x8001], &[0]),
    ]);
}

#[test]
fn pairs() {
    check(&[
        ("add.f16x2 d, a, b", &[0x3c00_4000, 0x3c00_3c00], &[0x4000_4200]),
        ("sub.bf16x2 d, a, b", &[0x4000_3f80, 0x3f80_3f80], &[0x3f80_0000]),
        ("mul.rn.f16x2 d, a, b", &[0x4000_3800, 0x4000_3800], &[0x4400_3400]),
        ("fma.rn.bf16x2 d, a, b, c", &[0x4000_3f80, 0x4000_3f80, 0x3f80_0000], &[0x40a0_3f80]),
        ("fma.rn.relu.f16x2 d, a, b, c", &[0xbc00_3c00, 0x3c00_3c00, 0], &[0x0000_3c00]),
        ("neg.f16x2 d, a", &[0x3c00_8000], &[0xbc00_0000]),
        ("abs.bf16x2 d, a", &[0xbf80_8000], &[0x3f80_0000]),
        ("min.f16x2 d, a, b", &[0x3c00_c000, 0x4000_3c00], &[0x3c00_c000]),
        ("max.bf16x2 d, a, b", &[0x3f80_c000, 0x4000_3f80], &[0x4000_3f80]),
    ]);
}

/// Every code; NaN becomes the canonical one.
#[test]
fn signs() {
    let codes: Vec<[u64; 1]> = (0..1 << 16).map(|code| [code]).collect();
    for (name, infinity) in [("f16", 0x7c00), ("bf16", 0x7f80)] {
        let number = |code: u64| if code & 0x7fff > infinity { 0x7fff } else { code };
        let negated = run_many(&format!("neg.{name} d, a"), &codes);
        let magnitudes = run_many(&format!("abs.{name} d, a"), &codes);
        for ([code], (negated, magnitude)) in codes.iter().zip(negated.iter().zip(magnitudes)) {
            assert_eq!((*negated, magnitude), (number(code ^ 0x8000), number(code & 0x7fff)));
        }
    }
    for (flushed, [code]) in run_many("abs.ftz.f16 d, a", &codes).iter().zip(&codes) {
        let magnitude = if code & 0x7fff > 0x7c00 { 0x7fff } else { code & 0x7fff };
        assert_eq!(*flushed, if code & 0x7c00 == 0 { 0 } else { magnitude });
    }
}

/// Every pair of codes a stride apart.
#[test]
fn sums_and_products() {
    const STRIDE: usize = 251;
    for (name, layout) in FORMATS {
        let finite = || (0..1u64 << 16).step_by(STRIDE).filter(|&code| layout.is_finite(code));
        let pairs: Vec<[u64; 2]> = finite().flat_map(|a| finite().map(move |b| [a, b])).collect();
        let sums = run_many(&format!("add.{name} d, a, b"), &pairs);
        let products = run_many(&format!("mul.{name} d, a, b"), &pairs);
        for ([a, b], (found_sum, found_product)) in pairs.iter().zip(sums.iter().zip(products)) {
            let (a, b) = (layout.term(*a), layout.term(*b));
            assert!(layout.is_nearest(*found_sum, sum(&[a, b])), "{name}: {a:?} + {b:?} = {found_sum:x}");
            assert!(
                layout.is_nearest(found_product, sum(&[product(a, b)])),
                "{name}: {a:?} * {b:?} = {found_product:x}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn fma_rounds_once(a: u16, b: u16, c: u16, close in 0..3u16) {
        for (name, layout) in FORMATS {
            let [a, b, mut c] = [a, b, c].map(u64::from);
            if close != 0 {
                // An addend that nearly cancels the product, or is far below it and decides ties.
                let product = run(&format!("mul.{name} d, a, b"), &[a, b])[0];
                c = if close == 1 { product ^ 0x8000 ^ c & 3 } else { c & 0x83ff };
            }
            if [a, b, c].iter().any(|&code| !layout.is_finite(code)) {
                continue;
            }
            let found = run(&format!("fma.rn.{name} d, a, b, c"), &[a, b, c])[0];
            let exact = [product(layout.term(a), layout.term(b)), layout.term(c)];
            prop_assert!(layout.is_nearest(found, sum(&exact)), "{}: {:?} = {:x}", name, exact, found);
        }
    }
}

/// Products that lie in the middle between two numbers, and addends that f64 (bf16) or f32 (f16) would lose.
#[test]
fn fma_does_not_round_twice() {
    check(&[
        // 7 * 37 = 259, between 258 (odd) and 260 (even); 2^-100.
        ("fma.rn.bf16 d, a, b, c", &[0x40e0, 0x4214, 0], &[0x4382]),
        ("fma.rn.bf16 d, a, b, c", &[0x40e0, 0x4214, 0x8d80], &[0x4381]),
        // 9 * 29 = 261, between 260 (even) and 262 (odd).
        ("fma.rn.bf16 d, a, b, c", &[0x4110, 0x41e8, 0], &[0x4382]),
        ("fma.rn.bf16 d, a, b, c", &[0x4110, 0x41e8, 0x0d80], &[0x4383]),
        // 3 * 683 = 2,049, between 2,048 (even) and 2,050 (odd); 2^-24.
        ("fma.rn.f16 d, a, b, c", &[0x4200, 0x6156, 0], &[0x6800]),
        ("fma.rn.f16 d, a, b, c", &[0x4200, 0x6156, 1], &[0x6801]),
        // 7 * 293 = 2,051, between 2,050 (odd) and 2,052 (even).
        ("fma.rn.f16 d, a, b, c", &[0x4700, 0x5c94, 0], &[0x6802]),
        ("fma.rn.f16 d, a, b, c", &[0x4700, 0x5c94, 0x8001], &[0x6801]),
    ]);
}
