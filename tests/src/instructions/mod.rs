//! Instruction files: small PTX entries, each about one family of instructions, that run on the emulator and on a GPU
//! and must give the same bits on both. `tests/instructions/README.md` explains their notation.
//!
//! * `file`: from a file's text to cases;
//! * `template`: alternatives, substitution, repetition;
//! * `frame`: the entry around an instruction that computes in one thread;
//! * `generate`: inputs;
//! * `map`: tensor maps, for the driver and for the emulator;
//! * `emulated`, `cuda`: running a case;
//! * `compare`, `suite`: what must agree with what.

pub mod case;
pub mod compare;
pub mod cuda;
pub mod emulated;
pub mod file;
mod frame;
pub mod generate;
pub mod map;
pub mod suite;
mod template;

/// Something wrong in an instruction file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: `{found}`; needed is {needed}")]
pub struct FileError {
    /// The part of the notation.
    pub what: &'static str,
    /// What stands there.
    pub found: String,
    /// What could stand there.
    pub needed: &'static str,
}

impl FileError {
    fn new(what: &'static str, found: impl ToString, needed: &'static str) -> Self {
        Self { what, found: found.to_string(), needed }
    }
}
