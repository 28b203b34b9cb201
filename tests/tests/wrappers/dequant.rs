//! [`attention/dequant.rs`](../../../kernels-gpu/src/attention/dequant.rs)

use half::bf16;
use oximla_reference::fp8;

use crate::kernel::{Kernel, Work};

/// Codes of a thread.
const CODES: usize = 16;

/// Scales of which the emulator, which is slow, passes over the next ones. A prime number, so that the exponents that it
/// gets come with various mantissas.
const EMULATED_EVERY: usize = 17;

/// Scales of every bf16, and f32 that round to one.
pub fn dequantise_f32(kernel: &Kernel) {
    let every = if kernel.is_emulated() { EMULATED_EVERY } else { 1 };
    let stored = (0..=u16::MAX).step_by(every).map(|bits| bf16::from_bits(bits).to_f32());
    let step = 1.0 / 128.0;
    let special = [0.0, -0.0, 1.0, -1.0, 255.0, 256.0, -256.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    // To the nearest, ties to even, and to infinity.
    let rounded =
        [1.0 + 0.5 * step, 1.0 + 1.5 * step, 1.0 + 0.501 * step, -1.0 / 3.0, 255.9, f32::MAX, -f32::MAX];
    // Half of the smallest bf16, which is rounded to 0, and the next f32; the smallest f32 and the largest subnormal.
    let subnormal = [0x0000_8000, 0x0000_8001, 0x0000_0001, 0x007f_ffff].map(f32::from_bits);
    let scales: Vec<f32> = stored.chain(special).chain(rounded).chain(subnormal).collect();
    for scales in scales.chunks(1 << 12) {
        check(kernel, scales, |scale| scale.to_bits(), |scale| *scale);
    }
}

/// Every scale.
pub fn dequantise_ue8m0(kernel: &Kernel) {
    let scales: Vec<u8> = (0..=u8::MAX).collect();
    check(kernel, &scales, |byte| u32::from(*byte), |byte| fp8::ue8m0_decode(*byte));
}

/// Every code under each of the scales: as a word for the kernel, and as a value.
fn check<T>(kernel: &Kernel, scales: &[T], word: impl Fn(&T) -> u32, value: impl Fn(&T) -> f32) {
    let threads: Vec<(&T, Vec<u8>)> = scales.iter().enumerate().flat_map(chunks).collect();
    let input = threads.iter().flat_map(|(scale, codes)| {
        let words = codes.chunks(4).map(|codes| u32::from_le_bytes(codes.try_into().expect("four codes")));
        std::iter::once(word(scale)).chain(words)
    });
    let mut input: Vec<u32> = input.collect();
    // The threads that fill the last warp get zeros.
    let warps = threads.len().div_ceil(32);
    input.resize(warps * 32 * (1 + CODES / 4), 0);
    let found = kernel.run(&Work::new(input, warps * 32 * CODES / 2).on_grid([warps as u32, 1]));
    for ((scale, codes), found) in threads.iter().zip(found.chunks(CODES / 2)) {
        let scale = value(scale);
        for (number, code) in codes.iter().enumerate() {
            let found = bf16::from_bits((found[number / 2] >> (number % 2 * 16)) as u16);
            let expected = bf16::from_f64(fp8::dequantise(*code, scale));
            let is_same =
                if expected.is_nan() { found.is_nan() } else { found.to_bits() == expected.to_bits() };
            assert!(is_same, "code {code:#04x} of {codes:02x?} under {scale:e}: {found:e}, not {expected:e}");
        }
    }
}

/// All codes, in chunks for threads. Where in its chunk a code stands, NaN for one, is up to the scale's number.
fn chunks<T>((number, scale): (usize, T)) -> impl Iterator<Item = (T, Vec<u8>)>
where
    T: Copy,
{
    let code = move |at: usize| (at + number) as u8;
    let codes = move |chunk: usize| (chunk * CODES..(chunk + 1) * CODES).map(code).collect();
    (0..256 / CODES).map(move |chunk| (scale, codes(chunk)))
}
