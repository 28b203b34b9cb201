//! Inverse RoPE: turning the last elements of attention outputs back by the query's position.

use super::validate;
use crate::device::Backend;
use crate::{
    Device, Error, InvalidProblem, Memory, StateElement, StateFormat, Stream, TensorView, TensorViewMut,
};
use oximla_types::rope::{ROPE_DIM, ROPE_PAIRS};

/// The shape of an inverse rotation of attention outputs, in place.
///
/// MODEL1 has one vector for key and value, and its last 64 elements carry the rotary position embedding (RoPE; Su et al.,
/// ["RoFormer"](https://arxiv.org/abs/2104.09864), 2021) of the key's position `s`: attention to them sums `R_s·c_s`.
/// Turned back by the query's position `t` that becomes a sum of `R_(s − t)·c_s`: what the output says of positions is
/// how far the keys are from the query. RoPE takes elements in interleaved pairs `(2i, 2i + 1)` of the last 64, `i` from 0 to
/// 31. With the query's angle `φ` of the pair:
///
/// ```text
/// out[448 + 2i]     = out[448 + 2i]·cos φ + out[448 + 2i + 1]·sin φ
/// out[448 + 2i + 1] = out[448 + 2i + 1]·cos φ − out[448 + 2i]·sin φ
/// ```
///
/// The 448 elements before stay as they are. It is linear, so that outputs may be turned back before or after they are
/// merged ([`MergeStates`](crate::MergeStates)), as long as it is done once. [`SparseDecode::inverse_rope`] does it within
/// the decode.
///
/// That this is what is meant by "value vector position awareness" (VVPA) is our inference: we know of no public
/// definition of that term. The operation is that of DeepSeek V4, whose cache format MODEL1 is.
///
/// [`SparseDecode::inverse_rope`]: crate::SparseDecode::inverse_rope
#[derive(Clone, Debug, PartialEq)]
pub struct InverseRope {
    /// Requests in the batch; may be 0.
    pub batch: usize,
    /// Query tokens per request; may be 0.
    pub s_q: usize,
    /// Query heads; may be 0.
    pub h_q: usize,
    /// Elements of an output row: 512.
    pub head_dim_v: usize,
    /// Where the angles come from.
    pub angles: RopeAngles,
}

/// Where the angles of a rotary position embedding come from. They should be those that the keys were rotated by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeAngles {
    /// The RoPE base `θ`, at least 1: pair `i` is turned by `position · θ^(−i/32)` radians. Any position will do, negative
    /// ones too: cosines and sines are right to 10⁻⁶. There is no scaling (YaRN, for instance); for that, give a table.
    ///
    /// Tables that are computed in f32, as most are, differ from these angles far out: by up to 0.06 at position 2²⁰.
    Theta(f64),
    /// They are looked up in [`InverseRopeInputs::cos_sin`].
    Table {
        /// Positions in the table.
        max_positions: usize,
    },
}

/// What an inverse rotation reads, beside the outputs.
#[derive(Clone, Copy, Debug)]
pub struct InverseRopeInputs<'a> {
    /// Position of each query token `[batch, s_q]`.
    pub positions: TensorView<'a, i32, 2>,
    /// For each position 32 cosines, one a pair, then 32 sines `[max_positions, 64]`: the layout of vLLM's
    /// `cos_sin_cache`. Given exactly if the problem has a table.
    ///
    /// Where it has no row for a position, negative ones included, the rotated elements become NaN.
    pub cos_sin: Option<TensorView<'a, f32, 2>>,
}

/// How an [`InverseRope`] runs on a device.
#[derive(Clone, Debug)]
pub struct InverseRopePlan {
    problem: InverseRope,
    format: StateFormat,
    backend: BackendPlan,
}

#[derive(Clone, Debug)]
enum BackendPlan {
    #[cfg(feature = "cpu")]
    Cpu,
    #[cfg(feature = "_gpu")]
    Gpu(crate::gpu::inverse_rope::RotationPlan),
}

impl InverseRope {
    /// Checks the problem in itself.
    ///
    /// # Errors
    /// [`InvalidProblem`] naming the first field that is wrong: a dimension above `i32::MAX`, rows that are not of 512
    /// elements, a `theta` that is no number or below 1, a table without positions, a tensor larger than the address space.
    pub fn validate(&self) -> Result<(), InvalidProblem> {
        validate::counts(&[("batch", self.batch), ("s_q", self.s_q), ("h_q", self.h_q)])?;
        validate::one_of("head_dim_v", self.head_dim_v, &[512])?;
        validate::extent("out", &self.out_shape(), size_of::<f32>())?;
        self.angles.validate("")
    }

    /// Bytes that must move, for elements of `element_bytes` bytes: what is rotated, there and back.
    pub fn bytes(&self, element_bytes: usize) -> f64 {
        let rows = self.batch as f64 * self.s_q as f64 * self.h_q as f64;
        2.0 * rows * f64::from(ROPE_DIM) * element_bytes as f64
    }

    fn out_shape(&self) -> [usize; 4] {
        [self.batch, self.s_q, self.h_q, self.head_dim_v]
    }
}

impl RopeAngles {
    /// Checks the numbers, whose names in messages begin with `prefix`.
    pub(super) fn validate(&self, prefix: &str) -> Result<(), InvalidProblem> {
        let name = |field| format!("{prefix}{field}");
        match *self {
            Self::Theta(theta) => {
                let sound = theta.is_finite() && theta >= 1.0;
                validate::require(sound, &name("theta"), theta, "a finite number of at least 1")
            }
            Self::Table { max_positions } => validate::dimensions(&[(&name("max_positions"), max_positions)]),
        }
    }
}

/// What a position adds to the angle of each pair, in radians: `θ^(−i/32)`.
pub(crate) fn frequencies(theta: f64) -> [f64; ROPE_PAIRS as usize] {
    std::array::from_fn(|pair| theta.powf(-(pair as f64) / f64::from(ROPE_PAIRS)))
}

impl InverseRopeInputs<'_> {
    /// Checks the tensors, whose names in messages begin with `prefix`.
    pub(super) fn check(
        &self,
        prefix: &str,
        angles: &RopeAngles,
        [batch, s_q]: [usize; 2],
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        validate::input(&format!("{prefix}positions"), &self.positions, [batch, s_q], memory)?;
        let name = format!("{prefix}cos_sin");
        let has_table = matches!(angles, RopeAngles::Table { .. });
        validate::presence(&name, self.cos_sin.is_some(), has_table)?;
        if let (Some(cos_sin), &RopeAngles::Table { max_positions }) = (&self.cos_sin, angles) {
            validate::input(&name, cos_sin, [max_positions, ROPE_DIM as usize], memory)?;
        }
        Ok(())
    }
}

impl InverseRopePlan {
    /// Plans the problem for a device; `format` is the element type of the outputs.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] where a number is out of range, [`Error::Unsupported`] where the device has no kernel.
    pub fn new(problem: &InverseRope, format: StateFormat, device: &Device) -> Result<Self, Error> {
        problem.validate()?;
        let backend = match &device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => BackendPlan::Cpu,
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => {
                BackendPlan::Gpu(crate::gpu::inverse_rope::RotationPlan::new(problem, format, device)?)
            }
        };
        Ok(Self { problem: problem.clone(), format, backend })
    }

    /// The problem.
    pub fn problem(&self) -> &InverseRope {
        &self.problem
    }

    /// What computes the problem.
    pub fn kernel(&self) -> &'static str {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => "inverse_rope_cpu",
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => plan.kernel(),
        }
    }

    /// Rotates `out [batch, s_q, h_q, 512]` in place. On a GPU this enqueues one kernel and returns: nothing is allocated,
    /// nothing waits, and the call can be captured in a CUDA graph. On the CPU and on an emulated GPU the result is there on
    /// return.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] naming the argument, before anything is launched or written; [`Error::Driver`] where
    /// the launch fails; [`Error::Emulated`](Error) where an emulated kernel does something wrong.
    pub fn run<T: StateElement>(
        &self,
        stream: &Stream,
        inputs: &InverseRopeInputs<'_>,
        out: &mut TensorViewMut<'_, T, 4>,
    ) -> Result<(), Error> {
        validate::require(T::FORMAT == self.format, "out", T::NAME, self.format)?;
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => {
                stream.0.check_host()?;
                self.check(inputs, out, Memory::Host)?;
                crate::cpu::inverse_rope::run(&self.problem, inputs, out);
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

    fn check<T: StateElement>(
        &self,
        inputs: &InverseRopeInputs<'_>,
        out: &TensorViewMut<'_, T, 4>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let p = &self.problem;
        inputs.check("", &p.angles, [p.batch, p.s_q], memory)?;
        validate::output("out", out, p.out_shape(), memory)
    }
}
