//! From tokens to functions.

use super::lex::Token;
use std::collections::HashMap;
use std::rc::Rc;

pub(super) type Name = Rc<str>;

/// What numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Short,
    Half,
    Float,
}

impl Kind {
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Kind::Integer | Kind::Float => 4,
            Kind::Short | Kind::Half => 2,
        }
    }

    pub(super) const fn is_real(self) -> bool {
        matches!(self, Kind::Half | Kind::Float)
    }
}

/// Where what a pointer points to lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Private,
    Local,
    Global,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Nothing,
    /// So many numbers.
    Numbers(Kind, u8),
    /// Two vectors of four floats.
    Pair,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    pub(super) base: Base,
    pub(super) space: Space,
    pub(super) pointer: bool,
}

#[derive(Debug)]
pub(super) enum Expression {
    Integer(u32),
    Float,
    Variable(Name),
    Unary(&'static str, Box<Expression>),
    Binary(&'static str, Box<Expression>, Box<Expression>),
    /// With the operation before the `=`, or none.
    Assign(&'static str, Box<Expression>, Box<Expression>),
    Choose(Box<[Expression; 3]>),
    Call(Name, Vec<Expression>),
    Index(Box<Expression>, Box<Expression>),
    Member(Box<Expression>, Name),
    Cast(Type, Box<Expression>),
}

#[derive(Debug)]
pub(super) struct Declared {
    pub(super) name: Name,
    pub(super) count: Option<Expression>,
    pub(super) value: Option<Expression>,
}

#[derive(Debug)]
pub(super) enum Statement {
    Declare(Type, Vec<Declared>),
    Expression(Expression),
    Block(Vec<Statement>),
    If(Expression, Box<Statement>, Option<Box<Statement>>),
    For { unrolled: bool, first: Box<Statement>, condition: Expression, next: Expression, body: Box<Statement> },
    Return(Option<Expression>),
}

#[derive(Debug)]
pub(super) struct Function {
    pub(super) parameters: Vec<(Type, Name)>,
    pub(super) body: Vec<Statement>,
}

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

type Parsed<T> = Result<T, String>;

/// Binary operators, by how tightly they bind.
const LEVELS: [&[&str]; 9] =
    [&["||"], &["&&"], &["|"], &["^"], &["&"], &["==", "!="], &["<", ">", "<=", ">="], &["<<", ">>"], &["+", "-"]];
const TIGHTEST: &[&str] = &["*", "/", "%"];

fn base(word: &str) -> Option<Base> {
    let (name, lanes) = match word.char_indices().next_back() {
        Some((end, digit @ ('2' | '3' | '4' | '8'))) => (&word[..end], digit as u8 - b'0'),
        _ => (word, 1),
    };
    Some(match name {
        "void" => Base::Nothing,
        "pair" => Base::Pair,
        "uint" | "int" | "bool" => Base::Numbers(Kind::Integer, lanes),
        "ushort" => Base::Numbers(Kind::Short, lanes),
        "half" => Base::Numbers(Kind::Half, lanes),
        "float" => Base::Numbers(Kind::Float, lanes),
        _ => return None,
    })
}

fn space(word: &str) -> Option<Space> {
    Some(match word {
        "global" => Space::Global,
        "local" => Space::Local,
        "private" => Space::Private,
        _ => return None,
    })
}

impl Parser {
    /// Takes out attributes (`[[...]]`), which say nothing here.
    pub(super) fn new(tokens: Vec<Token>) -> Self {
        let mut kept = Vec::with_capacity(tokens.len());
        let mut inside = false;
        let mut at = 0;
        while at < tokens.len() {
            let two = |sign| tokens[at].is(sign) && tokens.get(at + 1).is_some_and(|next| next.is(sign));
            if !inside && two("[") || inside && two("]") {
                inside = !inside;
                at += 2;
                continue;
            }
            if !inside {
                kept.push(tokens[at].clone());
            }
            at += 1;
        }
        Parser { tokens: kept, at: 0 }
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn sees(&self, sign: &str) -> bool {
        self.peek().is_some_and(|token| token.is(sign))
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = self.sees(sign);
        self.at += usize::from(found);
        found
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is_word(word));
        self.at += usize::from(found);
        found
    }

    fn need(&mut self, sign: &str) -> Parsed<()> {
        if self.takes(sign) {
            return Ok(());
        }
        let before = self.at.saturating_sub(8);
        Err(format!("{sign} expected at {:?}", &self.tokens[before..(self.at + 2).min(self.tokens.len())]))
    }

    fn word(&mut self) -> Parsed<Name> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            other => Err(format!("a name expected, not {other:?}")),
        }
    }

    /// A type, when one begins here.
    fn type_here(&mut self) -> Option<Type> {
        let start = self.at;
        let (mut found, mut place) = (None, Space::Private);
        while let Some(Token::Word(word)) = self.peek() {
            if let Some(space) = space(word) {
                place = space;
            } else if found.is_none()
                && let Some(base) = base(word)
            {
                found = Some(base);
            } else if !matches!(&**word, "const" | "constant" | "static" | "inline") {
                break;
            }
            self.at += 1;
        }
        let Some(base) = found else {
            self.at = start;
            return None;
        };
        let pointer = self.takes("*");
        self.takes("&");
        Some(Type { base, space: place, pointer })
    }

    /// Every function of a source.
    pub(super) fn functions(mut self) -> Parsed<HashMap<Name, Function>> {
        let mut functions = HashMap::new();
        while self.peek().is_some() {
            let found = self.type_here().ok_or_else(|| format!("a function expected at {:?}", self.peek()))?;
            let name = self.word().map_err(|error| format!("{error} after {found:?}"))?;
            self.need("(")?;
            let mut parameters = Vec::new();
            while !self.takes(")") {
                let of = self.type_here().ok_or_else(|| format!("a parameter of {name} has no type"))?;
                parameters.push((of, self.word()?));
                self.takes(",");
            }
            self.need("{")?;
            functions.insert(name, Function { parameters, body: self.statements()? });
        }
        Ok(functions)
    }

    /// Up to the closing brace.
    fn statements(&mut self) -> Parsed<Vec<Statement>> {
        let mut list = Vec::new();
        while !self.takes("}") {
            if !self.takes(";") {
                list.push(self.statement()?);
            }
        }
        Ok(list)
    }

    fn statement(&mut self) -> Parsed<Statement> {
        if self.takes("{") {
            return Ok(Statement::Block(self.statements()?));
        }
        if self.takes_word("if") {
            self.need("(")?;
            let condition = self.expression()?;
            self.need(")")?;
            let then = Box::new(self.statement()?);
            let or = if self.takes_word("else") { Some(Box::new(self.statement()?)) } else { None };
            return Ok(Statement::If(condition, then, or));
        }
        let unrolled = self.takes_word("unroll");
        if self.takes_word("for") {
            self.need("(")?;
            let first = Box::new(self.statement()?);
            let condition = self.expression()?;
            self.need(";")?;
            let next = self.expression()?;
            self.need(")")?;
            return Ok(Statement::For { unrolled, first, condition, next, body: Box::new(self.statement()?) });
        }
        if self.takes_word("return") {
            let value = if self.sees(";") { None } else { Some(self.expression()?) };
            self.need(";")?;
            return Ok(Statement::Return(value));
        }
        if self.takes(";") {
            return Ok(Statement::Block(Vec::new()));
        }
        let statement = match self.type_here() {
            Some(of) => self.declaration(of)?,
            None => Statement::Expression(self.expression()?),
        };
        self.need(";")?;
        Ok(statement)
    }

    fn declaration(&mut self, of: Type) -> Parsed<Statement> {
        let mut list = Vec::new();
        loop {
            let name = self.word()?;
            let mut declared = Declared { name, count: None, value: None };
            if self.takes("[") {
                declared.count = Some(self.expression()?);
                self.need("]")?;
            }
            if self.takes("=") {
                declared.value = Some(self.choice()?);
            }
            list.push(declared);
            if !self.takes(",") {
                return Ok(Statement::Declare(of, list));
            }
        }
    }

    pub(super) fn expression(&mut self) -> Parsed<Expression> {
        let target = self.choice()?;
        let assigned = ["=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "<<=", ">>="];
        match assigned.into_iter().find(|sign| self.sees(sign)) {
            Some(sign) => {
                self.at += 1;
                let value = Box::new(self.expression()?);
                Ok(Expression::Assign(&sign[..sign.len() - 1], Box::new(target), value))
            }
            None => Ok(target),
        }
    }

    fn choice(&mut self) -> Parsed<Expression> {
        let condition = self.binary(0)?;
        if !self.takes("?") {
            return Ok(condition);
        }
        let yes = self.choice()?;
        self.need(":")?;
        Ok(Expression::Choose(Box::new([condition, yes, self.choice()?])))
    }

    fn binary(&mut self, level: usize) -> Parsed<Expression> {
        let signs = if level < LEVELS.len() { LEVELS[level] } else { TIGHTEST };
        let operand = |parser: &mut Self| match level {
            level if level < LEVELS.len() => parser.binary(level + 1),
            _ => parser.unary(),
        };
        let mut left = operand(self)?;
        while let Some(sign) = signs.iter().find(|sign| self.sees(sign)) {
            self.at += 1;
            left = Expression::Binary(sign, Box::new(left), Box::new(operand(self)?));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Expression> {
        if let Some(sign) = ["-", "!", "~", "+"].into_iter().find(|sign| self.sees(sign)) {
            self.at += 1;
            return Ok(Expression::Unary(sign, Box::new(self.unary()?)));
        }
        if self.sees("(") {
            let start = self.at;
            self.at += 1;
            if let Some(of) = self.type_here()
                && self.takes(")")
            {
                return Ok(Expression::Cast(of, Box::new(self.unary()?)));
            }
            self.at = start;
        }
        self.postfix()
    }

    fn postfix(&mut self) -> Parsed<Expression> {
        let mut value = match self.peek() {
            Some(Token::Integer(number)) => Expression::Integer(*number),
            Some(Token::Float) => Expression::Float,
            Some(Token::Word(word)) => Expression::Variable(word.clone()),
            Some(Token::Sign("(")) => {
                self.at += 1;
                let inside = self.expression()?;
                if !self.sees(")") {
                    self.need(")")?;
                }
                inside
            }
            other => return Err(format!("a value expected, not {other:?}")),
        };
        self.at += 1;
        loop {
            if self.takes("(") {
                let Expression::Variable(name) = value else { return Err("a call of no name".to_owned()) };
                let mut arguments = Vec::new();
                while !self.takes(")") {
                    arguments.push(self.expression()?);
                    self.takes(",");
                }
                value = Expression::Call(name, arguments);
            } else if self.takes("[") {
                let index = self.expression()?;
                self.need("]")?;
                value = Expression::Index(Box::new(value), Box::new(index));
            } else if self.takes(".") {
                value = Expression::Member(Box::new(value), self.word()?);
            } else if self.takes("++") {
                value = Expression::Assign("+", Box::new(value), Box::new(Expression::Integer(1)));
            } else {
                return Ok(value);
            }
        }
    }
}
