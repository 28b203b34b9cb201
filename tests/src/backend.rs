//! The devices under test, and buffers in their memory.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytemuck::Pod;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaGraph, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use oximla::{Device, DeviceBuffer, EmulatedOptions, Error, Memory, Stream, Workspace};

use crate::strided::Trap;

/// When set to 1, a machine without a usable GPU fails the tests instead of skipping that backend.
pub const REQUIRE_CUDA: &str = "OXIMLA_REQUIRE_CUDA";

/// Multiprocessors of the emulated GPU: few, so that not most of a small problem's CTAs have nothing to do.
const EMULATED_MULTIPROCESSORS: u32 = 12;

/// A device and the memory its tensors lie in.
#[derive(Clone, Debug)]
pub struct Backend {
    /// What plans are made for.
    pub device: Device,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Cpu,
    Cuda(Arc<CudaStream>),
    Emulated,
}

/// Elements in the memory of a backend.
#[derive(Debug)]
pub enum Buffer<T> {
    /// In the process's memory.
    Host(Vec<T>),
    /// On a GPU, as bytes.
    Cuda(CudaSlice<u8>),
    /// On an emulated GPU, as bytes.
    Emulated(DeviceBuffer<u8>),
}

impl Backend {
    /// The CPU.
    pub fn cpu() -> Self {
        Self { device: Device::cpu(), kind: Kind::Cpu }
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
                Some(Backend { device, kind: Kind::Cuda(stream) })
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

    /// An emulated GPU. Takes about a second for twenty tiles of 64 query rows by 64 keys.
    pub fn emulated() -> Self {
        Self::emulated_with_seed(0)
    }

    /// An emulated GPU on which warps and asynchronous operations proceed in the order that `seed` draws.
    ///
    /// # Panics
    /// If the emulator refuses the library's PTX.
    pub fn emulated_with_seed(seed: u64) -> Self {
        Self::emulated_of_size(EMULATED_MULTIPROCESSORS, seed)
    }

    /// One with so many multiprocessors.
    ///
    /// # Panics
    /// As [`Self::emulated_with_seed`].
    pub fn emulated_of_size(multiprocessors: u32, seed: u64) -> Self {
        let options = EmulatedOptions { multiprocessors, seed, ..EmulatedOptions::default() };
        let device = Device::emulated(options).expect("an emulated GPU");
        Self { device, kind: Kind::Emulated }
    }

    /// Every backend of this machine.
    pub fn all() -> Vec<Self> {
        std::iter::once(Self::cpu()).chain(Self::gpus()).collect()
    }

    /// The first GPU, if there is one, and an emulated one.
    pub fn gpus() -> Vec<Self> {
        Self::cuda().into_iter().chain([Self::emulated()]).collect()
    }

    /// `"cpu"`, `"cuda"` or `"emulated"`.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Cpu => "cpu",
            Kind::Cuda(_) => "cuda",
            Kind::Emulated => "emulated",
        }
    }

    /// Whether this is a GPU, real or emulated.
    pub fn is_gpu(&self) -> bool {
        !matches!(self.kind, Kind::Cpu)
    }

    /// Whether this is an emulated GPU, which takes small problems only.
    pub fn is_emulated(&self) -> bool {
        matches!(self.kind, Kind::Emulated)
    }

    /// The stream that runs go to. Transfers are ordered with it.
    pub fn stream(&self) -> Stream {
        match &self.kind {
            Kind::Cpu => Stream::host(),
            // SAFETY: the stream belongs to the primary context, as the device does, and the backend keeps it.
            Kind::Cuda(stream) => unsafe { Stream::from_cuda_handle(stream.cu_stream().cast()) },
            Kind::Emulated => Stream::emulated(),
        }
    }

    /// `elements` in this backend's memory.
    pub fn upload<T: Pod>(&self, elements: Vec<T>) -> Buffer<T> {
        match &self.kind {
            Kind::Cpu => Buffer::Host(elements),
            Kind::Cuda(stream) => {
                let bytes: &[u8] = bytemuck::cast_slice(&elements);
                Buffer::Cuda(stream.clone_htod(bytes).expect("a copy to the GPU"))
            }
            Kind::Emulated => {
                let bytes = bytemuck::cast_slice(&elements);
                Buffer::Emulated(DeviceBuffer::from_slice(&self.device, bytes).expect("emulated memory"))
            }
        }
    }

    /// Records what `enqueue` puts on [`Self::stream`] as a CUDA graph, without doing it; none where the backend is not
    /// CUDA. Meanwhile nothing else may use the stream, which all tests of a process share.
    ///
    /// # Panics
    /// If the driver refuses to record it.
    pub fn capture(&self, enqueue: impl FnOnce()) -> Option<CudaGraph> {
        let Kind::Cuda(stream) = &self.kind else { return None };
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).expect("the start of a capture");
        enqueue();
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).expect("work that a graph can hold");
        Some(graph.expect("a graph"))
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
            Self::Cuda(_) | Self::Emulated(_) => Memory::Device,
        }
    }

    /// Address of the first element.
    pub fn address(&self) -> u64 {
        match self {
            Self::Host(elements) => elements.as_ptr() as u64,
            Self::Cuda(bytes) => bytes.device_ptr(bytes.stream()).0,
            Self::Emulated(bytes) => bytes.address(),
        }
    }

    /// Address of the first element, to write there.
    pub fn address_mut(&mut self) -> u64 {
        match self {
            Self::Host(elements) => elements.as_mut_ptr() as u64,
            Self::Cuda(bytes) => {
                let stream = Arc::clone(bytes.stream());
                bytes.device_ptr_mut(&stream).0
            }
            Self::Emulated(bytes) => bytes.address(),
        }
    }

    /// Overwrites the elements, as many as there are, once all work on the backend's stream is done; they stay where they
    /// are.
    pub fn write(&mut self, elements: &[T]) {
        let bytes = bytemuck::cast_slice(elements);
        match self {
            Self::Host(own) => own.copy_from_slice(elements),
            Self::Cuda(own) => {
                let stream = Arc::clone(own.stream());
                stream.memcpy_htod(bytes, own).expect("a copy to the GPU");
            }
            Self::Emulated(own) => own.copy_from_slice(bytes).expect("a copy to the emulated GPU"),
        }
    }

    /// The elements as they are once all work on the backend's stream is done.
    pub fn download(&self) -> Vec<T> {
        match self {
            Self::Host(elements) => elements.clone(),
            Self::Cuda(bytes) => elements(&bytes.stream().clone_dtoh(bytes).expect("a copy from the GPU")),
            Self::Emulated(bytes) => elements(&bytes.to_vec().expect("a copy from the emulated GPU")),
        }
    }

    /// The buffer as the workspace of one run.
    pub fn as_workspace(&mut self) -> Workspace<'_> {
        let bytes = match self {
            Self::Host(elements) => size_of_val(elements.as_slice()),
            Self::Cuda(bytes) => bytes.len(),
            Self::Emulated(bytes) => bytes.len(),
        };
        // SAFETY: the memory is the buffer's, which the workspace borrows exclusively.
        unsafe { Workspace::from_raw(self.address_mut(), bytes) }
    }
}

/// Prints a line that shows even when the test passes, once a process.
pub fn report(line: &str) {
    static REPORTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if REPORTED.lock().unwrap_or_else(PoisonError::into_inner).insert(line.to_string()) {
        // Standard error itself: the test harness captures what the macros print.
        writeln!(std::io::stderr(), "{line}").expect("standard error");
    }
}

/// Bytes, wherever they lie, as what they are of.
fn elements<T: Pod>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}
