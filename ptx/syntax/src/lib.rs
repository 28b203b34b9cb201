//! PTX as text and as a tree: lexer, grammar, syntax tree, printer and lint.
//!
//! [`parse`] reads a module as compilers and people write it and refuses what it does not know: an instruction that is
//! not in its [`grammar`] is an error with a position, never passed over. What it returns is the [`ast`], which prints
//! itself as PTX again.
//!
//! ```
//! let text = "
//!     .version 8.4
//!     .target sm_90a
//!     .address_size 64
//!     .visible .entry double(.param .u64 values)
//!     {
//!         .reg .b64 %rd<2>;
//!         .reg .b32 %r<3>;
//!         ld.param.b64 %rd1, [values];
//!         ld.global.b32 %r1, [%rd1];
//!         add.s32 %r2, %r1, %r1;
//!         st.global.b32 [%rd1], %r2;
//!         ret;
//!     }";
//! let module = ptx_syntax::parse(text)?;
//! let entry = module.functions().next().unwrap();
//! assert_eq!(entry.instructions().nth(2).unwrap().to_string(), "add.s32 %r2, %r1, %r1");
//!
//! let error = ptx_syntax::parse(&text.replace("add.s32", "add.s33")).unwrap_err();
//! assert!(error.to_string().starts_with("11:9: `add.s33`: unknown modifier `.s33`"));
//! # Ok::<(), ptx_syntax::ParseError>(())
//! ```

pub mod ast;
mod error;
pub mod grammar;
pub mod lexer;
pub mod lint;
mod parser;
mod printer;
pub mod sync_sites;
pub mod walk;

pub use error::ParseError;
pub use parser::{parse, parse_unchecked};
