//! Whether an instruction follows a form, and if none, what is wrong with it.

use std::collections::BTreeSet;

use super::Problem;
use super::notation::{Form, Kind, Length, Multiple, OperandForm, Part};
use crate::ast::{Instruction, Operand};

/// Sets of positions are bits of a `u64`; no instruction has half as many modifiers.
const MAX_MODIFIERS: usize = 63;

/// Finds a form that an instruction follows, among those of its opcode.
pub(super) fn check(forms: &[Form], instruction: &Instruction) -> Result<(), Problem> {
    let mut nearest: Option<(usize, Problem)> = None;
    if instruction.modifiers.len() <= MAX_MODIFIERS {
        for form in forms {
            if !follows(&form.modifiers, &instruction.modifiers, &mut |_, _| {}) {
                continue;
            }
            match check_operands(form, instruction) {
                Ok(()) => return Ok(()),
                Err((matched, problem)) => {
                    if nearest.as_ref().is_none_or(|(most, _)| matched > *most) {
                        nearest = Some((matched, problem));
                    }
                }
            }
        }
    }
    Err(nearest.map_or_else(|| modifier_problem(forms, instruction), |(_, problem)| problem))
}

/// Whether modifiers follow parts. `tried` hears of each part that was compared, and at which place.
fn follows(parts: &[Part], modifiers: &[String], tried: &mut impl FnMut(usize, &Part)) -> bool {
    let ends = advance(parts, 1, modifiers, tried);
    ends >> modifiers.len() & 1 == 1
}

/// From the places in `from`, where one may be after the parts. Bit `i` is the place before modifier `i`.
fn advance(parts: &[Part], from: u64, modifiers: &[String], tried: &mut impl FnMut(usize, &Part)) -> u64 {
    let mut places = from;
    for part in parts {
        if places == 0 {
            break;
        }
        places = match part {
            Part::Choice { alternatives, optional } => {
                let start = if *optional { places } else { 0 };
                alternatives
                    .iter()
                    .fold(start, |ends, alternative| ends | advance(alternative, places, modifiers, tried))
            }
            single => {
                let mut ends = 0;
                for place in bits(places) {
                    tried(place, single);
                    if modifiers.get(place).is_some_and(|modifier| is(single, modifier)) {
                        ends |= 1 << (place + 1);
                    }
                }
                ends
            }
        };
    }
    places
}

fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(lowest)
    })
}

/// Whether a modifier is what a part of one modifier says.
fn is(part: &Part, modifier: &str) -> bool {
    match part {
        Part::Word(word) => *word == modifier,
        Part::Shape { before, multiple, after } => {
            let number = modifier.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            number.and_then(|number| number.parse().ok()).is_some_and(|number: usize| {
                let step = match multiple {
                    Multiple::OfSixteenAbove32 if number > 32 => 16,
                    Multiple::OfEight | Multiple::OfSixteenAbove32 => 8,
                };
                (8..=256).contains(&number) && number.is_multiple_of(step)
            })
        }
        Part::Choice { .. } => false,
    }
}

/// What is wrong with modifiers that follow no form: the first that fits none, or that there is none.
fn modifier_problem(forms: &[Form], instruction: &Instruction) -> Problem {
    let modifiers = &instruction.modifiers[..instruction.modifiers.len().min(MAX_MODIFIERS)];
    let mut furthest = 0;
    let mut expected = BTreeSet::new();
    for form in forms {
        follows(&form.modifiers, modifiers, &mut |place, part| {
            let fits = modifiers.get(place).is_some_and(|modifier| is(part, modifier));
            let reached = if fits { place + 1 } else { place };
            if reached > furthest {
                furthest = reached;
                expected.clear();
            }
            if place == furthest {
                expected.insert(part_text(part));
            }
        });
    }
    let expected = expected.into_iter().collect();
    let Some(modifier) = instruction.modifiers.get(furthest).cloned() else {
        return Problem::MissingModifier { expected };
    };
    if forms.iter().any(|form| occurs(&form.modifiers, &modifier)) {
        Problem::MisplacedModifier { modifier, expected }
    } else {
        Problem::UnknownModifier { modifier, expected }
    }
}

fn part_text(part: &Part) -> String {
    match part {
        Part::Word(word) => (*word).to_owned(),
        Part::Shape { before, after, .. } => format!("{before}N{after}"),
        Part::Choice { .. } => String::new(),
    }
}

/// Whether a modifier stands anywhere in the parts.
fn occurs(parts: &[Part], modifier: &str) -> bool {
    parts.iter().any(|part| match part {
        Part::Choice { alternatives, .. } => alternatives.iter().any(|parts| occurs(parts, modifier)),
        single => is(single, modifier),
    })
}

/// Checks operands; where they do not fit, tells how many do, and what is wrong.
fn check_operands(form: &Form, instruction: &Instruction) -> Result<(), (usize, Problem)> {
    let expected: Vec<_> = form
        .operands
        .iter()
        .filter(|operand| operand.only_with.is_none_or(|modifier| instruction.has(modifier)))
        .collect();
    let matched = match_operands(&expected, &instruction.operands, instruction);
    if matched == Matched::All {
        return Ok(());
    }
    let found = &instruction.operands;
    let required = expected.iter().filter(|operand| !operand.optional).count();
    if let Matched::UpTo { operand, form } = matched
        && (required..=expected.len()).contains(&found.len())
        && let (Some(found), Some(form)) = (found.get(operand), expected.get(form))
    {
        let (place, found) = (operand + 1, found.to_string());
        // Operands of the right number are nearer than operands of a wrong one.
        return Err((
            place,
            Problem::OperandKind { place, found, expected: describe(&form.kind, instruction) },
        ));
    }
    let texts: Vec<_> = expected.iter().map(|operand| operand.text).collect();
    Err((0, Problem::OperandCount { found: found.len(), expected: texts.join(", ") }))
}

/// How far operands match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matched {
    All,
    /// The first operand that does not, and the place in the form it was last compared with.
    UpTo {
        operand: usize,
        form: usize,
    },
}

/// Compares in order; an optional operand is left out where that helps.
fn match_operands(expected: &[&OperandForm], found: &[Operand], instruction: &Instruction) -> Matched {
    let Some((first, rest)) = expected.split_first() else {
        return if found.is_empty() { Matched::All } else { Matched::UpTo { operand: 0, form: 0 } };
    };
    let mut best = Matched::UpTo { operand: 0, form: 0 };
    if let Some((operand, others)) = found.split_first()
        && fits(&first.kind, operand, instruction)
    {
        match match_operands(rest, others, instruction) {
            Matched::All => return Matched::All,
            Matched::UpTo { operand, form } => best = Matched::UpTo { operand: operand + 1, form: form + 1 },
        }
    }
    if first.optional {
        match match_operands(rest, found, instruction) {
            Matched::All => return Matched::All,
            Matched::UpTo { operand, form } => {
                if let Matched::UpTo { operand: furthest, .. } = best
                    && operand > furthest
                {
                    best = Matched::UpTo { operand, form: form + 1 };
                }
            }
        }
    }
    best
}

/// Whether an operand is of a kind.
fn fits(kind: &Kind, operand: &Operand, instruction: &Instruction) -> bool {
    use Operand as O;
    match kind {
        Kind::Register | Kind::Name(_) => matches!(operand, O::Name(_)),
        Kind::RegisterOrSink => matches!(operand, O::Name(_) | O::Sink),
        Kind::Sink => matches!(operand, O::Sink),
        Kind::NegatablePredicate => matches!(operand, O::Name(_) | O::Not(_)),
        Kind::Pair { optional } => match operand {
            O::Pair(first, second) => {
                [first, second].into_iter().all(|result| matches!(**result, O::Name(_) | O::Sink))
            }
            O::Name(_) | O::Sink => *optional,
            _ => false,
        },
        Kind::IntegerSource => matches!(operand, O::Name(_) | O::Integer(_)),
        Kind::FloatSource => matches!(operand, O::Name(_) | O::F32(_) | O::F64(_)),
        Kind::AnySource => {
            matches!(operand, O::Name(_) | O::Integer(_) | O::F32(_) | O::F64(_) | O::Symbol(_))
        }
        Kind::Integer => matches!(operand, O::Integer(_)),
        Kind::OneOf(values) => matches!(operand, O::Integer(value) if values.contains(value)),
        Kind::Address => matches!(operand, O::Address(address) if address.coordinates.is_empty()),
        Kind::Tensor => {
            let dimensions = number_in(instruction, "", "d");
            matches!(operand, O::Address(address) if Some(address.coordinates.len()) == dimensions)
        }
        Kind::Vector { written, length } => {
            let element = if *written { Kind::RegisterOrSink } else { Kind::AnySource };
            match (operand, length_of(*length, instruction)) {
                (O::Vector(items), Some(length)) => {
                    items.len() == length && items.iter().all(|item| fits(&element, item, instruction))
                }
                (_, Some(_)) => false,
                (scalar, None) => matches!(length, Length::OfV) && fits(&element, scalar, instruction),
            }
        }
        Kind::List => matches!(operand, O::List(_)),
    }
}

/// How many elements a vector has; none where it is none.
fn length_of(length: Length, instruction: &Instruction) -> Option<usize> {
    match length {
        Length::Fixed(length) => Some(length),
        Length::OfV => number_in(instruction, "v", ""),
        Length::OfX => number_in(instruction, "x", ""),
        Length::OfShape { divisor } => instruction.modifiers.iter().find_map(|modifier| {
            let (_, behind) = modifier.strip_prefix('m')?.split_once('n')?;
            let (n, _) = behind.split_once('k')?;
            Some(n.parse::<usize>().ok()? / divisor)
        }),
    }
}

/// The number in the first modifier that is nothing but a number between `before` and `after`.
fn number_in(instruction: &Instruction, before: &str, after: &str) -> Option<usize> {
    let number = |modifier: &String| modifier.strip_prefix(before)?.strip_suffix(after)?.parse().ok();
    instruction.modifiers.iter().find_map(number)
}

/// How an error names a kind.
fn describe(kind: &Kind, instruction: &Instruction) -> String {
    match kind {
        Kind::Register => "a register".to_owned(),
        Kind::RegisterOrSink => "a register or `_`".to_owned(),
        Kind::Sink => "`_`".to_owned(),
        Kind::NegatablePredicate => "a predicate register, which may be negated".to_owned(),
        Kind::Pair { optional: true } => "a register or two with `|` between them".to_owned(),
        Kind::Pair { optional: false } => "two registers with `|` between them".to_owned(),
        Kind::IntegerSource => "a register or an integer".to_owned(),
        Kind::FloatSource => "a register or a floating-point constant".to_owned(),
        Kind::AnySource => "a register or a constant".to_owned(),
        Kind::Integer => "an integer".to_owned(),
        Kind::OneOf(values) => values.iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" or "),
        Kind::Address => "an address".to_owned(),
        Kind::Tensor => match number_in(instruction, "", "d") {
            Some(dimensions) => format!("the address of a tensor map with {dimensions} coordinates"),
            None => "the address of a tensor map with coordinates".to_owned(),
        },
        Kind::Vector { length, written } => {
            let element =
                describe(if *written { &Kind::RegisterOrSink } else { &Kind::AnySource }, instruction);
            match length_of(*length, instruction) {
                Some(length) => format!("a vector of {length} elements, each {element}"),
                None => element,
            }
        }
        Kind::Name(what) => format!("the name of a {what}"),
        Kind::List => "operands in parentheses".to_owned(),
    }
}
