//! Evaluates expressions. Statements are in [`crate::statements`], what values can do in the modules named after it.

use crate::ast::{Arguments, Expr, Kind, Name, Node};
use crate::budget::{Budget, Limits};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::text::Text;
use crate::value::{Closure, Dict, Function, Heap, Id, Key, Scope, Seen, Value};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that a value in a container counts for.
const VALUE_BYTES: usize = 48;

pub(crate) struct Interpreter<'a> {
    pub(crate) budget: Budget,
    pub(crate) heap: Heap,
    pub(crate) scopes: Vec<Scope>,
    /// Scopes that closures hold: a closure may get into one of its own, and then only clearing it frees them.
    pub(crate) captured: Vec<Scope>,
    pub(crate) out: Text,
    strftime: &'a (dyn Fn(&str) -> String + Sync),
}

/// Evaluated arguments.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(Name, Value)>,
}

impl Given {
    /// The arguments in the order of `parameters`; of `function`, for errors.
    pub(crate) fn bind<const N: usize>(self, function: &str, parameters: [&str; N]) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            return Err(Error::operation(format!(
                "{function}() takes {N} arguments at most, {} given",
                self.positional.len()
            )));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let Some(at) = parameters.iter().position(|parameter| **parameter == *name) else {
                return Err(Error::operation(format!("{function}() has no argument {name:.40}")));
            };
            if bound[at].replace(value).is_some() {
                return Err(Error::operation(format!("{function}() got {name} twice")));
            }
        }
        Ok(bound)
    }
}

impl<'a> Interpreter<'a> {
    pub(crate) fn new(limits: Limits, strftime: &'a (dyn Fn(&str) -> String + Sync)) -> Self {
        let functions = [
            ("range", Function::Range),
            ("dict", Function::Dict),
            ("namespace", Function::Namespace),
            ("raise_exception", Function::RaiseException),
            ("strftime_now", Function::StrftimeNow),
        ];
        let globals = functions.map(|(name, function)| (Name::from(name), Value::Function(function)));
        Self {
            budget: Budget::new(limits),
            heap: Heap::default(),
            scopes: vec![Rc::new(RefCell::new(HashMap::from(globals)))],
            captured: Vec::new(),
            out: Text::default(),
            strftime,
        }
    }

    pub(crate) fn define(&mut self, name: Name, value: Value) {
        self.scopes[0].borrow_mut().insert(name, value);
    }

    pub(crate) fn run(mut self, body: &[Node]) -> Result<Text> {
        let result = self.execute(body);
        self.captured.drain(..).for_each(|scope| scope.borrow_mut().clear());
        result.map(|_| self.out)
    }

    // Making values, within the budget.

    /// A value of the context. What it takes is granted, and the rest of the budget grows with it.
    pub(crate) fn import(&mut self, value: &Context) -> Result<Value> {
        Ok(match value {
            Context::Trusted(text) => {
                self.budget.grant(text.len() * 16);
                self.text(Text::trusted(text.as_str()))?
            }
            Context::Data(json) => self.import_json(json)?,
            Context::List(items) => {
                self.budget.down()?;
                self.budget.grant(items.len() * VALUE_BYTES);
                let items = items.iter().map(|item| self.import(item)).collect::<Result<_>>()?;
                self.budget.up();
                self.list(items)?
            }
            Context::Map(entries) => {
                self.budget.down()?;
                self.budget.grant(entries.len() * VALUE_BYTES * 2);
                let mut dict = Dict::new();
                for (key, value) in entries {
                    dict.insert(Key::Text(Arc::new(Text::trusted(key.as_str()))), self.import(value)?);
                }
                self.budget.up();
                self.dict(dict)?
            }
        })
    }

    fn import_json(&mut self, json: &serde_json::Value) -> Result<Value> {
        use serde_json::Value as Json;
        Ok(match json {
            Json::Null => Value::None,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Value::Int(value),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => {
                self.budget.grant(text.len() * 16);
                self.text(Text::data(text.as_str()))?
            }
            Json::Array(items) => {
                self.budget.down()?;
                self.budget.grant(items.len() * VALUE_BYTES);
                let items = items.iter().map(|item| self.import_json(item)).collect::<Result<_>>()?;
                self.budget.up();
                self.list(items)?
            }
            Json::Object(entries) => {
                self.budget.down()?;
                let mut dict = Dict::new();
                for (key, value) in entries {
                    self.budget.grant(key.len() * 16 + VALUE_BYTES * 2);
                    dict.insert(Key::Text(Arc::new(Text::data(key.as_str()))), self.import_json(value)?);
                }
                self.budget.up();
                self.dict(dict)?
            }
        })
    }

    /// A text that is made already; large ones are paid for before they are made.
    pub(crate) fn text(&mut self, text: Text) -> Result<Value> {
        self.budget.bytes(text.len() + VALUE_BYTES)?;
        Ok(Value::Text(Arc::new(text)))
    }

    pub(crate) fn list(&mut self, items: Vec<Value>) -> Result<Value> {
        Ok(Value::List(self.sequence(items)?))
    }

    pub(crate) fn tuple(&mut self, items: Vec<Value>) -> Result<Value> {
        Ok(Value::Tuple(self.sequence(items)?))
    }

    pub(crate) fn sequence(&mut self, items: Vec<Value>) -> Result<Id> {
        self.budget.bytes((items.len() + 1) * VALUE_BYTES)?;
        self.heap.lists.push(items);
        Ok((self.heap.lists.len() - 1) as Id)
    }

    pub(crate) fn dict(&mut self, dict: Dict) -> Result<Value> {
        Ok(Value::Dict(self.mapping(dict)?))
    }

    fn mapping(&mut self, dict: Dict) -> Result<Id> {
        self.budget.bytes((dict.len() * 2 + 1) * VALUE_BYTES)?;
        self.heap.dicts.push(dict);
        Ok((self.heap.dicts.len() - 1) as Id)
    }

    pub(crate) fn key(&self, value: &Value) -> Result<Key> {
        Ok(match value {
            Value::None => Key::None,
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(*value),
            Value::Text(text) => Key::Text(text.clone()),
            Value::Undefined(name) => return Err(undefined(name)),
            other => return Err(Error::operation(format!("a {} cannot be a key", other.type_name()))),
        })
    }

    // Names.

    pub(crate) fn lookup(&self, name: &Name) -> Value {
        let found = self.scopes.iter().rev().find_map(|scope| scope.borrow().get(name).cloned());
        found.unwrap_or_else(|| Value::Undefined(name.clone()))
    }

    // Expressions.

    pub(crate) fn eval(&mut self, expr: &Expr) -> Result<Value> {
        self.budget.down()?;
        let value = self.eval_kind(expr).map_err(|error| error.at(expr.line))?;
        self.budget.up();
        Ok(value)
    }

    fn eval_kind(&mut self, expr: &Expr) -> Result<Value> {
        Ok(match &expr.kind {
            Kind::None => Value::None,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Int(value) => Value::Int(*value),
            Kind::Float(value) => Value::Float(*value),
            Kind::Text(text) => Value::Text(text.clone()),
            Kind::Name(name) => {
                self.budget.steps(self.scopes.len() / 4)?;
                self.lookup(name)
            }
            Kind::List(items) => {
                let items = self.eval_all(items)?;
                self.list(items)?
            }
            Kind::Tuple(items) => {
                let items = self.eval_all(items)?;
                self.tuple(items)?
            }
            Kind::Dict(entries) => {
                let mut dict = Dict::new();
                for (key, value) in entries {
                    let key = self.eval(key)?;
                    let key = self.key(&key)?;
                    dict.insert(key, self.eval(value)?);
                }
                self.dict(dict)?
            }
            Kind::Not(value) => {
                let value = self.eval(value)?;
                Value::Bool(!self.truth(&value))
            }
            Kind::Negate(value) => {
                let value = self.eval(value)?;
                self.negate(&value)?
            }
            Kind::Plus(value) => {
                let value = self.eval(value)?;
                self.plus(&value)?
            }
            Kind::And(left, right) => {
                let left = self.eval(left)?;
                if self.truth(&left) { self.eval(right)? } else { left }
            }
            Kind::Or(left, right) => {
                let left = self.eval(left)?;
                if self.truth(&left) { left } else { self.eval(right)? }
            }
            Kind::Binary(operator, left, right) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                self.binary(*operator, &left, &right)?
            }
            Kind::Concat(parts) => {
                let parts = self.eval_all(parts)?;
                self.concat(&parts)?
            }
            Kind::Compare(first, rest) => {
                let mut left = self.eval(first)?;
                for (comparison, right) in rest {
                    let right = self.eval(right)?;
                    if !self.compare(*comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Kind::Choice(value, condition, otherwise) => {
                let condition = self.eval(condition)?;
                match (self.truth(&condition), otherwise) {
                    (true, _) => self.eval(value)?,
                    (false, Some(otherwise)) => self.eval(otherwise)?,
                    (false, None) => Value::Undefined("the inline if-expression without else".into()),
                }
            }
            Kind::Attribute(value, name) => {
                let value = self.eval(value)?;
                self.attribute(&value, name)?
            }
            Kind::Item(value, index) => {
                let (value, index) = (self.eval(value)?, self.eval(index)?);
                self.item(&value, &index)?
            }
            Kind::Slice(value, parts) => {
                let value = self.eval(value)?;
                let mut bounds = [None, None, None];
                for (bound, part) in bounds.iter_mut().zip(parts) {
                    *bound = match part {
                        Some(part) => Some(self.eval(part)?),
                        None => None,
                    };
                }
                self.slice(&value, bounds)?
            }
            Kind::Call(callee, arguments) => {
                let callee = self.eval(callee)?;
                let given = self.given(arguments)?;
                self.call(&callee, given)?
            }
            Kind::Filter(value, name, arguments) => {
                let value = self.eval(value)?;
                let given = self.given(arguments)?;
                self.filter(name, value, given)?
            }
            Kind::Test(value, name, arguments, negated) => {
                let value = self.eval(value)?;
                let given = self.given(arguments)?;
                Value::Bool(self.test(name, &value, given)? != *negated)
            }
        })
    }

    fn eval_all(&mut self, items: &[Expr]) -> Result<Vec<Value>> {
        items.iter().map(|item| self.eval(item)).collect()
    }

    pub(crate) fn given(&mut self, arguments: &Arguments) -> Result<Given> {
        let mut given = Given { positional: self.eval_all(&arguments.positional)?, named: Vec::new() };
        if let Some(star) = &arguments.star {
            let star = self.eval(star)?;
            given.positional.extend(self.iterate(&star)?);
        }
        for (name, value) in &arguments.named {
            let value = self.eval(value)?;
            given.named.push((name.clone(), value));
        }
        if let Some(stars) = &arguments.double_star {
            let stars = self.eval(stars)?;
            let Value::Dict(id) = stars else {
                return Err(Error::operation(format!("** wants a dict, not {}", stars.type_name())));
            };
            let dict = &self.heap.dicts[id as usize];
            self.budget.bytes(dict.len() * VALUE_BYTES)?;
            for (key, value) in dict {
                let Key::Text(key) = key else { return Err(Error::operation("keywords must be strings")) };
                given.named.push((Name::from(key.as_str()), value.clone()));
            }
        }
        Ok(given)
    }

    pub(crate) fn call(&mut self, callee: &Value, given: Given) -> Result<Value> {
        match callee {
            Value::Macro(closure) => self.call_macro(closure, given),
            Value::Method(method) => self.method(&method.0, method.1, given),
            Value::Function(function) => self.call_function(*function, given),
            Value::Loop(id) => self.recurse(*id, given),
            Value::Undefined(name) => Err(undefined(name)),
            other => Err(Error::operation(format!("a {} cannot be called", other.type_name()))),
        }
    }

    fn call_function(&mut self, function: Function, given: Given) -> Result<Value> {
        match function {
            Function::Range => self.range(given),
            Function::Dict | Function::Namespace => {
                let mut dict = Dict::new();
                for source in given.positional {
                    match source {
                        Value::Dict(id) => dict.extend(self.heap.dicts[id as usize].clone()),
                        other => {
                            for pair in self.iterate(&other)? {
                                let pair = self.iterate(&pair)?;
                                let [key, value] = &pair[..] else {
                                    return Err(Error::operation("a dict is made of pairs"));
                                };
                                dict.insert(self.key(key)?, value.clone());
                            }
                        }
                    }
                }
                for (name, value) in given.named {
                    dict.insert(Key::Text(Arc::new(Text::trusted(&*name))), value);
                }
                let id = self.mapping(dict)?;
                Ok(if function == Function::Dict { Value::Dict(id) } else { Value::Namespace(id) })
            }
            Function::RaiseException => {
                let [message] = given.bind("raise_exception", ["message"])?;
                let message = message.unwrap_or(Value::None);
                let message = self.printed(&message)?;
                Err(Error::new(ErrorKind::Raised, message.as_str()))
            }
            Function::StrftimeNow => {
                let [format] = given.bind("strftime_now", ["format"])?;
                match format.as_ref().and_then(Value::as_str) {
                    // A directive makes a dozen characters at most.
                    Some(format) => {
                        self.budget.bytes(format.len() * 8)?;
                        self.text(Text::trusted((self.strftime)(format)))
                    }
                    None => Err(Error::operation("strftime_now() wants a format")),
                }
            }
        }
    }

    fn range(&mut self, given: Given) -> Result<Value> {
        let [first, second, step] = given.bind("range", ["start", "stop", "step"])?;
        let int = |value: Option<Value>, default: i64| match value {
            None => Ok(default),
            Some(Value::Int(value)) => Ok(value),
            Some(Value::Bool(value)) => Ok(i64::from(value)),
            Some(Value::Undefined(name)) => Err(undefined(&name)),
            Some(other) => Err(Error::operation(format!("range() wants integers, not {}", other.type_name()))),
        };
        let first = int(first, 0)?;
        let (start, stop) = match second {
            Some(stop) => (first, int(Some(stop), 0)?),
            None => (0, first),
        };
        let step = int(step, 1)?;
        if step == 0 {
            return Err(Error::operation("range() has a step of 0"));
        }
        let distance =
            if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
        let count = if distance <= 0 { 0 } else { (distance - 1) / i128::from(step.unsigned_abs()) + 1 };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.budget.bytes(count.saturating_mul(VALUE_BYTES))?;
        let items = (0..count as i64).map(|n| Value::Int(start + n * step)).collect();
        self.list(items)
    }

    pub(crate) fn call_macro(&mut self, closure: &Rc<Closure>, given: Given) -> Result<Value> {
        let code = &closure.code;
        if given.positional.len() > code.parameters.len() {
            return Err(Error::operation(format!(
                "macro {} takes {} arguments at most, {} given",
                code.name,
                code.parameters.len(),
                given.positional.len()
            )));
        }
        self.budget.down()?;
        let seen = match &closure.seen {
            Seen::Outermost(count) => self.scopes[..(*count).min(self.scopes.len())].to_vec(),
            Seen::Captured(scopes) => scopes.clone(),
        };
        let outside = std::mem::replace(&mut self.scopes, seen);
        self.scopes.push(Scope::default());
        let mut caller = closure.caller.clone();
        let mut named: HashMap<Name, Value> = given.named.into_iter().collect();
        if let Some(given) = named.remove("caller") {
            caller = Some(given);
        }
        let mut positional = given.positional.into_iter();
        for (name, default) in &code.parameters {
            let value = match (positional.next(), named.remove(name), default) {
                (Some(_), Some(_), _) => return Err(Error::operation(format!("macro {} got {name} twice", code.name))),
                (Some(value), ..) | (None, Some(value), _) => value,
                (None, None, Some(default)) => self.eval(default)?,
                (None, None, None) => Value::Undefined(name.clone()),
            };
            self.assign_name(name, value);
        }
        if let Some(unknown) = named.keys().next() {
            return Err(Error::operation(format!("macro {} has no argument {unknown:.40}", code.name)));
        }
        if let Some(caller) = caller {
            self.assign_name(&Name::from("caller"), caller);
        }
        let outer = std::mem::take(&mut self.out);
        self.execute(&code.body)?;
        let made = std::mem::replace(&mut self.out, outer);
        self.scopes = outside;
        self.budget.up();
        Ok(Value::Text(Arc::new(made)))
    }

    pub(crate) fn assign_name(&mut self, name: &Name, value: Value) {
        let scope = self.scopes.last().expect("there is always the outermost scope");
        scope.borrow_mut().insert(name.clone(), value);
    }
}

pub(crate) fn undefined(name: &str) -> Error {
    Error::operation(format!("'{name:.60}' is undefined"))
}
