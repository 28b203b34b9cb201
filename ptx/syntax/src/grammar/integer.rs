//! Integer Arithmetic Instructions; Extended-Precision Integer Arithmetic Instructions.

pub(super) const FORMS: &str = "
    // add, sub
    add.INT d, a, b
    add.sat.s32 d, a, b
    add.PACKED_INT16 d, a, b
    sub.INT d, a, b
    sub.sat.s32 d, a, b

    // mul, mad
    mul(.hi|.lo).INT d, a, b
    mul.wide(.INT16|.INT32) d, a, b
    mad(.hi|.lo).INT d, a, b, c
    mad.wide(.INT16|.INT32) d, a, b, c
    mad.hi.sat.s32 d, a, b, c

    // mul24, mad24
    mul24(.hi|.lo).INT32 d, a, b
    mad24(.hi|.lo).INT32 d, a, b, c
    mad24.hi.sat.s32 d, a, b, c

    // sad
    sad.INT d, a, b, c

    // div, rem
    div.INT d, a, b
    rem.INT d, a, b

    // abs, neg
    abs(.s16|.s32|.s64) d, a
    neg(.s16|.s32|.s64) d, a

    // min, max
    min.INT d, a, b
    min.relu.s32 d, a, b
    min(.u16x2|{.relu}.s16x2) d, a, b
    max.INT d, a, b
    max.relu.s32 d, a, b
    max(.u16x2|{.relu}.s16x2) d, a, b

    // popc, clz, bfind, fns, brev
    popc(.b32|.b64) d, a
    clz(.b32|.b64) d, a
    bfind{.shiftamt}(.INT32|.INT64) d, a
    fns.b32 d, a, b, c
    brev(.b32|.b64) d, a

    // bfe, bfi, szext, bmsk
    bfe(.INT32|.INT64) d, a, b, c
    bfi(.b32|.b64) d, a, a, b, c
    szext(.clamp|.wrap).INT32 d, a, b
    bmsk(.clamp|.wrap).b32 d, a, b

    // dp4a, dp2a
    dp4a.INT32.INT32 d, a, b, c
    dp2a(.lo|.hi).INT32.INT32 d, a, b, c

    // add.cc, addc, sub.cc, subc, mad.cc, madc
    add.cc(.INT32|.INT64) d, a, b
    addc{.cc}(.INT32|.INT64) d, a, b
    sub.cc(.INT32|.INT64) d, a, b
    subc{.cc}(.INT32|.INT64) d, a, b
    mad(.hi|.lo).cc(.INT32|.INT64) d, a, b, c
    madc(.hi|.lo){.cc}(.INT32|.INT64) d, a, b, c
";
