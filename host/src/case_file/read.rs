//! From a file's bytes to a case.

use super::shapes::{DenseDecodeShapes, SparseDecodeShapes, SparsePrefillFp8Shapes, SparsePrefillShapes};
use super::{
    Case, DenseDecodeCase, Expected, HalfVec, InverseRopeCase, ScopeCase, SparseDecodeCase,
    SparsePrefillCase, SparsePrefillFp8Case, file_error,
};
use crate::{
    DenseDecode, Error, InvalidProblem, KvFormat, KvScopeShape, RopeAngles, SparseDecode, SparsePrefill,
    SparsePrefillFp8,
};
use half::{bf16, f16};
use oximla_types::rope::ROPE_DIM;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

type Checked<T> = Result<T, InvalidProblem>;

/// A dimension that the rest of the file says nothing about.
const ANY: Option<usize> = None;

/// Element types of the schema.
trait Stored: bytemuck::Pod {
    const DTYPE: Dtype;
}

impl Stored for u8 {
    const DTYPE: Dtype = Dtype::U8;
}

impl Stored for i32 {
    const DTYPE: Dtype = Dtype::I32;
}

impl Stored for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Stored for bf16 {
    const DTYPE: Dtype = Dtype::BF16;
}

impl Stored for f16 {
    const DTYPE: Dtype = Dtype::F16;
}

/// What has not yet been read of a file.
struct Reader<'a> {
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, TensorView<'a>>,
}

pub(super) fn case(name: &str, bytes: &[u8]) -> Result<Case, Error> {
    let mut reader = Reader::new(bytes).map_err(|error| file_error(&name, error))?;
    let case = match reader.metadata("op")? {
        "dense_decode" => Case::DenseDecode(reader.dense_decode()?),
        "sparse_decode" => Case::SparseDecode(reader.sparse_decode()?),
        "sparse_prefill" => Case::SparsePrefill(reader.sparse_prefill()?),
        "sparse_prefill_fp8" => Case::SparsePrefillFp8(reader.sparse_prefill_fp8()?),
        other => {
            let needed = "dense_decode, sparse_decode, sparse_prefill or sparse_prefill_fp8";
            return Err(InvalidProblem::new("op", format!("{other:?}"), needed).into());
        }
    };
    reader.finish(case.op())?;
    Ok(case)
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, safetensors::SafeTensorError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let tensors = SafeTensors::deserialize(bytes)?.tensors().into_iter().collect();
        Ok(Self { metadata: header.metadata().clone().unwrap_or_default(), tensors })
    }

    fn dense_decode(&mut self) -> Checked<DenseDecodeCase> {
        let format = self.kv_format(&[KvFormat::Bf16, KvFormat::Fp16])?;
        let ([batch, s_q, h_q, head_dim], q) = self.half_tensor("q", format, [ANY; 4])?;
        let ([num_pages, page_size, h_kv, _], kv_cache) =
            self.half_tensor("kv_cache", format, [ANY, ANY, ANY, Some(head_dim)])?;
        let ([_, max_pages], block_table) = self.tensor("block_table", [Some(batch), ANY])?;
        let (_, cache_seqlens) = self.tensor("cache_seqlens", [Some(batch)])?;
        let problem = DenseDecode {
            batch,
            s_q,
            h_q,
            h_kv,
            head_dim,
            head_dim_v: self.parsed("head_dim_v", "a number of elements")?,
            page_size,
            num_pages,
            max_pages,
            softmax_scale: self.parsed("softmax_scale", "a number")?,
            causal: self.parsed("causal", "true or false")?,
        };
        let shapes = DenseDecodeShapes::of(&problem);
        let expected = self.expected(shapes.out, shapes.lse, false)?;
        Ok(DenseDecodeCase { problem, q, kv_cache, block_table, cache_seqlens, expected })
    }

    fn sparse_decode(&mut self) -> Checked<SparseDecodeCase> {
        let format = self.fp8_format()?;
        let ([batch, s_q, h_q, _], q) =
            self.tensor("q", [ANY, ANY, ANY, Some(format.head_dim() as usize)])?;
        let (scope, extra) = self.scopes(format, batch, s_q)?;
        let (angles, inverse_rope) = self.inverse_rope(batch, s_q)?.unzip();
        let problem = SparseDecode {
            batch,
            s_q,
            h_q,
            format,
            scope: scope.shape,
            extra: extra.as_ref().map(|extra| extra.shape),
            softmax_scale: self.parsed("softmax_scale", "a number")?,
            inverse_rope: angles,
        };
        let shapes = SparseDecodeShapes::of(&problem);
        let attn_sink = self.optional("attn_sink", shapes.attn_sink)?;
        let expected = self.expected(shapes.out, shapes.lse, false)?;
        Ok(SparseDecodeCase { problem, q, scope, extra, attn_sink, inverse_rope, expected })
    }

    fn sparse_prefill_fp8(&mut self) -> Checked<SparsePrefillFp8Case> {
        let format = self.fp8_format()?;
        let ([s_q, h_q, _], q) = self.tensor("q", [ANY, ANY, Some(format.head_dim() as usize)])?;
        let (scope, extra) = self.scopes(format, s_q, 1)?;
        let (angles, inverse_rope) = self.inverse_rope(s_q, 1)?.unzip();
        let problem = SparsePrefillFp8 {
            s_q,
            h_q,
            format,
            scope: scope.shape,
            extra: extra.as_ref().map(|extra| extra.shape),
            softmax_scale: self.parsed("softmax_scale", "a number")?,
            inverse_rope: angles,
        };
        let shapes = SparsePrefillFp8Shapes::of(&problem);
        let attn_sink = self.optional("attn_sink", shapes.decode.attn_sink)?;
        let expected = self.expected(shapes.out, shapes.lse, true)?;
        Ok(SparsePrefillFp8Case { problem, q, scope, extra, attn_sink, inverse_rope, expected })
    }

    /// An FP8 format, which says how many elements values have.
    fn fp8_format(&self) -> Checked<KvFormat> {
        let format = self.kv_format(&[KvFormat::V32Fp8, KvFormat::Model1Fp8])?;
        let head_dim_v: usize = self.parsed("head_dim_v", "a number of elements")?;
        if head_dim_v != format.head_dim_v() as usize {
            let needed = format!("{}, as of {format}", format.head_dim_v());
            return Err(InvalidProblem::new("head_dim_v", head_dim_v, needed));
        }
        Ok(format)
    }

    /// The cache, and the second one if there is any part of it.
    fn scopes(
        &mut self,
        format: KvFormat,
        batch: usize,
        s_q: usize,
    ) -> Checked<(ScopeCase, Option<ScopeCase>)> {
        let scope = self.scope("", format, batch, s_q)?;
        let has_extra = self.tensors.keys().any(|name| name.starts_with(EXTRA));
        let extra = has_extra.then(|| self.scope(EXTRA, format, batch, s_q)).transpose()?;
        Ok((scope, extra))
    }

    /// By what the output is turned back, if any part of that is there; then all of it has to be.
    fn inverse_rope(&mut self, batch: usize, s_q: usize) -> Checked<Option<(RopeAngles, InverseRopeCase)>> {
        let has_theta = self.metadata.contains_key(ROPE_THETA);
        if !has_theta && !["positions", "cos_sin"].iter().any(|&name| self.tensors.contains_key(name)) {
            return Ok(None);
        }
        let (_, positions) = self.tensor("positions", [Some(batch), Some(s_q)])?;
        if has_theta {
            let angles = RopeAngles::Theta(self.parsed(ROPE_THETA, "a number")?);
            return Ok(Some((angles, InverseRopeCase { positions, cos_sin: None })));
        }
        let ([max_positions, _], cos_sin) = self.tensor("cos_sin", [ANY, Some(ROPE_DIM as usize)])?;
        let angles = RopeAngles::Table { max_positions };
        Ok(Some((angles, InverseRopeCase { positions, cos_sin: Some(cos_sin) })))
    }

    fn scope(&mut self, prefix: &str, format: KvFormat, batch: usize, s_q: usize) -> Checked<ScopeCase> {
        let token_bytes = format.bytes_per_token() as usize;
        let ([num_pages, page_size, _, _], kv_cache) =
            self.tensor(&format!("{prefix}kv_cache"), [ANY, ANY, Some(1), Some(token_bytes)])?;
        let ([_, _, topk], indices) =
            self.tensor(&format!("{prefix}indices"), [Some(batch), Some(s_q), ANY])?;
        let name = format!("{prefix}topk_length");
        let by_query = self.tensors.get(&name).is_some_and(|lengths| lengths.shape().len() > 1);
        let topk_length =
            if by_query { self.optional(&name, [batch, s_q])? } else { self.optional(&name, [batch])? };
        let shape = KvScopeShape { num_pages, page_size, topk };
        Ok(ScopeCase { shape, kv_cache, indices, topk_length })
    }

    fn sparse_prefill(&mut self) -> Checked<SparsePrefillCase> {
        self.kv_format(&[KvFormat::Bf16])?;
        let ([s_q, h_q, head_dim], q) = self.tensor("q", [ANY; 3])?;
        let ([s_kv, _, _], kv) = self.tensor("kv", [ANY, Some(1), Some(head_dim)])?;
        let ([_, _, topk], indices) = self.tensor("indices", [Some(s_q), Some(1), ANY])?;
        let problem = SparsePrefill {
            s_q,
            h_q,
            head_dim,
            head_dim_v: self.parsed("head_dim_v", "a number of elements")?,
            s_kv,
            topk,
            softmax_scale: self.parsed("softmax_scale", "a number")?,
        };
        let shapes = SparsePrefillShapes::of(&problem);
        let topk_length = self.optional("topk_length", shapes.topk_length)?;
        let attn_sink = self.optional("attn_sink", shapes.attn_sink)?;
        let expected = self.expected(shapes.out, shapes.lse, true)?;
        Ok(SparsePrefillCase { problem, q, kv, indices, topk_length, attn_sink, expected })
    }

    /// The answer, if any part of it is there; then all of it has to be.
    fn expected<const OUT: usize, const LSE: usize>(
        &mut self,
        out: [usize; OUT],
        lse: [usize; LSE],
        has_max_logits: bool,
    ) -> Checked<Option<Expected>> {
        let names = if has_max_logits { &["out", "lse", "max_logits"][..] } else { &["out", "lse"] };
        if !names.iter().any(|&name| self.tensors.contains_key(name)) {
            return Ok(None);
        }
        let (_, out) = self.tensor("out", out.map(Some))?;
        let (_, values) = self.tensor("lse", lse.map(Some))?;
        let max_logits =
            if has_max_logits { self.tensor("max_logits", lse.map(Some))?.1 } else { Vec::new() };
        Ok(Some(Expected { out, lse: values, max_logits }))
    }

    fn metadata(&self, key: &str) -> Checked<&str> {
        let missing = || InvalidProblem::new(key, "missing", "an entry of the file's metadata");
        self.metadata.get(key).map(String::as_str).ok_or_else(missing)
    }

    fn parsed<T: FromStr>(&self, key: &str, needed: &str) -> Checked<T> {
        let text = self.metadata(key)?;
        text.parse().map_err(|_| InvalidProblem::new(key, format!("{text:?}"), needed))
    }

    fn kv_format(&self, allowed: &[KvFormat]) -> Checked<KvFormat> {
        let name = self.metadata("kv_format")?;
        let format = KvFormat::from_name(name).filter(|format| allowed.contains(format));
        format.ok_or_else(|| {
            let needed = allowed.iter().map(|format| format.name()).collect::<Vec<_>>().join(" or ");
            InvalidProblem::new("kv_format", format!("{name:?}"), needed)
        })
    }

    fn half_tensor<const RANK: usize>(
        &mut self,
        name: &str,
        format: KvFormat,
        dims: [Option<usize>; RANK],
    ) -> Checked<([usize; RANK], HalfVec)> {
        if format == KvFormat::Fp16 {
            self.tensor(name, dims).map(|(shape, data)| (shape, HalfVec::Fp16(data)))
        } else {
            self.tensor(name, dims).map(|(shape, data)| (shape, HalfVec::Bf16(data)))
        }
    }

    fn optional<T: Stored, const RANK: usize>(
        &mut self,
        name: &str,
        shape: [usize; RANK],
    ) -> Checked<Option<Vec<T>>> {
        if !self.tensors.contains_key(name) {
            return Ok(None);
        }
        self.tensor(name, shape.map(Some)).map(|(_, data)| Some(data))
    }

    /// The tensor's shape and elements; `dims` are the dimensions it must have.
    fn tensor<T: Stored, const RANK: usize>(
        &mut self,
        name: &str,
        dims: [Option<usize>; RANK],
    ) -> Checked<([usize; RANK], Vec<T>)> {
        let error = |found| InvalidProblem::new(name, found, describe(T::DTYPE, &dims));
        let Some(tensor) = self.tensors.remove(name) else { return Err(error("missing".to_string())) };
        let mismatch =
            || error(describe(tensor.dtype(), &tensor.shape().iter().copied().map(Some).collect::<Vec<_>>()));
        let shape: [usize; RANK] = tensor.shape().try_into().map_err(|_| mismatch())?;
        let fits = shape.iter().zip(dims).all(|(&found, needed)| needed.is_none_or(|needed| needed == found));
        if tensor.dtype() != T::DTYPE || !fits {
            return Err(mismatch());
        }
        // Tensors begin anywhere in the file: they are copied as bytes into memory that is aligned for their elements.
        let mut data = vec![T::zeroed(); tensor.data().len() / size_of::<T>()];
        bytemuck::cast_slice_mut(&mut data).copy_from_slice(tensor.data());
        Ok((shape, data))
    }

    /// Checks that nothing is left.
    fn finish(self, op: &str) -> Checked<()> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(InvalidProblem::new(name, "a tensor in the file", format!("no such tensor for {op}")))
            }
        }
    }
}

/// What the metadata calls the base of an inverse rotation's angles.
pub(super) const ROPE_THETA: &str = "rope_theta";

/// What names of the second cache's tensors begin with.
pub(super) const EXTRA: &str = "extra_";

fn describe(dtype: Dtype, dims: &[Option<usize>]) -> String {
    let dims: Vec<String> = dims.iter().map(|dim| dim.map_or("_".into(), |dim| dim.to_string())).collect();
    format!("{dtype} of shape [{}]", dims.join(", "))
}
