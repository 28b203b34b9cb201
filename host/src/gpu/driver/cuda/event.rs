//! Events: points in a stream whose times can be told apart.

use super::result::check;
use crate::Error;
use cudarc::driver::sys;

/// A CUDA event of the current context, destroyed with this.
pub(super) struct Event(sys::CUevent);

impl Event {
    pub(super) fn new() -> Result<Self, Error> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, 0) })?;
        Ok(Self(event))
    }

    pub(super) fn record(&self, stream: sys::CUstream) -> Result<(), Error> {
        // SAFETY: event and stream are live.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.0, stream) })
    }

    /// Milliseconds since `begin`; waits for both.
    pub(super) fn since(&self, begin: &Self) -> Result<f32, Error> {
        let mut milliseconds = 0.0;
        // SAFETY: both events are live; the pointer is to a local.
        unsafe {
            check("cuEventSynchronize", sys::cuEventSynchronize(self.0))?;
            check("cuEventElapsedTime", sys::cuEventElapsedTime_v2(&mut milliseconds, begin.0, self.0))?;
        }
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is live and this is its only owner.
        unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}
