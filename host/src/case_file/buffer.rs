//! Tensors in a device's memory.

use crate::device::Backend;
use crate::{Device, Element, Error, InvalidProblem, TensorView, TensorViewMut, Workspace};
use std::borrow::Cow;

/// Elements in the memory of the device that is to work on them. The CPU borrows those that the caller has.
#[derive(Debug)]
pub struct Buffer<'a, T: Element>(Place<'a, T>);

#[derive(Debug)]
enum Place<'a, T: Element> {
    #[cfg(feature = "cpu")]
    Host(Cow<'a, [T]>),
    #[cfg(feature = "_gpu")]
    Device(crate::DeviceBuffer<T>, std::marker::PhantomData<&'a [T]>),
}

impl<'a, T: Element> Buffer<'a, T> {
    /// A copy, where the device needs one, of the host's elements.
    ///
    /// # Errors
    /// [`Error::Driver`] where the device has not enough memory or the copy fails.
    pub fn of(device: &Device, data: impl Into<Cow<'a, [T]>>) -> Result<Self, Error> {
        let data = data.into();
        match &device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => Ok(Self(Place::Host(data))),
            #[cfg(feature = "_gpu")]
            Backend::Gpu(_) => {
                let buffer = crate::DeviceBuffer::from_slice(device, &data)?;
                Ok(Self(Place::Device(buffer, std::marker::PhantomData)))
            }
        }
    }

    /// As many copies of `value` as a tensor of `shape` has elements.
    ///
    /// # Errors
    /// As of [`Self::of`].
    pub fn filled<const RANK: usize>(device: &Device, value: T, shape: [usize; RANK]) -> Result<Self, Error> {
        Self::of(device, vec![value; shape.iter().product()])
    }

    /// The elements as a contiguous tensor.
    ///
    /// # Errors
    /// [`InvalidProblem`] with `name` where there are fewer or more than `shape` has.
    pub fn view<const RANK: usize>(
        &self,
        name: &str,
        shape: [usize; RANK],
    ) -> Result<TensorView<'_, T, RANK>, InvalidProblem> {
        match &self.0 {
            #[cfg(feature = "cpu")]
            Place::Host(data) => TensorView::from_slice(name, data, shape),
            #[cfg(feature = "_gpu")]
            Place::Device(data, _) => TensorView::from_buffer(name, data, shape),
        }
    }

    /// The elements as a contiguous tensor to write.
    ///
    /// # Errors
    /// As of [`Self::view`].
    pub fn view_mut<const RANK: usize>(
        &mut self,
        name: &str,
        shape: [usize; RANK],
    ) -> Result<TensorViewMut<'_, T, RANK>, InvalidProblem> {
        match &mut self.0 {
            #[cfg(feature = "cpu")]
            Place::Host(data) => TensorViewMut::from_slice(name, data.to_mut(), shape),
            #[cfg(feature = "_gpu")]
            Place::Device(data, _) => TensorViewMut::from_buffer(name, data, shape),
        }
    }

    /// The elements after all work on the device.
    ///
    /// # Errors
    /// [`Error::Driver`] where work on the device or the copy failed.
    pub fn to_vec(&self) -> Result<Vec<T>, Error> {
        match &self.0 {
            #[cfg(feature = "cpu")]
            Place::Host(data) => Ok(data.to_vec()),
            #[cfg(feature = "_gpu")]
            Place::Device(data, _) => data.to_vec(),
        }
    }
}

impl Buffer<'_, f32> {
    pub(super) fn workspace(&mut self) -> Workspace<'_> {
        match &mut self.0 {
            #[cfg(feature = "cpu")]
            Place::Host(data) => Workspace::from_slice(data.to_mut()),
            #[cfg(feature = "_gpu")]
            Place::Device(data, _) => Workspace::from_buffer(data),
        }
    }
}
