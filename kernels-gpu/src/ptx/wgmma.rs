//! Warpgroup matrix multiply ("Asynchronous Warpgroup Level Matrix Instructions").
//!
//! All four warps of a warpgroup execute these together. An accumulator belongs to the tensor core from the first
//! `wgmma` to the `wgmma.wait_group` that covers it: in between it must not be read, written or moved.

use core::arch::asm;
use oximla_types::descriptor::wgmma::SharedDescriptor;

/// `wgmma.fence`: orders earlier accesses to accumulators before the following `wgmma`s.
///
/// # Safety
/// The whole warpgroup executes it.
#[inline(always)]
pub unsafe fn wgmma_fence() {
    // SAFETY: as the caller promises.
    unsafe { asm!("wgmma.fence.sync.aligned;", options(nostack)) }
}

/// `wgmma.commit_group`: closes a group of the `wgmma`s issued so far.
///
/// # Safety
/// The whole warpgroup executes it.
#[inline(always)]
pub unsafe fn wgmma_commit_group() {
    // SAFETY: as the caller promises.
    unsafe { asm!("wgmma.commit_group.sync.aligned;", options(nostack)) }
}

macro_rules! fence {
    ($name:ident, $len:literal, [$($register:literal)*]) => {
        /// `wgmma.fence`, through which the accumulator passes, so that the compiler cannot write it after the fence:
        /// it likes to make zeros just before they are used.
        ///
        /// # Safety
        /// The whole warpgroup executes it; the accumulator is not in flight.
        #[inline(always)]
        pub unsafe fn $name(accumulator: &mut [f32; $len]) {
            // SAFETY: as the caller promises.
            unsafe {
                asm!(concat!("wgmma.fence.sync.aligned; //" $(, " {", $register, "}")*),
                    $(inout(reg32) accumulator[$register],)* options(nostack))
            }
        }
    };
}

macro_rules! wait_group {
    ($name:ident, $len:literal, [$($register:literal)*]) => {
        /// `wgmma.wait_group`: waits until at most the last `PENDING` groups are unfinished. The accumulator of the others
        /// passes through, so that no use of it can be scheduled before the wait.
        ///
        /// # Safety
        /// The whole warpgroup executes it.
        #[inline(always)]
        pub unsafe fn $name<const PENDING: u32>(accumulator: &mut [f32; $len]) {
            // SAFETY: as the caller promises.
            unsafe {
                // asm! wants every operand in the text: a comment will do.
                asm!(concat!("wgmma.wait_group.sync.aligned {pending}; //" $(, " {", $register, "}")*),
                    $(inout(reg32) accumulator[$register],)* pending = const PENDING, options(nostack))
            }
        }
    };
}

macro_rules! mma {
    ($name:ident, $len:literal, $instruction:literal, $transpose:literal,
     [$first:literal $($register:literal)*]) => {
        #[doc = concat!("`", $instruction, "`: accumulator += A·B.")]
        ///
        /// # Safety
        /// The whole warpgroup executes it, after `wgmma_fence`; the descriptors describe shared memory that holds
        /// the operands and is visible to the asynchronous proxy.
        #[inline(always)]
        pub unsafe fn $name(
            accumulator: &mut [f32; $len],
            a: SharedDescriptor,
            b: SharedDescriptor,
        ) {
            // SAFETY: as the caller promises.
            unsafe {
                asm!(
                    concat!($instruction, " {{ {", $first, "}" $(, ", {", $register, "}")*,
                        " }}, {a}, {b}, 1, 1, 1, ", $transpose, ";"),
                    inout(reg32) accumulator[$first],
                    $(inout(reg32) accumulator[$register],)*
                    a = in(reg64) a.bits(), b = in(reg64) b.bits(), options(nostack))
            }
        }
    };
}

macro_rules! mma_registers {
    ($name:ident, $len:literal, $instruction:literal, $transpose:literal,
     [$first:literal $($register:literal)*]) => {
        #[doc = concat!("`", $instruction, "`: accumulator += A·B, A in registers.")]
        ///
        /// # Safety
        /// The whole warpgroup executes it, after `wgmma_fence`; the descriptor describes shared memory that holds the
        /// operand and is visible to the asynchronous proxy. A is not written before the accumulator has been waited for.
        #[inline(always)]
        pub unsafe fn $name(accumulator: &mut [f32; $len], a: [u32; 4], b: SharedDescriptor) {
            // SAFETY: as the caller promises.
            unsafe {
                asm!(
                    concat!($instruction, " {{ {", $first, "}" $(, ", {", $register, "}")*,
                        " }}, {{ {a0}, {a1}, {a2}, {a3} }}, {b}, 1, 1, 1, ", $transpose, ";"),
                    inout(reg32) accumulator[$first],
                    $(inout(reg32) accumulator[$register],)*
                    a0 = in(reg32) a[0], a1 = in(reg32) a[1], a2 = in(reg32) a[2], a3 = in(reg32) a[3],
                    b = in(reg64) b.bits(), options(nostack))
            }
        }
    };
}

macro_rules! shapes {
    ($callback:ident!($($arguments:tt)*), 32) => {
        $callback!($($arguments)*, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29
            30 31]);
    };
    ($callback:ident!($($arguments:tt)*), 64) => {
        $callback!($($arguments)*, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29
            30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]);
    };
}

shapes!(fence!(wgmma_fence_32, 32), 32);
shapes!(wait_group!(wgmma_wait_32, 32), 32);
shapes!(wait_group!(wgmma_wait_64, 64), 64);
shapes!(mma!(wgmma_m64n64k16_bf16, 32, "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16", "0, 0"), 32);
shapes!(mma!(wgmma_m64n64k16_f16, 32, "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16", "0, 0"), 32);
shapes!(
    mma_registers!(wgmma_m64n64k16_bf16_ra, 32, "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16", "0"),
    32
);
shapes!(
    mma_registers!(wgmma_m64n64k16_f16_ra, 32, "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16", "0"),
    32
);
shapes!(
    mma!(wgmma_m64n128k16_bf16_bt, 64, "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16", "0, 1"),
    64
);
shapes!(mma!(wgmma_m64n128k16_f16_bt, 64, "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16", "0, 1"), 64);
