//! Malformed sparse decodes.

use half::bf16;
use oximla::case_file::{Expected, InverseRopeCase, ScopeCase, SparseDecodeCase};
use oximla::{
    Error, InverseRopeInputs, KvFormat, KvScope, RopeAngles, SparseDecodeInputs, SparseDecodeOutputs,
    SparseDecodePlan,
};
use oximla_conformance::backend::Backend;
use oximla_conformance::inverse_rope::ROPE_DIM;
use oximla_conformance::noise::{KEY_SD, Noise};
use oximla_conformance::sparse_decode::{HEAD_DIM_V, Invalid, ScopeSpec, Spec, answer};
use oximla_conformance::tolerance::SPARSE_DECODE;
use oximla_reference::Fp8Format;
use proptest::prelude::*;

use crate::argument::{Argument, Flaw, optional};
use crate::{Verdict, argument_of, config, is_about, one_or_two, wrong_size};

/// The one that has everything: its output may be turned back.
const FORMAT: Fp8Format = Fp8Format::Model1;

const MAX_POSITIONS: usize = 4;

/// One thing wrong with a sparse decode.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    Tensor(Tensor, Flaw),
    Field {
        which: usize,
        choice: usize,
    },
    Scale(f32),
    Format(KvFormat),
    /// Other angles than those that there are tensors for.
    Angles(Option<RopeAngles>),
    /// The tensors of the second scope are missing, or there are tensors for a scope that the problem has not.
    ExtraMismatch {
        given: bool,
    },
    Index {
        extra: bool,
        at: usize,
        index: i32,
    },
    Length {
        extra: bool,
        request: usize,
        length: i32,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Tensor {
    Q,
    AttnSink,
    Positions,
    CosSin,
    Out,
    Lse,
    KvCache { extra: bool },
    Indices { extra: bool },
    TopkLength { extra: bool },
}

const TENSORS: [Tensor; 12] = [
    Tensor::Q,
    Tensor::AttnSink,
    Tensor::Positions,
    Tensor::CosSin,
    Tensor::Out,
    Tensor::Lse,
    Tensor::KvCache { extra: false },
    Tensor::KvCache { extra: true },
    Tensor::Indices { extra: false },
    Tensor::Indices { extra: true },
    Tensor::TopkLength { extra: false },
    Tensor::TopkLength { extra: true },
];

const WRONG_ANGLES: [Option<RopeAngles>; 5] = [
    None,
    Some(RopeAngles::Theta(1e4)),
    Some(RopeAngles::Theta(0.0)),
    Some(RopeAngles::Table { max_positions: 0 }),
    Some(RopeAngles::Table { max_positions: MAX_POSITIONS + 1 }),
];

impl Tensor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::AttnSink => "attn_sink",
            Self::Positions => "inverse_rope.positions",
            Self::CosSin => "inverse_rope.cos_sin",
            Self::Out => "out",
            Self::Lse => "lse",
            Self::KvCache { extra: false } => "scope.kv_cache",
            Self::KvCache { extra: true } => "extra.kv_cache",
            Self::Indices { extra: false } => "scope.indices",
            Self::Indices { extra: true } => "extra.indices",
            Self::TopkLength { extra: false } => "scope.topk_length",
            Self::TopkLength { extra: true } => "extra.topk_length",
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
            // So may a table's length and its tensor's.
            (
                Self::Angles(Some(RopeAngles::Table { .. })),
                Self::Tensor(Tensor::CosSin, Flaw::Size { dim: 0, .. }),
            )
            | (
                Self::Tensor(Tensor::CosSin, Flaw::Size { dim: 0, .. }),
                Self::Angles(Some(RopeAngles::Table { .. })),
            ) => true,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// All arguments of a call.
pub struct Call {
    pub case: SparseDecodeCase,
    pub q: Argument<bf16, 4>,
    pub scopes: [Scope; 2],
    pub extra_given: bool,
    pub attn_sink: Option<Argument<f32, 1>>,
    pub positions: Argument<i32, 2>,
    pub cos_sin: Argument<f32, 2>,
    pub out: Argument<bf16, 4>,
    pub lse: Argument<f32, 3>,
}

pub struct Scope {
    pub kv_cache: Argument<u8, 4>,
    pub indices: Argument<i32, 3>,
    pub topk_length: Option<Argument<i32, 2>>,
}

impl Scope {
    fn new(case: &SparseDecodeCase, scope: &ScopeCase) -> Self {
        let (p, shape) = (&case.problem, &scope.shape);
        let token_bytes = scope.kv_cache.len() / (shape.num_pages * shape.page_size);
        Self {
            kv_cache: Argument::input(&scope.kv_cache, [shape.num_pages, shape.page_size, 1, token_bytes]),
            indices: Argument::input(&scope.indices, [p.batch, p.s_q, shape.topk]),
            topk_length: optional(scope.topk_length.as_ref(), [p.batch, 1]),
        }
    }

    fn view(&self) -> KvScope<'_> {
        KvScope {
            kv_cache: self.kv_cache.view(),
            indices: self.indices.view(),
            topk_length: self.topk_length.as_ref().map(Argument::view),
        }
    }

    fn data(&self, case: &ScopeCase) -> ScopeCase {
        ScopeCase {
            shape: case.shape,
            kv_cache: self.kv_cache.data(),
            indices: self.indices.data(),
            topk_length: self.topk_length.as_ref().map(Argument::data),
        }
    }
}

impl Call {
    pub fn new(case: SparseDecodeCase) -> Self {
        let p = &case.problem;
        let head_dim = case.q.len() / (p.batch * p.s_q * p.h_q);
        let extra = case.extra.as_ref().expect("the base has two scopes");
        let rope = case.inverse_rope.as_ref().expect("the base has positions");
        Self {
            q: Argument::input(&case.q, [p.batch, p.s_q, p.h_q, head_dim]),
            scopes: [Scope::new(&case, &case.scope), Scope::new(&case, extra)],
            extra_given: true,
            attn_sink: optional(case.attn_sink.as_ref(), [p.h_q]),
            positions: Argument::input(&rope.positions, [p.batch, p.s_q]),
            cos_sin: Argument::input(rope.cos_sin.as_ref().expect("a table"), [MAX_POSITIONS, ROPE_DIM]),
            out: Argument::output([p.batch, p.s_q, p.h_q, HEAD_DIM_V]),
            lse: Argument::output([p.batch, p.h_q, p.s_q]),
            case,
        }
    }

    /// Contents come before views: they are laid out again.
    pub fn spoil_contents(&mut self, wrong: Wrong) {
        match wrong {
            Wrong::Index { extra, at, index } => {
                let indices = &mut self.scope_case(extra).indices;
                let at = at % indices.len();
                indices[at] = index;
            }
            Wrong::Length { extra, request, length } => {
                self.scope_case(extra).topk_length.as_mut().expect("the base has lengths")[request] = length;
            }
            _ => return,
        }
        *self = Self::new(self.case.clone());
    }

    fn scope_case(&mut self, extra: bool) -> &mut ScopeCase {
        if extra { self.case.extra.as_mut().expect("the base has two scopes") } else { &mut self.case.scope }
    }

    pub fn spoil(&mut self, wrong: Wrong) -> Verdict {
        let [scope, extra_scope] = &mut self.scopes;
        match wrong {
            Wrong::Tensor(Tensor::Q, flaw) => self.q.spoil(flaw),
            Wrong::Tensor(Tensor::Out, flaw) => self.out.spoil(flaw),
            Wrong::Tensor(Tensor::Lse, flaw) => self.lse.spoil(flaw),
            Wrong::Tensor(Tensor::AttnSink, flaw) => self.attn_sink.as_mut().expect("sinks").spoil(flaw),
            Wrong::Tensor(Tensor::Positions, flaw) => self.positions.spoil(flaw),
            Wrong::Tensor(Tensor::CosSin, flaw) => self.cos_sin.spoil(flaw),
            Wrong::Tensor(Tensor::KvCache { extra }, flaw) => {
                if extra { extra_scope } else { scope }.kv_cache.spoil(flaw)
            }
            Wrong::Tensor(Tensor::Indices { extra }, flaw) => {
                if extra { extra_scope } else { scope }.indices.spoil(flaw)
            }
            Wrong::Tensor(Tensor::TopkLength { extra }, flaw) => {
                let lengths = if extra { extra_scope } else { scope }.topk_length.as_mut().expect("lengths");
                let verdict = lengths.spoil(flaw);
                // As many lengths as there are query tokens are as good as one for each request.
                let is_sound = matches!(flaw, Flaw::Size { .. })
                    && lengths.shape() == [self.case.problem.batch, self.case.problem.s_q];
                if is_sound { Verdict::Sound } else { verdict }
            }
            Wrong::Field { which, choice } => {
                let p = &mut self.case.problem;
                let extra = p.extra.as_mut();
                let mut fields = vec![
                    &mut p.batch,
                    &mut p.s_q,
                    &mut p.h_q,
                    &mut p.scope.num_pages,
                    &mut p.scope.page_size,
                    &mut p.scope.topk,
                ];
                fields.extend(
                    extra.into_iter().flat_map(|e| [&mut e.num_pages, &mut e.page_size, &mut e.topk]),
                );
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
            Wrong::Angles(angles) => {
                self.case.problem.inverse_rope = angles;
                Verdict::Fatal
            }
            Wrong::Format(format) => {
                let changed = self.case.problem.format != format;
                self.case.problem.format = format;
                if changed { Verdict::Fatal } else { Verdict::Sound }
            }
            Wrong::ExtraMismatch { given } => {
                self.extra_given = given;
                if given {
                    self.case.problem.extra = None;
                }
                Verdict::Fatal
            }
            Wrong::Index { .. } | Wrong::Length { .. } => Verdict::Sound,
        }
    }

    pub fn run(&mut self) -> Result<(), Error> {
        let cpu = Backend::cpu();
        let plan = SparseDecodePlan::new(&self.case.problem, &cpu.device)?;
        let mut workspace = cpu.workspace(plan.workspace_bytes());
        let [scope, extra] = &self.scopes;
        let inputs = SparseDecodeInputs {
            q: self.q.view(),
            scope: scope.view(),
            extra: self.extra_given.then(|| extra.view()),
            attn_sink: self.attn_sink.as_ref().map(Argument::view),
            inverse_rope: Some(InverseRopeInputs {
                positions: self.positions.view(),
                cos_sin: Some(self.cos_sin.view()),
            }),
        };
        let mut outputs = SparseDecodeOutputs { out: self.out.view_mut(), lse: self.lse.view_mut() };
        plan.run(&cpu.stream(), &inputs, &mut outputs, &mut workspace.as_workspace())
    }

    fn check_answer(&self) -> Result<(), TestCaseError> {
        let [scope, extra] = &self.scopes;
        let case = SparseDecodeCase {
            problem: self.case.problem.clone(),
            q: self.q.data(),
            scope: scope.data(&self.case.scope),
            extra: self.case.extra.as_ref().map(|case| extra.data(case)),
            attn_sink: self.attn_sink.as_ref().map(Argument::data),
            inverse_rope: Some(InverseRopeCase {
                positions: self.positions.data(),
                cos_sin: Some(self.cos_sin.data()),
            }),
            expected: None,
        };
        let scopes = [Some(&case.scope), case.extra.as_ref()];
        prop_assert!(scopes.into_iter().flatten().all(has_sound_lengths), "accepted");
        let out = self.out.data().into_iter().map(bf16::to_f32).collect();
        let actual = Expected { out, lse: self.lse.data(), max_logits: Vec::new() };
        let answer = answer(&case);
        // Bytes that are no longer where the format has them may be anything.
        prop_assume!(answer.out.iter().all(|x| x.is_finite()));
        SPARSE_DECODE.check(&actual, &answer).map_err(|why| TestCaseError::fail(why.to_string()))
    }
}

fn has_sound_lengths(scope: &ScopeCase) -> bool {
    let mut lengths = scope.topk_length.iter().flatten();
    lengths.all(|&length| usize::try_from(length).is_ok_and(|length| length <= scope.shape.topk))
}

/// Small enough for thousands of calls. Every key is a number: flaws may make any of them take part.
pub fn base() -> SparseDecodeCase {
    let scope = |page_size, num_pages| ScopeSpec {
        page_size,
        num_pages,
        topk: 4,
        invalid: Invalid::Extreme,
        topk_length: Some(vec![4, 2]),
    };
    let (scope, extra) = (scope(3, 2), Some(scope(2, 3)));
    let inverse_rope = Some(RopeAngles::Table { max_positions: MAX_POSITIONS });
    let spec =
        Spec { s_q: 2, h_q: 2, format: FORMAT, scope, extra, sinks: true, inverse_rope, ..Spec::default() };
    let mut case = spec.case();
    let mut noise = Noise::new(1);
    let rope = case.inverse_rope.as_mut().expect("positions");
    rope.cos_sin = Some(noise.normal(0.7, MAX_POSITIONS * ROPE_DIM));
    for scope in [Some(&mut case.scope), case.extra.as_mut()].into_iter().flatten() {
        let page_len = scope.shape.page_size * FORMAT.head_dim();
        let pages = (0..scope.shape.num_pages).map(|_| noise.bf16(KEY_SD, page_len));
        scope.kv_cache = pages.flat_map(|page| FORMAT.quantise_page(&page)).collect();
    }
    case
}

fn wrongs() -> impl Strategy<Value = Wrong> + Clone {
    let tensor = prop::sample::select(&TENSORS[..]);
    let format =
        prop::sample::select(&[KvFormat::Bf16, KvFormat::Fp16, KvFormat::Model1Fp8, KvFormat::V32Fp8][..]);
    let angles = prop::sample::select(&WRONG_ANGLES[..]);
    let number = prop_oneof![-2_i32..12, Just(i32::MIN), Just(i32::MAX)];
    prop_oneof![
        12 => (tensor, Flaw::any()).prop_map(|(tensor, flaw)| Wrong::Tensor(tensor, flaw)),
        4 => (0_usize..9, 0_usize..8).prop_map(|(which, choice)| Wrong::Field { which, choice }),
        1 => prop::sample::select(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..]).prop_map(Wrong::Scale),
        1 => format.prop_map(Wrong::Format),
        1 => angles.prop_map(Wrong::Angles),
        1 => any::<bool>().prop_map(|given| Wrong::ExtraMismatch { given }),
        2 => (any::<bool>(), 0_usize..16, number.clone())
            .prop_map(|(extra, at, index)| Wrong::Index { extra, at, index }),
        2 => (any::<bool>(), 0_usize..2, number)
            .prop_map(|(extra, request, length)| Wrong::Length { extra, request, length }),
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
                prop_assert!(call.out.is_untouched() && call.lse.is_untouched(), "outputs touched, then: {}", why);
                if let ([Wrong::Tensor(tensor, _)], [Verdict::Fatal]) = (&wrongs[..], &verdicts[..]) {
                    prop_assert!(is_about(argument_of(&why), tensor.name()), "{}", why);
                }
            }
        }
    }
}

/// Each by itself is wrong.
#[test]
fn a_longer_table_is_sound_with_as_long_a_tensor() {
    let longer = Wrong::Angles(Some(RopeAngles::Table { max_positions: MAX_POSITIONS + 1 }));
    let tensors = (0..8).map(|choice| Wrong::Tensor(Tensor::CosSin, Flaw::Size { dim: 0, choice }));
    let sound = tensors.filter(|&tensor| {
        assert!(tensor.same_place(&longer) && longer.same_place(&tensor));
        let mut call = Call::new(base());
        call.spoil(longer);
        call.spoil(tensor);
        let is_sound = call.run().is_ok();
        if is_sound {
            call.check_answer().expect("the right answer");
        }
        is_sound
    });
    assert!(sound.count() > 0);
    let mut call = Call::new(base());
    call.spoil(longer);
    assert!(call.run().is_err());
}

#[test]
fn the_base_is_sound() {
    let mut call = Call::new(base());
    call.run().expect("a sound problem");
    call.check_answer().expect("the right answer");
}
