//! Ways through a tree.

use std::slice;

use crate::ast::{Function, HeaderPositions, Instruction, Item, Module, Position, Statement, Variable};

/// The statements of a body in the order of the text, those inside of blocks too; see [`Function::statements`].
#[derive(Clone, Debug)]
pub struct Statements<'a> {
    /// What is left of each block around the next statement, outermost first.
    blocks: Vec<slice::Iter<'a, Statement>>,
}

impl<'a> Iterator for Statements<'a> {
    type Item = &'a Statement;

    fn next(&mut self) -> Option<&'a Statement> {
        while let Some(block) = self.blocks.last_mut() {
            match block.next() {
                Some(Statement::Block(inner)) => self.blocks.push(inner.iter()),
                Some(statement) => return Some(statement),
                None => {
                    self.blocks.pop();
                }
            }
        }
        None
    }
}

impl Function {
    /// All statements of the body in the order of the text. A block's statements stand for the block.
    pub fn statements(&self) -> Statements<'_> {
        Statements { blocks: self.body.iter().map(|body| body.iter()).collect() }
    }

    /// All instructions of the body in the order of the text.
    pub fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.statements().filter_map(|statement| match statement {
            Statement::Instruction(instruction) => Some(instruction),
            _ => None,
        })
    }
}

impl Module {
    /// Entries and functions in the order of the text.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.items.iter().filter_map(|item| match item {
            Item::Function(function) => Some(function),
            Item::Variable(_) => None,
        })
    }

    /// Variables at module scope in the order of the text.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.items.iter().filter_map(|item| match item {
            Item::Variable(variable) => Some(variable),
            Item::Function(_) => None,
        })
    }

    /// The module as if nothing had a position: equal where the text says the same, however it is laid out.
    #[must_use]
    pub fn without_positions(mut self) -> Self {
        self.header = HeaderPositions::default();
        for item in &mut self.items {
            match item {
                Item::Variable(variable) => variable.position = Position::default(),
                Item::Function(function) => {
                    function.position = Position::default();
                    function.parameters_end = Position::default();
                    forget_variables(&mut function.returns);
                    forget_variables(&mut function.parameters);
                    function
                        .directives
                        .iter_mut()
                        .for_each(|directive| directive.position = Position::default());
                    function.body.iter_mut().for_each(|body| forget_statements(body));
                }
            }
        }
        self
    }
}

fn forget_variables(variables: &mut [Variable]) {
    variables.iter_mut().for_each(|variable| variable.position = Position::default());
}

fn forget_statements(statements: &mut [Statement]) {
    for statement in statements {
        match statement {
            Statement::Block(inner) => forget_statements(inner),
            Statement::Variable(Variable { position, .. })
            | Statement::Instruction(Instruction { position, .. })
            | Statement::Label { position, .. }
            | Statement::Registers { position, .. }
            | Statement::Pragma { position, .. }
            | Statement::BranchTargets { position, .. } => *position = Position::default(),
            Statement::CallPrototype { position, returns, parameters, .. } => {
                *position = Position::default();
                forget_variables(returns);
                forget_variables(parameters);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ast::Statement;
    use crate::parse_unchecked;

    const TEXT: &str = ".version 8.4 .target sm_90a
        .global .b32 v;
        .entry k(.param .b32 p) { a; { b; { c; } x: } @p d; }";

    #[test]
    fn blocks_are_walked_in_order() {
        let module = parse_unchecked(TEXT).unwrap();
        let entry = module.functions().next().unwrap();
        assert_eq!(entry.instructions().map(|i| i.opcode.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(matches!(entry.statements().nth(3), Some(Statement::Label { name, .. }) if name == "x"));
        assert_eq!(module.variables().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["v"]);
    }

    #[test]
    fn layout_is_no_difference() {
        let [plain, spread] =
            [TEXT.to_owned(), TEXT.replace(' ', "\n")].map(|text| parse_unchecked(&text).unwrap());
        assert_ne!(plain, spread);
        assert_eq!(plain.without_positions(), spread.without_positions());
    }
}
