//! Timing on a GPU: CUDA graphs between events.

mod dense_decode;
mod graphs;
mod memory;
mod sparse_decode;
mod sparse_prefill;

use anyhow::Context;
use cudarc::driver::CudaContext;
use oximla::{Device, DeviceInfo};

use self::graphs::Graphs;
use self::memory::{Memory, Tensors};
use super::ops::Shape;
use super::record::Regime;
use super::timing::Stopwatch;

/// The first GPU.
pub struct Gpu {
    info: DeviceInfo,
    memory: Memory,
    /// The graphs go before the tensors that they use.
    loaded: Option<(Graphs, Tensors)>,
}

impl Gpu {
    /// The first GPU.
    ///
    /// # Errors
    /// When there is none that has kernels.
    pub fn new() -> anyhow::Result<Self> {
        // First of all: it finds out whether there is a driver.
        let device = Device::cuda(0)?;
        let stream = CudaContext::new(0)?.new_stream()?;
        Ok(Self { info: device.info()?, memory: Memory { device, stream }, loaded: None })
    }
}

impl Stopwatch for Gpu {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn load(&mut self, shape: &Shape) -> anyhow::Result<()> {
        // The old memory goes first: both may not fit.
        self.loaded = None;
        self.loaded = Some(match shape {
            Shape::DenseDecode(shape) => dense_decode::load(&self.memory, shape)?,
            Shape::SparseDecode(shape) => sparse_decode::load(&self.memory, shape)?,
            Shape::SparsePrefill(shape) => sparse_prefill::load(&self.memory, shape)?,
        });
        Ok(())
    }

    fn time(&mut self, regime: Regime) -> anyhow::Result<f64> {
        let (graphs, _) = self.loaded.as_ref().context("no case is loaded")?;
        match regime {
            Regime::Sustained => graphs.sustained(),
            Regime::Burst => graphs.burst(),
        }
    }
}
