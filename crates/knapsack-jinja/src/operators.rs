//! Truth, arithmetic, comparison, attributes, items: what Python's operators do.

use crate::ast::{Comparison, Name, Operator};
use crate::error::{Error, Result};
use crate::interpreter::{Interpreter, undefined};
use crate::methods;
use crate::strings::{byte_of, char_count};
use crate::text::Text;
use crate::value::{Key, Number, Value};
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

impl Interpreter<'_> {
    pub(crate) fn truth(&self, value: &Value) -> bool {
        match value {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(id) | Value::Tuple(id) => !self.heap.lists[*id as usize].is_empty(),
            Value::Dict(id) => !self.heap.dicts[*id as usize].is_empty(),
            Value::Namespace(_) | Value::Loop(_) | Value::Macro(_) | Value::Function(_) | Value::Method(_) => true,
        }
    }

    pub(crate) fn negate(&mut self, value: &Value) -> Result<Value> {
        match value.number() {
            Some(Number::Int(value)) => value.checked_neg().map(Value::Int).ok_or_else(overflow),
            Some(Number::Float(value)) => Ok(Value::Float(-value)),
            None => Err(bad_operand("-", value)),
        }
    }

    pub(crate) fn plus(&mut self, value: &Value) -> Result<Value> {
        match value.number() {
            Some(Number::Int(value)) => Ok(Value::Int(value)),
            Some(Number::Float(value)) => Ok(Value::Float(value)),
            None => Err(bad_operand("+", value)),
        }
    }

    pub(crate) fn binary(&mut self, operator: Operator, left: &Value, right: &Value) -> Result<Value> {
        match (operator, left, right) {
            (Operator::Add, Value::Text(a), Value::Text(b)) => {
                self.budget.bytes(a.len() + b.len())?;
                let mut text = (**a).clone();
                text.push(b);
                Ok(Value::Text(Arc::new(text)))
            }
            (Operator::Add, Value::List(a), Value::List(b)) => {
                let items = self.joined(*a, *b)?;
                self.list(items)
            }
            (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
                let items = self.joined(*a, *b)?;
                self.tuple(items)
            }
            (Operator::Multiply, Value::Text(text), count) | (Operator::Multiply, count, Value::Text(text))
                if matches!(count, Value::Int(_) | Value::Bool(_)) =>
            {
                let count = repetitions(count);
                self.budget.bytes(text.len().saturating_mul(count).saturating_add(count))?;
                let mut out = Text::default();
                (0..count).for_each(|_| out.push(text));
                Ok(Value::Text(Arc::new(out)))
            }
            (Operator::Multiply, Value::List(id), count) | (Operator::Multiply, count, Value::List(id))
                if matches!(count, Value::Int(_) | Value::Bool(_)) =>
            {
                let (items, count) = (&self.heap.lists[*id as usize], repetitions(count));
                self.budget.bytes(items.len().saturating_mul(count).saturating_mul(48).saturating_add(count))?;
                let items = std::iter::repeat_n(items, count).flatten().cloned().collect();
                self.list(items)
            }
            (Operator::Modulo, Value::Text(format), arguments) => self.percent_format(format, arguments),
            _ => match (left.number(), right.number()) {
                (Some(a), Some(b)) => arithmetic(operator, a, b),
                _ => {
                    for value in [left, right] {
                        if let Value::Undefined(name) = value {
                            return Err(undefined(name));
                        }
                    }
                    Err(Error::operation(format!(
                        "{} does not go with {} and {}",
                        symbol(operator),
                        left.type_name(),
                        right.type_name()
                    )))
                }
            },
        }
    }

    fn joined(&mut self, a: u32, b: u32) -> Result<Vec<Value>> {
        let (a, b) = (&self.heap.lists[a as usize], &self.heap.lists[b as usize]);
        self.budget.steps(a.len() + b.len())?;
        Ok([a.as_slice(), b.as_slice()].concat())
    }

    pub(crate) fn concat(&mut self, parts: &[Value]) -> Result<Value> {
        let mut text = Text::default();
        for part in parts {
            let part = self.printed(part)?;
            self.budget.bytes(part.len())?;
            text.push(&part);
        }
        Ok(Value::Text(Arc::new(text)))
    }

    pub(crate) fn compare(&mut self, comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
        Ok(match comparison {
            Comparison::Equal => self.equal(left, right)?,
            Comparison::NotEqual => !self.equal(left, right)?,
            Comparison::Less => self.order(left, right)? == Some(Ordering::Less),
            Comparison::Greater => self.order(left, right)? == Some(Ordering::Greater),
            Comparison::LessEqual => matches!(self.order(left, right)?, Some(Ordering::Less | Ordering::Equal)),
            Comparison::GreaterEqual => matches!(self.order(left, right)?, Some(Ordering::Greater | Ordering::Equal)),
            Comparison::In => self.contains(right, left)?,
            Comparison::NotIn => !self.contains(right, left)?,
        })
    }

    pub(crate) fn equal(&mut self, left: &Value, right: &Value) -> Result<bool> {
        self.budget.down()?;
        let equal = match (left, right) {
            (Value::Text(a), Value::Text(b)) => {
                self.budget.steps(a.len().min(b.len()) / 64)?;
                a.as_str() == b.as_str()
            }
            (Value::None, Value::None) | (Value::Undefined(_), Value::Undefined(_)) => true,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                a == b || self.equal_lists(*a as usize, *b as usize)?
            }
            (Value::Dict(a), Value::Dict(b)) => a == b || self.equal_dicts(*a as usize, *b as usize)?,
            (Value::Namespace(a), Value::Namespace(b)) | (Value::Loop(a), Value::Loop(b)) => a == b,
            (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
            (Value::Function(a), Value::Function(b)) => a == b,
            _ => match (left.number(), right.number()) {
                (Some(Number::Int(a)), Some(Number::Int(b))) => a == b,
                (Some(a), Some(b)) => a.float() == b.float(),
                _ => false,
            },
        };
        self.budget.up();
        Ok(equal)
    }

    fn equal_lists(&mut self, a: usize, b: usize) -> Result<bool> {
        if self.heap.lists[a].len() != self.heap.lists[b].len() {
            return Ok(false);
        }
        for index in 0..self.heap.lists[a].len() {
            let (left, right) = (self.heap.lists[a][index].clone(), self.heap.lists[b][index].clone());
            if !self.equal(&left, &right)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn equal_dicts(&mut self, a: usize, b: usize) -> Result<bool> {
        if self.heap.dicts[a].len() != self.heap.dicts[b].len() {
            return Ok(false);
        }
        for index in 0..self.heap.dicts[a].len() {
            let (key, left) = self.heap.dicts[a].get_index(index).expect("the index is in range");
            let Some(right) = self.heap.dicts[b].get(key) else { return Ok(false) };
            let (left, right) = (left.clone(), right.clone());
            if !self.equal(&left, &right)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How two values stand to each other; `None` where a number is no number.
    pub(crate) fn order(&mut self, left: &Value, right: &Value) -> Result<Option<Ordering>> {
        self.budget.down()?;
        let order = match (left, right) {
            (Value::Text(a), Value::Text(b)) => {
                self.budget.steps(a.len().min(b.len()) / 64)?;
                Some(a.as_str().cmp(b.as_str()))
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                let (a, b) = (*a as usize, *b as usize);
                let (m, n) = (self.heap.lists[a].len(), self.heap.lists[b].len());
                let mut order = Some(m.cmp(&n));
                for index in 0..m.min(n) {
                    let (left, right) = (self.heap.lists[a][index].clone(), self.heap.lists[b][index].clone());
                    if !self.equal(&left, &right)? {
                        order = self.order(&left, &right)?;
                        break;
                    }
                }
                order
            }
            _ => match (left.number(), right.number()) {
                (Some(Number::Int(a)), Some(Number::Int(b))) => Some(a.cmp(&b)),
                (Some(a), Some(b)) => a.float().partial_cmp(&b.float()),
                _ => {
                    for value in [left, right] {
                        if let Value::Undefined(name) = value {
                            return Err(undefined(name));
                        }
                    }
                    return Err(Error::operation(format!(
                        "{} and {} have no order",
                        left.type_name(),
                        right.type_name()
                    )));
                }
            },
        };
        self.budget.up();
        Ok(order)
    }

    pub(crate) fn contains(&mut self, container: &Value, item: &Value) -> Result<bool> {
        match container {
            Value::Text(text) => match item {
                Value::Text(part) => {
                    self.budget.steps(text.len() / 64)?;
                    Ok(text.as_str().contains(part.as_str()))
                }
                Value::Undefined(name) => Err(undefined(name)),
                other => Err(Error::operation(format!("a string cannot contain a {}", other.type_name()))),
            },
            Value::Dict(id) => {
                let key = self.key(item)?;
                Ok(self.heap.dicts[*id as usize].contains_key(&key))
            }
            Value::List(id) | Value::Tuple(id) => {
                for index in 0..self.heap.lists[*id as usize].len() {
                    let known = self.heap.lists[*id as usize][index].clone();
                    if self.equal(&known, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Undefined(_) => Ok(false),
            other => Err(Error::operation(format!("a {} contains nothing", other.type_name()))),
        }
    }

    /// `value.name`: Python's attribute, or else the item.
    pub(crate) fn attribute(&mut self, value: &Value, name: &Name) -> Result<Value> {
        if let Value::Undefined(name) = value {
            return Err(undefined(name));
        }
        if let Some(method) = methods::find(value, name) {
            return Ok(Value::Method(Rc::new((value.clone(), method))));
        }
        let found = match value {
            Value::Dict(id) | Value::Namespace(id) => {
                let key = Key::Text(Arc::new(Text::trusted(&**name)));
                self.heap.dicts[*id as usize].get(&key).cloned()
            }
            Value::Loop(id) => self.loop_attribute(*id, name)?,
            Value::Macro(closure) if &**name == "name" => Some(Value::trusted(&*closure.code.name)),
            _ => None,
        };
        Ok(found.unwrap_or_else(|| Value::Undefined(name.clone())))
    }

    /// `value[index]`: Python's item, or else the attribute.
    pub(crate) fn item(&mut self, value: &Value, index: &Value) -> Result<Value> {
        if let Value::Undefined(name) = value {
            return Err(undefined(name));
        }
        if let Value::Undefined(name) = index {
            return Ok(Value::Undefined(name.clone()));
        }
        let found = match (value, index) {
            (Value::Dict(id), index) => {
                let key = self.key(index)?;
                self.heap.dicts[*id as usize].get(&key).cloned()
            }
            (Value::List(id) | Value::Tuple(id), Value::Int(index)) => {
                let items = &self.heap.lists[*id as usize];
                position(*index, items.len()).map(|at| items[at].clone())
            }
            (Value::Text(text), Value::Int(index)) => {
                self.budget.steps(text.len() / 64)?;
                match position(*index, char_count(text.as_str())) {
                    Some(at) => {
                        let range = byte_of(text.as_str(), at)..byte_of(text.as_str(), at + 1);
                        Some(self.text(text.slice(range))?)
                    }
                    None => None,
                }
            }
            _ => None,
        };
        match (found, index) {
            (Some(found), _) => Ok(found),
            (None, Value::Text(name)) => {
                let name = Name::from(name.as_str());
                match value {
                    Value::Dict(_) => Ok(match methods::find(value, &name) {
                        Some(method) => Value::Method(Rc::new((value.clone(), method))),
                        None => Value::Undefined(name),
                    }),
                    _ => self.attribute(value, &name),
                }
            }
            (None, other) => {
                let name = self.printed(other)?;
                Ok(Value::Undefined(format!("item {:.40}", name.as_str()).into()))
            }
        }
    }

    pub(crate) fn slice(&mut self, value: &Value, bounds: [Option<Value>; 3]) -> Result<Value> {
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(bounds) {
            *number = match bound {
                None | Some(Value::None) => None,
                Some(Value::Int(value)) => Some(value),
                Some(Value::Bool(value)) => Some(i64::from(value)),
                Some(Value::Undefined(name)) => return Err(undefined(&name)),
                Some(other) => return Err(Error::operation(format!("a {} is no index", other.type_name()))),
            };
        }
        match value {
            Value::List(id) | Value::Tuple(id) => {
                let items = &self.heap.lists[*id as usize];
                let indices = indices(numbers, items.len())?;
                self.budget.steps(indices.len())?;
                let items = indices.into_iter().map(|at| items[at].clone()).collect();
                let id = self.sequence(items)?;
                Ok(if matches!(value, Value::List(_)) { Value::List(id) } else { Value::Tuple(id) })
            }
            Value::Text(text) => {
                self.budget.bytes(text.len())?;
                let ends: Vec<usize> = text.as_str().char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                let indices = indices(numbers, ends.len() - 1)?;
                self.budget.steps(indices.len() / 16)?;
                let mut out = Text::default();
                if numbers[2].unwrap_or(1) == 1 {
                    if let (Some(&first), Some(&last)) = (indices.first(), indices.last()) {
                        out = text.slice(ends[first]..ends[last + 1]);
                    }
                } else {
                    indices.into_iter().for_each(|at| out.push_slice(text, ends[at]..ends[at + 1]));
                }
                self.text(out)
            }
            Value::Undefined(name) => Err(undefined(name)),
            other => Err(Error::operation(format!("a {} cannot be sliced", other.type_name()))),
        }
    }
}

/// Where a Python index points in `len` items.
pub(crate) fn position(index: i64, len: usize) -> Option<usize> {
    let len = len as i64;
    let index = if index < 0 { index.checked_add(len)? } else { index };
    (0..len).contains(&index).then_some(index as usize)
}

/// The positions that a slice takes of `len` items.
fn indices([start, stop, step]: [Option<i64>; 3], len: usize) -> Result<Vec<usize>> {
    let (len, step) = (len as i64, step.unwrap_or(1));
    if step == 0 {
        return Err(Error::operation("a slice has a step of 0"));
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |bound: Option<i64>, default: i64| match bound {
        None => default,
        Some(bound) if bound < 0 => bound.saturating_add(len).clamp(low, high),
        Some(bound) => bound.clamp(low, high),
    };
    let (start, stop) =
        if step > 0 { (clamp(start, 0), clamp(stop, len)) } else { (clamp(start, len - 1), clamp(stop, -1)) };
    let mut found = Vec::new();
    let mut at = start;
    while if step > 0 { at < stop } else { at > stop } {
        found.push(at as usize);
        at = match at.checked_add(step) {
            Some(next) => next,
            None => break,
        };
    }
    Ok(found)
}

fn repetitions(count: &Value) -> usize {
    match count {
        Value::Int(count) => usize::try_from(*count).unwrap_or(0),
        Value::Bool(count) => usize::from(*count),
        _ => 0,
    }
}

fn overflow() -> Error {
    Error::operation("an integer does not fit into 64 bits")
}

fn bad_operand(operator: &str, value: &Value) -> Error {
    match value {
        Value::Undefined(name) => undefined(name),
        other => Error::operation(format!("{operator} does not go with {}", other.type_name())),
    }
}

const fn symbol(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Modulo => "%",
        Operator::Power => "**",
    }
}

fn arithmetic(operator: Operator, left: Number, right: Number) -> Result<Value> {
    if let (Number::Int(a), Number::Int(b)) = (left, right) {
        let value = match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::FloorDivide | Operator::Modulo if b == 0 => return Err(Error::operation("division by zero")),
            Operator::FloorDivide => {
                a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q })
            }
            Operator::Modulo => {
                a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
            }
            Operator::Power if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            Operator::Power | Operator::Divide => return float_arithmetic(operator, a as f64, b as f64),
        };
        return value.map(Value::Int).ok_or_else(overflow);
    }
    float_arithmetic(operator, left.float(), right.float())
}

fn float_arithmetic(operator: Operator, a: f64, b: f64) -> Result<Value> {
    if b == 0.0 && matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo) {
        return Err(Error::operation("division by zero"));
    }
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => (a / b).floor(),
        Operator::Modulo => a - b * (a / b).floor(),
        Operator::Power => a.powf(b),
    }))
}
