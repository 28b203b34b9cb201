//! `oximla bench`: small cases on the CPU, the line protocol, and what is skipped or refused.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Ended, folder, objects, oximla};
use serde_json::{Value, json};

fn bench(arguments: &[&str]) -> Ended {
    oximla(&[&["bench"], arguments].concat())
}

/// A file with a small case of dense decode, and one of another operation.
fn small_cases(folder: &Path) -> String {
    let cases = json!([
        {"name": "small", "op": "dense_decode", "b": 2, "h_q": 8, "s_q": 2, "s_k": 100, "page": 16, "varlen": true},
        {"name": "sparse", "op": "sparse_decode", "b": 1, "h_q": 8, "s_q": 1, "s_k": 64, "d": 576, "topk": 8, "page": 16},
    ]);
    let file = folder.join("cases.json");
    fs::write(&file, cases.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Checks a record of the small case: requests of 50 and 69 keys, as 7919 is 19 more than a multiple of 100.
fn check_small(record: &Value, regime: &str, rounds: u64) {
    assert_eq!(record["name"], "small");
    assert_eq!(
        (&record["program"], &record["op"], &record["regime"]),
        (&json!("oximla"), &json!("dense_decode"), &json!(regime))
    );
    assert_eq!(record["rounds"], rounds);
    let number = |field: &str| record[field].as_f64().unwrap();
    let (us, flop) = (number("us"), 2.0 * 8.0 * 2.0 * 119.0 * 1088.0);
    assert!((number("tflops") / (flop / us * 1e-6) - 1.0).abs() < 1e-3, "{record}");
    let [low, high] = [0, 1].map(|end| record["spread"][end].as_f64().unwrap());
    assert!(0.0 < low && low <= us && us <= high, "{record}");
}

#[test]
fn the_cpu_is_timed_and_other_operations_are_named() {
    let folder = folder("bench_cpu");
    let (cases, plots) = (small_cases(&folder), folder.join("plots"));
    let plots = plots.to_str().unwrap();
    let arguments = ["--backend", "cpu", "--cases", &cases, "--rounds", "2", "--plot", plots];
    let ended = bench(&[&arguments[..], &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let records = objects(&ended.stdout);
    let [sustained, burst, skipped] = records.as_slice() else { panic!("{}", ended.stdout) };
    check_small(sustained, "sustained", 2);
    check_small(burst, "burst", 2);
    assert_eq!((&skipped["name"], &skipped["op"]), (&json!("sparse"), &json!("sparse_decode")));
    assert_eq!(skipped["skipped"], "this benchmark times dense_decode, not sparse_decode");

    // Plots of the printed lines are those of the records.
    let lines = folder.join("records.jsonl");
    fs::write(&lines, &ended.stdout).unwrap();
    let again = folder.join("again");
    let ended = bench(&["--plot", again.to_str().unwrap(), "--from", lines.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 2);
    for name in ["roofline-sustained.svg", "roofline-burst.svg"] {
        let [first, second] = [Path::new(plots), &again].map(|folder| fs::read(folder.join(name)).unwrap());
        assert_eq!(first, second);
    }
}

#[test]
fn people_get_a_table() {
    let folder = folder("bench_table");
    let arguments =
        ["small", "--backend", "cpu", "--cases", &small_cases(&folder), "--rounds", "1", "--regime", "burst"];
    let ended = bench(&arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let [device, header, record] = lines.as_slice() else { panic!("{}", ended.stdout) };
    assert!(device.starts_with("on ") && header.starts_with("case ") && record.starts_with("small  "));
    assert!(record.contains(" burst "), "{record}");
}

#[test]
fn lines_are_answered_in_turn() {
    let folder = folder("bench_interactive");
    let cases = small_cases(&folder);
    let mut program = Command::new(env!("CARGO_BIN_EXE_oximla"))
        .args(["bench", "--interactive", "--json", "--backend", "cpu", "--cases", &cases])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let requests = "small burst\nnone burst\nsmall fast\nsparse burst\nsmall\nsmall sustained\n";
    program.stdin.take().unwrap().write_all(requests.as_bytes()).unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers = objects(&String::from_utf8(output.stdout).unwrap());
    let [ready, burst, none, fast, sparse, short, sustained] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert_eq!((&ready["ready"], &ready["program"]), (&json!(true), &json!("oximla")));
    check_small(burst, "burst", 1);
    check_small(sustained, "sustained", 1);
    let errors = [none, fast, sparse, short].map(|answer| answer["error"].as_str().unwrap());
    let reasons = ["CASE is none;", "the regime is fast;", "not sparse_decode", "the request is \"small\";"];
    for (error, reason) in errors.into_iter().zip(reasons) {
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_standard_cases_are_listed() {
    let ended = bench(&["--list", "--json"]);
    let standard: Value = serde_json::from_str(include_str!("../../bench/cases.json")).unwrap();
    assert_eq!(Value::Array(objects(&ended.stdout)), standard);
    let ended = bench(&["--list", "b1-"]);
    assert_eq!(ended.stdout.lines().count(), 2);
    // 2 · 128 · 65536 · 1088 FLOP; (65536 · 576 + 128 · 1088) · 2 bytes.
    let numbers = ["dense-b1-h128-q1-k65536", "dense_decode", "18.3 GFLOP", "75.8 MB", "241 FLOP/byte"];
    assert!(numbers.iter().all(|part| ended.stdout.contains(part)), "{}", ended.stdout);
}

#[test]
fn what_cannot_be_is_refused() {
    let folder = folder("bench_refused");
    let file = |name: &str, text: &str| {
        let file = folder.join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let empty = file(
        "empty.json",
        r#"[{"name": "a", "op": "dense_decode", "b": 1, "h_q": 1, "s_q": 1, "s_k": 0, "page": 64}]"#,
    );
    let huge = file(
        "huge.json",
        r#"[{"name": "a", "op": "sparse_prefill", "h_q": 1, "s_q": 1, "s_k": 1, "d": 512, "topk": 1048577}]"#,
    );
    let other = file("other.json", "[1]");
    let plots = folder.join("plots");
    let plots = plots.to_str().unwrap();
    let zero = r#"{"name": "a", "program": "b", "op": "dense_decode", "regime": "burst", "us": 0, "tflops": 1, "gbps": 1,
        "spread": [1, 1], "rounds": 1, "device": "c"}"#;
    let zero = file("zero.jsonl", &zero.replace('\n', ""));
    let cases: [(&[&str], &str); 8] = [
        (&["b129", "--list"], "CASE is b129; needed is a part of a case's name"),
        (&["--cases", "/nowhere.json"], "/nowhere.json"),
        (&["--cases", &empty], "empty.json: a: s_k is 0; needed is in 1..=1048576"),
        (&["--cases", &huge, "--list"], "huge.json: a: topk is 1048577"),
        (&["--cases", &other], "other.json"),
        (&["--plot", plots, "--from", &other], "other.json, line 1"),
        (&["--plot", plots, "--from", &zero], "zero.jsonl, line 1: us is 0; needed is more than 0"),
        (&["--plot", plots, "--from", &file("none.jsonl", "")], "no records"),
    ];
    for (arguments, reason) in cases {
        let ended = bench(arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains(reason), "{}", ended.stderr);
    }
    for arguments in
        [&["--rounds", "0"][..], &["--from", &other], &["--interactive"], &["--backend", "emulated"]]
    {
        assert_eq!(bench(arguments).code, Some(2), "{arguments:?}");
    }
}
