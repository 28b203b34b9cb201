//! Output: records as text for people or as JSON, one object a line.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};

use serde::Serialize;

/// Where a command's records go: standard output.
///
/// When nobody reads it any more (`oximla check … | head -1`), the rest is dropped and the work goes on, so that the exit
/// status still tells how it ended.
#[derive(Debug)]
pub struct Reporter {
    json: bool,
    closed: bool,
}

impl Reporter {
    /// Text, or JSON with `json`.
    pub fn new(json: bool) -> Self {
        Self { json, closed: false }
    }

    /// Writes a record.
    ///
    /// # Errors
    /// When standard output cannot be written for another reason than a closed pipe.
    pub fn emit<R: Serialize + Display>(&mut self, record: &R) -> io::Result<()> {
        let line = if self.json { serde_json::to_string(record)? } else { record.to_string() };
        self.write(&line)
    }

    /// Writes a line that is for people only.
    ///
    /// # Errors
    /// As [`Reporter::emit`].
    pub fn note(&mut self, line: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { self.write(line) }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            written => written,
        }
    }
}

/// Tells why a command was given up. `eprintln!` would panic on a closed pipe.
pub fn error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "error: {error:#}");
}

/// Seconds, in the unit that suits them.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(pub f64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            seconds if seconds < 1e-3 => (seconds * 1e6, "us"),
            seconds if seconds < 1.0 => (seconds * 1e3, "ms"),
            seconds => (seconds, "s"),
        };
        write!(f, "{} {unit}", Digits(value))
    }
}

/// A number to three significant digits, without an exponent.
#[derive(Clone, Copy, Debug)]
pub struct Digits(pub f64);

impl Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.0.abs() {
            value if value < 1.0 => 3,
            value if value < 10.0 => 2,
            value if value < 100.0 => 1,
            _ => 0,
        };
        write!(f, "{:.decimals$}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_unit() {
        let texts = [248.4e-6, 52e-6, 0.1164, 1.5, 61.0].map(|seconds| Seconds(seconds).to_string());
        assert_eq!(texts, ["248 us", "52.0 us", "116 ms", "1.50 s", "61.0 s"]);
        assert_eq!(Digits(0.0394).to_string(), "0.039");
        assert_eq!(Digits(2670.4).to_string(), "2670");
    }
}
