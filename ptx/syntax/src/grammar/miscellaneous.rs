//! Miscellaneous Instructions.

pub(super) const FORMS: &str = "
    // brkpt, trap
    brkpt
    trap

    // nanosleep
    nanosleep.u32 a

    // pmevent
    pmevent n
    pmevent.mask n

    // setmaxnreg
    setmaxnreg(.inc|.dec).sync.aligned.u32 n
";
