//! Driver results as errors.

use crate::Error;
use cudarc::driver::sys;
use std::ffi::CStr;

/// An error unless `result` is success.
pub(super) fn check(call: &'static str, result: sys::CUresult) -> Result<(), Error> {
    check_for(call, None, result)
}

/// As [`check`], for a call that concerns `kernel`.
pub(super) fn check_for(
    call: &'static str,
    kernel: Option<&'static str>,
    result: sys::CUresult,
) -> Result<(), Error> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the pointer is to a local; the driver's strings are static and end in 0.
    let description = unsafe {
        sys::cuGetErrorString(result, &mut text);
        if text.is_null() { "unknown error".into() } else { CStr::from_ptr(text).to_string_lossy() }
    };
    Err(Error::Driver { call, code: format!("{result:?}, {description}"), kernel })
}
