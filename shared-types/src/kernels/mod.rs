//! For each kernel: parameters, shared-memory plan, launch contract.

pub mod combine;
pub mod dense_decode;
pub mod merge_states;
#[cfg(feature = "wrapper-tests")]
pub mod wrapper_tests;

use crate::launch::LaunchContract;

/// A `CUtensorMap`, opaque to everything but the driver that encodes it and the copy engine that reads it.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct TensorMap(pub [u64; 16]);

/// Alignment of a tensor map (PTX ISA, "Tensor-map"), and so of a parameter block that opens with one.
pub const TENSOR_MAP_ALIGN: u32 = 64;

/// Every entry of the sm_90a module.
pub const SM90A_CONTRACTS: &[LaunchContract] = &[
    dense_decode::SM90_BF16,
    dense_decode::SM90_FP16,
    dense_decode::D512_SM90_BF16,
    dense_decode::D512_SM90_FP16,
    dense_decode::SCHEDULE,
    combine::BF16,
    combine::FP16,
    merge_states::BF16,
    merge_states::FP16,
    merge_states::F32,
];
