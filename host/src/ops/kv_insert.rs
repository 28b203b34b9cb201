//! Quantising tokens into a paged FP8 cache.

use super::validate;
use crate::device::Backend;
use crate::{Device, Error, InvalidProblem, KvFormat, Memory, Stream, TensorView, TensorViewMut};
use half::bf16;

/// The shape of an insertion into an FP8 cache.
///
/// Each token becomes bytes as [`KvFormat`] lays them out, and replaces what its slot of the cache held. Of its NoPE
/// elements, [`KvFormat::quant_tile`] in a row share a scale, which is
///
/// ```text
/// scale = 2^ceil(log2(max(amax / 448, 1e-4)))      amax: the largest magnitude among them
/// code  = e4m3(element / scale)                    rounded to nearest, ties to even
/// ```
///
/// with the exponent taken from `amax`'s bits, exactly. Where one of them is not finite, the scale and all codes are NaN.
/// RoPE elements are copied; padding is written as 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvInsert {
    /// Format of the cache, an FP8 one: [`KvFormat::V32Fp8`] or [`KvFormat::Model1Fp8`].
    pub format: KvFormat,
    /// Pages in the cache.
    pub num_pages: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// Tokens to insert; may be 0.
    pub tokens: usize,
}

/// What an insertion reads.
#[derive(Clone, Copy, Debug)]
pub struct KvInsertInputs<'a> {
    /// NoPE elements `[tokens, nope_dim]`: 512 for [`KvFormat::V32Fp8`], 448 for [`KvFormat::Model1Fp8`].
    pub latent: TensorView<'a, bf16, 2>,
    /// RoPE elements `[tokens, 64]`.
    pub rope: TensorView<'a, bf16, 2>,
    /// Where each token goes `[tokens]`, each `page·page_size + offset`. A token whose number names no slot of the cache,
    /// −1 for instance, goes nowhere. Numbers of slots are distinct: what a slot holds that several tokens went to is
    /// anything.
    pub slot_mapping: TensorView<'a, i64, 1>,
}

/// How a [`KvInsert`] runs on a device.
#[derive(Clone, Debug)]
pub struct KvInsertPlan {
    problem: KvInsert,
    backend: BackendPlan,
}

#[derive(Clone, Debug)]
enum BackendPlan {
    #[cfg(feature = "cpu")]
    Cpu,
    #[cfg(feature = "_gpu")]
    Gpu(crate::gpu::kv_insert::InsertPlan),
}

impl KvInsert {
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
        validate::extent("latent", &self.latent_shape(), size_of::<bf16>())
    }

    /// Bytes that must move where every token goes somewhere: its elements and its slot's number are read, its bytes are
    /// written.
    pub fn bytes(&self) -> f64 {
        let elements = self.format.head_dim() as usize * size_of::<bf16>();
        let token = elements + size_of::<i64>() + self.format.bytes_per_token() as usize;
        self.tokens as f64 * token as f64
    }

    fn kv_cache_shape(&self) -> [usize; 4] {
        [self.num_pages, self.page_size, 1, self.format.bytes_per_token() as usize]
    }

    fn latent_shape(&self) -> [usize; 2] {
        [self.tokens, self.format.nope_dim() as usize]
    }

    fn rope_shape(&self) -> [usize; 2] {
        [self.tokens, self.format.rope_dim() as usize]
    }
}

impl KvInsertPlan {
    /// Plans the problem for a device.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] where a number is out of range, [`Error::Unsupported`] where the device has no kernel.
    pub fn new(problem: &KvInsert, device: &Device) -> Result<Self, Error> {
        problem.validate()?;
        let backend = match &device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => BackendPlan::Cpu,
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => {
                BackendPlan::Gpu(crate::gpu::kv_insert::InsertPlan::new(problem, device)?)
            }
        };
        Ok(Self { problem: problem.clone(), backend })
    }

    /// The problem.
    pub fn problem(&self) -> &KvInsert {
        &self.problem
    }

    /// What computes the problem.
    pub fn kernel(&self) -> &'static str {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => "kv_insert_cpu",
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => plan.kernel(),
        }
    }

    /// Inserts the tokens into `kv_cache`: pages as [`KvFormat`] lays them out, `[num_pages, page_size, 1,
    /// bytes_per_token]`. Pages may be apart: the first stride is the page stride in bytes; the others are those of a
    /// contiguous tensor. Slots that no token goes to stay as they are.
    ///
    /// On a GPU, rows of `latent` and `rope` start at multiples of 16 bytes and pages at multiples of 8; this enqueues one
    /// kernel and returns: nothing is allocated, nothing waits, and the call can be captured in a CUDA graph. On the CPU
    /// and on an emulated GPU the tokens are there on return.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] naming the argument, before anything is launched or written; [`Error::Driver`] where
    /// the launch fails; [`Error::Emulated`](Error) where an emulated kernel does something wrong.
    pub fn run(
        &self,
        stream: &Stream,
        inputs: &KvInsertInputs<'_>,
        kv_cache: &mut TensorViewMut<'_, u8, 4>,
    ) -> Result<(), Error> {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => {
                stream.0.check_host()?;
                self.check(inputs, kv_cache, Memory::Host)?;
                crate::cpu::kv_insert::run(&self.problem, inputs, kv_cache);
                Ok(())
            }
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => {
                plan.check_stream(stream)?;
                self.check(inputs, kv_cache, Memory::Device)?;
                plan.run(stream, inputs, kv_cache)
            }
        }
    }

    fn check(
        &self,
        inputs: &KvInsertInputs<'_>,
        kv_cache: &TensorViewMut<'_, u8, 4>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let p = &self.problem;
        validate::input("latent", &inputs.latent, p.latent_shape(), memory)?;
        validate::input("rope", &inputs.rope, p.rope_shape(), memory)?;
        validate::input("slot_mapping", &inputs.slot_mapping, [p.tokens], memory)?;
        validate::output("kv_cache", kv_cache, p.kv_cache_shape(), memory)?;
        validate::pages("kv_cache", &kv_cache.view, p.format)
    }
}
