//! Logic and Shift Instructions.

pub(super) const FORMS: &str = "
    // and, or, xor, not, cnot
    and(.pred|.BITS) d, a, b
    or(.pred|.BITS) d, a, b
    xor(.pred|.BITS) d, a, b
    not(.pred|.BITS) d, a
    cnot.BITS d, a

    // lop3
    lop3.b32 d, a, b, c, n
    lop3(.or|.and).b32 d|p, a, b, c, n, p

    // shf, shl, shr
    shf(.l|.r)(.clamp|.wrap).b32 d, a, b, c
    shl.BITS d, a, b
    shr(.BITS|.INT) d, a, b
";
