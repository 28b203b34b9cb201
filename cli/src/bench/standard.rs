//! The standard cases: problems by name, which other programs' benchmarks read from the same file.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::ops::Shape;
use crate::report::Digits;

/// The cases that go by their names alone.
const STANDARD: &str = include_str!("../../../bench/cases.json");

/// More cases, of which the comparison's means say nothing.
const FURTHER: &str = include_str!("../../../bench/further_cases.json");

/// Largest size of any kind; products of three are still counted without overflow.
const MAX_SIZE: u64 = 1 << 20;

/// A problem with a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StandardCase {
    pub name: String,
    #[serde(flatten)]
    pub shape: Shape,
}

/// The further cases, which are for whoever asks for them by name.
///
/// # Errors
/// When the program was built with something else.
pub fn further() -> anyhow::Result<Vec<StandardCase>> {
    serde_json::from_str(FURTHER).context("the further cases")
}

/// Reads the cases of a file, without one the standard ones.
///
/// # Errors
/// When the file cannot be read or holds something else, or sizes that are 0, beyond any use, or at odds.
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
    /// Checks that every size is one that arithmetic can be done with, and that they fit together.
    fn check_sizes(&self) -> anyhow::Result<()> {
        let fields = serde_json::to_value(&self.shape)?;
        for (field, value) in fields.as_object().into_iter().flatten() {
            if let Some(size) = value.as_u64() {
                ensure!((1..=MAX_SIZE).contains(&size), "{field} is {size}; needed is in 1..={MAX_SIZE}");
            }
        }
        self.shape.check()
    }
}

impl Display for StandardCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flop, bytes) = (self.shape.flop(), self.shape.bytes());
        let [gflop, megabytes, intensity] =
            [flop / 1e9, bytes / 1e6, flop / bytes].map(|number| Digits(number).to_string());
        write!(f, "{:<41}{:<22}", self.name, self.shape.op())?;
        write!(f, "{gflop:>7} GFLOP{megabytes:>8} MB{intensity:>8} FLOP/byte")
    }
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
        assert_eq!((case.shape.flop(), case.shape.bytes()), (146_028_888_064.0, 639_631_360.0));
        // 2 · 128 heads · 128 · 2 · 2048 tokens · 1088; 524288 · 656 + 128 · 2 · 128 · 1088 · 2 bytes.
        let case = standard("sparse-v32-b128-h128-q2-topk2048");
        assert_eq!((case.shape.flop(), case.shape.bytes()), (146_028_888_064.0, 415_236_096.0));
        // 2 · 64 heads · 2 · 2 · 640 tokens · 1024; 2560 · 584 + 2 · 2 · 64 · 1024 · 2 bytes.
        let case = standard("sparse-m1-b2-h64-q2-topk128+512");
        assert_eq!((case.shape.flop(), case.shape.bytes()), (335_544_320.0, 2_019_328.0));
        // 2 · 4096 · 128 · 2048 · 1088; (4096 · 2048 · 576 + 4096 · 128 · 1088) · 2 bytes.
        let case = standard("prefill-d576-h128-topk2048-k8192");
        assert_eq!((case.shape.flop(), case.shape.bytes()), (2_336_462_209_024.0, 10_804_527_104.0));
        // 1048576 tokens · (576 · 2 + 656 + 8) bytes; 65536 tokens · (512 · 2 + 584 + 4) bytes.
        let case = standard("insert-v32-k1048576");
        assert_eq!((case.shape.flop(), case.shape.bytes()), (0.0, 1_904_214_016.0));
        let case = standard("gather-m1-k65536");
        assert_eq!((case.shape.flop(), case.shape.bytes()), (0.0, 105_644_032.0));
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
    fn built_in_cases_are_problems_and_have_one_name_each() {
        let cases = [read(None).unwrap(), further().unwrap()].concat();
        for case in &cases {
            assert!(case.check_sizes().is_ok(), "{}", case.name);
            let validated = match &case.shape {
                Shape::DenseDecode(shape) => shape.problem().validate(),
                Shape::SparseDecode(shape) => shape.problem().validate(),
                Shape::SparsePrefill(shape) => shape.problem().validate(),
                Shape::SparsePrefillFp8(shape) => shape.problem().validate(),
                Shape::GatherSparsePrefill(shape) => {
                    shape.gathering().validate().and(shape.over_copy().problem().validate())
                }
                Shape::KvInsert(shape) => shape.insertion().validate(),
                Shape::KvGather(shape) => shape.gathering().validate(),
            };
            assert!(validated.is_ok(), "{}: {validated:?}", case.name);
            assert_eq!(cases.iter().filter(|other| other.name == case.name).count(), 1, "{}", case.name);
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
        assert_eq!(names(&[]).unwrap().len(), 41);
        assert!(names(&["dense", "b9-"]).unwrap_err().to_string().starts_with("CASE is b9-;"));
    }
}
