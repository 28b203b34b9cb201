//! PTX as text and as a tree.

pub mod ast;
mod error;
pub mod lexer;
mod parser;
mod printer;
pub mod walk;

pub use error::ParseError;
pub use parser::{parse_unchecked, parse_unchecked as parse};
