//! Comparison and selection (PTX ISA, "Comparison and Selection Instructions").

use ::half::{bf16, f16};

use super::float::Float;
use super::lanes::{Packed, Value};
use super::mnemonic::{Mnemonic, for_type};
use super::{DecodeError, Operation};

/// A set of outcomes of comparing two values.
type Outcomes = u8;

const LESS: Outcomes = 1;
const EQUAL: Outcomes = 2;
const GREATER: Outcomes = 4;
const UNORDERED: Outcomes = 8;

/// Comparisons that every type of bits has.
const EQUALITIES: [(&str, Outcomes); 2] = [("eq", EQUAL), ("ne", LESS | GREATER)];
/// Comparisons that every type of numbers has.
const ORDERS: [(&str, Outcomes); 4] =
    [("lt", LESS), ("le", LESS | EQUAL), ("gt", GREATER), ("ge", GREATER | EQUAL)];
/// Other names of the orders, for unsigned integers.
const UNSIGNED_ORDERS: [(&str, Outcomes); 4] =
    [("lo", LESS), ("ls", LESS | EQUAL), ("hi", GREATER), ("hs", GREATER | EQUAL)];
/// Comparisons that NaN takes part in, for floating-point types.
const UNORDERED_COMPARISONS: [(&str, Outcomes); 8] = [
    ("equ", EQUAL | UNORDERED),
    ("neu", LESS | GREATER | UNORDERED),
    ("ltu", LESS | UNORDERED),
    ("leu", LESS | EQUAL | UNORDERED),
    ("gtu", GREATER | UNORDERED),
    ("geu", GREATER | EQUAL | UNORDERED),
    ("num", LESS | EQUAL | GREATER),
    ("nan", UNORDERED),
];

/// The operation for each type that can be selected, as an unsigned `T` of its width.
macro_rules! selectable {
    ($m:expr, $ty:expr, $T:ident => $operation:expr) => {
        for_type!($m, $ty, {
            "b16" | "u16" | "s16" => u16,
            "b32" | "u32" | "s32" | "f32" => u32,
            "b64" | "u64" | "s64" | "f64" => u64,
        }, $T => $operation)
    };
}

/// Comparison and selection.
pub(super) fn decode(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    match m.opcode() {
        "setp" => set_predicate(m),
        "set" => set(m),
        "selp" => {
            let [ty] = m.types()?;
            Ok(selectable!(m, ty, T => Operation::ternary(|a: T, b: T, chosen| if chosen { a } else { b })))
        }
        _ => select_by_sign(m),
    }
}

/// A comparison, and how its outcome combines with a predicate.
#[derive(Clone, Copy)]
struct Test {
    outcomes: Outcomes,
    ftz: bool,
    logic: Option<Logic>,
}

/// How the outcome of a comparison combines with a predicate.
#[derive(Clone, Copy)]
enum Logic {
    And,
    Or,
    Xor,
}

impl Logic {
    fn combine(self, p: bool, q: bool) -> bool {
        match self {
            Self::And => p & q,
            Self::Or => p | q,
            Self::Xor => p ^ q,
        }
    }
}

impl Test {
    /// Takes the modifiers for operands of a type.
    fn take(m: &mut Mnemonic<'_>, ty: &str) -> Result<Self, DecodeError> {
        let known = [
            &EQUALITIES[..],
            if matches!(ty, "b16" | "b32" | "b64") { &[] } else { &ORDERS },
            if ty.starts_with('u') { &UNSIGNED_ORDERS } else { &[] },
            if ty.contains('f') { &UNORDERED_COMPARISONS } else { &[] },
        ]
        .concat();
        let outcomes = m.require(&known)?;
        let ftz = ty.contains('f') && ty != "f64" && m.take("ftz");
        let logic = m.choose(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
        Ok(Self { outcomes, ftz, logic })
    }

    /// Whether the comparison holds.
    fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        let outcome = if a < b {
            LESS
        } else if a == b {
            EQUAL
        } else if a > b {
            GREATER
        } else {
            UNORDERED
        };
        self.outcomes & outcome != 0
    }

    /// Whether it holds for floating-point numbers.
    fn holds_float<T: Float>(self, a: T, b: T) -> bool {
        self.holds(a.flushed_if(self.ftz), b.flushed_if(self.ftz))
    }
}

/// The operation that `$build` makes of a comparison of each type of one element.
macro_rules! compared {
    ($m:expr, $ty:expr, $test:ident, $build:expr) => {
        match $ty {
            "f16" => $build(move |a: f16, b: f16| $test.holds_float(a, b)),
            "bf16" => $build(move |a: bf16, b: bf16| $test.holds_float(a, b)),
            "f32" => $build(move |a: f32, b: f32| $test.holds_float(a, b)),
            "f64" => $build(move |a: f64, b: f64| $test.holds_float(a, b)),
            _ => for_type!($m, $ty, {
                "b16" | "u16" => u16, "b32" | "u32" => u32, "b64" | "u64" => u64,
                "s16" => i16, "s32" => i32, "s64" => i64,
            }, T => $build(move |a: T, b: T| $test.holds(a, b))),
        }
    };
}

fn set_predicate(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty] = m.types()?;
    let test = Test::take(m, ty)?;
    let pair = m.has_result_pair();
    Ok(match (ty, pair) {
        ("f16x2", _) => packed_predicates::<f16>(test),
        ("bf16x2", _) => packed_predicates::<bf16>(test),
        (_, false) => compared!(m, ty, test, |holds| predicate(test, holds)),
        (_, true) => compared!(m, ty, test, |holds| predicate_pair(test, holds)),
    })
}

fn predicate<T: Value>(test: Test, holds: impl Fn(T, T) -> bool + Send + Sync + 'static) -> Operation {
    match test.logic {
        None => Operation::binary(holds),
        Some(logic) => Operation::ternary(move |a, b, c| logic.combine(holds(a, b), c)),
    }
}

/// The second predicate is made of the opposite outcome.
fn predicate_pair<T: Value>(test: Test, holds: impl Fn(T, T) -> bool + Send + Sync + 'static) -> Operation {
    match test.logic {
        None => Operation::lanewise(move |(a, b)| (holds(a, b), !holds(a, b))),
        Some(logic) => Operation::lanewise(move |(a, b, c)| {
            let outcome = holds(a, b);
            (logic.combine(outcome, c), logic.combine(!outcome, c))
        }),
    }
}

/// A predicate for each element, the lower first.
fn packed_predicates<T: Float>(test: Test) -> Operation {
    let outcomes = move |a: Packed<T>, b: Packed<T>| a.zip(b, |a, b| test.holds_float(a, b));
    match test.logic {
        None => Operation::lanewise(move |(a, b)| {
            let Packed(low, high) = outcomes(a, b);
            (low, high)
        }),
        Some(logic) => Operation::lanewise(move |(a, b, c)| {
            let Packed(low, high) = outcomes(a, b).map(|outcome| logic.combine(outcome, c));
            (low, high)
        }),
    }
}

/// `set`: ones, or the number 1, where the comparison holds; else zero.
fn set(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [result, ty] = m.types()?;
    let test = Test::take(m, ty)?;
    Ok(match (result, ty) {
        ("f16x2", "f16x2") => set_packed(test, f16::ONE),
        ("bf16x2", "bf16x2") => set_packed(test, bf16::ONE),
        ("u32" | "s32", _) => compared!(m, ty, test, |holds| set_to(test, u32::MAX, holds)),
        ("f32", _) => compared!(m, ty, test, |holds| set_to(test, 1.0f32.to_bits(), holds)),
        ("u16" | "s16", _) => compared!(m, ty, test, |holds| set_to(test, u16::MAX, holds)),
        ("f16", _) => compared!(m, ty, test, |holds| set_to(test, f16::ONE.to_bits(), holds)),
        ("bf16", _) => compared!(m, ty, test, |holds| set_to(test, bf16::ONE.to_bits(), holds)),
        _ => return Err(m.unsupported_type(result)),
    })
}

fn set_to<T: Value, R: Value + Default + Send + Sync + 'static>(
    test: Test,
    one: R,
    holds: impl Fn(T, T) -> bool + Send + Sync + 'static,
) -> Operation {
    let value = move |outcome| if outcome { one } else { R::default() };
    match test.logic {
        None => Operation::binary(move |a, b| value(holds(a, b))),
        Some(logic) => Operation::ternary(move |a, b, c| value(logic.combine(holds(a, b), c))),
    }
}

fn set_packed<T: Float + Default + Send + Sync>(test: Test, one: T) -> Operation {
    let value = move |outcome| if outcome { one } else { T::default() };
    let outcomes = move |a: Packed<T>, b: Packed<T>| a.zip(b, |a, b| test.holds_float(a, b));
    match test.logic {
        None => Operation::binary(move |a, b| outcomes(a, b).map(value)),
        Some(logic) => {
            Operation::ternary(move |a, b, c| outcomes(a, b).map(|holds| value(logic.combine(holds, c))))
        }
    }
}

/// `slct`: the first operand where the third is at least zero, -0 included and NaN not.
fn select_by_sign(m: &mut Mnemonic<'_>) -> Result<Operation, DecodeError> {
    let [ty, selector] = m.types()?;
    let ftz = selector == "f32" && m.take("ftz");
    Ok(selectable!(m, ty, T => match selector {
        "s32" => Operation::ternary(|a: T, b: T, c: i32| if c >= 0 { a } else { b }),
        "f32" => Operation::ternary(move |a: T, b: T, c: f32| if c.flushed_if(ftz) >= 0.0 { a } else { b }),
        _ => return Err(m.unsupported_type(selector)),
    }))
}
