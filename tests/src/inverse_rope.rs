//! Generated inverse rotations, their answers, and how to run them on strided tensors.

use half::{bf16, f16};
use oximla::case_file::InverseRopeCase;
use oximla::{Error, InverseRope, InverseRopeInputs, InverseRopePlan, RopeAngles, StateElement, StateFormat};
use oximla_reference::QueryAngles;

use crate::backend::Backend;
use crate::noise::Noise;
use crate::strided::{Input, Output, Trap, Views};
use crate::tolerance::Tolerance;

/// Elements of an output row.
pub const HEAD_DIM_V: usize = 512;

/// Elements that are rotated: the last ones of a row.
pub const ROPE_DIM: usize = 64;

/// A rotation to generate.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Requests.
    pub batch: usize,
    /// Query tokens per request.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Type of the outputs.
    pub format: StateFormat,
    /// Where the angles come from.
    pub angles: RopeAngles,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Self {
        let angles = RopeAngles::Table { max_positions: 40 };
        Self { batch: 3, s_q: 2, h_q: 9, format: StateFormat::Bf16, angles, seed: 0 }
    }
}

/// A rotation with its tensors.
#[derive(Clone, Debug)]
pub struct RotationCase {
    /// The shape and where the angles come from.
    pub problem: InverseRope,
    /// Type of the outputs.
    pub format: StateFormat,
    /// `[batch, s_q, h_q, 512]`, of that type already, and still f32.
    pub out: Vec<f32>,
    /// Positions, and the table if there is one.
    pub rope: InverseRopeCase,
}

impl Spec {
    /// The problem with its tensors.
    pub fn case(&self) -> RotationCase {
        let mut noise = Noise::new(self.seed);
        let &Self { batch, s_q, h_q, format, angles, .. } = self;
        let problem = InverseRope { batch, s_q, h_q, head_dim_v: HEAD_DIM_V, angles };
        let out = noise.normal(1.0, batch * s_q * h_q * HEAD_DIM_V);
        let out = out.into_iter().map(|x| round(format, x)).collect();
        let rope = rope_case(angles, batch * s_q, &mut noise);
        RotationCase { problem, format, out, rope }
    }
}

/// The nearest value of a format.
fn round(format: StateFormat, x: f32) -> f32 {
    match format {
        StateFormat::Bf16 => bf16::from_f32(x).to_f32(),
        StateFormat::Fp16 => f16::from_f32(x).to_f32(),
        StateFormat::F32 => x,
    }
}

/// Positions of so many tokens: of a table its first and last ones among them; else up to the largest and smallest numbers.
///
/// The table's angles are random, so that none stands for another one; it is NaN where no token's position leads.
pub fn rope_case(angles: RopeAngles, tokens: usize, noise: &mut Noise) -> InverseRopeCase {
    match angles {
        RopeAngles::Theta(_) => {
            let edges = [0, 1, -1, 131_071, 1 << 20, 16_777_217, i32::MAX, i32::MIN];
            let positions = (0..tokens).map(|_| match noise.below(2) {
                0 => noise.pick(&edges),
                _ => noise.below(1 << 20) as i32,
            });
            InverseRopeCase { positions: positions.collect(), cos_sin: None }
        }
        RopeAngles::Table { max_positions } => {
            let positions: Vec<usize> = (0..tokens)
                .map(|_| match noise.below(4) {
                    0 => 0,
                    1 => max_positions - 1,
                    _ => noise.below(max_positions),
                })
                .collect();
            let mut cos_sin = vec![f32::NAN; max_positions * ROPE_DIM];
            for &position in &positions {
                let (cos, sin) = cos_sin[position * ROPE_DIM..][..ROPE_DIM].split_at_mut(ROPE_DIM / 2);
                for ((cos, sin), angle) in cos.iter_mut().zip(sin).zip(noise.normal(4.0, ROPE_DIM / 2)) {
                    (*sin, *cos) = angle.sin_cos();
                }
            }
            let positions = positions.into_iter().map(|position| position as i32).collect();
            InverseRopeCase { positions, cos_sin: Some(cos_sin) }
        }
    }
}

/// The same in the oracle's words.
///
/// # Panics
/// If there is no table where there should be one.
pub fn query_angles(angles: RopeAngles, rope: &InverseRopeCase) -> QueryAngles<'_> {
    let angles = match angles {
        RopeAngles::Theta(theta) => oximla_reference::RopeAngles::Theta(theta),
        RopeAngles::Table { .. } => {
            oximla_reference::RopeAngles::Table(rope.cos_sin.as_deref().expect("a table"))
        }
    };
    QueryAngles { positions: &rope.positions, angles }
}

/// The oracle's answer.
pub fn answer(case: &RotationCase) -> Vec<f64> {
    let InverseRope { batch, s_q, h_q, head_dim_v, angles } = case.problem;
    let out: Vec<f64> = case.out.iter().copied().map(f64::from).collect();
    let queries = query_angles(angles, &case.rope);
    oximla_reference::InverseRope { batch, s_q, h_q, head_dim_v, out: &out, queries }.run()
}

/// Compares what came of a case with the answer: elements that are not rotated bit for bit, NaN with NaN, the others to
/// little more than the rounding to their type.
///
/// # Errors
/// The first element that is wrong.
pub fn compare(case: &RotationCase, found: &[f32], expected: &[f64]) -> Result<(), String> {
    if [found.len(), expected.len()] != [case.out.len(); 2] {
        return Err(format!("{} elements; expected are {}", found.len(), expected.len()));
    }
    let rel = match case.format {
        StateFormat::Bf16 => 1.01 / 256.0,
        StateFormat::Fp16 => 1.01 / 2048.0,
        StateFormat::F32 => 1e-6,
    };
    // One element has no direction to judge.
    let rotated = Tolerance { abs: 2e-6, rel, cosine: f64::INFINITY };
    for (at, ((&given, &found), &expected)) in case.out.iter().zip(found).zip(expected).enumerate() {
        let same = if at % HEAD_DIM_V < HEAD_DIM_V - ROPE_DIM {
            given.to_bits() == found.to_bits()
        } else if expected.is_nan() {
            found.is_nan()
        } else {
            rotated.check("out", &[1], &[found], &[expected]).is_ok()
        };
        if !same {
            let (row, column) = (at / HEAD_DIM_V, at % HEAD_DIM_V);
            return Err(format!("row {row}, column {column} is {found:e}; expected is {expected:e}"));
        }
    }
    Ok(())
}

/// Positions and table in a backend's memory.
#[derive(Debug)]
pub struct RopeTensors {
    positions: Input<i32, 2>,
    cos_sin: Option<Input<f32, 2>>,
}

impl RopeTensors {
    /// Lays them out as `views` says.
    pub fn new(backend: &Backend, rope: &InverseRopeCase, tokens: [usize; 2], views: Views) -> Self {
        let table = rope.cos_sin.as_ref();
        Self {
            positions: Input::new(backend, &rope.positions, tokens, views),
            cos_sin: table.map(|table| Input::new(backend, table, [table.len() / ROPE_DIM, ROPE_DIM], views)),
        }
    }

    /// The tensors.
    pub fn view(&self) -> InverseRopeInputs<'_> {
        let cos_sin = self.cos_sin.as_ref().map(Input::view);
        InverseRopeInputs { positions: self.positions.view(), cos_sin }
    }
}

/// Runs the case on tensors laid out as `views` says.
///
/// # Errors
/// What planning or running says; the outputs were untouched then.
pub fn run(backend: &Backend, case: &RotationCase, views: Views) -> Result<Vec<f32>, Error> {
    match case.format {
        StateFormat::Bf16 => run_typed::<bf16>(backend, case, views),
        StateFormat::Fp16 => run_typed::<f16>(backend, case, views),
        StateFormat::F32 => run_typed::<f32>(backend, case, views),
    }
}

fn run_typed<T: StateElement + Trap>(
    backend: &Backend,
    case: &RotationCase,
    views: Views,
) -> Result<Vec<f32>, Error> {
    let p = &case.problem;
    let plan = InverseRopePlan::new(p, case.format, &backend.device)?;
    let given: Vec<T> = case.out.iter().copied().map(T::from_f32).collect();
    let mut out = Output::holding(backend, &given, [p.batch, p.s_q, p.h_q, p.head_dim_v], views);
    let rope = RopeTensors::new(backend, &case.rope, [p.batch, p.s_q], views);
    if let Err(why) = plan.run(&backend.stream(), &rope.view(), &mut out.view()) {
        assert!(out.holds(&given), "outputs touched by a run that failed: {why}");
        return Err(why);
    }
    Ok(out.read("out").into_iter().map(T::to_f32).collect())
}
