//! What is decoded, and what is refused.

use ptx_emulator::matrix::transfer::Transfer;
use ptx_emulator::matrix::{mma, wgmma::Multiply};
use ptx_syntax::ast::{Address, Instruction, Operand};

use crate::{instruction, name, registers, wgmma};

const PLAIN: [i64; 4] = [1, 1, 0, 0];

#[test]
fn wgmma_forms() {
    let values = Multiply::decode(&wgmma(256, 16, "f32.bf16.bf16", true, &[1, 1, 1])).unwrap();
    assert_eq!((values.n(), values.k(), values.accumulator_registers()), (256, 16, 128));
    assert_eq!((values.a_registers(), values.flop()), (Some(4), 2 * 64 * 256 * 16));
    let halves = Multiply::decode(&wgmma(64, 16, "f16.f16.f16", false, &PLAIN)).unwrap();
    assert_eq!((halves.a_registers(), halves.accumulator_registers()), (None, 16));
    for (n, k, types, immediates) in [
        (8, 8, "f32.tf32.tf32", &PLAIN[..2]),
        (16, 32, "f16.e5m2.e4m3", &PLAIN[..2]),
        (24, 32, "s32.u8.s8", &[]),
        (48, 32, "satfinite.s32.s8.s8", &[]),
    ] {
        for a_in_registers in [false, true] {
            let decoded = Multiply::decode(&wgmma(n, k, types, a_in_registers, immediates)).unwrap();
            assert_eq!((decoded.n() as usize, decoded.k() as usize), (n, k));
        }
    }
    let mut scaled = wgmma(8, 16, "f32.f16.f16", false, &PLAIN);
    for scale in [Operand::Not("%p".into()), Operand::Integer(0), Operand::Integer(1)] {
        scaled.operands[3] = scale;
        assert!(Multiply::decode(&scaled).is_ok());
    }
}

/// The part that the error names.
fn wgmma_part(instruction: &Instruction) -> &'static str {
    Multiply::decode(instruction).unwrap_err().part
}

#[test]
fn wgmma_modifiers_that_do_not_fit() {
    let part = |n, k, types| wgmma_part(&wgmma(n, k, types, false, &PLAIN));
    for (n, k) in [(0, 16), (12, 16), (264, 16), (8, 8), (8, 32)] {
        assert_eq!(part(n, k, "f32.bf16.bf16"), "the shape");
    }
    assert_eq!(part(40, 32, "s32.s8.s8"), "the shape");
    assert_eq!(part(8, 16, "f16.bf16.bf16"), "the type of D");
    assert_eq!(part(8, 16, "s32.f16.f16"), "the type of D");
    assert_eq!(part(8, 16, "satfinite.f32.f16.f16"), "the type of D");
    assert_eq!(part(8, 32, "f32.s8.s8"), "the type of D");
    assert_eq!(part(8, 16, "f32.bf16.f16"), "the type of B");
    assert_eq!(part(8, 32, "f32.e4m3.s8"), "the type of B");
    assert_eq!(part(8, 16, "f32.b1.b1"), "the type of A");
    assert_eq!(part(8, 16, "f32.bf16"), "the types");
    for mnemonic in ["wgmma.fence.sync.aligned", "mma.mma_async.sync.aligned.m64n8k16.f32.f16.f16", "wgmma"] {
        assert_eq!(wgmma_part(&instruction(mnemonic, vec![])), "the instruction");
    }
    let error = Multiply::decode(&wgmma(12, 16, "f32.bf16.bf16", false, &PLAIN)).unwrap_err().to_string();
    assert!(error.contains("the shape is m64n12k16"), "{error}");
}

#[test]
fn wgmma_operands_that_do_not_fit() {
    let part = |in_registers, index, operand| {
        let immediates = if in_registers { &PLAIN[..3] } else { &PLAIN };
        let mut instruction = wgmma(8, 16, "f32.bf16.bf16", in_registers, immediates);
        instruction.operands[index] = operand;
        wgmma_part(&instruction)
    };
    assert_eq!(part(false, 0, registers(2)), "D");
    assert_eq!(part(false, 0, Operand::Vector(vec![Operand::Sink; 4])), "D");
    assert_eq!(part(true, 1, registers(3)), "A");
    assert_eq!(part(false, 1, Operand::Integer(0)), "the descriptor of A");
    assert_eq!(part(true, 2, registers(4)), "the descriptor of B");
    assert_eq!(part(false, 3, Operand::Integer(2)), "scale-d");
    assert_eq!(part(false, 4, Operand::Integer(0)), "imm-scale-a");
    assert_eq!(part(true, 5, Operand::Integer(2)), "imm-scale-b");
    assert_eq!(part(false, 6, Operand::Integer(2)), "imm-trans-a");
    assert_eq!(part(false, 7, name("%r")), "imm-trans-b");
    assert_eq!(part(true, 6, Operand::Integer(-1)), "imm-trans-b");
    for (k, types, immediates) in [
        (16, "f32.bf16.bf16", &PLAIN[..3]),
        (8, "f32.tf32.tf32", &PLAIN[..4]),
        (32, "f32.e4m3.e4m3", &PLAIN[..3]),
        (32, "s32.s8.s8", &PLAIN[..2]),
    ] {
        assert_eq!(wgmma_part(&wgmma(8, k, types, false, immediates)), "the number of operands");
    }
}

#[test]
fn mma_forms() {
    let decode = |form: &str, a, b| {
        let operands = vec![registers(4), registers(a), registers(b), registers(4)];
        mma::Multiply::decode(&instruction(&format!("mma.sync.aligned.{form}"), operands))
    };
    let wide = decode("m16n8k16.row.col.f32.f16.f16.f32", 4, 2).unwrap();
    assert_eq!((wide.a_registers(), wide.b_registers(), wide.flop()), (4, 2, 4096));
    assert!(decode("m16n8k8.row.col.f32.bf16.bf16.f32", 2, 1).is_ok());
    for (form, a, b, part) in [
        ("m16n8k32.row.col.f32.f16.f16.f32", 4, 2, "the shape"),
        ("m8n8k16.row.col.f32.f16.f16.f32", 4, 2, "the shape"),
        ("m16n8k16.col.col.f32.f16.f16.f32", 4, 2, "the instruction"),
        ("m16n8k16.row.col.f32.bf16.f16.f32", 4, 2, "the instruction"),
        ("m16n8k16.row.col.f16.f16.f16.f16", 4, 2, "the instruction"),
        ("m16n8k16.row.col.f32.f16.f16.f32", 2, 2, "A"),
        ("m16n8k8.row.col.f32.f16.f16.f32", 2, 2, "B"),
    ] {
        assert_eq!(decode(form, a, b).unwrap_err().part, part, "{form}");
    }
}

#[test]
fn transfer_forms() {
    let address = || Operand::Address(Address { base: Some("%r".into()), offset: 0, coordinates: vec![] });
    let load = |form: &str, count| {
        Transfer::decode(&instruction(&format!("ldmatrix.{form}"), vec![registers(count), address()]))
    };
    let decoded = load("sync.aligned.m8n8.x4.trans.shared.b16", 4).unwrap();
    assert_eq!(decoded, Transfer { stores: false, matrices: 4, transposed: true, shared: true });
    assert_eq!((decoded.register_operand(), decoded.address_operand(), decoded.address_lanes()), (0, 1, 32));
    assert_eq!(load("sync.aligned.m8n8.x1.b16", 1).map(|t| (t.shared, t.address_lanes())), Ok((false, 8)));
    assert!(load("sync.aligned.m8n8.x2.shared::cta.b16", 2).is_ok());

    let operands = vec![address(), registers(4)];
    let store = Transfer::decode(&instruction("stmatrix.sync.aligned.m8n8.x4.shared.b16", operands)).unwrap();
    assert_eq!((store.stores, store.register_operand(), store.address_operand()), (true, 1, 0));

    for (form, count, part) in [
        ("sync.aligned.m8n8.x3.shared.b16", 3, "the instruction"),
        ("sync.aligned.m8n16.x4.shared.b16", 4, "the instruction"),
        ("sync.aligned.m8n8.x4.shared.b8", 4, "the instruction"),
        ("sync.aligned.m8n8.x4.shared.b16.relu", 4, "the instruction"),
        ("sync.aligned.m8n8.x4.shared.b16", 2, "the vector"),
    ] {
        assert_eq!(load(form, count).unwrap_err().part, part, "{form}");
    }
    let no_address = vec![registers(1), name("%r")];
    let error = Transfer::decode(&instruction("ldmatrix.sync.aligned.m8n8.x1.shared.b16", no_address));
    assert_eq!(error.unwrap_err().part, "the address");
    let none = Transfer::decode(&instruction("ldmatrix.sync.aligned.m8n8.x1.shared.b16", vec![]));
    assert_eq!(none.unwrap_err().part, "the number of operands");
}
