//! Special registers, the shared-memory window, parameters, `trap`.

use core::arch::{asm, global_asm};

// Rust has no extern shared array; the module declares one, aligned for 128-byte swizzled tiles.
global_asm!(".extern .shared .align 1024 .b8 dynamic_shared[];");

/// Address of the CTA's dynamic shared memory in the `.shared` window.
///
/// Not `pure`, so that each use can take the address anew instead of keeping it in a register.
#[inline(always)]
pub fn dynamic_shared() -> u32 {
    let address: u32;
    // SAFETY: it only takes an address.
    unsafe { asm!("mov.b32 {}, dynamic_shared;", out(reg32) address, options(nomem, nostack)) }
    address
}

/// `%tid.x`
///
/// Not `pure`, so that what is computed from it can be computed anew instead of being kept in registers.
#[inline(always)]
pub fn thread_x() -> u32 {
    let x: u32;
    // SAFETY: it reads a special register.
    unsafe { asm!("mov.u32 {}, %tid.x;", out(reg32) x, options(nomem, nostack)) }
    x
}

/// `mov.b32`: the same value, of which the compiler does not know that, so that what follows from it is computed where it is
/// used instead of being kept in registers.
#[inline(always)]
pub fn again(value: u32) -> u32 {
    let same: u32;
    // SAFETY: it copies a register.
    unsafe { asm!("mov.b32 {}, {};", out(reg32) same, in(reg32) value, options(nomem, nostack)) }
    same
}

/// `mov.b64`: as [`again`].
#[inline(always)]
pub fn again_u64(value: u64) -> u64 {
    let same: u64;
    // SAFETY: it copies a register.
    unsafe { asm!("mov.b64 {}, {};", out(reg64) same, in(reg64) value, options(nomem, nostack)) }
    same
}

/// `%ctaid.x`
///
/// Not `pure`, so that what is computed from it can be computed anew instead of being kept in registers.
#[inline(always)]
pub fn cta_x() -> u32 {
    let x: u32;
    // SAFETY: it reads a special register.
    unsafe { asm!("mov.u32 {}, %ctaid.x;", out(reg32) x, options(nomem, nostack)) }
    x
}

/// `%cluster_ctarank`: this CTA's number in its cluster.
#[inline(always)]
pub fn cluster_rank() -> u32 {
    let rank: u32;
    // SAFETY: it reads a special register.
    unsafe { asm!("mov.u32 {}, %cluster_ctarank;", out(reg32) rank, options(nomem, nostack)) }
    rank
}

/// `%cluster_nctarank`: CTAs of the cluster; 1 without clusters.
#[inline(always)]
pub fn cluster_ctas() -> u32 {
    let ctas: u32;
    // SAFETY: it reads a special register.
    unsafe { asm!("mov.u32 {}, %cluster_nctarank;", out(reg32) ctas, options(nomem, nostack)) }
    ctas
}

/// `%ctaid.y`
///
/// Not `pure`, so that what is computed from it can be computed anew instead of being kept in registers.
#[inline(always)]
pub fn cta_y() -> u32 {
    let y: u32;
    // SAFETY: it reads a special register.
    unsafe { asm!("mov.u32 {}, %ctaid.y;", out(reg32) y, options(nomem, nostack)) }
    y
}

/// `setmaxnreg.inc`: waits for and takes more registers for each thread of the warpgroup.
///
/// # Safety
/// All warps of the warpgroup execute it once; `COUNT` is a multiple of 8 in 24..=256, and the CTA's warpgroups
/// together never ask for more than it was launched with.
#[inline(always)]
pub unsafe fn setmaxnreg_inc<const COUNT: u32>() {
    // SAFETY: as the caller promises.
    unsafe { asm!("setmaxnreg.inc.sync.aligned.u32 {};", const COUNT, options(nostack)) }
}

/// `setmaxnreg.dec`: gives back registers of each thread of the warpgroup.
///
/// # Safety
/// As for [`setmaxnreg_inc`].
#[inline(always)]
pub unsafe fn setmaxnreg_dec<const COUNT: u32>() {
    // SAFETY: as the caller promises.
    unsafe { asm!("setmaxnreg.dec.sync.aligned.u32 {};", const COUNT, options(nostack)) }
}

/// `mapa.shared::cluster`: the address, for the cluster, of what lies at shared-memory address `address` in its CTA `cta`.
#[inline(always)]
pub fn mapa(address: u32, cta: u32) -> u32 {
    let mapped: u32;
    // SAFETY: it only makes a number.
    unsafe {
        asm!("mapa.shared::cluster.u32 {}, {}, {};",
            out(reg32) mapped, in(reg32) address, in(reg32) cta, options(pure, nomem, nostack))
    }
    mapped
}

/// `griddepcontrol.wait`: waits until the grids that this one may overlap are finished and what they wrote is visible.
/// Returns at once where the grid was launched without leave to overlap any.
#[inline(always)]
pub fn griddepcontrol_wait() {
    // SAFETY: it only waits.
    unsafe { asm!("griddepcontrol.wait;", options(nostack)) }
}

/// `griddepcontrol.launch_dependents`: as far as this CTA is concerned, grids that have leave to overlap this one may
/// start.
#[inline(always)]
pub fn griddepcontrol_launch_dependents() {
    // SAFETY: grids that start early wait before they touch anything.
    unsafe { asm!("griddepcontrol.launch_dependents;", options(nostack)) }
}

/// `trap`: aborts the kernel.
pub fn trap() -> ! {
    // SAFETY: it does not return.
    unsafe { asm!("trap;", options(noreturn, nostack)) }
}

/// Generic address of the first parameter of an entry, without the local copy that taking its address in Rust makes.
///
/// Must expand inside the entry it names.
macro_rules! parameter_address {
    ($($entry:tt)*) => {{
        let address: u64;
        // SAFETY: it only takes an address.
        unsafe {
            core::arch::asm!(
                concat!("mov.b64 {0}, ", $($entry)*, "_param_0; cvta.param.u64 {0}, {0};"),
                out(reg64) address, options(pure, nomem, nostack))
        }
        address
    }};
}
pub(crate) use parameter_address;
