//! Dequantising tokens of a paged FP8 cache.

use super::validate;
use crate::device::Backend;
use crate::{Device, Error, InvalidProblem, KvFormat, Memory, Stream, TensorView, TensorViewMut};
use half::bf16;

/// The shape of a gathering from an FP8 cache.
///
/// Each row of the result is a token of the cache, its NoPE elements first: those are `bf16(e4m3 · bf16(scale))`, and its
/// RoPE elements as they are, just what sparse decode computes with. A NaN code is NaN, and so is all that a NaN scale
/// serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGather {
    /// Format of the cache, an FP8 one: [`KvFormat::V32Fp8`] or [`KvFormat::Model1Fp8`].
    pub format: KvFormat,
    /// Pages in the cache.
    pub num_pages: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// Tokens to gather; may be 0.
    pub tokens: usize,
}

/// What a gathering reads.
#[derive(Clone, Copy, Debug)]
pub struct KvGatherInputs<'a> {
    /// Pages as [`KvFormat`] lays them out, `[num_pages, page_size, 1, bytes_per_token]`. Pages may be apart: the first
    /// stride is the page stride in bytes; the others are those of a contiguous tensor.
    pub kv_cache: TensorView<'a, u8, 4>,
    /// Tokens of the cache `[tokens]`, each `page·page_size + offset`. A number that names no token gives a row of zeros.
    pub slots: TensorView<'a, i32, 1>,
}

/// How a [`KvGather`] runs on a device.
#[derive(Clone, Debug)]
pub struct KvGatherPlan {
    problem: KvGather,
    backend: BackendPlan,
}

#[derive(Clone, Debug)]
enum BackendPlan {
    #[cfg(feature = "cpu")]
    Cpu,
    #[cfg(feature = "_gpu")]
    Gpu(crate::gpu::kv_gather::GatherPlan),
}

impl KvGather {
    /// Checks the shape in itself.
    ///
    /// # Errors
    /// [`InvalidProblem`] naming the first field that is wrong: a format without FP8, no page or no token in a page, more
    /// tokens than i32 counts, a tensor larger than the address space.
    pub fn validate(&self) -> Result<(), InvalidProblem> {
        validate::fp8_format(self.format)?;
        validate::cache_tokens(self.num_pages, self.page_size)?;
        validate::counts(&[("tokens", self.tokens)])?;
        validate::extent("kv_cache", &self.kv_cache_shape(), size_of::<u8>())?;
        validate::extent("out", &self.out_shape(), size_of::<bf16>())
    }

    /// Bytes that must move where every number names another token: its number and its bytes are read, its elements are
    /// written.
    pub fn bytes(&self) -> f64 {
        let elements = self.format.head_dim() as usize * size_of::<bf16>();
        let token = elements + size_of::<i32>() + self.format.bytes_per_token() as usize;
        self.tokens as f64 * token as f64
    }

    fn kv_cache_shape(&self) -> [usize; 4] {
        [self.num_pages, self.page_size, 1, self.format.bytes_per_token() as usize]
    }

    fn out_shape(&self) -> [usize; 2] {
        [self.tokens, self.format.head_dim() as usize]
    }
}

impl KvGatherPlan {
    /// Plans the problem for a device.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] where a number is out of range, [`Error::Unsupported`] where the device has no kernel.
    pub fn new(problem: &KvGather, device: &Device) -> Result<Self, Error> {
        problem.validate()?;
        let backend = match &device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => BackendPlan::Cpu,
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => {
                BackendPlan::Gpu(crate::gpu::kv_gather::GatherPlan::new(problem, device)?)
            }
        };
        Ok(Self { problem: problem.clone(), backend })
    }

    /// The problem.
    pub fn problem(&self) -> &KvGather {
        &self.problem
    }

    /// What computes the problem.
    pub fn kernel(&self) -> &'static str {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => "kv_gather_cpu",
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => plan.kernel(),
        }
    }

    /// Writes the tokens to `out [tokens, head_dim]`, which overlaps no input: rows of 576 elements of
    /// [`KvFormat::V32Fp8`], of 512 of [`KvFormat::Model1Fp8`].
    ///
    /// On a GPU, rows of `out` start at multiples of 16 bytes and pages at multiples of 8; this enqueues one kernel and
    /// returns: nothing is allocated, nothing waits, and the call can be captured in a CUDA graph. On the CPU and on an
    /// emulated GPU the result is there on return.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] naming the argument, before anything is launched or written; [`Error::Driver`] where
    /// the launch fails; [`Error::Emulated`](Error) where an emulated kernel does something wrong.
    pub fn run(
        &self,
        stream: &Stream,
        inputs: &KvGatherInputs<'_>,
        out: &mut TensorViewMut<'_, bf16, 2>,
    ) -> Result<(), Error> {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => {
                stream.0.check_host()?;
                self.check(inputs, out, Memory::Host)?;
                crate::cpu::kv_gather::run(&self.problem, inputs, out);
                Ok(())
            }
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => {
                plan.check_stream(stream)?;
                self.check(inputs, out, Memory::Device)?;
                plan.run(stream, inputs, out)
            }
        }
    }

    fn check(
        &self,
        inputs: &KvGatherInputs<'_>,
        out: &TensorViewMut<'_, bf16, 2>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let p = &self.problem;
        validate::input("kv_cache", &inputs.kv_cache, p.kv_cache_shape(), memory)?;
        validate::pages("kv_cache", &inputs.kv_cache, p.format)?;
        validate::input("slots", &inputs.slots, [p.tokens], memory)?;
        validate::output("out", out, p.out_shape(), memory)
    }
}
