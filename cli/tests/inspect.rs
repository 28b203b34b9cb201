//! `oximla inspect`: counts that can be told from the shapes, and what it says of them.

mod common;

use common::{Ended, folder, objects, oximla};
use oximla_types::kernels::decode::VALUE_PARTS;
use serde_json::Value;

const TILE_ROWS: f64 = 64.0;
const BLOCK_KEYS: f64 = 64.0;
const HEAD_DIM: f64 = 576.0;
const HEAD_DIM_V: f64 = 512.0;
/// Columns of values that a product has.
const PART_COLUMNS: f64 = HEAD_DIM_V / VALUE_PARTS as f64;

fn inspect(arguments: &[&str]) -> Ended {
    oximla(&[&["inspect"], arguments].concat())
}

fn record(arguments: &[&str]) -> Value {
    let ended = inspect(&[arguments, &["--json"]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut objects = objects(&ended.stdout);
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A quantity summed over instructions whose text begins so, behind the predicate if there is one.
fn sum(record: &Value, column: &str, quantity: &str, mnemonic: &str) -> f64 {
    let instructions = record["instructions"].as_array().unwrap().iter();
    let of_mnemonic = instructions.filter(|row| {
        let text = row["text"].as_str().unwrap();
        let (guard, unguarded) = text.split_once(' ').unwrap_or(("", text));
        (if guard.starts_with('@') { unguarded } else { text }).starts_with(mnemonic)
    });
    of_mnemonic.map(|row| number(&row[column][quantity])).sum()
}

#[test]
fn a_key_block_is_what_the_shapes_say() {
    let record = record(&["dense_decode"]);
    assert_eq!(record["kernel"], "dense_decode_sm90_bf16");
    let all = &record["all"]["per_unit"];

    // Q·Kᵀ and P·V of one row tile.
    let flop = 2.0 * TILE_ROWS * BLOCK_KEYS * (HEAD_DIM + HEAD_DIM_V);
    assert_eq!(number(&all["tensor_flop"]), flop);
    let names: Vec<&str> =
        record["roles"].as_array().unwrap().iter().map(|role| role["role"].as_str().unwrap()).collect();
    assert_eq!(names, ["scores even", "scores odd", "values even", "values odd", "loads"]);
    let of_role = |index: usize, quantity: &str| number(&record["roles"][index]["per_unit"][quantity]);
    // The scores take turns.
    assert_eq!(of_role(0, "tensor_flop"), TILE_ROWS * BLOCK_KEYS * HEAD_DIM);
    assert_eq!(of_role(1, "tensor_flop"), TILE_ROWS * BLOCK_KEYS * HEAD_DIM);
    assert_eq!(of_role(2, "tensor_flop"), TILE_ROWS * BLOCK_KEYS * HEAD_DIM_V);
    assert_eq!(of_role(3, "tensor_flop"), TILE_ROWS * BLOCK_KEYS * HEAD_DIM_V);
    assert_eq!(of_role(4, "tensor_flop"), 0.0);

    // Four warps issue each product of 16 columns: 36 for the scores, 4 keys' worth for each part of the values.
    let of_halves = 4.0 * BLOCK_KEYS / 16.0 * (HEAD_DIM_V / 2.0 / PART_COLUMNS);
    let of_turns = 4.0 * HEAD_DIM / 16.0 / 2.0;
    let expected = [of_turns, of_turns, of_halves, of_halves];
    assert_eq!([0, 1, 2, 3].map(|role| of_role(role, "tensor")), expected);

    // Every tile comes once.
    let tiles = "cp.async.bulk.tensor";
    let bytes = BLOCK_KEYS * HEAD_DIM * 2.0;
    assert_eq!(sum(&record, "per_unit", "global_bytes", tiles), bytes);
    assert_eq!(sum(&record, "per_unit", "sectors", tiles), bytes / 32.0);
    assert_eq!(sum(&record, "per_unit", "shared_bytes", tiles), bytes);
    assert_eq!(of_role(4, "async_copy"), number(&all["async_copy"]));
    // The queries come once a request.
    assert_eq!(sum(&record, "fixed", "global_bytes", tiles), TILE_ROWS * HEAD_DIM * 2.0);

    // Operands of 16 columns: Q and K tiles of 64 rows; P of 64 rows for each part of the values.
    let scores = HEAD_DIM * (BLOCK_KEYS + TILE_ROWS) * 2.0;
    let products = f64::from(VALUE_PARTS) * BLOCK_KEYS / 16.0;
    let values = products * (TILE_ROWS + PART_COLUMNS) * 32.0;
    assert_eq!(sum(&record, "per_unit", "shared_bytes", "wgmma.mma_async"), scores + values);
    // Probabilities are stored as 16-bit elements, in a layout without conflicts.
    assert_eq!(sum(&record, "per_unit", "shared_bytes", "stmatrix"), TILE_ROWS * BLOCK_KEYS * 2.0);
    assert_eq!(number(&all["bank_conflicts"]), 0.0);
    // One power of two a score, and one a row for the running maximum, which each of 4 lanes computes.
    assert_eq!(number(&all["special"]) * 32.0, TILE_ROWS * BLOCK_KEYS + 4.0 * TILE_ROWS);
}

#[test]
fn the_roofline_is_work_over_rate() {
    let record = record(&["dense_decode", "--gpu", "h100"]);
    assert_eq!(record["gpu"]["name"], "H100 SXM");
    let resources = record["resources"].as_array().unwrap();
    let names: Vec<&str> = resources.iter().map(|resource| resource["resource"].as_str().unwrap()).collect();
    assert_eq!(names, ["tensor cores", "shared memory", "global memory", "issue slots", "special functions"]);
    for resource in resources {
        let cycles = number(&resource["work"]) / number(&resource["per_cycle"]);
        assert!((number(&resource["cycles"]) - cycles).abs() < 1e-6 * cycles, "{resource}");
    }
    // 8 912 896 FLOP on a 132nd of 989 TFLOP/s; more than 73 728 bytes on a 132nd of 3.35 TB/s.
    let us = |index: usize| number(&resources[index]["cycles"]) / number(&record["gpu"]["clock"]) * 1e6;
    assert!((us(0) - 1.190).abs() < 0.001, "{}", us(0));
    assert!((2.905..2.93).contains(&us(2)), "{}", us(2));
    assert_eq!(record["bound"], "global memory");
    // Four blocks on one SM, which may have all of the bandwidth: at least the products' time.
    assert_eq!(record["launch"]["ctas"], 1);
    assert!(number(&record["launch"]["us"]) > 4.0 * 1.189);
}

#[test]
fn row_tiles_share_what_comes_from_memory() {
    // An even number of tiles is fetched by clusters of two CTAs, half by each.
    for (heads, tiles, cluster) in [("128", 2, 2), ("192", 3, 1), ("256", 4, 2)] {
        let record = record(&["dense_decode_sm90_fp16", "--heads", heads, "--keys", "64"]);
        assert_eq!(record["kernel"], "dense_decode_sm90_fp16");
        assert_eq!((&record["cluster"], &record["sharers"]), (&cluster.into(), &(tiles / cluster).into()));
        let all = &record["all"]["per_unit"];
        assert_eq!(number(&all["tensor_flop"]), 2.0 * TILE_ROWS * BLOCK_KEYS * (HEAD_DIM + HEAD_DIM_V));
        let bytes = BLOCK_KEYS * HEAD_DIM * 2.0;
        assert_eq!(number(&all["sectors"]) * 32.0, bytes / f64::from(cluster), "{heads} heads");
        assert_eq!(number(&record["resources"][2]["work"]), bytes / f64::from(tiles), "{heads} heads");
        // All of a block comes to each CTA's shared memory.
        assert_eq!(sum(&record, "per_unit", "shared_bytes", "cp.async.bulk.tensor"), bytes, "{heads} heads");
        assert_eq!(record["launch"]["ctas"], tiles);
    }
}

#[test]
fn a_split_is_a_row_of_partial_output() {
    let record = record(&["combine"]);
    assert_eq!((&record["kernel"], &record["unit"]), (&"combine_bf16".into(), &"split".into()));
    assert_eq!(record["units"], serde_json::json!([2.0, 6.0]));
    assert_eq!(record["threads"], 128);
    // The columns, and what is told of both sides.
    assert_eq!(sum(&record, "per_unit", "global_bytes", "ld.global.v2.b32"), HEAD_DIM_V * 2.0);
    assert_eq!(sum(&record, "per_unit", "global_bytes", "ld.global.v4.b32"), 2.0 * 8.0);
    // The CTAs share 64 rows of bf16, whatever the splits.
    let ctas = number(&record["launch"]["ctas"]);
    assert_eq!(sum(&record, "fixed", "global_bytes", "st.global.v2.b32"), 64.0 * HEAD_DIM_V * 2.0 / ctas);
    assert_eq!(sum(&record, "per_unit", "global_bytes", "st.global"), 0.0);
    assert_eq!(number(&record["all"]["per_unit"]["tensor_flop"]), 0.0);
}

/// On so many multiprocessors a cluster would combine the splits of so few keys, in another kernel than the one that is asked for.
#[test]
fn a_large_gpu_runs_the_kernel_that_is_named() {
    let record = record(&["dense_decode", "--multiprocessors", "132", "--batch", "2"]);
    assert_eq!(record["kernel"], "dense_decode_sm90_bf16", "{record}");
}

#[test]
fn people_get_tables_that_fit() {
    let ended = inspect(&["dense_decode", "--top", "3", "--ptx"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let longest = ended.stdout.lines().max_by_key(|line| line.chars().count()).unwrap();
    assert!(longest.chars().count() <= 110, "{longest}");
    for text in
        ["values even", "warps 4-7", "per block", "8912896", "< bound", "not a simulation", "takes at least"]
    {
        assert!(ended.stdout.contains(text), "{text} is missing in\n{}", ended.stdout);
    }
    // All twenty warps ask for their threads' numbers, once.
    let listed = ended.stdout.lines().find(|line| line.contains("%tid.x")).unwrap();
    assert_eq!(listed.split_whitespace().take(2).collect::<Vec<_>>(), ["-", "20"]);

    let json = record(&["dense_decode", "--top", "1"]);
    assert!(json["instructions"].as_array().unwrap().len() > 500, "JSON has them all");
}

#[test]
fn a_module_of_ones_own_takes_the_librarys_place() {
    let folder = folder("inspect_module");
    let file = folder.join("module.ptx");
    let library = include_str!("../../host/ptx/sm_90a.ptx");
    // Twice the exponentials, of which every other result is overwritten.
    let (line, _) = library.match_indices("ex2.approx.ftz.f32").next().unwrap();
    let start = library[..line].rfind('\n').unwrap() + 1;
    let end = line + library[line..].find('\n').unwrap() + 1;
    let doubled = format!("{}{}{}", &library[..end], &library[start..end], &library[end..]);
    std::fs::write(&file, doubled).unwrap();
    let own = record(&["combine", "--module", file.to_str().unwrap()]);
    let theirs = record(&["combine"]);
    let special = |record: &Value| {
        number(&record["all"]["per_unit"]["special"]) + number(&record["all"]["fixed"]["special"])
    };
    assert!(special(&own) > special(&theirs));

    std::fs::write(&file, "no PTX").unwrap();
    let ended = inspect(&["combine", "--module", file.to_str().unwrap()]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
}

#[test]
fn what_cannot_be_is_refused() {
    let cases: [(&[&str], &str); 10] = [
        (
            &["sparse_decode"],
            "KERNEL is sparse_decode; needed is one of dense_decode, combine, dense_decode_sm90_bf16",
        ),
        (&["dense_decode_sm90_bf16", "--format", "fp16"], "--format is fp16; needed is bf16"),
        (
            &["dense_decode", "--heads", "3", "--kv-heads", "2"],
            "--heads is 3; needed is a multiple of --kv-heads 2",
        ),
        (&["dense_decode", "--keys", "4000000000"], "--keys"),
        (&["dense_decode", "--heads", "4294967295", "--queries", "4294967295"], "--heads"),
        (&["dense_decode", "--multiprocessors", "70000"], "multiprocessors is 70000"),
        (&["combine", "--keys", "64"], "every request is split"),
        (&["combine", "--multiprocessors", "1"], "--multiprocessors is 1; needed is at least 8"),
        (&["combine", "--heads", "8", "--multiprocessors", "1"], "every request is split"),
        (&["dense_decode", "--module", "/nowhere.ptx"], "/nowhere.ptx"),
    ];
    for (arguments, reason) in cases {
        let ended = inspect(arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains(reason), "{}", ended.stderr);
    }
    for arguments in [&["dense_decode", "--batch", "0"][..], &["dense_decode", "--gpu", "abacus"], &[]] {
        assert_eq!(inspect(arguments).code, Some(2), "{arguments:?}");
    }
}
