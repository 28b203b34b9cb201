//! Timing on the CPU, by the clock.

use std::thread;
use std::time::Instant;

use anyhow::Context;
use oximla::case_file::{Case, DenseDecodeCase, HalfVec};
use oximla::{Device, DeviceInfo};

use super::inputs;
use super::record::{Regime, median};
use super::standard::DenseShape;
use super::timing::{BURST_CALLS, BURST_GAP, SUSTAINED, SUSTAINED_SAMPLES, Stopwatch, WARM_UP, repetitions};

/// A call that takes longer, in seconds, is a sample of its own: caches and clocks have long settled.
const LONG_CALL: f64 = 1.0;

/// The CPU, all its threads.
pub struct Cpu {
    device: Device,
    info: DeviceInfo,
    case: Option<Case>,
}

impl Cpu {
    /// The CPU.
    ///
    /// # Errors
    /// When it does not say what it is.
    pub fn new() -> anyhow::Result<Self> {
        let device = Device::cpu();
        Ok(Self { info: device.info()?, device, case: None })
    }
}

impl Stopwatch for Cpu {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn load(&mut self, shape: &DenseShape) -> anyhow::Result<()> {
        // The old memory goes first: both may not fit.
        self.case = None;
        let problem = shape.problem();
        problem.validate()?;
        let queries = problem.batch * problem.s_q * problem.h_q;
        let keys = problem.num_pages * problem.page_size * problem.h_kv;
        self.case = Some(Case::DenseDecode(DenseDecodeCase {
            q: HalfVec::Bf16(inputs::normal(queries * problem.head_dim)),
            kv_cache: HalfVec::Bf16(inputs::normal(keys * problem.head_dim)),
            block_table: inputs::block_table(problem.num_pages),
            cache_seqlens: inputs::cache_seqlens(&shape.lengths()),
            problem,
            expected: None,
        }));
        Ok(())
    }

    fn time(&mut self, regime: Regime) -> anyhow::Result<f64> {
        let case = self.case.as_ref().context("no case is loaded")?;
        let mut prepared = case.prepare(&self.device)?;
        let mut call = || prepared.time(1).map(|duration| duration.as_secs_f64());
        let first = call()?;
        if first > LONG_CALL {
            return Ok(first * 1e6);
        }
        let mut seconds = match regime {
            Regime::Sustained => {
                let warm = Instant::now();
                while warm.elapsed() < WARM_UP {
                    call()?;
                }
                let [least, most] = SUSTAINED_SAMPLES;
                let samples = repetitions(SUSTAINED, first).clamp(least, most);
                (0..samples).map(|_| call()).collect::<Result<Vec<f64>, _>>()?
            }
            Regime::Burst => {
                let mut after_gap = || {
                    thread::sleep(BURST_GAP);
                    call()
                };
                (0..BURST_CALLS).map(|_| after_gap()).collect::<Result<Vec<f64>, _>>()?
            }
        };
        Ok(median(&mut seconds) * 1e6)
    }
}
