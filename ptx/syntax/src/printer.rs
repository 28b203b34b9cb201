//! A tree to text.
//!
//! What is printed parses to the same tree, but for positions. Constants come out in one notation each: integers
//! decimal with their sign, floating point in hexadecimal bits.

use std::fmt::{self, Display, Formatter};

use crate::ast::{
    Address, Directive, Function, Guard, Instruction, Item, Linkage, Module, Operand, Pointer, Registers,
    Space, Statement, Symbol, Variable,
};

impl Display for Module {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        writeln!(f, ".version {major}.{minor}")?;
        writeln!(f, ".target {}", Joined(&self.target))?;
        writeln!(f, ".address_size {}", self.address_size)?;
        self.items.iter().try_for_each(|item| write!(f, "\n{item}"))
    }
}

impl Display for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(variable) => writeln!(f, "{variable};"),
            Self::Function(function) => writeln!(f, "{function}"),
        }
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(linkage) = self.linkage {
            write!(f, "{linkage} ")?;
        }
        f.write_str(if self.is_entry { ".entry " } else { ".func " })?;
        if !self.returns.is_empty() {
            write!(f, "({}) ", Joined(&self.returns))?;
        }
        write!(f, "{}(", self.name)?;
        for (index, parameter) in self.parameters.iter().enumerate() {
            write!(f, "{}\n\t{parameter}", if index == 0 { "" } else { "," })?;
        }
        f.write_str(if self.parameters.is_empty() { ")" } else { "\n)" })?;
        self.directives.iter().try_for_each(|directive| write!(f, "\n{directive}"))?;
        match &self.body {
            None => f.write_str(";"),
            Some(body) => {
                f.write_str("\n")?;
                block(f, body, 0)
            }
        }
    }
}

impl Display for Variable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(linkage) = self.linkage {
            write!(f, "{linkage} ")?;
        }
        write!(f, "{} ", self.space)?;
        if let Some(align) = self.align {
            write!(f, ".align {align} ")?;
        }
        vector_length(f, self.vector)?;
        write!(f, ".{} ", self.ty.name())?;
        if let Some(pointer) = self.pointer {
            write!(f, "{pointer} ")?;
        }
        f.write_str(&self.name)?;
        for dimension in &self.dimensions {
            match dimension {
                Some(length) => write!(f, "[{length}]")?,
                None => f.write_str("[]")?,
            }
        }
        match self.initializer.as_slice() {
            [] => Ok(()),
            [value] if self.dimensions.is_empty() => write!(f, " = {value}"),
            values => write!(f, " = {{{}}}", Joined(values)),
        }
    }
}

impl Display for Pointer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(".ptr")?;
        if let Some(space) = self.space {
            write!(f, " {space}")?;
        }
        self.align.map_or(Ok(()), |align| write!(f, " .align {align}"))
    }
}

impl Display for Directive {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.values.is_empty() { Ok(()) } else { write!(f, " {}", Joined(&self.values)) }
    }
}

impl Display for Linkage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Extern => ".extern",
            Self::Visible => ".visible",
            Self::Weak => ".weak",
            Self::Common => ".common",
        })
    }
}

impl Display for Space {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Const => ".const",
            Self::Global => ".global",
            Self::Local => ".local",
            Self::Param => ".param",
            Self::Shared => ".shared",
        })
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        statement(f, self, 0)
    }
}

impl Display for Registers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.count.map_or(Ok(()), |count| write!(f, "<{count}>"))
    }
}

/// Without the `;`.
impl Display for Instruction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(guard) = &self.guard {
            write!(f, "{guard} ")?;
        }
        f.write_str(&self.opcode)?;
        self.modifiers.iter().try_for_each(|modifier| write!(f, ".{modifier}"))?;
        if self.operands.is_empty() { Ok(()) } else { write!(f, " {}", Joined(&self.operands)) }
    }
}

impl Display for Guard {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "@{}{}", if self.negated { "!" } else { "" }, self.register)
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Not(name) => write!(f, "!{name}"),
            Self::Sink => f.write_str("_"),
            Self::Integer(value) => value.fmt(f),
            Self::F32(bits) => write!(f, "0f{bits:08X}"),
            Self::F64(bits) => write!(f, "0d{bits:016X}"),
            Self::Vector(items) => write!(f, "{{{}}}", Joined(items)),
            Self::Pair(first, second) => write!(f, "{first}|{second}"),
            Self::Symbol(symbol) => symbol.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::List(items) => write!(f, "({})", Joined(items)),
        }
    }
}

impl Display for Symbol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.generic { ("generic(", ")") } else { ("", "") };
        if let Some(mask) = self.mask {
            write!(f, "{mask:#x}(")?;
        }
        write!(f, "{open}{}{close}", self.name)?;
        if self.offset != 0 {
            write!(f, "{:+}", self.offset)?;
        }
        f.write_str(if self.mask.is_some() { ")" } else { "" })
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.base {
            None => write!(f, "[{}", self.offset)?,
            Some(base) if self.offset == 0 => write!(f, "[{base}")?,
            Some(base) => write!(f, "[{base}+{}", self.offset)?,
        }
        if !self.coordinates.is_empty() {
            write!(f, ", {{{}}}", Joined(&self.coordinates))?;
        }
        f.write_str("]")
    }
}

/// Items with commas between them.
struct Joined<'a, T>(&'a [T]);

impl<T: Display> Display for Joined<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// A block with the indentation of its braces, which the first line already has.
fn block(f: &mut Formatter<'_>, statements: &[Statement], depth: usize) -> fmt::Result {
    f.write_str("{\n")?;
    for inner in statements {
        let is_label = matches!(inner, Statement::Label { .. });
        let indentation = if is_label { depth } else { depth + 1 };
        write!(f, "{:\t<indentation$}", "")?;
        statement(f, inner, depth + 1)?;
        f.write_str("\n")?;
    }
    write!(f, "{:\t<depth$}}}", "")
}

fn statement(f: &mut Formatter<'_>, statement: &Statement, depth: usize) -> fmt::Result {
    match statement {
        Statement::Label { name, .. } => write!(f, "{name}:"),
        Statement::Registers { vector, ty, names, .. } => {
            f.write_str(".reg ")?;
            vector_length(f, *vector)?;
            write!(f, ".{} {};", ty.name(), Joined(names))
        }
        Statement::Variable(variable) => write!(f, "{variable};"),
        Statement::Block(statements) => block(f, statements, depth),
        Statement::Instruction(instruction) => write!(f, "{instruction};"),
        Statement::Pragma { texts, .. } => {
            f.write_str(".pragma ")?;
            for (index, text) in texts.iter().enumerate() {
                write!(f, "{}\"{text}\"", if index == 0 { "" } else { ", " })?;
            }
            f.write_str(";")
        }
        Statement::BranchTargets { labels, .. } => write!(f, ".branchtargets {};", Joined(labels)),
        Statement::CallPrototype { returns, parameters, no_return, .. } => {
            f.write_str(".callprototype ")?;
            if !returns.is_empty() {
                write!(f, "({}) ", Joined(returns))?;
            }
            write!(f, "_ ({}){};", Joined(parameters), if *no_return { " .noreturn" } else { "" })
        }
    }
}

fn vector_length(f: &mut Formatter<'_>, length: Option<u32>) -> fmt::Result {
    length.map_or(Ok(()), |length| write!(f, ".v{length} "))
}
