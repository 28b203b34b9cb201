//! `oximla run`, `oximla info`, and the command line itself.

mod common;

use std::io::Read;
use std::process::{Command, Stdio};

use common::{cases, folder, objects, oximla, write};
use oximla::case_file::Case;
use oximla_types::kernels::SM90A_CONTRACTS;

#[test]
fn a_case_file_is_computed_and_its_answer_written() {
    let folder = folder("run_file");
    for (name, case, mut answer) in cases() {
        // An answer that is in the input plays no part.
        answer.out[0] += 1.0;
        let input = write(&folder, name, &case, &answer);
        let output = folder.join(format!("answered_{name}"));
        let output = output.to_str().unwrap();
        let ended = oximla(&["run", "--backend", "cpu", "--input", &input, "--output", output]);
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        for word in [case.op(), "TFLOP/s", "GB/s", "rows compared with float64"] {
            assert!(ended.stdout.contains(word), "{}", ended.stdout);
        }
        let checked = oximla(&["check", "--backend", "reference", output]);
        assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    }
}

#[test]
fn json_has_the_measurements() {
    let folder = folder("run_json");
    for (name, case, answer) in cases() {
        let input = write(&folder, name, &case, &answer);
        // `run` goes without saying.
        let ended = oximla(&["--json", "--backend", "cpu", "--input", &input]);
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        let objects = objects(&ended.stdout);
        let [object] = objects.as_slice() else { panic!("{}", ended.stdout) };
        assert_eq!((&object["op"], &object["backend"]), (&case.op().into(), &"cpu".into()));
        assert!(["us", "tflops", "gbps"].iter().all(|field| object[field].as_f64().is_some_and(|x| x > 0.0)));
        assert_eq!(object["rows_compared"], answer.lse.len());
        assert_eq!(object["error"]["lse"]["wrong"], 0);
    }
}

#[test]
fn bad_input_is_refused_without_output() {
    let folder = folder("run_bad");
    let output = folder.join("output.safetensors");
    let missing = folder.join("missing.safetensors");
    let (missing, out) = (missing.to_str().unwrap(), output.to_str().unwrap());
    let ended = oximla(&["run", "--backend", "cpu", "--input", missing, "--output", out]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains(missing), "{}", ended.stderr);

    let (_, case, answer) = cases().into_iter().next().unwrap();
    let Case::DenseDecode(mut dense) = case else { panic!("dense comes first") };
    dense.block_table[1] = 99;
    let input = write(&folder, "bad_page.safetensors", &Case::DenseDecode(dense), &answer);
    let ended = oximla(&["run", "--backend", "cpu", "--input", &input, "--output", out]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("block_table[0][1]"), "{}", ended.stderr);
    assert!(!output.exists());
}

#[test]
fn the_command_line_is_checked() {
    for arguments in [
        &["run", "--output", "a"][..],
        &["run", "--backend", "reference"],
        &["run", "--backend", "tpu"],
        &["run", "--seed", "x"],
        &["walk"],
        &["--json", "info"],
    ] {
        let ended = oximla(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
    }
    assert_eq!(oximla(&["--help"]).code, Some(0));
}

#[test]
fn info_names_the_backends() {
    let text = oximla(&["info"]);
    assert_eq!(text.code, Some(0));
    for backend in ["cuda", "cpu", "emulated"] {
        assert!(text.stdout.contains(&format!("\n{backend} ")), "{}", text.stdout);
    }

    let json = oximla(&["info", "--json"]);
    let objects = objects(&json.stdout);
    let [object] = objects.as_slice() else { panic!("{}", json.stdout) };
    let backends = object["backends"].as_array().unwrap();
    assert!(backends.iter().map(|backend| &backend["backend"]).eq(["cuda", "cpu", "emulated"]));
    let cuda = oximla::Device::cuda(0).and_then(|device| device.info());
    assert_eq!(backends[0]["available"], cuda.is_ok());
    match cuda {
        Ok(_) => assert_eq!(backends[0]["kernels"].as_array().unwrap().len(), SM90A_CONTRACTS.len()),
        Err(why) => assert_eq!(backends[0]["reason"], why.to_string()),
    }
    assert_eq!((&backends[1]["available"], &backends[2]["available"]), (&true.into(), &true.into()));
    assert_eq!(backends[2]["kernels"].as_array().unwrap().len(), SM90A_CONTRACTS.len());
}

/// The generated steps are small enough for it.
#[test]
fn the_emulator_runs_the_gpu_kernels() {
    let ended = oximla(&["run", "--json", "--backend", "emulated"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let objects = objects(&ended.stdout);
    let [dense, insert, translate, sparse] = objects.as_slice() else { panic!("{}", ended.stdout) };
    for (object, kernel) in
        [(dense, "dense_decode_fused_sm90_bf16"), (sparse, "sparse_decode_v32_fused_sm90")]
    {
        assert_eq!((&object["backend"], &object["kernel"]), (&"emulated".into(), &kernel.into()));
        assert_eq!(object["error"]["out"]["wrong"], 0);
    }
    for (object, kernel) in [(insert, "kv_insert_v32"), (translate, "topk_to_slots")] {
        assert_eq!((&object["backend"], &object["kernel"]), (&"emulated".into(), &kernel.into()));
        assert_eq!(object["wrong"], 0);
    }
}

#[test]
fn nobody_needs_to_read_the_output() {
    let folder = folder("run_pipe");
    let files = cases().map(|(name, case, answer)| write(&folder, name, &case, &answer));
    let mut child = Command::new(env!("CARGO_BIN_EXE_oximla"))
        .args(["check", "--backend", "reference"])
        .args(files)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}
