//! PTX as text and as a tree.

pub mod ast;
