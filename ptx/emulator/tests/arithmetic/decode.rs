use ptx_emulator::arithmetic::{DecodeError, Width};

use crate::{decode, operation};

#[test]
fn leaves_other_families_alone() {
    for text in [
        "ld.global.b32 a, [b]",
        "bra.uni a",
        "bar.sync 0",
        "shfl.sync.bfly.b32 a, b, 1, 31, -1",
        "cvta.to.global.u64 a, b",
    ] {
        assert!(matches!(decode(text), Ok(None)), "{text}");
    }
}

#[test]
fn says_the_widths() {
    let cases: [(&str, &[Width], &[Width]); 8] = [
        ("mul.wide.u32 d, a, b", &[Width::B64], &[Width::B32, Width::B32]),
        ("cvt.u64.u32 d, a", &[Width::B64], &[Width::B32]),
        ("cvt.s32.s8 d, a", &[Width::B32], &[Width::B16]),
        (
            "setp.lt.and.f32 p|q, a, b, !c",
            &[Width::Pred, Width::Pred],
            &[Width::B32, Width::B32, Width::Pred],
        ),
        ("shl.b64 d, a, b", &[Width::B64], &[Width::B64, Width::B32]),
        ("popc.b64 d, a", &[Width::B32], &[Width::B64]),
        ("cvt.rn.satfinite.e4m3x2.f32 d, a, b", &[Width::B16], &[Width::B32, Width::B32]),
        ("addc.cc.u32 d, a, b", &[Width::B32, Width::Pred], &[Width::B32, Width::B32, Width::Pred]),
    ];
    for (text, results, operands) in cases {
        let operation = operation(text);
        assert_eq!(operation.results(), results, "{text}");
        assert_eq!(operation.operands(), operands, "{text}");
    }
}

#[test]
fn says_who_uses_the_carry() {
    for (text, reads, writes) in [
        ("add.u32 d, a, b", false, false),
        ("add.cc.u32 d, a, b", false, true),
        ("addc.u32 d, a, b", true, false),
        ("madc.lo.cc.u64 d, a, b, c", true, true),
    ] {
        let operation = operation(text);
        assert_eq!((operation.reads_carry(), operation.writes_carry()), (reads, writes), "{text}");
    }
}

#[test]
fn names_what_is_wrong() {
    let error = |text| decode(text).expect_err(text);
    assert!(
        matches!(error("add.rn.s32 d, a, b"), DecodeError::Modifier { modifier, .. } if modifier == "rn")
    );
    assert!(
        matches!(error("add.rz.f64 d, a, b"), DecodeError::Modifier { modifier, .. } if modifier == "rz")
    );
    assert!(matches!(error("add.sat.u32 d, a, b"), DecodeError::Modifier { .. }));
    for text in [
        "min.ftz.f64 d, a, b",
        "abs.ftz.bf16 d, a",
        "max.ftz.bf16 d, a, b",
        "cvt.rn.relu.f32.f64 d, a",
        "cvt.rn.sat.f16x2.f32 d, a, b",
        "cvt.rzi.f32.f16 d, a",
        "cvt.rn.f64.f32 d, a",
        "fma.rz.bf16 d, a, b, c",
    ] {
        assert!(matches!(error(text), DecodeError::Modifier { .. }), "{text}");
    }
    assert!(matches!(error("setp.lo.s32 p, a, b"), DecodeError::MissingModifier { .. }));
    assert!(matches!(error("setp.lt.b32 p, a, b"), DecodeError::MissingModifier { .. }));
    assert!(matches!(error("mul.s32 d, a, b"), DecodeError::MissingModifier { .. }));
    assert!(matches!(error("cvt.f16.f32 d, a"), DecodeError::MissingModifier { .. }));
    assert!(matches!(error("cvt.rn.e4m3x2.f32 d, a, b"), DecodeError::MissingModifier { .. }));
    assert!(matches!(error("div.f32 d, a, b"), DecodeError::MissingModifier { .. }));
    assert!(matches!(error("add.b32 d, a, b"), DecodeError::Type { ty, .. } if ty == "b32"));
    assert!(matches!(error("and.f32 d, a, b"), DecodeError::Type { .. }));
    assert!(matches!(error("mul.wide.u64 d, a, b"), DecodeError::Type { .. }));
    assert!(matches!(error("mov.b64 d, {a, b, c}"), DecodeError::Type { .. }));
    assert!(matches!(error("add d, a, b"), DecodeError::TypeCount { needed: 1, found: 0, .. }));
    assert!(matches!(error("cvt.u32 d, a"), DecodeError::TypeCount { needed: 2, found: 1, .. }));
    assert!(matches!(
        error("add.s32 d, a"),
        DecodeError::OperandCount { operands: 1, needed_operands: 2, results: 1, needed_results: 1, .. }
    ));
    assert!(matches!(error("add.s32 d|p, a, b"), DecodeError::OperandCount { results: 2, .. }));
    assert!(matches!(
        error("add.s32 d, {a, b}"),
        DecodeError::OperandForm { index: 1, form: "a vector", .. }
    ));
    assert!(matches!(error("mov.b32 d, [a]"), DecodeError::OperandForm { form: "an address", .. }));
    assert!(matches!(error("add.s32 d, _, b"), DecodeError::OperandForm { form: "a sink", .. }));
    assert!(matches!(
        error("add.s32 1, a, b"),
        DecodeError::OperandForm { index: 0, form: "a constant", .. }
    ));
    let text = error("add.rn.s32 d, a, b").to_string();
    assert_eq!(text, "`add.rn.s32`: modifier `.rn` is not supported here");
}
