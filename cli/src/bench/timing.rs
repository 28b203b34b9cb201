//! What is measured, wherever it runs.

use std::time::Duration;

use oximla::DeviceInfo;

use super::ops::Shape;
use super::record::{Regime, Round};

/// Calls in the graph that is replayed in the sustained regime.
pub const GRAPH_CALLS: usize = 10;
/// How long calls follow one another before that is timed, and while it is.
pub const WARM_UP: Duration = Duration::from_millis(100);
pub const SUSTAINED: Duration = Duration::from_millis(250);
/// Samples of the sustained regime, at least and at most.
pub const SUSTAINED_SAMPLES: [usize; 2] = [3, 500];
/// Calls of the burst regime, and the idle time before each.
pub const BURST_CALLS: usize = 10;
pub const BURST_GAP: Duration = Duration::from_millis(10);
/// Bytes of a GPU's memory that are written before each call of the burst regime. They push the inputs out of the L2
/// cache, as other layers of a model do, and take longer than the host's part of the launch, which then does not count.
pub const FLUSHED_BYTES: usize = 128 << 20;

/// A device that times one case after another.
pub trait Stopwatch {
    /// What it is.
    fn device(&self) -> &DeviceInfo;

    /// Brings a case's inputs into the device's memory, in place of those before.
    ///
    /// # Errors
    /// [`oximla::Error::Unsupported`] when the device cannot compute the case; others when it has not enough memory or a
    /// call fails.
    fn load(&mut self, shape: &Shape) -> anyhow::Result<()>;

    /// Median microseconds of a call of the case loaded last.
    ///
    /// # Errors
    /// When a call fails, or no case is loaded.
    fn time(&mut self, regime: Regime) -> anyhow::Result<f64>;

    /// Median microseconds of a copy of as many bytes as a call moves, half of them read and half written, where the case
    /// loaded last only moves bytes and the device knows a copy.
    ///
    /// # Errors
    /// As for [`Self::time`].
    fn time_copy(&mut self, _regime: Regime) -> anyhow::Result<Option<f64>> {
        Ok(None)
    }

    /// Both of them.
    ///
    /// # Errors
    /// As for [`Self::time`].
    fn round(&mut self, regime: Regime) -> anyhow::Result<Round> {
        Ok(Round { call: self.time(regime)?, copy: self.time_copy(regime)? })
    }
}

/// How often something that takes so many seconds fits into a time.
pub fn repetitions(time: Duration, seconds: f64) -> usize {
    (time.as_secs_f64() / seconds.max(f64::MIN_POSITIVE)) as usize
}
