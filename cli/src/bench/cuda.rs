//! Timing on a GPU: CUDA graphs between events.

use std::sync::Arc;
use std::thread;

use anyhow::Context;
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaSlice, CudaStream};
use half::bf16;
use oximla::{
    DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Device, DeviceBuffer, DeviceInfo, KvFormat,
    Stream, TensorView, TensorViewMut, Workspace,
};

use super::inputs;
use super::record::{Regime, median};
use super::standard::DenseShape;
use super::timing::{
    BURST_CALLS, BURST_GAP, FLUSHED_BYTES, GRAPH_CALLS, SUSTAINED, SUSTAINED_SAMPLES, Stopwatch, WARM_UP,
    repetitions,
};

/// Different elements of queries and caches, which repeat them: 16 MiB, drawn in a moment, and too many for repetitions
/// to change the power that products take.
const DISTINCT: usize = 1 << 23;

/// The first GPU.
pub struct Gpu {
    device: Device,
    info: DeviceInfo,
    stream: Arc<CudaStream>,
    /// Graphs use the memory of the fields below, and go first.
    graphs: Option<Graphs>,
    case: Option<CaseBuffers>,
    distinct: CudaSlice<bf16>,
    /// As long as the largest case so far needs them.
    q: CudaSlice<bf16>,
    kv_cache: CudaSlice<bf16>,
}

struct Graphs {
    one: CudaGraph,
    ten: CudaGraph,
}

/// What is of one case alone. Held for the graphs.
struct CaseBuffers {
    _block_table: DeviceBuffer<i32>,
    _cache_seqlens: DeviceBuffer<i32>,
    _out: DeviceBuffer<bf16>,
    _lse: DeviceBuffer<f32>,
    _workspace: DeviceBuffer<u8>,
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
        Ok(Self {
            info: device.info()?,
            device,
            graphs: None,
            case: None,
            distinct: stream.clone_htod(&inputs::normal(DISTINCT))?,
            q: stream.alloc_zeros(1)?,
            kv_cache: stream.alloc_zeros(1)?,
            stream,
        })
    }

    fn sustained(&self, ten: &CudaGraph) -> anyhow::Result<f64> {
        let estimate = replay(ten, &self.stream)?;
        let [least, most] = SUSTAINED_SAMPLES;
        for _ in 0..repetitions(WARM_UP, estimate).min(most) {
            ten.launch()?;
        }
        // All are enqueued before the first is looked at, so that the GPU never waits for the host.
        let mut marks = vec![mark(&self.stream)?];
        for _ in 0..repetitions(SUSTAINED, estimate).clamp(least, most) {
            ten.launch()?;
            marks.push(mark(&self.stream)?);
        }
        let between = |pair: &[CudaEvent]| Ok(f64::from(pair[0].elapsed_ms(&pair[1])?));
        let mut milliseconds = marks.windows(2).map(between).collect::<anyhow::Result<Vec<f64>>>()?;
        Ok(median(&mut milliseconds) * 1e3 / GRAPH_CALLS as f64)
    }

    fn burst(&self, one: &CudaGraph) -> anyhow::Result<f64> {
        let mut flushed: CudaSlice<u8> = self.stream.alloc_zeros(FLUSHED_BYTES)?;
        let mut call = || {
            thread::sleep(BURST_GAP);
            self.stream.memset_zeros(&mut flushed)?;
            replay(one, &self.stream)
        };
        let mut seconds = (0..BURST_CALLS).map(|_| call()).collect::<anyhow::Result<Vec<f64>>>()?;
        Ok(median(&mut seconds) * 1e6)
    }
}

impl Stopwatch for Gpu {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn load(&mut self, shape: &DenseShape) -> anyhow::Result<()> {
        self.graphs = None;
        self.case = None;
        let problem = shape.problem();
        let plan = DenseDecodePlan::new(&problem, KvFormat::Bf16, &self.device)?;
        let q_shape = [problem.batch, problem.s_q, problem.h_q, problem.head_dim];
        let kv_shape = [problem.num_pages, problem.page_size, problem.h_kv, problem.head_dim];
        let out_shape = [problem.batch, problem.s_q, problem.h_q, problem.head_dim_v];
        let lse_shape = [problem.batch, problem.h_q, problem.s_q];
        let (q_len, kv_len) = (q_shape.iter().product(), kv_shape.iter().product());
        grow(&mut self.q, q_len, &self.distinct, &self.stream)?;
        grow(&mut self.kv_cache, kv_len, &self.distinct, &self.stream)?;

        let device = &self.device;
        let block_table = DeviceBuffer::from_slice(device, &inputs::block_table(problem.num_pages))?;
        let cache_seqlens = DeviceBuffer::from_slice(device, &inputs::cache_seqlens(&shape.lengths()))?;
        let mut out = DeviceBuffer::uninit(device, out_shape.iter().product())?;
        let mut lse = DeviceBuffer::uninit(device, lse_shape.iter().product())?;
        let mut workspace = DeviceBuffer::uninit(device, plan.workspace_bytes())?;

        let (q, kv_cache) = (self.q.slice(..q_len), self.kv_cache.slice(..kv_len));
        let stream = Stream::from(&*self.stream);
        let inputs = DenseDecodeInputs {
            q: TensorView::from_cudarc("q", &q, q_shape, &self.stream)?,
            kv_cache: TensorView::from_cudarc("kv_cache", &kv_cache, kv_shape, &self.stream)?,
            block_table: TensorView::from_buffer(
                "block_table",
                &block_table,
                [problem.batch, problem.max_pages],
            )?,
            cache_seqlens: TensorView::from_buffer("cache_seqlens", &cache_seqlens, [problem.batch])?,
        };
        let mut outputs = DenseDecodeOutputs {
            out: TensorViewMut::from_buffer("out", &mut out, out_shape)?,
            lse: TensorViewMut::from_buffer("lse", &mut lse, lse_shape)?,
        };
        let mut call =
            || plan.run(&stream, &inputs, &mut outputs, &mut Workspace::from_buffer(&mut workspace));
        // What is wrong shows up outside of a capture, where it is easier to tell.
        call()?;
        self.stream.synchronize()?;
        self.graphs = Some(Graphs {
            one: capture(&self.stream, 1, &mut call)?,
            ten: capture(&self.stream, GRAPH_CALLS, &mut call)?,
        });
        self.case = Some(CaseBuffers {
            _block_table: block_table,
            _cache_seqlens: cache_seqlens,
            _out: out,
            _lse: lse,
            _workspace: workspace,
        });
        Ok(())
    }

    fn time(&mut self, regime: Regime) -> anyhow::Result<f64> {
        let graphs = self.graphs.as_ref().context("no case is loaded")?;
        match regime {
            Regime::Sustained => self.sustained(&graphs.ten),
            Regime::Burst => self.burst(&graphs.one),
        }
    }
}

/// A graph of so many calls on the stream.
fn capture(
    stream: &Arc<CudaStream>,
    calls: usize,
    call: &mut dyn FnMut() -> Result<(), oximla::Error>,
) -> anyhow::Result<CudaGraph> {
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let enqueued = (0..calls).try_for_each(|_| call());
    // Ends in any case: the stream would be of no use otherwise.
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    enqueued?;
    graph?.context("a call enqueued nothing")
}

/// An event, after all that is in the stream now.
fn mark(stream: &CudaStream) -> anyhow::Result<CudaEvent> {
    Ok(stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?)
}

/// Seconds that a graph takes on its own.
fn replay(graph: &CudaGraph, stream: &CudaStream) -> anyhow::Result<f64> {
    let begin = mark(stream)?;
    graph.launch()?;
    let end = mark(stream)?;
    Ok(f64::from(begin.elapsed_ms(&end)?) * 1e-3)
}

/// Makes a buffer at least `len` elements long, filled with repetitions of `distinct`.
fn grow(
    buffer: &mut CudaSlice<bf16>,
    len: usize,
    distinct: &CudaSlice<bf16>,
    stream: &Arc<CudaStream>,
) -> anyhow::Result<()> {
    if buffer.len() >= len {
        return Ok(());
    }
    // The old memory goes first: both may not fit. There is no memory for no element.
    *buffer = stream.alloc_zeros(1)?;
    *buffer = stream.alloc_zeros(len)?;
    for start in (0..len).step_by(distinct.len()) {
        let count = distinct.len().min(len - start);
        stream.memcpy_dtod(&distinct.slice(..count), &mut buffer.slice_mut(start..start + count))?;
    }
    Ok(())
}
