//! Instruction files on the emulator and, where there is one, on a GPU; see `tests/instructions/README.md`.

use oximla_conformance::instructions::suite;

/// A test for each file. The files travel inside the executable.
macro_rules! files {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            suite::check(stringify!($name), include_str!(concat!("../instructions/", stringify!($name), ".ptx")));
        }
    )*};
}

files! {
    integer,
    float,
    half,
    convert,
    approximate,
    warp,
    control,
    memory,
    atomic,
    barrier,
    copy,
    cluster,
    matrix,
    wgmma,
    tensor,
}
