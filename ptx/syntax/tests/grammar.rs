//! What the grammar accepts, what it refuses, and what it says then.
//!
//! The examples are by chapter of the PTX ISA. Each chapter has instructions that are right and ones that are not, with
//! a piece of what the error says.

use ptx_syntax::{grammar, parse, parse_unchecked};

/// A module with the instructions in one body, which is on the second line.
fn module(instructions: &str) -> String {
    format!(".version 8.4 .target sm_90a .entry k()\n{{ {instructions} }}")
}

/// Every line is accepted.
fn accepts(instructions: &str) {
    let lines: Vec<_> = instructions.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(!lines.is_empty());
    for line in lines {
        if let Err(error) = parse(&module(line)) {
            panic!("{line}: {error}");
        }
    }
}

/// Every line is one instruction that is refused, in the words behind `=>`.
fn refuses(instructions: &str) {
    let lines: Vec<_> = instructions.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(!lines.is_empty());
    for line in lines {
        let (instruction, words) = line.split_once(" => ").unwrap();
        let text = module(instruction);
        let errors = grammar::check(&parse_unchecked(&text).unwrap());
        let [error] = &errors[..] else { panic!("{instruction}: {errors:?}") };
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(parse(&text).unwrap_err().to_string(), error.to_string());
    }
}

#[test]
fn integer_arithmetic() {
    accepts(
        "add.s32 %r1, %r2, -4;
        add.sat.s32 %r1, %r2, %r3;
        add.u64 %rd1, %SPL, 0;
        add.u16x2 %r1, %r2, %r3;
        sub.s16 %rs1, %rs2, %rs3;
        mul.lo.s32 %r1, %r2, 3;
        mul.wide.u16 %r1, %rs1, %rs2;
        mul24.lo.u32 %r1, %r2, %r3;
        mad.lo.s64 %rd1, %rd2, %rd3, 8;
        mad.hi.sat.s32 %r1, %r2, %r3, %r4;
        mad24.hi.s32 %r1, %r2, %r3, %r4;
        sad.u32 %r1, %r2, %r3, %r4;
        div.u32 %r1, %r2, %r3; rem.s64 %rd1, %rd2, 7;
        abs.s32 %r1, %r2; neg.s64 %rd1, %rd2;
        min.u32 %r1, %r2, 5; max.relu.s32 %r1, %r2, %r3; min.relu.s16x2 %r1, %r2, %r3;
        popc.b32 %r1, %r2; clz.b64 %r1, %rd2; brev.b32 %r1, %r2; bfind.shiftamt.u32 %r1, %r2;
        bfe.u32 %r1, %r2, 3, 4; bfi.b64 %rd1, %rd2, %rd3, 0, 8;
        dp4a.u32.s32 %r1, %r2, %r3, %r4; dp2a.lo.s32.s32 %r1, %r2, %r3, %r4;
        add.cc.u32 %r1, %r2, %r3; addc.cc.u32 %r1, %r2, %r3; addc.u64 %rd1, %rd2, 0;
        sub.cc.s32 %r1, %r2, %r3; subc.u32 %r1, %r2, %r3;
        mad.lo.cc.u32 %r1, %r2, %r3, %r4; madc.hi.cc.u32 %r1, %r2, %r3, 0; madc.hi.u64 %rd1, %rd2, %rd3, 0;",
    );
    refuses(
        "add.s33 %r1, %r2, %r3; => unknown modifier `.s33`
        add.sat.u32 %r1, %r2, %r3; => misplaced modifier `.u32`
        add.u32.sat %r1, %r2, %r3; => misplaced modifier `.sat`, expected nothing
        add.s32 %r1, %r2; => found 2 operands, expected `d, a, b`
        add.s32 %r1, %r2, %r3, %r4; => found 4 operands
        add.s32 5, %r2, %r3; => operand 1 is `5`, expected a register
        add.s32 %r1, %r2, [%r3]; => operand 3 is `[%r3]`, expected a register or an integer
        add.s32 %r1, 0f3F800000, %r3; => operand 2 is `0f3F800000`
        mul.s32 %r1, %r2, %r3; => misplaced modifier `.s32`
        mul.wide.s64 %rd1, %rd2, %rd3; => misplaced modifier `.s64`
        popc.u32 %r1, %r2; => unknown modifier `.u32`, expected one of `.b32`, `.b64`
        abs.u32 %r1, %r2; => unknown modifier `.u32`
        bfi.b32 %r1, %r2, %r3, %r4; => found 4 operands
        add %r1, %r2, %r3; => a modifier is missing, expected one of
        dp3a.u32.u32 %r1, %r2, %r3, %r4; => `dp3a.u32.u32`: unknown instruction",
    );
}

#[test]
fn floating_point() {
    accepts(
        "add.f32 %f1, %f2, 0f3F800000; add.rn.ftz.sat.f32 %f1, %f2, %f3; sub.rz.f64 %fd1, %fd2, 1.5;
        mul.rn.f32 %f1, %f2, %f3; fma.rn.f32 %f1, %f2, %f3, %f4; fma.rm.f64 %fd1, %fd2, %fd3, %fd4;
        mad.rn.f32 %f1, %f2, %f3, %f4;
        div.rn.f32 %f1, %f2, %f3; div.approx.ftz.f32 %f1, %f2, %f3; div.full.f32 %f1, %f2, %f3; div.rn.f64 %d1, %d2, %d3;
        abs.ftz.f32 %f1, %f2; neg.f64 %fd1, %fd2;
        min.ftz.NaN.f32 %f1, %f2, %f3; max.xorsign.abs.f32 %f1, %f2, %f3; max.f64 %fd1, %fd2, %fd3;
        rcp.rn.f32 %f1, %f2; rcp.approx.ftz.f64 %fd1, %fd2; sqrt.rn.f64 %fd1, %fd2; sqrt.approx.f32 %f1, %f2;
        rsqrt.approx.f32 %f1, %f2; ex2.approx.ftz.f32 %f1, %f2; lg2.approx.f32 %f1, %f2;
        sin.approx.f32 %f1, %f2; cos.approx.ftz.f32 %f1, %f2; tanh.approx.f32 %f1, %f2;
        copysign.f32 %f1, %f2, %f3; testp.finite.f32 %p1, %f1;",
    );
    refuses(
        "fma.f32 %f1, %f2, %f3, %f4; => misplaced modifier `.f32`
        add.f32 %f1, %f2, 1; => operand 3 is `1`, expected a register or a floating-point constant
        add.ftz.f64 %fd1, %fd2, %fd3; => misplaced modifier `.f64`
        ex2.f32 %f1, %f2; => misplaced modifier `.f32`, expected `.approx`
        rcp.approx.f64 %fd1, %fd2; => misplaced modifier `.f64`
        div.f32 %f1, %f2, %f3; => misplaced modifier `.f32`
        min.NaN.ftz.f32 %f1, %f2, %f3; => misplaced modifier `.ftz`
        sqrt.rn.f32 %f1; => found 1 operands",
    );
}

#[test]
fn half_precision() {
    accepts(
        "add.f16 %rs1, %rs2, %rs3; add.rn.ftz.sat.f16x2 %r1, %r2, %r3; mul.bf16x2 %r1, %r2, %r3;
        sub.rn.bf16 %rs1, %rs2, %rs3; fma.rn.relu.f16x2 %r1, %r2, %r3, %r4; fma.rn.bf16x2 %r1, %r2, %r3, %r4;
        neg.bf16x2 %r1, %r2; abs.ftz.f16 %rs1, %rs2;
        max.NaN.bf16x2 %r1, %r2, %r3; min.ftz.f16x2 %r1, %r2, %r3;
        ex2.approx.f16x2 %r1, %r2; ex2.approx.ftz.bf16 %rs1, %rs2; tanh.approx.bf16x2 %r1, %r2;",
    );
    refuses(
        "add.rn.f16x22 %r1, %r2, %r3; => unknown modifier `.f16x22`
        add.rz.f16 %rs1, %rs2, %rs3; => misplaced modifier `.f16`
        fma.rn.sat.bf16 %rs1, %rs2, %rs3, %rs4; => misplaced modifier `.bf16`
        ex2.approx.bf16 %rs1, %rs2; => misplaced modifier `.bf16`
        fma.rn.f16 %rs1, %rs2, %rs3, 1.0; => operand 4",
    );
}

#[test]
fn comparison() {
    accepts(
        "setp.eq.b32 %p1, %r1, 0; setp.lt.s32 %p1|%p2, %r1, %r2; setp.hi.u64 p, %rd1, %rd2;
        setp.neu.ftz.f32 %p1, %f1, 0f7F800000; setp.gt.and.f64 %p1, %fd1, %fd2, !%p2; setp.ne.or.b16 _|%p1, %rs1, 5, %p2;
        setp.geu.f16 %p1, %rs1, %rs2; setp.lt.ftz.f16x2 %p1|%p2, %r1, %r2;
        set.lt.u32.f32 %r1, %f1, %f2; set.eq.and.s32.u32 %r1, %r2, %r3, !%p1;
        selp.b32 %r1, 1, %r2, %p1; selp.f32 %f1, %f2, 0fFF800000, %p1;
        slct.u32.s32 %r1, %r2, %r3, %r4; slct.ftz.f32.f32 %f1, %f2, %f3, %f4;",
    );
    refuses(
        "setp.lt.b32 %p1, %r1, %r2; => misplaced modifier `.b32`
        setp.equ.s32 %p1, %r1, %r2; => misplaced modifier `.s32`
        setp.hi.f32 %p1, %f1, %f2; => misplaced modifier `.f32`
        setp.eq.and.b32 %p1, %r1, %r2; => found 3 operands, expected `d{|p}, a, b, !p`
        setp.lt.f16x2 %p1, %r1, %r2; => operand 1 is `%p1`, expected two registers with `|`
        selp.b32 %r1, %r2, %r3, 1; => operand 4 is `1`
        selp.b32 %r1, %r2, %r3, !%p1; => operand 4 is `!%p1`
        selp.pred %p1, %p2, %p3, %p4; => unknown modifier `.pred`",
    );
}

#[test]
fn logic() {
    accepts(
        "and.b32 %r1, %r2, 0xff; or.pred %p1, %p2, %p3; xor.b64 %rd1, %rd2, -1; not.pred %p1, %p2; cnot.b16 %rs1, %rs2;
        lop3.b32 %r1, %r2, %r3, %r4, 0x96; lop3.or.b32 %r1|%p1, %r2, %r3, %r4, 0x40, %p2;
        shf.l.wrap.b32 %r1, %r2, %r3, 5; shf.r.clamp.b32 %r1, %r2, %r3, %r4;
        shl.b64 %rd1, %rd2, 3; shr.s32 %r1, %r2, %r3; shr.u16 %rs1, %rs2, 8;",
    );
    refuses(
        "and.u32 %r1, %r2, %r3; => unknown modifier `.u32`
        shl.u32 %r1, %r2, %r3; => unknown modifier `.u32`
        shf.wrap.l.b32 %r1, %r2, %r3, 5; => misplaced modifier `.wrap`
        lop3.b32 %r1, %r2, %r3, %r4, %r5; => operand 5 is `%r5`, expected an integer
        cnot.pred %p1, %p2; => unknown modifier `.pred`",
    );
}

#[test]
fn data_movement() {
    accepts(
        "mov.u32 %r1, %tid.x; mov.pred %p1, -1; mov.b32 %r1, 0fFF800000; mov.b64 %rd1, table+8; mov.f64 %fd1, 1.5;
        mov.b64 {_, %r1}, %rd1; mov.b64 %rd1, {%r1, 0}; mov.b64 {%a, %b, %c, %d}, %rd1; mov.b128 q, {%rd1, %rd2};
        ld.param.b64 %rd1, [k_param_0+8]; ld.b32 %r1, [%rd1+-4]; ld.const.u8 %rs1, [16];
        ld.global.v4.b32 {%r1, %r2, _, %r4}, [%rd1]; ld.shared::cluster.f32 %f1, [%r1];
        ld.volatile.shared.u32 %r1, [%r2]; ld.relaxed.gpu.global.b32 %r1, [%rd1]; ld.acquire.sys.b64 %rd1, [%rd2];
        ld.mmio.relaxed.sys.global.u32 %r1, [%rd1];
        ld.global.nc.L1::no_allocate.L2::cache_hint.L2::256B.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1], %rd2;
        ld.global.cg.L2::128B.v2.b64 {%rd1, %rd2}, [%rd3]; ld.weak.local.s8 %r1, [%r2];
        ldu.global.v2.f32 {%f1, %f2}, [%rd1];
        st.global.v2.b32 [%rd1], {%r1, 0}; st.shared.f32 [%r1], 0f00000000; st.param.b32 [p], 5; st.b32 [%rd1], %r1;
        st.release.cta.shared::cta.u32 [%r1], 1; st.global.L1::evict_last.L2::cache_hint.b32 [%rd1], %r1, %rd2;
        st.volatile.global.b32 [%rd1], %r1; st.global.wt.b32 [%rd1], %r1;
        shfl.sync.bfly.b32 %r1, %r2, 16, 31, 0xffffffff; shfl.sync.idx.b32 %r1|%p1, %r2, %r3, 31, -1;
        prmt.b32 %r1, %r2, %r3, 0x5410; prmt.f4e.b32 %r1, %r2, %r3, %r4;
        prefetch.global.L2 [%rd1]; prefetch.tensormap [%rd1]; prefetch.global.L2::evict_last [%rd1]; prefetchu.L1 [%rd1];
        applypriority.global.L2::evict_normal [%rd1], 128; discard.global.L2 [%rd1], 128;
        createpolicy.fractional.L2::evict_last.b64 %rd1; createpolicy.fractional.L2::evict_first.b64 %rd1, 0f3F800000;
        createpolicy.range.global.L2::evict_last.L2::evict_first.b64 %rd1, [%rd2], 4096, %r1; createpolicy.cvt.L2.b64 %rd1, %rd2;
        isspacep.shared::cta %p1, %rd1; cvta.to.global.u64 %rd1, %rd2; cvta.param.u64 %rd1, k_param_0;
        mapa.shared::cluster.u32 %r1, %r2, 1; getctarank.u64 %r1, %rd1;",
    );
    refuses(
        "ld.globl.b32 %r1, [%rd1]; => unknown modifier `.globl`
        ld.global.b32 %r1, %rd1; => operand 2 is `%rd1`, expected an address
        ld.global.b32 5, [%rd1]; => operand 1 is `5`
        ld.global.v4.b32 {%r1, %r2}, [%rd1]; => operand 1 is `{%r1, %r2}`, expected a vector of 4 elements
        ld.global.b32 {%r1, %r2}, [%rd1]; => operand 1 is `{%r1, %r2}`
        ld.global.L2::cache_hint.b32 %r1, [%rd1]; => found 2 operands, expected `d{v}, [a], r if .L2::cache_hint`
        ld.global.b32 %r1, [%rd1], %rd2; => found 3 operands
        ld.relaxed.global.b32 %r1, [%rd1]; => misplaced modifier `.global`
        ld.release.gpu.b32 %r1, [%rd1]; => unknown modifier `.release`
        ld.b32.global %r1, [%rd1]; => misplaced modifier `.global`
        st.const.b32 [%rd1], %r1; => unknown modifier `.const`
        st.global.b32 %r1, [%rd1]; => operand 1 is `%r1`
        st.global.b32 [%rd1, {%r1}], %r1; => operand 1 is `[%rd1, {%r1}]`
        mov.b32 %r1, [%r2]; => operand 2 is `[%r2]`
        mov.b32 {%rs1, %rs2, %rs3}, %r1; => operand 1
        shfl.bfly.b32 %r1, %r2, 16, 31; => misplaced modifier `.bfly`, expected `.sync`
        shfl.sync.bfly.b32 %r1, %r2, 16, 31; => found 4 operands
        prefetch.L3 [%rd1]; => unknown modifier `.L3`
        discard.global.L2 [%rd1], 64; => operand 2 is `64`, expected 128
        cvta.global.b64 %rd1, %rd2; => unknown modifier `.b64`",
    );
}

#[test]
fn conversion() {
    accepts(
        "cvt.u32.u64 %r1, %rd1; cvt.sat.s8.s32 %r1, %r2; cvt.rn.f32.u32 %f1, %r1; cvt.rzi.ftz.s32.f32 %r1, %f1;
        cvt.f32.f16 %f1, %rs1; cvt.f64.f32 %fd1, %f1; cvt.rn.f16.f32 %rs1, %f1; cvt.rn.ftz.sat.f32.f64 %f1, %fd1;
        cvt.rn.f16x2.f32 %r1, %f1, %f2; cvt.rn.relu.bf16x2.f32 %r1, %f1, %f2; cvt.rni.f32.f32 %f1, %f2;
        cvt.rna.tf32.f32 %r1, %f1; cvt.rn.satfinite.e4m3x2.f32 %rs1, %f1, %f2; cvt.rn.f16x2.e5m2x2 %r1, %rs1;
        cvt.pack.sat.u8.s32.b32 %r1, %r2, %r3, %r4;",
    );
    refuses(
        "cvt.f32.u32 %f1, %r1; => misplaced modifier `.u32`
        cvt.s32.f32 %r1, %f1; => misplaced modifier `.f32`
        cvt.rn.f64.f32 %fd1, %f1; => misplaced modifier `.f32`
        cvt.f16.f32 %rs1, %f1; => misplaced modifier `.f32`
        cvt.rn.f16x2.f32 %r1, %f1; => found 2 operands, expected `d, x, y`
        cvt.rn.bf16x2.f64 %r1, %f1, %f2; => misplaced modifier `.f64`
        cvt.u32 %r1, %r2; => a modifier is missing
        cvt.u32.u128 %r1, %r2; => unknown modifier `.u128`",
    );
}

#[test]
fn asynchronous_copies() {
    accepts(
        "cp.async.cg.shared.global [%r1], [%rd1], 16, %r2; cp.async.ca.shared::cta.global.L2::128B [%r1], [%rd1], 8;
        cp.async.cg.shared.global.L2::cache_hint.L2::256B [%r1], [%rd1], 16, %r2, %rd2;
        cp.async.ca.shared.global.L2::cache_hint [%r1], [%rd1], 4, %rd2;
        cp.async.commit_group; cp.async.wait_group 2; cp.async.wait_all;
        cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r1];
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], %r2, [%r3];
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%r1], [%rd1], 64, [%r3], %rs1, %rd2;
        cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r1], [%r2], 64, [%r3];
        cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%rd1], [%r1], 64, %rd2;
        cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.bf16 [%rd1], [%r1], 64;
        cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u64 [%r1], [%r2], 64, [%r3];
        cp.async.bulk.prefetch.L2.global [%rd1], 256;
        cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2}], [%r3];
        cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {0, %r2, %r3, %r4}], [%r5];
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%r1], [%rd1, {0, 1}], [%r5], %rs1, %rd2;
        cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%rd1, {%r1, %r2, %r3}], [%r4];
        cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%rd1, {%r1, %r2}], [%r4];
        cp.async.bulk.prefetch.tensor.5d.L2.global.tile [%rd1, {%a, %b, %c, %d, %e}];
        cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; cp.async.bulk.wait_group.read 1;
        tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%r1], %rd1;
        tensormap.replace.tile.box_dim.global.b1024.b32 [%rd1], 0, 64; tensormap.replace.tile.elemtype.b1024.b32 [%rd1], 10;
        st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r1], {%r2, %r3}, [%r4];
        st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b64 [%r1], %rd1, [%r4];
        red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r1], %r2, [%r3];",
    );
    refuses(
        "cp.async.cg.shared.global [%r1], [%rd1], 8; => operand 3 is `8`, expected 16
        cp.async.ca.shared.global [%r1], [%rd1], 12; => operand 3 is `12`, expected 4 or 8 or 16
        cp.async.wait_group %r1; => operand 1 is `%r1`, expected an integer
        cp.async.wait_all 0; => found 1 operands
        cp.async.bulk.shared::cluster.global [%r1], [%rd1], %r2, [%r3]; => a modifier is missing
        cp.async.bulk.global.shared::cta.mbarrier::complete_tx::bytes [%rd1], [%r1], 64, [%r3]; => misplaced modifier
        cp.async.bulk.tensor.6d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2}], [%r3]; => unknown modifier `.6d`
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2}], [%r3]; => operand 2 is `[%rd1, {%r2}]`, expected the address of a tensor map with 2 coordinates
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::byte [%r1], [%rd1, {%r2, %r3}], [%r3]; => unknown modifier `.mbarrier::complete_tx::byte`
        cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%rd1, {%r2}], [%r3]; => found 3 operands
        st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r1], {%r2, %r3}, [%r4]; => operand 2
        tensormap.replace.tile.box_dim.global.b1024.b32 [%rd1], %r1, 64; => operand 2 is `%r1`",
    );
}

#[test]
fn control_flow() {
    accepts(
        "@%p1 bra $L__BB0_1; bra.uni $L__BB0_1; brx.idx %r1, targets;
        call.uni f, (x); call (r), f, (x, y); call f; call.uni (r), f; call (r), %rd1, (x), proto; call.uni f, ();
        ret; ret.uni; exit;",
    );
    refuses(
        "bra 5; => operand 1 is `5`, expected the name of a label
        bra; => found 0 operands, expected `label`
        bra.div $L; => unknown modifier `.div`
        call (r), (x), f; => operand 2 is `(x)`, expected the name of a function
        ret %r1; => found 1 operands
        jump $L; => unknown instruction",
    );
}

#[test]
fn synchronisation() {
    accepts(
        "bar.sync 0; bar.sync 1, 128; bar.cta.arrive %r1, 64; bar.red.popc.u32 %r1, 0, !%p1; bar.red.and.pred %p1, 0, 64, %p2;
        barrier.sync.aligned 0; barrier.cta.red.or.aligned.pred %p1, 0, %p2; barrier.arrive 1, 64; bar.warp.sync 0xffffffff;
        barrier.cluster.arrive; barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire;
        membar.gl; membar.proxy.alias; fence.sc.sys; fence.acq_rel.gpu; fence.cta; fence.proxy.async; fence.proxy.async.shared::cta;
        fence.proxy.async.global; fence.proxy.tensormap::generic.release.gpu; fence.proxy.tensormap::generic.acquire.gpu [%rd1], 128;
        fence.mbarrier_init.release.cluster; fence.acquire.sync_restrict::shared::cluster.cluster;
        atom.add.u32 %r1, [%rd1], 1; atom.acq_rel.gpu.global.cas.b32 %r1, [%rd1], %r2, %r3; atom.shared.exch.b64 %rd1, [%r1], %rd2;
        atom.relaxed.sys.global.add.noftz.f16x2 %r1, [%rd1], %r2; atom.global.min.s64 _, [%rd1], %rd2; atom.inc.u32 %r1, [%rd1], 7;
        atom.global.add.L2::cache_hint.f32 %f1, [%rd1], %f2, %rd3; atom.global.add.v2.f32 {%f1, %f2}, [%rd1], {%f3, %f4};
        red.release.gpu.global.add.u32 [%rd1], 1; red.shared.xor.b32 [%r1], %r2; red.global.add.noftz.v4.bf16x2 [%rd1], {%a, %b, %c, %d};
        red.global.add.v4.f32 [%rd1], {%a, %b, %c, %d}; red.global.max.noftz.v8.f16 [%rd1], {%a, %b, %c, %d, %e, %f, %g, %h};
        vote.sync.ballot.b32 %r1, p, 0xffffffff; vote.sync.any.pred %p1, !%p2, %r1; match.any.sync.b64 %r1, %rd1, -1;
        match.all.sync.b32 %r1|%p1, %r2, -1; redux.sync.add.s32 %r1, %r2, -1; activemask.b32 %r1; elect.sync _|%p1, -1;
        griddepcontrol.wait; griddepcontrol.launch_dependents;",
    );
    refuses(
        "bar.sync; => found 0 operands, expected `a, b?`
        bar.sync.aligned 0; => unknown modifier `.aligned`
        bar.arrive 1; => found 1 operands
        barrier.cluster.wait.release; => misplaced modifier `.release`
        barrier.cluster.wait 0; => found 1 operands
        fence.proxy.async.local; => unknown modifier `.local`
        fence.acq_rel; => a modifier is missing, expected one of `.cluster`, `.cta`, `.gpu`, `.sys`
        fence.mbarrier_init.acquire.cluster; => misplaced modifier `.acquire`
        atom.add.s64 %rd1, [%rd2], %rd3; => misplaced modifier `.s64`
        atom.global.cas.b32 %r1, [%rd1], %r2; => found 3 operands
        atom.gpu.relaxed.add.u32 %r1, [%rd1], 1; => misplaced modifier `.relaxed`
        red.acquire.gpu.add.u32 [%rd1], 1; => unknown modifier `.acquire`
        red.add.u32 %r1, [%rd1], 1; => found 3 operands
        red.exch.b32 [%rd1], 1; => unknown modifier `.exch`
        vote.ballot.b32 %r1, %p1; => misplaced modifier `.ballot`, expected `.sync`
        elect.sync %r1, -1; => operand 1 is `%r1`
        redux.sync.add.b32 %r1, %r2, -1; => misplaced modifier `.b32`",
    );
}

#[test]
fn mbarrier() {
    accepts(
        "mbarrier.init.shared::cta.b64 [%r1], 3; mbarrier.inval.shared.b64 [%r1];
        mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [%r1], 64; mbarrier.complete_tx.b64 [%r1], %r2;
        mbarrier.arrive.shared::cta.b64 _, [%r1]; mbarrier.arrive.b64 %rd1, [%rd2], 2;
        mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r1], 1;
        mbarrier.arrive.expect_tx.shared::cta.b64 %rd1, [%r1], %r2; mbarrier.arrive.noComplete.b64 %rd1, [%r1], 2;
        mbarrier.arrive_drop.shared.b64 %rd1, [%r1];
        mbarrier.test_wait.shared::cta.b64 %p1, [%r1], %rd1; mbarrier.test_wait.parity.acquire.cta.shared::cta.b64 %p1, [%r1], 0;
        mbarrier.try_wait.parity.shared::cta.b64 complete, [%r1], %r2; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [%r1], %r2, 1000;
        mbarrier.pending_count.b64 %r1, %rd1;",
    );
    refuses(
        "mbarrier.init.b32 [%r1], 3; => unknown modifier `.b32`
        mbarrier.init.shared::cluster.b64 [%r1], 3; => misplaced modifier `.shared::cluster`
        mbarrier.arrive.shared::cluster.b64 %rd1, [%r1]; => operand 1 is `%rd1`, expected `_`
        mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1]; => found 2 operands
        mbarrier.try_wait.shared::cta.parity.b64 %p1, [%r1], 0; => misplaced modifier `.parity`
        mbarrier.test_wait.shared::cta.b64 %p1, [%r1], 0, 1000; => found 4 operands
        mbarrier.try_wait.shared::cta.b64 %p1, [%r1]; => found 2 operands
        mbarrier.wait.b64 %p1, [%r1]; => unknown modifier `.wait`",
    );
}

#[test]
fn matrix() {
    let registers = |count: usize| {
        let names: Vec<_> = (0..count).map(|index| format!("%f{index}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    for n in (8..=256).step_by(8) {
        let [half, quarter] = [registers(n / 2), registers(n / 4)];
        let wgmma = "wgmma.mma_async.sync.aligned";
        accepts(&format!(
            "{wgmma}.m64n{n}k16.f32.bf16.bf16 {half}, %rd1, %rd2, %p1, 1, 1, 0, 1;
            {wgmma}.m64n{n}k16.f32.f16.f16 {half}, {{%a, %b, %c, %d}}, %rd2, 1, 1, -1, 1;
            {wgmma}.m64n{n}k16.f16.f16.f16 {quarter}, %rd1, %rd2, %p1, 1, 1, 0, 0;
            {wgmma}.m64n{n}k8.f32.tf32.tf32 {half}, %rd1, %rd2, %p1, 1, 1;
            {wgmma}.m64n{n}k32.f32.e4m3.e5m2 {half}, {{%a, %b, %c, %d}}, %rd2, %p1, 1, 1;
            {wgmma}.m64n{n}k32.f16.e5m2.e5m2 {quarter}, %rd1, %rd2, %p1, 1, 1;"
        ));
        let integers = format!("{wgmma}.m64n{n}k32.satfinite.s32.s8.u8 {half}, %rd1, %rd2, %p1;");
        // For integers, N above 32 is a multiple of 16; the shape is one of floating point.
        if n > 32 && n % 16 != 0 {
            refuses(&format!("{integers} => misplaced modifier `.satfinite`"));
        } else {
            accepts(&integers);
        }
    }
    accepts(
        "wgmma.fence.sync.aligned; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
        ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%a, %b, %c, %d}, [%r1]; ldmatrix.sync.aligned.m8n8.x1.b16 {%a}, [%r1];
        stmatrix.sync.aligned.m8n8.x2.shared::cta.b16 [%r1], {%a, %b}; movmatrix.sync.aligned.m8n8.trans.b16 %a, %b;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%a, %b, %c, %d}, {%a, %b, %c, %d}, {%a, %b}, {%a, %b, %c, %d};
        mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%a, %b}, {%a, %b}, {%a}, {%a, %b};",
    );
    refuses(
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%a, %b, %c}, %rd1, %rd2, %p1, 1, 1, 0, 1; => operand 1 is `{%a, %b, %c}`, expected a vector of 4
        wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.f16 {%a, %b, %c, %d}, %rd1, %rd2, %p1, 1, 1, 0, 1; => misplaced modifier `.f16`
        wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%a, %b, %c, %d}, %rd1, %rd2, %p1, 1, 1; => found 6 operands
        wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 {%a}, %rd1, %rd2, %p1, 1, 1, 0, 1; => unknown modifier `.m64n12k16`, expected one of `.m64nNk16`
        wgmma.mma_async.sync.aligned.m64n264k16.f32.bf16.bf16 {%a}, %rd1, %rd2, %p1, 1, 1, 0, 1; => unknown modifier `.m64n264k16`
        wgmma.wait_group.sync.aligned; => found 0 operands
        wgmma.fence; => a modifier is missing, expected `.sync`
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a, %b}, [%r1]; => operand 1 is `{%a, %b}`, expected a vector of 4
        ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%a, %b, %c}, [%r1]; => unknown modifier `.x3`
        stmatrix.sync.aligned.m8n8.x2.shared.b16 {%a, %b}, [%r1]; => operand 1
        mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32 {%a}, {%a}, {%a}, {%a}; => misplaced modifier `.row`
        tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 64; => `tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32`: unknown instruction",
    );
}

#[test]
fn miscellaneous() {
    accepts(
        "trap; brkpt; nanosleep.u32 20; nanosleep.u32 %r1; pmevent 1; pmevent.mask 3;
        setmaxnreg.inc.sync.aligned.u32 216; setmaxnreg.dec.sync.aligned.u32 72;",
    );
    refuses(
        "setmaxnreg.sync.aligned.u32 72; => misplaced modifier `.sync`
        setmaxnreg.inc.sync.aligned.u32 %r1; => operand 1 is `%r1`, expected an integer
        nanosleep 20; => a modifier is missing, expected `.u32`
        trap 1; => found 1 operands",
    );
}

#[test]
fn errors_stand_where_the_instruction_does() {
    let text = module("add.s32 %r1, %r2, 1;\n  x: @!%p1 add.s33 %r1, %r2, 1;\n{ frob; }");
    let errors: Vec<_> =
        grammar::check(&parse_unchecked(&text).unwrap()).iter().map(ToString::to_string).collect();
    assert!(
        errors[0].starts_with(
            "3:6: `add.s33`: unknown modifier `.s33`, expected one of `.bf16`, `.bf16x2`, `.cc`"
        ),
        "{}",
        errors[0]
    );
    assert_eq!(errors[1], "4:3: `frob`: unknown instruction");
    assert_eq!(errors.len(), 2);
    assert_eq!(parse(&text).unwrap_err().to_string(), errors[0]);
}

#[test]
fn absurdly_many_modifiers_are_refused() {
    refuses(&format!("add{}.s32 %r1, %r2, %r3; => misplaced modifier `.sat`", ".sat".repeat(100)));
}
