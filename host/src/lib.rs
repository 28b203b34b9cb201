//! Multi-head latent attention (MLA), dense and sparse, on bf16, fp16 and FP8 paged caches.
//!
//! The path is the same for every operation:
//!
//! 1. describe it once as a *problem* ([`DenseDecode`], [`SparseDecode`], [`SparsePrefill`],
//!    [`SparsePrefillFp8`], [`MergeStates`], [`InverseRope`], [`KvInsert`], [`KvGather`], [`TopkToSlots`]), which is validated when it is built;
//! 2. turn it into a *plan* for a [`Device`]: kernel choice, schedule, workspace size. Everything that happens once
//!    happens here, and a plan can be kept across layers and steps;
//! 3. `run` the plan on a [`Stream`] with inputs, outputs and workspace the caller owns. On a GPU a run neither
//!    allocates nor synchronises, so it can be captured in a CUDA graph. On the CPU it is finished when it returns; all
//!    it allocates are the buffers in which the matrix library packs its operands and a list of the workspace's parts.
//!
//! A plan is `Send + Sync`. Tensors are [`TensorView`]s: a pointer, a shape and strides, made from slices, from
//! cudarc's device slices, from [`DeviceBuffer`]s or from raw pointers.
//!
//! With the feature `emulated`, [`Device::emulated`] takes a GPU's place: the emulator stands in for the driver, so that
//! plans, launches and kernels are the shipped ones, and what is wrong with a kernel is found while it runs.

#[cfg(not(any(feature = "cpu", feature = "cuda", feature = "emulated")))]
compile_error!("oximla needs a backend: enable the feature `cpu`, `cuda` or `emulated`");

#[cfg(feature = "case-file")]
pub mod case_file;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod error;
#[cfg(feature = "_gpu")]
mod gpu;
mod ops;
mod tensor;

pub use device::{Device, DeviceInfo, KernelInfo, Stream, Workspace};
pub use error::{Error, InvalidProblem};
#[cfg(feature = "_gpu")]
pub use gpu::DeviceBuffer;
#[cfg(feature = "emulated")]
pub use gpu::{EmulatedOptions, EmulatedReport, EmulatedReports};
pub use ops::dense_decode::{
    DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, DenseDecodePlanBuilder,
    DenseDecodeSchedule,
};
pub use ops::inverse_rope::{InverseRope, InverseRopeInputs, InverseRopePlan, RopeAngles};
pub use ops::kv_gather::{KvGather, KvGatherInputs, KvGatherPlan};
pub use ops::kv_insert::{KvInsert, KvInsertInputs, KvInsertPlan};
pub use ops::merge_states::{MergeStates, MergeStatesPlan, MergedState, PartialState};
pub use ops::sparse_decode::{
    KvScope, KvScopeShape, SparseDecode, SparseDecodeInputs, SparseDecodeOutputs, SparseDecodePlan,
    SparseDecodePlanBuilder,
};
pub use ops::sparse_prefill::{SparsePrefill, SparsePrefillInputs, SparsePrefillOutputs, SparsePrefillPlan};
pub use ops::sparse_prefill_fp8::{SparsePrefillFp8, SparsePrefillFp8Inputs, SparsePrefillFp8Plan};
pub use ops::topk_to_slots::{TopkToSlots, TopkToSlotsInputs, TopkToSlotsOutputs, TopkToSlotsPlan};
pub use oximla_types::kv_cache::KvFormat;
pub use oximla_types::schedule::Determinism;
/// The emulator behind [`Device::emulated`]: types of its findings and counts.
#[cfg(feature = "emulated")]
pub use ptx_emulator;
pub use tensor::{Element, Half, Memory, StateElement, StateFormat, TensorView, TensorViewMut};

/// The example of the README, compiled and run with the documentation's tests.
#[cfg(all(doctest, feature = "cpu"))]
#[doc = include_str!("../../README.md")]
struct Readme;
