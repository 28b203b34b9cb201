//! From the syntax tree to operations.

use std::collections::HashMap;

use ptx_syntax::ast::{self, Operand, Position, Statement, Type};

use super::operand::{Address, Register, Source, Space, Special};
use super::operation::*;
use super::{
    Globals, Guard, Instruction, Parameter, SHARED_BASE, Symbol, bits_of, dynamic_shared, literal_bits,
    place, unsupported,
};
use crate::arithmetic::{self, Width};
use crate::launch::LaunchError;
use crate::matrix::{mma, transfer, wgmma};
use crate::order::Scope;

/// Local memory of a thread (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
const MAX_LOCAL_BYTES: u32 = 512 << 10;

/// What decoding a body gives.
pub(super) struct Decoded {
    pub(super) instructions: Vec<Instruction>,
    pub(super) registers: Vec<u32>,
    pub(super) static_shared: u32,
    pub(super) local_bytes: u32,
}

/// What is declared in one `{ … }`.
#[derive(Default)]
struct Names {
    registers: HashMap<String, Register>,
    labels: HashMap<String, u32>,
    symbols: HashMap<String, Symbol>,
    /// Labels that a `.branchtargets` stands behind.
    branch_targets: HashMap<String, Vec<String>>,
}

pub(super) struct Decoder<'a> {
    globals: &'a Globals,
    parameters: &'a [Parameter],
    scopes: Vec<Names>,
    registers: Vec<u32>,
    carry: Option<Register>,
    static_shared: u32,
    /// Where dynamic shared memory begins.
    dynamic_shared: u32,
    local_bytes: u32,
    instructions: Vec<Instruction>,
}

/// Why an instruction cannot be decoded.
type Reason = String;

impl<'a> Decoder<'a> {
    /// Decodes the body of an entry.
    pub(super) fn decode(
        body: &[Statement],
        globals: &'a Globals,
        parameters: &'a [Parameter],
    ) -> Result<Decoded, LaunchError> {
        // Dynamic shared memory lies behind all of the static one.
        let mut static_end = globals.static_shared;
        place_shared(body, &mut static_end)?;
        let mut decoder = Self {
            globals,
            parameters,
            scopes: Vec::new(),
            registers: Vec::new(),
            carry: None,
            static_shared: globals.static_shared,
            dynamic_shared: dynamic_shared(static_end, globals.dynamic_align),
            local_bytes: 0,
            instructions: Vec::new(),
        };
        decoder.body(body)?;
        // A thread that runs past the last instruction returns.
        decoder.instructions.push(Instruction {
            operation: Operation::Return,
            guard: None,
            position: decoder.instructions.last().map_or(Position::default(), |last| last.position),
            text: "end of the entry".into(),
            matrix_registers: Vec::new(),
        });
        Ok(Decoded {
            instructions: decoder.instructions,
            registers: decoder.registers,
            static_shared: decoder.static_shared,
            local_bytes: decoder.local_bytes,
        })
    }

    fn body(&mut self, statements: &[Statement]) -> Result<(), LaunchError> {
        let mut scope = Names::default();
        label_targets(statements, &mut (self.instructions.len() as u32), &mut scope.labels);
        scope.branch_targets = branch_targets(statements);
        self.scopes.push(scope);
        for statement in statements {
            match statement {
                Statement::Label { .. }
                | Statement::Pragma { .. }
                | Statement::BranchTargets { .. }
                | Statement::CallPrototype { .. } => {}
                Statement::Registers { position, ty, names, vector } => {
                    if vector.is_some() {
                        return Err(unsupported(*position, ".reg", "vector registers are not supported"));
                    }
                    names.iter().try_for_each(|name| self.declare(*position, *ty, name))?;
                }
                Statement::Variable(variable) => self.declare_variable(variable)?,
                Statement::Block(inner) => self.body(inner)?,
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        self.scopes.pop();
        Ok(())
    }

    fn declare(&mut self, position: Position, ty: Type, names: &ast::Registers) -> Result<(), LaunchError> {
        /// More registers than any kernel declares, few enough to hold.
        const LIMIT: usize = 1 << 16;
        let count = names.count.unwrap_or(1) as usize;
        if self.registers.len() + count > LIMIT {
            return Err(unsupported(position, ".reg", format!("more than {LIMIT} registers")));
        }
        if ty == Type::B128 {
            return Err(unsupported(position, ".reg .b128", "registers of 128 bits are not supported"));
        }
        for number in 0..count {
            let name = names.count.map_or_else(|| names.name.clone(), |_| format!("{}{number}", names.name));
            let register = self.new_register(bits_of(ty));
            if let Some(scope) = self.scopes.last_mut() {
                scope.registers.insert(name, register);
            }
        }
        Ok(())
    }

    fn new_register(&mut self, bits: u32) -> Register {
        self.registers.push(bits);
        self.registers.len() as Register - 1
    }

    fn declare_variable(&mut self, variable: &ast::Variable) -> Result<(), LaunchError> {
        let (used, base, space) = match variable.space {
            ast::Space::Shared => (&mut self.static_shared, SHARED_BASE, Space::SharedCta),
            ast::Space::Local => (&mut self.local_bytes, 0, Space::Local),
            _ => return Err(unsupported(variable.position, &variable.name, "a state space of modules only")),
        };
        let offset = place(variable, used)?;
        if self.local_bytes > MAX_LOCAL_BYTES {
            let needed = format!("more than {MAX_LOCAL_BYTES} bytes of local memory");
            return Err(unsupported(variable.position, &variable.name, needed));
        }
        let symbol = Symbol { space, address: Some(u64::from(base + offset)) };
        if let Some(scope) = self.scopes.last_mut() {
            scope.symbols.insert(variable.name.clone(), symbol);
        }
        Ok(())
    }

    fn instruction(&mut self, instruction: &ast::Instruction) -> Result<(), LaunchError> {
        let refused = |reason: Reason| unsupported(instruction.position, &instruction.mnemonic(), reason);
        let guard = match &instruction.guard {
            None => None,
            Some(guard) => {
                let register = self.register(&guard.register).map_err(refused)?;
                self.require_bits(&guard.register, register, 1).map_err(refused)?;
                Some(Guard { register, negated: guard.negated })
            }
        };
        let operation = self.operation(instruction).map_err(refused)?;
        self.instructions.push(Instruction {
            operation,
            guard,
            position: instruction.position,
            text: instruction.to_string(),
            matrix_registers: Vec::new(),
        });
        Ok(())
    }

    fn find<T: Copy>(&self, look: impl Fn(&Names) -> Option<&T>) -> Option<T> {
        self.scopes.iter().rev().find_map(|scope| look(scope).copied())
    }

    fn register(&self, name: &str) -> Result<Register, Reason> {
        self.find(|scope| scope.registers.get(name)).ok_or_else(|| format!("{name} is no register"))
    }

    /// State space and address of a variable or parameter.
    fn symbol(&self, name: &str) -> Option<(Space, u64)> {
        let parameter = self.parameters.iter().find(|parameter| parameter.name == name);
        let symbol = self
            .find(|scope| scope.symbols.get(name))
            .or_else(|| self.globals.symbols.get(name).copied())
            .or_else(|| {
                parameter.map(|p| Symbol { space: Space::Param, address: Some(u64::from(p.offset)) })
            })?;
        Some((symbol.space, symbol.address.unwrap_or(u64::from(self.dynamic_shared))))
    }

    /// A predicate is one bit exactly; other values may stand in wider registers.
    fn require_bits(&self, name: &str, register: Register, bits: u32) -> Result<(), Reason> {
        let found = self.registers[register as usize];
        if found == bits || found > bits && bits > 1 {
            return Ok(());
        }
        Err(format!("{name} is a register of {found} bits; needed are {bits}"))
    }

    /// An operand of `bits` bits.
    fn source(&self, operand: &Operand, bits: u32) -> Result<Source, Reason> {
        match operand {
            Operand::Name(name) => {
                if let Ok(register) = self.register(name) {
                    self.require_bits(name, register, bits)?;
                    return Ok(Source::Register(register));
                }
                if let Some(special) = Special::from_name(name) {
                    return Ok(Source::Special(special));
                }
                let (_, address) = self.symbol(name).ok_or_else(|| format!("{name} is not declared"))?;
                Ok(Source::Immediate(address))
            }
            Operand::Not(name) => {
                let register = self.register(name)?;
                self.require_bits(name, register, 1)?;
                Ok(Source::Not(register))
            }
            literal => literal_bits(literal, bits.div_ceil(8))
                .map(|value| Source::Immediate(if bits == 1 { u64::from(value != 0) } else { value }))
                .ok_or_else(|| format!("{literal} is no value")),
        }
    }

    fn sources(&self, operand: &Operand, bits: u32) -> Result<Vec<Source>, Reason> {
        match operand {
            Operand::Vector(elements) => elements.iter().map(|element| self.source(element, bits)).collect(),
            single => Ok(vec![self.source(single, bits)?]),
        }
    }

    /// A register that takes a result of `bits` bits, or `_`.
    fn result(&self, operand: &Operand, bits: u32) -> Result<Option<Register>, Reason> {
        match operand {
            Operand::Name(name) => {
                let register = self.register(name)?;
                self.require_bits(name, register, bits)?;
                Ok(Some(register))
            }
            Operand::Sink => Ok(None),
            other => Err(format!("{other} cannot take a result")),
        }
    }

    /// Results of `bits` bits each.
    fn results(&self, operand: &Operand, bits: u32) -> Result<Results, Reason> {
        match operand {
            Operand::Vector(elements) => elements.iter().map(|element| self.result(element, bits)).collect(),
            single => Ok(vec![self.result(single, bits)?]),
        }
    }

    /// `d|p`, or `d` alone: a result of `bits` bits and a predicate.
    fn result_and_predicate(&self, operand: &Operand, bits: u32) -> Result<[Option<Register>; 2], Reason> {
        match operand {
            Operand::Pair(first, second) => Ok([self.result(first, bits)?, self.result(second, 1)?]),
            single => Ok([self.result(single, bits)?, None]),
        }
    }

    fn target(&self, operand: &Operand, bits: u32) -> Result<Register, Reason> {
        self.result(operand, bits)?.ok_or_else(|| "a result is needed".into())
    }

    fn registers_of(&self, operand: &Operand) -> Result<Vec<Register>, Reason> {
        let results = self.results(operand, 32)?;
        results.into_iter().map(|result| result.ok_or_else(|| "`_` cannot stand here".into())).collect()
    }

    fn address(&self, operand: &Operand) -> Result<Address, Reason> {
        let Operand::Address(address) = operand else {
            return Err(format!("{operand} is no address"));
        };
        let base = match &address.base {
            None => Source::Immediate(0),
            // Shared memory may be addressed with 32 bits.
            Some(name) => self.source(&Operand::Name(name.clone()), 32)?,
        };
        let is_narrow = matches!(base, Source::Register(register) if self.registers[register as usize] == 32);
        Ok(Address { base, offset: address.offset, is_narrow })
    }

    fn operation(&mut self, instruction: &ast::Instruction) -> Result<Operation, Reason> {
        let arguments = Arguments { instruction, operands: &instruction.operands };
        let has = |modifier: &str| instruction.has(modifier);
        match instruction.opcode.as_str() {
            "ld" | "ldu" => self.load(&arguments),
            "st" if has("async") => self.store_async(&arguments),
            "st" => self.store(&arguments),
            "atom" => self.atomic(&arguments, true),
            "red" if !has("async") => self.atomic(&arguments, false),
            "prefetch" | "prefetchu" | "applypriority" | "discard" | "nanosleep" | "pmevent" => {
                Ok(Operation::Hint)
            }
            "createpolicy" => Ok(Operation::Policy { result: self.target(arguments.get(0)?, 64)? }),
            "cvta" => self.convert_address(&arguments),
            "isspacep" => Ok(Operation::IsSpace {
                result: self.target(arguments.get(0)?, 1)?,
                source: self.source(arguments.get(1)?, 32)?,
                space: arguments.space(),
            }),
            "mapa" => {
                let bits = arguments.address_bits();
                Ok(Operation::MapShared {
                    result: self.target(arguments.get(0)?, bits)?,
                    source: self.source(arguments.get(1)?, bits)?,
                    rank: self.source(arguments.get(2)?, 32)?,
                    generic: !has("shared::cluster"),
                })
            }
            "getctarank" => Ok(Operation::CtaRank {
                result: self.target(arguments.get(0)?, 32)?,
                source: self.source(arguments.get(1)?, arguments.address_bits())?,
                generic: !has("shared::cluster"),
            }),
            "bra" => self.branch(&arguments),
            "brx" => self.branch_by_index(&arguments),
            "ret" | "exit" => Ok(Operation::Return),
            "trap" | "brkpt" => Ok(Operation::Trap),
            "bar" | "barrier" => self.barrier(&arguments),
            "fence" | "membar" => Ok(Operation::Fence(fence(instruction))),
            "shfl" => self.shuffle(&arguments),
            "vote" => self.vote(&arguments),
            "match" => {
                let [result, predicate] = self.result_and_predicate(arguments.get(0)?, 32)?;
                Ok(Operation::Match {
                    all: has("all"),
                    result: result.ok_or("a result is needed")?,
                    predicate,
                    value: self.source(arguments.get(1)?, arguments.ty()?.bytes() * 8)?,
                    mask: self.source(arguments.get(2)?, 32)?,
                })
            }
            "redux" => Ok(Operation::Reduce {
                operation: reduce_operation(instruction)?,
                signed: has("s32"),
                result: self.target(arguments.get(0)?, 32)?,
                value: self.source(arguments.get(1)?, 32)?,
                mask: self.source(arguments.get(2)?, 32)?,
            }),
            "activemask" => Ok(Operation::ActiveMask { result: self.target(arguments.get(0)?, 32)? }),
            "elect" => match self.result_and_predicate(arguments.get(0)?, 32)? {
                [result, Some(predicate)] => {
                    Ok(Operation::Elect { result, predicate, mask: self.source(arguments.get(1)?, 32)? })
                }
                _ => Err("needs a result and a predicate".into()),
            },
            "mbarrier" if has("pending_count") => Ok(Operation::PendingCount {
                result: self.target(arguments.get(0)?, 32)?,
                state: self.source(arguments.get(1)?, 64)?,
            }),
            "mbarrier" => self.mbarrier(&arguments),
            "cp" => self.copy(&arguments),
            "wgmma" => self.multiply(&arguments),
            "ldmatrix" => Ok(Operation::LoadMatrix {
                transfer: transfer::Transfer::decode(instruction).map_err(|error| error.to_string())?,
                results: self.registers_of(arguments.get(0)?)?,
                address: self.address(arguments.get(1)?)?,
                space: arguments.space(),
            }),
            "stmatrix" => Ok(Operation::StoreMatrix {
                transfer: transfer::Transfer::decode(instruction).map_err(|error| error.to_string())?,
                address: self.address(arguments.get(0)?)?,
                values: self.sources(arguments.get(1)?, 32)?,
                space: arguments.space(),
            }),
            "mma" => Ok(Operation::WarpMultiply {
                mma: mma::Multiply::decode(instruction).map_err(|error| error.to_string())?,
                results: self.registers_of(arguments.get(0)?)?,
                a: self.sources(arguments.get(1)?, 32)?,
                b: self.sources(arguments.get(2)?, 32)?,
                c: self.sources(arguments.get(3)?, 32)?,
            }),
            "setmaxnreg" => match arguments.get(0)? {
                Operand::Integer(count @ 24..=256) if count % 8 == 0 => {
                    Ok(Operation::SetRegisters { increase: has("inc"), count: *count as u32 })
                }
                other => Err(format!("the count is {other}; needed is a multiple of 8 in 24..=256")),
            },
            "griddepcontrol" if has("wait") => Ok(Operation::DependencyWait),
            "griddepcontrol" => Ok(Operation::DependencyLaunch),
            _ => self.compute(instruction),
        }
    }

    fn compute(&mut self, instruction: &ast::Instruction) -> Result<Operation, Reason> {
        let operation = arithmetic::Operation::decode(instruction)
            .map_err(|error| error.to_string())?
            .ok_or("this instruction is not supported")?;
        let flat: Vec<&Operand> = instruction.operands.iter().flat_map(flatten).collect();
        let written = operation.results().len() - usize::from(operation.writes_carry());
        let read = operation.operands().len() - usize::from(operation.reads_carry());
        if flat.len() != written + read {
            return Err(format!("has {} operands, needs {}", flat.len(), written + read));
        }
        let mut results: Results = flat[..written]
            .iter()
            .zip(operation.results())
            .map(|(operand, width)| self.result(operand, width_bits(*width)))
            .collect::<Result<_, _>>()?;
        let widths = operation.operands();
        let mut operands: Vec<Source> = flat[written..]
            .iter()
            .zip(widths)
            .map(|(operand, width)| self.source(operand, width_bits(*width)))
            .collect::<Result<_, _>>()?;
        if operation.writes_carry() || operation.reads_carry() {
            let carry = match self.carry {
                Some(carry) => carry,
                None => *self.carry.insert(self.registers.len() as Register),
            };
            if carry as usize == self.registers.len() {
                self.new_register(1);
            }
            if operation.writes_carry() {
                results.push(Some(carry));
            }
            if operation.reads_carry() {
                operands.push(Source::Register(carry));
            }
        }
        let signed_bits = instruction
            .modifiers
            .iter()
            .find_map(|modifier| Type::from_name(modifier))
            .filter(|_| instruction.opcode == "cvt" && !instruction.has("pack"))
            .filter(|ty| matches!(ty, Type::S8 | Type::S16 | Type::S32))
            .map(|ty| ty.bytes() * 8);
        Ok(Operation::Compute(Compute { operation, results, operands, signed_bits }))
    }

    fn load(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let ty = arguments.memory_type()?;
        let results = self.results(arguments.get(0)?, ty.bytes() * 8)?;
        Ok(Operation::Load(Load {
            space: self.space_of(arguments, arguments.get(1)?),
            bytes: ty.bytes(),
            signed: matches!(ty, Type::S8 | Type::S16 | Type::S32 | Type::S64),
            results,
            address: self.address(arguments.get(1)?)?,
            order: arguments.order(true, false),
        }))
    }

    fn store(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let ty = arguments.memory_type()?;
        Ok(Operation::Store(Store {
            space: self.space_of(arguments, arguments.get(0)?),
            bytes: ty.bytes(),
            values: self.sources(arguments.get(1)?, ty.bytes() * 8)?,
            address: self.address(arguments.get(0)?)?,
            order: arguments.order(false, true),
        }))
    }

    /// The space an access names, or the one of the variable it accesses.
    fn space_of(&self, arguments: &Arguments<'_>, operand: &Operand) -> Space {
        match (arguments.space(), operand) {
            (Space::Generic, Operand::Address(ast::Address { base: Some(name), .. })) => {
                self.symbol(name).map_or(Space::Generic, |(space, _)| space)
            }
            (space, _) => space,
        }
    }

    fn atomic(&self, arguments: &Arguments<'_>, returns: bool) -> Result<Operation, Reason> {
        let first = usize::from(returns);
        let operation = atomic_operation(arguments.instruction)?;
        let ty = arguments.memory_type()?;
        let bits = ty.bytes() * 8;
        let is_swap = operation == AtomicOperation::CompareAndSwap;
        let order = arguments.order(true, true);
        Ok(Operation::Atomic(Atomic {
            space: arguments.space(),
            operation,
            ty,
            results: if returns { self.results(arguments.get(0)?, bits)? } else { Vec::new() },
            address: self.address(arguments.get(first)?)?,
            values: self.sources(arguments.get(first + 1)?, bits)?,
            swap: is_swap.then(|| self.source(arguments.get(first + 2)?, bits)).transpose()?,
            order: Order { strong: true, ..order },
        }))
    }

    fn convert_address(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let spaces = ["const", "global", "local", "shared", "shared::cta", "shared::cluster", "param"];
        let written = instruction.modifiers.iter().find(|modifier| spaces.contains(&modifier.as_str()));
        written.ok_or("names no state space")?;
        Ok(Operation::ConvertAddress {
            result: self.target(arguments.get(0)?, arguments.address_bits())?,
            source: self.source(arguments.get(1)?, arguments.address_bits())?,
            space: arguments.space(),
            to_generic: !instruction.has("to"),
        })
    }

    fn branch(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let Operand::Name(label) = arguments.get(0)? else { return Err("needs a label".into()) };
        Ok(Operation::Branch { target: self.label(label)?, uniform: arguments.instruction.has("uni") })
    }

    fn label(&self, name: &str) -> Result<u32, Reason> {
        self.find(|scope| scope.labels.get(name)).ok_or_else(|| format!("{name} is no label"))
    }

    fn branch_by_index(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let Operand::Name(list) = arguments.get(1)? else { return Err("needs a list of labels".into()) };
        let labels = self.scopes.iter().rev().find_map(|scope| scope.branch_targets.get(list));
        let labels = labels.ok_or_else(|| format!("{list} is no list of labels"))?;
        Ok(Operation::BranchByIndex {
            index: self.source(arguments.get(0)?, 32)?,
            targets: labels.iter().map(|label| self.label(label)).collect::<Result<_, _>>()?,
            uniform: arguments.instruction.has("uni"),
        })
    }

    fn barrier(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let has = |modifier: &str| instruction.has(modifier);
        // `bar` is `barrier.aligned` (PTX ISA, "bar{.cta}").
        let aligned = has("aligned") || instruction.opcode == "bar";
        if has("warp") {
            return Ok(Operation::WarpSync { mask: self.source(arguments.get(0)?, 32)? });
        }
        if has("cluster") {
            let relaxed = has("relaxed");
            return Ok(if has("arrive") {
                Operation::ClusterArrive { releases: !relaxed, aligned }
            } else {
                Operation::ClusterWait { acquires: !relaxed, aligned }
            });
        }
        let mut operands = arguments.operands;
        let mut reduction = None;
        if has("red") {
            let (Some(result), Some(predicate)) = (operands.first(), operands.last()) else {
                return Err("needs a result and a predicate".into());
            };
            let counts = has("popc");
            reduction = Some(BarrierReduction {
                kind: if counts { ReduceOperation::Count } else { reduce_operation(instruction)? },
                result: self.target(result, if counts { 32 } else { 1 })?,
                predicate: self.source(predicate, 1)?,
            });
            operands = operands.get(1..operands.len() - 1).ok_or("needs the number of a barrier")?;
        }
        let id = operands.first().ok_or("needs the number of a barrier")?;
        Ok(Operation::Barrier(NamedBarrier {
            waits: !has("arrive"),
            aligned,
            id: self.source(id, 32)?,
            threads: operands.get(1).map(|threads| self.source(threads, 32)).transpose()?,
            reduction,
        }))
    }

    fn shuffle(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let has = |modifier: &str| arguments.instruction.has(modifier);
        let modes = [
            ("up", ShuffleMode::Up),
            ("down", ShuffleMode::Down),
            ("bfly", ShuffleMode::Butterfly),
            ("idx", ShuffleMode::Index),
        ];
        let mode = modes.iter().find(|(name, _)| has(name)).ok_or("names no mode")?.1;
        let [result, predicate] = self.result_and_predicate(arguments.get(0)?, 32)?;
        let source = |index: usize| self.source(arguments.get(index)?, 32);
        Ok(Operation::Shuffle(Shuffle {
            mode,
            result,
            predicate,
            value: source(1)?,
            lane: source(2)?,
            clamp: source(3)?,
            mask: source(4)?,
        }))
    }

    fn vote(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let kinds =
            [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)];
        let kind = kinds.iter().find(|(name, _)| arguments.instruction.has(name)).ok_or("names no mode")?.1;
        let bits = if kind == Vote::Ballot { 32 } else { 1 };
        Ok(Operation::Vote {
            kind,
            result: self.target(arguments.get(0)?, bits)?,
            predicate: self.source(arguments.get(1)?, 1)?,
            mask: self.source(arguments.get(2)?, 32)?,
        })
    }

    fn mbarrier(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let has = |modifier: &str| instruction.has(modifier);
        let word = |index: usize| self.source(arguments.get(index)?, 32);
        let (at, operation) = match instruction.modifiers.first().map(String::as_str) {
            Some("init") => (0, MbarrierOperation::Init { count: word(1)? }),
            Some("inval") => (0, MbarrierOperation::Invalidate),
            Some("expect_tx") => (0, MbarrierOperation::ExpectTransactions { bytes: word(1)? }),
            Some("complete_tx") => (0, MbarrierOperation::CompleteTransactions { bytes: word(1)? }),
            Some("arrive" | "arrive_drop") => {
                // The state is left out where the barrier may be another CTA's.
                let at = usize::from(!matches!(arguments.get(0)?, Operand::Address(_)));
                let state = if at == 1 { self.result(arguments.get(0)?, 64)? } else { None };
                let operand = arguments.operands.get(at + 1).map(|_| word(at + 1)).transpose()?;
                let (count, expect) = if has("expect_tx") { (None, operand) } else { (operand, None) };
                (at, MbarrierOperation::Arrive { state, count, expect, drop: has("arrive_drop") })
            }
            Some("test_wait" | "try_wait") => {
                let is_parity = has("parity");
                let phase = self.source(arguments.get(2)?, if is_parity { 32 } else { 64 })?;
                let done = self.target(arguments.get(0)?, 1)?;
                (1, MbarrierOperation::Test { done, phase, is_parity, waits: has("try_wait") })
            }
            _ => return Err("this mbarrier operation is not supported".into()),
        };
        Ok(Operation::Mbarrier(Mbarrier {
            space: arguments.space(),
            address: self.address(arguments.get(at)?)?,
            operation,
            relaxed: has("relaxed"),
        }))
    }

    fn copy(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let has = |modifier: &str| instruction.has(modifier);
        let pending = |index: usize| match arguments.get(index)? {
            Operand::Integer(count) => u32::try_from(*count).map_err(|_| "needs a small number".to_owned()),
            other => Err(format!("{other} is no number")),
        };
        if has("bulk") {
            if has("prefetch") {
                return Ok(Operation::Hint);
            }
            if has("commit_group") {
                return Ok(Operation::BulkCommit);
            }
            if has("wait_group") {
                return Ok(Operation::BulkWait { pending: pending(0)?, read_only: has("read") });
            }
            return self.bulk(arguments);
        }
        if has("commit_group") {
            return Ok(Operation::CopyAsyncCommit);
        }
        if has("wait_group") {
            return Ok(Operation::CopyAsyncWait { pending: Some(pending(0)?) });
        }
        if has("wait_all") {
            return Ok(Operation::CopyAsyncWait { pending: None });
        }
        if has("mbarrier") {
            let address = self.address(arguments.get(0)?)?;
            return Ok(Operation::CopyAsyncArrive {
                address,
                space: arguments.space(),
                counts: !has("noinc"),
            });
        }
        let (destination, source) = (self.address(arguments.get(0)?)?, self.address(arguments.get(1)?)?);
        let Operand::Integer(bytes @ (4 | 8 | 16)) = arguments.get(2)? else {
            return Err("copies 4, 8 or 16 bytes".into());
        };
        let (mut source_bytes, mut ignore) = (None, None);
        // A predicate or a number of bytes; a cache policy, of 64 bits, may follow.
        if let Some(operand) =
            arguments.operands.get(3).filter(|_| !(has("L2::cache_hint") && arguments.operands.len() == 4))
        {
            match self.source(operand, 1) {
                Ok(predicate @ (Source::Register(_) | Source::Not(_))) => ignore = Some(predicate),
                _ => source_bytes = Some(self.source(operand, 32)?),
            }
        }
        Ok(Operation::CopyAsync(CopyAsync {
            destination,
            source,
            bytes: *bytes as u32,
            source_bytes,
            ignore,
        }))
    }

    fn bulk(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        let has = |modifier: &str| instruction.has(modifier);
        let spaces: Vec<&str> = instruction
            .modifiers
            .iter()
            .map(String::as_str)
            .filter(|modifier| matches!(*modifier, "shared::cluster" | "shared::cta" | "global"))
            .collect();
        let direction = match spaces.as_slice() {
            ["shared::cluster" | "shared::cta", "global"] => Direction::GlobalToShared,
            ["global", "shared::cta"] => Direction::SharedToGlobal,
            ["shared::cluster", "shared::cta"] => Direction::SharedToShared,
            _ => return Err("copies between state spaces that are not supported".into()),
        };
        let is_tensor = has("tensor");
        if is_tensor
            && instruction.modifiers.iter().any(|m| m.starts_with("im2col") || m.starts_with("tile::"))
        {
            return Err("of tensor copies, only tiles are supported".into());
        }
        let coordinates = |operand: &Operand| match operand {
            Operand::Address(address) if !address.coordinates.is_empty() => {
                address.coordinates.iter().map(|x| self.source(x, 32)).collect::<Result<Vec<_>, _>>()
            }
            other => Err(format!("{other} has no coordinates")),
        };
        let (first, second) = (arguments.get(0)?, arguments.get(1)?);
        let (shared, other) = match direction {
            Direction::GlobalToShared | Direction::SharedToShared => (first, second),
            Direction::SharedToGlobal => (second, first),
        };
        let mut next = 2;
        let bytes = if is_tensor { None } else { Some(self.source(arguments.get(2)?, 32)?) };
        next += usize::from(bytes.is_some());
        let barrier = if has("mbarrier::complete_tx::bytes") {
            next += 1;
            Some(self.address(arguments.get(next - 1)?)?)
        } else {
            None
        };
        let multicast =
            if has("multicast::cluster") { Some(self.source(arguments.get(next)?, 16)?) } else { None };
        let reduction = if instruction.has("reduce") {
            let ty = if is_tensor { None } else { Some(arguments.ty()?) };
            Some((atomic_operation(instruction)?, ty))
        } else {
            None
        };
        Ok(Operation::Bulk(Bulk {
            direction,
            shared: self.address(shared)?,
            other: self.address(other)?,
            coordinates: if is_tensor { Some(coordinates(other)?) } else { None },
            bytes,
            barrier,
            multicast,
            reduction,
        }))
    }

    fn store_async(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let bytes = arguments.memory_type()?.bytes();
        Ok(Operation::StoreAsync {
            address: self.address(arguments.get(0)?)?,
            values: self.sources(arguments.get(1)?, bytes * 8)?,
            bytes,
            barrier: self.address(arguments.get(2)?)?,
        })
    }

    fn multiply(&self, arguments: &Arguments<'_>) -> Result<Operation, Reason> {
        let instruction = arguments.instruction;
        match instruction.modifiers.first().map(String::as_str) {
            Some("fence") => Ok(Operation::MultiplyFence),
            Some("commit_group") => Ok(Operation::MultiplyCommit),
            Some("wait_group") => match arguments.get(0)? {
                Operand::Integer(pending @ 0..=7) => Ok(Operation::MultiplyWait { pending: *pending as u32 }),
                other => Err(format!("{other} is no number in 0..=7")),
            },
            _ => {
                let multiply = wgmma::Multiply::decode(instruction).map_err(|error| error.to_string())?;
                let from_registers = multiply.a_registers().is_some();
                let a = arguments.get(1)?;
                Ok(Operation::Multiply(Box::new(Multiply {
                    accumulators: self.registers_of(arguments.get(0)?)?,
                    a_registers: if from_registers { self.registers_of(a)? } else { Vec::new() },
                    a_descriptor: if from_registers { None } else { Some(self.source(a, 64)?) },
                    b_descriptor: self.source(arguments.get(2)?, 64)?,
                    scale_d: self.source(arguments.get(3)?, 1)?,
                    multiply,
                })))
            }
        }
    }
}

/// An instruction's operands and what its modifiers say.
struct Arguments<'a> {
    instruction: &'a ast::Instruction,
    operands: &'a [Operand],
}

impl Arguments<'_> {
    fn get(&self, index: usize) -> Result<&Operand, Reason> {
        self.operands.get(index).ok_or_else(|| format!("has {} operands, needs more", self.operands.len()))
    }

    /// The last type among the modifiers.
    fn ty(&self) -> Result<Type, Reason> {
        let types = self.instruction.modifiers.iter().rev().filter_map(|modifier| Type::from_name(modifier));
        types.into_iter().next().ok_or_else(|| "names no type".into())
    }

    /// Likewise, of an access of memory.
    fn memory_type(&self) -> Result<Type, Reason> {
        match self.ty()? {
            Type::B128 => Err("values of 128 bits are not supported".into()),
            ty => Ok(ty),
        }
    }

    fn address_bits(&self) -> u32 {
        if self.instruction.has("u32") { 32 } else { 64 }
    }

    fn space(&self) -> Space {
        let of = |modifier: &str| {
            Some(match modifier {
                "global" => Space::Global,
                "const" => Space::Const,
                "local" => Space::Local,
                "param" | "param::entry" | "param::func" => Space::Param,
                "shared" | "shared::cta" => Space::SharedCta,
                "shared::cluster" => Space::SharedCluster,
                _ => return None,
            })
        };
        self.instruction.modifiers.iter().find_map(|modifier| of(modifier)).unwrap_or(Space::Generic)
    }

    fn order(&self, may_acquire: bool, may_release: bool) -> Order {
        let has = |modifier: &str| self.instruction.has(modifier);
        Order {
            strong: ["relaxed", "acquire", "release", "acq_rel", "volatile", "mmio"].into_iter().any(has),
            acquires: may_acquire && (has("acquire") || has("acq_rel")),
            releases: may_release && (has("release") || has("acq_rel")),
            scope: scope(self.instruction),
        }
    }
}

/// Gives the shared variables of a body their places, as declaring them one by one does.
fn place_shared(statements: &[Statement], used: &mut u32) -> Result<(), LaunchError> {
    for statement in statements {
        match statement {
            Statement::Variable(variable) if variable.space == ast::Space::Shared => {
                place(variable, used)?;
            }
            Statement::Block(inner) => place_shared(inner, used)?,
            _ => {}
        }
    }
    Ok(())
}

/// The lists of labels of a block, by the label before each.
fn branch_targets(statements: &[Statement]) -> HashMap<String, Vec<String>> {
    let pairs = statements.windows(2).filter_map(|pair| match pair {
        [Statement::Label { name, .. }, Statement::BranchTargets { labels, .. }] => {
            Some((name.clone(), labels.clone()))
        }
        _ => None,
    });
    pairs.collect()
}

/// Numbers the instructions and notes where the labels of this block stand; those of inner blocks are their own.
fn label_targets(statements: &[Statement], next: &mut u32, labels: &mut HashMap<String, u32>) {
    for statement in statements {
        match statement {
            Statement::Label { name, .. } => {
                labels.insert(name.clone(), *next);
            }
            Statement::Block(inner) => label_targets(inner, next, &mut HashMap::new()),
            Statement::Instruction(_) => *next += 1,
            Statement::Registers { .. }
            | Statement::Variable(_)
            | Statement::Pragma { .. }
            | Statement::BranchTargets { .. }
            | Statement::CallPrototype { .. } => {}
        }
    }
}

fn flatten(operand: &Operand) -> Vec<&Operand> {
    match operand {
        Operand::Vector(elements) => elements.iter().collect(),
        Operand::Pair(first, second) => vec![first, second],
        single => vec![single],
    }
}

fn width_bits(width: Width) -> u32 {
    match width {
        Width::Pred => 1,
        Width::B8 => 8,
        Width::B16 => 16,
        Width::B32 => 32,
        Width::B64 => 64,
    }
}

fn scope(instruction: &ast::Instruction) -> Scope {
    if instruction.has("cta") {
        Scope::Cta
    } else if instruction.has("cluster") {
        Scope::Cluster
    } else {
        Scope::Device
    }
}

fn fence(instruction: &ast::Instruction) -> Fence {
    let has = |modifier: &str| instruction.has(modifier);
    if has("mbarrier_init") {
        return Fence::MbarrierInit;
    }
    if has("proxy") || instruction.modifiers.iter().any(|modifier| modifier.starts_with("proxy")) {
        return if has("async") || has("proxy.async") { Fence::AsyncProxy } else { Fence::Other };
    }
    let (acquire, release) = (has("acquire"), has("release"));
    Fence::Memory { acquires: !release, releases: !acquire, scope: scope(instruction) }
}

fn reduce_operation(instruction: &ast::Instruction) -> Result<ReduceOperation, Reason> {
    let operations = [
        ("add", ReduceOperation::Add),
        ("min", ReduceOperation::Min),
        ("max", ReduceOperation::Max),
        ("and", ReduceOperation::And),
        ("or", ReduceOperation::Or),
        ("xor", ReduceOperation::Xor),
    ];
    let found = operations.iter().find(|(name, _)| instruction.has(name));
    found.map(|(_, operation)| *operation).ok_or_else(|| "names no operation".into())
}

fn atomic_operation(instruction: &ast::Instruction) -> Result<AtomicOperation, Reason> {
    let operations = [
        ("and", AtomicOperation::And),
        ("or", AtomicOperation::Or),
        ("xor", AtomicOperation::Xor),
        ("exch", AtomicOperation::Exchange),
        ("cas", AtomicOperation::CompareAndSwap),
        ("add", AtomicOperation::Add),
        ("inc", AtomicOperation::Increment),
        ("dec", AtomicOperation::Decrement),
        ("min", AtomicOperation::Min),
        ("max", AtomicOperation::Max),
    ];
    let found = operations.iter().find(|(name, _)| instruction.has(name));
    found.map(|(_, operation)| *operation).ok_or_else(|| "names no operation".into())
}
