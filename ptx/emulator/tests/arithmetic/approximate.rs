use crate::{check, run, run_many};

const NAN: u64 = 0x7fff_ffff;
const INF: u64 = 0x7f80_0000;
const NEG: u64 = 0x8000_0000;
const ONE: u64 = 0x3f80_0000;

fn bits(value: f32) -> u64 {
    value.to_bits().into()
}

fn value(code: u64) -> f64 {
    f64::from(f32::from_bits(code as u32))
}

#[test]
fn special_numbers() {
    check(&[
        ("ex2.approx.ftz.f32 d, a", &[INF | NEG], &[0]),
        ("ex2.approx.ftz.f32 d, a", &[INF], &[INF]),
        ("ex2.approx.ftz.f32 d, a", &[NEG], &[ONE]),
        ("ex2.approx.f32 d, a", &[1], &[ONE]),
        ("ex2.approx.f32 d, a", &[NAN], &[NAN]),
        ("ex2.approx.f32 d, a", &[bits(3.0)], &[bits(8.0)]),
        ("ex2.approx.f32 d, a", &[bits(-149.0)], &[1]),
        ("ex2.approx.ftz.f32 d, a", &[bits(-149.0)], &[0]),
        ("ex2.approx.ftz.f32 d, a", &[bits(-126.0)], &[0x0080_0000]),
        ("ex2.approx.f32 d, a", &[bits(128.0)], &[INF]),
        ("ex2.approx.f32 d, a", &[bits(f32::MAX)], &[INF]),
        ("ex2.approx.f32 d, a", &[bits(f32::MIN)], &[0]),
        ("lg2.approx.f32 d, a", &[0], &[INF | NEG]),
        ("lg2.approx.f32 d, a", &[NEG], &[INF | NEG]),
        ("lg2.approx.f32 d, a", &[bits(-1.0)], &[NAN]),
        ("lg2.approx.f32 d, a", &[INF], &[INF]),
        ("lg2.approx.f32 d, a", &[ONE], &[0]),
        ("lg2.approx.f32 d, a", &[1], &[bits(-149.0)]),
        ("lg2.approx.ftz.f32 d, a", &[1], &[INF | NEG]),
        ("rcp.approx.f32 d, a", &[0], &[INF]),
        ("rcp.approx.f32 d, a", &[NEG], &[INF | NEG]),
        ("rcp.approx.f32 d, a", &[INF | NEG], &[NEG]),
        ("rcp.approx.ftz.f32 d, a", &[1], &[INF]),
        ("rcp.approx.ftz.f32 d, a", &[bits(f32::MAX)], &[0]),
        ("sqrt.approx.f32 d, a", &[NEG], &[NEG]),
        ("sqrt.approx.f32 d, a", &[bits(-1.0)], &[NAN]),
        ("sqrt.approx.ftz.f32 d, a", &[1], &[0]),
        ("rsqrt.approx.f32 d, a", &[NEG], &[INF | NEG]),
        ("rsqrt.approx.f32 d, a", &[INF], &[0]),
        ("rsqrt.approx.f32 d, a", &[bits(-4.0)], &[NAN]),
        ("rsqrt.approx.f64 d, a", &[4.0f64.to_bits()], &[0.5f64.to_bits()]),
        ("sin.approx.f32 d, a", &[INF], &[NAN]),
        ("sin.approx.f32 d, a", &[NEG], &[NEG]),
        ("cos.approx.f32 d, a", &[0], &[ONE]),
        ("tanh.approx.f32 d, a", &[INF | NEG], &[ONE | NEG]),
        ("tanh.approx.f32 d, a", &[NEG], &[NEG]),
        ("div.approx.f32 d, a, b", &[bits(1.0), bits(4.0)], &[bits(0.25)]),
        ("div.approx.f32 d, a, b", &[bits(1.7e38), bits(1.7e38)], &[0]),
        ("div.full.f32 d, a, b", &[bits(1.7e38), bits(1.7e38)], &[ONE]),
        ("div.approx.f32 d, a, b", &[INF, bits(1.7e38)], &[NAN]),
        ("div.approx.ftz.f32 d, a, b", &[ONE, 1], &[INF]),
        ("div.full.ftz.f32 d, a, b", &[1, ONE], &[0]),
        ("ex2.approx.f16 d, a", &[0x4200], &[0x4800]),
        ("ex2.approx.f16 d, a", &[0xfc00], &[0]),
        ("ex2.approx.f16x2 d, a", &[0x3c00_0000], &[0x4000_3c00]),
        ("ex2.approx.ftz.bf16 d, a", &[0x4040], &[0x4100]),
        ("ex2.approx.ftz.bf16x2 d, a", &[0x3f80_bf80], &[0x4000_3f00]),
        ("tanh.approx.f16 d, a", &[0x7c00], &[0x3c00]),
        ("tanh.approx.bf16x2 d, a", &[0x7f80_ff80], &[0x3f80_bf80]),
    ]);
}

/// Relative error of a result that was rounded once: half a unit in the last place, and what the reference itself is off
/// by. Well below any bound of the ISA.
const ROUNDED_ONCE: f64 = 0.500_001 / (1 << 23) as f64;

/// sin, from its series.
fn sine(x: f64) -> f64 {
    let (mut term, mut sum) = (x, 0.0);
    for n in 1..40 {
        sum += term;
        term *= -x * x / f64::from(2 * n * (2 * n + 1));
    }
    sum
}

/// tanh, from the exponential function.
fn hyperbolic_tangent(x: f64) -> f64 {
    let power = (2.0 * x).exp();
    (power - 1.0) / (power + 1.0)
}

/// Instruction, the function by another way than the emulator's, operands from and to.
type Function = (&'static str, fn(f64) -> f64, f64, f64);

const FUNCTIONS: [Function; 8] = [
    ("ex2.approx.f32", f64::exp2, -126.0, 127.9),
    ("ex2.approx.ftz.f32", f64::exp2, -1.0, 1.0),
    ("lg2.approx.f32", |x| x.ln() * std::f64::consts::LOG2_E, 1.5, 1e6),
    ("rcp.approx.f32", |x| x.powi(-1), 1e-30, 1e30),
    ("rsqrt.approx.f32", |x| x.powf(-0.5), 1e-30, 1e30),
    ("sin.approx.f32", sine, 0.1, 3.0),
    ("cos.approx.f32", |x| sine(x + std::f64::consts::FRAC_PI_2), 0.1, 1.5),
    ("tanh.approx.f32", hyperbolic_tangent, 0.1, 8.0),
];

#[test]
fn rounds_once() {
    const STEPS: u32 = 4_096;
    for (name, function, from, to) in FUNCTIONS {
        let operands: Vec<[u64; 1]> = (0..=STEPS)
            .map(|step| [bits((from + (to - from) * f64::from(step) / f64::from(STEPS)) as f32)])
            .collect();
        for ([operand], found) in operands.iter().zip(run_many(&format!("{name} d, a"), &operands)) {
            let (expected, found) = (function(value(*operand)), value(found));
            assert!(
                (found - expected).abs() <= ROUNDED_ONCE * expected.abs(),
                "{name} of {} is {found}, not {expected}",
                value(*operand)
            );
        }
    }
}

#[test]
fn powers_of_two_are_exact() {
    for exponent in -149..128 {
        let power = if exponent < -126 { 1 << (exponent + 149) } else { ((exponent + 127) as u64) << 23 };
        assert_eq!(run("ex2.approx.f32 d, a", &[bits(exponent as f32)]), [power]);
        assert_eq!(run("lg2.approx.f32 d, a", &[power]), [bits(exponent as f32)]);
    }
}

/// Type, its `.ftz` if `ex2` must have it, half a unit of 1, half the smallest result or all of it if that is flushed.
const HALVES: [(&str, &str, f64, f64); 2] = [
    ("f16", "", 1.0 / (1 << 11) as f64, 1.0 / (1 << 25) as f64),
    ("bf16", ".ftz", 1.0 / (1 << 8) as f64, 1e-37),
];

/// Every code of 16 bits.
#[test]
fn half_precision() {
    let codes: Vec<[u64; 1]> = (0..1 << 16).map(|code| [code]).collect();
    for (ty, ftz, unit, least) in HALVES {
        let widen = |codes: &[[u64; 1]]| run_many(&format!("cvt.f32.{ty} d, a"), codes);
        let apply = |name: &str| {
            let found =
                run_many(&format!("{name}.approx{}.{ty} d, a", if name == "ex2" { ftz } else { "" }), &codes);
            widen(&found.iter().map(|&code| [code]).collect::<Vec<_>>())
        };
        for ((operand, power), tangent) in widen(&codes).iter().zip(apply("ex2")).zip(apply("tanh")) {
            let [operand, power, tangent] = [*operand, power, tangent].map(value);
            if operand.is_nan() {
                assert!(power.is_nan() && tangent.is_nan());
                continue;
            }
            // The reference's difference loses digits near zero, where tanh is the identity.
            let exact_tangent =
                if operand.abs() < 1e-4 { operand } else { hyperbolic_tangent(operand.clamp(-99.0, 99.0)) };
            let exact_power = operand.exp2();
            for (found, expected) in [(power, exact_power), (tangent, exact_tangent)] {
                // Beyond, f16 rounds to infinity; bf16 does beyond 2^128.
                if expected.abs() < 65_000.0 {
                    let error = (found - expected).abs();
                    assert!(
                        error <= 1.001 * unit * expected.abs() + least,
                        "{ty} of {operand}: {found}, not {expected}"
                    );
                }
            }
        }
    }
}
