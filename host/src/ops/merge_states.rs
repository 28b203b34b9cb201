//! Merging attention results over disjoint sets of keys.

use super::validate;
use crate::device::Backend;
use crate::{
    Device, Error, InvalidProblem, Memory, StateElement, StateFormat, Stream, TensorView, TensorViewMut,
};

/// The shape of a merge.
///
/// A *state* is what attention of some queries to some keys leaves: an output and the logarithm of the softmax
/// denominator. The states of disjoint sets of keys merge to that of their union:
///
/// ```text
/// lse = ln Σ exp(lse_i)
/// out = Σ exp(lse_i − lse) · out_i
/// ```
///
/// This is what context parallelism needs, where each GPU attends to its part of the keys (all states gathered on one
/// GPU are merged there), and so does a prefix that requests share. Merging is associative up to rounding: states may
/// be merged a few at a time.
///
/// A state without keys has an lse of +∞, as the operations here write it, or −∞, as others do. Its output does not
/// count, be it NaN. Where no state has a key the merged output is 0 and its lse +∞.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeStates {
    /// States to merge; a GPU takes up to 32 at a time.
    pub states: usize,
    /// Requests in the batch.
    pub batch: usize,
    /// Query tokens per request.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Elements of an output row.
    pub head_dim_v: usize,
}

/// One of the states to merge.
#[derive(Clone, Copy, Debug)]
pub struct PartialState<'a, T> {
    /// Attention output `[batch, s_q, h_q, head_dim_v]`, normalised by itself.
    pub out: TensorView<'a, T, 4>,
    /// Natural logarithm of the softmax denominator `[batch, h_q, s_q]`; infinite for a query that saw no key.
    pub lse: TensorView<'a, f32, 3>,
}

/// What a merge writes. It overlaps no state.
#[derive(Debug)]
pub struct MergedState<'a, T> {
    /// Attention output `[batch, s_q, h_q, head_dim_v]`; zero for a query that saw no key.
    pub out: TensorViewMut<'a, T, 4>,
    /// Natural logarithm of the softmax denominator `[batch, h_q, s_q]`; +∞ for a query that saw no key.
    pub lse: TensorViewMut<'a, f32, 3>,
}

/// How a [`MergeStates`] runs on a device.
#[derive(Clone, Debug)]
pub struct MergeStatesPlan {
    problem: MergeStates,
    format: StateFormat,
    backend: BackendPlan,
}

#[derive(Clone, Debug)]
enum BackendPlan {
    #[cfg(feature = "cpu")]
    Cpu,
    #[cfg(feature = "_gpu")]
    Gpu(crate::gpu::merge_states::MergePlan),
}

impl MergeStates {
    /// Checks the shape in itself.
    ///
    /// # Errors
    /// [`InvalidProblem`] naming the first field that is wrong.
    pub fn validate(&self) -> Result<(), InvalidProblem> {
        validate::dimensions(&[
            ("states", self.states),
            ("batch", self.batch),
            ("s_q", self.s_q),
            ("h_q", self.h_q),
        ])?;
        validate::one_of("head_dim_v", self.head_dim_v, &[512])?;
        validate::extent("out", &self.out_shape(), size_of::<f32>())
    }

    /// Bytes that must move, for elements of `element_bytes` bytes: each state once, the result once.
    pub fn bytes(&self, element_bytes: usize) -> f64 {
        let rows = (self.batch * self.s_q * self.h_q) as f64;
        let row_bytes = (self.head_dim_v * element_bytes + size_of::<f32>()) as f64;
        (self.states + 1) as f64 * rows * row_bytes
    }

    fn out_shape(&self) -> [usize; 4] {
        [self.batch, self.s_q, self.h_q, self.head_dim_v]
    }

    fn lse_shape(&self) -> [usize; 3] {
        [self.batch, self.h_q, self.s_q]
    }
}

impl MergeStatesPlan {
    /// Plans the problem for a device; `format` is the element type of all outputs.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] where a number is out of range, [`Error::Unsupported`] where the device has no kernel.
    pub fn new(problem: &MergeStates, format: StateFormat, device: &Device) -> Result<Self, Error> {
        problem.validate()?;
        let backend = match &device.0 {
            #[cfg(feature = "cpu")]
            Backend::Cpu => BackendPlan::Cpu,
            #[cfg(feature = "_gpu")]
            Backend::Gpu(device) => {
                BackendPlan::Gpu(crate::gpu::merge_states::MergePlan::new(problem, format, device)?)
            }
        };
        Ok(Self { problem: problem.clone(), format, backend })
    }

    /// The problem.
    pub fn problem(&self) -> &MergeStates {
        &self.problem
    }

    /// What computes the problem.
    pub fn kernel(&self) -> &'static str {
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => "merge_states_cpu",
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => plan.kernel(),
        }
    }

    /// Merges the states. On a GPU this enqueues one kernel and returns: nothing is allocated, nothing waits, and the
    /// call can be captured in a CUDA graph. On the CPU and on an emulated GPU the result is there on return.
    ///
    /// The bits of a row follow from its states and their order alone.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] naming the argument, before anything is launched or written; [`Error::Driver`] where
    /// the launch fails; [`Error::Emulated`](Error) where an emulated kernel does something wrong.
    pub fn run<T: StateElement>(
        &self,
        stream: &Stream,
        states: &[PartialState<'_, T>],
        merged: &mut MergedState<'_, T>,
    ) -> Result<(), Error> {
        validate::require(T::FORMAT == self.format, "states", T::NAME, self.format)?;
        let planned = self.problem.states;
        validate::require(states.len() == planned, "states", states.len(), format!("{planned}, as planned"))?;
        match &self.backend {
            #[cfg(feature = "cpu")]
            BackendPlan::Cpu => {
                stream.0.check_host()?;
                self.check(states, merged, Memory::Host)?;
                crate::cpu::merge_states::run(&self.problem, states, merged);
                Ok(())
            }
            #[cfg(feature = "_gpu")]
            BackendPlan::Gpu(plan) => {
                plan.check_stream(stream)?;
                self.check(states, merged, Memory::Device)?;
                plan.run(stream, states, merged)
            }
        }
    }

    fn check<T: StateElement>(
        &self,
        states: &[PartialState<'_, T>],
        merged: &MergedState<'_, T>,
        memory: Memory,
    ) -> Result<(), InvalidProblem> {
        let (out, lse) = (self.problem.out_shape(), self.problem.lse_shape());
        for (index, state) in states.iter().enumerate() {
            validate::input(&format!("states[{index}].out"), &state.out, out, memory)?;
            validate::input(&format!("states[{index}].lse"), &state.lse, lse, memory)?;
        }
        validate::output("out", &merged.out, out, memory)?;
        validate::output("lse", &merged.lse, lse, memory)
    }
}
