//! Tensors and streams of cudarc, and the device of a context that somebody else made.

use crate::device::{Backend, StreamHandle};
use crate::gpu::GpuDevice;
use crate::{Device, Element, Error, InvalidProblem, Memory, Stream, TensorView, TensorViewMut};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use std::sync::Arc;

impl Device {
    /// The GPU of the calling thread's current context, on that context, whoever made it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is no driver, no current context, or no kernel for its GPU.
    ///
    /// # Safety
    /// The context outlives the device, its clones and the plans made for it.
    pub unsafe fn cuda_current() -> Result<Self, Error> {
        Ok(Self(Backend::Gpu(Arc::new(GpuDevice::cuda_current()?))))
    }
}

impl From<&CudaStream> for Stream {
    fn from(stream: &CudaStream) -> Self {
        Self(StreamHandle::Cuda(stream.cu_stream()))
    }
}

impl<'a, T: Element, const RANK: usize> TensorView<'a, T, RANK> {
    /// A contiguous tensor over cudarc's device memory, for runs on `stream`.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the slice's length is not the product of `shape`.
    pub fn from_cudarc(
        name: &str,
        data: &'a impl DevicePtr<T>,
        shape: [usize; RANK],
        stream: &'a CudaStream,
    ) -> Result<Self, InvalidProblem> {
        let (address, _ordered) = data.device_ptr(stream);
        Self::contiguous_at(name, address, data.len(), shape, Memory::Device)
    }
}

impl<'a, T: Element, const RANK: usize> TensorViewMut<'a, T, RANK> {
    /// A contiguous tensor over cudarc's device memory, for runs on `stream`.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the slice's length is not the product of `shape`.
    pub fn from_cudarc(
        name: &str,
        data: &'a mut impl DevicePtrMut<T>,
        shape: [usize; RANK],
        stream: &'a CudaStream,
    ) -> Result<Self, InvalidProblem> {
        let len = data.len();
        let (address, _ordered) = data.device_ptr_mut(stream);
        Self::contiguous_at(name, address, len, shape, Memory::Device)
    }
}
