//! Dense MLA decode over a paged cache.

mod schedule;
mod segments;
pub mod sm90;
