//! `oximla check`.

mod common;

use std::fs;

use common::{cases, dense_decode, folder, objects, oximla, sparse_decode, write};
use oximla::case_file::{Case, Expected};

#[test]
fn right_answers_pass_on_every_operation() {
    let folder = folder("check_right");
    let files = cases().map(|(name, case, answer)| write(&folder, name, &case, &answer));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    for backend in ["cpu", "reference", "auto"] {
        let ended = oximla(&[&["check", "--backend", backend], files.as_slice()].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stdout);
        let lines: Vec<&str> = ended.stdout.lines().collect();
        assert_eq!(lines.len(), 5, "{}", ended.stdout);
        for (line, op) in
            lines.iter().zip(["dense_decode", "sparse_decode", "sparse_prefill", "sparse_prefill_fp8"])
        {
            assert!(line.starts_with("pass") && line.contains(op), "{line}");
        }
        assert_eq!(lines[4], "4 passed, 0 failed, 0 skipped");
    }
}

#[test]
fn a_wrong_element_fails_and_is_named() {
    let folder = folder("check_wrong");
    for (name, case, mut answer) in cases() {
        let last = answer.out.len() - 1;
        answer.out[last] += 0.5;
        let file = write(&folder, name, &case, &answer);
        for backend in ["cpu", "reference"] {
            let ended = oximla(&["check", "--backend", backend, &file]);
            assert_eq!(ended.code, Some(1), "{}", ended.stdout);
            assert!(ended.stdout.starts_with("FAIL"), "{}", ended.stdout);
            assert!(
                ended.stdout.contains(", 511] is ") && ended.stdout.contains("; 1 of "),
                "{}",
                ended.stdout
            );
            assert!(ended.stdout.ends_with("0 passed, 1 failed, 0 skipped\n"));
        }
    }
}

#[test]
fn wrong_log_sum_exps_and_largest_scores_fail() {
    let folder = folder("check_lse");
    for (name, case, answer) in cases() {
        let spoilt = |mut values: Vec<f32>, value| {
            values[1] = value;
            values
        };
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e3] {
            let lse = Expected { lse: spoilt(answer.lse.clone(), value), ..answer.clone() };
            let ended = oximla(&["check", "--backend", "cpu", &write(&folder, name, &case, &lse)]);
            assert_eq!(ended.code, Some(1));
            assert!(ended.stdout.contains("  lse["), "{}", ended.stdout);
            if answer.max_logits.is_empty() {
                continue;
            }
            let max_logits = spoilt(answer.max_logits.clone(), value);
            let spoilt = Expected { max_logits, ..answer.clone() };
            let ended = oximla(&["check", "--backend", "cpu", &write(&folder, name, &case, &spoilt)]);
            assert_eq!(ended.code, Some(1));
            assert!(ended.stdout.contains("  max_logits["), "{}", ended.stdout);
        }
    }
}

#[test]
fn unreadable_files_fail_and_the_others_are_still_checked() {
    let folder = folder("check_unreadable");
    let (case, answer) = dense_decode();
    let right = write(&folder, "right.safetensors", &case, &answer);
    let bytes = fs::read(&right).unwrap();
    let place = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let truncated = place("truncated.safetensors", &bytes[..bytes.len() - 100]);
    let empty = place("empty.safetensors", &[]);
    let text = place("text.safetensors", b"not tensors at all, only a line of text");
    let missing = folder.join("missing.safetensors").to_str().unwrap().to_owned();
    let ended = oximla(&["check", "--backend", "cpu", &truncated, &empty, &text, &missing, &right]);
    assert_eq!(ended.code, Some(1));
    let lines: Vec<&str> = ended.stdout.lines().collect();
    for (line, file) in lines.iter().zip([&truncated, &empty, &text, &missing]) {
        assert!(line.starts_with("FAIL") && line.contains(file.as_str()), "{line}");
    }
    assert!(lines[4].starts_with("pass"), "{}", lines[4]);
    assert_eq!(lines[5], "1 passed, 4 failed, 0 skipped");
}

#[test]
fn problems_that_contradict_themselves_are_refused() {
    let folder = folder("check_invalid");
    let (case, answer) = dense_decode();
    let Case::DenseDecode(mut dense) = case else { panic!("asked for dense") };
    // As many query rows as before, but heads that two KV heads cannot share.
    (dense.problem.s_q, dense.problem.h_q) = (4, 3);
    let file = write(&folder, "heads.safetensors", &Case::DenseDecode(dense), &answer);
    for backend in ["cpu", "reference"] {
        let ended = oximla(&["check", "--backend", backend, &file]);
        assert_eq!(ended.code, Some(1));
        assert!(ended.stdout.contains("h_q is 3; needed is a multiple of h_kv = 2"), "{}", ended.stdout);
    }
}

#[test]
fn json_has_an_object_per_file() {
    let folder = folder("check_json");
    let (case, answer) = sparse_decode();
    let right = write(&folder, "right.safetensors", &case, &answer);
    let missing = folder.join("missing.safetensors").to_str().unwrap().to_owned();
    let ended = oximla(&["check", "--json", "--backend", "cpu", &right, &missing]);
    assert_eq!(ended.code, Some(1));
    let objects = objects(&ended.stdout);
    assert_eq!(objects.len(), 2);
    assert_eq!((&objects[0]["status"], &objects[0]["backend"]), (&"pass".into(), &"cpu".into()));
    assert_eq!(objects[0]["error"]["out"]["elements"], answer.out.len());
    assert_eq!(objects[0]["error"]["out"]["wrong"], 0);
    assert_eq!((&objects[1]["status"], &objects[1]["file"]), (&"fail".into(), &missing.into()));
    assert!(objects[1]["reason"].is_string());
}

/// What "unsupported" means depends on the machine: without a GPU the backend itself is missing.
#[test]
fn what_the_gpu_cannot_do_fails_unless_it_may_be_skipped() {
    let folder = folder("check_unsupported");
    let (case, answer) = sparse_decode();
    let file = write(&folder, "sparse.safetensors", &case, &answer);
    let strict = oximla(&["check", "--backend", "cuda", &file]);
    let lenient = oximla(&["check", "--backend", "cuda", "--skip-unsupported", &file]);
    let on_the_gpu = || case.run(&oximla::Device::cuda(0)?);
    match (oximla::Device::cuda(0), on_the_gpu()) {
        (Err(why), _) => {
            for ended in [strict, lenient] {
                assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
                assert_eq!(ended.stderr, format!("error: {why}\n"));
            }
        }
        (Ok(_), Err(oximla::Error::Unsupported { .. })) => {
            assert_eq!((strict.code, lenient.code), (Some(1), Some(0)));
            assert!(strict.stdout.starts_with("FAIL") && strict.stdout.contains("unsupported"));
            assert!(lenient.stdout.starts_with("skip") && lenient.stdout.contains("unsupported"));
        }
        (Ok(_), computed) => {
            computed.unwrap();
            assert_eq!((strict.code, lenient.code), (Some(0), Some(0)));
        }
    }
}

#[test]
fn what_the_emulator_has_no_kernel_for_is_unsupported() {
    let folder = folder("check_emulated");
    let files = cases().map(|(name, case, answer)| write(&folder, name, &case, &answer));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let command = ["check", "--backend", "emulated", "--skip-unsupported"];
    let ended = oximla(&[command.as_slice(), files.as_slice()].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    // The dense one has pages of 16 keys.
    assert!(ended.stdout.contains("page_size 64"), "{}", ended.stdout);
    assert!(ended.stdout.ends_with("3 passed, 0 failed, 1 skipped\n"), "{}", ended.stdout);
}

#[test]
fn files_must_be_named() {
    let ended = oximla(&["check"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("FILE"), "{}", ended.stderr);
}
