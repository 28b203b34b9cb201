//! The standard cases: problems by name, which other programs' benchmarks read from the same file.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use half::bf16;
use oximla::DenseDecode;
use serde::{Deserialize, Serialize};

use crate::report::Digits;

/// The cases that go by their names alone.
const STANDARD: &str = include_str!("../../../bench/cases.json");

/// Elements of a value, and of an output row.
pub const HEAD_DIM_V: usize = 512;
/// Elements of a query and of a key in dense decode.
pub const HEAD_DIM: usize = 576;

/// A step between lengths of varied requests: prime, so that they spread over the range.
const LENGTH_STEP: usize = 7919;

/// Largest size of any kind; products of three are still counted without overflow.
const MAX_SIZE: u64 = 1 << 20;

/// Bytes of a cached token in each FP8 format: 576 elements as V3.2 stores them, 512 as MODEL1 does.
const V32_TOKEN_BYTES: f64 = 656.0;
const MODEL1_TOKEN_BYTES: f64 = 584.0;

/// A problem with a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StandardCase {
    pub name: String,
    #[serde(flatten)]
    pub shape: Shape,
}

/// The operation and its sizes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Shape {
    DenseDecode(DenseShape),
    SparseDecode(SparseDecodeShape),
    SparsePrefill(SparsePrefillShape),
}

/// A dense decode step with one key/value head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DenseShape {
    /// Requests.
    pub b: usize,
    pub h_q: usize,
    /// Query tokens of a request.
    pub s_q: usize,
    /// Keys of a request; with `varlen` of the average one.
    pub s_k: usize,
    /// Keys of a page.
    pub page: usize,
    #[serde(default, skip_serializing_if = "is_false")]
    pub varlen: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub causal: bool,
}

/// A decode step over selected tokens of one or two FP8 caches.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SparseDecodeShape {
    pub b: usize,
    pub h_q: usize,
    pub s_q: usize,
    pub s_k: usize,
    /// Elements of a query and of a key.
    pub d: usize,
    pub topk: usize,
    pub page: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_topk: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_page: Option<usize>,
}

/// A prefill over selected bf16 keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SparsePrefillShape {
    pub s_q: usize,
    pub h_q: usize,
    pub s_k: usize,
    /// Elements of a query and of a key.
    pub d: usize,
    pub topk: usize,
}

/// Reads the cases of a file, without one the standard ones.
///
/// # Errors
/// When the file cannot be read or holds something else, or sizes that are 0 or beyond any use.
pub fn read(file: Option<&Path>) -> anyhow::Result<Vec<StandardCase>> {
    let Some(file) = file else {
        return serde_json::from_str(STANDARD).context("the standard cases");
    };
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let cases: Vec<StandardCase> = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    for case in &cases {
        let place = || format!("{}: {}", file.display(), case.name);
        case.check_sizes().with_context(place)?;
    }
    Ok(cases)
}

/// The cases whose names contain one of `parts`; all of them without any.
///
/// # Errors
/// For a part that no name contains.
pub fn select(cases: Vec<StandardCase>, parts: &[String]) -> anyhow::Result<Vec<StandardCase>> {
    for part in parts {
        let known = cases.iter().any(|case| case.name.contains(part.as_str()));
        ensure!(known, "CASE is {part}; needed is a part of a case's name (--list shows them)");
    }
    let is_wanted =
        |case: &StandardCase| parts.is_empty() || parts.iter().any(|part| case.name.contains(part.as_str()));
    Ok(cases.into_iter().filter(is_wanted).collect())
}

impl StandardCase {
    /// The operation's name.
    pub fn op(&self) -> &'static str {
        match &self.shape {
            Shape::DenseDecode(_) => "dense_decode",
            Shape::SparseDecode(_) => "sparse_decode",
            Shape::SparsePrefill(_) => "sparse_prefill",
        }
    }

    /// Floating-point operations of a call.
    pub fn flop(&self) -> f64 {
        match &self.shape {
            Shape::DenseDecode(shape) => shape.problem().flop(shape.total_keys()),
            Shape::SparseDecode(shape) => {
                2.0 * shape.h_q as f64 * shape.selected() * (shape.d + HEAD_DIM_V) as f64
            }
            Shape::SparsePrefill(shape) => {
                2.0 * (shape.s_q * shape.h_q * shape.topk) as f64 * (shape.d + HEAD_DIM_V) as f64
            }
        }
    }

    /// Bytes that a call has to move: keys, queries and outputs once each.
    pub fn bytes(&self) -> f64 {
        let element = size_of::<bf16>() as f64;
        match &self.shape {
            Shape::DenseDecode(shape) => shape.problem().bytes(shape.total_keys()),
            Shape::SparseDecode(shape) => {
                let token = if shape.d == HEAD_DIM { V32_TOKEN_BYTES } else { MODEL1_TOKEN_BYTES };
                let rows = (shape.b * shape.s_q * shape.h_q) as f64;
                shape.selected() * token + rows * (shape.d + HEAD_DIM_V) as f64 * element
            }
            Shape::SparsePrefill(shape) => {
                let keys = (shape.s_q * shape.topk * shape.d) as f64;
                (keys + (shape.s_q * shape.h_q) as f64 * (shape.d + HEAD_DIM_V) as f64) * element
            }
        }
    }

    /// Checks that every size is one that arithmetic can be done with.
    fn check_sizes(&self) -> anyhow::Result<()> {
        let fields = serde_json::to_value(&self.shape)?;
        for (field, value) in fields.as_object().into_iter().flatten() {
            if let Some(size) = value.as_u64() {
                ensure!((1..=MAX_SIZE).contains(&size), "{field} is {size}; needed is in 1..={MAX_SIZE}");
            }
        }
        Ok(())
    }
}

impl Display for StandardCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flop, bytes) = (self.flop(), self.bytes());
        let [gflop, megabytes, intensity] =
            [flop / 1e9, bytes / 1e6, flop / bytes].map(|number| Digits(number).to_string());
        write!(f, "{:<41}{:<16}", self.name, self.op())?;
        write!(f, "{gflop:>7} GFLOP{megabytes:>8} MB{intensity:>8} FLOP/byte")
    }
}

impl DenseShape {
    /// Keys of each request.
    pub fn lengths(&self) -> Vec<usize> {
        let varied = |request: usize| (self.s_k / 2 + request * LENGTH_STEP % self.s_k).max(1);
        (0..self.b).map(|request| if self.varlen { varied(request) } else { self.s_k }).collect()
    }

    /// Keys of all requests.
    pub fn total_keys(&self) -> usize {
        self.lengths().iter().sum()
    }

    /// The problem as the library takes it; every request has pages for the longest one.
    pub fn problem(&self) -> DenseDecode {
        let longest = self.lengths().into_iter().max().unwrap_or(0);
        let max_pages = longest.div_ceil(self.page);
        DenseDecode {
            batch: self.b,
            s_q: self.s_q,
            h_q: self.h_q,
            h_kv: 1,
            head_dim: HEAD_DIM,
            head_dim_v: HEAD_DIM_V,
            page_size: self.page,
            num_pages: self.b * max_pages,
            max_pages,
            softmax_scale: (HEAD_DIM as f32).sqrt().recip(),
            causal: self.causal,
        }
    }
}

impl SparseDecodeShape {
    /// Tokens that all queries select.
    fn selected(&self) -> f64 {
        (self.b * self.s_q) as f64 * (self.topk + self.extra_topk.unwrap_or(0)) as f64
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard(name: &str) -> StandardCase {
        let found = read(None).unwrap().into_iter().find(|case| case.name == name);
        found.unwrap_or_else(|| panic!("no case {name}"))
    }

    #[test]
    fn formulas_give_numbers_worked_out_by_hand() {
        // 2 · 128 heads · 128 · 4096 keys · 1088; (128 · 4096 · 576 + 128 · 128 · 1088) · 2 bytes.
        let case = standard("dense-b128-h128-q1-k4096");
        assert_eq!((case.flop(), case.bytes()), (146_028_888_064.0, 639_631_360.0));
        // 2 · 64 heads · 2 · 2 · 640 tokens · 1024; 2560 · 584 + 2 · 2 · 64 · 1024 · 2 bytes.
        let case = standard("sparse-m1-b2-h64-q2-topk128+512");
        assert_eq!((case.flop(), case.bytes()), (335_544_320.0, 2_019_328.0));
        // 2 · 4096 · 128 · 2048 · 1088; (4096 · 2048 · 576 + 4096 · 128 · 1088) · 2 bytes.
        let case = standard("prefill-d576-h128-topk2048-k8192");
        assert_eq!((case.flop(), case.bytes()), (2_336_462_209_024.0, 10_804_527_104.0));
    }

    #[test]
    fn lengths_vary_where_the_case_says_so() {
        let Shape::DenseDecode(shape) = standard("dense-b128-h128-q2-k8192-varlen-causal").shape else {
            panic!("a dense case")
        };
        // 4096 + 7919 i mod 8192: 7919 · 2 is 7646 above 8192, 7919 · 3 is 7373 above 2 · 8192.
        assert_eq!(shape.lengths()[..4], [4096, 12_015, 11_742, 11_469]);
        assert!(shape.problem().causal && shape.problem().validate().is_ok());
        let Shape::DenseDecode(shape) = standard("dense-b4-h128-q1-k8192").shape else {
            panic!("a dense case")
        };
        assert_eq!(shape.lengths(), [8192; 4]);
        assert_eq!((shape.problem().num_pages, shape.problem().max_pages), (512, 128));
    }

    #[test]
    fn the_file_reads_back_as_it_is() {
        let whole: Vec<serde_json::Value> = serde_json::from_str(STANDARD).unwrap();
        let read_back = read(None).unwrap();
        assert_eq!(whole.len(), read_back.len());
        for (case, value) in read_back.iter().zip(whole) {
            assert_eq!(serde_json::to_value(case).unwrap(), value);
        }
    }

    #[test]
    fn parts_of_names_select() {
        let names = |parts: &[&str]| {
            let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
            select(read(None).unwrap(), &parts)
                .map(|cases| cases.into_iter().map(|case| case.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["b1-h128", "b1-h16"]).unwrap().len(), 2);
        assert_eq!(names(&[]).unwrap().len(), 33);
        assert!(names(&["dense", "b9-"]).unwrap_err().to_string().starts_with("CASE is b9-;"));
    }
}
