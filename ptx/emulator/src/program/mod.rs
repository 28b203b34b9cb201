//! An entry, decoded: names are resolved, every instruction is one the machine can run.

mod decode;
mod flow;
mod operand;
mod operation;

pub(crate) use flow::END;
pub(crate) use operand::{Address, Register, Source, Space, Special, sign_extend, truncate};
pub(crate) use operation::*;

use std::collections::HashMap;
use std::sync::Arc;

use ptx_syntax::ast::{self, Item, Position};

use crate::launch::LaunchError;
use crate::memory::Allocation;
use flow::RegisterUse;
use operand::register_bits;

/// Where static shared memory begins; the hardware keeps the first kilobyte to itself, so that 0 is no address.
pub(crate) const SHARED_BASE: u32 = 1024;

/// Where variables of a module begin in global memory.
const VARIABLES_BASE: u64 = 0x0400_0000_0000;

/// The most bytes of variables in a state space, and their largest alignment: more than any kernel has, and few enough
/// for 32 bits.
const MAX_BYTES: u32 = 1 << 26;
const MAX_ALIGN: u32 = 1 << 16;
const TOO_LARGE: &str = "the variables of a state space take more than 64 megabytes";

/// Registers of a multiprocessor, which a CTA's threads share.
const REGISTERS_PER_SM: u32 = 65_536;

/// Parts of a multiprocessor, each with a quarter of the registers, that a CTA's warps are dealt out to in turn.
const SM_PARTITIONS: u32 = 4;

/// Threads of a warp.
const WARP: u32 = 32;

/// An entry.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) instructions: Vec<Instruction>,
    /// Bits of each register.
    pub(crate) registers: Vec<u32>,
    pub(crate) parameters: Vec<Parameter>,
    /// Static shared memory, in bytes.
    pub(crate) static_shared: u32,
    /// Alignment of the dynamic shared memory behind it.
    pub(crate) dynamic_align: u32,
    /// Bytes of local memory a thread.
    pub(crate) local_bytes: u32,
    /// `.maxntid` or `.reqntid`: threads of a CTA.
    pub(crate) max_threads: Option<u32>,
    /// `.reqntid`: the block that it has to be launched with.
    pub(crate) block: Option<[u32; 3]>,
    /// `.minnctapersm`
    pub(crate) min_ctas: u32,
    /// `.reqnctapercluster`
    pub(crate) cluster: Option<[u32; 3]>,
    /// Registers that some `wgmma` takes.
    pub(crate) is_matrix_register: Vec<bool>,
    /// Where threads that part at an instruction meet again.
    pub(crate) reconvergence: Vec<u32>,
    /// Whether CTAs may speak to each other through global memory.
    pub(crate) communicates: bool,
    /// Global variables of the module.
    pub(crate) variables: Arc<[Arc<Allocation>]>,
}

/// One instruction.
#[derive(Debug)]
pub(crate) struct Instruction {
    pub(crate) operation: Operation,
    pub(crate) guard: Option<Guard>,
    pub(crate) position: Position,
    /// The instruction as it is printed.
    pub(crate) text: String,
    /// Of the registers it accesses, those that some `wgmma` takes; none for a `wgmma` itself.
    pub(crate) matrix_registers: Vec<Register>,
}

/// The predicate that says which threads execute an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub(crate) register: Register,
    pub(crate) negated: bool,
}

/// A parameter in the entry's parameter block.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
}

/// What the name of a variable stands for.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    space: Space,
    /// `None` for the beginning of dynamic shared memory.
    address: Option<u64>,
}

impl Program {
    /// Decodes all entries of a module.
    pub(crate) fn of_module(module: &ast::Module) -> Result<Vec<Self>, LaunchError> {
        let mut globals = Globals::default();
        for item in &module.items {
            if let Item::Variable(variable) = item {
                globals.declare(variable)?;
            }
        }
        let variables: Arc<[Arc<Allocation>]> = globals.allocations.clone().into();
        let mut programs = Vec::new();
        for item in &module.items {
            if let Item::Function(function) = item
                && function.is_entry
                && let Some(body) = &function.body
            {
                programs.push(Self::of_entry(function, body, &globals, &variables)?);
            }
        }
        Ok(programs)
    }

    fn of_entry(
        function: &ast::Function,
        body: &[ast::Statement],
        globals: &Globals,
        variables: &Arc<[Arc<Allocation>]>,
    ) -> Result<Self, LaunchError> {
        let mut parameters = Vec::new();
        let mut parameter_bytes = 0_u32;
        for parameter in &function.parameters {
            let offset = place(parameter, &mut parameter_bytes)?;
            parameters.push(Parameter {
                name: parameter.name.clone(),
                offset,
                bytes: parameter_bytes - offset,
            });
        }
        let mut decoded = decode::Decoder::decode(body, globals, &parameters)?;
        return_at_once(&mut decoded.instructions);
        let directive = |name: &str| {
            let found = function.directives.iter().find(|directive| directive.name == name)?;
            let mut values = [1; 3];
            values.iter_mut().zip(&found.values).for_each(|(value, given)| *value = *given);
            Some(values)
        };
        let product = |[x, y, z]: [u32; 3]| x.saturating_mul(y).saturating_mul(z);
        let flow: Vec<_> = decoded.instructions.iter().map(Instruction::successors).collect();
        let uses: Vec<RegisterUse> = decoded.instructions.iter().map(Instruction::registers).collect();
        let mut is_matrix_register = vec![false; decoded.registers.len()];
        for instruction in &decoded.instructions {
            if let Operation::Multiply(multiply) = &instruction.operation {
                let registers = multiply.accumulators.iter().chain(&multiply.a_registers);
                registers.for_each(|register| is_matrix_register[*register as usize] = true);
            }
        }
        let mut instructions = decoded.instructions;
        for (instruction, uses) in instructions.iter_mut().zip(&uses) {
            if !matches!(instruction.operation, Operation::Multiply(_)) {
                let all = uses.reads.iter().chain(&uses.writes).copied();
                instruction.matrix_registers = all.filter(|r| is_matrix_register[*r as usize]).collect();
            }
        }
        Ok(Self {
            name: function.name.clone(),
            reconvergence: flow::reconvergence(&flow),
            communicates: instructions.iter().any(|i| i.operation.communicates()),
            instructions,
            registers: decoded.registers,
            parameters,
            static_shared: decoded.static_shared,
            dynamic_align: globals.dynamic_align,
            local_bytes: decoded.local_bytes,
            max_threads: directive(".maxntid").or_else(|| directive(".reqntid")).map(product),
            block: directive(".reqntid"),
            min_ctas: directive(".minnctapersm").map_or(1, |[count, ..]| count),
            cluster: directive(".reqnctapercluster"),
            is_matrix_register,
            variables: Arc::clone(variables),
        })
    }

    /// Registers a thread has at entry of a CTA of `threads`: what the launch bounds leave for each in the partition of the
    /// multiprocessor that has the most warps.
    pub(crate) fn registers_at_entry(&self, threads: u32) -> u32 {
        let bound = self.max_threads.unwrap_or(threads).max(1).saturating_mul(self.min_ctas.max(1));
        let warps = bound.div_ceil(WARP).div_ceil(SM_PARTITIONS);
        (REGISTERS_PER_SM / SM_PARTITIONS / (warps * WARP) / 8 * 8).min(255)
    }
}

/// Variables at module scope.
#[derive(Debug, Default)]
pub(crate) struct Globals {
    symbols: HashMap<String, Symbol>,
    allocations: Vec<Arc<Allocation>>,
    global_bytes: u64,
    static_shared: u32,
    dynamic_align: u32,
}

impl Globals {
    fn declare(&mut self, variable: &ast::Variable) -> Result<(), LaunchError> {
        let (bytes, align) = extent(variable)?;
        let symbol = match variable.space {
            ast::Space::Shared if bytes == 0 => {
                self.dynamic_align = self.dynamic_align.max(align);
                Symbol { space: Space::SharedCta, address: None }
            }
            ast::Space::Shared => {
                let offset = place(variable, &mut self.static_shared)?;
                Symbol { space: Space::SharedCta, address: Some(u64::from(SHARED_BASE + offset)) }
            }
            ast::Space::Global | ast::Space::Const => {
                let base = VARIABLES_BASE + self.global_bytes.next_multiple_of(u64::from(align.max(256)));
                self.global_bytes = base - VARIABLES_BASE + u64::from(bytes);
                if self.global_bytes > u64::from(MAX_BYTES) {
                    return Err(unsupported(variable.position, &variable.name, TOO_LARGE));
                }
                let mut data = vec![0; bytes as usize];
                let size = variable.ty.bytes() as usize;
                for (place, value) in data.chunks_exact_mut(size).zip(&variable.initializer) {
                    let bits = literal_bits(value, variable.ty.bytes()).ok_or_else(|| {
                        unsupported(variable.position, &variable.name, "an initialiser that is no number")
                    })?;
                    // Of 128 bits, the upper half is the sign.
                    let bits = i128::from(bits as i64).to_le_bytes();
                    place.copy_from_slice(&bits[..size]);
                }
                self.allocations.push(Arc::new(Allocation::with_contents(base, &data)));
                Symbol { space: Space::Global, address: Some(base) }
            }
            ast::Space::Local | ast::Space::Param => {
                return Err(unsupported(variable.position, &variable.name, "a state space of entries only"));
            }
        };
        self.symbols.insert(variable.name.clone(), symbol);
        Ok(())
    }
}

/// Bytes and alignment of a variable; 0 bytes where its size is left open.
fn extent(variable: &ast::Variable) -> Result<(u32, u32), LaunchError> {
    let element = u64::from(variable.ty.bytes()) * u64::from(variable.vector.unwrap_or(1));
    let bytes = variable
        .dimensions
        .iter()
        .try_fold(element, |bytes, dimension| bytes.checked_mul(dimension.unwrap_or(0)))
        .and_then(|bytes| u32::try_from(bytes).ok())
        .filter(|bytes| *bytes <= MAX_BYTES);
    let bytes = bytes.ok_or_else(|| unsupported(variable.position, &variable.name, TOO_LARGE))?;
    let align = variable.align.unwrap_or(element as u32);
    if align.is_power_of_two() && align <= MAX_ALIGN {
        Ok((bytes, align))
    } else {
        let needed = format!("the alignment is {align}; needed is a power of two to {MAX_ALIGN}");
        Err(unsupported(variable.position, &variable.name, needed))
    }
}

/// A branch to nothing but a return is a return, as the assembler makes it too: where threads leave early, the others
/// do not have to wait until these have come to the end.
fn return_at_once(instructions: &mut [Instruction]) {
    let returns: Vec<bool> = instructions
        .iter()
        .map(|instruction| matches!(instruction.operation, Operation::Return) && instruction.guard.is_none())
        .collect();
    for instruction in instructions {
        if let Operation::Branch { target, .. } = instruction.operation
            && returns[target as usize]
        {
            instruction.operation = Operation::Return;
        }
    }
}

/// Puts a variable behind the bytes of its state space that are used already. Returns its offset there.
fn place(variable: &ast::Variable, used: &mut u32) -> Result<u32, LaunchError> {
    let (bytes, align) = extent(variable)?;
    let offset = used.next_multiple_of(align);
    *used = offset + bytes;
    if *used > MAX_BYTES {
        return Err(unsupported(variable.position, &variable.name, TOO_LARGE));
    }
    Ok(offset)
}

/// Address of the dynamic shared memory behind the static part.
pub(crate) fn dynamic_shared(static_bytes: u32, align: u32) -> u32 {
    (SHARED_BASE + static_bytes).next_multiple_of(align.max(1))
}

/// The bits of a number of `bytes` bytes.
pub(crate) fn literal_bits(operand: &ast::Operand, bytes: u32) -> Option<u64> {
    Some(match operand {
        ast::Operand::Integer(value) => truncate(*value as u64, bytes * 8),
        ast::Operand::F32(bits) if bytes == 8 => f64::from(f32::from_bits(*bits)).to_bits(),
        ast::Operand::F32(bits) => u64::from(*bits),
        ast::Operand::F64(bits) if bytes == 4 => u64::from((f64::from_bits(*bits) as f32).to_bits()),
        ast::Operand::F64(bits) => *bits,
        _ => return None,
    })
}

pub(crate) fn unsupported(position: Position, instruction: &str, reason: impl ToString) -> LaunchError {
    LaunchError::Unsupported { position, instruction: instruction.to_owned(), reason: reason.to_string() }
}

/// Bits of a register of a type.
pub(crate) fn bits_of(ty: ast::Type) -> u32 {
    register_bits(ty)
}
