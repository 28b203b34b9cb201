//! Data Movement and Conversion Instructions: conversions.

pub(super) const FORMS: &str = "
    // cvt: between integers
    cvt{.sat}(.u8|.s8|.INT)(.u8|.s8|.INT) d, a

    // cvt: between integers and floating point
    cvt.ROUND_TO_INT{.ftz}{.sat}(.u8|.s8|.INT)(.f16|.bf16|.f32|.f64) d, v
    cvt.ROUND{.ftz}{.sat}(.f16|.bf16|.f32|.f64)(.u8|.s8|.INT) d, a

    // cvt: to a wider type, or to an integral value of the same
    cvt{.ftz}{.sat}(.f32|.f64)(.f16|.bf16) d, r
    cvt{.ftz}{.sat}.f64.f32 d, x
    cvt{.ROUND_TO_INT}{.ftz}{.sat}(.f16.f16|.bf16.bf16|.f32.f32|.f64.f64) d, v

    // cvt: to a narrower type
    cvt.ROUND{.ftz}{.sat}(.f32|.f16|.bf16).f64 d, x
    cvt.ROUND{.ftz}{.sat}.f16.f32 d, x
    cvt.ROUND{.ftz}{.sat}(.f16.bf16|.bf16.f16) d, r
    cvt(.rn|.rz){.relu}{.satfinite}(.f16|.bf16).f32 d, x
    cvt(.rn|.rz){.relu}{.satfinite}(.f16x2|.bf16x2).f32 d, x, y
    cvt.rna{.satfinite}.tf32.f32 d, x
    cvt(.rn|.rz){.relu}{.satfinite}.tf32.f32 d, x
    cvt.rn.satfinite{.relu}(.e4m3x2|.e5m2x2).f32 d, x, y
    cvt.rn.satfinite{.relu}(.e4m3x2|.e5m2x2).f16x2 d, r
    cvt.rn{.relu}.f16x2(.e4m3x2|.e5m2x2) d, r

    // cvt.pack
    cvt.pack.sat(.u16|.s16).s32 d, a, b
    cvt.pack.sat(.u8|.s8|.u4|.s4|.u2|.s2).s32.b32 d, a, b, c
";
