//! CUDA graphs of one and of ten calls, and their time between events.

use std::sync::Arc;
use std::thread;

use anyhow::Context;
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaEvent, CudaGraph, CudaSlice, CudaStream};

use crate::bench::record::{Regime, median};
use crate::bench::timing::{
    BURST_CALLS, BURST_GAP, FLUSHED_BYTES, GRAPH_CALLS, SUSTAINED, SUSTAINED_SAMPLES, WARM_UP, repetitions,
};

/// Graphs of a call.
pub struct Graphs {
    stream: Arc<CudaStream>,
    one: CudaGraph,
    ten: CudaGraph,
}

impl Graphs {
    /// Captures what a call enqueues on the stream, after a first call.
    ///
    /// # Errors
    /// When a call fails or enqueues nothing.
    pub fn capture(
        stream: &Arc<CudaStream>,
        mut call: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        // What is wrong shows up outside of a capture, where it is easier to tell.
        call()?;
        stream.synchronize()?;
        Ok(Self {
            one: capture(stream, 1, &mut call)?,
            ten: capture(stream, GRAPH_CALLS, &mut call)?,
            stream: Arc::clone(stream),
        })
    }

    /// Median microseconds of a call.
    ///
    /// # Errors
    /// When a call fails.
    pub fn time(&self, regime: Regime) -> anyhow::Result<f64> {
        match regime {
            Regime::Sustained => self.sustained(),
            Regime::Burst => self.burst(),
        }
    }

    /// Median microseconds of a call among others.
    fn sustained(&self) -> anyhow::Result<f64> {
        let estimate = self.replay(&self.ten)?;
        let [least, most] = SUSTAINED_SAMPLES;
        for _ in 0..repetitions(WARM_UP, estimate).min(most) {
            self.ten.launch()?;
        }
        // All are enqueued before the first is looked at, so that the GPU never waits for the host.
        let mut marks = vec![self.mark()?];
        for _ in 0..repetitions(SUSTAINED, estimate).clamp(least, most) {
            self.ten.launch()?;
            marks.push(self.mark()?);
        }
        let between = |pair: &[CudaEvent]| Ok(f64::from(pair[0].elapsed_ms(&pair[1])?));
        let mut milliseconds = marks.windows(2).map(between).collect::<anyhow::Result<Vec<f64>>>()?;
        Ok(median(&mut milliseconds) * 1e3 / GRAPH_CALLS as f64)
    }

    /// Median microseconds of a call by itself.
    fn burst(&self) -> anyhow::Result<f64> {
        let mut flushed: CudaSlice<u8> = self.stream.alloc_zeros(FLUSHED_BYTES)?;
        let mut call = || {
            thread::sleep(BURST_GAP);
            self.stream.memset_zeros(&mut flushed)?;
            self.replay(&self.one)
        };
        let mut seconds = (0..BURST_CALLS).map(|_| call()).collect::<anyhow::Result<Vec<f64>>>()?;
        Ok(median(&mut seconds) * 1e6)
    }

    /// Seconds that a graph takes on its own.
    fn replay(&self, graph: &CudaGraph) -> anyhow::Result<f64> {
        let begin = self.mark()?;
        graph.launch()?;
        let end = self.mark()?;
        Ok(f64::from(begin.elapsed_ms(&end)?) * 1e-3)
    }

    /// An event, after all that is in the stream now.
    fn mark(&self) -> anyhow::Result<CudaEvent> {
        Ok(self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?)
    }
}

/// A graph of so many calls on the stream.
fn capture(
    stream: &Arc<CudaStream>,
    calls: usize,
    call: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<CudaGraph> {
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let enqueued = (0..calls).try_for_each(|_| call());
    // Ends in any case: the stream would be of no use otherwise.
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    enqueued?;
    graph?.context("a call enqueued nothing")
}
