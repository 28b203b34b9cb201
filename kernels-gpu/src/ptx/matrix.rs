//! Matrices of a warp: moving their fragments between registers and shared memory, and multiplying them ("Warp-level matrix
//! instructions").

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

macro_rules! mma {
    ($name:ident, $instruction:literal) => {
        #[doc = concat!("`", $instruction, "`: accumulator += A·B.")]
        ///
        /// With `g = lane / 4` and `t = lane % 4`: the accumulator has columns `2t` and `2t + 1` of row `g`, then of row `g + 8`. A has
        /// two neighbouring elements a register, of columns `2t` and `2t + 1` of rows `g` and `g + 8`, then of columns `2t + 8` and `2t + 9`;
        /// B rows `2t` and `2t + 1` of column `g`, then rows `2t + 8` and `2t + 9`.
        ///
        /// # Safety
        /// The whole warp executes it.
        #[inline(always)]
        pub unsafe fn $name(accumulator: &mut [f32; 4], [a0, a1, a2, a3]: [u32; 4], [b0, b1]: [u32; 2]) {
            // SAFETY: as the caller promises.
            unsafe {
                asm!(concat!($instruction, " {{{d0}, {d1}, {d2}, {d3}}}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{{d0}, {d1}, {d2}, {d3}}};"),
                    d0 = inout(reg32) accumulator[0], d1 = inout(reg32) accumulator[1],
                    d2 = inout(reg32) accumulator[2], d3 = inout(reg32) accumulator[3],
                    a0 = in(reg32) a0, a1 = in(reg32) a1, a2 = in(reg32) a2, a3 = in(reg32) a3,
                    b0 = in(reg32) b0, b1 = in(reg32) b1, options(nomem, nostack))
            }
        }
    };
}

mma!(mma_m16n8k16_f16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
mma!(mma_m16n8k16_bf16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
