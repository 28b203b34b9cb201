//! A kernel for [`ptx::fence`](crate::ptx::fence); that for `fence_mbarrier_init` is in [`copy`](super::copy).

use super::kernel;
use super::wgmma::multiply_64_bf16;

kernel!(wrapper_fence_proxy_async_shared, |thread, input, output| {
    multiply_64_bf16(thread, input, output)
});
