//! Control Flow Instructions.

pub(super) const FORMS: &str = "
    // bra, brx.idx
    bra{.uni} label
    brx.idx{.uni} r, label

    // call; the last is the prototype of an indirect call
    call{.uni} list?, function, list?, label?

    // ret, exit
    ret{.uni}
    exit
";
