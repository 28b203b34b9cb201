//! [`ptx/fence.rs`](../../../kernels-gpu/src/ptx/fence.rs)

use ptx_emulator::diagnostic::Check;

use crate::copy::{box_at, fetch};
use crate::kernel::Kernel;
use crate::wgmma::{Element, Products};

/// Threads write the operands of a matrix multiplication, which the asynchronous proxy reads.
pub fn fence_proxy_async_shared(kernel: &Kernel) {
    let products = Products { columns: 64, element: Element::Bf16 };
    products.check(kernel);
    kernel.must_fail_without("fence.proxy.async.shared::cta", &products.work(), Check::MissingProxyFence);
}

/// A copy completes on an mbarrier that a thread initialised.
pub fn fence_mbarrier_init(kernel: &Kernel) {
    let coordinates = [64, 0, 0, 1];
    assert_eq!(kernel.run(&fetch(coordinates)), box_at(coordinates));
    kernel.must_fail_without("fence.mbarrier_init", &fetch(coordinates), Check::MissingProxyFence);
}
