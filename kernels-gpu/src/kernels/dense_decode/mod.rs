//! Dense MLA decode over a paged cache.

mod segments;
pub mod sm90;
