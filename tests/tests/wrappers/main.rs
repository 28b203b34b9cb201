//! Each wrapper of a PTX instruction, run by a kernel of its own on the emulator and, where there is one, on a GPU.
//!
//! A test has the name of its wrapper and stands in a file of the same name as the wrapper's. It runs the kernel
//! `wrapper_` and that name, and knows by hand or by plain Rust what must come out. Where the effect of an instruction
//! is order and no value, the test also runs the kernel without it, which the emulator must find wrong.
//!
//! Pieces of attention that can be tried exhaustively are tested alike, with kernels of the names of the tests.

mod barrier;
mod copy;
mod dequant;
mod fence;
mod kernel;
mod math;
mod matrix;
mod mbarrier;
mod memory;
mod names;
mod special;
mod warp;
mod wgmma;

use std::collections::BTreeSet;

use kernel::Kernel;

/// Prefix of the entries that test wrappers.
const PREFIX: &str = "wrapper_";

/// A test for each of these functions, given the kernel with that name behind a prefix, and their list.
macro_rules! tests {
    ($list:ident, $prefix:expr; $($file:ident: $($name:ident)*;)*) => {
        const $list: &[&str] = &[$($(stringify!($name)),*),*];

        $($(
            #[test]
            fn $name() {
                for kernel in Kernel::on_each_gpu(&format!("{}{}", $prefix, stringify!($name))) {
                    $file::$name(&kernel);
                }
            }
        )*)*
    };
}

tests! { PIECES, "";
    dequant: dequantise_f32 dequantise_ue8m0;
}

tests! { WRAPPERS, PREFIX;
    barrier: barrier_cta_sync barrier_cluster_arrive barrier_cluster_wait;
    copy: createpolicy_evict_first createpolicy_evict_normal cp_async_bulk_tensor_4d cp_async_bulk_tensor_4d_multicast
        cp_async_4 cp_async_8 cp_async_16 cp_async_16_prefetch_256 cp_async_commit_group cp_async_wait_group
        cp_async_mbarrier_arrive cp_async_bulk_8 prefetch_l2 cp_async_bulk_to_cluster cp_async_bulk_tensor_4d_store
        cp_async_bulk_commit_group cp_async_bulk_wait_group_read;
    fence: fence_proxy_async_shared fence_mbarrier_init;
    math: ex2 lg2 rcp fma max cvt_bf16x2 cvt_f16x2 cvt_f32_f16 mul_bf16x2 mul_f16x2 prmt prmt_by shr cvt_e4m3x2 cvt_f16x2_e4m3x2;
    matrix: stmatrix_x4 ldmatrix_x4 mma_m16n8k16_f16 mma_m16n8k16_bf16;
    mbarrier: mbarrier_init mbarrier_arrive mbarrier_arrive_expect_tx mbarrier_try_wait_parity
        mbarrier_arrive_cluster;
    memory: ld_global_i32 ld_global_i64 ld_global_u32x2 ld_global_u32 ld_global_f32 ld_global_f32x4 ld_shared_u32 ld_shared_f32 ld_shared_u32x4
        ld_global_u32x4 ld_shared_u8 ld_shared_u16 ld_shared_u64 ld_shared_u32x2
        st_global_u32 st_global_f32 st_global_f32x2 st_global_u32x2 st_global_u32x4 st_global_u32x4_if st_shared_u16 st_shared_u64 st_shared_u32 st_shared_f32 st_shared_f32x2 st_shared_u32x4
        st_shared_zero_x4;
    special: dynamic_shared again again_u64 thread_x cta_x cta_y cluster_rank cluster_ctas mapa setmaxnreg_inc setmaxnreg_dec trap
        parameter_address griddepcontrol_wait griddepcontrol_launch_dependents;
    warp: shfl_bfly shfl_up shfl_idx shfl_idx_among ballot redux_max warp_sync;
    wgmma: wgmma_fence wgmma_fence_32 wgmma_commit_group wgmma_wait_32 wgmma_wait_64
        wgmma_m64n64k16_bf16 wgmma_m64n64k16_f16 wgmma_m64n64k16_bf16_ra wgmma_m64n64k16_f16_ra
        wgmma_m64n128k16_bf16_bt wgmma_m64n128k16_f16_bt;
}

/// Sources of the wrappers.
macro_rules! sources {
    ($($file:ident)*) => {
        &[$((stringify!($file), include_str!(concat!("../../../kernels-gpu/src/ptx/", stringify!($file), ".rs")))),*]
    };
}

const SOURCES: &[(&str, &str)] = sources!(barrier copy fence math matrix mbarrier memory special warp wgmma);

#[test]
fn every_wrapper_has_a_kernel_and_a_test() {
    let wrappers: BTreeSet<_> = SOURCES.iter().flat_map(|(_, source)| names::wrappers(source)).collect();
    let tested: BTreeSet<_> = WRAPPERS.iter().map(|name| (*name).to_owned()).collect();
    let entries = || kernel::entries().iter().map(|entry| entry.name.as_str());
    let kernels: BTreeSet<_> =
        entries().filter_map(|entry| entry.strip_prefix(PREFIX)).map(str::to_owned).collect();
    assert_eq!(wrappers, kernels, "wrappers, and kernels of the module that test them");
    assert_eq!(wrappers, tested, "wrappers, and tests of this file");
    let others: BTreeSet<_> = entries().filter(|entry| !entry.starts_with(PREFIX)).collect();
    assert_eq!(others, PIECES.iter().copied().collect(), "other kernels, and tests of this file");
}

#[test]
fn every_file_of_wrappers_is_looked_at() {
    let root = include_str!("../../../kernels-gpu/src/ptx/mod.rs");
    let modules = root.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let looked_at = SOURCES.iter().map(|(name, _)| *name);
    assert_eq!(modules.collect::<BTreeSet<_>>(), looked_at.collect());
}
