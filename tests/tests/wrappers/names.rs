//! Finding the names of wrappers in their source.

/// Names of the wrappers that a source of `kernels-gpu/src/ptx` defines: its public functions, the macros it hands on,
/// and for each macro that defines functions, what its uses name first.
///
/// Relies on rustfmt: an item at the margin ends with a brace at the margin.
///
/// # Panics
/// If a macro defines functions whose name is not its first argument.
pub fn wrappers(source: &str) -> Vec<String> {
    let mut lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut text = String::new();
    let mut macros = Vec::new();
    let mut generators = Vec::new();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("macro_rules! ").map(identifier) else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "}").collect();
        let body = body.join("\n");
        if let Some((_, function)) = body.split_once("fn $") {
            let first = body.split_once(":ident").and_then(|(before, _)| before.rsplit('$').next());
            assert_eq!(first, Some(identifier(function)), "the name should be the first argument of {name}!");
            generators.push(format!("{name}!"));
        }
        macros.push(name);
    }

    let functions = text.lines().filter(|line| line.starts_with("pub"));
    let functions = functions.filter_map(|line| Some(identifier(line.split_once(" fn ")?.1)));
    let handed_on = text.lines().filter_map(|line| Some(identifier(line.strip_prefix("pub(crate) use ")?)));
    let handed_on = handed_on.filter(|name| macros.contains(name));
    let generated = generators.iter().flat_map(|generator| uses(&text, generator));
    functions.chain(handed_on).chain(generated).map(str::to_owned).collect()
}

/// The first argument of each use of a macro.
fn uses<'a>(text: &'a str, invocation: &str) -> Vec<&'a str> {
    let begins_word = |at: usize| !text[..at].ends_with(is_of_identifier);
    let invocations = text.match_indices(invocation).filter(|(at, _)| begins_word(*at));
    invocations
        .map(|(at, _)| {
            identifier(text[at + invocation.len()..].trim_start_matches([' ', '\n', '(', '{', '[']))
        })
        .collect()
}

/// The identifier that a text begins with.
fn identifier(text: &str) -> &str {
    text.split(|c| !is_of_identifier(c)).next().unwrap_or_default()
}

fn is_of_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

const SOURCE: &str = r#"
//! Talks of a `pub fn mentioned()`.

/// Adds.
#[inline(always)]
pub fn add(a: u32, b: u32) -> u32 {
    helper(a, b)
}

pub unsafe fn barrier<const ID: u32>() {}

fn helper(a: u32, b: u32) -> u32 {
    a + b
}

macro_rules! load {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        pub unsafe fn $name() -> u32 {
            asm!(concat!($instruction, " //"))
        }
    };
}

load! {
    /// Loads.
    load_word, "ld.b32"
}
load!(load_half, "ld.b16");

macro_rules! with_list {
    ($callback:ident!($($arguments:tt)*)) => {
        $callback!($($arguments)*, [0 1 2]);
    };
}

with_list!(load!(load_list, "ld.v3"));

macro_rules! address {
    ($entry:literal) => {{ $entry }};
}
pub(crate) use address;
"#;

#[test]
fn finds_functions_macros_and_what_macros_define() {
    assert_eq!(wrappers(SOURCE), ["add", "barrier", "address", "load_word", "load_half", "load_list"]);
}

#[test]
fn finds_a_wrapper_that_is_added() {
    let before = wrappers(SOURCE);
    for added in ["pub fn added() {}\n", "load!(added, \"ld.b8\");\n", "pub const unsafe fn added() {}\n"] {
        let mut after = wrappers(&format!("{SOURCE}{added}"));
        after.retain(|name| !before.contains(name));
        assert_eq!(after, ["added"], "{added}");
    }
}

#[test]
#[should_panic(expected = "first argument of load!")]
fn macros_take_the_name_first() {
    wrappers(&SOURCE.replace("$name:ident, $instruction:literal", "$kind:ident, $name:ident"));
}
