//! Timing on the CPU, by the clock.

use std::thread;
use std::time::Instant;

use anyhow::Context;
use oximla::case_file::Case;
use oximla::{Device, DeviceInfo};

use super::ops::Shape;
use super::record::{Regime, median};
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

    fn load(&mut self, shape: &Shape) -> anyhow::Result<()> {
        // The old memory goes first: both may not fit.
        self.case = None;
        let case = shape.case()?;
        // What is wrong with it shows up here, and not when it is timed.
        case.prepare(&self.device)?;
        self.case = Some(case);
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
