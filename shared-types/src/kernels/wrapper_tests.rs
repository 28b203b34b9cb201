//! Launch contracts of the kernels that test the wrappers of PTX instructions, one for each, and pieces of attention.

use super::TENSOR_MAP_ALIGN;
use crate::launch::{LaunchContract, WARP_THREADS, WARPGROUP_THREADS};

/// Dynamic shared memory of a CTA: two operands of `wgmma`, the larger one 64 by 128 elements of 16 bits.
pub const SHARED_BYTES: u32 = (64 + 128) * 64 * 2;

/// A CTA of one warp; the others differ from that.
const WARP: LaunchContract = LaunchContract {
    entry: "",
    threads: WARP_THREADS,
    min_ctas_per_sm: 1,
    cluster: 1,
    shared_bytes: SHARED_BYTES,
    param_align: 8,
};

const TWO_WARPS: LaunchContract = LaunchContract { threads: 2 * WARP_THREADS, ..WARP };
const WARPGROUP: LaunchContract = LaunchContract { threads: WARPGROUP_THREADS, ..WARP };
const THREE_WARPGROUPS: LaunchContract = LaunchContract { threads: 3 * WARPGROUP_THREADS, ..WARP };
const FETCH: LaunchContract = LaunchContract { param_align: TENSOR_MAP_ALIGN, ..WARP };
const CLUSTER: LaunchContract = LaunchContract { cluster: 2, ..WARP };
const FETCH_IN_CLUSTER: LaunchContract = LaunchContract { cluster: 2, ..FETCH };

/// Lists of entries, each behind what their contracts have in common.
macro_rules! contracts {
    ($($contract:ident => [$($entry:literal)*])*) => {
        [$($(LaunchContract { entry: $entry, ..$contract }.checked()),*),*]
    };
}

/// Every entry of the module.
pub const WRAPPER_CONTRACTS: &[LaunchContract] = &contracts! {
    WARP => [
        "wrapper_ex2" "wrapper_lg2" "wrapper_rcp" "wrapper_fma" "wrapper_max" "wrapper_cvt_bf16x2" "wrapper_cvt_f16x2"
        "wrapper_cvt_f32_f16" "wrapper_mul_bf16x2" "wrapper_mul_f16x2" "wrapper_prmt" "wrapper_prmt_by" "wrapper_shr" "wrapper_cvt_e4m3x2" "wrapper_cvt_f16x2_e4m3x2"
        "dequantise_f32" "dequantise_ue8m0"
        "wrapper_cp_async_4" "wrapper_cp_async_8" "wrapper_cp_async_16" "wrapper_cp_async_16_prefetch_256"
        "wrapper_cp_async_commit_group" "wrapper_cp_async_wait_group" "wrapper_cp_async_mbarrier_arrive" "wrapper_cp_async_bulk_8" "wrapper_prefetch_l2"
        "wrapper_stmatrix_x4" "wrapper_ldmatrix_x4" "wrapper_mma_m16n8k16_f16" "wrapper_mma_m16n8k16_bf16"
        "wrapper_ld_global_i32" "wrapper_ld_global_u32" "wrapper_ld_global_f32" "wrapper_ld_global_f32x4"
        "wrapper_ld_global_u32x4" "wrapper_ld_global_i64" "wrapper_ld_global_u32x2" "wrapper_st_global_u32x4" "wrapper_st_global_u32x4_if" "wrapper_ld_shared_u8" "wrapper_ld_shared_u16" "wrapper_ld_shared_u64"
        "wrapper_ld_shared_u32x2" "wrapper_st_shared_u16" "wrapper_st_shared_u64"
        "wrapper_st_global_u32" "wrapper_st_global_f32" "wrapper_st_global_f32x2" "wrapper_st_global_u32x2"
        "wrapper_ld_shared_u32" "wrapper_ld_shared_f32" "wrapper_ld_shared_u32x4"
        "wrapper_st_shared_u32" "wrapper_st_shared_f32" "wrapper_st_shared_f32x2" "wrapper_st_shared_u32x4" "wrapper_st_shared_zero_x4"
        "wrapper_dynamic_shared" "wrapper_again" "wrapper_again_u64" "wrapper_trap"
        "wrapper_griddepcontrol_wait" "wrapper_griddepcontrol_launch_dependents"
        "wrapper_shfl_bfly" "wrapper_shfl_up" "wrapper_shfl_idx" "wrapper_shfl_idx_among" "wrapper_ballot" "wrapper_redux_max" "wrapper_warp_sync"
    ]
    TWO_WARPS => [
        "wrapper_mbarrier_init" "wrapper_mbarrier_arrive" "wrapper_mbarrier_try_wait_parity"
        "wrapper_thread_x" "wrapper_cta_x" "wrapper_cta_y"
    ]
    WARPGROUP => [
        "wrapper_barrier_cta_sync" "wrapper_fence_proxy_async_shared"
        "wrapper_wgmma_fence" "wrapper_wgmma_fence_32" "wrapper_wgmma_commit_group" "wrapper_wgmma_wait_32"
        "wrapper_wgmma_wait_64"
        "wrapper_wgmma_m64n64k16_bf16" "wrapper_wgmma_m64n64k16_f16"
        "wrapper_wgmma_m64n64k16_bf16_ra" "wrapper_wgmma_m64n64k16_f16_ra"
        "wrapper_wgmma_m64n128k16_bf16_bt" "wrapper_wgmma_m64n128k16_f16_bt"
    ]
    THREE_WARPGROUPS => [
        "wrapper_setmaxnreg_inc" "wrapper_setmaxnreg_dec"
    ]
    FETCH => [
        "wrapper_cp_async_bulk_tensor_4d" "wrapper_cp_async_bulk_tensor_4d_store" "wrapper_cp_async_bulk_commit_group"
        "wrapper_cp_async_bulk_wait_group_read" "wrapper_createpolicy_evict_first" "wrapper_createpolicy_evict_normal"
        "wrapper_mbarrier_arrive_expect_tx" "wrapper_fence_mbarrier_init"
        "wrapper_parameter_address"
    ]
    CLUSTER => [
        "wrapper_barrier_cluster_arrive" "wrapper_barrier_cluster_wait" "wrapper_mbarrier_arrive_cluster"
        "wrapper_cluster_rank" "wrapper_cluster_ctas" "wrapper_mapa" "wrapper_cp_async_bulk_to_cluster"
    ]
    FETCH_IN_CLUSTER => [
        "wrapper_cp_async_bulk_tensor_4d_multicast"
    ]
};
