//! [`ptx/math.rs`](../../../kernels-gpu/src/ptx/math.rs)

use half::f16;

use crate::kernel::{Kernel, Work};

const INFINITY: f32 = f32::INFINITY;

/// The bound that the PTX ISA gives for the approximations.
const TOLERANCE: f64 = 1.0 / (1 << 22) as f64;

pub fn ex2(kernel: &Kernel) {
    let exact = [
        (-INFINITY, 0.0),
        (INFINITY, INFINITY),
        (128.0, INFINITY),
        // The result is subnormal, and flushed.
        (-130.0, 0.0),
        // The argument is.
        (1e-40, 1.0),
        (0.0, 1.0),
    ];
    let near = [1.0, -1.0, 10.0, -126.0, 0.5, -0.5, 0.1, -7.3, 3.75, 100.01, -99.9, 1e-3];
    let found = unary(kernel, exact.iter().map(|(x, _)| *x).chain(near).chain([f32::NAN]).collect());
    for ((x, expected), found) in exact.iter().zip(&found) {
        assert_eq!(found, expected, "2^{x}");
    }
    for (x, found) in near.iter().zip(&found[exact.len()..]) {
        let expected = f64::from(*x).exp2();
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= TOLERANCE * expected, "2^{x}: {found}, not {expected}");
    }
    assert!(found[exact.len() + near.len()].is_nan());
}

pub fn lg2(kernel: &Kernel) {
    let exact = [(1.0, 0.0), (0.0, -INFINITY), (INFINITY, INFINITY)];
    let near = [2.0, 0.5, 1024.0, 1e-30, 3e30, 1.001, 0.999, 1.5, 0.7, 3.0, 1e-40];
    let found = unary(kernel, exact.iter().map(|(x, _)| *x).chain(near).chain([-1.0, f32::NAN]).collect());
    for ((x, expected), found) in exact.iter().zip(&found) {
        assert_eq!(found, expected, "lg2 {x}");
    }
    for (x, found) in near.iter().zip(&found[exact.len()..]) {
        let expected = f64::from(*x).log2();
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= TOLERANCE * expected.abs().max(1.0), "lg2 {x}: {found}, not {expected}");
    }
    assert!(found[exact.len() + near.len()..][..2].iter().all(|x| x.is_nan()));
}

pub fn rcp(kernel: &Kernel) {
    let arguments = [1.0, 3.0, -7.0, 0.1, 1e38, 3e38, 1e-38, 1e-40, 0.0, -0.0, INFINITY, -INFINITY];
    let found = unary(kernel, arguments.to_vec());
    for (x, found) in arguments.iter().zip(found) {
        assert_eq!(found.to_bits(), (1.0 / x).to_bits(), "1 / {x}");
    }
}

/// Rounded once: the product's lower bits count where the sum cancels its upper ones.
pub fn fma(kernel: &Kernel) {
    let cases =
        [(2.0, 3.0, 4.0), (1.1, 1.1, -1.21), (1e30, 1e30, -INFINITY), (-0.0, 1.0, 0.0), (3.0, -1e-30, 1.0)];
    let operand = |pick: fn(&(f32, f32, f32)) -> f32| {
        (0..32).map(move |lane| pick(&cases[lane % cases.len()]).to_bits())
    };
    let input = operand(|case| case.0).chain(operand(|case| case.1)).chain(operand(|case| case.2)).collect();
    let found = kernel.run(&Work::new(input, 32));
    for (lane, found) in found.into_iter().enumerate() {
        let (a, b, c) = cases[lane % cases.len()];
        assert_eq!(found, f32::mul_add(a, b, c).to_bits(), "{a} * {b} + {c}");
    }
}

pub fn max(kernel: &Kernel) {
    let cases = [
        (1.0, 2.0, 2.0),
        (2.0, 1.0, 2.0),
        (-3.0, -4.0, -3.0),
        (-INFINITY, 5.0, 5.0),
        (INFINITY, 5.0, INFINITY),
        (f32::NAN, 1.0, 1.0),
        (-1.0, f32::NAN, -1.0),
        (-0.0, 0.0, 0.0),
        (0.0, -0.0, 0.0),
    ];
    check_binary(kernel, &cases.map(|(a, b, larger)| (a, b, f32::to_bits(larger))));
}

pub fn cvt_bf16x2(kernel: &Kernel) {
    let step = 1.0 / 128.0;
    check_binary(
        kernel,
        &[
            (1.0, -2.0, 0xc000_3f80),
            // Halfway between neighbours: to the even one.
            (1.0 + step / 2.0, 1.0 + step * 1.5, 0x3f82_3f80),
            (1.0 + step * 0.51, -INFINITY, 0xff80_3f81),
            (f32::MAX, 0.0, 0x0000_7f80),
        ],
    );
}

pub fn cvt_f16x2(kernel: &Kernel) {
    let step = 1.0 / 1024.0;
    let smallest = 1.0 / (1 << 24) as f32;
    check_binary(
        kernel,
        &[
            (1.0, -2.0, 0xc000_3c00),
            (1.0 + step / 2.0, 1.0 + step * 1.5, 0x3c02_3c00),
            (1.0 + step * 0.51, -INFINITY, 0xfc00_3c01),
            // 65,520 is halfway to what would be the next number.
            (65_519.0, 65_520.0, 0x7c00_7bff),
            (smallest, smallest / 2.0, 0x0000_0001),
        ],
    );
}

/// Bits of both factors and of their product, which are put into the lower half as they are, negated into the upper one.
pub fn mul_bf16x2(kernel: &Kernel) {
    let cases = [
        // 1.5 · 1.5 = 2.25.
        (0x3fc0, 0x3fc0, 0x4010),
        // (1 + 1/128) · 1.5 = 1.5 + 1.5/128, halfway between neighbours: to the even one.
        (0x3f81, 0x3fc0, 0x3fc2),
        // (1 + 3/128) · 1.5 = 1.5 + 4.5/128.
        (0x3f83, 0x3fc0, 0x3fc4),
        // 2⁻¹²⁶ · 2⁻⁷ is the smallest number, half of which is halfway to 0.
        (0x0080, 0x3c00, 0x0001),
        (0x0001, 0x3f00, 0x0000),
        (0x0003, 0x3f00, 0x0002),
        // A subnormal factor, and 2⁻¹³³ · 2¹²⁰ = 2⁻¹³.
        (0x0001, 0x7b80, 0x3900),
        // Too large.
        (0x7f00, 0x4000, 0x7f80),
        (0x7f80, 0x3f80, 0x7f80),
        (0x0000, 0x4000, 0x0000),
    ];
    check_products(kernel, &cases, (0x3f80, 0x7f80));
}

/// As [`mul_bf16x2`].
pub fn mul_f16x2(kernel: &Kernel) {
    let cases = [
        // 1.5 · 1.5 = 2.25.
        (0x3e00, 0x3e00, 0x4080),
        // (1 + 1/1024) · 1.5 = 1.5 + 1.5/1024, halfway between neighbours: to the even one.
        (0x3c01, 0x3e00, 0x3e02),
        // (1 + 3/1024) · 1.5 = 1.5 + 4.5/1024.
        (0x3c03, 0x3e00, 0x3e04),
        // 2⁻¹⁴ · 2⁻¹⁰ is the smallest number, half of which is halfway to 0.
        (0x0400, 0x1400, 0x0001),
        (0x0001, 0x3800, 0x0000),
        (0x0003, 0x3800, 0x0002),
        // A subnormal factor, and 2⁻²⁴ · 2¹⁵ = 2⁻⁹.
        (0x0001, 0x7800, 0x1800),
        // Too large.
        (0x7bff, 0x4000, 0x7c00),
        (0x7c00, 0x3c00, 0x7c00),
        (0x0000, 0x4000, 0x0000),
    ];
    check_products(kernel, &cases, (0x3c00, 0x7c00));
}

/// Both factors and their product, as the test says; and bits of 1 and ∞.
fn check_products(kernel: &Kernel, cases: &[(u32, u32, u32)], (one, infinity): (u32, u32)) {
    let mut input = vec![0; 2 * 32];
    for (lane, (a, b, _)) in cases.iter().enumerate() {
        (input[lane], input[32 + lane]) = (a | (a ^ 0x8000) << 16, b | b << 16);
    }
    // 0 · ∞, and NaN · 1.
    let nan = infinity | 0x40;
    (input[cases.len()], input[32 + cases.len()]) = (nan << 16, one << 16 | infinity);
    let found = kernel.run(&Work::new(input, 32));
    for ((a, b, product), found) in cases.iter().zip(&found) {
        let expected = product | (product ^ 0x8000) << 16;
        assert_eq!(*found, expected, "{a:#06x} * {b:#06x}: {found:#010x}, not {expected:#010x}");
    }
    let nans = found[cases.len()];
    assert!((nans & 0x7fff) > infinity && (nans >> 16 & 0x7fff) > infinity, "{nans:#010x}");
}

/// Bytes 0, 2, 4 and 6; then copies of the signs of bytes 6 and 3, and bytes 7 and 1.
pub fn prmt(kernel: &Kernel) {
    let mut input = vec![0; 2 * 32];
    (input[0], input[32]) = (0x8344_5566, 0x00b2_bbcc);
    (input[1], input[33]) = (0x8344_5566, 0x0032_bbcc);
    let found = kernel.run(&Work::new(input, 2 * 32));
    assert_eq!(found[..4], [0xb2cc_4466, 0x5500_ffff, 0x32cc_4466, 0x5500_ff00]);
}

/// As [`prmt`], by the selectors of it and others.
pub fn prmt_by(kernel: &Kernel) {
    let cases = [
        (0x6420, 0xb2cc_4466),
        (0x17be, 0x5500_ffff),
        (0x3210, 0x8344_5566),
        (0x4443, 0xcccc_cc83),
        (0x888b, 0x0000_00ff),
    ];
    let mut input = vec![0; 3 * 32];
    input[..32].fill(0x8344_5566);
    input[32..64].fill(0x00b2_bbcc);
    for (lane, (selector, _)) in cases.into_iter().enumerate() {
        input[64 + lane] = selector;
    }
    let found = kernel.run(&Work::new(input, 32));
    for ((selector, expected), found) in cases.into_iter().zip(found) {
        assert_eq!(found, expected, "{selector:#x}");
    }
}

/// Amounts from the width on leave nothing.
pub fn shr(kernel: &Kernel) {
    let value = 0x8765_4321;
    let amounts = [0, 1, 4, 31, 32, 33, 63, 64, u32::MAX];
    let mut input = vec![value; 2 * 32];
    input[32..][..amounts.len()].copy_from_slice(&amounts);
    let found = kernel.run(&Work::new(input, 32));
    for (amount, found) in amounts.into_iter().zip(found) {
        assert_eq!(found, value.checked_shr(amount).unwrap_or(0), "{amount}");
    }
}

pub fn cvt_f32_f16(kernel: &Kernel) {
    let smallest = 1.0 / (1 << 24) as f32;
    let cases = [
        (0x3c00, 1.0),
        (0xc001, -2.0 - 1.0 / 512.0),
        (0x7bff, 65_504.0),
        (0x0001, smallest),
        (0x83ff, -1023.0 * smallest),
        (0x8000, -0.0),
        (0xfc00, -INFINITY),
    ];
    let mut input = vec![0x7e00; 32];
    cases.iter().zip(&mut input).for_each(|((bits, _), input)| *input = *bits);
    let found = kernel.run(&Work::new(input, 32));
    for ((bits, expected), found) in cases.iter().zip(&found) {
        assert_eq!(*found, f32::to_bits(*expected), "{bits:#06x}");
    }
    assert!(found[cases.len()..].iter().all(|bits| f32::from_bits(*bits).is_nan()));
}

pub fn cvt_e4m3x2(kernel: &Kernel) {
    let step = 1.0 / 8.0;
    let smallest = 1.0 / 512.0;
    check_binary(
        kernel,
        &[
            (1.0, -2.0, 0xc038),
            // Halfway between neighbours: to the even one.
            (1.0 + step / 2.0, 1.0 + step * 1.5, 0x3a38),
            (1.0 + step * 0.51, -0.0, 0x8039),
            (448.0, -INFINITY, 0xfe7e),
            (465.0, -1e-30, 0x807e),
            (smallest, smallest / 2.0, 0x0001),
            (smallest * 1.5, smallest * 7.5, 0x0802),
            (f32::NAN, 0.0, 0x007f),
        ],
    );
}

/// Every code, by IEEE-754's formula on its fields.
pub fn cvt_f16x2_e4m3x2(kernel: &Kernel) {
    let value = |code: u8| {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
        let magnitude =
            if exponent == 0 { mantissa / 512.0 } else { (8.0 + mantissa) * 2_f32.powi(exponent - 10) };
        if code & 0x7f == 0x7f { f32::NAN } else { magnitude.copysign(if code < 0x80 { 1.0 } else { -1.0 }) }
    };
    let codes: Vec<u8> = (0..=u8::MAX).collect();
    for codes in codes.chunks(2 * 32) {
        let input = codes.chunks(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 8).collect();
        let found = kernel.run(&Work::new(input, 32));
        let found = found.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]).map(f16::from_bits);
        for (code, found) in codes.iter().zip(found) {
            let (found, expected) = (found.to_f32(), value(*code));
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{code:#04x}: {found}, not {expected}");
        }
    }
}

/// A function of up to 32 numbers.
fn unary(kernel: &Kernel, mut arguments: Vec<f32>) -> Vec<f32> {
    arguments.resize(32, 1.0);
    let found = kernel.run(&Work::new(arguments.into_iter().map(f32::to_bits).collect(), 32));
    found.into_iter().map(f32::from_bits).collect()
}

/// Checks a function of two numbers against the bits it should give.
fn check_binary(kernel: &Kernel, cases: &[(f32, f32, u32)]) {
    let mut input = vec![0; 2 * 32];
    for (lane, (a, b, _)) in cases.iter().enumerate() {
        (input[lane], input[32 + lane]) = (a.to_bits(), b.to_bits());
    }
    let found = kernel.run(&Work::new(input, 32));
    for ((a, b, expected), found) in cases.iter().zip(found) {
        assert_eq!(found, *expected, "{a} and {b}: {found:#010x}, not {expected:#010x}");
    }
}
