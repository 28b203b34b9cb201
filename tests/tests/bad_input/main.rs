//! Malformed problems, tensors and files: each is refused with an error that names the argument, before any output is
//! touched, or computed correctly where it turns out to be sound after all. Nothing panics.

mod argument;
mod cases;
mod dense_decode;
mod files;
mod rules;
mod sparse_decode;
mod sparse_prefill;

use oximla::{Error, InvalidProblem};
use proptest::prelude::*;

/// What an applied flaw calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The call must fail.
    Fatal,
    /// The call may fail; if it does not, its answer must be right.
    Sound,
}

/// The argument that `error` is about.
///
/// # Panics
/// If the error is not about an argument.
fn argument_of(error: &Error) -> &str {
    match error {
        Error::InvalidProblem(InvalidProblem { argument, found, needed }) => {
            assert!(!found.is_empty() && !needed.is_empty(), "{error} gives no values");
            argument
        }
        other => panic!("not about an argument: {other}"),
    }
}

/// Whether an error's argument, `block_table[3][7]` or `extra.kv_cache strides` for instance, is about the tensor `name`.
fn is_about(argument: &str, name: &str) -> bool {
    argument.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', ' ']))
}

/// Values that a size of `size` is replaced by.
fn wrong_size(size: usize, choice: usize) -> usize {
    let wrong = [0, size - 1, size + 1, 2 * size, 1 << 31, 1 << 32, 1 << 62, usize::MAX];
    wrong[choice % wrong.len()]
}

/// One or two of `flaws`, the second one elsewhere than the first, which it might undo.
fn one_or_two<T: Copy + std::fmt::Debug>(
    flaws: impl Strategy<Value = T> + Clone,
    same_place: fn(&T, &T) -> bool,
) -> impl Strategy<Value = Vec<T>> {
    let second = prop::option::of(flaws.clone());
    (flaws, second).prop_map(move |(first, second)| {
        let second = second.filter(|second| !same_place(&first, second));
        [Some(first), second].into_iter().flatten().collect()
    })
}

/// `cases` cases; failures are printed, not kept in files.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
