//! A driver without a GPU: PTX runs on the CPU, where it is checked while it runs.

use super::Driver;
use crate::device::StreamHandle;
use crate::gpu::kernels::{Grid, Kernel, SM90A_CAPABILITY, SM90A_PTX};
use crate::gpu::tensor_map::HalfTensor4;
use crate::{DeviceInfo, Error, InvalidProblem, KernelInfo};
use oximla_types::kernels::TensorMap;
use ptx_emulator::tensor_map::{self, ElementType, Swizzle};
use ptx_emulator::{Checks, GlobalMemory, Launch, Module, Options, Report, Start, Stream};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
#[cfg(feature = "case-file")]
use std::time::{Duration, Instant};

/// Most multiprocessors that may be asked for: partitions of a problem are a second grid dimension.
const MAX_MULTIPROCESSORS: u32 = 65_535;

/// What an emulated GPU is like, and how it runs kernels.
#[derive(Clone, Debug)]
pub struct EmulatedOptions {
    /// Multiprocessors that plans reckon with, in 1..=65535. An H200's 132 without this.
    pub multiprocessors: u32,
    /// Draws the order in which warps and asynchronous operations proceed. The same seed gives the same run.
    pub seed: u64,
    /// Whether to look for data races and missing proxy fences, which takes time.
    pub races: bool,
    /// Whether to count bank conflicts and memory sectors by instruction. The counts are in the reports.
    pub profile: bool,
    /// Instructions that a warp may execute in a launch.
    pub max_steps: u64,
    /// Findings after which a launch is given up.
    pub max_findings: usize,
    /// Where to keep the report of every launch.
    pub reports: Option<EmulatedReports>,
    /// PTX to run in place of the library's own, with the same entries.
    pub ptx: Option<String>,
}

/// What an emulated launch did.
#[derive(Clone, Debug)]
pub struct EmulatedReport {
    /// Entry point.
    pub entry: &'static str,
    /// CTAs in each dimension.
    pub grid: [u32; 2],
    /// Findings and counts.
    pub report: Report,
}

/// Reports of launches in the order in which they ended. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct EmulatedReports(Arc<Mutex<Vec<EmulatedReport>>>);

/// An emulated GPU's memory, and the module it runs.
#[derive(Debug)]
pub(crate) struct EmulatedDriver {
    module: Arc<Module>,
    memory: GlobalMemory,
    /// The one stream there is.
    stream: Stream,
    multiprocessors: u32,
    options: Options,
    reports: Option<EmulatedReports>,
}

impl Default for EmulatedOptions {
    fn default() -> Self {
        let Options { seed, max_steps, checks: Checks { races, profile }, max_diagnostics } =
            Options::default();
        Self {
            multiprocessors: 132,
            seed,
            races,
            profile,
            max_steps,
            max_findings: max_diagnostics,
            reports: None,
            ptx: None,
        }
    }
}

impl EmulatedReports {
    /// The reports since the last call.
    pub fn take(&self) -> Vec<EmulatedReport> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, report: EmulatedReport) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(report);
    }
}

impl EmulatedDriver {
    pub(crate) fn new(options: EmulatedOptions) -> Result<Self, Error> {
        let EmulatedOptions { multiprocessors, seed, races, profile, max_steps, max_findings, reports, ptx } =
            options;
        if !(1..=MAX_MULTIPROCESSORS).contains(&multiprocessors) {
            let needed = format!("in 1..={MAX_MULTIPROCESSORS}");
            return Err(InvalidProblem::new("multiprocessors", multiprocessors, needed).into());
        }
        let module = match ptx {
            None => committed_module()?,
            Some(ptx) => load(&ptx)?,
        };
        let options =
            Options { seed, max_steps, checks: Checks { races, profile }, max_diagnostics: max_findings };
        Ok(Self {
            module,
            memory: GlobalMemory::new(),
            stream: Stream::new(),
            multiprocessors,
            options,
            reports,
        })
    }
}

impl Driver for EmulatedDriver {
    fn info(&self) -> Result<DeviceInfo, Error> {
        Ok(DeviceInfo {
            backend: "emulated",
            name: "emulated sm_90a".into(),
            driver: None,
            units: self.multiprocessors,
            compute_capability: Some(SM90A_CAPABILITY),
        })
    }

    /// All are, since the module is decoded.
    fn load(&self, _: Kernel) -> Result<(), Error> {
        Ok(())
    }

    fn kernel_info(&self, Kernel { contract }: Kernel) -> Result<KernelInfo, Error> {
        Ok(KernelInfo {
            entry: contract.entry,
            registers: contract.registers_at_entry(),
            local_bytes: 0,
            shared_bytes: contract.shared_bytes,
            threads: contract.threads,
        })
    }

    fn check_stream(&self, stream: StreamHandle) -> Result<(), InvalidProblem> {
        match stream {
            StreamHandle::Emulated => Ok(()),
            other => Err(other.instead_of("the emulated GPU's, as the plan is for one")),
        }
    }

    fn encode(&self, tensor: &HalfTensor4) -> Result<TensorMap, Error> {
        let map = tensor_map::TensorMap {
            element: if tensor.is_bf16 { ElementType::Bf16 } else { ElementType::F16 },
            address: tensor.address,
            dims: tensor.dims.to_vec(),
            strides: tensor.strides.to_vec(),
            box_dims: tensor.box_dims.to_vec(),
            element_strides: vec![1; tensor.dims.len()],
            swizzle: Swizzle::Bytes128,
            fill_nan: false,
        };
        map.encode().map(TensorMap).map_err(|error| failed("TensorMap::encode", error, None))
    }

    /// Carries the launch out: it is finished on return. Where it may begin while those before it run, it is checked as one that
    /// does.
    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: Grid,
        parameters: &[u8],
        stream: StreamHandle,
    ) -> Result<(), Error> {
        self.check_stream(stream)?;
        let entry = kernel.contract.entry;
        let launch = Launch {
            entry,
            grid: [grid.ctas[0], grid.ctas[1], 1],
            block: [kernel.contract.threads, 1, 1],
            cluster: [grid.cluster[0], grid.cluster[1], 1],
            shared_bytes: kernel.contract.shared_bytes,
            parameters: &[parameters],
        };
        let start = if grid.overlaps { Start::Programmatic } else { Start::AfterAll };
        let report = self
            .stream
            .launch(&self.module, &self.memory, &launch, &self.options, start)
            .map_err(|error| failed("launch", error, Some(entry)))?;
        let diagnostics = report.diagnostics.clone();
        if let Some(reports) = &self.reports {
            reports.push(EmulatedReport { entry, grid: grid.ctas, report });
        }
        if diagnostics.is_empty() { Ok(()) } else { Err(Error::Emulated { kernel: entry, diagnostics }) }
    }

    /// As many as there are multiprocessors for: nothing else sets a limit here.
    fn max_clusters(&self, _: Kernel, grid: Grid) -> Result<u32, Error> {
        Ok(self.multiprocessors / grid.cluster.iter().product::<u32>().max(1))
    }

    fn allocate(&self, bytes: usize) -> Result<u64, Error> {
        // The emulator's own allocation would end the process where the machine has not as much.
        let mut probe = Vec::<u8>::new();
        probe.try_reserve_exact(bytes.saturating_mul(2)).map_err(|error| failed("allocate", error, None))?;
        drop(probe);
        Ok(self.memory.allocate(bytes))
    }

    unsafe fn free(&self, address: u64) {
        self.stream.synchronize();
        self.memory.free(address);
    }

    unsafe fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.stream.synchronize();
        self.memory.write(address, bytes).map_err(|error| failed("write", error, None))
    }

    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.stream.synchronize();
        self.memory.read(address, bytes).map_err(|error| failed("read", error, None))
    }

    fn stream(&self) -> StreamHandle {
        StreamHandle::Emulated
    }

    #[cfg(feature = "case-file")]
    fn synchronize(&self) -> Result<(), Error> {
        self.stream.synchronize();
        Ok(())
    }

    #[cfg(feature = "case-file")]
    fn time(&self, calls: u32, enqueue: &mut dyn FnMut() -> Result<(), Error>) -> Result<Duration, Error> {
        let begin = Instant::now();
        (0..calls).try_for_each(|_| enqueue())?;
        Ok(begin.elapsed() / calls)
    }
}

/// The library's own module: decoding it takes long enough to be worth sharing.
fn committed_module() -> Result<Arc<Module>, Error> {
    static MODULE: OnceLock<Arc<Module>> = OnceLock::new();
    if let Some(module) = MODULE.get() {
        return Ok(Arc::clone(module));
    }
    let module = load(SM90A_PTX)?;
    Ok(Arc::clone(MODULE.get_or_init(|| module)))
}

/// Decodes a module that has every kernel.
fn load(ptx: &str) -> Result<Arc<Module>, Error> {
    let module = Module::load(ptx).map_err(|error| failed("Module::load", error, None))?;
    let lacks = |kernel: &Kernel| !module.entries().any(|name| name == kernel.contract.entry);
    match Kernel::all().find(lacks) {
        None => Ok(Arc::new(module)),
        Some(kernel) => Err(kernel.missing()),
    }
}

/// The error of a call into the emulator.
fn failed(call: &'static str, error: impl ToString, kernel: Option<&'static str>) -> Error {
    Error::Driver { call, code: error.to_string(), kernel }
}
