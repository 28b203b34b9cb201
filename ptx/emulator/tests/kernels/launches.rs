//! Launches that make no sense, and modules that cannot be loaded: errors that name the argument.

use ptx_emulator::{GlobalMemory, Launch, LaunchError, Module, Options, Start, Stream, launch};

const ENTRY: &str = ".visible .entry kernel(.param .u32 a) { .shared .b8 tile[1024]; ret; }";

/// Spoils a launch.
type Change = fn(&mut Launch<'_>);

fn module(directives: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry kernel(.param .u32 a) {directives} {{ {body} ret; }}"
    )
}

fn error(ptx: &str, change: impl Fn(&mut Launch<'_>)) -> String {
    let module = Module::load(ptx).unwrap();
    let mut call = Launch {
        entry: "kernel",
        grid: [2, 1, 1],
        block: [32, 1, 1],
        cluster: [1; 3],
        shared_bytes: 0,
        parameters: &[&[0; 4]],
    };
    change(&mut call);
    match launch(&module, &GlobalMemory::new(), &call, &Options::default()) {
        Ok(_) => "none".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn arguments_are_checked() {
    let ptx = format!(".version 8.0\n.target sm_90a\n.address_size 64\n{ENTRY}");
    let cases: [(Change, &str); 11] = [
        (|_| {}, "none"),
        (|call| call.entry = "other", "entry is other; needed is one of kernel"),
        (|call| call.block = [0, 1, 1], "block is 0 x 1 x 1; needed is 1 to 1024 threads"),
        (
            |call| call.block = [u32::MAX; 3],
            "block is 4294967295 x 4294967295 x 4294967295; needed is 1 to 1024 threads",
        ),
        (|call| call.block = [1, 1, 65], "block is 1 x 1 x 65; needed is at most 1024 x 1024 x 64"),
        (|call| call.grid = [1, 0, 1], "grid is 1 x 0 x 1; needed is 1 to 1048576 CTAs"),
        (
            |call| call.grid = [1, 65_536, 1],
            "grid is 1 x 65536 x 1; needed is at most 2147483647 x 65535 x 65535",
        ),
        (
            |call| call.cluster = [3, 1, 1],
            "cluster is 3 x 1 x 1; needed is a divisor of the grid, of at most 16 CTAs",
        ),
        (
            |call| call.shared_bytes = 231_425,
            "shared_bytes is 232449; needed is at most 232448, static memory included",
        ),
        (|call| call.parameters = &[], "parameters is 0; needed is 1"),
        (|call| call.parameters = &[&[0; 8]], "parameters is 8 bytes; needed is 4 bytes for a"),
    ];
    for (change, expected) in cases {
        assert_eq!(error(&ptx, change), expected);
    }
}

#[test]
fn directives_are_kept() {
    assert_eq!(error(&module(".maxntid 16", ""), |_| {}), "block is 32 x 1 x 1; needed is 1 to 16 threads");
    let expected = "block is 32 x 1 x 1; needed is 64 x 1 x 1, as the entry says";
    assert_eq!(error(&module(".reqntid 64", ""), |_| {}), expected);
    let expected = "cluster is 4 x 1 x 1; needed is a divisor of the grid, of at most 16 CTAs";
    assert_eq!(error(&module(".reqnctapercluster 4", ""), |_| {}), expected);
}

#[test]
fn what_cannot_be_run_is_not_loaded() {
    let cases = [
        (
            ".reg .b32 %r<4>; .reg .b64 %d<2>; add.s64 %d0, %d1, %r0;",
            "%r0 is a register of 32 bits; needed are 64",
        ),
        (
            ".reg .b32 %r<4>; .reg .b64 %d<2>; ld.global.u64 %r0, [%d0];",
            "%r0 is a register of 32 bits; needed are 64",
        ),
        (".reg .b32 %r<4>; @%r0 add.u32 %r1, %r2, %r3;", "%r0 is a register of 32 bits; needed are 1"),
        (".reg .b32 %r<4>; add.u32 %r1, %r2, %r4;", "%r4 is not declared"),
        ("bra nowhere;", "nowhere is no label"),
        (".reg .b32 %r; brx.idx %r, list;", "list is no list of labels"),
        (".reg .b32 %r<70000>;", "more than 65536 registers"),
        (".local .b8 array[600000];", "more than 524288 bytes of local memory"),
        (".shared .b8 array[0xffffffffff];", "the variables of a state space take more than 64 megabytes"),
        (
            ".shared .align 0x80000000 .b8 array[8];",
            "the alignment is 2147483648; needed is a power of two to 65536",
        ),
    ];
    for (body, expected) in cases {
        match Module::load(&module("", body)) {
            Err(LaunchError::Unsupported { reason, .. }) => assert_eq!(reason, expected, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

/// Adds 1 to a number without waiting for anything.
const INCREMENT: &str = "
    .version 8.0
    .target sm_90a
    .address_size 64
    .visible .entry increment(.param .u64 number)
    {
        .reg .b32 %r;
        .reg .b64 %rd;
        ld.param.u64 %rd, [number];
        ld.global.u32 %r, [%rd];
        add.u32 %r, %r, 1;
        st.global.u32 [%rd], %r;
        ret;
    }";

#[test]
fn launches_overlap_only_where_they_may() {
    let module = Module::load(INCREMENT).unwrap();
    let memory = GlobalMemory::new();
    let number = memory.allocate(4);
    memory.write(number, &[0; 4]).unwrap();
    let parameter = number.to_le_bytes();
    let call = Launch {
        entry: "increment",
        grid: [1; 3],
        block: [1; 3],
        cluster: [1; 3],
        shared_bytes: 0,
        parameters: &[&parameter],
    };
    let stream = Stream::new();
    let findings =
        |start| stream.launch(&module, &memory, &call, &Options::default(), start).unwrap().diagnostics.len();
    assert_eq!(findings(Start::Programmatic), 0, "the first");
    assert_eq!(findings(Start::AfterAll), 0, "after all that came before");
    assert!(findings(Start::Programmatic) > 0, "overlaps the one before");
    stream.synchronize();
    assert_eq!(findings(Start::Programmatic), 0, "after the host has waited");
    let mut bytes = [0; 4];
    memory.read(number, &mut bytes).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), 4, "each has run to its end");
}
