//! Floating-Point Instructions.

pub(super) const FORMS: &str = "
    // testp, copysign
    testp(.finite|.infinite|.number|.notanumber|.normal|.subnormal)(.f32|.f64) p, x
    copysign(.f32|.f64) d, x, y

    // add, sub, mul
    add{.ROUND}{.ftz}{.sat}.f32 d, x, y
    add{.ROUND}.f64 d, x, y
    add{.ROUND}{.ftz}.f32x2 d, r, r
    sub{.ROUND}{.ftz}{.sat}.f32 d, x, y
    sub{.ROUND}.f64 d, x, y
    sub{.ROUND}{.ftz}.f32x2 d, r, r
    mul{.ROUND}{.ftz}{.sat}.f32 d, x, y
    mul{.ROUND}.f64 d, x, y
    mul{.ROUND}{.ftz}.f32x2 d, r, r

    // fma, mad
    fma.ROUND{.ftz}{.sat}.f32 d, x, y, z
    fma.ROUND.f64 d, x, y, z
    fma.ROUND{.ftz}.f32x2 d, r, r, r
    mad.ROUND{.ftz}{.sat}.f32 d, x, y, z
    mad.ROUND.f64 d, x, y, z

    // div
    div(.approx|.full|.ROUND){.ftz}.f32 d, x, y
    div.ROUND.f64 d, x, y

    // abs, neg
    abs({.ftz}.f32|.f64) d, x
    neg({.ftz}.f32|.f64) d, x

    // min, max
    min{.ftz}{.NaN}{.xorsign.abs}.f32 d, x, y
    min.f64 d, x, y
    max{.ftz}{.NaN}{.xorsign.abs}.f32 d, x, y
    max.f64 d, x, y

    // rcp, rcp.approx.ftz.f64, sqrt, rsqrt, rsqrt.approx.ftz.f64
    rcp(.approx|.ROUND){.ftz}.f32 d, x
    rcp(.ROUND|.approx.ftz).f64 d, x
    sqrt(.approx|.ROUND){.ftz}.f32 d, x
    sqrt.ROUND.f64 d, x
    rsqrt.approx{.ftz}(.f32|.f64) d, x

    // sin, cos, lg2, ex2, tanh
    sin.approx{.ftz}.f32 d, x
    cos.approx{.ftz}.f32 d, x
    lg2.approx{.ftz}.f32 d, x
    ex2.approx{.ftz}.f32 d, x
    tanh.approx.f32 d, x
";
