//! The kernels: loading the PTX module, launching under the contracts.

use super::driver::{check, check_for};
use crate::{Error, KernelInfo};
use cudarc::driver::sys;
use oximla_types::kernels::SM90A_CONTRACTS;
use oximla_types::launch::LaunchContract;
use std::ffi::{CString, c_void};

/// The committed PTX; `cargo xtask ptx` makes it from `kernels-gpu`.
const SM90A_PTX: &str = include_str!("../../ptx/sm_90a.ptx");

/// A loaded module and its entries.
pub(super) struct Kernels {
    module: sys::CUmodule,
    entries: Vec<Kernel>,
}

/// One entry, ready to launch.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) contract: LaunchContract,
    function: sys::CUfunction,
}

// SAFETY: driver handles may be used from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.contract.entry)
    }
}

impl Kernels {
    /// Loads the module for a compute capability into the current context.
    pub(super) fn load(capability: (u32, u32)) -> Result<Self, Error> {
        if capability != (9, 0) {
            return Err(Error::Unsupported {
                what: "the cuda backend",
                need: "a GPU of compute capability 9.0 (Hopper)".into(),
                have: format!("one of {}.{}", capability.0, capability.1),
            });
        }
        let image = c_string(SM90A_PTX)?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is PTX text that ends in 0; the pointer is to a local.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) })?;
        let entries: Result<Vec<Kernel>, Error> =
            SM90A_CONTRACTS.iter().map(|contract| Kernel::find(module, contract)).collect();
        if entries.is_err() {
            // SAFETY: nothing of the module is in use.
            unsafe { sys::cuModuleUnload(module) };
        }
        Ok(Self { module, entries: entries? })
    }

    /// The kernel of a contract.
    pub(super) fn get(&self, contract: &LaunchContract) -> Result<Kernel, Error> {
        self.entries.iter().find(|kernel| kernel.contract == *contract).copied().ok_or(Error::Unsupported {
            what: contract.entry,
            need: "the kernel in the loaded module".into(),
            have: "none of that name".into(),
        })
    }

    pub(super) fn info(&self) -> Vec<KernelInfo> {
        self.entries.iter().map(Kernel::info).collect()
    }

    /// Unloads the module; the kernels must not be launched any more.
    pub(super) fn unload(&mut self) {
        // SAFETY: the module is live, its owner is being dropped, and its context is current.
        unsafe { sys::cuModuleUnload(self.module) };
    }
}

impl Kernel {
    fn find(module: sys::CUmodule, contract: &LaunchContract) -> Result<Self, Error> {
        let name = c_string(contract.entry)?;
        let mut function = std::ptr::null_mut();
        let kernel = Some(contract.entry);
        // SAFETY: the module is live, the name ends in 0, the pointer is to a local.
        unsafe {
            let result = sys::cuModuleGetFunction(&mut function, module, name.as_ptr());
            check_for("cuModuleGetFunction", kernel, result)?;
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let result = sys::cuFuncSetAttribute(function, attribute, contract.shared_bytes as i32);
            check_for("cuFuncSetAttribute", kernel, result)?;
        }
        Ok(Self { contract: *contract, function })
    }

    /// Launches `grid` CTAs on `stream` with `parameters` as the kernel's one parameter.
    ///
    /// # Safety
    /// The context is current, `P` is the parameter type of this kernel, its addresses are live until the kernel is
    /// done, and the stream is of the context.
    pub(super) unsafe fn launch<P: bytemuck::Pod>(
        &self,
        stream: sys::CUstream,
        grid: [u32; 2],
        parameters: &P,
    ) -> Result<(), Error> {
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: 1,
            blockDimX: self.contract.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.contract.shared_bytes,
            hStream: stream,
            attrs: std::ptr::null_mut(),
            numAttrs: 0,
        };
        let mut arguments = [std::ptr::from_ref(parameters).cast_mut().cast::<c_void>()];
        // SAFETY: as the caller promises; the driver copies the parameters before it returns.
        let result = unsafe {
            sys::cuLaunchKernelEx(&config, self.function, arguments.as_mut_ptr(), std::ptr::null_mut())
        };
        check_for("cuLaunchKernelEx", Some(self.contract.entry), result)
    }

    fn info(&self) -> KernelInfo {
        use sys::CUfunction_attribute as Attribute;
        KernelInfo {
            entry: self.contract.entry,
            registers: self.attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS),
            local_bytes: self.attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES),
            shared_bytes: self.contract.shared_bytes,
            threads: self.contract.threads,
        }
    }

    fn attribute(&self, attribute: sys::CUfunction_attribute) -> u32 {
        let mut value = 0;
        // SAFETY: the function is live; the pointer is to a local, which stays 0 on failure.
        unsafe { sys::cuFuncGetAttribute(&mut value, attribute, self.function) };
        value as u32
    }
}

fn c_string(text: &'static str) -> Result<CString, Error> {
    CString::new(text).map_err(|error| Error::Unsupported {
        what: "the kernel module",
        need: "text without a zero byte".into(),
        have: error.to_string(),
    })
}
