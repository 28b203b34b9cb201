//! What rustc cannot say about a kernel, written into its PTX from the launch contract.
//!
//! There is no attribute for launch bounds, and ptxas ignores `setmaxnreg` without `.maxntid` and `.minnctapersm`. Nor
//! can a parameter be aligned above 16 bytes, where a tensor map in the parameter block needs 64.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

use oximla_types::launch::LaunchContract;
use ptx_syntax::ParseError;
use ptx_syntax::ast::{Function, Position};
use ptx_syntax::lexer;

/// Why a module and its contracts do not fit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FinishError {
    /// The text is not PTX that is known.
    #[error("malformed PTX at {0}")]
    Malformed(#[from] ParseError),
    /// A kernel nobody may launch.
    #[error(
        "entry {0} has no launch contract; add one to the contracts in oximla-types or remove the kernel"
    )]
    NoContract(String),
    /// A contract for a kernel that was not compiled.
    #[error(
        "the launch contract of {0} has no entry in the module; is the kernel `extern \"ptx-kernel\"` and `no_mangle`?"
    )]
    NoEntry(&'static str),
    /// One entry, two contracts.
    #[error("{0} has two launch contracts")]
    TwoContracts(&'static str),
    /// The compiler wrote launch bounds of its own.
    #[error("entry {0} already has directives (`{1}`); launch bounds come from the contract alone")]
    HasDirectives(String, String),
    /// The parameters cannot be aligned as the contract says.
    #[error(
        "parameters of {entry} should be aligned to {needed} bytes, but there {found}; pass one `#[repr(C)]` struct by value"
    )]
    Parameters {
        /// The entry.
        entry: String,
        /// The contract's alignment, in bytes.
        needed: u32,
        /// What the entry has.
        found: String,
    },
}

/// Writes the contracts and a first line saying `origin` into a module.
pub(crate) fn finish(ptx: &str, contracts: &[LaunchContract], origin: &str) -> Result<String, FinishError> {
    let module = ptx_syntax::parse(ptx)?;
    let mut without_entry = BTreeSet::new();
    for contract in contracts {
        if !without_entry.insert(contract.entry) {
            return Err(FinishError::TwoContracts(contract.entry));
        }
    }

    let mut finished = format!("// {origin}\n");
    let mut copied = 0;
    for entry in module.functions().filter(|function| function.is_entry) {
        let contract = contracts.iter().find(|contract| contract.entry == entry.name);
        let contract = contract.ok_or_else(|| FinishError::NoContract(entry.name.clone()))?;
        without_entry.remove(entry.name.as_str());

        if let Some((place, align)) = raised_alignment(ptx, entry, contract.param_align)? {
            finished += &ptx[copied..place.start];
            write!(finished, "{align}").expect("strings take everything");
            copied = place.end;
        }
        if !entry.directives.is_empty() {
            let present: Vec<_> = entry.directives.iter().map(ToString::to_string).collect();
            return Err(FinishError::HasDirectives(entry.name.clone(), present.join(" ")));
        }
        let parameters_end = offset(ptx, entry.parameters_end);
        finished += &ptx[copied..parameters_end];
        finished += &directives(contract);
        copied = parameters_end;
    }
    finished += &ptx[copied..];
    match without_entry.first() {
        Some(entry) => Err(FinishError::NoEntry(entry)),
        None => Ok(finished),
    }
}

/// The launch bounds, each on a line of its own.
fn directives(contract: &LaunchContract) -> String {
    let mut lines = format!("\n.maxntid {}\n.minnctapersm {}", contract.threads, contract.min_ctas_per_sm);
    if contract.cluster > 1 {
        lines += &format!("\n.reqnctapercluster {}", contract.cluster);
    }
    lines
}

/// Where the alignment of the parameter block stands and what it should be, if that is more than it is.
fn raised_alignment(
    ptx: &str,
    entry: &Function,
    needed: u32,
) -> Result<Option<(Range<usize>, u32)>, FinishError> {
    let refused = |found: &str| {
        Err(FinishError::Parameters { entry: entry.name.clone(), needed, found: found.to_owned() })
    };
    let mut blocks = entry.parameters.iter().filter_map(|parameter| Some((parameter, parameter.align?)));
    let (block, align) = match (blocks.next(), blocks.next()) {
        (Some(block), None) => block,
        (Some(_), Some(_)) => return refused("are several blocks"),
        // Scalars align themselves, up to the 8 bytes of a pointer.
        (None, _) if needed <= 8 => return Ok(None),
        (None, _) => return refused("is no parameter block"),
    };
    match align {
        align if align == needed => Ok(None),
        align if align < needed => {
            let parameter = offset(ptx, block.position)..offset(ptx, entry.parameters_end);
            match number_behind(ptx, parameter, "align")? {
                Some(number) => Ok(Some((number, needed))),
                None => refused("is no `.align`"),
            }
        }
        align => refused(&format!("the compiler wrote {align}")),
    }
}

/// Where the number behind the first directive of a name stands in a part of a text.
fn number_behind(
    text: &str,
    part: Range<usize>,
    directive: &str,
) -> Result<Option<Range<usize>>, ParseError> {
    let piece = &text[part.clone()];
    let mut tokens = lexer::tokens(piece)?.into_iter();
    let is_directive =
        |token: &lexer::Token<'_>| token.kind == lexer::TokenKind::Dotted && token.text == directive;
    let number = tokens.find(is_directive).and_then(|_| tokens.next());
    Ok(number.map(|number| {
        let start = part.start + offset(piece, number.position);
        start..start + number.text.len()
    }))
}

/// The byte at a position of a text.
fn offset(text: &str, position: Position) -> usize {
    let [line, column] = [position.line, position.column].map(|number| number as usize - 1);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let before = text[start..].chars().take(column);
    start + before.map(char::len_utf8).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = include_str!("../fixtures/two_entries.ptx");

    fn contract(entry: &'static str) -> LaunchContract {
        LaunchContract {
            entry,
            threads: 384,
            min_ctas_per_sm: 1,
            cluster: 1,
            shared_bytes: 1024,
            param_align: 8,
        }
    }

    #[test]
    fn writes_launch_bounds_between_parameters_and_body() {
        let clustered =
            LaunchContract { threads: 128, min_ctas_per_sm: 2, cluster: 2, ..contract("copy_scalar") };
        let finished = finish(MODULE, &[contract("copy_block"), clustered], "made by a test").unwrap();
        assert!(finished.starts_with("// made by a test\n//\n// Generated by LLVM NVPTX Back-End\n"));
        assert!(finished.contains("copy_block_param_0[144]\n)\n.maxntid 384\n.minnctapersm 1\n{\n"));
        assert!(finished.contains("param_0\n)\n.maxntid 128\n.minnctapersm 2\n.reqnctapercluster 2\n{\n"));
        let added = ["made by a test", ".maxntid", ".minnctapersm", ".reqnctapercluster"];
        let rest: String = finished
            .split_inclusive('\n')
            .filter(|line| !added.iter().any(|added| line.contains(added)))
            .collect();
        assert_eq!(rest, MODULE, "nothing else changes");
    }

    #[test]
    fn raises_the_alignment_of_the_parameter_block() {
        let aligned = LaunchContract { param_align: 64, ..contract("copy_block") };
        let finished = finish(MODULE, &[aligned, contract("copy_scalar")], "").unwrap();
        assert!(finished.contains(".param .align 64 .b8 copy_block_param_0[144]\n"));
        assert!(!finished.contains(".param .align 8 .b8"));
        assert!(
            finished.contains(".ptr .align 1 copy_scalar_param_0"),
            "the pointee's alignment is another matter"
        );
    }

    #[test]
    fn alignment_needs_one_block_that_is_not_aligned_more() {
        let scalar = LaunchContract { param_align: 64, ..contract("copy_scalar") };
        let error = finish(MODULE, &[contract("copy_block"), scalar], "").unwrap_err();
        assert!(
            error.to_string().contains("copy_scalar should be aligned to 64 bytes, but there is no"),
            "{error}"
        );

        let both = [contract("copy_block"), contract("copy_scalar")];
        let over = MODULE.replace(".param .align 8", ".param .align 16");
        assert!(matches!(finish(&over, &both, ""), Err(FinishError::Parameters { needed: 8, .. })));
        let block = ".param .align 8 .b8 copy_block_param_0[144]";
        let two = MODULE.replace(block, &format!("{block}, .param .align 8 .b8 other[8]"));
        assert!(matches!(finish(&two, &both, ""), Err(FinishError::Parameters { .. })));
    }

    #[test]
    fn entries_and_contracts_are_the_same_set() {
        let [block, scalar] = ["copy_block", "copy_scalar"].map(contract);
        assert_eq!(finish(MODULE, &[block], ""), Err(FinishError::NoContract("copy_scalar".to_owned())));
        assert_eq!(finish(MODULE, &[block, scalar, contract("gone")], ""), Err(FinishError::NoEntry("gone")));
        assert_eq!(finish(MODULE, &[block, scalar, block], ""), Err(FinishError::TwoContracts("copy_block")));
    }

    #[test]
    fn launch_bounds_are_not_written_twice() {
        let both = ["copy_block", "copy_scalar"].map(contract);
        let once = finish(MODULE, &both, "").unwrap();
        assert!(
            matches!(finish(&once, &both, ""), Err(FinishError::HasDirectives(entry, _)) if entry == "copy_block")
        );
    }
}
