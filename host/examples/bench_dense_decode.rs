//! Times dense decode on a GPU, in the two regimes that matter, and prints one JSON object a line.
//!
//! ```text
//! cargo run --release -p oximla --example bench_dense_decode -- dense-b128-h128-q1-k4096 …
//! ```
//!
//! Cases go by names that say what they are: requests, heads, query tokens, keys, and `-varlen`, `-causal`. *Sustained*:
//! a CUDA graph of ten calls, replayed back to back, so that the power limit sets the clock; the median over replays.
//! *Burst*: single calls with idle gaps; the median.

use cudarc::driver::sys::{self, CUresult};
use half::bf16;
use oximla::{
    DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Device, DeviceBuffer, KvFormat,
    Memory, Stream, TensorView, TensorViewMut, Workspace,
};
use std::error::Error;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PAGE_SIZE: usize = 64;
const HEAD_DIM: usize = 576;
const HEAD_DIM_V: usize = 512;

/// Calls in the graph of the sustained regime.
const GRAPH_CALLS: usize = 10;
/// How long that graph is replayed, before and while it is timed.
const WARM_UP: Duration = Duration::from_millis(100);
const SUSTAINED: Duration = Duration::from_millis(250);
/// Calls of the burst regime, and the idle time before each.
const BURST_CALLS: usize = 15;
const BURST_GAP: Duration = Duration::from_millis(4);

/// Different elements of queries and cache; larger tensors repeat them.
const DISTINCT: usize = 1 << 22;

/// The standard cases.
const CASES: [&str; 14] = [
    "dense-b128-h128-q1-k4096",
    "dense-b128-h128-q1-k8192",
    "dense-b128-h128-q1-k16384",
    "dense-b128-h128-q2-k4096",
    "dense-b128-h128-q2-k8192",
    "dense-b128-h128-q2-k16384",
    "dense-b128-h128-q2-k32768",
    "dense-b128-h128-q2-k8192-varlen-causal",
    "dense-b128-h64-q1-k8192",
    "dense-b128-h16-q1-k8192",
    "dense-b16-h128-q1-k8192",
    "dense-b4-h128-q1-k8192",
    "dense-b1-h128-q1-k65536",
    "dense-b1-h16-q1-k131072",
];

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let names = if names.is_empty() { CASES.map(String::from).to_vec() } else { names };
    let cases = names.iter().map(|name| Case::parse(name)).collect::<Result<Vec<Case>>>()?;
    let device = Device::cuda(0)?;
    let keys = cases.iter().map(|case| case.batch * case.max_keys()).max().unwrap_or(0);
    let queries = cases.iter().map(|case| case.batch * case.s_q * case.h_q).max().unwrap_or(0);
    let cache = random(&device, keys * HEAD_DIM)?;
    let q = random(&device, queries * HEAD_DIM)?;
    for case in &cases {
        let [sustained, burst] = time(case, &device, &cache, &q)?;
        println!(
            "{{\"name\": \"{}\", \"us\": {:.2}, \"tflops\": {:.1}, \"gbps\": {:.0}, \"burst_us\": {:.2}, \
             \"burst_tflops\": {:.1}}}",
            case.name,
            sustained,
            case.flop() / sustained * 1e-6,
            case.bytes() / sustained * 1e-3,
            burst,
            case.flop() / burst * 1e-6
        );
    }
    Ok(())
}

/// A problem by its name.
struct Case {
    name: String,
    batch: usize,
    h_q: usize,
    s_q: usize,
    keys: usize,
    varlen: bool,
    causal: bool,
}

impl Case {
    fn parse(name: &str) -> Result<Self> {
        let number = |letter: char| -> Result<usize> {
            let part = name.split('-').find_map(|part| part.strip_prefix(letter)?.parse().ok());
            part.ok_or_else(|| format!("{name}: no part {letter}<number>").into())
        };
        let has = |word| name.split('-').any(|part| part == word);
        Ok(Self {
            name: name.to_owned(),
            batch: number('b')?,
            h_q: number('h')?,
            s_q: number('q')?,
            keys: number('k')?,
            varlen: has("varlen"),
            causal: has("causal"),
        })
    }

    /// Length of each request.
    fn lengths(&self) -> Vec<i32> {
        let varied = |i: usize| (self.keys / 2 + i * 7919 % self.keys).max(1);
        (0..self.batch).map(|i| if self.varlen { varied(i) as i32 } else { self.keys as i32 }).collect()
    }

    fn max_keys(&self) -> usize {
        (*self.lengths().iter().max().unwrap_or(&0) as usize).next_multiple_of(PAGE_SIZE)
    }

    fn total_keys(&self) -> usize {
        self.lengths().iter().map(|&len| len as usize).sum()
    }

    fn problem(&self) -> DenseDecode {
        let max_pages = self.max_keys() / PAGE_SIZE;
        DenseDecode {
            batch: self.batch,
            s_q: self.s_q,
            h_q: self.h_q,
            h_kv: 1,
            head_dim: HEAD_DIM,
            head_dim_v: HEAD_DIM_V,
            page_size: PAGE_SIZE,
            num_pages: self.batch * max_pages,
            max_pages,
            softmax_scale: (HEAD_DIM as f32).sqrt().recip(),
            causal: self.causal,
        }
    }

    fn flop(&self) -> f64 {
        self.problem().flop(self.total_keys())
    }

    fn bytes(&self) -> f64 {
        self.problem().bytes(self.total_keys())
    }
}

/// Elements of spread 1, about normally distributed, repeated after [`DISTINCT`].
fn random(device: &Device, len: usize) -> Result<DeviceBuffer<bf16>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let block: Vec<bf16> = (0..DISTINCT)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Four uniform numbers of 16 bits: their sum has the variance 4/12.
            let sum: f32 = (0..4).map(|i| (state >> (16 * i) & 0xffff) as f32 / 65536.0 - 0.5).sum();
            bf16::from_f32(sum * 3_f32.sqrt())
        })
        .collect();
    let block = DeviceBuffer::from_slice(device, &block)?;
    let buffer = DeviceBuffer::uninit(device, len)?;
    for start in (0..len).step_by(DISTINCT) {
        let bytes = DISTINCT.min(len - start) * size_of::<bf16>();
        // SAFETY: both ranges lie within their buffers.
        check(unsafe { sys::cuMemcpyDtoD_v2(buffer.address() + start as u64 * 2, block.address(), bytes) })?;
    }
    Ok(buffer)
}

/// Microseconds of a call, sustained and in bursts.
fn time(
    case: &Case,
    device: &Device,
    cache: &DeviceBuffer<bf16>,
    q: &DeviceBuffer<bf16>,
) -> Result<[f64; 2]> {
    let problem = case.problem();
    let plan = DenseDecodePlan::new(&problem, KvFormat::Bf16, device)?;
    // Pages of a request lie scattered over the cache: a multiplication by a number without common factors.
    let pages = problem.num_pages;
    let stride = (pages * 5 / 8..).find(|&stride| is_coprime(stride, pages)).unwrap_or(1);
    let table: Vec<i32> = (0..pages).map(|i| (i * stride % pages) as i32).collect();
    let table = DeviceBuffer::from_slice(device, &table)?;
    let lengths = DeviceBuffer::from_slice(device, &case.lengths())?;
    let rows = case.batch * case.s_q * case.h_q;
    let mut out: DeviceBuffer<bf16> = DeviceBuffer::uninit(device, rows * HEAD_DIM_V)?;
    let mut lse: DeviceBuffer<f32> = DeviceBuffer::uninit(device, rows)?;
    let mut scratch: DeviceBuffer<f32> = DeviceBuffer::uninit(device, plan.workspace_bytes() / 4)?;

    let heads = [case.batch, case.s_q, case.h_q];
    // SAFETY: the shared buffers are at least as long as any case needs.
    let (q, kv_cache) = unsafe {
        (
            contiguous(q, [heads[0], heads[1], heads[2], HEAD_DIM]),
            contiguous(cache, [pages, PAGE_SIZE, 1, HEAD_DIM]),
        )
    };
    let inputs = DenseDecodeInputs {
        q,
        kv_cache,
        block_table: TensorView::from_buffer("block_table", &table, [case.batch, problem.max_pages])?,
        cache_seqlens: TensorView::from_buffer("cache_seqlens", &lengths, [case.batch])?,
    };
    let mut outputs = DenseDecodeOutputs {
        out: TensorViewMut::from_buffer("out", &mut out, [heads[0], heads[1], heads[2], HEAD_DIM_V])?,
        lse: TensorViewMut::from_buffer("lse", &mut lse, [heads[0], heads[2], heads[1]])?,
    };
    let timer = Timer::new()?;
    // SAFETY: the timer's stream lives as long as it.
    let stream = unsafe { Stream::from_cuda_handle(timer.stream.cast()) };
    let mut call = || plan.run(&stream, &inputs, &mut outputs, &mut Workspace::from_buffer(&mut scratch));
    let ten = timer.capture(|| (0..GRAPH_CALLS).try_for_each(|_| call()))?;
    let one = timer.capture(&mut call)?;

    let mut burst = Vec::new();
    timer.replay(one)?;
    for _ in 0..BURST_CALLS {
        std::thread::sleep(BURST_GAP);
        burst.push(timer.replay(one)?);
    }
    let begin = Instant::now();
    while begin.elapsed() < WARM_UP {
        timer.replay(ten)?;
    }
    let mut sustained = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < SUSTAINED {
        sustained.push(timer.replay(ten)? / GRAPH_CALLS as f64);
    }
    Ok([median(sustained), median(burst)])
}

/// A tensor over the beginning of a buffer.
///
/// # Safety
/// The buffer is long enough.
unsafe fn contiguous<'a>(buffer: &'a DeviceBuffer<bf16>, shape: [usize; 4]) -> TensorView<'a, bf16, 4> {
    let [_, b, c, d] = shape.map(|extent| extent as i64);
    // SAFETY: as the caller promises.
    unsafe { TensorView::from_raw(buffer.address(), shape, [b * c * d, c * d, d, 1], Memory::Device) }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn is_coprime(mut a: usize, mut b: usize) -> bool {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

/// A stream with two events. Lives to the end of the program, as do the graphs.
struct Timer {
    stream: sys::CUstream,
    begin: sys::CUevent,
    end: sys::CUevent,
}

impl Timer {
    fn new() -> Result<Self> {
        let mut timer = Self { stream: null_mut(), begin: null_mut(), end: null_mut() };
        // SAFETY: the primary context is current, and the pointers are to a local.
        unsafe {
            check(sys::cuStreamCreate(
                &mut timer.stream,
                sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32,
            ))?;
            check(sys::cuEventCreate(&mut timer.begin, 0))?;
            check(sys::cuEventCreate(&mut timer.end, 0))?;
        }
        Ok(timer)
    }

    /// A graph of what is enqueued.
    fn capture(
        &self,
        enqueue: impl FnOnce() -> std::result::Result<(), oximla::Error>,
    ) -> Result<sys::CUgraphExec> {
        let (mut graph, mut executable) = (null_mut(), null_mut());
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: stream and graph are live, and the pointers are to locals.
        unsafe {
            check(sys::cuStreamBeginCapture_v2(self.stream, mode))?;
            let enqueued = enqueue();
            check(sys::cuStreamEndCapture(self.stream, &mut graph))?;
            enqueued?;
            check(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0))?;
        }
        Ok(executable)
    }

    /// Microseconds that the graph takes.
    fn replay(&self, graph: sys::CUgraphExec) -> Result<f64> {
        let mut milliseconds = 0.0;
        // SAFETY: stream, events and graph are live, and the pointer is to a local.
        unsafe {
            check(sys::cuEventRecord(self.begin, self.stream))?;
            check(sys::cuGraphLaunch(graph, self.stream))?;
            check(sys::cuEventRecord(self.end, self.stream))?;
            check(sys::cuEventSynchronize(self.end))?;
            check(sys::cuEventElapsedTime_v2(&mut milliseconds, self.begin, self.end))?;
        }
        Ok(f64::from(milliseconds) * 1e3)
    }
}

fn check(result: CUresult) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(format!("{result:?}").into()) }
}
