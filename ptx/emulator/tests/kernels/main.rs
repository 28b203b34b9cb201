//! Whole kernels: `tests/fail` must be found wrong, `tests/pass` right. `tests/README.md` explains their headers.

mod case;
mod fail;
mod launches;
mod mutations;
mod pass;
mod seeds;
