//! From the text of an instruction file to cases.

use std::collections::HashMap;
use std::sync::Arc;

use super::FileError;
use super::case::{Bound, Case, Expected, ROWS_OF_CTA, SLOT_BYTES, Shape, Table, Type};
use super::frame::{self, Names};
use super::generate;
use super::map::Map;
use super::template::{Choice, alternatives, choices, identifier, name_with, repetitions, substitute};

const KEYS: [&str; 11] =
    ["values", "form", "run", "within", "each", "launch", "input", "output", "map", "expect", "refused"];

/// A part of a file between blank lines.
struct Block<'a> {
    /// `// key: text` lines, in their order.
    directives: Vec<(&'a str, &'a str)>,
    /// The other lines.
    ptx: String,
}

/// The cases of a file; `stem` is its name without the ending.
///
/// # Errors
/// Where the notation is not followed.
pub fn cases(stem: &str, text: &str) -> Result<Vec<Case>, FileError> {
    let mut header = String::new();
    let mut cases = Vec::new();
    for block in text.split("\n\n").map(Block::new) {
        if block.first("values").is_some() {
            cases.extend(table(stem, &header, &block)?);
        } else if block.ptx.contains(".entry ") {
            cases.extend(entries(stem, &header, &block)?);
        } else {
            header += &block.ptx;
        }
    }
    number_namesakes(&mut cases);
    Ok(cases)
}

/// Makes names unique: tables may have the same form for operands of other types.
fn number_namesakes(cases: &mut [Case]) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for case in cases {
        let count = seen.entry(case.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            case.name += &format!("_{count}");
        }
    }
}

impl<'a> Block<'a> {
    fn new(text: &'a str) -> Self {
        let mut block = Self { directives: Vec::new(), ptx: String::new() };
        for line in text.lines() {
            let directive = line.strip_prefix("// ").and_then(|comment| comment.split_once(':'));
            match directive.filter(|(key, _)| KEYS.contains(&key.split(' ').next().unwrap_or_default())) {
                Some((key, value)) => block.directives.push((key, value.trim())),
                None if line.starts_with("//") => {}
                None => block.ptx += &format!("{line}\n"),
            }
        }
        block
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.directives.iter().filter(move |(found, _)| *found == key).map(|(_, text)| *text)
    }

    fn first(&self, key: &str) -> Option<&'a str> {
        self.all(key).next()
    }

    fn bound(&self) -> Result<Bound, FileError> {
        let Some(text) = self.first("within") else { return Ok(Bound::Exact) };
        if text == "number" {
            return Ok(Bound::Number);
        }
        let wrong =
            || FileError::new("within", text, "N ulp|absolute|relative|scaled, N may be 2^M; or number");
        let (number, kind) = text.split_once(' ').ok_or_else(wrong)?;
        let number = match number.strip_prefix("2^") {
            Some(exponent) => exponent.parse().map(f64::exp2),
            None => number.parse(),
        };
        let number = number.map_err(|_| wrong())?;
        match kind {
            "ulp" => Ok(Bound::Ulp(number)),
            "absolute" => Ok(Bound::Absolute(number)),
            "relative" => Ok(Bound::Relative(number)),
            "scaled" => Ok(Bound::Scaled(number)),
            _ => Err(wrong()),
        }
    }
}

/// One case for each form of a table; they share a module and their generated rows.
fn table(stem: &str, header: &str, block: &Block<'_>) -> Result<Vec<Case>, FileError> {
    let signature = block.first("values").unwrap_or_default();
    let wrong = || FileError::new("values", signature, "TYPE name, … -> TYPE name, …");
    let (operands, results) = signature.split_once("->").ok_or_else(wrong)?;
    let (operands, results) = (names(operands).ok_or_else(wrong)?, names(results).ok_or_else(wrong)?);
    let types = |names: &Names| names.iter().map(|(ty, _)| *ty).collect::<Vec<_>>();
    let generated = generate::rows(&types(&operands));
    let forms: Vec<String> = block.all("form").flat_map(alternatives).collect();
    let named: Vec<(String, &String)> = forms.iter().map(|form| (identifier(form), form)).collect();
    let mut ptx = header.to_owned();
    ptx.extend(named.iter().map(|(name, form)| frame::entry(name, &operands, &results, form)));
    let ptx: Arc<str> = ptx.into();
    let mut runs: Vec<Run> = block.all("run").map(Run::parse).collect::<Result<_, _>>()?;

    let (row_bytes, result_bytes) = (operands.len() * SLOT_BYTES, results.len() * SLOT_BYTES);
    let cta_bytes = row_bytes * ROWS_OF_CTA as usize;
    let mut cases = Vec::new();
    for (name, form) in named {
        let mut input = generated.clone();
        let mut expected = Vec::new();
        for run in runs.iter_mut().filter(|run| form.split([' ', ';']).next() == Some(run.mnemonic)) {
            run.used = true;
            let fits = run.results.is_empty() || run.results.len() == results.len();
            if !fits || run.operands.len() != operands.len() {
                return Err(FileError::new("run", run.mnemonic, "as many values as the table has"));
            }
            let slots = |values: &[u64], names: &Names| -> Vec<u8> {
                let kept =
                    values.iter().zip(names).map(|(value, (ty, _))| value & (u64::MAX >> (64 - ty.bits())));
                kept.flat_map(u64::to_le_bytes).collect()
            };
            let row = input.len() / row_bytes;
            input.extend(slots(&run.operands, &operands));
            let values = slots(&run.results, &results);
            for (place, (ty, _)) in results.iter().enumerate().take(run.results.len()) {
                let bytes = values[place * SLOT_BYTES..][..ty.bits() as usize / 8].to_vec();
                expected.push(Expected { offset: row * result_bytes + place * SLOT_BYTES, bytes });
            }
        }
        // The last CTA is filled up with the first rows.
        let missing = input.len().next_multiple_of(cta_bytes) - input.len();
        input.extend_from_within(..missing);
        cases.push(Case {
            name: format!("{stem}/{name}"),
            ptx: Arc::clone(&ptx),
            entry: name,
            launch: Shape {
                threads: ROWS_OF_CTA,
                grid: (input.len() / cta_bytes) as u32,
                cluster: 1,
                shared: ROWS_OF_CTA * SLOT_BYTES as u32,
            },
            output_bytes: input.len() / row_bytes * result_bytes,
            input,
            maps: Vec::new(),
            expected,
            bound: block.bound()?,
            refused: None,
            table: Some(Table { form: form.clone(), operands: types(&operands), results: types(&results) }),
        });
    }
    match runs.iter().find(|run| !run.used) {
        Some(run) => Err(FileError::new("run", run.mnemonic, "the first word of a form of the table")),
        None => Ok(cases),
    }
}

/// `f32 a, f32 b`
fn names(text: &str) -> Option<Names> {
    let name = |part: &str| {
        let (ty, name) = part.trim().split_once(' ')?;
        let (_, ty) = Type::ALL.iter().find(|(known, _)| *known == ty)?;
        Some((*ty, name.to_owned()))
    };
    text.split(',').map(name).collect()
}

/// `mnemonic(1, 2) == 3`; without results it is one more row.
struct Run<'a> {
    mnemonic: &'a str,
    operands: Vec<u64>,
    results: Vec<u64>,
    used: bool,
}

impl<'a> Run<'a> {
    fn parse(text: &'a str) -> Result<Self, FileError> {
        let wrong = || FileError::new("run", text, "mnemonic(value, …) == value, …");
        let (call, results) =
            text.split_once("==").map_or((text, None), |(call, results)| (call, Some(results)));
        let (mnemonic, operands) =
            call.trim().strip_suffix(')').and_then(|c| c.split_once('(')).ok_or_else(wrong)?;
        let values =
            |list: &str| list.split(',').map(|value| number(value.trim())).collect::<Option<Vec<_>>>();
        Ok(Self {
            mnemonic,
            operands: values(operands).ok_or_else(wrong)?,
            results: results.map_or(Some(Vec::new()), values).ok_or_else(wrong)?,
            used: false,
        })
    }
}

/// A number as PTX writes it: `12`, `-1`, `0xff`, `0f3f800000`, `0d3ff0000000000000`.
fn number(text: &str) -> Option<u64> {
    for prefix in ["0x", "0f", "0d"] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return u64::from_str_radix(digits, 16).ok();
        }
    }
    text.parse::<i128>().ok().map(|value| value as u64)
}

/// One case for each choice of the `each` lines; they share a module.
fn entries(stem: &str, header: &str, block: &Block<'_>) -> Result<Vec<Case>, FileError> {
    let each = block.directives.iter().filter_map(|(key, text)| Some((key.strip_prefix("each ")?, *text)));
    let wrong = || FileError::new("an entry", block.ptx.lines().next().unwrap_or_default(), ".entry name(");
    let (_, rest) = block.ptx.split_once(".entry ").ok_or_else(wrong)?;
    let (name, _) = rest.split_once('(').ok_or_else(wrong)?;
    let choices = choices(each)?;
    let mut ptx = header.to_owned();
    for choice in &choices {
        let renamed = block.ptx.replacen(name, &name_with(name, choice), 1);
        ptx += &repetitions(&substitute(&renamed, choice))?;
    }
    let ptx: Arc<str> = ptx.into();
    choices.iter().map(|choice| entry(stem, &ptx, &name_with(name, choice), block, choice)).collect()
}

fn entry(
    stem: &str,
    ptx: &Arc<str>,
    name: &str,
    block: &Block<'_>,
    choice: &Choice,
) -> Result<Case, FileError> {
    let text = |key: &str| block.first(key).map(|text| substitute(text, choice));
    let output = text("output").unwrap_or_default();
    let words = output.strip_suffix(" words").and_then(|count| count.parse::<usize>().ok());
    let words = words.ok_or_else(|| FileError::new("output", &output, "COUNT words"))?;
    let mut expected = Vec::new();
    for line in block.all("expect") {
        let line = substitute(line, choice);
        let wrong = || FileError::new("expect", &line, "FIRST = word word …");
        let (first, values) = line.split_once('=').ok_or_else(wrong)?;
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        for (index, value) in values.split_whitespace().enumerate() {
            let value = number(value).ok_or_else(wrong)? as u32;
            expected.push(Expected {
                offset: (first + index) * size_of::<u32>(),
                bytes: value.to_le_bytes().to_vec(),
            });
        }
    }
    Ok(Case {
        name: format!("{stem}/{name}"),
        ptx: Arc::clone(ptx),
        entry: name.to_owned(),
        launch: shape(&text("launch").unwrap_or_default())?,
        input: generate::buffer(&text("input").unwrap_or_else(|| "4 zero".to_owned()))?,
        output_bytes: words * size_of::<u32>(),
        maps: block.all("map").map(|map| Map::parse(&substitute(map, choice))).collect::<Result<_, _>>()?,
        expected,
        bound: block.bound()?,
        refused: text("refused"),
        table: None,
    })
}

/// `128 threads, 2 ctas, 2 in a cluster, 4096 shared`
fn shape(text: &str) -> Result<Shape, FileError> {
    let mut shape = Shape { threads: 32, grid: 1, cluster: 1, shared: 0 };
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong =
            || FileError::new("launch", part, "COUNT threads, COUNT ctas, COUNT in a cluster, BYTES shared");
        let (count, noun) = part.split_once(' ').ok_or_else(wrong)?;
        let count = count.parse().map_err(|_| wrong())?;
        match noun {
            "threads" => shape.threads = count,
            "ctas" => shape.grid = count,
            "in a cluster" => shape.cluster = count,
            "shared" => shape.shared = count,
            _ => return Err(wrong()),
        }
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
.version 8.4

// values: b32 a, b32 b -> b32 d
// form: add(.u32|.s32) d, a, b
// run: add.s32(-1, 3) == 2";

    #[test]
    fn a_table_has_a_case_for_each_form() {
        let cases = cases("file", TABLE).unwrap();
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["file/add_u32_d_a_b", "file/add_s32_d_a_b"]);
        assert!(Arc::ptr_eq(&cases[0].ptx, &cases[1].ptx));
        let expected = Expected { offset: 4096 * SLOT_BYTES, bytes: vec![2, 0, 0, 0] };
        assert_eq!((cases[0].expected.len(), &cases[1].expected[0]), (0, &expected));
        assert_eq!(cases[1].input[4096 * 2 * SLOT_BYTES..][..4], [0xff; 4]);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |from: &str, to: &str| cases("file", &TABLE.replace(from, to)).unwrap_err().what;
        assert_eq!(error("b32 a", "b31 a"), "values");
        assert_eq!(error("add.s32(", "sub.s32("), "run");
        assert_eq!(error("== 2", "== 2, 3"), "run");
        assert_eq!(error("// run:", "// within: 3 apples\n// run:"), "within");
    }
}
