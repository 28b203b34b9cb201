//! Alternatives, substitution and repetition in instruction files.

use super::FileError;

/// A set of substitutions: names and what they stand for.
pub(super) type Choice = Vec<(String, String)>;

/// Everything that a text with groups `(.a|.b)` and `{.c|.d}` stands for; a group in braces may be left out. Only groups
/// that begin with a dot count, so that vectors of registers stay.
pub(super) fn alternatives(text: &str) -> Vec<String> {
    let begin = ["(.", "{."].iter().filter_map(|open| text.find(open)).min();
    let Some(begin) = begin else { return vec![text.to_owned()] };
    let (close, optional) = if text[begin..].starts_with('(') { (')', false) } else { ('}', true) };
    let Some(length) = text[begin..].find(close) else { return vec![text.to_owned()] };
    let (before, group, after) =
        (&text[..begin], &text[begin + 1..begin + length], &text[begin + length + 1..]);
    let none = optional.then_some("");
    let rest = alternatives(after);
    none.into_iter()
        .chain(group.split('|'))
        .flat_map(|choice| rest.iter().map(move |rest| format!("{before}{choice}{rest}")))
        .collect()
}

/// What the lines `each A B: 1 2; 3 4` stand for together: one choice of each line.
pub(super) fn choices<'a>(lines: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Vec<Choice>, FileError> {
    let mut all = vec![Choice::new()];
    for (names, values) in lines {
        let names: Vec<&str> = names.split_whitespace().collect();
        let mut of_line = Vec::new();
        for text in values.split(';').flat_map(alternatives) {
            let values: Vec<&str> = text.split_whitespace().collect();
            if values.len() != names.len() {
                return Err(FileError::new("each", &text, "as many values as names"));
            }
            let pairs = names.iter().zip(values).map(|(name, value)| (name.to_string(), value.to_owned()));
            of_line.push(pairs.collect::<Choice>());
        }
        all = all
            .iter()
            .flat_map(|choice| {
                of_line.iter().map(move |more| choice.iter().cloned().chain(more.clone()).collect())
            })
            .collect();
    }
    Ok(all)
}

/// Puts in what the names stand for: `$NAME`.
pub(super) fn substitute(text: &str, choice: &Choice) -> String {
    let mut names: Vec<&(String, String)> = choice.iter().collect();
    // The longest first, so that $N leaves $NAME alone.
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
}

/// Name of an entry with its substitutions, as PTX allows it.
pub(super) fn name_with(name: &str, choice: &Choice) -> String {
    choice.iter().fold(name.to_owned(), |name, (_, value)| format!("{name}_{}", identifier(value)))
}

/// Letters, digits and underscores.
pub(super) fn identifier(text: &str) -> String {
    let text = text.replace('-', " minus");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_")
}

/// Writes out `repeat 4: …` lines, in which `$#` counts from 0, and lists of registers `{d0..3}`.
pub(super) fn repetitions(text: &str) -> Result<String, FileError> {
    let mut result = String::new();
    for line in text.lines() {
        match line.trim_start().strip_prefix("repeat ") {
            None => result += &format!("{}\n", lists(line)?),
            Some(repeated) => {
                let wrong = || FileError::new("repeat", line, "repeat COUNT: statements");
                let (count, statement) = repeated.split_once(':').ok_or_else(wrong)?;
                let count: u32 = count.trim().parse().map_err(|_| wrong())?;
                for index in 0..count {
                    result += &format!("{}\n", lists(statement)?.replace("$#", &index.to_string()));
                }
            }
        }
    }
    Ok(result)
}

fn lists(line: &str) -> Result<String, FileError> {
    let Some((before, rest)) = line.split_once("..") else { return Ok(line.to_owned()) };
    let wrong = || FileError::new("a list of registers", line, "{name0..last}");
    let (begin, end) = (before.rfind('{').ok_or_else(wrong)?, rest.find('}').ok_or_else(wrong)?);
    let first = &before[begin + 1..];
    let name = first.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    let registers: Vec<String> = (number(&first[name.len()..])?..=number(&rest[..end])?)
        .map(|index| format!("{name}{index}"))
        .collect();
    Ok(format!("{}{{{}}}{}", &before[..begin], registers.join(", "), lists(&rest[end + 1..])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_alternatives_or_optional() {
        let written = alternatives("add(.rn|.rz){.ftz}.f32 {a, b}");
        let expected =
            ["add.rn.f32 {a, b}", "add.rn.ftz.f32 {a, b}", "add.rz.f32 {a, b}", "add.rz.ftz.f32 {a, b}"];
        assert_eq!(written, expected);
    }

    #[test]
    fn each_line_multiplies_the_choices() {
        let all = choices([("A BB", "1 x; 2 y"), ("C", ".p{.q}")].into_iter()).unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!(substitute("$A$BB$C", &all[3]), "2y.p.q");
        assert_eq!(name_with("entry", &all[3]), "entry_2_y_p_q");
        assert!(choices([("A", "1 2")].into_iter()).is_err());
    }

    #[test]
    fn lists_and_repetitions() {
        assert_eq!(lists("f {d0..2}, {a1..1};").unwrap(), "f {d0, d1, d2}, {a1};");
        assert_eq!(repetitions("repeat 2: st d$#;\nret;").unwrap(), " st d0;\n st d1;\nret;\n");
        assert!(repetitions("repeat x: ret;").is_err());
        assert!(lists("a..b").is_err());
    }
}
