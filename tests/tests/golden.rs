//! Case files with answers of an independent implementation: the ones in `cases/`, and those in the directory that
//! `OXIMLA_CASES` names.

use std::path::{Path, PathBuf};

use oximla::Error;
use oximla::case_file::{Case, Expected};
use oximla_conformance::backend::Backend;
use oximla_conformance::tolerance::{Answer, DENSE_DECODE, SPARSE_DECODE, SPARSE_PREFILL, Tolerances};
use oximla_conformance::{dense_decode, sparse_decode, sparse_prefill, sparse_prefill_fp8};

const MORE_CASES: &str = "OXIMLA_CASES";

#[test]
fn reference() {
    check_all("reference", &all_cases(), |case| {
        let answer = match case {
            Case::DenseDecode(case) => dense_decode::answer(case),
            Case::SparseDecode(case) => sparse_decode::answer(case),
            Case::SparsePrefill(case) => sparse_prefill::answer(case),
            Case::SparsePrefillFp8(case) => sparse_prefill_fp8::answer(case),
        };
        let narrow = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect();
        let (out, lse, max_logits) = (narrow(answer.out), narrow(answer.lse), narrow(answer.max_logits));
        Ok(Expected { out, lse, max_logits })
    });
}

#[test]
fn cpu() {
    let cpu = Backend::cpu();
    check_all("cpu", &all_cases(), |case| case.run(&cpu.device));
}

#[test]
fn cuda() {
    if let Some(cuda) = Backend::cuda() {
        check_all("cuda", &all_cases(), |case| case.run(&cuda.device));
    }
}

/// The files of another directory may hold more than it can compute in time.
#[test]
fn emulated() {
    let emulated = Backend::emulated();
    check_all("emulated", &own_cases(), |case| case.run(&emulated.device));
}

/// Runs every file; what goes wrong fails at the end.
fn check_all(backend: &str, files: &[PathBuf], run: impl Fn(&Case) -> Result<Expected, Error>) {
    let mut failures = Vec::new();
    for path in files {
        let name = format!("{backend} {}", path.display());
        let case = Case::read(path).unwrap_or_else(|why| panic!("{name}: {why}"));
        match run(&case) {
            Ok(actual) => {
                let (tolerances, expected) = expectation(&case);
                failures
                    .extend(tolerances.check(&actual, &expected).err().map(|why| format!("{name}: {why}")));
            }
            Err(why) => failures.push(format!("{name}: {why}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn own_cases() -> Vec<PathBuf> {
    case_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases"))
}

fn all_cases() -> Vec<PathBuf> {
    let more = std::env::var_os(MORE_CASES).map(PathBuf::from);
    own_cases().into_iter().chain(more.iter().flat_map(|directory| case_files(directory))).collect()
}

fn case_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|why| panic!("{}: {why}", directory.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    assert!(!files.is_empty(), "no case files in {}", directory.display());
    files.sort();
    files
}

fn expectation(case: &Case) -> (Tolerances, Answer) {
    let (tolerances, out_shape, lse_shape) = match case {
        Case::DenseDecode(case) => {
            let p = &case.problem;
            (DENSE_DECODE, vec![p.batch, p.s_q, p.h_q, p.head_dim_v], vec![p.batch, p.h_q, p.s_q])
        }
        Case::SparseDecode(case) => {
            let p = &case.problem;
            let out_shape = vec![p.batch, p.s_q, p.h_q, sparse_decode::HEAD_DIM_V];
            (SPARSE_DECODE, out_shape, vec![p.batch, p.h_q, p.s_q])
        }
        Case::SparsePrefill(case) => {
            let p = &case.problem;
            (SPARSE_PREFILL, vec![p.s_q, p.h_q, p.head_dim_v], vec![p.s_q, p.h_q])
        }
        Case::SparsePrefillFp8(case) => {
            let p = &case.problem;
            let out_shape = vec![p.s_q, p.h_q, sparse_decode::HEAD_DIM_V];
            (SPARSE_PREFILL, out_shape, vec![p.s_q, p.h_q])
        }
    };
    let expected = case.expected().expect("a case file with answers");
    let widen = |values: &[f32]| values.iter().copied().map(f64::from).collect();
    let answer = Answer {
        out: widen(&expected.out),
        out_shape,
        lse: widen(&expected.lse),
        max_logits: widen(&expected.max_logits),
        lse_shape,
    };
    (tolerances, answer)
}
