//! Tensors in a device's memory.

use crate::device::{Backend, StreamHandle};
use crate::{Device, Element, Error, InvalidProblem, Stream, TensorView, TensorViewMut, Workspace};
use std::borrow::Cow;

/// Elements in the memory of the device that is to work on them. The CPU borrows those that the caller has.
pub(super) enum Buffer<'a, T: Clone> {
    #[cfg(feature = "cpu")]
    Host(Cow<'a, [T]>),
    #[cfg(feature = "cuda")]
    Device { memory: crate::cuda::DeviceBuffer, len: usize, host: std::marker::PhantomData<&'a [T]> },
}

impl<'a, T: Element + bytemuck::Pod> Buffer<'a, T> {
    /// A copy, where the device needs one, of the host's elements.
    pub(super) fn of(device: &Device, data: impl Into<Cow<'a, [T]>>) -> Result<Self, Error> {
        let data = data.into();
        match &device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => Ok(Self::Host(data)),
            #[cfg(feature = "cuda")]
            Backend::Cuda(device) => {
                let memory = crate::cuda::DeviceBuffer::from_host(device, bytemuck::cast_slice(&data))?;
                Ok(Self::Device { memory, len: data.len(), host: std::marker::PhantomData })
            }
        }
    }

    /// As many copies of `value` as a tensor of `shape` has elements.
    pub(super) fn filled<const RANK: usize>(
        device: &Device,
        value: T,
        shape: [usize; RANK],
    ) -> Result<Self, Error> {
        Self::of(device, vec![value; shape.iter().product()])
    }

    pub(super) fn view<const RANK: usize>(
        &self,
        name: &str,
        shape: [usize; RANK],
    ) -> Result<TensorView<'_, T, RANK>, InvalidProblem> {
        match self {
            #[cfg(feature = "cpu")]
            Self::Host(data) => TensorView::from_slice(name, data, shape),
            #[cfg(feature = "cuda")]
            Self::Device { memory, len, .. } => {
                TensorView::contiguous_at(name, memory.address(), *len, shape, crate::Memory::Device)
            }
        }
    }

    pub(super) fn view_mut<const RANK: usize>(
        &mut self,
        name: &str,
        shape: [usize; RANK],
    ) -> Result<TensorViewMut<'_, T, RANK>, InvalidProblem> {
        match self {
            #[cfg(feature = "cpu")]
            Self::Host(data) => TensorViewMut::from_slice(name, data.to_mut(), shape),
            #[cfg(feature = "cuda")]
            Self::Device { memory, len, .. } => {
                TensorViewMut::contiguous_at(name, memory.address(), *len, shape, crate::Memory::Device)
            }
        }
    }

    /// The elements after all work on the device's stream.
    pub(super) fn to_vec(&self) -> Result<Vec<T>, Error> {
        match self {
            #[cfg(feature = "cpu")]
            Self::Host(data) => Ok(data.to_vec()),
            #[cfg(feature = "cuda")]
            Self::Device { memory, len, .. } => {
                let mut data = vec![T::zeroed(); *len];
                memory.copy_to_host(bytemuck::cast_slice_mut(&mut data))?;
                Ok(data)
            }
        }
    }
}

impl Buffer<'_, f32> {
    pub(super) fn workspace(&mut self) -> Workspace<'_> {
        match self {
            #[cfg(feature = "cpu")]
            Self::Host(data) => Workspace::from_slice(data.to_mut()),
            #[cfg(feature = "cuda")]
            Self::Device { memory, len, .. } => {
                // SAFETY: the memory is the buffer's own, and one stream runs everything that uses it, in order.
                unsafe { Workspace::from_raw(memory.address(), *len * size_of::<f32>()) }
            }
        }
    }
}

/// The stream that the device's own buffers are read and written on.
pub(super) fn stream(device: &Device) -> Stream {
    match &device.0 {
        #[cfg(feature = "cpu")]
        Backend::Cpu => Stream(StreamHandle::Host),
        #[cfg(feature = "cuda")]
        Backend::Cuda(device) => Stream(StreamHandle::Cuda(device.stream())),
    }
}
