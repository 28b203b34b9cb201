//! Reading PTX text as far as finishing and linting need it: comments, entries, statements.
//!
//! All offsets are byte offsets into the module. Strings are not understood: they occur in debug sections only, and
//! the `ptx` profile emits none.

use std::ops::Range;

/// Text that is not the PTX a compiler emits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PTX at line {line}: {reason}")]
pub struct MalformedPtx {
    /// Line, counted from 1.
    pub line: usize,
    /// What was expected.
    pub reason: &'static str,
}

/// Where the parts of one `.entry` lie.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub name: &'a str,
    /// What stands between `(` and `)`.
    pub parameters: Range<usize>,
    /// What stands between `)` and `{`: the launch directives.
    pub directives: Range<usize>,
    /// What stands between `{` and its `}`.
    pub body: Range<usize>,
}

/// A directive or an instruction, without labels and predicate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statement<'a> {
    pub offset: usize,
    pub text: &'a str,
}

impl<'a> Statement<'a> {
    /// The first word: an instruction with its modifiers, or a directive.
    pub fn mnemonic(&self) -> &'a str {
        self.text.split_whitespace().next().unwrap_or_default()
    }
}

/// The same text, byte for byte in the same place, with blanks for comments.
pub(crate) fn without_comments(ptx: &str) -> String {
    let mut code = String::with_capacity(ptx.len());
    let mut rest = ptx;
    while let Some(start) = rest.as_bytes().windows(2).position(|pair| pair == b"//" || pair == b"/*") {
        let (before, comment) = rest.split_at(start);
        let end = if comment.starts_with("//") {
            comment.find('\n')
        } else {
            comment.find("*/").map(|end| end + "*/".len())
        };
        let (comment, after) = comment.split_at(end.unwrap_or(comment.len()));
        code.push_str(before);
        code.extend(comment.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        rest = after;
    }
    code.push_str(rest);
    code
}

/// The entries of a module, in order. `code` has no comments.
pub(crate) fn entries(code: &str) -> Result<Vec<Entry<'_>>, MalformedPtx> {
    let mut entries = Vec::new();
    let mut from = 0;
    while let Some(keyword) = code[from..].find(".entry") {
        let after_keyword = from + keyword + ".entry".len();
        let malformed = |reason| MalformedPtx { line: line_of(code, after_keyword), reason };
        let find = |pattern: char, from: usize, reason| {
            code[from..].find(pattern).map(|found| from + found).ok_or_else(|| malformed(reason))
        };
        let open = find('(', after_keyword, "an entry has a parameter list")?;
        let close = find(')', open, "the parameter list has an end")?;
        let body = find('{', close, "an entry has a body")?;
        let name = code[after_keyword..open].trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(malformed("a parameter list follows the name of an entry"));
        }
        let end = closing_brace(code, body).ok_or_else(|| malformed("the body has an end"))?;
        entries.push(Entry {
            name,
            parameters: open + 1..close,
            directives: close + 1..body,
            body: body + 1..end,
        });
        from = end;
    }
    Ok(entries)
}

/// The statements of a piece of a module. `code` has no comments.
pub(crate) fn statements(code: &str, piece: Range<usize>) -> impl Iterator<Item = Statement<'_>> {
    let base = code.as_ptr().addr();
    code[piece].split([';', '{', '}']).map(move |text| {
        let text = without_labels(text);
        Statement { offset: text.as_ptr().addr() - base, text }
    })
}

/// Line of a byte, counted from 1.
pub(crate) fn line_of(code: &str, offset: usize) -> usize {
    1 + code[..offset].matches('\n').count()
}

/// Drops leading labels (`name:`) and the predicate (`@p`, `@!p`).
fn without_labels(text: &str) -> &str {
    let mut text = text.trim();
    while let Some(word) = text.split_whitespace().next().filter(|w| w.ends_with(':') || w.starts_with('@')) {
        text = text[word.len()..].trim_start();
    }
    text
}

fn closing_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return Some(offset);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_blanks_in_place() {
        let ptx = "a; // call é;\nb /* {\n */ c / d";
        let code = without_comments(ptx);
        assert_eq!(code.len(), ptx.len());
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a;", "b", "c", "/", "d"]);
        assert_eq!(line_of(&code, code.find('c').unwrap()), 3);
    }

    #[test]
    fn entries_are_delimited() {
        let code = ".visible .entry one(\n.param .u64 p\n)\n.maxntid 32\n{\n{ bar.sync 0; }\nret;\n}\n.entry two() { }";
        let entries = entries(code).unwrap();
        assert_eq!(entries.iter().map(|e| e.name).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(code[entries[0].parameters.clone()].trim(), ".param .u64 p");
        assert_eq!(code[entries[0].directives.clone()].trim(), ".maxntid 32");
        assert_eq!(code[entries[0].body.clone()].trim(), "{ bar.sync 0; }\nret;");
        assert!(code[entries[1].parameters.clone()].is_empty());
    }

    #[test]
    fn broken_entries_are_refused() {
        for broken in [".entry k", ".entry k(", ".entry k()", ".entry k() { {}", ".entry .noreturn k() {}"] {
            assert!(entries(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn statements_lose_labels_and_predicates() {
        let code =
            "$L__BB0_1:\n\t@%p1 bra \t$L2;\n{ .reg .pred p; @!p bar.sync 0; }\nfma.rn.f32 {%f1,%f2}, x;";
        let found: Vec<_> = statements(code, 0..code.len()).map(|s| s.mnemonic()).collect();
        assert_eq!(found, ["bra", "", ".reg", "bar.sync", "", "fma.rn.f32", "%f1,%f2", ",", ""]);
        let bar = statements(code, 0..code.len()).find(|s| s.mnemonic() == "bar.sync").unwrap();
        assert!(code[bar.offset..].starts_with("bar.sync 0;"));
    }
}
