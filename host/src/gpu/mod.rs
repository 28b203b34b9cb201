//! The GPU back end: one path from plan to launch, over a [`Driver`] that is CUDA's or stands in for it.

mod buffer;
mod checks;
pub(crate) mod dense_decode;
mod driver;
mod fused;
pub(crate) mod inverse_rope;
mod kernels;
pub(crate) mod kv_gather;
pub(crate) mod kv_insert;
pub(crate) mod merge_states;
mod partials;
pub(crate) mod sparse_decode;
pub(crate) mod sparse_prefill;
mod tensor_map;
pub(crate) mod topk_to_slots;

pub use buffer::DeviceBuffer;
#[cfg(feature = "emulated")]
pub use driver::emulated::{EmulatedOptions, EmulatedReport, EmulatedReports};

use crate::{DeviceInfo, Error, KernelInfo};
use driver::Driver;
use kernels::Kernel;
use oximla_types::launch::LaunchContract;

/// A GPU, and the kernels that plans have loaded into it.
#[derive(Debug)]
pub(crate) struct GpuDevice {
    pub(crate) driver: Box<dyn Driver>,
    multiprocessors: u32,
}

impl GpuDevice {
    /// GPU `ordinal` on its primary context.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(ordinal: usize) -> Result<Self, Error> {
        Self::over(driver::cuda::CudaDriver::new(ordinal)?)
    }

    /// The GPU of the calling thread's current context, on that context.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda_current() -> Result<Self, Error> {
        Self::over(driver::cuda::CudaDriver::current()?)
    }

    /// An emulated GPU.
    #[cfg(feature = "emulated")]
    pub(crate) fn emulated(options: EmulatedOptions) -> Result<Self, Error> {
        Self::over(driver::emulated::EmulatedDriver::new(options)?)
    }

    fn over(driver: impl Driver + 'static) -> Result<Self, Error> {
        let multiprocessors = driver.info()?.units;
        Ok(Self { driver: Box::new(driver), multiprocessors })
    }

    pub(crate) fn info(&self) -> Result<DeviceInfo, Error> {
        self.driver.info()
    }

    /// The kernel of a contract, ready to be launched: runs neither compile nor load anything.
    fn kernel(&self, contract: &LaunchContract) -> Result<Kernel, Error> {
        let kernel = Kernel::of(contract)?;
        self.driver.load(kernel)?;
        Ok(kernel)
    }

    /// Loads all kernels, and tells what they use.
    pub(crate) fn kernels(&self) -> Result<Vec<KernelInfo>, Error> {
        let load = |kernel| self.driver.load(kernel).and_then(|()| self.driver.kernel_info(kernel));
        Kernel::all().map(load).collect()
    }
}
