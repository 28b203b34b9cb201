use proptest::prelude::*;

use crate::exact::{BF16, F16, F32, F64, Layout, sum};
use crate::{check, run, run_many};

const M1: u64 = 0xffff_ffff;
const FLOATS: [(&str, Layout); 4] = [("f16", F16), ("bf16", BF16), ("f32", F32), ("f64", F64)];
/// Name, bits, signed.
const INTEGERS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

fn bits(value: f32) -> u64 {
    value.to_bits().into()
}

#[test]
fn integers_to_integers() {
    check(&[
        ("cvt.u64.u32 d, a", &[M1], &[M1]),
        ("cvt.s64.s32 d, a", &[M1], &[u64::MAX]),
        ("cvt.u32.u64 d, a", &[0x1_2345_6789], &[0x2345_6789]),
        ("cvt.u32.u8 d, a", &[0x1ff], &[0xff]),
        ("cvt.s32.s8 d, a", &[0x80], &[0xffff_ff80]),
        ("cvt.s32.s16 d, a", &[0x8000], &[0xffff_8000]),
        ("cvt.u16.s8 d, a", &[0xff], &[0xffff]),
        ("cvt.s8.s32 d, a", &[0x1_80], &[0xff80]),
        ("cvt.u8.u32 d, a", &[0x180], &[0x80]),
        ("cvt.sat.u8.s32 d, a", &[M1], &[0]),
        ("cvt.sat.u8.s32 d, a", &[300], &[255]),
        ("cvt.sat.s8.s32 d, a", &[300], &[127]),
        ("cvt.sat.s32.u32 d, a", &[M1], &[0x7fff_ffff]),
        ("cvt.sat.u32.s64 d, a", &[1 << 40], &[M1]),
        ("cvt.sat.s16.s64 d, a", &[1 << 63], &[0x8000]),
        ("cvt.pack.sat.s16.s32 d, a, b", &[0x1_0000, M1], &[0x7fff_ffff]),
        ("cvt.pack.sat.u16.s32 d, a, b", &[5, M1], &[0x0005_0000]),
        ("cvt.pack.sat.s8.s32.b32 d, a, b, c", &[200, 0xffff_ff00, 0x1234_5678], &[0x5678_7f80]),
        ("cvt.pack.sat.u8.s32.b32 d, a, b, c", &[300, 7, 0xabcd], &[0xabcd_ff07]),
    ]);
}

#[test]
fn floats_to_integers() {
    check(&[
        ("cvt.rzi.s32.f32 d, a", &[bits(-1.9)], &[M1]),
        ("cvt.rni.s32.f32 d, a", &[bits(2.5)], &[2]),
        ("cvt.rni.s32.f32 d, a", &[bits(3.5)], &[4]),
        ("cvt.rmi.s32.f32 d, a", &[bits(-1.1)], &[M1 - 1]),
        ("cvt.rpi.s32.f32 d, a", &[bits(1.1)], &[2]),
        ("cvt.rzi.u32.f32 d, a", &[bits(-5.0)], &[0]),
        ("cvt.rzi.u32.f32 d, a", &[bits(1e20)], &[M1]),
        ("cvt.rzi.s32.f32 d, a", &[bits(f32::NEG_INFINITY)], &[0x8000_0000]),
        ("cvt.rzi.s32.f32 d, a", &[bits(f32::NAN)], &[0]),
        ("cvt.rzi.u16.f32 d, a", &[bits(f32::NAN)], &[0]),
        ("cvt.rzi.s64.f32 d, a", &[bits(f32::NAN)], &[1 << 63]),
        ("cvt.rzi.u64.f32 d, a", &[bits(f32::NAN)], &[1 << 63]),
        ("cvt.rzi.s32.f64 d, a", &[f64::NAN.to_bits()], &[0x8000_0000]),
        ("cvt.rzi.u32.f64 d, a", &[f64::NAN.to_bits()], &[0x8000_0000]),
        ("cvt.rzi.s32.f16 d, a", &[0x7e00], &[0]),
        ("cvt.rni.s8.f32 d, a", &[bits(200.0)], &[127]),
        ("cvt.rni.s8.f32 d, a", &[bits(-200.0)], &[0xff80]),
        ("cvt.rni.sat.u8.f32 d, a", &[bits(-3.0)], &[0]),
        ("cvt.rpi.s32.f32 d, a", &[1], &[1]),
        ("cvt.rpi.ftz.s32.f32 d, a", &[1], &[0]),
        ("cvt.rzi.s32.bf16 d, a", &[0xc040], &[M1 - 2]),
        ("cvt.rzi.u64.f64 d, a", &[1.8e19f64.to_bits()], &[18_000_000_000_000_000_000]),
    ]);
}

#[test]
fn floats_to_floats() {
    let nan = bits(f32::NAN);
    check(&[
        ("cvt.f32.f16 d, a", &[0x3c01], &[0x3f80_2000]),
        ("cvt.f32.f16 d, a", &[0x7e01], &[0x7fff_ffff]),
        ("cvt.f64.f32 d, a", &[bits(-0.0)], &[1 << 63]),
        ("cvt.rn.f32.f64 d, a", &[0.1f64.to_bits()], &[bits(0.1)]),
        ("cvt.rz.f32.f64 d, a", &[0.1f64.to_bits()], &[bits(0.1) - 1]),
        ("cvt.rn.f32.f64 d, a", &[1e300f64.to_bits()], &[bits(f32::INFINITY)]),
        ("cvt.rm.f32.f64 d, a", &[1e300f64.to_bits()], &[bits(f32::MAX)]),
        ("cvt.rn.f16.f32 d, a", &[bits(65_520.0)], &[0x7c00]),
        ("cvt.rz.f16.f32 d, a", &[bits(65_520.0)], &[0x7bff]),
        ("cvt.rn.satfinite.f16.f32 d, a", &[bits(65_520.0)], &[0x7bff]),
        ("cvt.rn.satfinite.f16.f32 d, a", &[bits(f32::NEG_INFINITY)], &[0xfbff]),
        ("cvt.rn.f16.f32 d, a", &[nan], &[0x7fff]),
        ("cvt.rn.relu.f16.f32 d, a", &[bits(-1.0)], &[0]),
        ("cvt.rn.relu.bf16.f32 d, a", &[bits(-0.0)], &[0]),
        ("cvt.rn.relu.bf16.f32 d, a", &[nan], &[0x7fff]),
        ("cvt.rn.sat.f16.f32 d, a", &[bits(7.0)], &[0x3c00]),
        ("cvt.sat.f32.f32 d, a", &[bits(-7.0)], &[0]),
        ("cvt.sat.f32.f32 d, a", &[nan], &[0]),
        ("cvt.ftz.f32.f32 d, a", &[0x8000_0001], &[0x8000_0000]),
        ("cvt.rn.ftz.f32.f64 d, a", &[1e-40f64.to_bits()], &[0]),
        ("cvt.rn.f32.f64 d, a", &[1e-40f64.to_bits()], &[bits(1e-40)]),
        ("cvt.rni.f32.f32 d, a", &[bits(2.5)], &[bits(2.0)]),
        ("cvt.rpi.f32.f32 d, a", &[bits(-0.5)], &[bits(-0.0)]),
        ("cvt.rzi.f64.f64 d, a", &[(-2.7f64).to_bits()], &[(-2.0f64).to_bits()]),
        ("cvt.rmi.f16.f16 d, a", &[0xbe00], &[0xc000]),
        ("cvt.rn.bf16.f32 d, a", &[0x3f80_8000], &[0x3f80]),
        ("cvt.rn.bf16.f32 d, a", &[0x3f81_8000], &[0x3f82]),
        ("cvt.rz.bf16.f32 d, a", &[0x3f81_ffff], &[0x3f81]),
        ("cvt.f32.bf16 d, a", &[0xbf81], &[0xbf81_0000]),
        ("cvt.rn.f16.bf16 d, a", &[0x7f00], &[0x7c00]),
    ]);
}

#[test]
fn pairs() {
    check(&[
        ("cvt.rn.f16x2.f32 d, a, b", &[bits(1.0), bits(2.0)], &[0x3c00_4000]),
        ("cvt.rn.bf16x2.f32 d, a, b", &[bits(1.0), bits(2.0)], &[0x3f80_4000]),
        ("cvt.rz.f16x2.f32 d, a, b", &[bits(1e6), bits(-1e6)], &[0x7bff_fbff]),
        ("cvt.rn.relu.bf16x2.f32 d, a, b", &[bits(-1.0), bits(1.0)], &[0x0000_3f80]),
        ("cvt.rn.satfinite.f16x2.f32 d, a, b", &[bits(1e6), bits(f32::NAN)], &[0x7bff_7fff]),
    ]);
}

#[test]
fn tensor_floats() {
    check(&[
        ("cvt.rna.tf32.f32 d, a", &[0x3f80_1000], &[0x3f80_2000]),
        ("cvt.rna.tf32.f32 d, a", &[0xbf80_1000], &[0xbf80_2000]),
        ("cvt.rna.tf32.f32 d, a", &[0x3f80_0fff], &[0x3f80_0000]),
        ("cvt.rn.tf32.f32 d, a", &[0x3f80_1000], &[0x3f80_0000]),
        ("cvt.rn.tf32.f32 d, a", &[0x3f80_3000], &[0x3f80_4000]),
        ("cvt.rz.tf32.f32 d, a", &[0x3f80_3fff], &[0x3f80_2000]),
        ("cvt.rna.tf32.f32 d, a", &[0x7f7f_ffff], &[0x7f80_0000]),
        ("cvt.rna.tf32.f32 d, a", &[0x7fc0_0000], &[0x7fc0_0000]),
        ("cvt.rna.tf32.f32 d, a", &[0x7f80_0001], &[0x7f80_0000]),
        ("cvt.rn.tf32.f32 d, a", &[0xffc0_0000], &[0x7fff_e000]),
        ("cvt.rn.relu.tf32.f32 d, a", &[bits(-3.0)], &[0]),
        ("cvt.rn.satfinite.tf32.f32 d, a", &[0x7f80_0000], &[0x7f7f_e000]),
    ]);
}

/// Every code of 16 bits, to f32 and f64 and back.
#[test]
fn every_half_widens_exactly() {
    let codes: Vec<[u64; 1]> = (0..1 << 16).map(|code| [code]).collect();
    for (name, layout) in [("f16", F16), ("bf16", BF16)] {
        for (wide, wide_layout) in [("f32", F32), ("f64", F64)] {
            let widened = run_many(&format!("cvt.{wide}.{name} d, a"), &codes);
            let operands: Vec<[u64; 1]> = widened.iter().map(|&code| [code]).collect();
            let back = run_many(&format!("cvt.rz.{name}.{wide} d, a"), &operands);
            for ([code], (widened, back)) in codes.iter().zip(widened.iter().zip(back)) {
                if layout.is_nan(*code) {
                    assert!(wide_layout.is_nan(*widened));
                    assert_eq!(back, 0x7fff);
                    continue;
                }
                assert_eq!(back, *code);
                assert_eq!(wide_layout.is_finite(*widened), layout.is_finite(*code));
                if layout.is_finite(*code) {
                    let value = wide_layout.term(*widened);
                    assert!(sum(&[layout.term(*code)])(value).is_eq(), "{name} {code:x} is not {widened:x}");
                }
            }
        }
    }
}

/// Both neighbours of every midpoint between codes of 16 bits.
#[test]
fn every_midpoint_rounds() {
    for (name, layout, least) in [("f16", F16, -25), ("bf16", BF16, -134)] {
        let (mut cases, mut expected) = (Vec::new(), Vec::new());
        for code in 0..layout.infinity() {
            let (mantissa, exponent) = layout.term(code);
            assert!(exponent > least);
            let middle = ((2 * mantissa + 1) as f64 * 2.0f64.powi(exponent - 1)) as f32;
            for (sign, factor) in [(0, 1.0), (0x8000, -1.0)] {
                for (value, answer) in
                    [(middle, code + (code & 1)), (middle.next_down(), code), (middle.next_up(), code + 1)]
                {
                    cases.push([bits(value * factor)]);
                    expected.push(sign | answer);
                }
            }
        }
        assert_eq!(run_many(&format!("cvt.rn.{name}.f32 d, a"), &cases), expected);
        let pairs: Vec<[u64; 2]> = cases.iter().map(|[value]| [0, *value]).collect();
        assert_eq!(run_many(&format!("cvt.rn.{name}x2.f32 d, a, b"), &pairs), expected);
    }
}

/// A value of an integer type as a number.
fn number(value: u64, bits: u32, signed: bool) -> i128 {
    let unsigned = i128::from(value) & ((1 << bits) - 1);
    if signed && unsigned >> (bits - 1) != 0 { unsigned - (1 << bits) } else { unsigned }
}

/// A number as a register holds it: extended to 16 bits at least.
fn register(value: i128, bits: u32) -> u64 {
    (value & ((1 << bits.max(16)) - 1)) as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn integers_agree_with_big_integers(value: u64, shift in 0..64u32) {
        for (from, from_bits, from_signed) in INTEGERS {
            let operand = register(number(value >> shift, from_bits, from_signed), from_bits);
            let exact = number(operand, from_bits, from_signed);
            for (to, to_bits, to_signed) in INTEGERS {
                let truncated = register(number(exact as u64, to_bits, to_signed), to_bits);
                prop_assert_eq!(run(&format!("cvt.{to}.{from} d, a"), &[operand]), vec![truncated]);
                let least = if to_signed { -(1i128 << (to_bits - 1)) } else { 0 };
                let clamped = register(exact.clamp(least, least + (1 << to_bits) - 1), to_bits);
                prop_assert_eq!(run(&format!("cvt.sat.{to}.{from} d, a"), &[operand]), vec![clamped]);
            }
            for (to, layout) in FLOATS {
                for rounding in ["rn", "rz", "rm", "rp"] {
                    let text = format!("cvt.{rounding}.{to}.{from} d, a");
                    let found = run(&text, &[operand])[0];
                    let is_rounded = layout.is_rounded(found, rounding, sum(&[(exact, 0)]));
                    prop_assert!(is_rounded, "{} {}", text, exact);
                }
            }
        }
    }

    #[test]
    fn floats_round_exactly(code: u64, scale in -160..160i32) {
        // Every bit of the fraction, exponents around those of the narrower formats.
        let value = f64::from_bits(code & !(0x7ff << 52) | 1_023 << 52) * 2.0f64.powi(scale);
        for (from, from_layout) in FLOATS {
            let operand = match from {
                "f64" => value.to_bits(),
                "f32" => bits(value as f32),
                _ => code & 0xffff,
            };
            if !from_layout.is_finite(operand) {
                continue;
            }
            let exact = from_layout.term(operand);
            for (to, to_layout) in FLOATS {
                if from == to || to == "f64" || to == "f32" && from != "f64" {
                    continue;
                }
                for rounding in ["rn", "rz", "rm", "rp"] {
                    let text = format!("cvt.{rounding}.{to}.{from} d, a");
                    let found = run(&text, &[operand])[0];
                    let is_rounded = to_layout.is_rounded(found, rounding, sum(&[exact]));
                    prop_assert!(is_rounded, "{} {:x}", text, operand);
                }
            }
        }
    }

    #[test]
    fn floats_to_integers_agree_with_the_host(code: u32, scale in -2..70i32, fraction: u32) {
        let any = f32::from_bits(code);
        let sized = f32::from_bits(fraction & 0x807f_ffff | 127 << 23) * 2.0f32.powi(scale);
        for value in [any, sized] {
            if value.is_nan() {
                continue;
            }
            let found = |name: &str| run(&format!("cvt.{name}.f32 d, a"), &[bits(value)])[0];
            prop_assert_eq!(found("rzi.s32"), u64::from(value as i32 as u32));
            prop_assert_eq!(found("rzi.u32"), u64::from(value as u32));
            prop_assert_eq!(found("rzi.s64"), value as i64 as u64);
            prop_assert_eq!(found("rzi.u64"), value as u64);
            prop_assert_eq!(found("rmi.s64"), value.floor() as i64 as u64);
            prop_assert_eq!(found("rpi.s16"), u64::from(value.ceil() as i16 as u16));
            prop_assert_eq!(found("rni.u16"), u64::from(value.round_ties_even() as u16));
        }
    }
}
