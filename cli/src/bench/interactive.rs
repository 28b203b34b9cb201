//! Measurements on request, so that programs on one GPU can take turns.
//!
//! The first line printed is `{"ready": true, "program": …, "device": …, "driver": …}`. Every line read is a case's name
//! and a regime, such as `dense-b4-h128-q1-k8192 burst`, and is answered by one line: the record of one round, or
//! `{"name": …, "error": …}`. A case's inputs stay until another case is asked for; the end of the input ends it all.

use std::fmt::{self, Display};
use std::io::BufRead;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Serialize;

use super::record::{PROGRAM, Record, Regime};
use super::standard::StandardCase;
use super::timing::Stopwatch;
use crate::report::Reporter;

/// Answers the lines of `requests` until they end.
///
/// # Errors
/// When requests cannot be read or answers not be written.
pub fn serve(
    requests: impl BufRead,
    cases: &[StandardCase],
    stopwatch: &mut dyn Stopwatch,
    reporter: &mut Reporter,
) -> anyhow::Result<()> {
    let info = stopwatch.device();
    reporter.emit(&Ready {
        ready: true,
        program: PROGRAM,
        device: info.name.clone(),
        driver: info.driver.clone(),
    })?;
    let mut loaded = None;
    for line in requests.lines() {
        let line = line.context("standard input")?;
        match answer(&line, cases, stopwatch, &mut loaded) {
            Ok(record) => reporter.emit(&record)?,
            Err(error) => {
                let name = line.split_whitespace().next().unwrap_or_default();
                reporter.emit(&Failed { name, error: format!("{error:#}") })?;
            }
        }
    }
    Ok(())
}

fn answer(
    line: &str,
    cases: &[StandardCase],
    stopwatch: &mut dyn Stopwatch,
    loaded: &mut Option<String>,
) -> anyhow::Result<Record> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, regime] = words.as_slice() else {
        bail!("the request is {line:?}; needed is a case's name and a regime")
    };
    let case = cases.iter().find(|case| case.name == *name);
    let case = case.with_context(|| format!("CASE is {name}; needed is a case's name"))?;
    let regime = Regime::from_str(regime, false)
        .ok()
        .with_context(|| format!("the regime is {regime}; needed is sustained or burst"))?;
    if loaded.as_deref() != Some(*name) {
        *loaded = None;
        stopwatch.load(&case.shape)?;
        *loaded = Some(case.name.clone());
    }
    Ok(Record::new(case, regime, vec![stopwatch.round(regime)?], stopwatch.device()))
}

/// The first line.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    program: &'static str,
    device: String,
    driver: Option<String>,
}

/// The answer to a request that came to nothing.
#[derive(Serialize)]
struct Failed<'a> {
    name: &'a str,
    error: String,
}

impl Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.program, self.device)
    }
}

impl Display for Failed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.error)
    }
}
