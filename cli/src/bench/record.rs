//! What the benchmark prints: one record a case and regime.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use oximla::DeviceInfo;
use serde::{Deserialize, Serialize};

use super::standard::StandardCase;
use crate::gpu::GpuName;
use crate::report::Digits;

/// The name of this program among others that print the same records.
pub const PROGRAM: &str = "oximla";

/// How calls follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Regime {
    /// Back to back, so that the power limit sets the clock
    Sustained,
    /// Single calls after idle gaps; on a GPU with a cold L2 cache
    Burst,
}

/// Significant digits of numbers in records: more than measurements have.
const DIGITS: f64 = 5.0;

/// The time of a case, and what it comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The case.
    pub name: String,
    /// Who computed it.
    pub program: String,
    pub op: String,
    pub regime: Regime,
    /// Median microseconds of a call, over the rounds.
    pub us: f64,
    pub tflops: f64,
    pub gbps: f64,
    /// Share of what the GPU's tensor cores can do, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_percent: Option<f64>,
    /// Share of the bandwidth of the GPU's memory, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_percent: Option<f64>,
    /// Share of the speed of a copy, where calls only move bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_percent: Option<f64>,
    /// Shortest and longest of the rounds, in microseconds.
    pub spread: [f64; 2],
    pub rounds: usize,
    pub device: String,
    /// The driver's version, on a GPU.
    #[serde(default)]
    pub driver: Option<String>,
}

/// What one measurement found, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Of a call.
    pub call: f64,
    /// Of a copy of as many bytes, where calls only move bytes.
    pub copy: Option<f64>,
}

/// A case that was not timed.
#[derive(Debug, Serialize)]
pub struct Skipped<'a> {
    pub name: &'a str,
    pub op: &'static str,
    /// Why not.
    pub skipped: String,
}

/// The titles of a record's columns in text.
pub const HEADER: &str =
    "case                                     regime          us TFLOP/s  peak    GB/s  peak  copy  spread";

impl Record {
    /// The record of a case that took `rounds` microseconds; at least one.
    pub fn new(case: &StandardCase, regime: Regime, rounds: Vec<Round>, device: &DeviceInfo) -> Self {
        let copies = rounds.iter().map(|round| round.copy).collect::<Option<Vec<f64>>>();
        let mut rounds: Vec<f64> = rounds.into_iter().map(|round| round.call).collect();
        let us = median(&mut rounds);
        let (flops, bandwidth) = (case.shape.flop() / us * 1e6, case.shape.bytes() / us * 1e6);
        let ceilings = GpuName::of_device(&device.name).map(GpuName::ceilings);
        Self {
            name: case.name.clone(),
            program: PROGRAM.to_owned(),
            op: case.shape.op().to_owned(),
            regime,
            us: rounded(us),
            tflops: rounded(flops * 1e-12),
            gbps: rounded(bandwidth * 1e-9),
            tensor_percent: ceilings.map(|gpu| rounded(100.0 * flops / gpu.tensor_flops)),
            bandwidth_percent: ceilings.map(|gpu| rounded(100.0 * bandwidth / gpu.bandwidth)),
            copy_percent: copies.map(|mut copies| rounded(100.0 * median(&mut copies) / us)),
            spread: [rounded(rounds[0]), rounded(rounds[rounds.len() - 1])],
            rounds: rounds.len(),
            device: device.name.clone(),
            driver: device.driver.clone(),
        }
    }
}

/// The median, of an even number the mean of the two in the middle; sorts the values, of which there is at least one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// Reads records, one JSON object a line. A later record of the same case, program and regime takes the place of an
/// earlier one; lines about cases that were skipped are passed over.
///
/// # Errors
/// When a file cannot be read or a line is neither, or times or rates are out of range.
pub fn read(files: &[impl AsRef<Path>]) -> anyhow::Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    let mut places = BTreeMap::new();
    for file in files.iter().map(AsRef::as_ref) {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for (line, number) in text.lines().zip(1..) {
            let place = || format!("{}, line {number}", file.display());
            let value: serde_json::Value = serde_json::from_str(line).with_context(place)?;
            if value.get("skipped").is_some() {
                continue;
            }
            let record: Record = serde_json::from_value(value).with_context(place)?;
            for (field, value) in [("us", record.us), ("gbps", record.gbps)] {
                ensure!(value > 0.0, "{}: {field} is {value}; needed is more than 0", place());
            }
            // What only moves bytes has none.
            ensure!(record.tflops >= 0.0, "{}: tflops is {}; needed is at least 0", place(), record.tflops);
            let key = (record.name.clone(), record.program.clone(), record.regime);
            match places.get(&key) {
                Some(&place) => records[place] = record,
                None => {
                    places.insert(key, records.len());
                    records.push(record);
                }
            }
        }
    }
    Ok(records)
}

impl Regime {
    /// Its name in records and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sustained => "sustained",
            Self::Burst => "burst",
        }
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent =
            |share: Option<f64>| share.map_or_else(|| "-".into(), |percent| format!("{percent:.0}%"));
        let [low, high] = self.spread.map(|us| Digits(us).to_string());
        write!(f, "{:<41}{:<10}{:>8}", self.name, self.regime.name(), Digits(self.us).to_string())?;
        write!(f, "{:>8}{:>6}", Digits(self.tflops).to_string(), percent(self.tensor_percent))?;
        write!(f, "{:>8}{:>6}", Digits(self.gbps).to_string(), percent(self.bandwidth_percent))?;
        write!(f, "{:>6}", percent(self.copy_percent))?;
        write!(f, "  {low} to {high}")
    }
}

impl Display for Skipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<41}skipped: {}", self.name, self.skipped)
    }
}

/// The value to [`DIGITS`] significant digits.
fn rounded(value: f64) -> f64 {
    let factor = 10_f64.powf(DIGITS - 1.0 - value.abs().log10().floor());
    if factor.is_finite() { (value * factor).round() / factor } else { value }
}

#[cfg(test)]
mod tests {
    use super::super::standard;
    use super::*;

    fn device(name: &str) -> DeviceInfo {
        DeviceInfo {
            backend: "cuda",
            name: name.into(),
            driver: Some("13.0".into()),
            units: 132,
            compute_capability: Some((9, 0)),
        }
    }

    /// 146.028888 GFLOP and 639.63136 MB.
    fn case() -> StandardCase {
        standard::select(standard::read(None).unwrap(), &["dense-b128-h128-q1-k4096".into()])
            .unwrap()
            .remove(0)
    }

    fn calls(us: &[f64]) -> Vec<Round> {
        us.iter().map(|&call| Round { call, copy: None }).collect()
    }

    #[test]
    fn a_record_is_the_median_and_its_rates() {
        let record =
            Record::new(&case(), Regime::Sustained, calls(&[260.0, 240.0, 250.0]), &device("NVIDIA H200"));
        let expected = serde_json::json!({
            "name": "dense-b128-h128-q1-k4096", "program": "oximla", "op": "dense_decode", "regime": "sustained",
            "us": 250.0, "tflops": 584.12, "gbps": 2558.5, "tensor_percent": 60.467, "bandwidth_percent": 57.885,
            "spread": [240.0, 260.0], "rounds": 3, "device": "NVIDIA H200", "driver": "13.0",
        });
        assert_eq!(serde_json::to_value(&record).unwrap(), expected);
        let unknown = Record::new(&case(), Regime::Burst, calls(&[250.0]), &device("NVIDIA A100"));
        assert_eq!((unknown.tensor_percent, unknown.bandwidth_percent), (None, None));
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn a_copy_that_takes_less_time_is_faster() {
        let rounds = [(260.0, 240.0), (240.0, 200.0), (250.0, 210.0)]
            .map(|(call, copy)| Round { call, copy: Some(copy) });
        let record = Record::new(&case(), Regime::Burst, rounds.to_vec(), &device("NVIDIA H200"));
        assert_eq!((record.us, record.copy_percent), (250.0, Some(84.0)));
    }

    #[test]
    fn text_lines_up_with_the_header() {
        let round = Round { call: 250.0, copy: Some(220.0) };
        let record = Record::new(&case(), Regime::Sustained, vec![round], &device("NVIDIA H200")).to_string();
        for (title, value) in [("us", "250"), ("TFLOP/s", "584"), ("GB/s", "2558"), ("copy", "88%")] {
            let end = |text: &str, word: &str| text.find(word).map(|start| start + word.len());
            assert_eq!(end(HEADER, title), end(&record, value), "{HEADER}\n{record}");
        }
    }

    #[test]
    fn later_records_take_the_place_of_earlier_ones() {
        let folder = std::env::temp_dir().join(format!("oximla-records-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (first, second) = (folder.join("first"), folder.join("second"));
        let line = |us: f64, regime: Regime| {
            serde_json::to_string(&Record::new(&case(), regime, calls(&[us]), &device("NVIDIA H200")))
                .unwrap()
        };
        let skipped = r#"{"name": "a", "op": "sparse_decode", "skipped": "b"}"#;
        fs::write(
            &first,
            [line(3.0, Regime::Burst), skipped.into(), line(4.0, Regime::Sustained)].join("\n"),
        )
        .unwrap();
        fs::write(&second, line(2.0, Regime::Burst)).unwrap();
        let us: Vec<f64> = read(&[&first, &second]).unwrap().iter().map(|record| record.us).collect();
        assert_eq!(us, [2.0, 4.0]);
        fs::write(&second, "{}").unwrap();
        let why = format!("{:#}", read(&[&second]).unwrap_err());
        assert!(why.contains("second, line 1") && why.contains("missing field"), "{why}");
        fs::remove_dir_all(folder).unwrap();
    }
}
