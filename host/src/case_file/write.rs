//! From a case to a file's bytes.

use super::read::{EXTRA, ROPE_THETA};
use super::shapes::{
    DenseDecodeShapes, ScopeShapes, SparseDecodeShapes, SparsePrefillFp8Shapes, SparsePrefillShapes,
};
use super::{
    Case, DenseDecodeCase, Expected, HalfVec, InverseRopeCase, ScopeCase, SparseDecodeCase,
    SparsePrefillCase, SparsePrefillFp8Case, file_error,
};
use crate::{Error, InvalidProblem, KvFormat, RopeAngles, SparseDecode};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::HashMap;

type Checked<T> = Result<T, InvalidProblem>;

/// Tensors with their names, each checked to have as many elements as its shape.
#[derive(Default)]
struct Tensors<'a>(Vec<(String, TensorView<'a>)>);

pub(super) fn to_bytes(path: &impl ToString, case: &Case, answer: &Expected) -> Result<Vec<u8>, Error> {
    let mut tensors = inputs(case)?;
    tensors.push_answer(case, answer)?;
    safetensors::serialize(tensors.0, Some(metadata(case))).map_err(|error| file_error(path, error))
}

/// Checks that every input has as many elements as the problem says.
pub(super) fn check_inputs(case: &Case) -> Checked<()> {
    inputs(case).map(drop)
}

fn inputs(case: &Case) -> Checked<Tensors<'_>> {
    let mut tensors = Tensors::default();
    match case {
        Case::DenseDecode(case) => tensors.push_dense_decode(case)?,
        Case::SparseDecode(case) => tensors.push_sparse_decode(case)?,
        Case::SparsePrefill(case) => tensors.push_sparse_prefill(case)?,
        Case::SparsePrefillFp8(case) => tensors.push_sparse_prefill_fp8(case)?,
    }
    Ok(tensors)
}

fn metadata(case: &Case) -> HashMap<String, String> {
    let (format, scale, head_dim_v) = match case {
        Case::DenseDecode(case) => (case.q.format(), case.problem.softmax_scale, case.problem.head_dim_v),
        Case::SparseDecode(SparseDecodeCase { problem: p, .. }) => {
            (p.format, p.softmax_scale, p.format.head_dim_v() as usize)
        }
        Case::SparsePrefill(SparsePrefillCase { problem: p, .. }) => {
            (KvFormat::Bf16, p.softmax_scale, p.head_dim_v)
        }
        Case::SparsePrefillFp8(SparsePrefillFp8Case { problem: p, .. }) => {
            (p.format, p.softmax_scale, p.format.head_dim_v() as usize)
        }
    };
    let mut metadata = HashMap::from([
        ("op".to_string(), case.op().to_string()),
        ("kv_format".to_string(), format.to_string()),
        ("softmax_scale".to_string(), scale.to_string()),
        ("head_dim_v".to_string(), head_dim_v.to_string()),
    ]);
    if let Case::DenseDecode(case) = case {
        metadata.insert("causal".to_string(), case.problem.causal.to_string());
    }
    let angles = match case {
        Case::SparseDecode(case) => case.problem.inverse_rope,
        Case::SparsePrefillFp8(case) => case.problem.inverse_rope,
        Case::DenseDecode(_) | Case::SparsePrefill(_) => None,
    };
    if let Some(RopeAngles::Theta(theta)) = angles {
        metadata.insert(ROPE_THETA.to_string(), theta.to_string());
    }
    metadata
}

impl<'a> Tensors<'a> {
    fn push_dense_decode(&mut self, case: &'a DenseDecodeCase) -> Checked<()> {
        let shapes = DenseDecodeShapes::of(&case.problem);
        let (q, kv_cache) = (case.q.format(), case.kv_cache.format());
        if q != kv_cache {
            return Err(InvalidProblem::new("kv_cache", kv_cache, format!("{q}, as q is")));
        }
        self.push_halves("q", &shapes.q, &case.q)?;
        self.push_halves("kv_cache", &shapes.kv_cache, &case.kv_cache)?;
        self.push("block_table", Dtype::I32, &shapes.block_table, &case.block_table)?;
        self.push("cache_seqlens", Dtype::I32, &shapes.cache_seqlens, &case.cache_seqlens)
    }

    fn push_sparse_decode(&mut self, case: &'a SparseDecodeCase) -> Checked<()> {
        let problem = &case.problem;
        let shapes = SparseDecodeShapes::of(problem);
        self.push("q", Dtype::BF16, &shapes.q, &case.q)?;
        self.push_optional("attn_sink", Dtype::F32, &shapes.attn_sink, case.attn_sink.as_ref())?;
        self.push_inverse_rope(problem, &shapes, case.inverse_rope.as_ref())?;
        self.push_scopes(problem, &case.scope, case.extra.as_ref())
    }

    fn push_sparse_prefill_fp8(&mut self, case: &'a SparsePrefillFp8Case) -> Checked<()> {
        let shapes = SparsePrefillFp8Shapes::of(&case.problem);
        let decode = &case.problem.as_decode();
        self.push("q", Dtype::BF16, &shapes.q, &case.q)?;
        self.push_optional("attn_sink", Dtype::F32, &shapes.decode.attn_sink, case.attn_sink.as_ref())?;
        self.push_inverse_rope(decode, &shapes.decode, case.inverse_rope.as_ref())?;
        self.push_scopes(decode, &case.scope, case.extra.as_ref())
    }

    fn push_scopes(
        &mut self,
        problem: &SparseDecode,
        scope: &'a ScopeCase,
        extra: Option<&'a ScopeCase>,
    ) -> Checked<()> {
        let found = (scope.shape, extra.map(|extra| extra.shape));
        if found != (problem.scope, problem.extra) {
            let needed = format!("{:?} and {:?}, as in the problem", problem.scope, problem.extra);
            return Err(InvalidProblem::new("scopes", format!("{:?} and {:?}", found.0, found.1), needed));
        }
        self.push_scope("", problem, scope)?;
        extra.into_iter().try_for_each(|extra| self.push_scope(EXTRA, problem, extra))
    }

    fn push_inverse_rope(
        &mut self,
        problem: &SparseDecode,
        shapes: &SparseDecodeShapes,
        rope: Option<&'a InverseRopeCase>,
    ) -> Checked<()> {
        let has_table = matches!(problem.inverse_rope, Some(RopeAngles::Table { .. }));
        let given = (rope.is_some(), rope.is_some_and(|rope| rope.cos_sin.is_some()));
        if given != (problem.inverse_rope.is_some(), has_table) {
            let [found, needed] = [given, (problem.inverse_rope.is_some(), has_table)]
                .map(|(positions, table)| format!("positions: {positions}, table: {table}"));
            return Err(InvalidProblem::new("inverse_rope", found, format!("{needed}, as in the problem")));
        }
        rope.map_or(Ok(()), |rope| {
            self.push("positions", Dtype::I32, &shapes.positions, &rope.positions)?;
            self.push_optional("cos_sin", Dtype::F32, &shapes.cos_sin, rope.cos_sin.as_ref())
        })
    }

    fn push_scope(&mut self, prefix: &str, problem: &SparseDecode, scope: &'a ScopeCase) -> Checked<()> {
        let shapes = ScopeShapes::of(problem, &scope.shape);
        let name = |tensor| format!("{prefix}{tensor}");
        self.push(&name("kv_cache"), Dtype::U8, &shapes.kv_cache, &scope.kv_cache)?;
        self.push(&name("indices"), Dtype::I32, &shapes.indices, &scope.indices)?;
        let Some(lengths) = &scope.topk_length else { return Ok(()) };
        let shape = shapes.topk_length(lengths.len());
        // By request alone, without the dimension of one.
        let rank = if shape[1] == 1 { 1 } else { 2 };
        self.push(&name("topk_length"), Dtype::I32, &shape[..rank], lengths)
    }

    fn push_sparse_prefill(&mut self, case: &'a SparsePrefillCase) -> Checked<()> {
        let shapes = SparsePrefillShapes::of(&case.problem);
        self.push("q", Dtype::BF16, &shapes.q, &case.q)?;
        self.push("kv", Dtype::BF16, &shapes.kv, &case.kv)?;
        self.push("indices", Dtype::I32, &shapes.indices, &case.indices)?;
        self.push_optional("topk_length", Dtype::I32, &shapes.topk_length, case.topk_length.as_ref())?;
        self.push_optional("attn_sink", Dtype::F32, &shapes.attn_sink, case.attn_sink.as_ref())
    }

    fn push_answer(&mut self, case: &Case, answer: &'a Expected) -> Checked<()> {
        let (out, lse) = match case {
            Case::DenseDecode(case) => {
                let shapes = DenseDecodeShapes::of(&case.problem);
                (shapes.out.to_vec(), shapes.lse.to_vec())
            }
            Case::SparseDecode(case) => {
                let shapes = SparseDecodeShapes::of(&case.problem);
                (shapes.out.to_vec(), shapes.lse.to_vec())
            }
            Case::SparsePrefill(case) => {
                let shapes = SparsePrefillShapes::of(&case.problem);
                (shapes.out.to_vec(), shapes.lse.to_vec())
            }
            Case::SparsePrefillFp8(case) => {
                let shapes = SparsePrefillFp8Shapes::of(&case.problem);
                (shapes.out.to_vec(), shapes.lse.to_vec())
            }
        };
        self.push("out", Dtype::F32, &out, &answer.out)?;
        self.push("lse", Dtype::F32, &lse, &answer.lse)?;
        if matches!(case, Case::SparsePrefill(_) | Case::SparsePrefillFp8(_)) {
            return self.push("max_logits", Dtype::F32, &lse, &answer.max_logits);
        }
        if answer.max_logits.is_empty() {
            return Ok(());
        }
        let found = format!("{} elements", answer.max_logits.len());
        Err(InvalidProblem::new("max_logits", found, format!("none for {}", case.op())))
    }

    fn push_halves(&mut self, name: &str, shape: &[usize], data: &'a HalfVec) -> Checked<()> {
        match data {
            HalfVec::Bf16(data) => self.push(name, Dtype::BF16, shape, data),
            HalfVec::Fp16(data) => self.push(name, Dtype::F16, shape, data),
        }
    }

    fn push_optional<T: bytemuck::Pod>(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        data: Option<&'a Vec<T>>,
    ) -> Checked<()> {
        data.map_or(Ok(()), |data| self.push(name, dtype, shape, data))
    }

    fn push<T: bytemuck::Pod>(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        data: &'a [T],
    ) -> Checked<()> {
        let wrong = || {
            let needed = format!("one for each element of shape {shape:?}");
            InvalidProblem::new(name, format!("{} elements", data.len()), needed)
        };
        let elements = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        if elements != Some(data.len()) {
            return Err(wrong());
        }
        let view = TensorView::new(dtype, shape.to_vec(), bytemuck::cast_slice(data)).map_err(|_| wrong())?;
        self.0.push((name.to_string(), view));
        Ok(())
    }
}
