//! Malformed case files.

use oximla::case_file::{
    Case, DenseDecodeCase, HalfVec, ScopeCase, SparseDecodeCase, SparsePrefillCase, SparsePrefillFp8Case,
};
use oximla::{Error, KvFormat};
use oximla_conformance::backend::Backend;
use oximla_conformance::tolerance::{DENSE_DECODE, SPARSE_DECODE, SPARSE_PREFILL};
use oximla_conformance::{dense_decode, sparse_decode, sparse_prefill, sparse_prefill_fp8};
use oximla_reference::Fp8Format;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{argument_of, config};

const NAME: &str = "case.safetensors";
const METADATA: &str = "__metadata__";
/// Bytes of the little-endian header length that a file begins with.
const PREFIX: usize = 8;

/// One change to a file.
#[derive(Clone, Debug)]
enum Change {
    Truncate { at: usize },
    Append { byte: u8, count: usize },
    FlipBit { at: usize, bit: u8 },
    FlipHeaderBit { at: usize, bit: u8 },
    HeaderLength(u64),
    Metadata { key: usize, value: Option<Value> },
    Tensor { which: usize, change: TensorChange },
}

#[derive(Clone, Debug)]
enum TensorChange {
    Remove,
    Rename(&'static str),
    Dtype(Value),
    Dim { dim: usize, size: Value },
    Rank { longer: bool },
    Offset { end: bool, to: Value },
}

/// A safetensors file, its header parsed.
#[derive(Clone, Debug)]
struct File {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl File {
    fn new(metadata: Value) -> Self {
        Self { header: Map::from_iter([(METADATA.to_string(), metadata)]), data: Vec::new() }
    }

    fn with(mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) -> Self {
        let begin = self.data.len();
        self.data.extend(bytes);
        let offsets = [begin, self.data.len()];
        self.header.insert(name.into(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        self
    }

    fn tensor_names(&self) -> Vec<String> {
        self.header.keys().filter(|&key| key != METADATA).cloned().collect()
    }

    fn bytes_of(&self, name: &str) -> &[u8] {
        let offset =
            |end: usize| self.header[name]["data_offsets"][end].as_u64().expect("an offset") as usize;
        &self.data[offset(0)..offset(1)]
    }

    /// The file as it would be had the tensor never been written.
    fn without(&self, left_out: &str) -> Self {
        let names = self.tensor_names().into_iter().filter(|name| name != left_out);
        names.fold(Self::new(self.header[METADATA].clone()), |file, name| {
            let tensor = &self.header[&name];
            let dtype = tensor["dtype"].as_str().expect("a type");
            let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).expect("a shape");
            file.with(&name, dtype, &shape, self.bytes_of(&name))
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).expect("a header");
        [&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat()
    }

    fn tensor(&mut self, which: usize) -> Option<(String, &mut Value)> {
        let names = self.tensor_names();
        let name = names.get(which % names.len().max(1))?;
        Some((name.clone(), &mut self.header[name]))
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Metadata { key, value } => {
                let Some(Value::Object(metadata)) = self.header.get_mut(METADATA) else { return };
                let names: Vec<String> = metadata.keys().cloned().collect();
                let Some(name) = names.get(key % names.len().max(1)) else { return };
                match value {
                    Some(value) => metadata.insert(name.clone(), value.clone()),
                    None => metadata.remove(name),
                };
            }
            Change::Tensor { which, change } => {
                let Some((name, tensor)) = self.tensor(*which) else { return };
                match change {
                    TensorChange::Dtype(dtype) => tensor["dtype"] = dtype.clone(),
                    TensorChange::Dim { dim, size } => {
                        let Value::Array(shape) = &mut tensor["shape"] else { return };
                        let rank = shape.len().max(1);
                        if let Some(entry) = shape.get_mut(dim % rank) {
                            *entry = size.clone();
                        }
                    }
                    TensorChange::Rank { longer } => {
                        let Value::Array(shape) = &mut tensor["shape"] else { return };
                        if *longer { shape.push(json!(1)) } else { drop(shape.pop()) }
                    }
                    TensorChange::Offset { end, to } => {
                        tensor["data_offsets"][usize::from(*end)] = to.clone()
                    }
                    TensorChange::Remove => drop(self.header.remove(&name)),
                    TensorChange::Rename(new) => {
                        let tensor = self.header.remove(&name).expect("it was found");
                        self.header.insert((*new).into(), tensor);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Change {
    /// What is done to the finished bytes.
    fn apply_to_bytes(&self, bytes: &mut Vec<u8>) {
        match *self {
            Self::Truncate { at } => bytes.truncate(at % bytes.len().max(1)),
            Self::Append { byte, count } => bytes.extend(vec![byte; count]),
            Self::FlipBit { at, bit } => flip(bytes, at, bit),
            Self::FlipHeaderBit { at, bit } => {
                let header = header_len(bytes);
                flip(&mut bytes[..header], at, bit);
            }
            Self::HeaderLength(length) if bytes.len() >= PREFIX => {
                bytes[..PREFIX].copy_from_slice(&length.to_le_bytes());
            }
            _ => {}
        }
    }
}

fn header_len(bytes: &[u8]) -> usize {
    let prefix = bytes.first_chunk().map_or(0, |prefix| u64::from_le_bytes(*prefix));
    usize::try_from(prefix).map_or(bytes.len(), |length| length.saturating_add(PREFIX).min(bytes.len()))
}

fn flip(bytes: &mut [u8], at: usize, bit: u8) {
    let len = bytes.len().max(1);
    if let Some(byte) = bytes.get_mut(at % len) {
        *byte ^= 1 << (bit % 8);
    }
}

/// Small files of each operation.
fn base(which: usize) -> File {
    match which % 4 {
        0 => dense_file(),
        1 => fp8_file("sparse_decode"),
        2 => fp8_file("sparse_prefill_fp8"),
        _ => prefill_file(),
    }
}

fn dense_file() -> File {
    let spec = dense_decode::Spec { h_q: 2, page_size: 4, lengths: vec![5, 3], ..Default::default() };
    let case = spec.case();
    let p = &case.problem;
    let bytes = |values: &HalfVec| match values {
        HalfVec::Bf16(values) => bytemuck::cast_slice::<_, u8>(values).to_vec(),
        HalfVec::Fp16(values) => bytemuck::cast_slice(values).to_vec(),
    };
    File::new(metadata("dense_decode", "bf16", p.softmax_scale))
        .with("q", "BF16", &[p.batch, p.s_q, p.h_q, p.head_dim], &bytes(&case.q))
        .with("kv_cache", "BF16", &[p.num_pages, p.page_size, p.h_kv, p.head_dim], &bytes(&case.kv_cache))
        .with("block_table", "I32", &[p.batch, p.max_pages], bytemuck::cast_slice(&case.block_table))
        .with("cache_seqlens", "I32", &[p.batch], bytemuck::cast_slice(&case.cache_seqlens))
}

/// Of an operation over FP8 caches. Both have two query tokens, of a request each or of none.
fn fp8_file(op: &str) -> File {
    let scope = sparse_decode::ScopeSpec {
        page_size: 2,
        num_pages: 3,
        topk: 4,
        topk_length: Some(vec![3, 4]),
        ..Default::default()
    };
    let spec = sparse_decode::Spec {
        h_q: 2,
        extra: Some(scope.clone()),
        scope,
        format: Fp8Format::Model1,
        sinks: true,
        ..Default::default()
    };
    let case = spec.case();
    let p = &case.problem;
    let q_shape = [p.batch, p.s_q, p.h_q, 512];
    let q_shape = if op == "sparse_decode" { &q_shape[..] } else { &[p.batch, p.h_q, 512] };
    let mut file = File::new(metadata(op, "model1_fp8", p.softmax_scale))
        .with("q", "BF16", q_shape, bytemuck::cast_slice(&case.q))
        .with("attn_sink", "F32", &[p.h_q], bytemuck::cast_slice(case.attn_sink.as_ref().expect("sinks")));
    let scopes: [(&str, Option<&ScopeCase>); 2] = [("", Some(&case.scope)), ("extra_", case.extra.as_ref())];
    for (prefix, scope) in scopes {
        let scope = scope.expect("two scopes");
        let shape = &scope.shape;
        let lengths = scope.topk_length.as_ref().expect("lengths");
        let cache_shape = [shape.num_pages, shape.page_size, 1, 584];
        let indices_shape = [p.batch, p.s_q, shape.topk];
        file = file
            .with(&format!("{prefix}kv_cache"), "U8", &cache_shape, &scope.kv_cache)
            .with(&format!("{prefix}indices"), "I32", &indices_shape, bytemuck::cast_slice(&scope.indices))
            .with(&format!("{prefix}topk_length"), "I32", &[p.batch], bytemuck::cast_slice(lengths));
    }
    file
}

fn prefill_file() -> File {
    let topk_length = Some(vec![4, 0, 2]);
    let spec =
        sparse_prefill::Spec { h_q: 2, s_kv: 6, topk: 4, topk_length, sinks: true, ..Default::default() };
    let case = spec.case();
    let p = &case.problem;
    File::new(metadata("sparse_prefill", "bf16", p.softmax_scale))
        .with("q", "BF16", &[p.s_q, p.h_q, p.head_dim], bytemuck::cast_slice(&case.q))
        .with("kv", "BF16", &[p.s_kv, 1, p.head_dim], bytemuck::cast_slice(&case.kv))
        .with("indices", "I32", &[p.s_q, 1, p.topk], bytemuck::cast_slice(&case.indices))
        .with(
            "topk_length",
            "I32",
            &[p.s_q],
            bytemuck::cast_slice(case.topk_length.as_ref().expect("lengths")),
        )
        .with("attn_sink", "F32", &[p.h_q], bytemuck::cast_slice(case.attn_sink.as_ref().expect("sinks")))
}

fn metadata(op: &str, kv_format: &str, softmax_scale: f32) -> Value {
    let mut metadata = json!({
        "op": op, "kv_format": kv_format, "softmax_scale": softmax_scale.to_string(), "head_dim_v": "512",
    });
    if op == "dense_decode" {
        metadata["causal"] = json!("false");
    }
    metadata
}

fn changes() -> impl Strategy<Value = Change> {
    let texts = [
        "",
        "nan",
        "inf",
        "-1",
        "1e400",
        "0",
        "511",
        "513",
        "18446744073709551616",
        "true",
        "bf16",
        "fp16",
        "v32_fp8",
        "model1_fp8",
        "dense_decode",
        "sparse_decode",
        "sparse_prefill",
        "sparse_prefill_fp8",
    ];
    let text = prop::sample::select(texts.to_vec()).prop_map(|text| json!(text));
    let value = prop_oneof![8 => text.prop_map(Some), 2 => Just(None), 1 => Just(Some(json!(512)))];
    let header_length =
        prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(u64::MAX - 7), Just(1 << 40), 0_u64..2000];
    prop_oneof![
        2 => any::<usize>().prop_map(|at| Change::Truncate { at }),
        1 => (any::<u8>(), 1_usize..64).prop_map(|(byte, count)| Change::Append { byte, count }),
        3 => (any::<usize>(), any::<u8>()).prop_map(|(at, bit)| Change::FlipBit { at, bit }),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, bit)| Change::FlipHeaderBit { at, bit }),
        1 => header_length.prop_map(Change::HeaderLength),
        4 => (0_usize..5, value).prop_map(|(key, value)| Change::Metadata { key, value }),
        12 => (0_usize..9, tensor_changes()).prop_map(|(which, change)| Change::Tensor { which, change }),
    ]
}

fn tensor_changes() -> impl Strategy<Value = TensorChange> {
    let dtypes = ["BF16", "F16", "F32", "F64", "I32", "I64", "U8", "BOOL", "F8_E4M3", "none"];
    let dtype = prop_oneof![
        8 => prop::sample::select(dtypes.to_vec()).prop_map(|dtype| json!(dtype)),
        1 => Just(json!(7)),
    ];
    let names = ["q", "kv", "kv_cache", "indices", "extra_indices", "out", "lse", "unheard_of"];
    let number = prop_oneof![
        4 => (0_u64..10).prop_map(|n| json!(n)),
        1 => Just(json!(u64::MAX)),
        1 => Just(json!(1_u64 << 62)),
        1 => Just(json!(-1)),
        1 => Just(json!(1.5)),
        1 => Just(json!("2")),
    ];
    prop_oneof![
        1 => Just(TensorChange::Remove),
        1 => prop::sample::select(names.to_vec()).prop_map(TensorChange::Rename),
        2 => dtype.prop_map(TensorChange::Dtype),
        3 => (0_usize..4, number.clone()).prop_map(|(dim, size)| TensorChange::Dim { dim, size }),
        1 => any::<bool>().prop_map(|longer| TensorChange::Rank { longer }),
        2 => (any::<bool>(), number).prop_map(|(end, to)| TensorChange::Offset { end, to }),
    ]
}

/// Reads and runs a file; what is computed must be what the oracle says of what was read.
fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let case = match Case::from_bytes(NAME, bytes) {
        Ok(case) => case,
        Err(Error::File { path, reason }) => {
            prop_assert!(path.contains(NAME) && !reason.is_empty(), "{path}: {reason}");
            return Ok(());
        }
        Err(_) => return Ok(()),
    };
    let Ok(actual) = case.run(&Backend::cpu().device) else { return Ok(()) };
    if !is_tame(&case) {
        return Ok(());
    }
    let (tolerances, answer) = match &case {
        Case::DenseDecode(case) => (DENSE_DECODE, dense_decode::answer(case)),
        Case::SparseDecode(case) => (SPARSE_DECODE, sparse_decode::answer(case)),
        Case::SparsePrefill(case) => (SPARSE_PREFILL, sparse_prefill::answer(case)),
        Case::SparsePrefillFp8(case) => (SPARSE_PREFILL, sparse_prefill_fp8::answer(case)),
    };
    // A flipped bit, or a tensor in place of another, may bring in numbers that no tolerance was made for.
    if answer.out.iter().any(|x| x.is_nan() || x.abs() > 1.0) {
        return Ok(());
    }
    tolerances.check(&actual, &answer).map_err(|why| TestCaseError::fail(why.to_string()))
}

/// Elements of keys from which no product, nor sum of them, comes near f32's largest number. A flipped bit of an exponent,
/// or of an FP8 scale, goes up to 2¹²⁷: the oracle's f64 holds the scores that come of it, f32 does not.
const MAX_KEY: f64 = 1e30;

/// Whether scores are moderate, so that the tolerances apply.
fn is_tame(case: &Case) -> bool {
    let moderate =
        |q: &[half::bf16], scale: f32| scale.abs() <= 1.0 && q.iter().all(|x| x.to_f32().abs() <= 100.0);
    let moderate_keys = |keys: &[half::bf16]| keys.iter().all(|x| x.is_nan() || x.to_f64().abs() <= MAX_KEY);
    match case {
        Case::DenseDecode(DenseDecodeCase {
            q: HalfVec::Bf16(q),
            kv_cache: HalfVec::Bf16(keys),
            problem,
            ..
        }) => moderate(q, problem.softmax_scale) && moderate_keys(keys),
        Case::DenseDecode(_) => false,
        Case::SparseDecode(SparseDecodeCase { q, problem, scope, extra, .. }) => {
            moderate(q, problem.softmax_scale) && have_moderate_keys(problem.format, scope, extra.as_ref())
        }
        Case::SparsePrefillFp8(SparsePrefillFp8Case { q, problem, scope, extra, .. }) => {
            moderate(q, problem.softmax_scale) && have_moderate_keys(problem.format, scope, extra.as_ref())
        }
        Case::SparsePrefill(SparsePrefillCase { q, kv, problem, .. }) => {
            moderate(q, problem.softmax_scale) && moderate_keys(kv)
        }
    }
}

fn have_moderate_keys(format: KvFormat, scope: &ScopeCase, extra: Option<&ScopeCase>) -> bool {
    let format = sparse_decode::reference_format(format);
    std::iter::once(scope).chain(extra).all(|scope| has_moderate_keys(format, scope))
}

fn has_moderate_keys(format: Fp8Format, scope: &ScopeCase) -> bool {
    let page_size = scope.shape.page_size;
    scope.kv_cache.chunks_exact(format.page_bytes(page_size).max(1)).all(|page| {
        (0..page_size).all(|token| {
            let key = format.dequantise_token(page, page_size, token);
            key.into_iter().all(|x| x.is_nan() || x.abs() <= MAX_KEY)
        })
    })
}

proptest! {
    #![proptest_config(config(4000))]
    #[test]
    fn malformed_files(which in 0_usize..4, changes in prop::collection::vec(changes(), 1..=2)) {
        let mut file = base(which);
        changes.iter().for_each(|change| file.apply(change));
        let mut bytes = file.to_bytes();
        changes.iter().for_each(|change| change.apply_to_bytes(&mut bytes));
        check(&bytes)?;
    }

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Case::from_bytes(NAME, &bytes).is_err());
    }
}

#[test]
fn the_bases_are_sound() {
    for which in 0..3 {
        let bytes = base(which).to_bytes();
        let case = Case::from_bytes(NAME, &bytes).expect("a sound file");
        case.run(&Backend::cpu().device).expect("a sound problem");
        check(&bytes).expect("the right answer");
    }
}

#[test]
fn every_truncation_is_refused() {
    for which in 0..3 {
        let bytes = base(which).to_bytes();
        let header = header_len(&bytes);
        for len in (0..header + 64).chain([bytes.len() - 1]) {
            assert!(Case::from_bytes(NAME, &bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn a_missing_tensor_is_named_unless_it_is_optional() {
    let optional = ["topk_length", "extra_topk_length", "attn_sink"];
    for file in (0..3).map(base) {
        for name in file.tensor_names() {
            let read = Case::from_bytes(NAME, &file.without(&name).to_bytes());
            if optional.contains(&name.as_str()) {
                read.unwrap_or_else(|why| panic!("without {name}: {why}"));
            } else {
                assert_eq!(argument_of(&read.unwrap_err()), name);
            }
        }
    }
}

#[test]
fn wrong_tensors_are_named() {
    for file in (0..3).map(base) {
        for name in file.tensor_names() {
            let refused = |file: &File| {
                let error = Case::from_bytes(NAME, &file.to_bytes()).unwrap_err();
                assert_eq!(argument_of(&error), name, "{error}");
            };
            let mut other_type = file.clone();
            let signed = json!("I32") == other_type.header[&name]["dtype"];
            other_type.header[&name]["dtype"] = json!(if signed { "U32" } else { "I8" });
            // The size must fit the type, or the file is refused for that.
            if let Some(shape) = other_type.header[&name]["shape"].as_array_mut().filter(|_| !signed) {
                let bytes = file.bytes_of(&name).len();
                *shape = vec![json!(bytes)];
            }
            refused(&other_type);

            let mut other_rank = file.clone();
            let shape = other_rank.header[&name]["shape"].as_array_mut().expect("a shape");
            shape.insert(0, json!(1));
            refused(&other_rank);
        }
    }
}

#[test]
fn an_unknown_tensor_is_named() {
    for file in (0..3).map(base) {
        let file = file.with("topk_lenght", "I32", &[1], &[0; 4]);
        let error = Case::from_bytes(NAME, &file.to_bytes()).unwrap_err();
        assert_eq!(argument_of(&error), "topk_lenght");
    }
}

#[test]
fn half_an_answer_is_refused() {
    let file = dense_file().with("lse", "F32", &[2, 2, 1], &[0; 16]);
    let error = Case::from_bytes(NAME, &file.to_bytes()).unwrap_err();
    assert_eq!(argument_of(&error), "out");
}

#[test]
fn metadata_is_named() {
    let wrong = [
        ("op", json!("dense")),
        ("kv_format", json!("fp8")),
        ("softmax_scale", json!("one")),
        ("head_dim_v", json!("-512")),
        ("causal", json!("yes")),
    ];
    for file in (0..3).map(base) {
        for (key, value) in &wrong {
            let mut changed = file.clone();
            let metadata = changed.header[METADATA].as_object_mut().expect("metadata");
            if metadata.remove(*key).is_none() {
                continue;
            }
            let missing = Case::from_bytes(NAME, &changed.to_bytes()).unwrap_err();
            assert_eq!(argument_of(&missing), *key);
            changed.header[METADATA][*key] = value.clone();
            let unreadable = Case::from_bytes(NAME, &changed.to_bytes()).unwrap_err();
            assert_eq!(argument_of(&unreadable), *key);
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Case::read(std::path::Path::new("no/such.safetensors")).unwrap_err();
    assert!(matches!(&error, Error::File { path, .. } if path == "no/such.safetensors"), "{error}");
}
