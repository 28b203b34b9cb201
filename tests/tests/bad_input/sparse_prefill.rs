//! Malformed sparse prefills.

use half::bf16;
use oximla::case_file::{Expected, SparsePrefillCase};
use oximla::{Error, SparsePrefillInputs, SparsePrefillOutputs, SparsePrefillPlan};
use oximla_conformance::backend::Backend;
use oximla_conformance::noise::{KEY_SD, Noise};
use oximla_conformance::sparse_decode::Invalid;
use oximla_conformance::sparse_prefill::{Spec, answer};
use oximla_conformance::tolerance::SPARSE_PREFILL;
use proptest::prelude::*;

use crate::argument::{Argument, Flaw, optional};
use crate::{Verdict, argument_of, config, is_about, one_or_two, wrong_size};

/// One thing wrong with a sparse prefill.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    Tensor(Tensor, Flaw),
    Field { which: usize, choice: usize },
    Scale(f32),
    Index { at: usize, index: i32 },
    Length { query: usize, length: i32 },
}

#[derive(Clone, Copy, Debug)]
pub enum Tensor {
    Q,
    Kv,
    Indices,
    TopkLength,
    AttnSink,
    Out,
    Lse,
    MaxLogits,
}

const TENSORS: [Tensor; 8] = [
    Tensor::Q,
    Tensor::Kv,
    Tensor::Indices,
    Tensor::TopkLength,
    Tensor::AttnSink,
    Tensor::Out,
    Tensor::Lse,
    Tensor::MaxLogits,
];

impl Tensor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::Kv => "kv",
            Self::Indices => "indices",
            Self::TopkLength => "topk_length",
            Self::AttnSink => "attn_sink",
            Self::Out => "out",
            Self::Lse => "lse",
            Self::MaxLogits => "max_logits",
        }
    }
}

impl Wrong {
    fn same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tensor(a, _), Self::Tensor(b, _)) => a.name() == b.name(),
            // Two wrong sizes may agree with each other.
            (Self::Field { .. }, Self::Tensor(_, Flaw::Size { .. }))
            | (Self::Tensor(_, Flaw::Size { .. }), Self::Field { .. }) => true,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// All arguments of a call.
pub struct Call {
    pub case: SparsePrefillCase,
    pub q: Argument<bf16, 3>,
    pub kv: Argument<bf16, 3>,
    pub indices: Argument<i32, 3>,
    pub topk_length: Option<Argument<i32, 1>>,
    pub attn_sink: Option<Argument<f32, 1>>,
    pub out: Argument<bf16, 3>,
    pub lse: Argument<f32, 2>,
    pub max_logits: Argument<f32, 2>,
}

impl Call {
    pub fn new(case: SparsePrefillCase) -> Self {
        let p = &case.problem;
        Self {
            q: Argument::input(&case.q, [p.s_q, p.h_q, p.head_dim]),
            kv: Argument::input(&case.kv, [p.s_kv, 1, p.head_dim]),
            indices: Argument::input(&case.indices, [p.s_q, 1, p.topk]),
            topk_length: optional(case.topk_length.as_ref(), [p.s_q]),
            attn_sink: optional(case.attn_sink.as_ref(), [p.h_q]),
            out: Argument::output([p.s_q, p.h_q, p.head_dim_v]),
            lse: Argument::output([p.s_q, p.h_q]),
            max_logits: Argument::output([p.s_q, p.h_q]),
            case,
        }
    }

    /// Contents come before views: they are laid out again.
    pub fn spoil_contents(&mut self, wrong: Wrong) {
        match wrong {
            Wrong::Index { at, index } => self.case.indices[at] = index,
            Wrong::Length { query, length } => {
                self.case.topk_length.as_mut().expect("the base has lengths")[query] = length;
            }
            _ => return,
        }
        *self = Self::new(self.case.clone());
    }

    pub fn spoil(&mut self, wrong: Wrong) -> Verdict {
        match wrong {
            Wrong::Tensor(Tensor::Q, flaw) => self.q.spoil(flaw),
            Wrong::Tensor(Tensor::Kv, flaw) => self.kv.spoil(flaw),
            Wrong::Tensor(Tensor::Indices, flaw) => self.indices.spoil(flaw),
            Wrong::Tensor(Tensor::TopkLength, flaw) => {
                self.topk_length.as_mut().expect("lengths").spoil(flaw)
            }
            Wrong::Tensor(Tensor::AttnSink, flaw) => self.attn_sink.as_mut().expect("sinks").spoil(flaw),
            Wrong::Tensor(Tensor::Out, flaw) => self.out.spoil(flaw),
            Wrong::Tensor(Tensor::Lse, flaw) => self.lse.spoil(flaw),
            Wrong::Tensor(Tensor::MaxLogits, flaw) => self.max_logits.spoil(flaw),
            Wrong::Field { which, choice } => {
                let p = &mut self.case.problem;
                let mut fields = vec![
                    &mut p.s_q,
                    &mut p.h_q,
                    &mut p.head_dim,
                    &mut p.head_dim_v,
                    &mut p.s_kv,
                    &mut p.topk,
                ];
                let count = fields.len();
                let field = fields.swap_remove(which % count);
                let size = *field;
                *field = wrong_size(size, choice);
                if *field == size { Verdict::Sound } else { Verdict::Fatal }
            }
            Wrong::Scale(scale) => {
                self.case.problem.softmax_scale = scale;
                Verdict::Fatal
            }
            Wrong::Index { .. } | Wrong::Length { .. } => Verdict::Sound,
        }
    }

    pub fn run(&mut self) -> Result<(), Error> {
        let cpu = Backend::cpu();
        let plan = SparsePrefillPlan::new(&self.case.problem, &cpu.device)?;
        let mut workspace = cpu.workspace(plan.workspace_bytes());
        let inputs = SparsePrefillInputs {
            q: self.q.view(),
            kv: self.kv.view(),
            indices: self.indices.view(),
            topk_length: self.topk_length.as_ref().map(Argument::view),
            attn_sink: self.attn_sink.as_ref().map(Argument::view),
        };
        let mut outputs = SparsePrefillOutputs {
            out: self.out.view_mut(),
            lse: self.lse.view_mut(),
            max_logits: self.max_logits.view_mut(),
        };
        plan.run(&cpu.stream(), &inputs, &mut outputs, &mut workspace.as_workspace())
    }

    fn is_untouched(&self) -> bool {
        self.out.is_untouched() && self.lse.is_untouched() && self.max_logits.is_untouched()
    }

    fn check_answer(&self) -> Result<(), TestCaseError> {
        let case = SparsePrefillCase {
            problem: self.case.problem.clone(),
            q: self.q.data(),
            kv: self.kv.data(),
            indices: self.indices.data(),
            topk_length: self.topk_length.as_ref().map(Argument::data),
            attn_sink: self.attn_sink.as_ref().map(Argument::data),
            expected: None,
        };
        let mut lengths = case.topk_length.iter().flatten();
        let topk = case.problem.topk;
        prop_assert!(lengths.all(|&l| usize::try_from(l).is_ok_and(|l| l <= topk)), "accepted");
        let out = self.out.data().into_iter().map(bf16::to_f32).collect();
        let actual = Expected { out, lse: self.lse.data(), max_logits: self.max_logits.data() };
        SPARSE_PREFILL.check(&actual, &answer(&case)).map_err(|why| TestCaseError::fail(why.to_string()))
    }
}

/// Small enough for thousands of calls. Every key is a number: flaws may make any of them take part.
pub fn base() -> SparsePrefillCase {
    let spec = Spec {
        s_q: 3,
        h_q: 2,
        s_kv: 6,
        topk: 4,
        invalid: Invalid::Extreme,
        topk_length: Some(vec![4, 0, 2]),
        sinks: true,
        ..Spec::default()
    };
    let mut case = spec.case();
    case.kv = Noise::new(1).bf16(KEY_SD, case.kv.len());
    case
}

fn wrongs() -> impl Strategy<Value = Wrong> + Clone {
    let tensor = prop::sample::select(&TENSORS[..]);
    let number = prop_oneof![-2_i32..12, Just(i32::MIN), Just(i32::MAX)];
    prop_oneof![
        12 => (tensor, Flaw::any()).prop_map(|(tensor, flaw)| Wrong::Tensor(tensor, flaw)),
        4 => (0_usize..6, 0_usize..8).prop_map(|(which, choice)| Wrong::Field { which, choice }),
        1 => prop::sample::select(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..]).prop_map(Wrong::Scale),
        2 => (0_usize..12, number.clone()).prop_map(|(at, index)| Wrong::Index { at, index }),
        2 => (0_usize..3, number).prop_map(|(query, length)| Wrong::Length { query, length }),
    ]
}

proptest! {
    #![proptest_config(config(3000))]
    #[test]
    fn malformed_problems(wrongs in one_or_two(wrongs(), Wrong::same_place)) {
        let mut call = Call::new(base());
        wrongs.iter().for_each(|&wrong| call.spoil_contents(wrong));
        let verdicts: Vec<Verdict> = wrongs.iter().map(|&wrong| call.spoil(wrong)).collect();
        match call.run() {
            Ok(()) => {
                prop_assert!(!verdicts.contains(&Verdict::Fatal), "accepted");
                call.check_answer()?;
            }
            Err(why) => {
                prop_assert!(call.is_untouched(), "outputs touched, then: {}", why);
                if let ([Wrong::Tensor(tensor, _)], [Verdict::Fatal]) = (&wrongs[..], &verdicts[..]) {
                    prop_assert!(is_about(argument_of(&why), tensor.name()), "{}", why);
                }
            }
        }
    }
}

#[test]
fn the_base_is_sound() {
    let mut call = Call::new(base());
    call.run().expect("a sound problem");
    call.check_answer().expect("the right answer");
}
