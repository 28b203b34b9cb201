//! Bodies of functions.

use super::Parser;
use super::module::SPACES;
use crate::ParseError;
use crate::ast::{Guard, Instruction, Position, Registers, Statement};
use crate::lexer::TokenKind;

/// How deep blocks may be nested. Compilers nest two.
const MAX_DEPTH: u32 = 64;

impl Parser<'_> {
    /// What follows `{`, up to the `}`; `depth` blocks are around it.
    pub(super) fn block(&mut self, depth: u32) -> Result<Vec<Statement>, ParseError> {
        let mut statements = Vec::new();
        while !self.take('}') {
            self.statement(&mut statements, depth)?;
        }
        Ok(statements)
    }

    fn statement(&mut self, statements: &mut Vec<Statement>, depth: u32) -> Result<(), ParseError> {
        let token = self.peek();
        let position = token.position;
        match token.kind {
            TokenKind::Word if self.peek_behind(1).kind == TokenKind::Punctuation(':') => {
                let name = self.advance().text.to_owned();
                self.advance();
                statements.push(Statement::Label { position, name });
            }
            TokenKind::Word | TokenKind::Punctuation('@') => {
                statements.push(Statement::Instruction(self.instruction()?));
            }
            TokenKind::Punctuation('{') if depth >= MAX_DEPTH => {
                return Err(ParseError {
                    position,
                    message: format!("more than {MAX_DEPTH} blocks in each other"),
                });
            }
            TokenKind::Punctuation('{') => {
                self.advance();
                statements.push(Statement::Block(self.block(depth + 1)?));
            }
            TokenKind::Dotted if self.debug_directive()? => {}
            TokenKind::Dotted => self.body_directive(statements)?,
            _ => return Err(self.expected("a statement or `}`")),
        }
        Ok(())
    }

    /// `@!p add.s32 a, b, c;`
    fn instruction(&mut self) -> Result<Instruction, ParseError> {
        let position = self.peek().position;
        let guard = if self.take('@') {
            let negated = self.take('!');
            Some(Guard { negated, register: self.word("a predicate register")?.to_owned() })
        } else {
            None
        };
        let opcode = self.word("an instruction")?.to_owned();
        let mut modifiers = Vec::new();
        while let Some(modifier) = self.directive() {
            self.advance();
            modifiers.push(modifier.to_owned());
        }
        let operands =
            if self.is(';') { Vec::new() } else { self.comma_separated(|parser| parser.operand(0))? };
        if !self.take(';') {
            return Err(self.expected("`,` or `;`"));
        }
        Ok(Instruction { position, guard, opcode, modifiers, operands })
    }

    fn body_directive(&mut self, statements: &mut Vec<Statement>) -> Result<(), ParseError> {
        let position = self.peek().position;
        if self.take_directive("reg") {
            let vector = self.vector_length();
            let ty = self.ty()?;
            let names = self.comma_separated(Self::registers)?;
            statements.push(Statement::Registers { position, vector, ty, names });
        } else if self.take_directive("pragma") {
            let texts = self.comma_separated(|parser| match parser.peek().kind {
                TokenKind::String => Ok(parser.advance().text.to_owned()),
                _ => Err(parser.expected("a string")),
            })?;
            statements.push(Statement::Pragma { position, texts });
        } else if self.take_directive("branchtargets") {
            let labels = self.comma_separated(|parser| Ok(parser.word("a label")?.to_owned()))?;
            statements.push(Statement::BranchTargets { position, labels });
        } else if self.take_directive("callprototype") {
            statements.push(self.call_prototype(position)?);
        } else if let Some(space) = self.take_one_of(&SPACES) {
            statements.extend(self.variables(position, None, space)?.into_iter().map(Statement::Variable));
            return Ok(());
        } else {
            return Err(self.expected("`.reg`, `.pragma`, or the state space of a variable"));
        }
        self.expect(';')
    }

    /// `%r<12>`
    fn registers(&mut self) -> Result<Registers, ParseError> {
        let name = self.word("the name of a register")?.to_owned();
        let count = if self.take('<') {
            let count = self.number("the number of registers")?;
            self.expect('>')?;
            Some(count)
        } else {
            None
        };
        Ok(Registers { name, count })
    }

    /// What follows `.callprototype`.
    fn call_prototype(&mut self, position: Position) -> Result<Statement, ParseError> {
        let returns = self.parameters()?;
        if self.word("`_`")? != "_" {
            return Err(self.expected("`_` in place of a name"));
        }
        let parameters = self.parameters()?;
        let no_return = self.take_directive("noreturn");
        Ok(Statement::CallPrototype { position, returns, parameters, no_return })
    }

    /// Consumes a directive that is for debuggers, if one comes next.
    pub(super) fn debug_directive(&mut self) -> Result<bool, ParseError> {
        if self.take_directive("loc") {
            self.three_numbers()?;
            // `, function_name label+8, inlined_at 1 2 3`
            while self.take(',') {
                match self.word("`function_name` or `inlined_at`")? {
                    "inlined_at" => self.three_numbers()?,
                    _ => {
                        self.word("a label")?;
                        if self.take('+') {
                            self.number::<u64>("an offset")?;
                        }
                    }
                }
            }
        } else if self.take_directive("file") {
            self.number::<u64>("the number of a file")?;
            if self.peek().kind != TokenKind::String {
                return Err(self.expected("the name of a file"));
            }
            self.advance();
            while self.take(',') {
                self.number::<u64>("a time or a size")?;
            }
        } else if self.take_directive("section") {
            // `.debug_info { … }`
            if self.directive().is_none() {
                return Err(self.expected("the name of a section"));
            }
            self.advance();
            self.expect('{')?;
            while !self.take('}') {
                if self.peek().kind == TokenKind::End {
                    return Err(self.expected("`}`"));
                }
                self.advance();
            }
            // Sections refer to labels that stand between them.
            while self.peek().kind == TokenKind::Word
                && self.peek_behind(1).kind == TokenKind::Punctuation(':')
            {
                self.advance();
                self.advance();
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// File, line and column of `.loc`.
    fn three_numbers(&mut self) -> Result<(), ParseError> {
        for what in ["the number of a file", "a line", "a column"] {
            self.number::<u64>(what)?;
        }
        Ok(())
    }
}
