//! Launch contracts of the kernels that test the wrappers of PTX instructions, one for each.

use super::TENSOR_MAP_ALIGN;
use crate::launch::{LaunchContract, WARP_THREADS, WARPGROUP_THREADS};

/// Dynamic shared memory of a CTA: two operands of `wgmma`, the larger one 64 by 256 elements of 16 bits.
pub const SHARED_BYTES: u32 = (64 + 256) * 64 * 2;

/// Lists of entries, each behind the threads of a CTA and the alignment of the parameters.
macro_rules! contracts {
    ($($threads:expr, $param_align:expr => [$($entry:literal)*])*) => {
        [$($(contract($entry, $threads, $param_align)),*),*]
    };
}

/// Every entry of the module.
pub const WRAPPER_CONTRACTS: &[LaunchContract] = &contracts! {
    WARP_THREADS, 8 => [
        "wrapper_cp_async_16" "wrapper_cp_async_wait_all"
        "wrapper_ex2" "wrapper_lg2" "wrapper_rcp" "wrapper_fma" "wrapper_max" "wrapper_cvt_bf16x2" "wrapper_cvt_f16x2"
        "wrapper_cvt_f32_f16"
        "wrapper_stmatrix_x4"
        "wrapper_ld_global_i32" "wrapper_ld_global_u32" "wrapper_ld_global_f32" "wrapper_ld_global_f32x4"
        "wrapper_st_global_u32" "wrapper_st_global_f32" "wrapper_st_global_f32x2" "wrapper_st_global_u32x2"
        "wrapper_ld_shared_f32" "wrapper_st_shared_f32" "wrapper_st_shared_zero_x4"
        "wrapper_dynamic_shared" "wrapper_trap"
        "wrapper_griddepcontrol_wait" "wrapper_griddepcontrol_launch_dependents"
        "wrapper_shfl_bfly" "wrapper_shfl_up" "wrapper_shfl_idx" "wrapper_ballot"
    ]
    2 * WARP_THREADS, 8 => [
        "wrapper_mbarrier_init" "wrapper_mbarrier_arrive" "wrapper_mbarrier_try_wait_parity"
        "wrapper_thread_x" "wrapper_cta_x" "wrapper_cta_y"
    ]
    WARP_THREADS, TENSOR_MAP_ALIGN => [
        "wrapper_cp_async_bulk_tensor_4d" "wrapper_mbarrier_arrive_expect_tx" "wrapper_fence_mbarrier_init"
        "wrapper_parameter_address"
    ]
    WARPGROUP_THREADS, 8 => [
        "wrapper_barrier_cta_sync" "wrapper_fence_proxy_async_shared"
        "wrapper_wgmma_fence" "wrapper_wgmma_fence_32" "wrapper_wgmma_commit_group" "wrapper_wgmma_wait_all_32" "wrapper_wgmma_wait_all_128"
        "wrapper_wgmma_m64n64k16_bf16" "wrapper_wgmma_m64n64k16_f16"
        "wrapper_wgmma_m64n64k16_bf16_ra" "wrapper_wgmma_m64n64k16_f16_ra"
        "wrapper_wgmma_m64n256k16_bf16_bt" "wrapper_wgmma_m64n256k16_f16_bt"
    ]
    3 * WARPGROUP_THREADS, 8 => [
        "wrapper_setmaxnreg_inc" "wrapper_setmaxnreg_dec"
    ]
};

const fn contract(entry: &'static str, threads: u32, param_align: u32) -> LaunchContract {
    LaunchContract { entry, threads, min_ctas_per_sm: 1, cluster: 1, shared_bytes: SHARED_BYTES, param_align }
        .checked()
}
