//! Device memory with an owner, for callers that have none of their own.

use super::{CudaDevice, check};
use crate::Error;
use cudarc::driver::sys;
use std::sync::Arc;

/// Bytes of device memory, freed with this.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    device: Arc<CudaDevice>,
    address: u64,
    bytes: usize,
}

impl DeviceBuffer {
    /// Uninitialised memory; none for 0 bytes.
    pub(crate) fn new(device: &Arc<CudaDevice>, bytes: usize) -> Result<Self, Error> {
        let _current = device.enter()?;
        let mut address = 0;
        if bytes > 0 {
            // SAFETY: the pointer is to a local.
            check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&mut address, bytes) })?;
        }
        Ok(Self { device: Arc::clone(device), address, bytes })
    }

    /// A copy of host bytes.
    pub(crate) fn from_host(device: &Arc<CudaDevice>, bytes: &[u8]) -> Result<Self, Error> {
        let buffer = Self::new(device, bytes.len())?;
        buffer.copy_from_host(bytes)?;
        Ok(buffer)
    }

    /// Overwrites the memory's beginning and waits until that is done.
    pub(crate) fn copy_from_host(&self, bytes: &[u8]) -> Result<(), Error> {
        let _current = self.device.enter()?;
        let bytes = &bytes[..bytes.len().min(self.bytes)];
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: both sides are that long.
        check("cuMemcpyHtoD", unsafe {
            sys::cuMemcpyHtoD_v2(self.address, bytes.as_ptr().cast(), bytes.len())
        })
    }

    /// Copies the memory's beginning to the host, after all work on the device's stream.
    pub(crate) fn copy_to_host(&self, bytes: &mut [u8]) -> Result<(), Error> {
        self.device.synchronize()?;
        let _current = self.device.enter()?;
        let len = bytes.len().min(self.bytes);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: both sides are that long.
        check("cuMemcpyDtoH", unsafe { sys::cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), self.address, len) })
    }

    /// Device address; 0 for an empty buffer.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        if let Ok(_current) = self.device.enter() {
            // SAFETY: this is the allocation's only owner; freeing waits for the work that uses it.
            unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}
