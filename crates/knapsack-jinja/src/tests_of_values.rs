//! Jinja's tests: what stands behind `is`.

use crate::ast::Comparison;
use crate::error::{Error, Result};
use crate::filters;
use crate::interpreter::{Given, Interpreter};
use crate::methods::int;
use crate::value::{Number, Value};

const KNOWN: [&str; 39] = [
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
];

pub(crate) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

impl Interpreter<'_> {
    pub(crate) fn test(&mut self, name: &str, value: &Value, given: Given) -> Result<bool> {
        let comparison = match name {
            "eq" | "equalto" | "==" => Some(Comparison::Equal),
            "ne" | "!=" => Some(Comparison::NotEqual),
            "lt" | "lessthan" | "<" => Some(Comparison::Less),
            "le" | "<=" => Some(Comparison::LessEqual),
            "gt" | "greaterthan" | ">" => Some(Comparison::Greater),
            "ge" | ">=" => Some(Comparison::GreaterEqual),
            "in" => Some(Comparison::In),
            _ => None,
        };
        let [other] = given.bind(name, ["other"])?;
        let wants_other = || Error::operation(format!("the test {name:.40} wants an argument"));
        if let Some(comparison) = comparison {
            return self.compare(comparison, value, &other.ok_or_else(wants_other)?);
        }
        Ok(match name {
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.number().is_some(),
            "string" => matches!(value, Value::Text(_)),
            "mapping" => matches!(value, Value::Dict(_)),
            "sequence" | "iterable" => is_sequence(value),
            "callable" => matches!(value, Value::Macro(_) | Value::Function(_) | Value::Method(_) | Value::Loop(_)),
            "escaped" => false,
            "lower" | "upper" => {
                let text = self.printed(value)?;
                let cased = text.as_str().chars().any(|c| c.is_uppercase() || c.is_lowercase());
                cased
                    && !text.as_str().chars().any(if name == "lower" { char::is_uppercase } else { char::is_lowercase })
            }
            "even" | "odd" | "divisibleby" => {
                let divisor = match (name, other) {
                    ("divisibleby", other) => int(name, Some(&other.ok_or_else(wants_other)?))?.unwrap_or(0),
                    _ => 2,
                };
                let Some(Number::Int(number)) = value.number() else {
                    return Err(Error::operation(format!(
                        "the test {name} wants an integer, not {}",
                        value.type_name()
                    )));
                };
                if divisor == 0 {
                    return Err(Error::operation("division by zero"));
                }
                (number.wrapping_rem(divisor) == 0) != (name == "odd")
            }
            "sameas" => same(value, &other.ok_or_else(wants_other)?),
            "filter" => value.as_str().is_some_and(filters::is_known),
            "test" => value.as_str().is_some_and(is_known),
            other => return Err(Error::operation(format!("no test is named {other:.40}"))),
        })
    }
}

/// What Python can go through and take items of; an undefined value counts, because it is an empty one.
fn is_sequence(value: &Value) -> bool {
    matches!(value, Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_))
}

/// Python's `is`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => std::sync::Arc::ptr_eq(a, b) || a.as_str() == b.as_str(),
        (Value::List(a), Value::List(b))
        | (Value::Tuple(a), Value::Tuple(b))
        | (Value::Dict(a), Value::Dict(b))
        | (Value::Namespace(a), Value::Namespace(b)) => a == b,
        _ => false,
    }
}
