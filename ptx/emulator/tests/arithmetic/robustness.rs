use proptest::prelude::*;
use ptx_emulator::arithmetic::{LANES, Lanes, Operation, Width};

use crate::operation;

/// Mnemonics, alternatives in parentheses, and their operands.
const FAMILY: &[(&str, &str)] = &[
    ("mov.(pred|b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64)", "d, a"),
    ("mov.b64", "d, {a, b}"),
    ("mov.b64", "{a, b, c, d}, e"),
    ("mov.b32", "{a, b, c, d}, e"),
    ("(add|sub|min|max|div|rem).(u16|s16|u32|s32|u64|s64)", "d, a, b"),
    ("(add.cc|addc|addc.cc|sub.cc|subc|subc.cc).(u32|s32|u64|s64)", "d, a, b"),
    ("(mad.lo.cc|mad.hi.cc|madc.lo|madc.hi|madc.lo.cc|madc.hi.cc).(u32|s32|u64|s64)", "d, a, b, c"),
    ("(add|sub).sat.s32", "d, a, b"),
    ("(add|min|max).(u16x2|s16x2)", "d, a, b"),
    ("(min|max).relu.(s32|s16x2)", "d, a, b"),
    ("mul.(lo|hi).(u16|s16|u32|s32|u64|s64)", "d, a, b"),
    ("mul.wide.(u16|s16|u32|s32)", "d, a, b"),
    ("mad.(lo|hi).(u16|s16|u32|s32|u64|s64)", "d, a, b, c"),
    ("mad.wide.(u16|s16|u32|s32)", "d, a, b, c"),
    ("mad.hi.sat.s32", "d, a, b, c"),
    ("mul24.(lo|hi).(u32|s32)", "d, a, b"),
    ("mad24.(lo|hi|hi.sat).s32", "d, a, b, c"),
    ("(abs|neg).(s16|s32|s64|f16|f16x2|bf16|bf16x2|f32|f64)", "d, a"),
    ("sad.(u16|s16|u32|s32|u64|s64)", "d, a, b, c"),
    ("dp4a.(u32|s32).(u32|s32)", "d, a, b, c"),
    ("dp2a.(lo|hi).(u32|s32).(u32|s32)", "d, a, b, c"),
    ("(popc|clz|brev).(b32|b64)", "d, a"),
    ("(bfind|bfind.shiftamt).(u32|s32|u64|s64)", "d, a"),
    ("bfe.(u32|s32|u64|s64)", "d, a, b, c"),
    ("bfi.(b32|b64)", "d, a, b, c, e"),
    ("bmsk.(wrap|clamp).b32", "d, a, b"),
    ("szext.(wrap|clamp).(u32|s32)", "d, a, b"),
    (
        "(prmt.b32|prmt.b32.f4e|prmt.b32.b4e|prmt.b32.rc8|prmt.b32.ecl|prmt.b32.ecr|prmt.b32.rc16)",
        "d, a, b, c",
    ),
    ("(and|or|xor).(pred|b16|b32|b64)", "d, a, b"),
    ("not.(pred|b16|b32|b64)", "d, a"),
    ("cnot.(b16|b32|b64)", "d, a"),
    ("lop3.b32", "d, a, b, c, e"),
    ("lop3.(and|or|xor).b32", "d|p, a, b, c, e, q"),
    ("shl.(b16|b32|b64)", "d, a, b"),
    ("shr.(b16|b32|b64|u16|u32|u64|s16|s32|s64)", "d, a, b"),
    ("shf.(l|r).(wrap|clamp).b32", "d, a, b, c"),
    ("setp.(eq|ne|lt|le|gt|ge).(u16|s16|u32|s32|u64|s64|f16|bf16|f32|f64)", "p|q, a, b"),
    ("setp.(equ|neu|ltu|leu|gtu|geu|num|nan).(and|or|xor).(f16|bf16|f32|f64|f16x2|bf16x2)", "p|q, a, b, c"),
    ("set.(lt|ge).(u32|s32|f32).(u16|s16|u32|s32|u64|s64|f16|bf16|f32|f64)", "d, a, b"),
    ("set.(ltu|nan).xor.(f16x2.f16x2|bf16x2.bf16x2)", "d, a, b, c"),
    ("selp.(b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64)", "d, a, b, c"),
    ("slct.(b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64).(s32|f32)", "d, a, b, c"),
    ("(add|sub|mul).(f32|rn.f32|rz.f32|rm.f32|rp.f32|ftz.f32|sat.f32|rz.ftz.sat.f32|f64|rn.f64)", "d, a, b"),
    ("(add|sub|mul).(f16|f16x2|rn.f16|ftz.f16|sat.f16x2|ftz.sat.f16|bf16|bf16x2)", "d, a, b"),
    (
        "fma.rn.(f32|ftz.f32|sat.f32|f64|f16|f16x2|ftz.relu.f16|sat.f16x2|bf16|relu.bf16|relu.bf16x2)",
        "d, a, b, c",
    ),
    ("fma.(rz|rm|rp).(f32|ftz.f32|sat.f32)", "d, a, b, c"),
    ("(min|max).(f32|ftz.f32|NaN.f32|NaN.xorsign.abs.f32|f64)", "d, a, b"),
    ("(min|max).(f16|ftz.NaN.f16x2|xorsign.abs.f16|bf16|NaN.bf16x2)", "d, a, b"),
    ("copysign.(f32|f64)", "d, a, b"),
    ("testp.(finite|infinite|number|notanumber|normal|subnormal).(f32|f64)", "p, a"),
    ("div.(rn.f32|rz.f32|rm.f32|rp.f32|full.f32|approx.f32|full.ftz.f32|approx.ftz.f32|rn.f64)", "d, a, b"),
    ("(rcp|sqrt).(rn.f32|rz.f32|rm.f32|rp.f32|approx.f32|approx.ftz.f32|rn.ftz.f32|rn.f64)", "d, a"),
    ("(rsqrt|ex2|lg2|sin|cos).(approx.f32|approx.ftz.f32)", "d, a"),
    ("(ex2|tanh).approx.(f16|f16x2)", "d, a"),
    (
        "(tanh.approx.f32|tanh.approx.bf16x2|ex2.approx.ftz.bf16|ex2.approx.ftz.bf16x2|rsqrt.approx.f64)",
        "d, a",
    ),
    ("(cvt|cvt.sat).(u8|s8|u16|s16|u32|s32|u64|s64).(u8|s8|u16|s16|u32|s32|u64|s64)", "d, a"),
    ("cvt.(rn|rz|rm|rp).(f16|bf16|f32|f64).(u8|s8|u16|s16|u32|s32|u64|s64)", "d, a"),
    ("cvt.(rni|rzi|rmi|rpi).(u8|s8|u16|s16|u32|s32|u64|s64).(f16|bf16|f32|f64)", "d, a"),
    ("cvt.(f32.f16|f32.bf16|f64.f32|f64.f16|ftz.f32.f16)", "d, a"),
    ("cvt.(sat.f32.f32|ftz.f32.f32|rni.ftz.f32.f32|rmi.f64.f64)", "d, a"),
    ("cvt.(rn|rz|rm|rp).(f16.f32|bf16.f32|f32.f64|f16.f64|ftz.f32.f64|ftz.sat.f16.f32)", "d, a"),
    ("cvt.(rn|rz).(f16x2|bf16x2|relu.f16x2|satfinite.bf16x2).f32", "d, a, b"),
    ("cvt.(rna.tf32|rn.tf32|rz.relu.satfinite.tf32).f32", "d, a"),
    ("cvt.rn.satfinite.(e4m3x2|e5m2x2|relu.e4m3x2).f32", "d, a, b"),
    ("cvt.rn.satfinite.(e4m3x2|e5m2x2|relu.e5m2x2).f16x2", "d, a"),
    ("cvt.rn.(f16x2|relu.f16x2).(e4m3x2|e5m2x2)", "d, a"),
    ("cvt.pack.sat.(u16|s16).s32", "d, a, b"),
    ("cvt.pack.sat.(u8|s8).s32.b32", "d, a, b, c"),
];

/// Every combination of a pattern's alternatives.
fn expand(pattern: &str) -> Vec<String> {
    let Some((head, (alternatives, tail))) =
        pattern.split_once('(').and_then(|(head, rest)| Some((head, rest.split_once(')')?)))
    else {
        return vec![pattern.to_owned()];
    };
    let tails = expand(tail);
    alternatives
        .split('|')
        .flat_map(|alternative| tails.iter().map(move |tail| format!("{head}{alternative}{tail}")))
        .collect()
}

fn all() -> Vec<(String, Operation)> {
    let texts = FAMILY.iter().flat_map(|(pattern, operands)| {
        expand(pattern).into_iter().map(move |mnemonic| format!("{mnemonic} {operands}"))
    });
    texts.map(|text| (text.clone(), operation(&text))).collect()
}

fn bits(width: Width) -> u32 {
    match width {
        Width::Pred => 1,
        Width::B8 => 8,
        Width::B16 => 16,
        Width::B32 => 32,
        Width::B64 => 64,
    }
}

/// No panic, nothing above the width of a result, and nothing read above that of an operand.
fn check_all(operations: &[(String, Operation)], operands: &[Lanes]) {
    for (text, operation) in operations {
        let full = &operands[..operation.operands().len()];
        let mut narrow = full.to_vec();
        for (lanes, &width) in narrow.iter_mut().zip(operation.operands()) {
            for lane in lanes {
                *lane &= u64::MAX >> (u64::BITS - bits(width));
            }
        }
        let mut results = vec![[u64::MAX; LANES]; operation.results().len()];
        let mut from_narrow = results.clone();
        operation.evaluate(full, &mut results);
        operation.evaluate(&narrow, &mut from_narrow);
        assert_eq!(results, from_narrow, "{text}");
        for (lanes, &width) in results.iter().zip(operation.results()) {
            assert!(lanes.iter().all(|lane| u128::from(*lane) >> bits(width) == 0), "{text}");
        }
    }
}

const CORNERS: [u64; 20] = [
    0,
    1,
    u64::MAX,
    1 << 63,
    i64::MAX as u64,
    0x8000_0000_8000_0000,
    0x7fff_ffff_7fff_ffff,
    0x7f80_0000_7f80_0000,
    0xff80_0000_ff80_0000,
    0x7fc0_0000_7f80_0001,
    0x0000_0001_0000_0001,
    0x8000_0001_807f_ffff,
    0x7fef_ffff_ffff_ffff,
    0xfff0_0000_0000_0000,
    0x8000_8000_8000_8000,
    0x7c00_7c00_7c00_7c00,
    0x7f7f_ffff_7f7f_ffff,
    0x3f80_0000_3f80_0000,
    0x0000_0020_0000_0020,
    0x0080_0000_0080_0000,
];

#[test]
fn corners() {
    let operations = all();
    // Lane by lane another rotation, so that every pair of corners meets.
    for first in 0..CORNERS.len() {
        for second in 0..CORNERS.len() {
            let operands: Vec<Lanes> = [0, first, second, first + second, first * 3 + second]
                .map(|rotation| std::array::from_fn(|lane| CORNERS[(lane + rotation) % CORNERS.len()]))
                .to_vec();
            check_all(&operations, &operands);
        }
    }
}

#[test]
fn random_bits() {
    let operations = all();
    let lanes = prop::collection::vec(prop::array::uniform32(any::<u64>()), 5);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(100));
    runner
        .run(&lanes, |operands| {
            check_all(&operations, &operands);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
