//! The CUDA back end, over the driver API.
//!
//! cudarc loads libcuda at run time and declares its functions. Contexts, streams and memory stay the caller's: this
//! module pushes a device's context around its own calls and leaves the thread as it found it.

#[cfg(feature = "cust")]
mod cust;
pub(crate) mod dense_decode;
mod driver;
mod interop;
mod kernels;
#[cfg(feature = "case-file")]
mod memory;
mod tensor_map;

#[cfg(feature = "case-file")]
pub(crate) use memory::DeviceBuffer;

use crate::{DeviceInfo, Error};
use cudarc::driver::{CudaContext, sys};
use driver::check;
use kernels::Kernels;
use std::ffi::c_int;
use std::sync::Arc;
#[cfg(feature = "case-file")]
use std::time::Duration;

/// A GPU context with the kernels loaded into it.
pub(crate) struct CudaDevice {
    context: sys::CUcontext,
    device: sys::CUdevice,
    stream: sys::CUstream,
    multiprocessors: u32,
    kernels: Kernels,
    /// Keeps the primary context alive where the device is on it.
    _primary: Option<Arc<CudaContext>>,
}

// SAFETY: driver handles may be used from any thread (CUDA Driver API, "Thread safety").
unsafe impl Send for CudaDevice {}
// SAFETY: as above; the handles are never written after construction.
unsafe impl Sync for CudaDevice {}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CudaDevice({})", self.device)
    }
}

/// The calling thread's current context while this lives is the device's.
struct ContextGuard;

impl Drop for ContextGuard {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: `enter` pushed a context; the pointer is to a local.
        unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}

impl CudaDevice {
    /// GPU `ordinal` on its primary context.
    pub(crate) fn new(ordinal: usize) -> Result<Self, Error> {
        require_driver()?;
        let primary = CudaContext::new(ordinal).map_err(|error| Error::Unsupported {
            what: "the cuda backend",
            need: format!("GPU number {ordinal}"),
            have: format!("{error:?}"),
        })?;
        let context = primary.cu_ctx();
        Self::on_context(context, Some(primary))
    }

    /// The GPU of the calling thread's current context, on that context.
    pub(crate) fn current() -> Result<Self, Error> {
        require_driver()?;
        let mut context = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        check("cuCtxGetCurrent", unsafe { sys::cuCtxGetCurrent(&mut context) })?;
        if context.is_null() {
            return Err(Error::Unsupported {
                what: "the current CUDA context",
                need: "a context current on the calling thread".into(),
                have: "none".into(),
            });
        }
        Self::on_context(context, None)
    }

    fn on_context(context: sys::CUcontext, primary: Option<Arc<CudaContext>>) -> Result<Self, Error> {
        let _current = push(context)?;
        let (mut device, mut stream) = (0, std::ptr::null_mut());
        // SAFETY: the pointers are to locals.
        check("cuCtxGetDevice", unsafe { sys::cuCtxGetDevice(&mut device) })?;
        let capability = compute_capability(device)?;
        let kernels = Kernels::load(capability)?;
        // SAFETY: the pointer is to a local.
        check("cuStreamCreate", unsafe {
            sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32)
        })?;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = device_attribute(device, attribute)? as u32;
        Ok(Self { context, device, stream, multiprocessors, kernels, _primary: primary })
    }

    pub(crate) fn info(&self) -> Result<DeviceInfo, Error> {
        let mut name = [0_u8; 256];
        let mut version = 0;
        // SAFETY: the pointers are to locals of the sizes given.
        unsafe {
            let len = name.len() as c_int;
            check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr().cast(), len, self.device))?;
            check("cuDriverGetVersion", sys::cuDriverGetVersion(&mut version))?;
        }
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        Ok(DeviceInfo {
            backend: "cuda",
            name: String::from_utf8_lossy(&name[..end]).into_owned(),
            driver: Some(format!("{}.{}", version / 1000, version % 1000 / 10)),
            units: self.multiprocessors,
            compute_capability: Some(compute_capability(self.device)?),
            kernels: self.kernels.info(),
        })
    }

    /// A stream of the device's own, for callers without one.
    #[cfg(feature = "case-file")]
    pub(crate) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Waits for everything on [`Self::stream`].
    #[cfg(feature = "case-file")]
    pub(crate) fn synchronize(&self) -> Result<(), Error> {
        let _current = self.enter()?;
        // SAFETY: the stream is live.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    /// Mean time of one of `calls` calls of `enqueue`, which puts work on [`Self::stream`].
    #[cfg(feature = "case-file")]
    pub(crate) fn time(
        &self,
        calls: u32,
        mut enqueue: impl FnMut() -> Result<(), Error>,
    ) -> Result<Duration, Error> {
        let _current = self.enter()?;
        let (begin, end) = (Event::new()?, Event::new()?);
        begin.record(self.stream)?;
        for _ in 0..calls {
            enqueue()?;
        }
        end.record(self.stream)?;
        let milliseconds = end.since(&begin)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) * 1e-3 / f64::from(calls.max(1))))
    }

    /// Makes the device's context current for as long as the guard lives.
    fn enter(&self) -> Result<ContextGuard, Error> {
        push(self.context)
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        if let Ok(_current) = self.enter() {
            self.kernels.unload();
            // SAFETY: the device made the stream and nobody else has it.
            unsafe { sys::cuStreamDestroy_v2(self.stream) };
        }
    }
}

/// A CUDA event, destroyed with this.
#[cfg(feature = "case-file")]
struct Event(sys::CUevent);

#[cfg(feature = "case-file")]
impl Event {
    fn new() -> Result<Self, Error> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, 0) })?;
        Ok(Self(event))
    }

    fn record(&self, stream: sys::CUstream) -> Result<(), Error> {
        // SAFETY: event and stream are live.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.0, stream) })
    }

    /// Milliseconds since `begin`; waits for both.
    fn since(&self, begin: &Self) -> Result<f32, Error> {
        let mut milliseconds = 0.0;
        // SAFETY: both events are live; the pointer is to a local.
        unsafe {
            check("cuEventSynchronize", sys::cuEventSynchronize(self.0))?;
            check("cuEventElapsedTime", sys::cuEventElapsedTime_v2(&mut milliseconds, begin.0, self.0))?;
        }
        Ok(milliseconds)
    }
}

#[cfg(feature = "case-file")]
impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is live and this is its only owner.
        unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

fn push(context: sys::CUcontext) -> Result<ContextGuard, Error> {
    // SAFETY: the context is live: the device keeps it, or its maker promised to.
    check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(context) })?;
    Ok(ContextGuard)
}

fn require_driver() -> Result<(), Error> {
    // SAFETY: it tries to load the library and nothing more.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: "the cuda backend",
        need: "NVIDIA's driver library, libcuda".into(),
        have: "none that can be loaded".into(),
    })
}

fn compute_capability(device: sys::CUdevice) -> Result<(u32, u32), Error> {
    use sys::CUdevice_attribute as Attribute;
    let major = device_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = device_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok((major as u32, minor as u32))
}

fn device_attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<c_int, Error> {
    let mut value = 0;
    // SAFETY: the pointer is to a local.
    check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
    Ok(value)
}
