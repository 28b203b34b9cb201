//! Small case files with answers from the float64 reference, and the program to try on them.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::bf16;
use oximla::case_file::{
    Case, DenseDecodeCase, Expected, HalfVec, InverseRopeCase, ScopeCase, SparseDecodeCase,
    SparsePrefillCase, SparsePrefillFp8Case,
};
use oximla::{
    DenseDecode, KvFormat, KvScopeShape, RopeAngles, SparseDecode, SparsePrefill, SparsePrefillFp8,
};
use oximla_reference::{Attention, Fp8Format, QueryAngles};

pub const HEAD_DIM: usize = 576;
pub const HEAD_DIM_V: usize = 512;
const ROPE_DIM: usize = 64;
const SCALE: f32 = 0.0625;

/// What the program printed and how it ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A new, empty folder for one test.
pub fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn oximla(arguments: &[&str]) -> Ended {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_oximla")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let ended = Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    ended
}

/// JSON objects, one a line.
pub fn objects(stdout: &str) -> Vec<serde_json::Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes the case and returns the file's name.
pub fn write(folder: &Path, name: &str, case: &Case, answer: &Expected) -> String {
    let path = folder.join(name);
    case.write(&path, answer).unwrap();
    path.to_str().unwrap().to_owned()
}

/// All operations, by name.
pub fn cases() -> [(&'static str, Case, Expected); 4] {
    let (dense, sparse) = (dense_decode(), sparse_decode());
    let (prefill, prefill_fp8) = (sparse_prefill(), sparse_prefill_fp8());
    [
        ("dense.safetensors", dense.0, dense.1),
        ("sparse.safetensors", sparse.0, sparse.1),
        ("prefill.safetensors", prefill.0, prefill.1),
        ("prefill_fp8.safetensors", prefill_fp8.0, prefill_fp8.1),
    ]
}

/// Two KV heads, a causal mask, a request without keys, NaN in keys that are not in use.
pub fn dense_decode() -> (Case, Expected) {
    let (batch, s_q, h_q, h_kv, page_size, max_pages) = (3, 2, 6, 2, 16, 3);
    let lengths = [37, 0, 16];
    let block_table = [2, 0, 4, i32::MAX, i32::MAX, i32::MAX, 1, i32::MAX, i32::MAX];
    let num_pages = 5;

    let mut kv_cache = vec![bf16::NAN; num_pages * page_size * h_kv * HEAD_DIM];
    let page_len = page_size * h_kv * HEAD_DIM;
    for (page, keys) in [(2, 16), (0, 16), (4, 5), (1, 16)] {
        let len = keys * h_kv * HEAD_DIM;
        kv_cache[page * page_len..][..len].copy_from_slice(&values(page + 1, len));
    }
    let q = values(9, batch * s_q * h_q * HEAD_DIM);

    let answer = oximla_reference::DenseDecode {
        batch,
        s_q,
        h_q,
        h_kv,
        head_dim: HEAD_DIM,
        head_dim_v: HEAD_DIM_V,
        page_size,
        max_pages,
        q: &wide(&q),
        kv_cache: &wide(&kv_cache),
        block_table: &block_table,
        cache_seqlens: &lengths,
        softmax_scale: f64::from(SCALE),
        causal: true,
    }
    .run();
    let problem = DenseDecode {
        batch,
        s_q,
        h_q,
        h_kv,
        head_dim: HEAD_DIM,
        head_dim_v: HEAD_DIM_V,
        page_size,
        num_pages,
        max_pages,
        softmax_scale: SCALE,
        causal: true,
    };
    let case = DenseDecodeCase {
        problem,
        q: HalfVec::Bf16(q),
        kv_cache: HalfVec::Bf16(kv_cache),
        block_table: block_table.to_vec(),
        cache_seqlens: lengths.to_vec(),
        expected: None,
    };
    (Case::DenseDecode(case), expected(answer))
}

/// A second scope, list lengths, sinks, invalid indices.
pub fn sparse_decode() -> (Case, Expected) {
    let (batch, s_q, h_q, page_size, topk) = (2, 2, 4, 8, 5);
    let scope = |seed: usize, num_pages: usize, indices: Vec<i32>, lengths: Option<Vec<i32>>| ScopeCase {
        shape: KvScopeShape { num_pages, page_size, topk },
        kv_cache: values(seed, num_pages * page_size * HEAD_DIM_V)
            .chunks(page_size * HEAD_DIM_V)
            .flat_map(|page| Fp8Format::Model1.quantise_page(page))
            .collect(),
        indices,
        topk_length: lengths,
    };
    let indices = vec![3, -1, 17, 0, 23, 5, 5, 24, 1, 2, 9, 8, 7, 6, 5, -1, -1, i32::MAX, -1, i32::MIN];
    let main = scope(1, 3, indices.clone(), Some(vec![4, 5]));
    let extra = scope(2, 1, indices.iter().map(|index| index % 8).collect(), Some(vec![3, 0]));
    let q = values(3, batch * s_q * h_q * HEAD_DIM_V);
    let sinks = vec![f32::NEG_INFINITY, 0.5, f32::INFINITY, -2.0];

    let positions = vec![0, 2, 1, 2];
    let cos_sin: Vec<f32> = values(9, 3 * ROPE_DIM).iter().map(|x| x.to_f32()).collect();

    let of_reference = |scope| reference_scope(Fp8Format::Model1, scope);
    let answer = oximla_reference::SparseDecode {
        batch,
        s_q,
        h_q,
        format: Fp8Format::Model1,
        q: &wide(&q),
        scope: of_reference(&main),
        extra: Some(of_reference(&extra)),
        attn_sink: Some(&sinks),
        softmax_scale: f64::from(SCALE),
        inverse_rope: Some(QueryAngles {
            positions: &positions,
            angles: oximla_reference::RopeAngles::Table(&cos_sin),
        }),
    }
    .run();
    let problem = SparseDecode {
        batch,
        s_q,
        h_q,
        format: KvFormat::Model1Fp8,
        scope: main.shape,
        extra: Some(extra.shape),
        softmax_scale: SCALE,
        inverse_rope: Some(RopeAngles::Table { max_positions: 3 }),
    };
    let case = SparseDecodeCase {
        problem,
        q,
        scope: main,
        extra: Some(extra),
        attn_sink: Some(sinks),
        inverse_rope: Some(InverseRopeCase { positions, cos_sin: Some(cos_sin) }),
        expected: None,
    };
    (Case::SparseDecode(case), expected(answer))
}

/// List lengths, sinks, a query without keys.
pub fn sparse_prefill() -> (Case, Expected) {
    let (s_q, h_q, s_kv, topk) = (3, 2, 7, 4);
    let q = values(4, s_q * h_q * HEAD_DIM);
    let kv = values(5, s_kv * HEAD_DIM);
    let indices = vec![0, 6, 7, 3, -1, -1, 9, i32::MIN, 5, 5, 2, 1];
    let lengths = vec![4, 4, 3];
    let sinks = vec![1.0, f32::NEG_INFINITY];

    let answer = oximla_reference::SparsePrefill {
        s_q,
        h_q,
        head_dim: HEAD_DIM,
        head_dim_v: HEAD_DIM_V,
        s_kv,
        topk,
        q: &wide(&q),
        kv: &wide(&kv),
        indices: &indices,
        topk_length: Some(&lengths),
        attn_sink: Some(&sinks),
        softmax_scale: f64::from(SCALE),
    }
    .run();
    let problem = SparsePrefill {
        s_q,
        h_q,
        head_dim: HEAD_DIM,
        head_dim_v: HEAD_DIM_V,
        s_kv,
        topk,
        softmax_scale: SCALE,
    };
    let case = SparsePrefillCase {
        problem,
        q,
        kv,
        indices,
        topk_length: Some(lengths),
        attn_sink: Some(sinks),
        expected: None,
    };
    (Case::SparsePrefill(case), expected(answer))
}

/// As [`sparse_prefill`], over a cache of V3.2.
pub fn sparse_prefill_fp8() -> (Case, Expected) {
    let (s_q, h_q, page_size, topk) = (3, 2, 4, 4);
    let q = values(6, s_q * h_q * HEAD_DIM);
    let scope = ScopeCase {
        shape: KvScopeShape { num_pages: 2, page_size, topk },
        kv_cache: values(7, 2 * page_size * HEAD_DIM)
            .chunks(page_size * HEAD_DIM)
            .flat_map(|page| Fp8Format::V32.quantise_page(page))
            .collect(),
        indices: vec![0, 6, 8, 3, -1, -1, 9, i32::MIN, 5, 5, 2, 1],
        topk_length: Some(vec![4, 4, 3]),
    };
    let sinks = vec![1.0, f32::NEG_INFINITY];
    let answer = oximla_reference::SparseDecode {
        batch: s_q,
        s_q: 1,
        h_q,
        format: Fp8Format::V32,
        q: &wide(&q),
        scope: reference_scope(Fp8Format::V32, &scope),
        extra: None,
        attn_sink: Some(&sinks),
        softmax_scale: f64::from(SCALE),
        inverse_rope: None,
    }
    .run_as_prefill();
    let problem = SparsePrefillFp8 {
        s_q,
        h_q,
        format: KvFormat::V32Fp8,
        scope: scope.shape,
        extra: None,
        softmax_scale: SCALE,
        inverse_rope: None,
    };
    let case = SparsePrefillFp8Case {
        problem,
        q,
        scope,
        extra: None,
        attn_sink: Some(sinks),
        inverse_rope: None,
        expected: None,
    };
    (Case::SparsePrefillFp8(case), expected(answer))
}

fn reference_scope(format: Fp8Format, scope: &ScopeCase) -> oximla_reference::Scope<'_> {
    oximla_reference::Scope {
        kv_cache: &scope.kv_cache,
        page_size: scope.shape.page_size,
        page_stride: format.page_bytes(scope.shape.page_size),
        indices: &scope.indices,
        topk: scope.shape.topk,
        topk_length: scope.topk_length.as_deref(),
    }
}

fn expected(answer: Attention) -> Expected {
    let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect();
    Expected { out: narrow(answer.out), lse: narrow(answer.lse), max_logits: narrow(answer.max_logits) }
}

/// Numbers in −1..1 without a pattern that repeats within a row.
fn values(seed: usize, count: usize) -> Vec<bf16> {
    let value = |at: usize| ((at * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
    (0..count).map(|at| bf16::from_f32(value(at))).collect()
}

fn wide(values: &[bf16]) -> Vec<f64> {
    values.iter().copied().map(bf16::to_f64).collect()
}
