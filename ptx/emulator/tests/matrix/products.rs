//! Products against naive loops, with fragments written out from the ISA's figures.

use std::array::from_fn;

use half::{bf16, f16};
use proptest::prelude::*;
use ptx_emulator::matrix::{mma, wgmma::Multiply};

use crate::{instruction, registers, wgmma};

/// Row and column of element e of thread t in D (figure "WGMMA .m64nNk16 register fragment layout for accumulator
/// matrix D").
fn place(t: usize, e: usize) -> (usize, usize) {
    (16 * (t / 32) + 8 * ((e / 2) & 1) + (t % 32) / 4, 8 * (e / 4) + 2 * (t % 4) + (e & 1))
}

/// A·B in f64; rows of `b` are columns of B.
fn product(a: &[f32], b: &[f32], k: usize, row: usize, column: usize) -> f64 {
    (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(b[column * k + i])).sum()
}

/// Numbers that differ from each other, made by a linear congruence.
fn numbers(seed: u64, count: usize) -> impl Iterator<Item = u64> {
    let step = |x: &u64| Some(x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407));
    std::iter::successors(Some(seed), step).skip(1).map(|x| x >> 33).take(count)
}

fn integers(seed: u64, count: usize, range: std::ops::Range<i64>) -> Vec<f32> {
    let width = (range.end - range.start) as u64;
    numbers(seed, count).map(|x| (range.start + (x % width) as i64) as f32).collect()
}

/// bf16 numbers of either sign between 2^-8 and 2^8.
fn bf16s(seed: u64, count: usize) -> Vec<f32> {
    numbers(seed, count)
        .map(|x| bf16::from_bits((0x3b80 + x % 0x800 + (x >> 20 & 1) * 0x8000) as u16).to_f32())
        .collect()
}

fn decode(n: usize, k: usize, types: &str, immediates: &[i64]) -> Multiply {
    Multiply::decode(&wgmma(n, k, types, false, immediates)).unwrap()
}

#[test]
fn integer_data_is_exact() {
    for (types, k, immediates) in [
        ("f32.bf16.bf16", 16, [1, 1, 0, 0].as_slice()),
        ("f32.f16.f16", 16, &[1, 1, 0, 1]),
        ("f32.tf32.tf32", 8, &[1, 1]),
        ("f32.e4m3.e5m2", 32, &[1, 1]),
        ("s32.s8.u8", 32, &[]),
    ] {
        for n in [8, 24, 256] {
            let multiply = decode(n, k, types, immediates);
            let (a, b) = (integers(1, 64 * k, -8..9), integers(2, n * k, -8..9));
            let old = integers(3, 64 * n, -1000..1000);
            let bits = |x: f64| if types.starts_with("s32") { x as i32 as u32 } else { (x as f32).to_bits() };
            let count = multiply.accumulator_registers();
            assert_eq!(count, n / 2);
            for add in [false, true] {
                let mut registers: Vec<u32> = old.iter().map(|x| bits((*x).into())).collect();
                multiply.multiply(&a, &b, &mut registers, add);
                for (i, register) in registers.iter().enumerate() {
                    let (row, column) = place(i / count, i % count);
                    let before = if add { f64::from(old[i]) } else { 0.0 };
                    assert_eq!(*register, bits(before + product(&a, &b, k, row, column)), "{types} n {n}");
                }
            }
        }
    }
}

#[test]
fn half_precision_accumulators_share_registers() {
    let multiply = decode(32, 16, "f16.f16.f16", &[1, 1, 0, 0]);
    let (a, b) = (integers(4, 64 * 16, -4..5), integers(5, 32 * 16, -4..5));
    let mut registers = vec![0x3c00_4000; 128 * 8];
    multiply.multiply(&a, &b, &mut registers, true);
    for (i, register) in registers.iter().enumerate() {
        for (half, before) in [(0, 2.0), (1, 1.0)] {
            let (row, column) = place(i / 8, i % 8 * 2 + half);
            let expected = f16::from_f64(before + product(&a, &b, 16, row, column));
            assert_eq!((register >> (16 * half)) as u16, expected.to_bits());
        }
    }
}

#[test]
fn scales_negate() {
    let (a, b) = (bf16s(6, 64 * 16), bf16s(7, 8 * 16));
    let result = |scales: [i64; 2]| {
        let mut registers = vec![0; 128 * 4];
        let multiply = decode(8, 16, "f32.bf16.bf16", &[scales[0], scales[1], 0, 0]);
        multiply.multiply(&a, &b, &mut registers, false);
        registers.into_iter().map(f32::from_bits).collect::<Vec<_>>()
    };
    let plain = result([1, 1]);
    let negated: Vec<f32> = plain.iter().map(|x| -x).collect();
    assert_eq!((result([-1, 1]), result([1, -1]), result([-1, -1])), (negated.clone(), negated, plain));
}

#[test]
fn a_from_registers_follows_the_figure() {
    // Register r of a thread: rows g and g + 8, elements 2q, 2q + 1, from r = 2 on 8 more; g = lane / 4, q = lane % 4.
    let number = |row: usize, k: usize| (row * 16 + k) as u16;
    let mut registers = [[0; 4]; 128];
    for (t, registers) in registers.iter_mut().enumerate() {
        for (r, register) in registers.iter_mut().enumerate() {
            let (row, k) = (16 * (t / 32) + t % 32 / 4 + 8 * (r & 1), 2 * (t % 4) + 8 * (r >> 1));
            *register = u32::from(number(row, k)) | u32::from(number(row, k + 1)) << 16;
        }
    }
    let multiply = Multiply::decode(&wgmma(8, 16, "f32.f16.f16", true, &[1, 1, 0])).unwrap();
    let values = multiply.a_from_registers(&registers);
    let expected: Vec<f32> = (0..1024).map(|i| f16::from_bits(i).to_f32()).collect();
    assert_eq!(values, expected);
}

#[test]
fn a_from_registers_of_bytes_and_words() {
    // m64k32: thread 5 (group 1, place 1) holds row 1, elements 4 to 7 in register 0, 20 to 23 in register 2.
    let mut registers = [[0; 4]; 128];
    registers[5] = [0x0403_0201, 0, 0x0807_0605, 0xff];
    let multiply = Multiply::decode(&wgmma(8, 32, "s32.s8.s8", true, &[])).unwrap();
    let values = multiply.a_from_registers(&registers);
    assert_eq!(values[32 + 4..32 + 8], [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(values[32 + 20..32 + 24], [5.0, 6.0, 7.0, 8.0]);
    assert_eq!(values[9 * 32 + 20], -1.0);
    // m64k8: thread 5 holds rows 1 and 9, elements 1 and 5.
    registers[5] = [1f32, 2.0, 3.0, 4.0].map(f32::to_bits);
    let multiply = Multiply::decode(&wgmma(8, 8, "f32.tf32.tf32", true, &[1, 1])).unwrap();
    let values = multiply.a_from_registers(&registers);
    assert_eq!([8 + 1, 72 + 1, 8 + 5, 72 + 5].map(|i| values[i]), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn warp_level_product() {
    // Fragments of mma.m16n8k16 and .m16n8k8, figures "MMA .m16n8k16 fragment layout for matrix A / B / C and D".
    for k in [8, 16] {
        let (a, b) = (bf16s(8, 16 * k), bf16s(9, 8 * k));
        let pair = |matrix: &[f32], row: usize, column: usize| {
            let bits = |i: usize| u32::from(bf16::from_f32(matrix[row * k + column + i]).to_bits());
            bits(1) << 16 | bits(0)
        };
        // Of k = 8 only the first registers count; the others hold what must not matter.
        let left = from_fn(|lane| {
            let register = |r| pair(&a, lane / 4 + 8 * (r % 2), 2 * (lane % 4) + 8 * (r / 2));
            from_fn(|r| if r < k / 4 { register(r) } else { u32::MAX })
        });
        let right = from_fn(|lane| {
            let register = |r| pair(&b, lane / 4, 2 * (lane % 4) + 8 * r);
            from_fn(|r| if r < k / 8 { register(r) } else { u32::MAX })
        });
        let c = from_fn(|lane| from_fn(|i| ((lane * 4 + i) as f32).to_bits()));
        let operands = vec![registers(4), registers(k / 4), registers(k / 8), registers(4)];
        let mnemonic = format!("mma.sync.aligned.m16n8k{k}.row.col.f32.bf16.bf16.f32");
        let multiply = mma::Multiply::decode(&instruction(&mnemonic, operands)).unwrap();
        assert_eq!((multiply.flop(), multiply.k() as usize), (256 * k as u64, k));
        let d = multiply.multiply(&left, &right, &c);
        for (lane, registers) in d.iter().enumerate() {
            for (i, register) in registers.iter().enumerate() {
                let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                let exact = (lane * 4 + i) as f64 + product(&a, &b, k, row, column);
                assert_eq!(f32::from_bits(*register), exact as f32, "k {k} lane {lane} register {i}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_data_is_rounded_once(seed: u64, n in 1..=32usize) {
        let multiply = decode(8 * n, 16, "f32.bf16.bf16", &[1, 1, 0, 0]);
        let (a, b) = (bf16s(seed, 64 * 16), bf16s(seed ^ 1, 8 * n * 16));
        let old = bf16s(seed ^ 2, 64 * 8 * n);
        let mut registers: Vec<u32> = old.iter().map(|x| x.to_bits()).collect();
        multiply.multiply(&a, &b, &mut registers, true);
        let count = multiply.accumulator_registers();
        for (i, register) in registers.iter().enumerate() {
            let (row, column) = place(i / count, i % count);
            // Sums of bf16 products of this range are exact in f64.
            let exact = f64::from(old[i]) + product(&a, &b, 16, row, column);
            prop_assert_eq!(f32::from_bits(*register), exact as f32);
        }
    }
}
