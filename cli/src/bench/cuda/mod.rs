//! Timing on a GPU: CUDA graphs between events.

mod cached_tokens;
mod dense_decode;
mod graphs;
mod memory;
mod sparse_decode;
mod sparse_prefill;
mod sparse_prefill_fp8;

use anyhow::Context;
use cudarc::driver::result::memcpy_dtod_async;
use cudarc::driver::{CudaContext, CudaSlice, DevicePtr, DevicePtrMut};
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
    loaded: Option<Loaded>,
}

/// A case in memory. The graphs go before the tensors that they use.
struct Loaded {
    call: (Graphs, Tensors),
    /// Of a copy of as many bytes.
    copy: Option<(Graphs, Tensors)>,
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

    fn loaded(&self) -> anyhow::Result<&Loaded> {
        self.loaded.as_ref().context("no case is loaded")
    }
}

impl Stopwatch for Gpu {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn load(&mut self, shape: &Shape) -> anyhow::Result<()> {
        // The old memory goes first: both may not fit.
        self.loaded = None;
        let memory = &self.memory;
        let call = match shape {
            Shape::DenseDecode(shape) => dense_decode::load(memory, shape)?,
            Shape::SparseDecode(shape) => sparse_decode::load(memory, shape)?,
            Shape::SparsePrefill(shape) => sparse_prefill::load(memory, shape)?,
            Shape::SparsePrefillFp8(shape) => sparse_prefill_fp8::load_direct(memory, shape)?,
            Shape::GatherSparsePrefill(shape) => sparse_prefill_fp8::load_with_copy(memory, shape)?,
            Shape::KvInsert(shape) => cached_tokens::load_insertion(memory, shape)?,
            Shape::KvGather(shape) => cached_tokens::load_gathering(memory, shape)?,
        };
        let only_moves_bytes = shape.flop() == 0.0;
        let copy = only_moves_bytes.then(|| load_copy(memory, shape.bytes() as usize)).transpose()?;
        self.loaded = Some(Loaded { call, copy });
        Ok(())
    }

    fn time(&mut self, regime: Regime) -> anyhow::Result<f64> {
        self.loaded()?.call.0.time(regime)
    }

    fn time_copy(&mut self, regime: Regime) -> anyhow::Result<Option<f64>> {
        self.loaded()?.copy.as_ref().map(|(graphs, _)| graphs.time(regime)).transpose()
    }
}

/// Captures the driver's copy, which moves so many bytes: half of them are read and half are written.
fn load_copy(memory: &Memory, bytes: usize) -> anyhow::Result<(Graphs, Tensors)> {
    let (stream, len) = (&memory.stream, bytes / 2);
    let from: CudaSlice<u8> = stream.alloc_zeros(len)?;
    let mut to: CudaSlice<u8> = stream.alloc_zeros(len)?;
    // Only addresses: cudarc's own copy waits for earlier work by events, which a capture may not.
    let (source, destination) = (from.device_ptr(stream).0, to.device_ptr_mut(stream).0);
    let graphs = Graphs::capture(stream, || {
        // SAFETY: both have so many bytes, do not overlap, and live as long as the graphs.
        Ok(unsafe { memcpy_dtod_async(destination, source, len, stream.cu_stream()) }?)
    })?;
    Ok((graphs, Box::new((from, to))))
}
