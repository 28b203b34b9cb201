//! Arithmetic ("Floating-Point Instructions", "Half Precision Floating-Point Instructions").

use core::arch::asm;

macro_rules! unary_f32 {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(x: f32) -> f32 {
            let y: f32;
            // SAFETY: pure arithmetic.
            unsafe {
                asm!(concat!($instruction, " {}, {};"), out(reg32) y, in(reg32) x,
                    options(pure, nomem, nostack))
            }
            y
        }
    };
}

unary_f32! {
    /// `ex2.approx.ftz.f32`: 2ˣ, to 2⁻²² relative; exact 0 for −∞.
    ex2, "ex2.approx.ftz.f32"
}
unary_f32! {
    /// `lg2.approx.f32`: log₂ x, to 2⁻²² absolute near 1 and relative elsewhere.
    lg2, "lg2.approx.f32"
}
unary_f32! {
    /// `rcp.rn.f32`: 1/x, rounded to nearest.
    rcp, "rcp.rn.f32"
}

/// `fma.rn.f32`: a·b + c, rounded once.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    let y: f32;
    // SAFETY: pure arithmetic.
    unsafe {
        asm!("fma.rn.f32 {}, {}, {}, {};", out(reg32) y, in(reg32) a, in(reg32) b, in(reg32) c,
            options(pure, nomem, nostack))
    }
    y
}

/// `max.f32`: the larger; the other one where one is NaN.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    let y: f32;
    // SAFETY: pure arithmetic.
    unsafe {
        asm!("max.f32 {}, {}, {};", out(reg32) y, in(reg32) a, in(reg32) b, options(pure, nomem, nostack))
    }
    y
}

/// `cvt.rn.bf16x2.f32`: two bf16, `low` in the lower half, rounded to nearest even.
#[inline(always)]
pub fn cvt_bf16x2(low: f32, high: f32) -> u32 {
    let y: u32;
    // SAFETY: pure arithmetic.
    unsafe {
        asm!("cvt.rn.bf16x2.f32 {}, {}, {};", out(reg32) y, in(reg32) high, in(reg32) low,
            options(pure, nomem, nostack))
    }
    y
}

/// `cvt.rn.f16x2.f32`: two fp16, `low` in the lower half, rounded to nearest even.
#[inline(always)]
pub fn cvt_f16x2(low: f32, high: f32) -> u32 {
    let y: u32;
    // SAFETY: pure arithmetic.
    unsafe {
        asm!("cvt.rn.f16x2.f32 {}, {}, {};", out(reg32) y, in(reg32) high, in(reg32) low,
            options(pure, nomem, nostack))
    }
    y
}

/// `cvt.f32.f16`: the value of an fp16, exactly.
#[inline(always)]
pub fn cvt_f32_f16(x: u16) -> f32 {
    let y: f32;
    // SAFETY: pure arithmetic.
    unsafe { asm!("cvt.f32.f16 {}, {};", out(reg32) y, in(reg16) x, options(pure, nomem, nostack)) }
    y
}
