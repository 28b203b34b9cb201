//! Generated merges, their answers, and how to run them on strided tensors.

use half::{bf16, f16};
use oximla::case_file::Expected;
use oximla::{Error, MergeStates, MergeStatesPlan, MergedState, PartialState, StateElement, StateFormat};

use crate::backend::Backend;
use crate::noise::Noise;
use crate::strided::{Input, Output, Trap, Views};
use crate::tolerance::Answer;

/// Elements of an output row.
const HEAD_DIM_V: usize = 512;

/// A merge to generate.
#[derive(Clone, Debug)]
pub struct Spec {
    /// States to merge.
    pub states: usize,
    /// Requests.
    pub batch: usize,
    /// Query tokens per request.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Type of the outputs.
    pub format: StateFormat,
    /// Standard deviation of the lse: from 0, all states alike, to hundreds, one state is all that counts.
    pub lse_sd: f32,
    /// One in this many states has no key for a row: its lse is an infinity, its output NaN.
    pub one_empty_in: usize,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            states: 2,
            batch: 2,
            s_q: 1,
            h_q: 3,
            format: StateFormat::Bf16,
            lse_sd: 1.0,
            one_empty_in: 4,
            seed: 0,
        }
    }
}

/// A merge with its tensors. Outputs are of the problem's type already, and still f32.
#[derive(Clone, Debug)]
pub struct MergeCase {
    /// The shape.
    pub problem: MergeStates,
    /// Type of the outputs.
    pub format: StateFormat,
    /// `out [batch, s_q, h_q, head_dim_v]` and `lse [batch, h_q, s_q]` of each state.
    pub states: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Spec {
    /// The problem with its tensors.
    pub fn case(&self) -> MergeCase {
        let mut noise = Noise::new(self.seed);
        let problem = MergeStates {
            states: self.states,
            batch: self.batch,
            s_q: self.s_q,
            h_q: self.h_q,
            head_dim_v: HEAD_DIM_V,
        };
        let states = (0..self.states).map(|_| self.state(&mut noise)).collect();
        MergeCase { problem, format: self.format, states }
    }

    fn state(&self, noise: &mut Noise) -> (Vec<f32>, Vec<f32>) {
        let rows = self.batch * self.s_q * self.h_q;
        let mut out = noise.normal(1.0, rows * HEAD_DIM_V);
        let mut lse = noise.normal(self.lse_sd, rows);
        let round = match self.format {
            StateFormat::Bf16 => |x| bf16::from_f32(x).to_f32(),
            StateFormat::Fp16 => |x| f16::from_f32(x).to_f32(),
            StateFormat::F32 => |x| x,
        };
        out.iter_mut().for_each(|x| *x = round(*x));
        for request in 0..self.batch {
            for query in 0..self.s_q {
                for head in 0..self.h_q {
                    if noise.one_in(self.one_empty_in) {
                        let infinity = noise.pick(&[f32::INFINITY, f32::NEG_INFINITY]);
                        lse[(request * self.h_q + head) * self.s_q + query] = infinity;
                        let row = (request * self.s_q + query) * self.h_q + head;
                        out[row * HEAD_DIM_V..][..HEAD_DIM_V].fill(f32::NAN);
                    }
                }
            }
        }
        (out, lse)
    }
}

/// The oracle's answer.
pub fn answer(case: &MergeCase) -> Answer {
    let MergeStates { batch, s_q, h_q, head_dim_v, .. } = case.problem;
    let widen = |values: &[f32]| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
    let states: Vec<_> = case.states.iter().map(|(out, lse)| (widen(out), widen(lse))).collect();
    let states: Vec<_> = states.iter().map(|(out, lse)| oximla_reference::State { out, lse }).collect();
    let merged = oximla_reference::MergeStates { batch, s_q, h_q, head_dim_v, states: &states }.run();
    Answer {
        out: merged.out,
        out_shape: vec![batch, s_q, h_q, head_dim_v],
        lse: merged.lse,
        max_logits: merged.max_logits,
        lse_shape: vec![batch, h_q, s_q],
    }
}

/// Runs the case on tensors laid out as `views` says.
///
/// # Errors
/// What planning or running says; the outputs were untouched then.
pub fn run(backend: &Backend, case: &MergeCase, views: Views) -> Result<Expected, Error> {
    match case.format {
        StateFormat::Bf16 => run_typed::<bf16>(backend, case, views),
        StateFormat::Fp16 => run_typed::<f16>(backend, case, views),
        StateFormat::F32 => run_typed::<f32>(backend, case, views),
    }
}

fn run_typed<T: StateElement + Trap>(
    backend: &Backend,
    case: &MergeCase,
    views: Views,
) -> Result<Expected, Error> {
    let p = &case.problem;
    let (out_shape, lse_shape) = ([p.batch, p.s_q, p.h_q, p.head_dim_v], [p.batch, p.h_q, p.s_q]);
    let plan = MergeStatesPlan::new(p, case.format, &backend.device)?;
    let inputs: Vec<(Input<T, 4>, Input<f32, 3>)> = case
        .states
        .iter()
        .map(|(out, lse)| {
            let out: Vec<T> = out.iter().copied().map(T::from_f32).collect();
            (Input::new(backend, &out, out_shape, views), Input::new(backend, lse, lse_shape, views))
        })
        .collect();
    let states: Vec<_> =
        inputs.iter().map(|(out, lse)| PartialState { out: out.view(), lse: lse.view() }).collect();
    let mut out = Output::<T, 4>::new(backend, out_shape, views);
    let mut lse = Output::<f32, 3>::new(backend, lse_shape, views);
    let mut merged = MergedState { out: out.view(), lse: lse.view() };
    if let Err(why) = plan.run(&backend.stream(), &states, &mut merged) {
        assert!(out.is_untouched() && lse.is_untouched(), "outputs touched by a run that failed: {why}");
        return Err(why);
    }
    let out = out.read("out").into_iter().map(T::to_f32).collect();
    Ok(Expected { out, lse: lse.read("lse"), max_logits: Vec::new() })
}
