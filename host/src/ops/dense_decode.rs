//! Dense MLA decode over a paged bf16 or fp16 cache.

use super::validate;
use crate::device::Backend;
use crate::{
    Device, Error, Half, InvalidProblem, KvFormat, Memory, Stream, TensorView, TensorViewMut, Workspace,
};
use half::bf16;
use oximla_types::schedule::Determinism;

/// The shape of a dense decode step.
///
/// Every query head attends to all keys of its request; values are the first `head_dim_v` elements of each key. Query
/// head `h` reads key/value head `h / (h_q / h_kv)`.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseDecode {
    /// Requests in the batch.
    pub batch: usize,
    /// Query tokens per request.
    pub s_q: usize,
    /// Query heads; a multiple of `h_kv`.
    pub h_q: usize,
    /// Key/value heads.
    pub h_kv: usize,
    /// Elements of a query and of a key.
    pub head_dim: usize,
    /// Elements of a value and of an output row; values are the head of each key.
    pub head_dim_v: usize,
    /// Keys per page.
    pub page_size: usize,
    /// Pages in the cache.
    pub num_pages: usize,
    /// Entries in each request's row of the page table.
    pub max_pages: usize,
    /// Factor on `q·k` before the softmax.
    pub softmax_scale: f32,
    /// Whether query `i` of `s_q` sees only the first `len − s_q + i + 1` keys.
    pub causal: bool,
}

/// What a dense decode reads.
#[derive(Clone, Copy, Debug)]
pub struct DenseDecodeInputs<'a, T> {
    /// Queries `[batch, s_q, h_q, head_dim]`.
    pub q: TensorView<'a, T, 4>,
    /// Pages of keys `[num_pages, page_size, h_kv, head_dim]`.
    pub kv_cache: TensorView<'a, T, 4>,
    /// Page table `[batch, max_pages]`: entry `j` holds the page of keys `j·page_size ..`.
    pub block_table: TensorView<'a, i32, 2>,
    /// Keys of each request `[batch]`.
    pub cache_seqlens: TensorView<'a, i32, 1>,
}

/// What a dense decode writes.
#[derive(Debug)]
pub struct DenseDecodeOutputs<'a, T> {
    /// Attention output `[batch, s_q, h_q, head_dim_v]`; zero for a query that sees no key.
    pub out: TensorViewMut<'a, T, 4>,
    /// Natural logarithm of the softmax denominator `[batch, h_q, s_q]`; +∞ for a query that sees no key.
    pub lse: TensorViewMut<'a, f32, 3>,
}

/// How a [`DenseDecode`] runs on a device.
#[derive(Clone, Debug)]
pub struct DenseDecodePlan {
    problem: DenseDecode,
    format: KvFormat,
    determinism: Determinism,
    backend: BackendPlan,
}

/// What a [`DenseDecodePlan`] is made from: [`DenseDecodePlan::builder`] starts one.
#[derive(Clone, Debug)]
pub struct DenseDecodePlanBuilder {
    problem: DenseDecode,
    format: KvFormat,
    determinism: Determinism,
}

/// How the requests of one step are divided, computed once by [`DenseDecodePlan::schedule`] for the decodes of all layers.
#[derive(Debug)]
pub struct DenseDecodeSchedule<'a> {
    memory: Workspace<'a>,
    key: ScheduleKey,
}

/// Plans of which one's schedule serves the other have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ScheduleKey {
    batch: usize,
    max_pages: usize,
    determinism: Determinism,
    /// 0 on the CPU.
    partitions: u32,
}

#[derive(Clone, Debug)]
enum BackendPlan {
    #[cfg(feature = "cpu")]
    Cpu(crate::cpu::dense_decode::DensePlan),
    #[cfg(feature = "_gpu")]
    Gpu(crate::gpu::dense_decode::DensePlan),
}

impl DenseDecode {
    /// Checks the shape in itself.
    ///
    /// # Errors
    /// [`InvalidProblem`] naming the first field that is wrong.
    pub fn validate(&self) -> Result<(), InvalidProblem> {
        validate::dimensions(&[
            ("batch", self.batch),
            ("s_q", self.s_q),
            ("h_q", self.h_q),
            ("h_kv", self.h_kv),
            ("page_size", self.page_size),
            ("num_pages", self.num_pages),
            ("max_pages", self.max_pages),
        ])?;
        let divides = self.h_q.is_multiple_of(self.h_kv);
        validate::require(divides, "h_q", self.h_q, format!("a multiple of h_kv = {}", self.h_kv))?;
        validate::one_of("head_dim", self.head_dim, &[512, 576])?;
        validate::one_of("head_dim_v", self.head_dim_v, &[512])?;
        validate::softmax_scale(self.softmax_scale)?;
        validate::extent("q", &self.q_shape(), size_of::<bf16>())?;
        validate::extent("kv_cache", &self.kv_shape(), size_of::<bf16>())?;
        validate::extent("block_table", &self.table_shape(), size_of::<i32>())?;
        let keys = self.max_pages.checked_mul(self.page_size);
        let found = format!("{} · {}", self.max_pages, self.page_size);
        let countable = keys.is_some_and(|keys| i32::try_from(keys).is_ok());
        validate::require(countable, "max_pages · page_size", found, "a length that i32 holds")
    }

    /// Floating-point operations for `total_keys` keys over the batch, masked ones included.
    pub fn flop(&self, total_keys: usize) -> f64 {
        2.0 * (self.s_q * self.h_q) as f64 * total_keys as f64 * (self.head_dim + self.head_dim_v) as f64
    }

    /// Bytes that must move: each key once, queries and outputs once.
    pub fn bytes(&self, total_keys: usize) -> f64 {
        let keys = total_keys as f64 * (self.h_kv * self.head_dim) as f64;
        let rows = (self.batch * self.s_q * self.h_q) as f64 * (self.head_dim + self.head_dim_v) as f64;
        (keys + rows) * 2.0
    }

    fn q_shape(&self) -> [usize; 4] {
        [self.batch, self.s_q, self.h_q, self.head_dim]
    }

    fn kv_shape(&self) -> [usize; 4] {
        [self.num_pages, self.page_size, self.h_kv, self.head_dim]
    }

    fn table_shape(&self) -> [usize; 2] {
        [self.batch, self.max_pages]
    }

    fn out_shape(&self) -> [usize; 4] {
        [self.batch, self.s_q, self.h_q, self.head_dim_v]
    }
}

impl DenseDecodePlanBuilder {
    /// What the bits of a request's result may depend on; [`Determinism::RunToRun`] unless set.
    ///
    /// [`Determinism::BatchInvariant`] promises the same bits of `out` and `lse` whatever else is in the batch, wherever
    /// in it the request is, and whatever `batch`, `num_pages` and `max_pages` are, as long as the request's length,
    /// queries and keys and the other fields of the problem are the same. It costs some time where few short requests
    /// leave a GPU partly idle, and memory: see [`DenseDecodePlan::workspace_bytes`].
    pub fn determinism(mut self, determinism: Determinism) -> Self {
        self.determinism = determinism;
        self
    }

    /// Plans the problem for a device.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] where the problem contradicts itself, [`Error::Unsupported`] where the device has no
    /// kernel for it.
    pub fn build(self, device: &Device) -> Result<DenseDecodePlan, Error> {
        let Self { problem, format, determinism } = self;
        problem.validate()?;
        let dense = matches!(format, KvFormat::Bf16 | KvFormat::Fp16);
        validate::require(dense, "kv_format", format.name(), "bf16 or fp16")?;
        let backend = match &device.0 {
            // How the CPU divides a request follows from its length anyway.
            #[cfg(feature = "cpu")]
            Backend::Cpu => BackendPlan::Cpu(crate::cpu::dense_decode::DensePlan::new(&problem)),
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => BackendPlan::Gpu(crate::gpu::dense_decode::DensePlan::new(
                &problem,
                format,
                determinism,
                device,
            )?),
        };
        Ok(DenseDecodePlan { problem, format, determinism, backend })
    }
}

impl DenseDecodePlan {
    /// Plans the problem for a device; `format` is the element type of queries, cache and output.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] where the problem contradicts itself, [`Error::Unsupported`] where the device has no
    /// kernel for it.
    pub fn new(problem: &DenseDecode, format: KvFormat, device: &Device) -> Result<Self, Error> {
        Self::builder(problem, format).build(device)
    }

    /// Starts a plan with options. `format` is the element type of queries, cache and output.
    ///
    /// ```
    /// use oximla::{DenseDecode, DenseDecodePlan, Determinism, Device, KvFormat};
    ///
    /// # fn plan(problem: &DenseDecode, device: &Device) -> Result<DenseDecodePlan, oximla::Error> {
    /// DenseDecodePlan::builder(problem, KvFormat::Bf16).determinism(Determinism::BatchInvariant).build(device)
    /// # }
    /// ```
    pub fn builder(problem: &DenseDecode, format: KvFormat) -> DenseDecodePlanBuilder {
        DenseDecodePlanBuilder { problem: problem.clone(), format, determinism: Determinism::default() }
    }

    /// The problem.
    pub fn problem(&self) -> &DenseDecode {
        &self.problem
    }

    /// What the bits of a result may depend on.
    pub fn determinism(&self) -> Determinism {
        self.determinism
    }

    /// Workspace a run needs, in bytes, aligned to 16.
    ///
    /// On a GPU it holds the partial results of split requests, of `s_q · h_q` rows of 1 KiB and 16 bytes each: one for each request
    /// and multiprocessor at most; for a batch-invariant plan as many for each request as it may have chunks, one for
    /// every 1024 of `max_pages · page_size` keys, up to 64.
    ///
    /// Partial results are rounded to fp16, relative to a power of two for each half of a row: by 2⁻¹² of an element, an eighth of
    /// what rounding `out` to bf16 may change, and as much as rounding it to fp16 may.
    pub fn workspace_bytes(&self) -> usize {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(plan) => plan.workspace_bytes(),
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => plan.workspace_bytes(),
        }
    }

    /// What computes the problem.
    pub fn kernel(&self) -> &'static str {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(_) => "dense_decode_cpu",
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => plan.kernel(),
        }
    }

    /// Memory that [`Self::schedule`] needs, in bytes, aligned to 16; 0 on the CPU.
    pub fn schedule_bytes(&self) -> usize {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(_) => 0,
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => plan.schedule_bytes(),
        }
    }

    /// Divides the requests of a step by their lengths, once for the decodes of all layers: [`Self::run_scheduled`] then
    /// need not do it each time. On a GPU this enqueues two small kernels, which may be captured in a CUDA graph, and
    /// writes `memory`; on the CPU there is nothing to do, and [`Workspace::none`] will do for memory.
    ///
    /// A schedule serves every plan that differs in nothing but heads, query tokens that take as many tiles, scale and
    /// mask.
    ///
    /// # Errors
    /// As of [`Self::run`].
    pub fn schedule<'a>(
        &self,
        stream: &Stream,
        cache_seqlens: &TensorView<'_, i32, 1>,
        memory: Workspace<'a>,
    ) -> Result<DenseDecodeSchedule<'a>, Error> {
        let check = |place| validate::input("cache_seqlens", cache_seqlens, [self.problem.batch], place);
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(_) => {
                stream.0.check_host()?;
                check(Memory::Host)?;
            }
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => {
                plan.check_stream(stream)?;
                check(Memory::Device)?;
                memory.check_memory(Memory::Device)?;
                plan.schedule(stream, cache_seqlens, &memory)?;
            }
        }
        Ok(DenseDecodeSchedule { memory, key: self.schedule_key() })
    }

    /// Computes the attention. On a GPU this enqueues at most two kernels and returns: nothing is allocated, nothing
    /// waits, and the call can be captured in a CUDA graph. On the CPU and on an emulated GPU the result is there on
    /// return.
    ///
    /// The CPU refuses lengths and page-table entries that point outside the cache; a GPU, whose memory cannot be
    /// looked at beforehand, clamps lengths to the page table and takes keys on pages outside the cache for absent.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] naming the argument, before anything is launched or written;
    /// [`Error::Driver`] where the launch fails; [`Error::Emulated`](Error) where an emulated kernel does something
    /// wrong.
    pub fn run<T: Half>(
        &self,
        stream: &Stream,
        inputs: &DenseDecodeInputs<'_, T>,
        outputs: &mut DenseDecodeOutputs<'_, T>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        self.run_at(stream, None, inputs, outputs, workspace)
    }

    /// As [`Self::run`], with the division of the requests computed before: the same bits, a little sooner.
    ///
    /// `cache_seqlens` is to hold the lengths that the schedule was computed of. On a GPU it is those that count, whatever it holds
    /// by now.
    ///
    /// As any run, it may begin while a launch before it ends; with a schedule it knows what to do by then. A run on another stream
    /// is to wait for the schedule there, by an event.
    ///
    /// # Errors
    /// As of [`Self::run`]; also for the schedule of a plan that divides requests otherwise.
    pub fn run_scheduled<T: Half>(
        &self,
        stream: &Stream,
        schedule: &DenseDecodeSchedule<'_>,
        inputs: &DenseDecodeInputs<'_, T>,
        outputs: &mut DenseDecodeOutputs<'_, T>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        let (found, needed) = (format!("for {:?}", schedule.key), format!("for {:?}", self.schedule_key()));
        validate::require(schedule.key == self.schedule_key(), "schedule", found, needed)?;
        self.run_at(stream, Some(schedule.memory.address), inputs, outputs, workspace)
    }

    /// `schedule` is the address of one.
    #[cfg_attr(not(feature = "_gpu"), allow(unused_variables))]
    fn run_at<T: Half>(
        &self,
        stream: &Stream,
        schedule: Option<u64>,
        inputs: &DenseDecodeInputs<'_, T>,
        outputs: &mut DenseDecodeOutputs<'_, T>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        validate::require(T::FORMAT == self.format, "q", T::NAME, self.format.name())?;
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(plan) => {
                stream.0.check_host()?;
                self.check(inputs, outputs, Memory::Host)?;
                self.check_contents(inputs)?;
                plan.run(inputs, outputs, workspace)
            }
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => {
                plan.check_stream(stream)?;
                self.check(inputs, outputs, Memory::Device)?;
                workspace.check_memory(Memory::Device)?;
                plan.run(stream, schedule, inputs, outputs, workspace)
            }
        }
    }

    fn schedule_key(&self) -> ScheduleKey {
        let partitions = match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu(_) => 0,
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => plan.partitions(),
        };
        let DenseDecode { batch, max_pages, .. } = self.problem;
        ScheduleKey { batch, max_pages, determinism: self.determinism, partitions }
    }

    fn check<T: Half>(
        &self,
        inputs: &DenseDecodeInputs<'_, T>,
        outputs: &DenseDecodeOutputs<'_, T>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let problem = &self.problem;
        validate::input("q", &inputs.q, problem.q_shape(), memory)?;
        validate::input("kv_cache", &inputs.kv_cache, problem.kv_shape(), memory)?;
        validate::input("block_table", &inputs.block_table, problem.table_shape(), memory)?;
        validate::input("cache_seqlens", &inputs.cache_seqlens, [problem.batch], memory)?;
        validate::output("out", &outputs.out, problem.out_shape(), memory)?;
        validate::output("lse", &outputs.lse, [problem.batch, problem.h_q, problem.s_q], memory)
    }

    /// Lengths and the page-table entries that they bring into use; what lies behind may hold anything.
    #[cfg(feature = "cpu")]
    fn check_contents<T>(&self, inputs: &DenseDecodeInputs<'_, T>) -> Result<(), InvalidProblem> {
        let problem = &self.problem;
        validate::lengths("cache_seqlens", &inputs.cache_seqlens, problem.max_pages * problem.page_size)?;
        for request in 0..problem.batch {
            let len = inputs.cache_seqlens.get([request]) as usize;
            let used = &inputs.block_table.row(&[request])[..len.div_ceil(problem.page_size)];
            let names_a_page =
                |&page| usize::try_from(page).is_ok_and(|page: usize| page < problem.num_pages);
            if let Some(entry) = used.iter().position(|page| !names_a_page(page)) {
                let argument = format!("block_table[{request}][{entry}]");
                return Err(InvalidProblem::new(
                    argument,
                    used[entry],
                    format!("a page in 0..{}", problem.num_pages),
                ));
            }
        }
        Ok(())
    }
}
