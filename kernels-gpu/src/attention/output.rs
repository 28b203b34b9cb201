//! The element types of outputs, four elements at a time.

use super::element::Element;
use crate::ptx::memory;

/// An element type of outputs.
pub trait Output {
    /// Bytes of an element.
    const BYTES: u64;

    /// Four elements.
    ///
    /// # Safety
    /// The address is aligned to them and valid.
    unsafe fn load(address: u64) -> [f32; 4];

    /// Stores four elements.
    ///
    /// # Safety
    /// As for [`Self::load`]; no other thread accesses them.
    unsafe fn store(address: u64, values: [f32; 4]);
}

impl<E: Element> Output for E {
    const BYTES: u64 = 2;

    #[inline(always)]
    unsafe fn load(address: u64) -> [f32; 4] {
        // SAFETY: as the caller promises.
        let pairs = unsafe { [memory::ld_global_u32(address), memory::ld_global_u32(address + 4)] };
        let [[a, b], [c, d]] = pairs.map(E::unpack);
        [a, b, c, d]
    }

    #[inline(always)]
    unsafe fn store(address: u64, [a, b, c, d]: [f32; 4]) {
        // SAFETY: as the caller promises.
        unsafe { memory::st_global_u32x2(address, [E::pack(a, b), E::pack(c, d)]) }
    }
}

/// Outputs that were not rounded to 16 bits.
pub struct F32;

impl Output for F32 {
    const BYTES: u64 = 4;

    #[inline(always)]
    unsafe fn load(address: u64) -> [f32; 4] {
        // SAFETY: as the caller promises.
        unsafe { memory::ld_global_f32x4(address) }
    }

    #[inline(always)]
    unsafe fn store(address: u64, [a, b, c, d]: [f32; 4]) {
        // SAFETY: as the caller promises.
        unsafe {
            memory::st_global_f32x2(address, [a, b]);
            memory::st_global_f32x2(address + 8, [c, d]);
        }
    }
}
