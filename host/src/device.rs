//! Where a plan runs: a GPU, real or emulated, or the CPU.

use crate::{Error, InvalidProblem, Memory};
use std::marker::PhantomData;

/// A place where plans run. Cheap to clone; clones share the context and the kernels that plans have loaded.
#[derive(Clone, Debug)]
pub struct Device(pub(crate) Backend);

#[derive(Clone, Debug)]
pub(crate) enum Backend {
    #[cfg(feature = "cpu")]
    Cpu,
    #[cfg(feature = "_gpu")]
    Gpu(std::sync::Arc<crate::gpu::GpuDevice>),
}

/// What [`Device::info`] tells.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// `"cpu"`, `"cuda"` or `"emulated"`.
    pub backend: &'static str,
    /// The processor's name.
    pub name: String,
    /// Driver version as `major.minor`, on a GPU.
    pub driver: Option<String>,
    /// Multiprocessors, or threads of the pool on the CPU.
    pub units: u32,
    /// Compute capability, on a GPU.
    pub compute_capability: Option<(u32, u32)>,
}

/// A loaded kernel and what the driver says it uses; of an emulated GPU, what its contract allows it.
#[derive(Clone, Debug)]
pub struct KernelInfo {
    /// Entry point.
    pub entry: &'static str,
    /// Registers a thread.
    pub registers: u32,
    /// Local memory a thread, in bytes: 0 unless registers spilled.
    pub local_bytes: u32,
    /// Dynamic shared memory a CTA, in bytes.
    pub shared_bytes: u32,
    /// Threads of a CTA.
    pub threads: u32,
}

/// The order in which a device does its work.
///
/// On the CPU and on an emulated GPU a run is finished when it returns.
#[derive(Clone, Copy, Debug)]
pub struct Stream(pub(crate) StreamHandle);

#[derive(Clone, Copy, Debug)]
pub(crate) enum StreamHandle {
    Host,
    #[cfg(feature = "cuda")]
    Cuda(cudarc::driver::sys::CUstream),
    #[cfg(feature = "emulated")]
    Emulated,
}

impl StreamHandle {
    /// Checks that it is the CPU's.
    #[cfg(feature = "cpu")]
    pub(crate) fn check_host(self) -> Result<(), InvalidProblem> {
        match self {
            Self::Host => Ok(()),
            #[cfg(feature = "_gpu")]
            other => Err(other.instead_of("the CPU's, as the plan is for the CPU")),
        }
    }

    /// The error of a plan that needs another one.
    #[cfg(feature = "_gpu")]
    pub(crate) fn instead_of(self, needed: &'static str) -> InvalidProblem {
        let found = match self {
            Self::Host => "the CPU's",
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => "a CUDA stream",
            #[cfg(feature = "emulated")]
            Self::Emulated => "the emulated GPU's",
        };
        InvalidProblem::new("stream", found, needed)
    }
}

// SAFETY: a CUDA stream handle may be used from any thread (CUDA Driver API, "API synchronization behavior").
unsafe impl Send for Stream {}
// SAFETY: as above; the handle itself is never written.
unsafe impl Sync for Stream {}

/// Scratch memory of one run, owned by the caller. Its contents mean nothing between runs.
#[derive(Debug)]
pub struct Workspace<'a> {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
    /// Whose memory it is, where that is known.
    memory: Option<Memory>,
    lifetime: PhantomData<&'a mut [u8]>,
}

impl<'a> Workspace<'a> {
    /// A workspace in host memory, for plans on the CPU.
    pub fn from_slice(scratch: &'a mut [f32]) -> Self {
        let (address, bytes) = (scratch.as_mut_ptr() as u64, size_of_val(scratch));
        Self { address, bytes, memory: Some(Memory::Host), lifetime: PhantomData }
    }

    /// No workspace, for plans whose `workspace_bytes` is 0.
    pub fn none() -> Self {
        Self { address: 0, bytes: 0, memory: None, lifetime: PhantomData }
    }

    /// A workspace in the memory of a GPU, real or emulated.
    #[cfg(feature = "_gpu")]
    pub fn from_buffer<T: crate::Element>(scratch: &'a mut crate::DeviceBuffer<T>) -> Self {
        let (address, bytes) = (scratch.address(), scratch.len() * size_of::<T>());
        Self { address, bytes, memory: Some(Memory::Device), lifetime: PhantomData }
    }

    /// A workspace at an address: of the GPU's memory for a plan on a GPU, of the host's for one on the CPU.
    ///
    /// # Safety
    /// `bytes` bytes at `address` are such memory, on the host initialised, and used by nothing else until the run
    /// that gets this workspace is finished.
    pub unsafe fn from_raw(address: u64, bytes: usize) -> Self {
        Self { address, bytes, memory: None, lifetime: PhantomData }
    }
}

impl Workspace<'_> {
    /// The workspace as numbers, on the host.
    #[cfg(feature = "cpu")]
    pub(crate) fn as_f32(&mut self, needed_bytes: usize) -> Result<&mut [f32], InvalidProblem> {
        self.check_memory(Memory::Host)?;
        if self.bytes < needed_bytes {
            let found = format!("{} bytes", self.bytes);
            return Err(InvalidProblem::new("workspace", found, format!("at least {needed_bytes} bytes")));
        }
        if self.address == 0 || !self.address.is_multiple_of(align_of::<f32>() as u64) {
            let found = format!("at address {:#x}", self.address);
            let needed = format!("at a multiple of {} other than 0", align_of::<f32>());
            return Err(InvalidProblem::new("workspace", found, needed));
        }
        let len = self.bytes / size_of::<f32>();
        // SAFETY: the workspace's maker promised memory of that size for this run alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.address as usize as *mut f32, len) })
    }

    /// Checks that the workspace may lie in that memory.
    pub(crate) fn check_memory(&self, memory: Memory) -> Result<(), InvalidProblem> {
        match self.memory {
            Some(found) if found != memory => Err(InvalidProblem::new("workspace", found, memory)),
            _ => Ok(()),
        }
    }
}

impl Device {
    /// The CPU, all threads of rayon's current pool.
    #[cfg(feature = "cpu")]
    pub fn cpu() -> Self {
        Self(Backend::Cpu)
    }

    /// GPU number `ordinal`, on its primary context. Loads the driver.
    ///
    /// A plan has the driver compile the kernels that its runs may need, where no earlier plan for this device did. That takes seconds the
    /// first time; the driver keeps on disk what it has compiled.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is no driver, no such GPU, or one that there are no kernels for.
    /// [`Error::Driver`] where the driver cannot compile the PTX, as it is too old.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self, Error> {
        Ok(Self(Backend::Gpu(std::sync::Arc::new(crate::gpu::GpuDevice::cuda(ordinal)?))))
    }

    /// A GPU of compute capability 9.0 (Hopper) that is emulated, with memory of its own: plans, launches and kernels
    /// are those of [`Device::cuda`], and the kernels' PTX runs on the CPU, thousands of times slower.
    ///
    /// A run whose kernel does something wrong, be it reading memory that nothing has written or a race that happened
    /// to end well, fails with [`Error::Emulated`].
    ///
    /// ```
    /// use oximla::{Device, DeviceBuffer, EmulatedOptions};
    ///
    /// let device = Device::emulated(EmulatedOptions { seed: 7, ..EmulatedOptions::default() })?;
    /// let lse = DeviceBuffer::from_slice(&device, &[f32::NAN; 16])?;
    /// assert_eq!(lse.to_vec()?.len(), 16);
    /// # Ok::<(), oximla::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] for options out of range, [`Error::Driver`] for PTX that the emulator does not know,
    /// [`Error::Unsupported`] for PTX that lacks an entry.
    #[cfg(feature = "emulated")]
    pub fn emulated(options: crate::EmulatedOptions) -> Result<Self, Error> {
        Ok(Self(Backend::Gpu(std::sync::Arc::new(crate::gpu::GpuDevice::emulated(options)?))))
    }

    /// The first GPU that has kernels here, else the CPU.
    #[cfg(all(feature = "cpu", feature = "cuda"))]
    pub fn auto() -> Self {
        Self::cuda(0).unwrap_or_else(|_| Self::cpu())
    }

    /// A stream of the device: the CPU's or the emulated GPU's only one, or a GPU's that lives as long as the device.
    pub fn stream(&self) -> Stream {
        match &self.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => Stream::host(),
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => Stream(device.driver.stream()),
        }
    }

    /// What this device is.
    ///
    /// # Errors
    /// [`Error::Driver`] where the driver does not answer.
    pub fn info(&self) -> Result<DeviceInfo, Error> {
        match &self.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => Ok(crate::cpu::info()),
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => device.info(),
        }
    }

    /// All kernels, none on the CPU. Loads those that no plan has loaded yet, which may take a driver half a minute.
    ///
    /// # Errors
    /// [`Error::Driver`] where the driver refuses one.
    pub fn kernels(&self) -> Result<Vec<KernelInfo>, Error> {
        match &self.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => Ok(Vec::new()),
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => device.kernels(),
        }
    }
}

impl Stream {
    /// The CPU's only stream.
    pub fn host() -> Self {
        Self(StreamHandle::Host)
    }

    /// The only stream of emulated GPUs: a kernel runs when it is enqueued, and is finished when that returns.
    #[cfg(feature = "emulated")]
    pub fn emulated() -> Self {
        Self(StreamHandle::Emulated)
    }

    /// A CUDA stream by its driver handle (`CUstream`; null is the legacy default stream).
    ///
    /// # Safety
    /// The handle is a live stream of the context that the plans run on it were made for, and stays so while used.
    #[cfg(feature = "cuda")]
    pub unsafe fn from_cuda_handle(handle: *mut std::ffi::c_void) -> Self {
        Self(StreamHandle::Cuda(handle.cast()))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    #[test]
    fn workspaces_are_checked() {
        let mut memory = [0.0; 4];
        assert_eq!(Workspace::from_slice(&mut memory).as_f32(16).unwrap().len(), 4);
        let why = Workspace::from_slice(&mut memory).as_f32(17).unwrap_err();
        assert_eq!(why.to_string(), "workspace is 16 bytes; needed is at least 17 bytes");
        assert_eq!(Workspace::none().as_f32(1).unwrap_err().found, "0 bytes");
        let why = Workspace::from_slice(&mut memory).check_memory(Memory::Device).unwrap_err();
        assert_eq!(why.to_string(), "workspace is in host memory; needed is in device memory");
        // SAFETY: nothing is read or written through the workspace.
        let why = unsafe { Workspace::from_raw(memory.as_ptr() as u64 + 1, 8) }.as_f32(8).unwrap_err();
        assert!(why.needed.starts_with("at a multiple of 4"), "{why}");
    }

    #[test]
    fn the_cpu_has_a_name_and_threads() {
        let info = Device::cpu().info().unwrap();
        assert_eq!((info.backend, info.compute_capability), ("cpu", None));
        assert_eq!(Device::cpu().kernels().unwrap().len(), 0);
        assert!(!info.name.is_empty() && info.units >= 1);
    }
}
