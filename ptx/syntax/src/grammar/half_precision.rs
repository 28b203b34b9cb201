//! Half Precision Floating-Point Instructions. Constants are given as their bits.

pub(super) const FORMS: &str = "
    // add, sub, mul
    add{.rn}{.ftz}{.sat}(.f16|.f16x2) d, a, b
    add{.rn}(.bf16|.bf16x2) d, a, b
    sub{.rn}{.ftz}{.sat}(.f16|.f16x2) d, a, b
    sub{.rn}(.bf16|.bf16x2) d, a, b
    mul{.rn}{.ftz}{.sat}(.f16|.f16x2) d, a, b
    mul{.rn}(.bf16|.bf16x2) d, a, b

    // fma
    fma.rn{.ftz}{.sat|.relu}(.f16|.f16x2) d, a, b, c
    fma.rn{.relu}(.bf16|.bf16x2) d, a, b, c
    fma.rn.oob{.relu}(.f16|.f16x2|.bf16|.bf16x2) d, a, b, c

    // neg, abs
    neg{.ftz}(.f16|.f16x2) d, a
    neg(.bf16|.bf16x2) d, a
    abs{.ftz}(.f16|.f16x2) d, a
    abs(.bf16|.bf16x2) d, a

    // min, max
    min{.ftz}{.NaN}{.xorsign.abs}(.f16|.f16x2) d, a, b
    min{.NaN}{.xorsign.abs}(.bf16|.bf16x2) d, a, b
    max{.ftz}{.NaN}{.xorsign.abs}(.f16|.f16x2) d, a, b
    max{.NaN}{.xorsign.abs}(.bf16|.bf16x2) d, a, b

    // tanh, ex2
    tanh.approx(.f16|.f16x2|.bf16|.bf16x2) d, a
    ex2.approx(.f16|.f16x2) d, a
    ex2.approx.ftz(.bf16|.bf16x2) d, a
";
