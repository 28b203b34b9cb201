//! What is printed parses to the same tree.

use proptest::prelude::*;
use ptx_syntax::ast::{
    Address, Directive, Function, Guard, HeaderPositions, Instruction, Item, Linkage, Module, Operand,
    Pointer, Position, Registers, Space, Statement, Symbol, Type, Variable,
};
use ptx_syntax::{parse, parse_unchecked};

const SHIPPED: &str = include_str!("../../../host/ptx/sm_90a.ptx");
/// Functions, prototypes of functions, calls, initialisers.
const CALLING: &str = include_str!("../../build/fixtures/calling.ptx");

/// What rustc makes of all arithmetic in `core`.
const COMPILED: &str = include_str!("../fixtures/compiled.ptx");

fn assert_survives(module: Module) {
    let text = module.to_string();
    let parsed = parse_unchecked(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(parsed.without_positions(), module.without_positions(), "{text}");
}

#[test]
fn compiled_modules_survive() {
    for text in [SHIPPED, CALLING, COMPILED] {
        assert_survives(parse(text).unwrap());
    }
}

#[test]
fn printing_is_stable() {
    let once = parse_unchecked(CALLING).unwrap().to_string();
    assert_eq!(parse_unchecked(&once).unwrap().to_string(), once);
}

#[test]
fn rare_constructs_survive() {
    let module = parse_unchecked(
        ".version 8.7
        .target sm_90a, debug
        .address_size 64
        .file 1 \"lib.rs\", 12, 34
        .weak .const .align 8 .v2 .f64 pi = {3.25, -1e-3};
        .global .u64 table[2][2] = {{generic(x)+8, x}, {x-8, 0xff00(generic(x))}};
        .visible .entry k(.param .u64 .ptr .global .align 16 p, .param .u32 n)
        .maxntid 128, 1, 1
        .explicitcluster
        {
            .loc 1 2 3, function_name $L__info+4, inlined_at 1 2 3
            .reg .v4 .f32 %v<2>, w;
            .pragma \"nounroll\";
            targets: .branchtargets a, b;
            proto : .callprototype (.param .b32 _) _ (.param .b64 _, .param .align 8 .b8 _[16]) .noreturn;
            mov.f32 w.x, %v1.w;
            ld.global.b32 %r1, [%rd1-8];
            st.shared.b32 [16], 0b101U;
            call (r), %rd1, (a, 1), proto;
            ret;
        }
        .global .b8 any[2] = {};
        .section .debug_abbrev { .b8 1 .b64 x }
        $L__sec_end0:
        .section .debug_aranges { .b64 $L__sec_end0-x }",
    )
    .unwrap();
    assert_survives(module);
}

fn name() -> impl Strategy<Value = String> {
    "([a-z][a-zA-Z0-9_$]{0,5}|[_$%][a-zA-Z0-9_$]{1,5}|%[a-z]{2,5}[.][xyzw])"
        .prop_filter("a function that the grammar knows", |name| name != "generic")
}

/// A name without component, of something that is declared or an opcode.
fn plain_name() -> impl Strategy<Value = String> {
    name().prop_map(|name| name.replace('.', "_"))
}

fn constant() -> impl Strategy<Value = Operand> {
    prop_oneof![
        any::<i64>().prop_map(Operand::Integer),
        Just(Operand::Integer(i64::MIN)),
        any::<u32>().prop_map(Operand::F32),
        any::<u64>().prop_map(Operand::F64),
        name().prop_map(Operand::Name),
        symbol().prop_map(Operand::Symbol),
    ]
}

fn symbol() -> impl Strategy<Value = Symbol> {
    (name(), any::<bool>(), any::<i64>(), any::<Option<u64>>()).prop_map(|(name, generic, offset, mask)| {
        // Nothing but a name is a name.
        let generic = generic || (offset == 0 && mask.is_none());
        Symbol { name, generic, offset, mask }
    })
}

fn simple_operand() -> impl Strategy<Value = Operand> {
    prop_oneof![4 => constant(), 1 => Just(Operand::Sink), 1 => name().prop_map(Operand::Not)]
}

fn address() -> impl Strategy<Value = Address> {
    (any::<Option<()>>(), name(), any::<i64>(), prop::collection::vec(simple_operand(), 0..6)).prop_map(
        |(has_base, name, offset, coordinates)| Address {
            base: has_base.map(|()| name),
            offset,
            coordinates,
        },
    )
}

fn operand() -> impl Strategy<Value = Operand> {
    let leaf = prop_oneof![
        4 => simple_operand(),
        2 => address().prop_map(Operand::Address),
        1 => (simple_operand(), simple_operand()).prop_map(|(a, b)| Operand::Pair(Box::new(a), Box::new(b))),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..5).prop_map(Operand::Vector),
            prop::collection::vec(inner, 0..5).prop_map(Operand::List),
        ]
    })
}

fn instruction() -> impl Strategy<Value = Instruction> {
    let guard = prop::option::of(
        (any::<bool>(), plain_name()).prop_map(|(negated, register)| Guard { negated, register }),
    );
    let modifier = "([a-z0-9]{2,6}(::[a-zA-Z0-9_]{1,6}){0,2}|4d|m64n256k16)";
    let modifiers = prop::collection::vec(modifier, 0..5);
    (guard, plain_name(), modifiers, prop::collection::vec(operand(), 0..5)).prop_map(
        |(guard, opcode, modifiers, operands)| Instruction {
            position: Position::default(),
            guard,
            opcode,
            modifiers,
            operands,
        },
    )
}

fn ty() -> impl Strategy<Value = Type> {
    prop::sample::select(Type::ALL.map(|(ty, _)| ty).to_vec())
}

fn vector_length() -> impl Strategy<Value = Option<u32>> {
    prop::sample::select(vec![None, Some(2), Some(4)])
}

fn space() -> impl Strategy<Value = Space> {
    prop::sample::select(vec![Space::Const, Space::Global, Space::Local, Space::Param, Space::Shared])
}

fn variable(linkage: impl Strategy<Value = Option<Linkage>>) -> impl Strategy<Value = Variable> {
    let dimensions = prop::collection::vec(any::<Option<u64>>(), 0..3);
    let initializer = prop::collection::vec(constant(), 0..4);
    let align = any::<Option<u32>>();
    (linkage, space(), align, vector_length(), ty(), plain_name(), dimensions, initializer).prop_map(
        |(linkage, space, align, vector, ty, name, dimensions, initializer)| Variable {
            position: Position::default(),
            linkage,
            space,
            align,
            vector,
            ty,
            pointer: None,
            name,
            dimensions,
            initializer,
        },
    )
}

fn parameter() -> impl Strategy<Value = Variable> {
    let pointer = prop::option::of(
        (prop::option::of(space()), any::<Option<u32>>()).prop_map(|(space, align)| Pointer { space, align }),
    );
    (variable(Just(None)), pointer).prop_map(|(variable, pointer)| Variable {
        space: Space::Param,
        initializer: Vec::new(),
        pointer,
        ..variable
    })
}

fn parameters() -> impl Strategy<Value = Vec<Variable>> {
    prop::collection::vec(parameter(), 0..3)
}

fn statement() -> impl Strategy<Value = Statement> {
    let position = Position::default();
    let registers = (plain_name(), any::<Option<u32>>()).prop_map(|(name, count)| Registers { name, count });
    let labels = prop::collection::vec(plain_name(), 1..4);
    let leaf = prop_oneof![
        8 => instruction().prop_map(Statement::Instruction),
        1 => plain_name().prop_map(move |name| Statement::Label { position, name }),
        1 => (vector_length(), ty(), prop::collection::vec(registers, 1..4))
            .prop_map(move |(vector, ty, names)| Statement::Registers { position, vector, ty, names }),
        1 => variable(Just(None)).prop_map(Statement::Variable),
        1 => prop::collection::vec("[a-z 0-9;{]{0,8}", 1..3)
            .prop_map(move |texts| Statement::Pragma { position, texts }),
        1 => labels.prop_map(move |labels| Statement::BranchTargets { position, labels }),
        1 => (parameters(), parameters(), any::<bool>()).prop_map(move |(returns, parameters, no_return)| {
            Statement::CallPrototype { position, returns, parameters, no_return }
        }),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Statement::Block))
}

fn linkage() -> impl Strategy<Value = Option<Linkage>> {
    let linkages = [Linkage::Extern, Linkage::Visible, Linkage::Weak, Linkage::Common];
    prop::option::of(prop::sample::select(linkages.to_vec()))
}

fn function() -> impl Strategy<Value = Function> {
    let position = Position::default();
    let directive = prop_oneof![
        prop::collection::vec(any::<u32>(), 1..=3).prop_map(move |values| Directive {
            position,
            name: ".maxntid".to_owned(),
            values
        }),
        Just(Directive { position, name: ".noreturn".to_owned(), values: Vec::new() }),
    ];
    let directives = prop::collection::vec(directive, 0..3);
    let body = prop::option::of(prop::collection::vec(statement(), 0..8));
    (linkage(), any::<bool>(), parameters(), plain_name(), parameters(), directives, body).prop_map(
        |(linkage, is_entry, returns, name, parameters, directives, body)| Function {
            position: Position::default(),
            linkage,
            is_entry,
            returns: if is_entry { Vec::new() } else { returns },
            name,
            parameters,
            parameters_end: Position::default(),
            directives,
            body,
        },
    )
}

fn module() -> impl Strategy<Value = Module> {
    let item = prop_oneof![variable(linkage()).prop_map(Item::Variable), function().prop_map(Item::Function)];
    (
        any::<(u32, u32)>(),
        prop::collection::vec("[a-z]{2}_[0-9]{2}a?", 1..3),
        prop::collection::vec(item, 0..4),
    )
        .prop_map(|(version, target, items)| Module {
            version,
            target,
            address_size: 64,
            header: HeaderPositions::default(),
            items,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn random_modules_survive(module in module()) {
        assert_survives(module);
    }

    #[test]
    fn random_instructions_survive(instruction in instruction()) {
        let text = format!(".version 8.4 .target sm_90a .entry k() {{ {instruction}; }}");
        let module = parse_unchecked(&text).unwrap().without_positions();
        let parsed = module.functions().flat_map(Function::instructions).next();
        prop_assert_eq!(parsed, Some(&instruction), "{}", text);
    }
}
