//! Loads and stores ("Data Movement and Conversion Instructions: ld, st").
//!
//! Rust's own pointers compile to generic accesses; these name the state space.

use core::arch::asm;

macro_rules! load {
    ($(#[$doc:meta])* $name:ident, $instruction:literal, $address:ident: $address_ty:ty, $value:ident: $ty:ty) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The address is aligned and valid for the access.
        #[inline(always)]
        pub unsafe fn $name(address: $address_ty) -> $ty {
            let value: $ty;
            // SAFETY: as the caller promises.
            unsafe {
                asm!(concat!($instruction, " {}, [{}];"), out($value) value, in($address) address,
                    options(nostack, readonly))
            }
            value
        }
    };
}

macro_rules! store {
    ($(#[$doc:meta])* $name:ident, $instruction:literal, $address:ident: $address_ty:ty, $value:ident: $ty:ty) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The address is aligned and valid for the access, and no other thread accesses it unordered.
        #[inline(always)]
        pub unsafe fn $name(address: $address_ty, value: $ty) {
            // SAFETY: as the caller promises.
            unsafe {
                asm!(concat!($instruction, " [{}], {};"), in($address) address, in($value) value,
                    options(nostack))
            }
        }
    };
}

load! {
    /// `ld.global.b32`, as i32.
    ld_global_i32, "ld.global.b32", reg64: u64, reg32: i32
}
load! {
    /// `ld.global.b32`, as u32.
    ld_global_u32, "ld.global.b32", reg64: u64, reg32: u32
}
load! {
    /// `ld.global.b32`, as f32.
    ld_global_f32, "ld.global.b32", reg64: u64, reg32: f32
}
load! {
    /// `ld.global.b64`, as i64.
    ld_global_i64, "ld.global.b64", reg64: u64, reg64: i64
}
load! {
    /// `ld.shared.b32`, as u32.
    ld_shared_u32, "ld.shared.b32", reg32: u32, reg32: u32
}
load! {
    /// `ld.shared.b32`, as f32.
    ld_shared_f32, "ld.shared.b32", reg32: u32, reg32: f32
}
load! {
    /// `ld.shared.u8`, as u32: the upper bytes are zero.
    ld_shared_u8, "ld.shared.u8", reg32: u32, reg32: u32
}
load! {
    /// `ld.shared.u16`, as u32: the upper half is zero.
    ld_shared_u16, "ld.shared.u16", reg32: u32, reg32: u32
}
load! {
    /// `ld.shared.b64`, as u64.
    ld_shared_u64, "ld.shared.b64", reg32: u32, reg64: u64
}
store! {
    /// `st.global.b32`, of u32.
    st_global_u32, "st.global.b32", reg64: u64, reg32: u32
}
store! {
    /// `st.global.b32`, of f32.
    st_global_f32, "st.global.b32", reg64: u64, reg32: f32
}
store! {
    /// `st.shared.b32`, of u32.
    st_shared_u32, "st.shared.b32", reg32: u32, reg32: u32
}
store! {
    /// `st.shared.b32`, of f32.
    st_shared_f32, "st.shared.b32", reg32: u32, reg32: f32
}
store! {
    /// `st.shared.b16`, of u16.
    st_shared_u16, "st.shared.b16", reg32: u32, reg16: u16
}
store! {
    /// `st.shared.b64`, of u64.
    st_shared_u64, "st.shared.b64", reg32: u32, reg64: u64
}

/// `ld.global.v4.b32`: four words.
///
/// # Safety
/// As for [`ld_global_f32x4`].
#[inline(always)]
pub unsafe fn ld_global_u32x4(address: u64) -> [u32; 4] {
    let (a, b, c, d);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("ld.global.v4.b32 {{{}, {}, {}, {}}}, [{}];",
            out(reg32) a, out(reg32) b, out(reg32) c, out(reg32) d, in(reg64) address,
            options(nostack, readonly))
    }
    [a, b, c, d]
}

/// `ld.global.v4.b32`: four f32.
///
/// # Safety
/// The address is 16-byte aligned and valid for 16 bytes.
#[inline(always)]
pub unsafe fn ld_global_f32x4(address: u64) -> [f32; 4] {
    let (a, b, c, d): (f32, f32, f32, f32);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("ld.global.v4.b32 {{{}, {}, {}, {}}}, [{}];",
            out(reg32) a, out(reg32) b, out(reg32) c, out(reg32) d, in(reg64) address,
            options(nostack, readonly))
    }
    [a, b, c, d]
}

/// `ld.global.v2.b32`: two words.
///
/// # Safety
/// The address is 8-byte aligned and valid for 8 bytes.
#[inline(always)]
pub unsafe fn ld_global_u32x2(address: u64) -> [u32; 2] {
    let (a, b);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("ld.global.v2.b32 {{{}, {}}}, [{}];", out(reg32) a, out(reg32) b, in(reg64) address,
            options(nostack, readonly))
    }
    [a, b]
}

/// `st.global.v2.b32`: two f32.
///
/// # Safety
/// The address is 8-byte aligned and valid for 8 bytes; no other thread accesses it unordered.
#[inline(always)]
pub unsafe fn st_global_f32x2(address: u64, [a, b]: [f32; 2]) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("st.global.v2.b32 [{}], {{{}, {}}};", in(reg64) address, in(reg32) a, in(reg32) b,
            options(nostack))
    }
}

/// `st.global.v2.b32`: two words.
///
/// # Safety
/// As for [`st_global_f32x2`].
#[inline(always)]
pub unsafe fn st_global_u32x2(address: u64, [a, b]: [u32; 2]) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("st.global.v2.b32 [{}], {{{}, {}}};", in(reg64) address, in(reg32) a, in(reg32) b,
            options(nostack))
    }
}

/// `st.global.v4.b32`: four words.
///
/// # Safety
/// The address is 16-byte aligned and valid for 16 bytes; no other thread accesses it unordered.
#[inline(always)]
pub unsafe fn st_global_u32x4(address: u64, [a, b, c, d]: [u32; 4]) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("st.global.v4.b32 [{}], {{{}, {}, {}, {}}};",
            in(reg64) address, in(reg32) a, in(reg32) b, in(reg32) c, in(reg32) d, options(nostack))
    }
}

/// `st.global.v4.b32`, under a predicate: four words, if told so.
///
/// # Safety
/// As for [`st_global_u32x4`], if it is told so.
#[inline(always)]
pub unsafe fn st_global_u32x4_if(stores: bool, address: u64, [a, b, c, d]: [u32; 4]) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("{{ .reg .pred stores; setp.ne.b32 stores, {}, 0; @stores st.global.v4.b32 [{}], {{{}, {}, {}, {}}}; }}",
            in(reg32) stores as u32, in(reg64) address,
            in(reg32) a, in(reg32) b, in(reg32) c, in(reg32) d, options(nostack))
    }
}

/// `st.shared.v4.b32`: 16 zero bytes.
///
/// # Safety
/// The address is 16-byte aligned and valid for 16 bytes; no other thread accesses it unordered.
#[inline(always)]
pub unsafe fn st_shared_zero_x4(address: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("st.shared.v4.b32 [{}], {{{z}, {z}, {z}, {z}}};", in(reg32) address, z = in(reg32) 0, options(nostack))
    }
}

/// `ld.shared.v4.b32`: loads 16 bytes.
///
/// # Safety
/// The address is 16-byte aligned and valid for 16 bytes.
#[inline(always)]
pub unsafe fn ld_shared_u32x4(address: u32) -> [u32; 4] {
    let (a, b, c, d);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("ld.shared.v4.b32 {{{}, {}, {}, {}}}, [{}];",
            out(reg32) a, out(reg32) b, out(reg32) c, out(reg32) d, in(reg32) address,
            options(nostack, readonly))
    }
    [a, b, c, d]
}

/// `ld.shared.v2.b32`: loads 8 bytes.
///
/// # Safety
/// The address is 8-byte aligned and valid for 8 bytes.
#[inline(always)]
pub unsafe fn ld_shared_u32x2(address: u32) -> [u32; 2] {
    let (a, b);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("ld.shared.v2.b32 {{{}, {}}}, [{}];", out(reg32) a, out(reg32) b, in(reg32) address,
            options(nostack, readonly))
    }
    [a, b]
}

/// `st.shared.v2.b32`: two f32.
///
/// # Safety
/// The address is 8-byte aligned and valid for 8 bytes, and no other thread accesses it unordered.
#[inline(always)]
pub unsafe fn st_shared_f32x2(address: u32, [a, b]: [f32; 2]) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("st.shared.v2.b32 [{}], {{{}, {}}};", in(reg32) address, in(reg32) a, in(reg32) b, options(nostack))
    }
}

/// `st.shared.v4.b32`: stores 16 bytes.
///
/// # Safety
/// The address is 16-byte aligned and valid for 16 bytes, and no other thread accesses it unordered.
#[inline(always)]
pub unsafe fn st_shared_u32x4(address: u32, [a, b, c, d]: [u32; 4]) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("st.shared.v4.b32 [{}], {{{}, {}, {}, {}}};",
            in(reg32) address, in(reg32) a, in(reg32) b, in(reg32) c, in(reg32) d, options(nostack))
    }
}
