//! Memory of a GPU with an owner, for callers that have none of their own.

use super::GpuDevice;
use crate::device::Backend;
use crate::{Device, Element, Error, InvalidProblem, Memory, TensorView, TensorViewMut};
use std::marker::PhantomData;
use std::sync::Arc;

/// Elements in the memory of a GPU, freed with this. Keeps the device alive.
///
/// [`TensorView::from_buffer`], [`TensorViewMut::from_buffer`] and [`Workspace::from_buffer`](crate::Workspace) pass it
/// to runs on that device. Copies wait for all work on the GPU.
#[derive(Debug)]
pub struct DeviceBuffer<T: Element> {
    device: Arc<GpuDevice>,
    /// 0 where there are no elements.
    address: u64,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Element> DeviceBuffer<T> {
    /// Memory for `len` elements, in which nothing has been written yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the device is the CPU, [`Error::InvalidProblem`] for more bytes than an address
    /// space has, [`Error::Driver`] where the GPU has not enough memory.
    pub fn uninit(device: &Device, len: usize) -> Result<Self, Error> {
        let device = match &device.0 {
            Backend::Gpu(device) => Arc::clone(device),
            #[cfg(feature = "cpu")]
            Backend::Cpu => {
                return Err(Error::Unsupported {
                    what: "a device buffer",
                    need: "a GPU, whose memory it is".into(),
                    have: "the CPU".into(),
                });
            }
        };
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
        let address = match bytes {
            Some(0) => 0,
            Some(bytes) => device.driver.allocate(bytes)?,
            None => {
                let found = format!("{len} {}", T::NAME);
                return Err(InvalidProblem::new("len", found, format!("at most {} bytes", isize::MAX)).into());
            }
        };
        Ok(Self { device, address, len, elements: PhantomData })
    }

    /// A copy of the host's elements.
    ///
    /// # Errors
    /// As of [`Self::uninit`]; [`Error::Driver`] where the copy fails.
    pub fn from_slice(device: &Device, data: &[T]) -> Result<Self, Error> {
        let mut buffer = Self::uninit(device, data.len())?;
        buffer.copy_from_slice(data)?;
        Ok(buffer)
    }

    /// Overwrites the elements.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] where there are not as many, [`Error::Driver`] where the copy fails.
    pub fn copy_from_slice(&mut self, data: &[T]) -> Result<(), Error> {
        if data.len() != self.len {
            let needed = format!("{} elements, as the buffer has", self.len);
            return Err(InvalidProblem::new("data", format!("{} elements", data.len()), needed).into());
        }
        if self.len == 0 {
            return Ok(());
        }
        // SAFETY: the driver allocated as many bytes here.
        unsafe { self.device.driver.upload(self.address, bytemuck::cast_slice(data)) }
    }

    /// The elements as they are once all work on the GPU is done. What nothing has written is anything.
    ///
    /// # Errors
    /// [`Error::Driver`] where the work or the copy fails.
    pub fn to_vec(&self) -> Result<Vec<T>, Error> {
        let mut data = vec![T::zeroed(); self.len];
        if self.len > 0 {
            // SAFETY: the driver allocated as many bytes here.
            unsafe { self.device.driver.download(self.address, bytemuck::cast_slice_mut(&mut data))? };
        }
        Ok(data)
    }

    /// Address of the first element; 0 where there is none.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Element> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        if self.address != 0 {
            // SAFETY: this is the allocation's only owner.
            unsafe { self.device.driver.free(self.address) };
        }
    }
}

impl<'a, T: Element, const RANK: usize> TensorView<'a, T, RANK> {
    /// A contiguous tensor over a GPU's memory.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the buffer's length is not the product of `shape`.
    pub fn from_buffer(
        name: &str,
        data: &'a DeviceBuffer<T>,
        shape: [usize; RANK],
    ) -> Result<Self, InvalidProblem> {
        Self::contiguous_at(name, data.address, data.len, shape, Memory::Device)
    }
}

impl<'a, T: Element, const RANK: usize> TensorViewMut<'a, T, RANK> {
    /// A contiguous tensor over a GPU's memory.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the buffer's length is not the product of `shape`.
    pub fn from_buffer(
        name: &str,
        data: &'a mut DeviceBuffer<T>,
        shape: [usize; RANK],
    ) -> Result<Self, InvalidProblem> {
        Self::contiguous_at(name, data.address, data.len, shape, Memory::Device)
    }
}
