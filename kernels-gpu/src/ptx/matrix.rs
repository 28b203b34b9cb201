//! Moving matrix fragments between registers and shared memory ("Warp-level matrix instructions").

use core::arch::asm;

/// `stmatrix.sync.aligned.m8n8.x4.shared.b16`: stores four 8×8 matrices of 16-bit elements. Lane `8i + r` gives the
/// address of row `r` of matrix `i`.
///
/// # Safety
/// The whole warp executes it; each address is 16-byte aligned and valid for 16 bytes.
#[inline(always)]
pub unsafe fn stmatrix_x4(row_address: u32, matrices: [u32; 4]) {
    let [a, b, c, d] = matrices;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("stmatrix.sync.aligned.m8n8.x4.shared.b16 [{}], {{{}, {}, {}, {}}};",
            in(reg32) row_address, in(reg32) a, in(reg32) b, in(reg32) c, in(reg32) d, options(nostack))
    }
}

/// `stmatrix.sync.aligned.m8n8.x4.trans.shared.b16`: as [`stmatrix_x4`], with each matrix transposed: what a lane has of a row
/// comes to a column.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn stmatrix_x4_trans(row_address: u32, matrices: [u32; 4]) {
    let [a, b, c, d] = matrices;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [{}], {{{}, {}, {}, {}}};",
            in(reg32) row_address, in(reg32) a, in(reg32) b, in(reg32) c, in(reg32) d, options(nostack))
    }
}

/// `ldmatrix.x4`: loads four 8×8 matrices of 16-bit elements from shared memory; each quarter of the warp's lanes gives the
/// row addresses of one matrix.
///
/// # Safety
/// The whole warp executes it; every address is 16-byte aligned and valid for 16 bytes.
#[inline(always)]
pub unsafe fn ldmatrix_x4(address: u32) -> [u32; 4] {
    let (a, b, c, d);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{{}, {}, {}, {}}}, [{}];",
            out(reg32) a, out(reg32) b, out(reg32) c, out(reg32) d, in(reg32) address, options(nostack))
    }
    [a, b, c, d]
}
