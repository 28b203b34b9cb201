//! `oximla bench`: small cases on the CPU, the line protocol, and what is refused.

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

/// A file with a small case of each operation.
fn small_cases(folder: &Path) -> String {
    let cases = json!([
        {"name": "small", "op": "dense_decode", "b": 2, "h_q": 8, "s_q": 2, "s_k": 100, "page": 16, "varlen": true},
        {"name": "sparse", "op": "sparse_decode", "b": 2, "h_q": 8, "s_q": 1, "s_k": 60, "d": 512, "topk": 8, "page": 16,
            "extra_topk": 24, "extra_page": 32},
        {"name": "prefill", "op": "sparse_prefill", "s_q": 3, "h_q": 8, "s_k": 64, "d": 576, "topk": 16},
    ]);
    let file = folder.join("cases.json");
    fs::write(&file, cases.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

/// FLOP of the small cases. Dense requests have 50 and 69 keys, as 7919 is 19 more than a multiple of 100.
const SMALL_FLOP: f64 = 2.0 * 8.0 * 2.0 * 119.0 * 1088.0;
const SPARSE_FLOP: f64 = 2.0 * 8.0 * 2.0 * 32.0 * 1024.0;
const PREFILL_FLOP: f64 = 2.0 * 3.0 * 8.0 * 16.0 * 1088.0;

/// Checks a record of a case.
fn check(record: &Value, [name, op, regime]: [&str; 3], rounds: u64, flop: f64) {
    assert_eq!((&record["name"], &record["program"]), (&json!(name), &json!("oximla")));
    assert_eq!((&record["op"], &record["regime"]), (&json!(op), &json!(regime)));
    assert_eq!(record["rounds"], rounds);
    let number = |field: &str| record[field].as_f64().unwrap();
    let us = number("us");
    assert!((number("tflops") / (flop / us * 1e-6) - 1.0).abs() < 1e-3, "{record}");
    let [low, high] = [0, 1].map(|end| record["spread"][end].as_f64().unwrap());
    assert!(0.0 < low && low <= us && us <= high, "{record}");
}

#[test]
fn copies_into_and_out_of_caches_are_timed_on_a_gpu_alone() {
    let file = folder("bench_copies").join("cases.json");
    let case = |op: &str| json!({"name": op, "op": op, "tokens": 128, "d": 512, "page": 64});
    fs::write(&file, json!([case("kv_insert"), case("kv_gather")]).to_string()).unwrap();
    let ended = bench(&["--backend", "cpu", "--cases", file.to_str().unwrap(), "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let records = objects(&ended.stdout);
    assert_eq!(records.iter().map(|record| &record["name"]).collect::<Vec<_>>(), ["kv_insert", "kv_gather"]);
    assert!(records.iter().all(|record| record["skipped"].is_string()), "{}", ended.stdout);
}

#[test]
fn the_cpu_is_timed_in_attention() {
    let folder = folder("bench_cpu");
    let (cases, plots) = (small_cases(&folder), folder.join("plots"));
    let plots = plots.to_str().unwrap();
    let arguments = ["--backend", "cpu", "--cases", &cases, "--rounds", "2", "--plot", plots];
    let ended = bench(&[&arguments[..], &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let records = objects(&ended.stdout);
    let expected = [
        ("small", "dense_decode", SMALL_FLOP),
        ("sparse", "sparse_decode", SPARSE_FLOP),
        ("prefill", "sparse_prefill", PREFILL_FLOP),
    ];
    assert_eq!(records.len(), 2 * expected.len(), "{}", ended.stdout);
    for (records, (name, op, flop)) in records.chunks(2).zip(expected) {
        check(&records[0], [name, op, "sustained"], 2, flop);
        check(&records[1], [name, op, "burst"], 2, flop);
    }

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
    check(burst, ["small", "dense_decode", "burst"], 1, SMALL_FLOP);
    check(sparse, ["sparse", "sparse_decode", "burst"], 1, SPARSE_FLOP);
    check(sustained, ["small", "dense_decode", "sustained"], 1, SMALL_FLOP);
    let errors = [none, fast, short].map(|answer| answer["error"].as_str().unwrap());
    let reasons = ["CASE is none;", "the regime is fast;", "the request is \"small\";"];
    for (error, reason) in errors.into_iter().zip(reasons) {
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_standard_cases_are_listed_and_further_ones_by_name() {
    let ended = bench(&["--list", "--json"]);
    let standard: Value = serde_json::from_str(include_str!("../../bench/cases.json")).unwrap();
    assert_eq!(Value::Array(objects(&ended.stdout)), standard);
    let ended = bench(&["--list", "--json", "h16-q1-"]);
    let names: Vec<Value> = objects(&ended.stdout).iter().map(|case| case["name"].clone()).collect();
    let expected = ["dense-b128-h16-q1-k8192", "dense-b1-h16-q1-k131072", "sparse-v32-b128-h16-q1-topk2048"];
    assert_eq!(names, expected);
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
    let short = file(
        "short.json",
        r#"[{"name": "a", "op": "sparse_prefill", "h_q": 1, "s_q": 1, "s_k": 7, "d": 512, "topk": 8}]"#,
    );
    let other = file("other.json", "[1]");
    let plots = folder.join("plots");
    let plots = plots.to_str().unwrap();
    let zero = r#"{"name": "a", "program": "b", "op": "dense_decode", "regime": "burst", "us": 0, "tflops": 1, "gbps": 1,
        "spread": [1, 1], "rounds": 1, "device": "c"}"#;
    let zero = file("zero.jsonl", &zero.replace('\n', ""));
    let cases: [(&[&str], &str); 9] = [
        (&["b129", "--list"], "CASE is b129; needed is a part of a case's name"),
        (&["--cases", "/nowhere.json"], "/nowhere.json"),
        (&["--cases", &empty], "empty.json: a: s_k is 0; needed is in 1..=1048576"),
        (&["--cases", &huge, "--list"], "huge.json: a: topk is 1048577"),
        (&["--cases", &short], "short.json: a: topk is 8; needed is at most s_k, 7"),
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
