//! Arithmetic ("Floating-Point Instructions", "Half Precision Floating-Point Instructions") and the bytes of numbers ("Data
//! Movement and Conversion Instructions: prmt").

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

/// `mul.rn.bf16x2`: the products of two pairs of bf16, rounded to nearest even, subnormals kept.
#[inline(always)]
pub fn mul_bf16x2(a: u32, b: u32) -> u32 {
    let y: u32;
    // SAFETY: pure arithmetic.
    unsafe {
        asm!("mul.rn.bf16x2 {}, {}, {};", out(reg32) y, in(reg32) a, in(reg32) b, options(pure, nomem, nostack))
    }
    y
}

/// `mul.rn.f16x2`: the products of two pairs of fp16, rounded to nearest even, subnormals kept.
#[inline(always)]
pub fn mul_f16x2(a: u32, b: u32) -> u32 {
    let y: u32;
    // SAFETY: pure arithmetic.
    unsafe {
        asm!("mul.rn.f16x2 {}, {}, {};", out(reg32) y, in(reg32) a, in(reg32) b, options(pure, nomem, nostack))
    }
    y
}

/// `prmt.b32`: four bytes out of eight.
///
/// Each hexadecimal digit of `SELECTOR`, the lowest first, picks a byte of the result: 0 to 3 are the bytes of `a`, 4 to 7
/// those of `b`, and 8 more than that is eight times the sign of the byte.
#[inline(always)]
pub fn prmt<const SELECTOR: u32>(a: u32, b: u32) -> u32 {
    let y: u32;
    // SAFETY: it only moves bytes.
    unsafe {
        asm!("prmt.b32 {}, {}, {}, {};", out(reg32) y, in(reg32) a, in(reg32) b, const SELECTOR,
            options(pure, nomem, nostack))
    }
    y
}

/// [`prmt`] with a selector that is not constant.
#[inline(always)]
pub fn prmt_by(a: u32, b: u32, selector: u32) -> u32 {
    let y: u32;
    // SAFETY: it only moves bytes.
    unsafe {
        asm!("prmt.b32 {}, {}, {}, {};", out(reg32) y, in(reg32) a, in(reg32) b, in(reg32) selector,
            options(pure, nomem, nostack))
    }
    y
}

/// `shr.u32`: 0 where `by` is 32 or more.
///
/// Not `pure`, so that nothing of it is kept in registers.
#[inline(always)]
pub fn shr(value: u32, by: u32) -> u32 {
    let shifted: u32;
    // SAFETY: it only makes a number.
    unsafe {
        asm!("shr.u32 {}, {}, {};", out(reg32) shifted, in(reg32) value, in(reg32) by, options(nomem, nostack))
    }
    shifted
}

/// `cvt.rn.satfinite.e4m3x2.f32`: two e4m3 codes, `low` in the lower byte, rounded to nearest even; larger magnitudes
/// than 448 become that.
#[inline(always)]
pub fn cvt_e4m3x2(low: f32, high: f32) -> u16 {
    let y: u16;
    // SAFETY: pure arithmetic.
    unsafe {
        asm!("cvt.rn.satfinite.e4m3x2.f32 {}, {}, {};", out(reg16) y, in(reg32) high, in(reg32) low,
            options(pure, nomem, nostack))
    }
    y
}

/// `cvt.rn.f16x2.e4m3x2`: the values of two e4m3 codes as fp16, exactly, in the same order.
#[inline(always)]
pub fn cvt_f16x2_e4m3x2(codes: u16) -> u32 {
    let y: u32;
    // SAFETY: pure arithmetic.
    unsafe {
        asm!("cvt.rn.f16x2.e4m3x2 {}, {};", out(reg32) y, in(reg16) codes, options(pure, nomem, nostack))
    }
    y
}
