//! Running a case on a GPU, through the driver.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, sys};

use super::case::{Case, UNWRITTEN};
use crate::backend::Backend;

/// A GPU with the module that it ran last.
#[derive(Debug)]
pub struct Gpu {
    _context: Arc<CudaContext>,
    loaded: Option<(Arc<str>, sys::CUmodule)>,
}

/// Device memory, freed when dropped.
struct Memory(sys::CUdeviceptr);

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the memory is this one's, and every launch that uses it has been waited for.
        unsafe { sys::cuMemFree_v2(self.0) };
    }
}

impl Gpu {
    /// The first GPU, its context current on this thread; `None`, reported, where there is none.
    ///
    /// # Panics
    /// As [`Backend::cuda`].
    pub fn first() -> Option<Self> {
        Backend::cuda()?;
        let context = CudaContext::new(0).expect("the context that the backend uses");
        context.bind_to_thread().expect("a current context");
        Some(Self { _context: context, loaded: None })
    }

    /// Whether the context still works. After a fault of a kernel it does not, and no further case can run.
    pub fn is_usable(&self) -> bool {
        // SAFETY: no pointers are passed.
        unsafe { sys::cuCtxSynchronize() == sys::CUresult::CUDA_SUCCESS }
    }

    /// The output of a case.
    ///
    /// # Errors
    /// Of the driver, or of the kernel.
    pub fn run(&mut self, case: &Case) -> Result<Vec<u8>, String> {
        let module = self.load(&case.ptx)?;
        let name = CString::new(case.entry.as_str()).map_err(|error| error.to_string())?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded, the name ends in 0, the pointer is to a local.
        check("cuModuleGetFunction", unsafe {
            sys::cuModuleGetFunction(&mut function, module, name.as_ptr())
        })?;
        let shared = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is the module's.
        check("cuFuncSetAttribute", unsafe {
            sys::cuFuncSetAttribute(function, shared, case.launch.shared as i32)
        })?;

        let mut result = vec![UNWRITTEN; case.output_bytes];
        let (input, output) = (upload(&case.input)?, upload(&result)?);
        let mut maps = Vec::new();
        for map in &case.maps {
            maps.push(map.cuda(if map.of_output { output.0 } else { input.0 })?);
        }
        let (mut input_address, mut output_address) = (input.0, output.0);
        let mut arguments: Vec<*mut c_void> =
            vec![(&raw mut input_address).cast(), (&raw mut output_address).cast()];
        arguments.extend(maps.iter_mut().map(|map| map.as_mut_ptr().cast::<c_void>()));
        let mut cluster = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                    x: case.launch.cluster,
                    y: 1,
                    z: 1,
                },
            },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: case.launch.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: case.launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: case.launch.shared,
            hStream: std::ptr::null_mut(),
            attrs: &mut cluster,
            numAttrs: u32::from(case.launch.cluster > 1),
        };
        // SAFETY: the entry has one parameter for each argument, as the emulator checks before; attribute, arguments and
        // buffers outlive the launch, which is waited for.
        unsafe {
            let launched =
                sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), std::ptr::null_mut());
            check("cuLaunchKernelEx", launched)?;
            check("cuCtxSynchronize", sys::cuCtxSynchronize())?;
            check("cuMemcpyDtoH", sys::cuMemcpyDtoH_v2(result.as_mut_ptr().cast(), output.0, result.len()))?;
        }
        Ok(result)
    }

    fn load(&mut self, ptx: &Arc<str>) -> Result<sys::CUmodule, String> {
        if let Some((loaded, module)) = &self.loaded
            && Arc::ptr_eq(loaded, ptx)
        {
            return Ok(*module);
        }
        let image = CString::new(&**ptx).map_err(|error| error.to_string())?;
        let mut module = std::ptr::null_mut();
        self.unload();
        // SAFETY: the image is text that ends in 0, the pointer is to a local.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) })?;
        self.loaded = Some((Arc::clone(ptx), module));
        Ok(module)
    }

    fn unload(&mut self) {
        if let Some((_, module)) = self.loaded.take() {
            // SAFETY: every launch has been waited for.
            unsafe { sys::cuModuleUnload(module) };
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.unload();
    }
}

fn upload(bytes: &[u8]) -> Result<Memory, String> {
    let mut address = 0;
    // SAFETY: the pointer is to a local.
    check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&mut address, bytes.len()) })?;
    let memory = Memory(address);
    // SAFETY: the memory has as many bytes.
    check("cuMemcpyHtoD", unsafe { sys::cuMemcpyHtoD_v2(address, bytes.as_ptr().cast(), bytes.len()) })?;
    Ok(memory)
}

fn check(call: &str, result: sys::CUresult) -> Result<(), String> {
    if result == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(format!("{call}: {result:?}")) }
}
