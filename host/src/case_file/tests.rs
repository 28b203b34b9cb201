use super::*;
#[cfg(feature = "cpu")]
use crate::Device;
use crate::{InvalidProblem, RopeAngles};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};

/// A file in parts, to be changed and put together again.
#[derive(Clone)]
struct Parts {
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Parts {
    fn of(case: &Case) -> Self {
        let bytes = write::to_bytes(&"case", case, case.expected().unwrap()).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let owned = |(name, tensor): (String, TensorView<'_>)| {
            (name, (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()))
        };
        let metadata = header.metadata().clone().unwrap();
        Self { metadata, tensors: tensors.into_iter().map(owned).collect() }
    }

    fn read(&self) -> Result<Case, Error> {
        let tensors = self.tensors.iter().map(|(name, (dtype, shape, data))| {
            (name, TensorView::new(*dtype, shape.clone(), data).expect("consistent parts"))
        });
        Case::from_bytes("case", &safetensors::serialize(tensors, Some(self.metadata.clone())).unwrap())
    }

    /// The argument that reading complains about.
    fn complaint(&self) -> String {
        match self.read() {
            Err(Error::InvalidProblem(InvalidProblem { argument, .. })) => argument,
            other => panic!("{other:?}"),
        }
    }
}

/// Different finite numbers.
fn ramp<T>(len: usize, from: impl Fn(f32) -> T) -> Vec<T> {
    (0..len).map(|index| from((index % 97) as f32 / 64.0 - 0.5)).collect()
}

fn answer(out: usize, lse: usize, max_logits: usize) -> Option<Expected> {
    let same = |x: f32| x;
    let mut lse = ramp(lse, same);
    lse[0] = f32::INFINITY;
    Some(Expected { out: ramp(out, same), lse, max_logits: ramp(max_logits, same) })
}

fn dense() -> DenseDecodeCase {
    let problem = DenseDecode {
        batch: 2,
        s_q: 1,
        h_q: 3,
        h_kv: 1,
        head_dim: 576,
        head_dim_v: 512,
        page_size: 4,
        num_pages: 3,
        max_pages: 5,
        softmax_scale: 0.1,
        causal: true,
    };
    DenseDecodeCase {
        problem,
        q: HalfVec::Fp16(ramp(2 * 3 * 576, f16::from_f32)),
        kv_cache: HalfVec::Fp16(ramp(3 * 4 * 576, f16::from_f32)),
        block_table: vec![0, 2, 2_147_480_000, -1, 7, 1, 0, 0, 0, 0],
        cache_seqlens: vec![7, 0],
        expected: answer(2 * 3 * 512, 2 * 3, 0),
    }
}

fn scope(num_pages: usize, page_size: usize, topk: usize, with_lengths: bool) -> ScopeCase {
    ScopeCase {
        shape: KvScopeShape { num_pages, page_size, topk },
        kv_cache: (0..num_pages * page_size * 584).map(|index| (index % 120) as u8).collect(),
        indices: (0..2 * topk as i32).map(|index| index - 1).collect(),
        topk_length: with_lengths.then(|| vec![1, topk as i32]),
    }
}

fn sparse() -> SparseDecodeCase {
    let (scope, extra) = (scope(2, 3, 5, false), scope(4, 2, 3, true));
    SparseDecodeCase {
        problem: SparseDecode {
            batch: 2,
            s_q: 1,
            h_q: 3,
            format: KvFormat::Model1Fp8,
            scope: scope.shape,
            extra: Some(extra.shape),
            softmax_scale: 0.041_666_668,
            inverse_rope: Some(RopeAngles::Table { max_positions: 3 }),
        },
        q: ramp(2 * 3 * 512, bf16::from_f32),
        scope,
        extra: Some(extra),
        attn_sink: Some(vec![f32::INFINITY, f32::NEG_INFINITY, 0.5]),
        inverse_rope: Some(InverseRopeCase {
            positions: vec![2, 0],
            cos_sin: Some((0..3 * 64).map(|index| index as f32).collect()),
        }),
        expected: answer(2 * 3 * 512, 2 * 3, 0),
    }
}

fn prefill() -> SparsePrefillCase {
    SparsePrefillCase {
        problem: SparsePrefill {
            s_q: 2,
            h_q: 3,
            head_dim: 512,
            head_dim_v: 512,
            s_kv: 7,
            topk: 4,
            softmax_scale: 0.5,
        },
        q: ramp(2 * 3 * 512, bf16::from_f32),
        kv: ramp(7 * 512, bf16::from_f32),
        indices: vec![0, 6, -1, 7, 3, 3, 2, 1],
        topk_length: Some(vec![4, 0]),
        attn_sink: None,
        expected: answer(2 * 3 * 512, 2 * 3, 2 * 3),
    }
}

/// A sparse decode's inputs, which are of two requests of one query token, with a base of angles in place of a table.
fn prefill_fp8() -> SparsePrefillFp8Case {
    let SparseDecodeCase { problem, q, scope, extra, attn_sink, .. } = sparse();
    SparsePrefillFp8Case {
        problem: SparsePrefillFp8 {
            s_q: 2,
            h_q: 3,
            format: problem.format,
            scope: problem.scope,
            extra: problem.extra,
            softmax_scale: 0.5,
            inverse_rope: Some(RopeAngles::Theta(1e4)),
        },
        q,
        scope,
        extra,
        attn_sink,
        inverse_rope: Some(InverseRopeCase { positions: vec![5, -3], cos_sin: None }),
        expected: answer(2 * 3 * 512, 2 * 3, 2 * 3),
    }
}

fn cases() -> [Case; 4] {
    [
        Case::DenseDecode(dense()),
        Case::SparseDecode(sparse()),
        Case::SparsePrefill(prefill()),
        Case::SparsePrefillFp8(prefill_fp8()),
    ]
}

#[test]
fn what_is_written_is_read() {
    for case in cases() {
        let bytes = write::to_bytes(&"case", &case, case.expected().unwrap()).unwrap();
        assert_eq!(Case::from_bytes("case", &bytes).unwrap(), case);
    }
}

/// Of one request with two query tokens, instead of two with one each.
#[test]
fn lists_have_lengths_by_query_token_or_by_request() {
    for (lengths, shape) in [(vec![1, 3], vec![1, 2]), (vec![2], vec![1])] {
        let mut case = sparse();
        (case.problem.batch, case.problem.s_q) = (1, 2);
        case.extra.as_mut().unwrap().topk_length = Some(lengths);
        let case = Case::SparseDecode(case);
        let parts = Parts::of(&case);
        assert_eq!(parts.tensors["extra_topk_length"].1, shape);
        assert_eq!(parts.read().unwrap(), case);
    }
    let mut case = sparse();
    (case.problem.batch, case.problem.s_q) = (1, 2);
    case.extra.as_mut().unwrap().topk_length = Some(vec![1, 2, 3]);
    let case = Case::SparseDecode(case);
    let error = write::to_bytes(&"case", &case, case.expected().unwrap()).unwrap_err();
    assert!(error.to_string().contains("extra_topk_length"), "{error}");
}

#[test]
fn angles_have_a_base_or_a_table() {
    let mut case = sparse();
    case.problem.inverse_rope = Some(RopeAngles::Theta(1e4));
    case.inverse_rope.as_mut().unwrap().cos_sin = None;
    let case = Case::SparseDecode(case);
    let whole = Parts::of(&case);
    assert_eq!(whole.read().unwrap(), case);
    let changed = |change: fn(&mut Parts)| {
        let mut parts = whole.clone();
        change(&mut parts);
        parts.complaint()
    };
    assert_eq!(changed(|parts| _ = parts.tensors.remove("positions")), "positions");
    assert_eq!(changed(|parts| _ = parts.metadata.remove("rope_theta")), "cos_sin");
    assert_eq!(changed(|parts| _ = parts.metadata.insert("rope_theta".into(), "ten".into())), "rope_theta");
    let both = (Dtype::F32, vec![1, 64], vec![0; 256]);
    let mut parts = whole.clone();
    parts.tensors.insert("cos_sin".into(), both);
    assert_eq!(parts.complaint(), "cos_sin");
    parts.tensors.retain(|name, _| !["positions", "cos_sin"].contains(&name.as_str()));
    parts.metadata.remove("rope_theta");
    let Case::SparseDecode(plain) = parts.read().unwrap() else { panic!("another operation") };
    assert_eq!((plain.inverse_rope, plain.problem.inverse_rope), (None, None));
}

#[test]
fn data_may_begin_at_any_address() {
    for case in cases() {
        let aligned = write::to_bytes(&"case", &case, case.expected().unwrap()).unwrap();
        let (prefix, rest) = aligned.split_at(8);
        let header_len = u64::from_le_bytes(prefix.try_into().unwrap());
        let (header, data) = rest.split_at(header_len as usize);
        for spaces in 1..8 {
            let prefix = (header_len + spaces as u64).to_le_bytes();
            let bytes = [&prefix[..], header, &b"        "[..spaces], data].concat();
            assert_eq!(Case::from_bytes("case", &bytes).unwrap(), case);
        }
    }
}

#[test]
fn the_answer_may_be_absent_as_a_whole() {
    for case in cases() {
        let whole = Parts::of(&case);
        let names: Vec<_> = ["out", "lse", "max_logits"]
            .into_iter()
            .filter(|&name| whole.tensors.contains_key(name))
            .collect();
        let mut without = whole.clone();
        without.tensors.retain(|name, _| !names.contains(&name.as_str()));
        assert_eq!(without.read().unwrap().expected(), None);
        for name in names {
            let mut partial = whole.clone();
            partial.tensors.remove(name);
            assert_eq!(partial.complaint(), name);
        }
    }
}

#[test]
fn every_tensor_is_checked_by_name() {
    for case in cases() {
        let whole = Parts::of(&case);
        for (name, (dtype, shape, data)) in &whole.tensors {
            let changed = |tensor| {
                let mut parts = whole.clone();
                parts.tensors.insert(name.clone(), tensor);
                parts
            };
            let element_bytes = dtype.bitsize() / 8;
            let zeros = vec![0; data.len() / element_bytes];
            assert_eq!(&changed((Dtype::I8, shape.clone(), zeros)).complaint(), name);
            assert_eq!(&changed((*dtype, [&[1], &shape[..]].concat(), data.clone())).complaint(), name);
            assert_eq!(&changed((*dtype, vec![], data[..element_bytes].to_vec())).complaint(), name);

            let mut parts = whole.clone();
            let optional = name.ends_with("topk_length") || name == "attn_sink";
            parts.tensors.remove(name);
            if optional {
                assert_ne!(parts.read().unwrap(), case);
            } else {
                assert_eq!(&parts.complaint(), name);
            }

            let mut parts = whole.clone();
            parts.tensors.insert(format!("{name}_"), (*dtype, shape.clone(), data.clone()));
            assert_eq!(parts.complaint(), format!("{name}_"));
        }
    }
}

#[test]
fn dimensions_that_disagree_are_named() {
    let disagreeing = [
        (0, "kv_cache", 3),
        (0, "block_table", 0),
        (0, "cache_seqlens", 0),
        (0, "out", 3),
        (0, "lse", 1),
        (1, "q", 3),
        (1, "kv_cache", 2),
        (1, "kv_cache", 3),
        (1, "indices", 1),
        (1, "attn_sink", 0),
        (1, "extra_kv_cache", 3),
        (1, "extra_indices", 0),
        (1, "extra_topk_length", 0),
        (1, "positions", 0),
        (1, "positions", 1),
        (1, "cos_sin", 1),
        (2, "kv", 1),
        (2, "kv", 2),
        (2, "indices", 0),
        (2, "topk_length", 0),
        (2, "out", 2),
        (2, "max_logits", 1),
        (3, "q", 2),
        (3, "indices", 0),
        (3, "indices", 1),
        (3, "extra_topk_length", 0),
        (3, "positions", 1),
        (3, "attn_sink", 0),
        (3, "out", 0),
        (3, "max_logits", 1),
    ];
    for (which, name, dim) in disagreeing {
        let mut parts = Parts::of(&cases()[which]);
        let (dtype, shape, data) = parts.tensors.get_mut(name).unwrap();
        shape[dim] += 1;
        *data = vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8];
        assert_eq!(parts.complaint(), name, "dimension {dim}");
    }
}

#[test]
fn metadata_is_checked_by_key() {
    let wrong = [
        ("op", vec!["", "dense"]),
        ("kv_format", vec!["", "bf17", "BF16"]),
        ("softmax_scale", vec!["", "one", "0,5"]),
        ("head_dim_v", vec!["", "-1", "512.0", "99999999999999999999"]),
        ("causal", vec!["", "1", "True"]),
    ];
    for case in cases() {
        let whole = Parts::of(&case);
        for (key, texts) in &wrong {
            if *key == "causal" && !matches!(case, Case::DenseDecode(_)) {
                continue;
            }
            for text in texts {
                let mut parts = whole.clone();
                parts.metadata.insert(key.to_string(), text.to_string());
                assert_eq!(&parts.complaint(), key, "{text:?}");
            }
            let mut parts = whole.clone();
            parts.metadata.remove(*key);
            assert_eq!(&parts.complaint(), key);
        }
    }
}

#[test]
fn formats_belong_to_operations() {
    for (which, format, argument) in [
        (0, "bf16", "q"),
        (0, "v32_fp8", "kv_format"),
        (1, "bf16", "kv_format"),
        (1, "v32_fp8", "q"),
        (2, "fp16", "kv_format"),
        (3, "bf16", "kv_format"),
        (3, "v32_fp8", "q"),
    ] {
        let mut parts = Parts::of(&cases()[which]);
        parts.metadata.insert("kv_format".into(), format.into());
        assert_eq!(parts.complaint(), argument, "{format}");
    }
}

#[test]
fn what_is_not_safetensors_is_a_file_error() {
    let bytes = write::to_bytes(&"case", &cases()[0], &dense().expected.unwrap()).unwrap();
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let huge = format!(r#"{{"q":{{"dtype":"F32","shape":[{0},{0}],"data_offsets":[0,0]}}}}"#, 1_u64 << 40);
    let bad =
        [Vec::new(), vec![255; 8], bytes[..100].to_vec(), bytes[..bytes.len() - 1].to_vec(), header(&huge)];
    for bytes in bad {
        let error = Case::from_bytes("name.safetensors", &bytes).unwrap_err();
        assert!(matches!(&error, Error::File { path, .. } if path == "name.safetensors"), "{error}");
    }
    let error = Case::from_bytes("case", &header("{}")).unwrap_err();
    assert!(error.to_string().starts_with("op is missing"), "{error}");
    assert!(matches!(Case::read(Path::new("no/such/file")), Err(Error::File { .. })));
}

#[test]
fn writing_checks_lengths_first() {
    let whole = dense();
    let good = whole.expected.clone().unwrap();
    let complaint = |case: DenseDecodeCase, answer: &Expected| {
        let path = Path::new("no/such/folder/case.safetensors");
        match Case::DenseDecode(case).write(path, answer) {
            Err(Error::InvalidProblem(error)) => error.argument,
            other => panic!("{other:?}"),
        }
    };
    let short = DenseDecodeCase { cache_seqlens: vec![1], ..whole.clone() };
    assert_eq!(complaint(short, &good), "cache_seqlens");
    let mixed = DenseDecodeCase { kv_cache: HalfVec::Bf16(vec![bf16::ZERO; 3 * 4 * 576]), ..whole.clone() };
    assert_eq!(complaint(mixed, &good), "kv_cache");
    let mut huge = whole.clone();
    huge.problem.s_q = usize::MAX;
    assert_eq!(complaint(huge, &good), "q");
    assert_eq!(complaint(whole.clone(), &Expected { lse: vec![], ..good.clone() }), "lse");
    assert_eq!(complaint(whole, &Expected { max_logits: vec![0.0], ..good }), "max_logits");
}

#[cfg(feature = "cpu")]
#[test]
fn runs_write_all_outputs() {
    for case in cases() {
        let answer = case.run(&Device::cpu()).unwrap();
        let expected = case.expected().unwrap();
        assert_eq!((answer.out.len(), answer.lse.len()), (expected.out.len(), expected.lse.len()));
        assert_eq!(answer.max_logits.len(), expected.max_logits.len());
        assert!(!answer.out.iter().chain(&answer.lse).chain(&answer.max_logits).any(|x| x.is_nan()));
        let mut prepared = case.prepare(&Device::cpu()).unwrap();
        assert!(prepared.answer().unwrap().out.iter().all(|x| x.is_nan()));
        assert!(prepared.time(2).unwrap() > std::time::Duration::ZERO);
        assert_eq!(prepared.answer().unwrap(), answer);
    }
}

#[cfg(feature = "cpu")]
#[test]
fn runs_check_lengths() {
    let mut case = dense();
    case.block_table.pop();
    let error = Case::DenseDecode(case).run(&Device::cpu()).unwrap_err();
    assert!(error.to_string().starts_with("block_table is 9 elements"), "{error}");
}
