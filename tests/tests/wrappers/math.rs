//! [`ptx/math.rs`](../../../kernels-gpu/src/ptx/math.rs)

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
