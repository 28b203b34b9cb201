use proptest::prelude::*;

use crate::exact::{F32, product, quotient, root, sum};
use crate::{check, run};

const NAN: u64 = 0x7fff_ffff;
const INF: u64 = 0x7f80_0000;
const NEG: u64 = 0x8000_0000;
const ONE: u64 = 0x3f80_0000;
const MAX: u64 = 0x7f7f_ffff;

fn bits(value: f32) -> u64 {
    value.to_bits().into()
}

fn value(code: u64) -> f32 {
    f32::from_bits(code as u32)
}

#[test]
fn special_numbers() {
    check(&[
        ("add.f32 d, a, b", &[INF, INF | NEG], &[NAN]),
        ("add.rn.f32 d, a, b", &[0xffc0_0001, ONE], &[NAN]),
        ("mul.f32 d, a, b", &[INF, 0], &[NAN]),
        ("fma.rn.f32 d, a, b, c", &[INF, ONE, INF | NEG], &[NAN]),
        ("fma.rn.f32 d, a, b, c", &[INF, ONE, ONE], &[INF]),
        ("sub.f32 d, a, b", &[ONE, ONE], &[0]),
        ("sub.rm.f32 d, a, b", &[ONE, ONE], &[NEG]),
        ("sub.rp.f32 d, a, b", &[ONE, ONE], &[0]),
        ("add.rm.f32 d, a, b", &[0, 0], &[0]),
        ("add.rm.f32 d, a, b", &[0, NEG], &[NEG]),
        ("add.rn.f32 d, a, b", &[NEG, NEG], &[NEG]),
        ("fma.rm.f32 d, a, b, c", &[ONE, ONE, ONE | NEG], &[NEG]),
        ("fma.rz.f32 d, a, b, c", &[ONE, ONE, ONE | NEG], &[0]),
        ("mul.rz.f32 d, a, b", &[MAX, MAX], &[MAX]),
        ("mul.rm.f32 d, a, b", &[MAX, MAX | NEG], &[INF | NEG]),
        ("mul.rp.f32 d, a, b", &[1, 1], &[1]),
        ("mul.rz.f32 d, a, b", &[INF, ONE], &[INF]),
        ("div.rn.f32 d, a, b", &[ONE, NEG], &[INF | NEG]),
        ("div.rn.f32 d, a, b", &[0, 0], &[NAN]),
        ("sqrt.rn.f32 d, a", &[NEG], &[NEG]),
        ("sqrt.rn.f32 d, a", &[ONE | NEG], &[NAN]),
        ("rcp.rn.f32 d, a", &[NEG], &[INF | NEG]),
        ("rcp.rn.f32 d, a", &[INF], &[0]),
    ]);
}

#[test]
fn flushing_and_saturation() {
    check(&[
        ("add.ftz.f32 d, a, b", &[1, 1], &[0]),
        ("add.f32 d, a, b", &[1, 1], &[2]),
        ("add.ftz.f32 d, a, b", &[NEG | 1, NEG | 1], &[NEG]),
        ("sub.ftz.f32 d, a, b", &[0x0080_0001, 0x0080_0000], &[0]),
        ("mul.rn.ftz.f32 d, a, b", &[0x0080_0000, 0x3f00_0000], &[0]),
        ("mul.rn.f32 d, a, b", &[0x0080_0000, 0x3f00_0000], &[0x0040_0000]),
        ("fma.rn.ftz.f32 d, a, b, c", &[0x0040_0000, 0x7f00_0000, ONE], &[ONE]),
        ("add.sat.f32 d, a, b", &[ONE, ONE], &[ONE]),
        ("add.sat.f32 d, a, b", &[ONE | NEG, 0], &[0]),
        ("mul.sat.f32 d, a, b", &[INF, 0], &[0]),
        ("fma.rn.sat.f32 d, a, b, c", &[0x3f00_0000, 0x3f00_0000, 0], &[0x3e80_0000]),
        ("abs.f32 d, a", &[ONE | NEG], &[ONE]),
        ("abs.ftz.f32 d, a", &[NEG | 1], &[0]),
        ("neg.f32 d, a", &[0], &[NEG]),
        ("neg.ftz.f32 d, a", &[1], &[NEG]),
        ("neg.f64 d, a", &[1], &[1 << 63 | 1]),
    ]);
}

#[test]
fn extremes() {
    let two = bits(2.0);
    check(&[
        ("min.f32 d, a, b", &[ONE, two], &[ONE]),
        ("max.f32 d, a, b", &[ONE, two], &[two]),
        ("max.f32 d, a, b", &[NAN, ONE], &[ONE]),
        ("min.f32 d, a, b", &[ONE, 0x7f80_0001], &[ONE]),
        ("max.f32 d, a, b", &[0xffc0_0000, 0x7fc0_0000], &[NAN]),
        ("max.NaN.f32 d, a, b", &[0x7fc0_0000, ONE], &[NAN]),
        ("min.f32 d, a, b", &[0, NEG], &[NEG]),
        ("min.f32 d, a, b", &[NEG, 0], &[NEG]),
        ("max.f32 d, a, b", &[NEG, 0], &[0]),
        ("max.f32 d, a, b", &[0, NEG], &[0]),
        ("max.ftz.f32 d, a, b", &[1, NEG | 5], &[0]),
        ("max.f32 d, a, b", &[INF | NEG, ONE | NEG], &[ONE | NEG]),
        ("min.xorsign.abs.f32 d, a, b", &[ONE | NEG, two], &[ONE | NEG]),
        ("max.xorsign.abs.f32 d, a, b", &[ONE | NEG, two | NEG], &[two]),
        ("max.NaN.xorsign.abs.f32 d, a, b", &[NAN, two | NEG], &[NAN]),
        ("min.f64 d, a, b", &[1.0f64.to_bits(), (-1.0f64).to_bits()], &[(-1.0f64).to_bits()]),
        ("copysign.f32 d, a, b", &[NEG, two], &[two | NEG]),
        ("copysign.f64 d, a, b", &[0, (-2.0f64).to_bits()], &[2.0f64.to_bits()]),
    ]);
}

#[test]
fn properties() {
    // Zero, subnormal, normal, infinite, NaN.
    let numbers = [NEG, 1, ONE, INF | NEG, NAN];
    for (name, expected) in [
        ("finite", [1, 1, 1, 0, 0]),
        ("infinite", [0, 0, 0, 1, 0]),
        ("number", [1, 1, 1, 1, 0]),
        ("notanumber", [0, 0, 0, 0, 1]),
        ("normal", [1, 0, 1, 0, 0]),
        ("subnormal", [0, 1, 0, 0, 0]),
    ] {
        for (number, expected) in numbers.iter().zip(expected) {
            assert_eq!(run(&format!("testp.{name}.f32 p, a"), &[*number]), [expected], "{name} {number:x}");
        }
    }
}

#[test]
fn double_precision() {
    let [third, two] = [1.0f64 / 3.0, 2.0].map(f64::to_bits);
    let nan = f64::NAN.to_bits();
    check(&[
        ("add.rn.f64 d, a, b", &[two, two], &[4.0f64.to_bits()]),
        ("sub.f64 d, a, b", &[two, two], &[0]),
        ("mul.f64 d, a, b", &[two, third], &[(2.0f64 / 3.0).to_bits()]),
        ("div.rn.f64 d, a, b", &[1.0f64.to_bits(), 3.0f64.to_bits()], &[third]),
        ("sqrt.rn.f64 d, a", &[4.0f64.to_bits()], &[two]),
        ("sqrt.rn.f64 d, a", &[(-4.0f64).to_bits()], &[nan]),
        ("rcp.rn.f64 d, a", &[3.0f64.to_bits()], &[third]),
        // 1/3 is rounded down by 2^-54 / 3: three times it is 1 - 2^-54.
        (
            "fma.rn.f64 d, a, b, c",
            &[third, 3.0f64.to_bits(), (-1.0f64).to_bits()],
            &[(-f64::EPSILON / 4.0).to_bits()],
        ),
    ]);
}

/// f32 of all sizes, often close to each other, often special.
fn numbers() -> impl Strategy<Value = u64> {
    let specials =
        prop::sample::select(vec![0, 1, 0x7f_ffff, 0x80_0000, 0x80_0001, MAX, ONE, ONE - 1, ONE + 1]);
    let near_one = (0x3e00_0000..0x4100_0000u64).boxed();
    let short =
        (0..256u64, 0..16u64).prop_map(|(exponent, fraction)| (exponent << 23 | fraction << 19) & MAX);
    let magnitude = prop_oneof![4 => 0..=MAX, 4 => near_one, 2 => short, 1 => specials];
    (magnitude, any::<bool>())
        .prop_map(|(magnitude, negative)| if negative { magnitude | NEG } else { magnitude })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn rounds_exactly(a in numbers(), b in numbers(), c in numbers()) {
        let [x, y, z] = [a, b, c].map(|code| F32.term(code));
        for rounding in ["rn", "rz", "rm", "rp"] {
            let rounded = |name: &str, operands: &[u64]| {
                let list = ["d", "a", "b", "c"][..=operands.len()].join(", ");
                run(&format!("{name}.{rounding}.f32 {list}"), operands)[0]
            };
            prop_assert!(F32.is_rounded(rounded("add", &[a, b]), rounding, sum(&[x, y])));
            prop_assert!(F32.is_rounded(rounded("sub", &[a, b]), rounding, sum(&[x, (-y.0, y.1)])));
            prop_assert!(F32.is_rounded(rounded("mul", &[a, b]), rounding, sum(&[product(x, y)])));
            prop_assert!(F32.is_rounded(rounded("fma", &[a, b, c]), rounding, sum(&[product(x, y), z])));
            if y.0 != 0 {
                prop_assert!(F32.is_rounded(rounded("div", &[a, b]), rounding, quotient(x, y)));
                prop_assert!(F32.is_rounded(rounded("rcp", &[b]), rounding, quotient((1, 0), y)));
            }
            if x.0 >= 0 {
                prop_assert!(F32.is_rounded(rounded("sqrt", &[a]), rounding, root(x)));
            }
        }
    }

    #[test]
    fn agrees_with_the_host(a in numbers(), b in numbers(), c in numbers()) {
        let [x, y, z] = [a, b, c].map(value);
        // Signs of zeros included.
        prop_assert_eq!(run("add.f32 d, a, b", &[a, b])[0], bits(x + y));
        prop_assert_eq!(run("mul.f32 d, a, b", &[a, b])[0], bits(x * y));
        prop_assert_eq!(run("fma.rn.f32 d, a, b, c", &[a, b, c])[0], bits(x.mul_add(y, z)));
        if y != 0.0 {
            prop_assert_eq!(run("div.rn.f32 d, a, b", &[a, b])[0], bits(x / y));
        }
    }

    #[test]
    fn cancelling_fma(a in numbers(), b in numbers(), last in -2i64..=2) {
        // The addend nearly cancels the product: what is left is its rounding error.
        let c = bits(-(value(a) * value(b))).wrapping_add_signed(last);
        if !F32.is_finite(c) {
            return Ok(());
        }
        let terms = [product(F32.term(a), F32.term(b)), F32.term(c)];
        for rounding in ["rn", "rz", "rm", "rp"] {
            let found = run(&format!("fma.{rounding}.f32 d, a, b, c"), &[a, b, c])[0];
            prop_assert!(F32.is_rounded(found, rounding, sum(&terms)), "{:x} {}", found, rounding);
        }
    }
}
