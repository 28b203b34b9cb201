//! Runs PTX on the CPU and checks it while it runs.

pub mod arithmetic;
pub mod diagnostic;
mod launch;
mod machine;
pub mod matrix;
pub mod memory;
mod order;
pub mod profile;
mod program;
pub mod tensor_map;

pub use diagnostic::Diagnostic;
pub use launch::{Checks, Launch, LaunchError, Module, Options, Report, launch};
pub use memory::GlobalMemory;
