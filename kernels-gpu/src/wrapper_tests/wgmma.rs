//! Kernels for [`ptx::wgmma`](crate::ptx::wgmma): D = C + A·B twice, each over 32 steps of K, two instructions. The second
//! product is under way when the first one is waited for and written.
//!
//! The input is A, 64 rows by 64, then B, both as they are to lie in shared memory, then the C of both products; the output is
//! the D of both. Each C and D lies in the order of the threads and, for each, of its accumulators.

use super::kernel;
use crate::attention::unroll;
use crate::ptx::barrier::barrier_cta_sync;
use crate::ptx::fence::fence_proxy_async_shared;
use crate::ptx::memory::{ld_shared_u32, st_shared_u32};
use crate::ptx::special::{dynamic_shared, thread_x};
use crate::ptx::wgmma::*;
use oximla_types::descriptor::wgmma::SharedDescriptor;
use oximla_types::kernels::wrapper_tests::SHARED_BYTES;
use oximla_types::launch::WARPGROUP_THREADS;
use oximla_types::layout::fragment::{self, A_REGISTERS};
use oximla_types::layout::swizzle::Swizzle;
use oximla_types::layout::tile::{Position, Tile};

/// Bytes of a row of a panel: 64 elements of 16 bits, with 128-byte swizzle.
const ROW_BYTES: u32 = 64 * 2;

/// Bytes of a panel of 64 rows.
const PANEL_BYTES: u32 = 64 * ROW_BYTES;

/// Elements along K that an instruction takes.
const STEP: u32 = 16;

kernel!(wrapper_wgmma_fence, |thread, input, output| { multiply_128_bf16(thread, input, output) });
kernel!(wrapper_wgmma_fence_32, |thread, input, output| { multiply_64_bf16(thread, input, output) });
kernel!(wrapper_wgmma_commit_group, |thread, input, output| { multiply_64_bf16(thread, input, output) });
kernel!(wrapper_wgmma_wait_32, |thread, input, output| { multiply_64_bf16(thread, input, output) });
kernel!(wrapper_wgmma_wait_64, |thread, input, output| { multiply_128_bf16(thread, input, output) });
kernel!(wrapper_wgmma_m64n64k16_bf16, |thread, input, output| { multiply_64_bf16(thread, input, output) });
kernel!(wrapper_wgmma_m64n64k16_f16, |thread, input, output| { multiply_64_f16(thread, input, output) });
kernel!(wrapper_wgmma_m64n64k16_bf16_ra, |thread, input, output| {
    multiply_64_bf16_ra(thread, input, output)
});
kernel!(wrapper_wgmma_m64n64k16_f16_ra, |thread, input, output| {
    multiply_64_f16_ra(thread, input, output)
});
kernel!(wrapper_wgmma_m64n128k16_bf16_bt, |thread, input, output| {
    multiply_128_bf16(thread, input, output)
});
kernel!(wrapper_wgmma_m64n128k16_f16_bt, |thread, input, output| { multiply_128_f16(thread, input, output) });

/// Does something for each accumulator's number, a constant.
macro_rules! each {
    ($i:ident in 32 => $body:block) => { unroll!($i in 32 => $body) };
    ($i:ident in 64 => $body:block) => {
        unroll!(HALF in 2 => { unroll!(J in 32 => { const $i: usize = HALF * 32 + J; $body }); })
    };
}

/// Multiplications by `$panels` panels of B with accumulators of `$len` words.
macro_rules! multiply {
    ($name:ident, $mma:ident, $fence:expr, $wait:ident, $len:tt, $panels:literal,
     [$a:expr, $a_step:expr], [$b:expr, $b_step:expr]) => {
        const _: () = assert!((1 + $panels) * PANEL_BYTES <= SHARED_BYTES);

        #[inline(always)]
        pub unsafe fn $name(thread: usize, input: *const u32, output: *mut u32) {
            let (a, b) = (dynamic_shared(), dynamic_shared() + PANEL_BYTES);
            let words = ((1 + $panels) * PANEL_BYTES / 4) as usize;
            let first = thread * $len;
            let second = WARPGROUP_THREADS as usize * $len + first;
            // SAFETY: the operands fit into shared memory, and the whole warpgroup is here.
            unsafe {
                let mut word = thread;
                while word < words {
                    st_shared_u32(a + 4 * word as u32, *input.add(word));
                    word += WARPGROUP_THREADS as usize;
                }
                fence_proxy_async_shared();
                barrier_cta_sync::<0>(WARPGROUP_THREADS);

                // A loop over so many elements would keep them in memory.
                let mut products: [[f32; $len]; 2] = core::mem::zeroed();
                each!(I in $len => { products[0][I] = f32::from_bits(*input.add(words + first + I)); });
                each!(I in $len => { products[1][I] = f32::from_bits(*input.add(words + second + I)); });
                let (a, b) = ($a(a), $b(b));
                unroll!(PRODUCT in 2 => { $fence(&mut products[PRODUCT]); });
                unroll!(PRODUCT in 2 => {
                    unroll!(I in 2 => {
                        const AT: u32 = (2 * PRODUCT + I) as u32;
                        $mma(&mut products[PRODUCT], a.advance(AT * $a_step), b.advance(AT * $b_step));
                    });
                    wgmma_commit_group();
                });
                $wait::<1>(&mut products[0]);
                each!(I in $len => { *output.add(first + I) = products[0][I].to_bits(); });
                $wait::<0>(&mut products[1]);
                each!(I in $len => { *output.add(second + I) = products[1][I].to_bits(); });
            }
        }
    };
}

/// B has a row for each of 64 columns of D, and K runs along it.
macro_rules! multiply_64 {
    ($name:ident, $mma:ident) => {
        multiply!(
            $name,
            $mma,
            wgmma_fence_32,
            wgmma_wait_32,
            32,
            1,
            [SharedDescriptor::k_major_sw128, STEP * 2],
            [SharedDescriptor::k_major_sw128, STEP * 2]
        );
    };
}

/// B has a row for each step of K, in two panels of 64 columns of D.
macro_rules! multiply_128 {
    ($name:ident, $mma:ident) => {
        multiply!(
            $name,
            $mma,
            |_| wgmma_fence(),
            wgmma_wait_64,
            64,
            2,
            [SharedDescriptor::k_major_sw128, STEP * 2],
            [of_panels, STEP * ROW_BYTES]
        );
    };
}

/// `multiply!` has A at the beginning of the shared memory; this loads a step of it to registers.
macro_rules! with_a_in_registers {
    ($name:ident, $mma:ident) => {
        #[inline(always)]
        unsafe fn $name(accumulator: &mut [f32; 32], a: SharedDescriptor, b: SharedDescriptor) {
            // The descriptor's first field is the address, in units of 16 bytes.
            let start = (a.bits() as u32 & 0x3fff) * 16;
            let tile = Tile::new(64, Swizzle::Bytes128);
            let panel = dynamic_shared();
            let first_column = (start - panel) / 2;
            let mut registers = [0; A_REGISTERS];
            unroll!(REGISTER in 4 => {
                let at = fragment::a_operand(thread_x(), REGISTER as u32, 0);
                let position = Position { row: at.row, column: first_column + at.column };
                // SAFETY: an element of the panel, and the one next to it.
                registers[REGISTER] = unsafe { ld_shared_u32(panel + tile.element(position)) };
            });
            // SAFETY: as the caller promises; each step has registers of its own, written before the fence.
            unsafe {
                wgmma_fence();
                $mma(accumulator, registers, b)
            }
        }
    };
}

with_a_in_registers!(bf16_a_in_registers, wgmma_m64n64k16_bf16_ra);
with_a_in_registers!(f16_a_in_registers, wgmma_m64n64k16_f16_ra);
multiply_64!(multiply_64_bf16_ra, bf16_a_in_registers);
multiply_64!(multiply_64_f16_ra, f16_a_in_registers);
multiply_64!(multiply_64_bf16, wgmma_m64n64k16_bf16);
multiply_64!(multiply_64_f16, wgmma_m64n64k16_f16);
multiply_128!(multiply_128_bf16, wgmma_m64n128k16_bf16_bt);
multiply_128!(multiply_128_f16, wgmma_m64n128k16_f16_bt);

#[inline(always)]
fn of_panels(address: u32) -> SharedDescriptor {
    SharedDescriptor::mn_major_sw128(address, PANEL_BYTES)
}
