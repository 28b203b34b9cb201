//! Why a text is not PTX.

use crate::ast::Position;

/// The first thing in a text that is not PTX.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {message}")]
pub struct ParseError {
    /// Where it stands.
    pub position: Position,
    /// What was found and what was expected.
    pub message: String,
}
