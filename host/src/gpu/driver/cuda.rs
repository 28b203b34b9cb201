//! NVIDIA's driver.
//!
//! cudarc loads libcuda at run time and declares its functions. Contexts and streams stay the caller's: this module
//! pushes a device's context around its own calls and leaves the thread as it found it.

#[cfg(feature = "case-file")]
mod event;
mod result;

use super::Driver;
use crate::device::StreamHandle;
use crate::gpu::kernels::{Grid, Kernel, SM90A_CAPABILITY};
use crate::gpu::tensor_map::HalfTensor4;
use crate::{DeviceInfo, Error, InvalidProblem, KernelInfo};
use cudarc::driver::{CudaContext, sys};
#[cfg(feature = "case-file")]
use event::Event;
use oximla_types::kernels::{TensorMap, kv_insert};
use result::{check, check_for};
use std::ffi::{CString, c_int, c_void};
use std::sync::{Arc, OnceLock};
#[cfg(feature = "case-file")]
use std::time::Duration;

/// What the CUDA driver knows of a GPU: a context, and the kernels loaded into it.
pub(crate) struct CudaDriver {
    context: sys::CUcontext,
    device: sys::CUdevice,
    stream: sys::CUstream,
    /// In the order of [`Kernel::all`], each when it is loaded.
    kernels: Vec<(Kernel, OnceLock<Loaded>)>,
    /// Keeps the primary context alive where the device is on it.
    _primary: Option<Arc<CudaContext>>,
}

/// A kernel, and the module that it alone is in.
#[derive(Clone, Copy)]
struct Loaded {
    module: sys::CUmodule,
    function: sys::CUfunction,
}

// SAFETY: driver handles may be used from any thread (CUDA Driver API, "Thread safety").
unsafe impl Send for CudaDriver {}
// SAFETY: as above; the handles are never written after construction.
unsafe impl Sync for CudaDriver {}

impl std::fmt::Debug for CudaDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CudaDriver({})", self.device)
    }
}

/// The calling thread's current context while this lives is the device's.
struct ContextGuard;

impl Drop for ContextGuard {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: `push` pushed a context; the pointer is to a local.
        unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}

impl CudaDriver {
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
        // SAFETY: the pointer is to a local.
        check("cuCtxGetDevice", unsafe { sys::cuCtxGetDevice(&mut device) })?;
        let capability = compute_capability(device)?;
        if capability != SM90A_CAPABILITY {
            return Err(Error::Unsupported {
                what: "the cuda backend",
                need: "a GPU of compute capability 9.0 (Hopper)".into(),
                have: format!("one of {}.{}", capability.0, capability.1),
            });
        }
        // SAFETY: the pointer is to a local.
        check("cuStreamCreate", unsafe {
            sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32)
        })?;
        let kernels = Kernel::all().map(|kernel| (kernel, OnceLock::new())).collect();
        let driver = Self { context, device, stream, kernels, _primary: primary };
        // One that compiles in no time: a driver that is too old for the PTX says so here, not when there is a plan.
        driver.load(Kernel::of(&kv_insert::V32)?)?;
        Ok(driver)
    }

    /// Makes the device's context current for as long as the guard lives.
    fn enter(&self) -> Result<ContextGuard, Error> {
        push(self.context)
    }

    /// Where a kernel is, once it is loaded.
    fn place(&self, kernel: Kernel) -> Result<&OnceLock<Loaded>, Error> {
        let entry = self.kernels.iter().find(|(known, _)| *known == kernel);
        entry.map(|(_, place)| place).ok_or_else(|| kernel.missing())
    }

    fn function(&self, kernel: Kernel) -> Result<sys::CUfunction, Error> {
        self.place(kernel)?.get().map(|loaded| loaded.function).ok_or_else(|| kernel.missing())
    }
}

impl Driver for CudaDriver {
    fn info(&self) -> Result<DeviceInfo, Error> {
        let mut name = [0_u8; 256];
        let mut version = 0;
        // SAFETY: the pointers are to locals of the sizes given.
        unsafe {
            let len = name.len() as c_int;
            check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr().cast(), len, self.device))?;
            check("cuDriverGetVersion", sys::cuDriverGetVersion(&mut version))?;
        }
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        Ok(DeviceInfo {
            backend: "cuda",
            name: String::from_utf8_lossy(&name[..end]).into_owned(),
            driver: Some(format!("{}.{}", version / 1000, version % 1000 / 10)),
            units: device_attribute(self.device, attribute)? as u32,
            compute_capability: Some(compute_capability(self.device)?),
        })
    }

    fn load(&self, kernel: Kernel) -> Result<(), Error> {
        let place = self.place(kernel)?;
        if place.get().is_none() {
            let _current = self.enter()?;
            let loaded = Loaded::new(kernel)?;
            if place.set(loaded).is_err() {
                // Another thread was faster.
                // SAFETY: the context is current, and nobody else knows the module.
                unsafe { sys::cuModuleUnload(loaded.module) };
            }
        }
        Ok(())
    }

    fn kernel_info(&self, kernel: Kernel) -> Result<KernelInfo, Error> {
        use sys::CUfunction_attribute as Attribute;
        let (function, contract) = (self.function(kernel)?, kernel.contract);
        let _current = self.enter()?;
        Ok(KernelInfo {
            entry: contract.entry,
            registers: function_attribute(function, Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS),
            local_bytes: function_attribute(function, Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES),
            shared_bytes: contract.shared_bytes,
            threads: contract.threads,
        })
    }

    fn check_stream(&self, stream: StreamHandle) -> Result<(), InvalidProblem> {
        cuda_stream(stream).map(drop)
    }

    fn encode(&self, tensor: &HalfTensor4) -> Result<TensorMap, Error> {
        use sys::CUtensorMapDataType_enum as DataType;
        let data_type = if tensor.is_bf16 {
            DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
        } else {
            DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16
        };
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: the arrays have as many elements as the rank asks for; the address is not followed.
        check("cuTensorMapEncodeTiled", unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                data_type,
                tensor.dims.len() as u32,
                tensor.address as *mut c_void,
                tensor.dims.as_ptr(),
                tensor.strides.as_ptr(),
                tensor.box_dims.as_ptr(),
                [1; 4].as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        })?;
        Ok(TensorMap(map.opaque))
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: Grid,
        parameters: &[u8],
        stream: StreamHandle,
    ) -> Result<(), Error> {
        let function = self.function(kernel)?;
        let mut attributes = attributes(grid);
        let config = config(kernel, grid, &mut attributes, cuda_stream(stream)?);
        let mut arguments = [parameters.as_ptr().cast_mut().cast::<c_void>()];
        let _current = self.enter()?;
        // SAFETY: the context is current, the rest is as the caller promises; the driver copies the parameters before
        // it returns.
        let result =
            unsafe { sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), std::ptr::null_mut()) };
        check_for("cuLaunchKernelEx", Some(kernel.contract.entry), result)
    }

    fn max_clusters(&self, kernel: Kernel, grid: Grid) -> Result<u32, Error> {
        let function = self.function(kernel)?;
        let mut attributes = attributes(grid);
        let config = config(kernel, grid, &mut attributes, std::ptr::null_mut());
        let mut clusters = 0;
        let _current = self.enter()?;
        // SAFETY: the context is current; the pointers are to locals.
        let result = unsafe { sys::cuOccupancyMaxActiveClusters(&mut clusters, function, &config) };
        if result == sys::CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE {
            return Ok(0);
        }
        check_for("cuOccupancyMaxActiveClusters", Some(kernel.contract.entry), result)?;
        Ok(clusters as u32)
    }

    fn allocate(&self, bytes: usize) -> Result<u64, Error> {
        let _current = self.enter()?;
        let mut address = 0;
        // SAFETY: the pointer is to a local.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&mut address, bytes) })?;
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        if let Ok(_current) = self.enter() {
            // SAFETY: as the caller promises; freeing waits for the work that uses the memory.
            unsafe { sys::cuMemFree_v2(address) };
        }
    }

    unsafe fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let _current = self.enter()?;
        synchronize_context()?;
        // SAFETY: as the caller promises.
        check("cuMemcpyHtoD", unsafe { sys::cuMemcpyHtoD_v2(address, bytes.as_ptr().cast(), bytes.len()) })?;
        // The copy may still be on its way from a staging buffer, and other streams would not wait for it.
        synchronize_context()
    }

    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let _current = self.enter()?;
        synchronize_context()?;
        // SAFETY: as the caller promises.
        check("cuMemcpyDtoH", unsafe {
            sys::cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), address, bytes.len())
        })
    }

    fn stream(&self) -> StreamHandle {
        StreamHandle::Cuda(self.stream)
    }

    #[cfg(feature = "case-file")]
    fn synchronize(&self) -> Result<(), Error> {
        let _current = self.enter()?;
        synchronize_context()
    }

    #[cfg(feature = "case-file")]
    fn time(&self, calls: u32, enqueue: &mut dyn FnMut() -> Result<(), Error>) -> Result<Duration, Error> {
        let _current = self.enter()?;
        let (begin, end) = (Event::new()?, Event::new()?);
        begin.record(self.stream)?;
        for _ in 0..calls {
            enqueue()?;
        }
        end.record(self.stream)?;
        let milliseconds = end.since(&begin)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) * 1e-3 / f64::from(calls)))
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        if let Ok(_current) = self.enter() {
            // SAFETY: modules and stream are live, the device made them, nobody else has them, and their context is
            // current.
            unsafe {
                for loaded in self.kernels.iter().filter_map(|(_, place)| place.get()) {
                    sys::cuModuleUnload(loaded.module);
                }
                sys::cuStreamDestroy_v2(self.stream);
            }
        }
    }
}

impl Loaded {
    /// Has the driver compile a kernel for the current context.
    fn new(kernel: Kernel) -> Result<Self, Error> {
        let entry = kernel.contract.entry;
        let image = c_string(&kernel.ptx()?)?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is PTX text that ends in 0; the pointer is to a local.
        let result = unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) };
        check_for("cuModuleLoadData", Some(entry), result)?;
        let function = find(module, kernel);
        if function.is_err() {
            // SAFETY: nothing of the module is in use.
            unsafe { sys::cuModuleUnload(module) };
        }
        Ok(Self { module, function: function? })
    }
}

/// What the driver is told of a launch, besides its [`config`].
fn attributes(grid: Grid) -> [sys::CUlaunchAttribute; 2] {
    use sys::CUlaunchAttributeID as Attribute;
    let [x, y] = grid.cluster;
    [
        sys::CUlaunchAttribute {
            id: Attribute::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: grid.overlaps.into(),
            },
        },
        sys::CUlaunchAttribute {
            id: Attribute::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z: 1 },
            },
        },
    ]
}

/// A launch under the kernel's contract. It points to the attributes.
fn config(
    kernel: Kernel,
    grid: Grid,
    attributes: &mut [sys::CUlaunchAttribute; 2],
    stream: sys::CUstream,
) -> sys::CUlaunchConfig {
    sys::CUlaunchConfig {
        gridDimX: grid.ctas[0],
        gridDimY: grid.ctas[1],
        gridDimZ: 1,
        blockDimX: kernel.contract.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: kernel.contract.shared_bytes,
        hStream: stream,
        attrs: attributes.as_mut_ptr(),
        // The cluster comes last.
        numAttrs: if grid.cluster == [1, 1] { 1 } else { 2 },
    }
}

/// The kernel in a module, allowed the dynamic shared memory that it needs, and clusters of more than eight CTAs.
fn find(module: sys::CUmodule, kernel: Kernel) -> Result<sys::CUfunction, Error> {
    let entry = kernel.contract.entry;
    let name = c_string(entry)?;
    let mut function = std::ptr::null_mut();
    // SAFETY: the module is live, the name ends in 0, the pointer is to a local.
    unsafe {
        let result = sys::cuModuleGetFunction(&mut function, module, name.as_ptr());
        check_for("cuModuleGetFunction", Some(entry), result)?;
        use sys::CUfunction_attribute as Attribute;
        for (attribute, value) in [
            (
                Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                kernel.contract.shared_bytes as c_int,
            ),
            (Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
        ] {
            let result = sys::cuFuncSetAttribute(function, attribute, value);
            check_for("cuFuncSetAttribute", Some(entry), result)?;
        }
    }
    Ok(function)
}

fn cuda_stream(stream: StreamHandle) -> Result<sys::CUstream, InvalidProblem> {
    match stream {
        StreamHandle::Cuda(stream) => Ok(stream),
        other => Err(other.instead_of("a CUDA stream, as the plan is for a GPU")),
    }
}

fn push(context: sys::CUcontext) -> Result<ContextGuard, Error> {
    // SAFETY: the context is live: the device keeps it, or its maker promised to.
    check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(context) })?;
    Ok(ContextGuard)
}

/// Waits for all work in the current context.
fn synchronize_context() -> Result<(), Error> {
    // SAFETY: it takes no arguments.
    check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })
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

fn function_attribute(function: sys::CUfunction, attribute: sys::CUfunction_attribute) -> u32 {
    let mut value = 0;
    // SAFETY: the function is live; the pointer is to a local, which stays 0 on failure.
    unsafe { sys::cuFuncGetAttribute(&mut value, attribute, function) };
    value as u32
}

fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|error| Error::Unsupported {
        what: "the kernel module",
        need: "text without a zero byte".into(),
        have: error.to_string(),
    })
}
