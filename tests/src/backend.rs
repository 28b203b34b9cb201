//! The devices under test, and buffers in their memory.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use bytemuck::Pod;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use oximla::{Device, Error, Memory, Stream, Workspace};

use crate::strided::Trap;

/// When set to 1, a machine without a usable GPU fails the tests instead of skipping that backend.
pub const REQUIRE_CUDA: &str = "OXIMLA_REQUIRE_CUDA";

/// A device and the memory its tensors lie in.
#[derive(Clone, Debug)]
pub struct Backend {
    /// What plans are made for.
    pub device: Device,
    gpu: Option<Arc<CudaStream>>,
}

/// Elements in the memory of a backend.
#[derive(Debug)]
pub enum Buffer<T> {
    /// In the process's memory.
    Host(Vec<T>),
    /// On a GPU, as bytes.
    Gpu(CudaSlice<u8>),
}

impl Backend {
    /// The CPU.
    pub fn cpu() -> Self {
        Self { device: Device::cpu(), gpu: None }
    }

    /// The first GPU, if the machine has one that the library has kernels for.
    ///
    /// # Panics
    /// If there is none although [`REQUIRE_CUDA`] asks for one, or if there is one and it does not work.
    pub fn cuda() -> Option<Self> {
        static CUDA: LazyLock<Option<Backend>> = LazyLock::new(|| match Device::cuda(0) {
            Ok(device) => {
                let context = CudaContext::new(0).expect("the context that the device uses");
                let stream = context.new_stream().expect("a stream");
                Some(Backend { device, gpu: Some(stream) })
            }
            Err(why @ Error::Unsupported { .. }) => {
                let required = std::env::var_os(REQUIRE_CUDA).is_some_and(|value| value == "1");
                assert!(!required, "{REQUIRE_CUDA} is set, but: {why}");
                report(&format!("cuda skipped: {why}"));
                None
            }
            Err(why) => panic!("the GPU does not work: {why}"),
        });
        CUDA.clone()
    }

    /// Every backend of this machine.
    pub fn all() -> Vec<Self> {
        [Some(Self::cpu()), Self::cuda()].into_iter().flatten().collect()
    }

    /// `"cpu"` or `"cuda"`.
    pub fn name(&self) -> &'static str {
        if self.is_gpu() { "cuda" } else { "cpu" }
    }

    /// Whether this is a GPU.
    pub fn is_gpu(&self) -> bool {
        self.gpu.is_some()
    }

    /// The stream that runs go to. Transfers are ordered with it.
    pub fn stream(&self) -> Stream {
        match &self.gpu {
            None => Stream::host(),
            // SAFETY: the stream belongs to the primary context, as the device does, and the backend keeps it.
            Some(stream) => unsafe { Stream::from_cuda_handle(stream.cu_stream().cast()) },
        }
    }

    /// `elements` in this backend's memory.
    pub fn upload<T: Pod>(&self, elements: Vec<T>) -> Buffer<T> {
        match &self.gpu {
            None => Buffer::Host(elements),
            Some(stream) => {
                let bytes: &[u8] = bytemuck::cast_slice(&elements);
                Buffer::Gpu(stream.clone_htod(bytes).expect("a copy to the GPU"))
            }
        }
    }

    /// Workspace of `bytes` bytes full of traps.
    pub fn workspace(&self, bytes: usize) -> Buffer<f32> {
        self.upload(vec![f32::TRAP; bytes.div_ceil(size_of::<f32>())])
    }
}

impl<T: Pod> Buffer<T> {
    /// Where it lies.
    pub fn memory(&self) -> Memory {
        match self {
            Self::Host(_) => Memory::Host,
            Self::Gpu(_) => Memory::Device,
        }
    }

    /// Address of the first element.
    pub fn address(&self) -> u64 {
        match self {
            Self::Host(elements) => elements.as_ptr() as u64,
            Self::Gpu(bytes) => bytes.device_ptr(bytes.stream()).0,
        }
    }

    /// Address of the first element, to write there.
    pub fn address_mut(&mut self) -> u64 {
        match self {
            Self::Host(elements) => elements.as_mut_ptr() as u64,
            Self::Gpu(bytes) => {
                let stream = Arc::clone(bytes.stream());
                bytes.device_ptr_mut(&stream).0
            }
        }
    }

    /// The elements as they are once all work on the backend's stream is done.
    pub fn download(&self) -> Vec<T> {
        match self {
            Self::Host(elements) => elements.clone(),
            Self::Gpu(bytes) => {
                let bytes = bytes.stream().clone_dtoh(bytes).expect("a copy from the GPU");
                bytemuck::pod_collect_to_vec(&bytes)
            }
        }
    }

    /// The buffer as the workspace of one run.
    pub fn as_workspace(&mut self) -> Workspace<'_> {
        let bytes = match self {
            Self::Host(elements) => size_of_val(elements.as_slice()),
            Self::Gpu(bytes) => bytes.len(),
        };
        // SAFETY: the memory is the buffer's, which the workspace borrows exclusively.
        unsafe { Workspace::from_raw(self.address_mut(), bytes) }
    }
}

/// Prints a line that shows even when the test passes.
pub fn report(line: &str) {
    // Standard error itself: the test harness captures what the macros print.
    writeln!(std::io::stderr(), "{line}").expect("standard error");
}
