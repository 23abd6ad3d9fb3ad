//! From tokens to a template, by Jinja's grammar. Recursion is bounded by [`MAX_DEPTH`], and so is the depth of what is built,
//! which left-associative chains deepen without recursion.

use crate::ast::{Applied, Arguments, Comparison, Expr, For, Kind, Macro, Name, Node, Operator, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::lexer::Token;
use crate::text::Text;
use crate::{filters, tests_of_values};
use std::sync::Arc;

/// Deepest nesting of a template.
const MAX_DEPTH: u32 = 200;

pub(crate) struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    depth: u32,
    loops: u32,
    /// Whether what is read stands under a condition, with no scope of its own between.
    conditional: bool,
    /// Filters and tests that nobody knows, where that is an error.
    unknown: Vec<Error>,
}

/// The template of these tokens.
pub(crate) fn parse(tokens: Vec<(Token, u32)>) -> Result<Vec<Node>> {
    let mut parser = Parser { tokens, at: 0, depth: 0, loops: 0, conditional: false, unknown: Vec::new() };
    let body = parser.body(&[])?;
    if *parser.token() != Token::End {
        return Err(parser.error("a block ends that was not begun"));
    }
    match parser.unknown.into_iter().next() {
        Some(unknown) => Err(unknown),
        None => Ok(body),
    }
}

impl Parser {
    pub(crate) fn token(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].1
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Syntax, message).at(self.line())
    }

    fn unexpected(&self, wanted: &str) -> Error {
        let found = match self.token() {
            Token::End => "the end of the template".to_owned(),
            Token::Name(name) => format!("`{name:.40}`"),
            Token::Operator(operator) => format!("`{operator}`"),
            Token::BlockEnd | Token::PrintEnd => "the end of the tag".to_owned(),
            Token::Text(_) | Token::Int(_) | Token::Float(_) => "a constant".to_owned(),
            Token::Data(_) | Token::PrintBegin | Token::BlockBegin => "text".to_owned(),
        };
        self.error(format!("expected {wanted}, found {found}"))
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(too_deep(self.line()));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Parses what stands under a condition (`true`), or in a scope of its own (`false`). As in Jinja, a filter or test that nobody
    /// knows is an error at once, or, under a condition, when it is reached.
    fn under<T>(&mut self, conditional: bool, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = std::mem::replace(&mut self.conditional, conditional);
        let result = parse(self);
        self.conditional = outer;
        result
    }

    fn unknown(&mut self, what: &str, name: &str) {
        if !self.conditional {
            self.unknown.push(self.error(format!("no {what} is named `{name:.40}`")));
        }
    }

    fn is_operator(&self, operator: &str) -> bool {
        matches!(self.token(), Token::Operator(found) if *found == operator)
    }

    fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        if found {
            self.next();
        }
        found
    }

    fn expect_operator(&mut self, operator: &str) -> Result<()> {
        match self.skip_operator(operator) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("`{operator}`"))),
        }
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Token::Name(found) if found == name)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    fn name(&mut self) -> Result<Name> {
        match self.token() {
            Token::Name(name) => {
                let name = Name::from(name.as_str());
                self.next();
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    // Statements.

    /// Nodes up to a block tag of one of these names; the tag's name is the next token then.
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            match self.token() {
                Token::Data(_) => {
                    let Token::Data(text) = self.next() else { unreachable!("it was data") };
                    nodes.push(Node::Data(Text::trusted(text)));
                }
                Token::PrintBegin => {
                    self.next();
                    nodes.push(Node::Print(self.tuple(true)?));
                    self.tag_end(&Token::PrintEnd)?;
                }
                Token::BlockBegin => {
                    self.next();
                    if let Token::Name(name) = self.token()
                        && ends.contains(&name.as_str())
                    {
                        return Ok(nodes);
                    }
                    let node = self.nested(Self::statement)?;
                    nodes.extend(node);
                }
                Token::End if ends.is_empty() => return Ok(nodes),
                Token::End => return Err(self.unexpected(&format!("`{}`", ends[ends.len() - 1]))),
                _ => return Err(self.unexpected("text or a tag")),
            }
        }
    }

    fn tag_end(&mut self, end: &Token) -> Result<()> {
        if self.token() != end {
            return Err(self.unexpected("the end of the tag"));
        }
        self.next();
        Ok(())
    }

    fn block_end(&mut self) -> Result<()> {
        self.tag_end(&Token::BlockEnd)
    }

    /// The body of a block and its end tag.
    fn block(&mut self, end: &str) -> Result<Vec<Node>> {
        self.block_end()?;
        let body = self.body(&[end])?;
        self.next();
        // `endmacro NAME`, `endblock NAME`.
        if matches!(self.token(), Token::Name(_)) && end != "endif" {
            self.next();
        }
        self.block_end()?;
        Ok(body)
    }

    /// A block that has a scope of its own.
    fn scope(&mut self, end: &str) -> Result<Vec<Node>> {
        self.under(false, |parser| parser.block(end))
    }

    fn statement(&mut self) -> Result<Option<Node>> {
        let line = self.line();
        let keyword = self.name().map_err(|_| self.unexpected("a statement"))?;
        Ok(Some(match &*keyword {
            "if" => self.under(true, Self::if_statement)?,
            "for" => self.for_statement()?,
            "set" => self.set_statement()?,
            "macro" => Node::Macro(Arc::new(self.macro_statement()?)),
            "call" => self.call_statement()?,
            "filter" => {
                let filters = self.under(false, Self::filters)?;
                Node::Filter(filters, self.scope("endfilter")?)
            }
            "with" => self.with_statement()?,
            // The first only marks what an assistant said, for training; the second names a part for inheritance.
            "generation" => Node::With(Vec::new(), self.scope("endgeneration")?),
            "block" => {
                self.name()?;
                Node::With(Vec::new(), self.scope("endblock")?)
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(self.error(format!("`{keyword}` outside a loop")).at(line));
                }
                self.block_end()?;
                if &*keyword == "break" { Node::Break } else { Node::Continue }
            }
            "print" => {
                let node = Node::Print(self.tuple(true)?);
                self.block_end()?;
                node
            }
            other => return Err(self.error(format!("unknown statement `{other:.40}`")).at(line)),
        }))
    }

    fn if_statement(&mut self) -> Result<Node> {
        let mut arms = Vec::new();
        loop {
            let condition = self.tuple(false)?;
            self.block_end()?;
            arms.push((condition, self.body(&["elif", "else", "endif"])?));
            let tag = self.name()?;
            match &*tag {
                "elif" => {}
                "else" => return Ok(Node::If(arms, self.block("endif")?)),
                _ => {
                    self.block_end()?;
                    return Ok(Node::If(arms, Vec::new()));
                }
            }
        }
    }

    fn for_statement(&mut self) -> Result<Node> {
        let target = self.target()?;
        if !self.skip_name("in") {
            return Err(self.unexpected("`in`"));
        }
        let items = self.tuple_without_choice()?;
        let only_if = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.block_end()?;
        self.loops += 1;
        let body = self.under(false, |parser| parser.body(&["endfor", "else"]))?;
        self.loops -= 1;
        let otherwise = if self.skip_name("else") {
            self.scope("endfor")?
        } else {
            self.next();
            self.block_end()?;
            Vec::new()
        };
        Ok(Node::For(Arc::new(For { target, items, only_if, body, otherwise, recursive })))
    }

    fn set_statement(&mut self) -> Result<Node> {
        let target = self.target()?;
        if self.skip_operator("=") {
            let value = self.tuple(true)?;
            self.block_end()?;
            return Ok(Node::Set(target, value));
        }
        let filters = if self.skip_operator("|") { self.under(false, Self::filters)? } else { Vec::new() };
        Ok(Node::SetBlock(target, filters, self.scope("endset")?))
    }

    /// `a | b(1) | c`, without the value.
    fn filters(&mut self) -> Result<Vec<Applied>> {
        let mut filters = Vec::new();
        loop {
            let line = self.line();
            let name = self.filter_name()?;
            let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
            filters.push(Applied { name, arguments, line });
            if !self.skip_operator("|") {
                return Ok(filters);
            }
        }
    }

    fn macro_statement(&mut self) -> Result<Macro> {
        let name = self.name()?;
        let parameters = self.parameters()?;
        self.macro_body(name, parameters, "endmacro")
    }

    fn macro_body(&mut self, name: Name, parameters: Vec<(Name, Option<Expr>)>, end: &str) -> Result<Macro> {
        let loops = std::mem::take(&mut self.loops);
        let body = self.scope(end);
        self.loops = loops;
        Ok(Macro { name, parameters, body: body? })
    }

    fn parameters(&mut self) -> Result<Vec<(Name, Option<Expr>)>> {
        self.expect_operator("(")?;
        let mut parameters = Vec::new();
        while !self.skip_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.name()?;
            let default = if self.skip_operator("=") { Some(self.expression()?) } else { None };
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    fn call_statement(&mut self) -> Result<Node> {
        let parameters = if self.is_operator("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression()?;
        if !matches!(call.kind, Kind::Call(..)) {
            return Err(self.error("expected a call"));
        }
        Ok(Node::Call(call, Arc::new(self.macro_body("caller".into(), parameters, "endcall")?)))
    }

    fn with_statement(&mut self) -> Result<Node> {
        let mut variables = Vec::new();
        while *self.token() != Token::BlockEnd {
            if !variables.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.single_target()?;
            self.expect_operator("=")?;
            variables.push((target, self.expression()?));
        }
        Ok(Node::With(variables, self.scope("endwith")?))
    }

    fn target(&mut self) -> Result<Target> {
        let first = self.single_target()?;
        if !self.is_operator(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.skip_operator(",") {
            if self.is_name("in") || self.is_operator("=") {
                break;
            }
            targets.push(self.single_target()?);
        }
        Ok(Target::Tuple(targets))
    }

    fn single_target(&mut self) -> Result<Target> {
        if self.skip_operator("(") {
            let target = self.nested(Self::target)?;
            self.expect_operator(")")?;
            return Ok(target);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return Err(self.error(format!("cannot assign to {name}")));
        }
        if self.skip_operator(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }

    // Expressions.

    fn make(&self, line: u32, depth: u32, kind: Kind) -> Result<Expr> {
        if depth >= MAX_DEPTH { Err(too_deep(line)) } else { Ok(Expr { kind, line, depth: depth + 1 }) }
    }

    /// `a, b` is a tuple; `choice` says whether `a if b else c` may stand here.
    fn tuple(&mut self, choice: bool) -> Result<Expr> {
        let line = self.line();
        let item = |parser: &mut Self| if choice { parser.expression() } else { parser.nested(Self::or) };
        let first = item(self)?;
        if !self.is_operator(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.skip_operator(",") {
            if matches!(self.token(), Token::PrintEnd | Token::BlockEnd) || self.is_operator(")") {
                break;
            }
            items.push(item(self)?);
        }
        let depth = deepest(&items);
        self.make(line, depth, Kind::Tuple(items))
    }

    /// What a loop runs over: an `if` behind it is the loop's.
    fn tuple_without_choice(&mut self) -> Result<Expr> {
        self.tuple(false)
    }

    fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let known = parser.unknown.len();
            let mut value = parser.or()?;
            while parser.is_name("if") {
                let line = parser.line();
                parser.next();
                let condition = parser.or()?;
                let otherwise = if parser.skip_name("else") { Some(Box::new(parser.expression()?)) } else { None };
                parser.unknown.truncate(known);
                let depth = value.depth.max(condition.depth).max(otherwise.as_ref().map_or(0, |e| e.depth));
                value = parser.make(line, depth, Kind::Choice(Box::new(value), Box::new(condition), otherwise))?;
            }
            Ok(value)
        })
    }

    fn pair(
        &self,
        line: u32,
        left: Expr,
        right: Expr,
        make: impl FnOnce(Box<Expr>, Box<Expr>) -> Kind,
    ) -> Result<Expr> {
        let depth = left.depth.max(right.depth);
        self.make(line, depth, make(Box::new(left), Box::new(right)))
    }

    fn or(&mut self) -> Result<Expr> {
        let mut left = self.and()?;
        while self.is_name("or") {
            let line = self.line();
            self.next();
            let right = self.and()?;
            left = self.pair(line, left, right, Kind::Or)?;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let mut left = self.not()?;
        while self.is_name("and") {
            let line = self.line();
            self.next();
            let right = self.not()?;
            left = self.pair(line, left, right, Kind::And)?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr> {
        if !self.is_name("not") {
            return self.compare();
        }
        let line = self.line();
        self.next();
        let value = self.nested(Self::not)?;
        let depth = value.depth;
        self.make(line, depth, Kind::Not(Box::new(value)))
    }

    fn compare(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.token() {
                Token::Operator("==") => Comparison::Equal,
                Token::Operator("!=") => Comparison::NotEqual,
                Token::Operator("<") => Comparison::Less,
                Token::Operator("<=") => Comparison::LessEqual,
                Token::Operator(">") => Comparison::Greater,
                Token::Operator(">=") => Comparison::GreaterEqual,
                Token::Name(name) if name == "in" => Comparison::In,
                Token::Name(name) if name == "not" && self.next_is_in() => {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let depth = rest.iter().map(|(_, value)| value.depth).max().unwrap_or(0).max(first.depth);
        self.make(line, depth, Kind::Compare(Box::new(first), rest))
    }

    fn next_is_in(&self) -> bool {
        matches!(self.tokens.get(self.at + 1), Some((Token::Name(name), _)) if name == "in")
    }

    fn binary(&mut self, operators: &[(&str, Operator)], operand: impl Fn(&mut Self) -> Result<Expr>) -> Result<Expr> {
        let mut left = operand(self)?;
        loop {
            let found = operators.iter().find(|(text, _)| self.is_operator(text));
            let Some(&(_, operator)) = found else { return Ok(left) };
            let line = self.line();
            self.next();
            let right = operand(self)?;
            left = self.pair(line, left, right, |left, right| Kind::Binary(operator, left, right))?;
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        self.binary(&[("+", Operator::Add), ("-", Operator::Subtract)], Self::concat)
    }

    fn concat(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut parts = vec![self.product()?];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => {
                let depth = deepest(&parts);
                self.make(line, depth, Kind::Concat(parts))
            }
        }
    }

    fn product(&mut self) -> Result<Expr> {
        const OPERATORS: [(&str, Operator); 4] = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.binary(&OPERATORS, |parser| parser.binary(&[("**", Operator::Power)], |parser| parser.unary(true)))
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let line = self.line();
        let negate = self.is_operator("-");
        let value = if negate || self.is_operator("+") {
            self.next();
            let value = self.nested(|parser| parser.unary(false))?;
            let depth = value.depth;
            self.make(line, depth, if negate { Kind::Negate(Box::new(value)) } else { Kind::Plus(Box::new(value)) })?
        } else {
            self.nested(Self::primary)?
        };
        let value = self.postfix(value)?;
        if with_filters { self.filters_and_tests(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let token = self.token().clone();
        let kind = match token {
            Token::Name(name) => {
                self.next();
                match name.as_str() {
                    "true" | "True" => Kind::Bool(true),
                    "false" | "False" => Kind::Bool(false),
                    "none" | "None" => Kind::None,
                    name => Kind::Name(name.into()),
                }
            }
            Token::Text(mut text) => {
                self.next();
                while let Token::Text(more) = self.token() {
                    text.push_str(more);
                    self.next();
                }
                Kind::Text(Arc::new(Text::trusted(text)))
            }
            Token::Int(value) => {
                self.next();
                Kind::Int(value)
            }
            Token::Float(value) => {
                self.next();
                Kind::Float(value)
            }
            Token::Operator("(") => {
                self.next();
                if self.skip_operator(")") {
                    return self.make(line, 0, Kind::Tuple(Vec::new()));
                }
                let value = self.tuple(true)?;
                self.expect_operator(")")?;
                return Ok(value);
            }
            Token::Operator("[") => {
                self.next();
                let items = self.items("]", Self::expression)?;
                let depth = deepest(&items);
                return self.make(line, depth, Kind::List(items));
            }
            Token::Operator("{") => {
                self.next();
                let items = self.items("}", |parser| {
                    let key = parser.expression()?;
                    parser.expect_operator(":")?;
                    Ok((key, parser.expression()?))
                })?;
                let depth = items.iter().map(|(key, value)| key.depth.max(value.depth)).max().unwrap_or(0);
                return self.make(line, depth, Kind::Dict(items));
            }
            _ => return Err(self.unexpected("an expression")),
        };
        self.make(line, 0, kind)
    }

    /// Items separated by commas, up to `end`.
    fn items<T>(&mut self, end: &str, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.skip_operator(end) {
            if !items.is_empty() {
                self.expect_operator(",")?;
                if self.skip_operator(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn postfix(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            let line = self.line();
            if self.skip_operator(".") {
                let depth = value.depth;
                value = match self.next() {
                    Token::Name(name) => self.make(line, depth, Kind::Attribute(Box::new(value), name.into()))?,
                    Token::Int(index) => {
                        let index = self.make(line, 0, Kind::Int(index))?;
                        self.pair(line, value, index, Kind::Item)?
                    }
                    _ => return Err(self.error("expected a name behind `.`")),
                };
            } else if self.skip_operator("[") {
                value = self.subscript(value, line)?;
            } else if self.is_operator("(") {
                value = self.call(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn call(&mut self, value: Expr) -> Result<Expr> {
        let line = self.line();
        let arguments = self.arguments()?;
        let depth = value.depth.max(deepest_argument(&arguments));
        self.make(line, depth, Kind::Call(Box::new(value), arguments))
    }

    fn subscript(&mut self, value: Expr, line: u32) -> Result<Expr> {
        let mut parts: [Option<Box<Expr>>; 3] = [None, None, None];
        let (mut part, mut slice) = (0, false);
        loop {
            if self.skip_operator("]") {
                break;
            }
            if self.skip_operator(":") {
                slice = true;
                part += 1;
                if part > 2 {
                    return Err(self.error("a slice has three parts at most"));
                }
                continue;
            }
            if parts[part].is_some() {
                return Err(self.unexpected("`]`"));
            }
            parts[part] = Some(Box::new(self.expression()?));
        }
        let depth = parts.iter().flatten().map(|part| part.depth).max().unwrap_or(0).max(value.depth);
        if slice {
            return self.make(line, depth, Kind::Slice(Box::new(value), parts));
        }
        let [Some(index), ..] = parts else { return Err(self.error("an empty subscript")) };
        self.make(line, depth, Kind::Item(Box::new(value), index))
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.expect_operator("(")?;
        let mut arguments = Arguments::default();
        let mut first = true;
        while !self.skip_operator(")") {
            if !std::mem::take(&mut first) {
                self.expect_operator(",")?;
                if self.skip_operator(")") {
                    break;
                }
            }
            if self.skip_operator("*") {
                arguments.star = Some(Box::new(self.expression()?));
            } else if self.skip_operator("**") {
                arguments.double_star = Some(Box::new(self.expression()?));
            } else if let Token::Name(name) = self.token()
                && matches!(self.tokens.get(self.at + 1), Some((Token::Operator("="), _)))
            {
                let name = Name::from(name.as_str());
                self.next();
                self.next();
                arguments.named.push((name, self.expression()?));
            } else if arguments.named.is_empty() {
                arguments.positional.push(self.expression()?);
            } else {
                return Err(self.error("a positional argument behind a named one"));
            }
        }
        Ok(arguments)
    }

    fn filter_name(&mut self) -> Result<Name> {
        let name = self.name()?;
        if !filters::is_known(&name) {
            self.unknown("filter", &name);
        }
        Ok(name)
    }

    fn filters_and_tests(&mut self, mut value: Expr) -> Result<Expr> {
        loop {
            let line = self.line();
            if self.skip_operator("|") {
                let name = self.filter_name()?;
                let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
                let depth = value.depth.max(deepest_argument(&arguments));
                value = self.make(line, depth, Kind::Filter(Box::new(value), name, arguments))?;
            } else if self.skip_name("is") {
                value = self.test(value, line)?;
            } else if self.is_operator("(") {
                value = self.call(value)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn test(&mut self, value: Expr, line: u32) -> Result<Expr> {
        let negated = self.skip_name("not");
        let name = self.name()?;
        if !tests_of_values::is_known(&name) {
            self.unknown("test", &name);
        }
        let mut arguments = Arguments::default();
        match self.token() {
            Token::Operator("(") => arguments = self.arguments()?,
            Token::Name(word)
                if matches!(word.as_str(), "else" | "or" | "and" | "if" | "is" | "in" | "not" | "recursive") => {}
            Token::Name(_) | Token::Text(_) | Token::Int(_) | Token::Float(_) | Token::Operator("[" | "{") => {
                let argument = self.nested(Self::primary)?;
                arguments.positional.push(self.postfix(argument)?);
            }
            _ => {}
        }
        let depth = value.depth.max(deepest_argument(&arguments));
        self.make(line, depth, Kind::Test(Box::new(value), name, arguments, negated))
    }
}

fn deepest(items: &[Expr]) -> u32 {
    items.iter().map(|item| item.depth).max().unwrap_or(0)
}

fn deepest_argument(arguments: &Arguments) -> u32 {
    let named = arguments.named.iter().map(|(_, value)| value.depth);
    let stars = [&arguments.star, &arguments.double_star].into_iter().flatten().map(|value| value.depth);
    named.chain(stars).max().unwrap_or(0).max(deepest(&arguments.positional))
}

fn too_deep(line: u32) -> Error {
    Error::limit("it is nested too deeply").at(line)
}
