//! From the syntax tree to operations: declarations, and which instruction is of which family.

mod asynchronous;
mod compute;
mod control;
mod memory;
mod operands;

use std::collections::HashMap;

use ptx_syntax::ast::{self, Operand, Position, Statement, Type};

use super::operand::{Register, Space};
use super::operation::Operation;
use super::{
    Globals, Guard, Instruction, Parameter, SHARED_BASE, Symbol, bits_of, dynamic_shared, place, unsupported,
};
use crate::launch::LaunchError;
use crate::matrix::{mma, transfer};
use control::{fence, reduce_operation};
use operands::Arguments;

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
