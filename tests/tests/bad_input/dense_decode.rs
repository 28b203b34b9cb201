//! Malformed dense decodes.

use half::bf16;
use oximla::case_file::{DenseDecodeCase, Expected, HalfVec};
use oximla::{DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Error, KvFormat};
use oximla_conformance::backend::Backend;
use oximla_conformance::dense_decode::{Spec, answer};
use oximla_conformance::tolerance::DENSE_DECODE;
use proptest::prelude::*;

use crate::argument::{Argument, Flaw};
use crate::{Verdict, argument_of, config, is_about, one_or_two, wrong_size};

/// One thing wrong with a dense decode.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    Tensor(Tensor, Flaw),
    Field { which: usize, choice: usize },
    Scale(f32),
    Format(KvFormat),
    Length { request: usize, length: i32 },
    Page { request: usize, entry: usize, page: i32 },
}

#[derive(Clone, Copy, Debug)]
pub enum Tensor {
    Q,
    KvCache,
    BlockTable,
    CacheSeqlens,
    Out,
    Lse,
}

const TENSORS: [Tensor; 6] =
    [Tensor::Q, Tensor::KvCache, Tensor::BlockTable, Tensor::CacheSeqlens, Tensor::Out, Tensor::Lse];

impl Tensor {
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::KvCache => "kv_cache",
            Self::BlockTable => "block_table",
            Self::CacheSeqlens => "cache_seqlens",
            Self::Out => "out",
            Self::Lse => "lse",
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
    pub case: DenseDecodeCase,
    pub format: KvFormat,
    pub q: Argument<bf16, 4>,
    pub kv_cache: Argument<bf16, 4>,
    pub block_table: Argument<i32, 2>,
    pub cache_seqlens: Argument<i32, 1>,
    pub out: Argument<bf16, 4>,
    pub lse: Argument<f32, 3>,
}

impl Call {
    pub fn new(case: DenseDecodeCase) -> Self {
        let p = case.problem.clone();
        let (HalfVec::Bf16(q), HalfVec::Bf16(kv_cache)) = (&case.q, &case.kv_cache) else {
            unreachable!("the spec says bf16")
        };
        Self {
            format: KvFormat::Bf16,
            q: Argument::input(q, [p.batch, p.s_q, p.h_q, p.head_dim]),
            kv_cache: Argument::input(kv_cache, [p.num_pages, p.page_size, p.h_kv, p.head_dim]),
            block_table: Argument::input(&case.block_table, [p.batch, p.max_pages]),
            cache_seqlens: Argument::input(&case.cache_seqlens, [p.batch]),
            out: Argument::output([p.batch, p.s_q, p.h_q, p.head_dim_v]),
            lse: Argument::output([p.batch, p.h_q, p.s_q]),
            case,
        }
    }

    /// Contents come before views: they are laid out again.
    pub fn spoil_contents(&mut self, wrong: Wrong) {
        let max_pages = self.case.problem.max_pages;
        match wrong {
            Wrong::Length { request, length } => self.case.cache_seqlens[request] = length,
            Wrong::Page { request, entry, page } => self.case.block_table[request * max_pages + entry] = page,
            _ => return,
        }
        *self = Self::new(self.case.clone());
    }

    pub fn spoil(&mut self, wrong: Wrong) -> Verdict {
        match wrong {
            Wrong::Tensor(Tensor::Q, flaw) => self.q.spoil(flaw),
            Wrong::Tensor(Tensor::KvCache, flaw) => self.kv_cache.spoil(flaw),
            Wrong::Tensor(Tensor::BlockTable, flaw) => self.block_table.spoil(flaw),
            Wrong::Tensor(Tensor::CacheSeqlens, flaw) => self.cache_seqlens.spoil(flaw),
            Wrong::Tensor(Tensor::Out, flaw) => self.out.spoil(flaw),
            Wrong::Tensor(Tensor::Lse, flaw) => self.lse.spoil(flaw),
            Wrong::Field { which, choice } => {
                let p = &mut self.case.problem;
                let fields = [
                    &mut p.batch,
                    &mut p.s_q,
                    &mut p.h_q,
                    &mut p.h_kv,
                    &mut p.head_dim,
                    &mut p.head_dim_v,
                    &mut p.page_size,
                    &mut p.num_pages,
                    &mut p.max_pages,
                ];
                let count = fields.len();
                let field = fields.into_iter().nth(which % count).expect("a field");
                let size = *field;
                *field = wrong_size(size, choice);
                if *field == size { Verdict::Sound } else { Verdict::Fatal }
            }
            Wrong::Scale(scale) => {
                self.case.problem.softmax_scale = scale;
                Verdict::Fatal
            }
            Wrong::Format(format) => {
                self.format = format;
                Verdict::Fatal
            }
            Wrong::Length { .. } | Wrong::Page { .. } => Verdict::Sound,
        }
    }

    pub fn run(&mut self) -> Result<(), Error> {
        let cpu = Backend::cpu();
        let plan = DenseDecodePlan::new(&self.case.problem, self.format, &cpu.device)?;
        let mut workspace = cpu.workspace(plan.workspace_bytes());
        let inputs = DenseDecodeInputs {
            q: self.q.view(),
            kv_cache: self.kv_cache.view(),
            block_table: self.block_table.view(),
            cache_seqlens: self.cache_seqlens.view(),
        };
        let mut outputs = DenseDecodeOutputs { out: self.out.view_mut(), lse: self.lse.view_mut() };
        plan.run(&cpu.stream(), &inputs, &mut outputs, &mut workspace.as_workspace())
    }

    fn check_answer(&self) -> Result<(), TestCaseError> {
        let case = DenseDecodeCase {
            problem: self.case.problem.clone(),
            q: HalfVec::Bf16(self.q.data()),
            kv_cache: HalfVec::Bf16(self.kv_cache.data()),
            block_table: self.block_table.data(),
            cache_seqlens: self.cache_seqlens.data(),
            expected: None,
        };
        prop_assert!(has_sound_contents(&case), "accepted");
        let out = self.out.data().into_iter().map(bf16::to_f32).collect();
        let actual = Expected { out, lse: self.lse.data(), max_logits: Vec::new() };
        DENSE_DECODE.check(&actual, &answer(&case)).map_err(|why| TestCaseError::fail(why.to_string()))
    }
}

/// Whether lengths and the pages in use are within bounds.
fn has_sound_contents(case: &DenseDecodeCase) -> bool {
    let p = &case.problem;
    case.block_table.chunks(p.max_pages).zip(&case.cache_seqlens).all(|(pages, &length)| {
        let Ok(length) = usize::try_from(length) else { return false };
        length <= p.max_pages * p.page_size
            && pages[..length.div_ceil(p.page_size)]
                .iter()
                .all(|&page| usize::try_from(page).is_ok_and(|page| page < p.num_pages))
    })
}

/// Small enough for thousands of calls, and every dimension but that of the KV heads is more than 1.
pub fn base() -> DenseDecodeCase {
    let mut case =
        Spec { s_q: 2, h_q: 2, page_size: 2, lengths: vec![5, 3], causal: true, ..Spec::default() }.case();
    // Flaws may make any key take part; a NaN would then be the right answer, which says little.
    if let HalfVec::Bf16(kv_cache) = &mut case.kv_cache {
        kv_cache.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = bf16::from_f32(0.25));
    }
    case
}

fn wrongs() -> impl Strategy<Value = Wrong> + Clone {
    let tensor = prop::sample::select(&TENSORS[..]);
    let format = prop::sample::select(&[KvFormat::Fp16, KvFormat::V32Fp8, KvFormat::Model1Fp8][..]);
    let number = prop_oneof![-2_i32..12, Just(i32::MIN), Just(i32::MAX)];
    prop_oneof![
        12 => (tensor, Flaw::any()).prop_map(|(tensor, flaw)| Wrong::Tensor(tensor, flaw)),
        4 => (0_usize..9, 0_usize..8).prop_map(|(which, choice)| Wrong::Field { which, choice }),
        1 => prop::sample::select(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..]).prop_map(Wrong::Scale),
        1 => format.prop_map(Wrong::Format),
        2 => (0_usize..2, number.clone()).prop_map(|(request, length)| Wrong::Length { request, length }),
        3 => (0_usize..2, 0_usize..5, number)
            .prop_map(|(request, entry, page)| Wrong::Page { request, entry, page }),
    ]
}

proptest! {
    #![proptest_config(config(4000))]
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

#[test]
fn the_base_is_sound() {
    let mut call = Call::new(base());
    call.run().expect("a sound problem");
    call.check_answer().expect("the right answer");
}
