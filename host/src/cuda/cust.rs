//! Tensors and streams of `cust` 0.3, for projects that come from Rust-CUDA.
//!
//! Make the device with [`Device::cuda_current`](crate::Device::cuda_current) while the `cust` context is current.

use crate::device::StreamHandle;
use crate::{Element, InvalidProblem, Memory, Stream, TensorView, TensorViewMut, Workspace};
use cust::memory::{DeviceCopy, DeviceSlice};

impl From<&cust::stream::Stream> for Stream {
    fn from(stream: &cust::stream::Stream) -> Self {
        Self(StreamHandle::Cuda(stream.as_inner().cast()))
    }
}

impl<'a, T: Element, const RANK: usize> TensorView<'a, T, RANK> {
    /// A contiguous tensor over `cust`'s device memory. `U` is any type of the size of `T`, such as `u16` for bf16.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the element sizes differ or the length is not the product of `shape`.
    pub fn from_cust<U: DeviceCopy>(
        name: &str,
        data: &'a DeviceSlice<U>,
        shape: [usize; RANK],
    ) -> Result<Self, InvalidProblem> {
        same_size::<T, U>(name)?;
        Self::contiguous_at(name, data.as_device_ptr().as_raw(), data.len(), shape, Memory::Device)
    }
}

impl<'a, T: Element, const RANK: usize> TensorViewMut<'a, T, RANK> {
    /// A contiguous tensor over `cust`'s device memory. `U` is any type of the size of `T`, such as `u16` for bf16.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the element sizes differ or the length is not the product of `shape`.
    pub fn from_cust<U: DeviceCopy>(
        name: &str,
        data: &'a mut DeviceSlice<U>,
        shape: [usize; RANK],
    ) -> Result<Self, InvalidProblem> {
        same_size::<T, U>(name)?;
        Self::contiguous_at(name, data.as_device_ptr().as_raw(), data.len(), shape, Memory::Device)
    }
}

impl<'a> Workspace<'a> {
    /// A workspace in `cust`'s device memory.
    pub fn from_cust(data: &'a mut DeviceSlice<u8>) -> Self {
        // SAFETY: the slice is borrowed exclusively for as long as the workspace lives.
        unsafe { Self::from_raw(data.as_device_ptr().as_raw(), data.len()) }
    }
}

fn same_size<T: Element, U>(name: &str) -> Result<(), InvalidProblem> {
    if size_of::<T>() == size_of::<U>() {
        return Ok(());
    }
    let found = format!("of elements of {} bytes", size_of::<U>());
    Err(InvalidProblem::new(name, found, format!("{} bytes, as in {}", size_of::<T>(), T::NAME)))
}
