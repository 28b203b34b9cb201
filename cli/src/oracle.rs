//! The float64 reference's answer to a case, or to as many of its heads as there is time for.

use std::ops::Range;

use half::{bf16, f16};
use oximla::case_file::{
    Case, DenseDecodeCase, HalfVec, InverseRopeCase, ScopeCase, SparseDecodeCase, SparsePrefillCase,
    SparsePrefillFp8Case,
};
use oximla::{InvalidProblem, KvFormat};
use oximla_reference::{
    Attention, DenseDecode, Fp8Format, QueryAngles, RopeAngles, Scope, SparseDecode, SparsePrefill,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rayon::prelude::*;

use crate::compare::Answer;
use crate::layout::Layout;

/// A case and the heads of it to answer.
#[derive(Debug)]
pub struct Question<'a> {
    case: &'a Case,
    layout: &'a Layout,
    parts: Vec<Part>,
}

/// Heads of one request that read the same keys, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    request: usize,
    heads: Vec<usize>,
}

impl<'a> Question<'a> {
    /// All of the case.
    ///
    /// # Errors
    /// As [`Question::sample`].
    pub fn all(case: &'a Case, layout: &'a Layout) -> Result<Self, InvalidProblem> {
        validate(case)?;
        let heads: Vec<usize> = (0..layout.batch * layout.h_q).collect();
        Ok(Self::new(case, layout, &heads))
    }

    /// `count` different heads of any requests (or all, if there are no more), with all query tokens.
    ///
    /// # Errors
    /// When the case's problem contradicts itself: the reference would panic.
    pub fn sample(
        case: &'a Case,
        layout: &'a Layout,
        count: usize,
        seed: u64,
    ) -> Result<Self, InvalidProblem> {
        validate(case)?;
        let total = layout.batch * layout.h_q;
        let mut random = StdRng::seed_from_u64(seed);
        let mut heads = rand::seq::index::sample(&mut random, total, count.min(total)).into_vec();
        heads.sort_unstable();
        Ok(Self::new(case, layout, &heads))
    }

    /// From heads numbered `request · h_q + head`, in ascending order.
    fn new(case: &'a Case, layout: &'a Layout, heads: &[usize]) -> Self {
        let kv_heads = match case {
            Case::DenseDecode(case) => case.problem.h_kv,
            Case::SparseDecode(_) | Case::SparsePrefill(_) | Case::SparsePrefillFp8(_) => 1,
        };
        Self { case, layout, parts: parts(heads, layout.h_q, layout.h_q / kv_heads) }
    }

    /// How often [`Question::answer`] calls back.
    pub fn steps(&self) -> usize {
        self.parts.len()
    }

    /// Computes it, on all threads; calls back after each step.
    pub fn answer(&self, after_step: impl Fn() + Sync) -> Answer {
        // Values all requests share are widened once.
        let shared = match self.case {
            Case::SparsePrefill(case) => widen(&case.kv).collect(),
            Case::DenseDecode(_) | Case::SparseDecode(_) | Case::SparsePrefillFp8(_) => Vec::new(),
        };
        let answers: Vec<Attention> = self
            .parts
            .par_iter()
            .map(|part| {
                let attention = match self.case {
                    Case::DenseDecode(case) => part.dense_decode(case),
                    Case::SparseDecode(case) => part.sparse_decode(&case.into(), |decode| decode.run()),
                    Case::SparsePrefillFp8(case) => {
                        part.sparse_decode(&case.into(), |decode| decode.run_as_prefill())
                    }
                    Case::SparsePrefill(case) => part.sparse_prefill(case, &shared),
                };
                after_step();
                attention
            })
            .collect();

        let mut answer =
            Answer { rows: Vec::new(), out: Vec::new(), lse: Vec::new(), max_logits: Vec::new() };
        for (part, attention) in self.parts.iter().zip(answers) {
            let Layout { s_q, head_dim_v, .. } = *self.layout;
            let own = Layout::decode(1, s_q, part.heads.len(), head_dim_v);
            for row in own.rows() {
                let (query, head) = (row.out / part.heads.len(), part.heads[row.out % part.heads.len()]);
                answer.rows.push(self.layout.row(part.request, query, head));
                answer.lse.push(attention.lse[row.lse]);
                answer.max_logits.extend(attention.max_logits.get(row.lse));
            }
            answer.out.extend(attention.out);
        }
        answer
    }
}

/// What a sparse decode and a prefill over FP8 caches have in common; a prefill's query tokens are requests of one.
struct SparseInputs<'a> {
    s_q: usize,
    h_q: usize,
    format: Fp8Format,
    q: &'a [bf16],
    scope: &'a ScopeCase,
    extra: Option<&'a ScopeCase>,
    attn_sink: Option<&'a [f32]>,
    softmax_scale: f32,
    angles: Option<oximla::RopeAngles>,
    rope: Option<&'a InverseRopeCase>,
}

impl<'a> From<&'a SparseDecodeCase> for SparseInputs<'a> {
    fn from(case: &'a SparseDecodeCase) -> Self {
        let p = &case.problem;
        Self {
            s_q: p.s_q,
            h_q: p.h_q,
            format: fp8_format(p.format),
            q: &case.q,
            scope: &case.scope,
            extra: case.extra.as_ref(),
            attn_sink: case.attn_sink.as_deref(),
            softmax_scale: p.softmax_scale,
            angles: p.inverse_rope,
            rope: case.inverse_rope.as_ref(),
        }
    }
}

impl<'a> From<&'a SparsePrefillFp8Case> for SparseInputs<'a> {
    fn from(case: &'a SparsePrefillFp8Case) -> Self {
        let p = &case.problem;
        Self {
            s_q: 1,
            h_q: p.h_q,
            format: fp8_format(p.format),
            q: &case.q,
            scope: &case.scope,
            extra: case.extra.as_ref(),
            attn_sink: case.attn_sink.as_deref(),
            softmax_scale: p.softmax_scale,
            angles: p.inverse_rope,
            rope: case.inverse_rope.as_ref(),
        }
    }
}

fn fp8_format(format: KvFormat) -> Fp8Format {
    match format {
        KvFormat::Model1Fp8 => Fp8Format::Model1,
        _ => Fp8Format::V32,
    }
}

impl Part {
    fn dense_decode(&self, case: &DenseDecodeCase) -> Attention {
        let p = &case.problem;
        let len = case.cache_seqlens[self.request];
        let pages = usize::try_from(len).unwrap_or(0).div_ceil(p.page_size).min(p.max_pages);

        // Only the pages of this request, only the KV head of these heads: the whole cache may be too large in f64.
        let kv_head = self.heads[0] / (p.h_q / p.h_kv);
        let mut kv_cache = Vec::with_capacity(pages * p.page_size * p.head_dim);
        let mut block_table = vec![NO_PAGE; p.max_pages];
        let mut next = 0;
        for (entry, &page) in
            block_table.iter_mut().zip(&case.block_table[self.request * p.max_pages..][..pages])
        {
            let Some(page) = usize::try_from(page).ok().filter(|&page| page < p.num_pages) else { continue };
            for token in page * p.page_size..(page + 1) * p.page_size {
                case.kv_cache.widen_into(&mut kv_cache, row(token * p.h_kv + kv_head, p.head_dim));
            }
            *entry = next;
            next += 1;
        }

        let mut q = Vec::with_capacity(p.s_q * self.heads.len() * p.head_dim);
        for row in self.q_rows(p.s_q, p.h_q, p.head_dim) {
            case.q.widen_into(&mut q, row);
        }
        DenseDecode {
            batch: 1,
            s_q: p.s_q,
            h_q: self.heads.len(),
            h_kv: 1,
            head_dim: p.head_dim,
            head_dim_v: p.head_dim_v,
            page_size: p.page_size,
            max_pages: p.max_pages,
            q: &q,
            kv_cache: &kv_cache,
            block_table: &block_table,
            cache_seqlens: &[len],
            softmax_scale: f64::from(p.softmax_scale),
            causal: p.causal,
        }
        .run()
    }

    /// What `run` gets from the reference.
    fn sparse_decode(
        &self,
        inputs: &SparseInputs<'_>,
        run: impl FnOnce(&SparseDecode<'_>) -> Attention,
    ) -> Attention {
        let &SparseInputs { s_q, h_q, format, scope, extra, .. } = inputs;
        let rows = self.q_rows(s_q, h_q, format.head_dim());
        let q: Vec<f64> = rows.flat_map(|row| widen(&inputs.q[row])).collect();
        run(&SparseDecode {
            batch: 1,
            s_q,
            h_q: self.heads.len(),
            format,
            q: &q,
            scope: self.scope(format, s_q, scope),
            extra: extra.map(|extra| self.scope(format, s_q, extra)),
            attn_sink: self.sinks(inputs.attn_sink).as_deref(),
            softmax_scale: f64::from(inputs.softmax_scale),
            inverse_rope: self.query_angles(inputs),
        })
    }

    fn query_angles<'a>(&self, inputs: &SparseInputs<'a>) -> Option<QueryAngles<'a>> {
        let rope = inputs.rope?;
        let angles = match inputs.angles? {
            oximla::RopeAngles::Theta(theta) => RopeAngles::Theta(theta),
            oximla::RopeAngles::Table { .. } => RopeAngles::Table(rope.cos_sin.as_deref()?),
        };
        Some(QueryAngles { positions: &rope.positions[row(self.request, inputs.s_q)], angles })
    }

    fn scope<'a>(&self, format: Fp8Format, s_q: usize, scope: &'a ScopeCase) -> Scope<'a> {
        let (page_size, topk) = (scope.shape.page_size, scope.shape.topk);
        let batch = scope.indices.len() / (s_q * topk);
        Scope {
            kv_cache: &scope.kv_cache,
            page_size,
            page_stride: format.page_bytes(page_size),
            indices: &scope.indices[row(self.request, s_q * topk)],
            topk,
            topk_length: scope
                .topk_length
                .as_ref()
                .map(|lengths| &lengths[row(self.request, lengths.len() / batch)]),
        }
    }

    fn sparse_prefill(&self, case: &SparsePrefillCase, kv: &[f64]) -> Attention {
        let p = &case.problem;
        let rows = self.q_rows(1, p.h_q, p.head_dim);
        let q: Vec<f64> = rows.flat_map(|row| widen(&case.q[row])).collect();
        SparsePrefill {
            s_q: 1,
            h_q: self.heads.len(),
            head_dim: p.head_dim,
            head_dim_v: p.head_dim_v,
            s_kv: p.s_kv,
            topk: p.topk,
            q: &q,
            kv,
            indices: &case.indices[row(self.request, p.topk)],
            topk_length: case.topk_length.as_ref().map(|lengths| &lengths[row(self.request, 1)]),
            attn_sink: self.sinks(case.attn_sink.as_deref()).as_deref(),
            softmax_scale: f64::from(p.softmax_scale),
        }
        .run()
    }

    /// The elements of q that belong to these heads, query token by query token.
    fn q_rows(&self, s_q: usize, h_q: usize, head_dim: usize) -> impl Iterator<Item = Range<usize>> {
        let first = self.request * s_q;
        (first..first + s_q).flat_map(move |query_token| {
            self.heads.iter().map(move |head| row(query_token * h_q + head, head_dim))
        })
    }

    fn sinks(&self, all: Option<&[f32]>) -> Option<Vec<f32>> {
        all.map(|all| self.heads.iter().map(|&head| all[head]).collect())
    }
}

/// Elements of a row that will be widened into f64.
trait WidenInto {
    fn widen_into(&self, to: &mut Vec<f64>, range: Range<usize>);
}

impl WidenInto for HalfVec {
    fn widen_into(&self, to: &mut Vec<f64>, range: Range<usize>) {
        match self {
            Self::Bf16(values) => to.extend(widen(&values[range])),
            Self::Fp16(values) => to.extend(values[range].iter().copied().map(f16::to_f64)),
        }
    }
}

/// A page-table entry that names no page.
const NO_PAGE: i32 = -1;

fn validate(case: &Case) -> Result<(), InvalidProblem> {
    match case {
        Case::DenseDecode(case) => case.problem.validate(),
        Case::SparseDecode(case) => case.problem.validate(),
        Case::SparsePrefill(case) => case.problem.validate(),
        Case::SparsePrefillFp8(case) => case.problem.validate(),
    }
}

/// Groups ascending heads, numbered `request · h_q + head`, by the keys they read.
fn parts(heads: &[usize], h_q: usize, heads_per_kv_head: usize) -> Vec<Part> {
    heads
        .chunk_by(|a, b| a / heads_per_kv_head == b / heads_per_kv_head)
        .map(|chunk| Part { request: chunk[0] / h_q, heads: chunk.iter().map(|head| head % h_q).collect() })
        .collect()
}

fn row(number: usize, len: usize) -> Range<usize> {
    number * len..(number + 1) * len
}

fn widen(values: &[bf16]) -> impl Iterator<Item = f64> {
    values.iter().copied().map(bf16::to_f64)
}

/// That parts say the same as the whole is tested with whole cases in `tests/check.rs`.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_grouped_by_their_keys() {
        // Two requests of four heads, two to a KV head.
        let part = |request, heads: &[usize]| Part { request, heads: heads.to_vec() };
        let all: Vec<usize> = (0..8).collect();
        assert_eq!(
            parts(&all, 4, 2),
            [part(0, &[0, 1]), part(0, &[2, 3]), part(1, &[0, 1]), part(1, &[2, 3])]
        );
        assert_eq!(parts(&[1, 2, 6, 7], 4, 2), [part(0, &[1]), part(0, &[2]), part(1, &[2, 3])]);
        assert_eq!(parts(&[0, 3, 5], 4, 4), [part(0, &[0, 3]), part(1, &[1])]);
    }
}
