//! What the back end asks of a driver, and the drivers.

#[cfg(feature = "cuda")]
pub(super) mod cuda;
#[cfg(feature = "emulated")]
pub(super) mod emulated;

use super::kernels::{Grid, Kernel};
use super::tensor_map::HalfTensor4;
use crate::device::StreamHandle;
use crate::{DeviceInfo, Error, InvalidProblem, KernelInfo};
use oximla_types::kernels::TensorMap;
use std::fmt::Debug;
#[cfg(feature = "case-file")]
use std::time::Duration;

/// A GPU and the committed module, as its driver presents them.
pub(crate) trait Driver: Debug + Send + Sync {
    /// What the GPU is.
    fn info(&self) -> Result<DeviceInfo, Error>;

    /// Makes a kernel ready to be launched, if it is not.
    fn load(&self, kernel: Kernel) -> Result<(), Error>;

    /// What a kernel that is loaded uses.
    fn kernel_info(&self, kernel: Kernel) -> Result<KernelInfo, Error>;

    /// Checks that the stream is one of this driver.
    fn check_stream(&self, stream: StreamHandle) -> Result<(), InvalidProblem>;

    /// Encodes a tensor map. A computation on the host: nothing is allocated or launched.
    fn encode(&self, tensor: &HalfTensor4) -> Result<TensorMap, Error>;

    /// Enqueues the CTAs of `grid` of a kernel that is loaded, under its contract, with `parameters` as its one parameter.
    ///
    /// # Safety
    /// The parameters are of the kernel's own type, their addresses are live until the kernel is done, and the stream
    /// is a live one of this GPU.
    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: Grid,
        parameters: &[u8],
        stream: StreamHandle,
    ) -> Result<(), Error>;

    /// How many of the grid's clusters of a kernel that is loaded run side by side where nothing else does; 0 where the GPU grants none of their size.
    fn max_clusters(&self, kernel: Kernel, grid: Grid) -> Result<u32, Error>;

    /// The address of `bytes` bytes, at least 1, of new memory in which nothing has been written.
    fn allocate(&self, bytes: usize) -> Result<u64, Error>;

    /// Gives memory back once the work that uses it is done.
    ///
    /// # Safety
    /// `address` is of [`Self::allocate`] and is not used any more.
    unsafe fn free(&self, address: u64);

    /// Copies to the GPU, after all work on it, and waits for the copy.
    ///
    /// # Safety
    /// At `address`, memory of [`Self::allocate`] is as long as `bytes`.
    unsafe fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Copies from the GPU, after all work on it.
    ///
    /// # Safety
    /// At `address`, memory of [`Self::allocate`] is as long as `bytes`.
    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error>;

    /// A stream of the GPU's own, for callers without one.
    fn stream(&self) -> StreamHandle;

    /// Waits for everything that was enqueued.
    #[cfg(feature = "case-file")]
    fn synchronize(&self) -> Result<(), Error>;

    /// Mean time of one of `calls` calls, at least 1, of `enqueue`, which puts work on [`Self::stream`].
    #[cfg(feature = "case-file")]
    fn time(&self, calls: u32, enqueue: &mut dyn FnMut() -> Result<(), Error>) -> Result<Duration, Error>;
}
