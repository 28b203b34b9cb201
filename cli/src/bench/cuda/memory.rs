//! A case's tensors in the memory of the GPU.

use std::any::Any;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use oximla::{Device, DeviceBuffer, Element};

/// Different bytes of queries and caches, which repeat them: drawn in a moment, and too many for repetitions to change
/// the power that products take.
const DISTINCT_BYTES: usize = 16 << 20;

/// Where tensors are allocated, and the stream that fills them.
#[derive(Clone)]
pub struct Memory {
    pub device: Device,
    pub stream: Arc<CudaStream>,
}

/// Tensors that graphs know by address only.
pub type Tensors = Box<dyn Any>;

impl Memory {
    /// A tensor of `len` elements that repeats `draw(count)`, elements that are drawn on the host; `count` is as much
    /// of `len` as is worth drawing.
    ///
    /// # Errors
    /// When there is not enough memory, or a copy fails.
    pub fn random<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        len: usize,
        draw: impl FnOnce(usize) -> Vec<T>,
    ) -> anyhow::Result<CudaSlice<T>> {
        self.repeated(len, &draw(len.min(distinct_units(size_of::<T>()))))
    }

    /// A tensor of `len` elements that repeats `unit`, which holds one at least.
    ///
    /// # Errors
    /// When there is not enough memory, or a copy fails.
    pub fn repeated<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        len: usize,
        unit: &[T],
    ) -> anyhow::Result<CudaSlice<T>> {
        let unit = self.stream.clone_htod(unit)?;
        let mut tensor = self.stream.alloc_zeros(len)?;
        for start in (0..len).step_by(unit.len()) {
            let count = unit.len().min(len - start);
            self.stream.memcpy_dtod(&unit.slice(..count), &mut tensor.slice_mut(start..start + count))?;
        }
        Ok(tensor)
    }

    /// A copy of the host's elements.
    ///
    /// # Errors
    /// When there is not enough memory, or the copy fails.
    pub fn copied<T: Element>(&self, elements: &[T]) -> anyhow::Result<DeviceBuffer<T>> {
        Ok(DeviceBuffer::from_slice(&self.device, elements)?)
    }

    /// A tensor that calls write before anything reads it.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn output<T: Element>(&self, shape: &[usize]) -> anyhow::Result<DeviceBuffer<T>> {
        Ok(DeviceBuffer::uninit(&self.device, shape.iter().product())?)
    }
}

/// How many things of so many bytes are worth drawing; one at least.
pub fn distinct_units(bytes: usize) -> usize {
    (DISTINCT_BYTES / bytes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_at_least_is_drawn() {
        // 16 · 2²⁰ by 584 · 256 bytes is 112.2.
        assert_eq!(
            [distinct_units(2), distinct_units(584 * 256), distinct_units(1 << 30)],
            [1 << 23, 112, 1]
        );
    }
}
