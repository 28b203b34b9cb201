//! Module scope: header, variables, functions.

use super::Parser;
use crate::ParseError;
use crate::ast::{
    Directive, Function, HeaderPositions, Item, Linkage, Module, Pointer, Position, Space, Variable,
};
use crate::lexer::TokenKind;

const LINKAGES: [(&str, Linkage); 4] = [
    ("extern", Linkage::Extern),
    ("visible", Linkage::Visible),
    ("weak", Linkage::Weak),
    ("common", Linkage::Common),
];

pub(super) const SPACES: [(&str, Space); 5] = [
    ("const", Space::Const),
    ("global", Space::Global),
    ("local", Space::Local),
    ("param", Space::Param),
    ("shared", Space::Shared),
];

/// What may stand between parameters and body, and between how many and how many numbers each has.
const FUNCTION_DIRECTIVES: [(&str, [usize; 2]); 10] = [
    ("maxnreg", [1, 1]),
    ("maxntid", [1, 3]),
    ("reqntid", [1, 3]),
    ("minnctapersm", [1, 1]),
    ("maxnctapersm", [1, 1]),
    ("noreturn", [0, 0]),
    ("reqnctapercluster", [1, 3]),
    ("explicitcluster", [0, 0]),
    ("maxclusterrank", [1, 1]),
    ("blocksareclusters", [0, 0]),
];

/// Bits of an address, where the module does not say.
const DEFAULT_ADDRESS_SIZE: u32 = 64;

impl Parser<'_> {
    pub(super) fn module(&mut self) -> Result<Module, ParseError> {
        let mut header = HeaderPositions { version: self.peek().position, ..HeaderPositions::default() };
        self.expect_directive("version")?;
        let version = self.version()?;
        header.target = self.peek().position;
        self.expect_directive("target")?;
        let target =
            self.comma_separated(|parser| Ok(parser.word("a target such as `sm_90a`")?.to_owned()))?;
        header.address_size = self.peek().position;
        let address_size = if self.take_directive("address_size") {
            self.number("the bits of an address")?
        } else {
            DEFAULT_ADDRESS_SIZE
        };

        let mut items = Vec::new();
        while self.peek().kind != TokenKind::End {
            self.item(&mut items)?;
        }
        Ok(Module { version, target, address_size, header, items })
    }

    /// `8.4`
    fn version(&mut self) -> Result<(u32, u32), ParseError> {
        let token = self.peek();
        let version = token.text.split_once('.').filter(|_| token.kind == TokenKind::Number);
        let version = version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let version = version.ok_or_else(|| self.expected("a version such as `8.4`"))?;
        self.advance();
        Ok(version)
    }

    fn item(&mut self, items: &mut Vec<Item>) -> Result<(), ParseError> {
        if self.debug_directive()? {
            return Ok(());
        }
        let position = self.peek().position;
        let linkage = self.take_one_of(&LINKAGES);
        if let Some(is_entry) = self.take_one_of(&[("entry", true), ("func", false)]) {
            items.push(Item::Function(self.function(position, linkage, is_entry)?));
        } else if let Some(space) = self.take_one_of(&SPACES) {
            items.extend(self.variables(position, linkage, space)?.into_iter().map(Item::Variable));
        } else {
            return Err(self.expected("`.entry`, `.func` or the state space of a variable"));
        }
        Ok(())
    }

    /// What follows `.entry` or `.func`.
    fn function(
        &mut self,
        position: Position,
        linkage: Option<Linkage>,
        is_entry: bool,
    ) -> Result<Function, ParseError> {
        let returns = if is_entry { Vec::new() } else { self.parameters()? };
        let name = self.word("the name of a function")?.to_owned();
        let parameters = self.parameters()?;
        let parameters_end = self.end_of_last();
        let mut directives = Vec::new();
        while let Some(directive) = self.function_directive()? {
            directives.push(directive);
        }
        let body = if self.take(';') {
            None
        } else if self.take('{') {
            Some(self.block(0)?)
        } else {
            return Err(self.expected("`{`, `;` or a directive of a function"));
        };
        Ok(Function {
            position,
            linkage,
            is_entry,
            returns,
            name,
            parameters,
            parameters_end,
            directives,
            body,
        })
    }

    /// `(.param .b32 a, .param .b32 b)`, which may be missing.
    pub(super) fn parameters(&mut self) -> Result<Vec<Variable>, ParseError> {
        if !self.take('(') || self.take(')') {
            return Ok(Vec::new());
        }
        let parameters = self.comma_separated(|parser| {
            let position = parser.peek().position;
            parser.expect_directive("param")?;
            let prefix = parser.variable_prefix(position, None, Space::Param)?;
            parser.declarator(prefix)
        })?;
        self.expect(')')?;
        Ok(parameters)
    }

    /// `.maxntid 128, 1, 1`, if one comes next.
    fn function_directive(&mut self) -> Result<Option<Directive>, ParseError> {
        let token = self.peek();
        let Some([at_least, at_most]) = self.take_one_of(&FUNCTION_DIRECTIVES) else { return Ok(None) };
        let values = if at_least == 0 {
            Vec::new()
        } else {
            self.comma_separated(|parser| parser.number("a number"))?
        };
        if values.len() > at_most {
            let message = format!(
                "expected {at_least} to {at_most} numbers behind `.{}`, found {}",
                token.text,
                values.len()
            );
            return Err(ParseError { position: token.position, message });
        }
        Ok(Some(Directive { position: token.position, name: format!(".{}", token.text), values }))
    }

    /// What follows the state space of variables, up to `;`.
    pub(super) fn variables(
        &mut self,
        position: Position,
        linkage: Option<Linkage>,
        space: Space,
    ) -> Result<Vec<Variable>, ParseError> {
        let prefix = self.variable_prefix(position, linkage, space)?;
        let variables = self.comma_separated(|parser| parser.declarator(prefix.clone()))?;
        self.expect(';')?;
        Ok(variables)
    }

    /// `.align 16 .v2 .b32`, `.u64 .ptr .global .align 8`: a variable that has no name yet.
    fn variable_prefix(
        &mut self,
        position: Position,
        linkage: Option<Linkage>,
        space: Space,
    ) -> Result<Variable, ParseError> {
        let mut align = self.align()?;
        let vector = self.vector_length();
        let ty = self.ty()?;
        let pointer = if self.take_directive("ptr") {
            Some(Pointer { space: self.take_one_of(&SPACES), align: self.align()? })
        } else {
            // Some write the alignment behind the type.
            align = align.or(self.align()?);
            None
        };
        let (name, dimensions, initializer) = (String::new(), Vec::new(), Vec::new());
        Ok(Variable { position, linkage, space, align, vector, ty, pointer, name, dimensions, initializer })
    }

    fn align(&mut self) -> Result<Option<u32>, ParseError> {
        self.take_directive("align").then(|| self.number("an alignment in bytes")).transpose()
    }

    /// `name[4][] = {…}`
    fn declarator(&mut self, prefix: Variable) -> Result<Variable, ParseError> {
        let name = self.word("the name of a variable")?.to_owned();
        let mut dimensions = Vec::new();
        while self.take('[') {
            dimensions.push(if self.is(']') { None } else { Some(self.number("a length or `]`")?) });
            self.expect(']')?;
        }
        let initializer = if self.take('=') { self.initializer()? } else { Vec::new() };
        Ok(Variable { name, dimensions, initializer, ..prefix })
    }
}
