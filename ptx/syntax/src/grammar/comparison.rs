//! Comparison and Selection Instructions; Half Precision Comparison Instructions.

pub(super) const FORMS: &str = "
    // set
    set.COMPARE_BITS(.u32|.s32|.f32).BITS d, a, b
    set.COMPARE_BITS.BOOL(.u32|.s32|.f32).BITS d, a, b, !p
    set.COMPARE_INT(.u32|.s32|.f32).INT d, a, b
    set.COMPARE_INT.BOOL(.u32|.s32|.f32).INT d, a, b, !p
    set.COMPARE_FLOAT{.ftz}(.u32|.s32|.f32).f32 d, x, y
    set.COMPARE_FLOAT.BOOL{.ftz}(.u32|.s32|.f32).f32 d, x, y, !p
    set.COMPARE_FLOAT(.u32|.s32|.f32).f64 d, x, y
    set.COMPARE_FLOAT.BOOL(.u32|.s32|.f32).f64 d, x, y, !p
    set.COMPARE_FLOAT{.ftz}(.f16|.bf16|.u16|.s16|.u32|.s32)(.f16|.bf16) d, a, b
    set.COMPARE_FLOAT.BOOL{.ftz}(.f16|.bf16|.u16|.s16|.u32|.s32)(.f16|.bf16) d, a, b, !p
    set.COMPARE_FLOAT{.ftz}(.f16x2.f16x2|.bf16x2.bf16x2) d, a, b
    set.COMPARE_FLOAT.BOOL{.ftz}(.f16x2.f16x2|.bf16x2.bf16x2) d, a, b, !p

    // setp
    setp.COMPARE_INT.INT d{|p}, a, b
    setp.COMPARE_INT.BOOL.INT d{|p}, a, b, !p
    setp.COMPARE_BITS.BITS d{|p}, a, b
    setp.COMPARE_BITS.BOOL.BITS d{|p}, a, b, !p
    setp.COMPARE_FLOAT({.ftz}.f32|.f64) d{|p}, x, y
    setp.COMPARE_FLOAT.BOOL({.ftz}.f32|.f64) d{|p}, x, y, !p
    setp.COMPARE_FLOAT({.ftz}.f16|.bf16) d{|p}, a, b
    setp.COMPARE_FLOAT.BOOL({.ftz}.f16|.bf16) d{|p}, a, b, !p
    setp.COMPARE_FLOAT({.ftz}.f16x2|.bf16x2) d|p, a, b
    setp.COMPARE_FLOAT.BOOL({.ftz}.f16x2|.bf16x2) d|p, a, b, !p

    // selp
    selp(.BITS|.INT) d, v, v, p
    selp(.f32|.f64) d, x, y, p

    // slct
    slct(.BITS|.INT|.f32|.f64).s32 d, v, v, a
    slct{.ftz}(.BITS|.INT|.f32|.f64).f32 d, v, v, x
";
