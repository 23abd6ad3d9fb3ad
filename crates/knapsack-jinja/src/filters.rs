//! Jinja's filters, but for those that make HTML or random choices. Those that work on lists are in [`crate::lists`].

use crate::error::{Error, Result};
use crate::interpreter::{Given, Interpreter, undefined};
use crate::methods::{int, text};
use crate::strings::{self, byte_of, char_count};
use crate::text::Text;
use crate::value::{Number, Value};
use std::sync::Arc;

const KNOWN: [&str; 47] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
    "forceescape",
];

pub(crate) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

impl Interpreter<'_> {
    pub(crate) fn filter(&mut self, name: &str, value: Value, given: Given) -> Result<Value> {
        match name {
            "default" | "d" => {
                let [default, falsy] = given.bind(name, ["default_value", "boolean"])?;
                let falsy = falsy.is_some_and(|falsy| self.truth(&falsy));
                let absent = value.is_undefined() || falsy && !self.truth(&value);
                Ok(if absent { default.unwrap_or_else(|| Value::trusted("")) } else { value })
            }
            "string" | "safe" => {
                let text = self.printed(&value)?;
                Ok(Value::Text(text))
            }
            "pprint" => {
                let mut out = Text::default();
                self.represent(&value, &mut out)?;
                self.text(out)
            }
            "length" | "count" => Ok(Value::Int(self.length(&value)? as i64)),
            "tojson" => self.tojson(&value, given),
            "upper" | "lower" => {
                let subject = self.printed(&value)?;
                self.cased(&subject, name)
            }
            "capitalize" => {
                let subject = self.printed(&value)?;
                self.budget.bytes(subject.len() * 3)?;
                self.text(subject.derived(strings::capitalize(subject.as_str())))
            }
            "title" => {
                let subject = self.printed(&value)?;
                self.budget.bytes(subject.len() * 3)?;
                self.text(subject.derived(strings::title_filter(subject.as_str())))
            }
            "trim" => {
                let [chars] = given.bind(name, ["chars"])?;
                let subject = self.printed(&value)?;
                let chars = match chars.as_ref() {
                    None | Some(Value::None) => None,
                    some => Some(text(name, some)?.as_str()),
                };
                self.text(strings::strip(&subject, chars, true, true))
            }
            "replace" => {
                let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
                let subject = self.printed(&value)?;
                let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
                let (old, new) = (self.printed(&old)?, self.printed(&new)?);
                let count = int(name, count.as_ref())?;
                self.replaced(&subject, old.as_str(), &new, count)
            }
            "join" => {
                let [separator, attribute] = given.bind(name, ["d", "attribute"])?;
                let mut parts = self.iterate(&value)?;
                if let Some(attribute) = attribute {
                    for part in &mut parts {
                        *part = self.path(part, &attribute)?;
                    }
                }
                let separator = separator.unwrap_or_else(|| Value::trusted(""));
                let separator = self.printed(&separator)?;
                self.join_parts(&parts, &separator)
            }
            "format" => {
                let Value::Text(format) = &value else {
                    return Err(Error::operation("format() wants a string"));
                };
                let arguments = if given.named.is_empty() {
                    self.tuple(given.positional)?
                } else {
                    let entries = given.named.into_iter();
                    let dict = entries
                        .map(|(name, value)| (crate::value::Key::Text(Arc::new(Text::trusted(&*name))), value))
                        .collect();
                    self.dict(dict)?
                };
                self.percent_format(&format.clone(), &arguments)
            }
            "indent" => self.indent(&value, given),
            "center" => {
                let [width] = given.bind(name, ["width"])?;
                let subject = self.printed(&value)?;
                let width = int(name, width.as_ref())?.unwrap_or(80);
                let given = Given { positional: vec![Value::Int(width)], named: Vec::new() };
                self.method(&Value::Text(subject), "center", given)
            }
            "truncate" => self.truncate(&value, given),
            "wordcount" => {
                let subject = self.printed(&value)?;
                let words = subject.as_str().split(|c: char| !c.is_alphanumeric() && c != '_');
                Ok(Value::Int(words.filter(|word| !word.is_empty()).count() as i64))
            }
            "escape" | "e" | "forceescape" => {
                let subject = self.printed(&value)?;
                self.budget.bytes(subject.len() * 6)?;
                let escaped = subject.map(|part| {
                    part.replace('&', "&amp;")
                        .replace('<', "&lt;")
                        .replace('>', "&gt;")
                        .replace('\'', "&#39;")
                        .replace('"', "&#34;")
                });
                self.text(escaped)
            }
            "attr" => {
                let [attribute] = given.bind(name, ["name"])?;
                let attribute: crate::ast::Name = text(name, attribute.as_ref())?.as_str().into();
                match &value {
                    // The filter looks at attributes only, never at items.
                    Value::Dict(_) if crate::methods::find(&value, &attribute).is_none() => {
                        Ok(Value::Undefined(attribute))
                    }
                    _ => self.attribute(&value, &attribute),
                }
            }
            "int" | "float" | "abs" | "round" => self.number_filter(name, &value, given),
            _ => self.list_filter(name, value, given),
        }
    }

    pub(crate) fn length(&mut self, value: &Value) -> Result<usize> {
        match value {
            Value::Text(text) => Ok(char_count(text.as_str())),
            Value::List(id) | Value::Tuple(id) => Ok(self.heap.lists[*id as usize].len()),
            Value::Dict(id) => Ok(self.heap.dicts[*id as usize].len()),
            Value::Undefined(_) => Ok(0),
            other => Err(Error::operation(format!("a {} has no length", other.type_name()))),
        }
    }

    fn number_filter(&mut self, name: &str, value: &Value, given: Given) -> Result<Value> {
        match name {
            "int" => {
                let [default, base] = given.bind(name, ["default", "base"])?;
                let base = int(name, base.as_ref())?.unwrap_or(10);
                let parsed = match value {
                    Value::Text(text) => integer(text.as_str(), base),
                    other => match other.number() {
                        Some(Number::Int(value)) => Some(value),
                        Some(Number::Float(value)) if value.is_finite() && value.abs() < 9e18 => Some(value as i64),
                        _ => None,
                    },
                };
                Ok(parsed.map(Value::Int).or(default).unwrap_or(Value::Int(0)))
            }
            "float" => {
                let [default] = given.bind(name, ["default"])?;
                let parsed = match value {
                    Value::Text(text) => text.as_str().trim().parse().ok(),
                    other => other.number().map(Number::float),
                };
                Ok(parsed.map(Value::Float).or(default).unwrap_or(Value::Float(0.0)))
            }
            "abs" => match value.number() {
                Some(Number::Int(value)) => value
                    .checked_abs()
                    .map(Value::Int)
                    .ok_or_else(|| Error::operation("an integer does not fit into 64 bits")),
                Some(Number::Float(value)) => Ok(Value::Float(value.abs())),
                None => Err(not_a_number(name, value)),
            },
            _ => {
                let [precision, method] = given.bind(name, ["precision", "method"])?;
                let precision = int(name, precision.as_ref())?.unwrap_or(0).clamp(-300, 300) as i32;
                let number = value.number().ok_or_else(|| not_a_number(name, value))?;
                let scale = 10f64.powi(precision);
                let scaled = number.float() * scale;
                let rounded = match method.as_ref().and_then(Value::as_str).unwrap_or("common") {
                    "common" => scaled.round_ties_even(),
                    "ceil" => scaled.ceil(),
                    "floor" => scaled.floor(),
                    _ => return Err(Error::operation("round() knows common, ceil and floor")),
                };
                Ok(match (number, precision >= 0, method) {
                    (Number::Int(value), true, None) => Value::Int(value),
                    _ => Value::Float(rounded / scale),
                })
            }
        }
    }

    fn indent(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [width, first, blank] = given.bind("indent", ["width", "first", "blank"])?;
        let subject = self.printed(value)?;
        let (first, blank) = (first.is_some_and(|v| self.truth(&v)), blank.is_some_and(|v| self.truth(&v)));
        let indention = match &width {
            Some(Value::Text(text)) => (**text).clone(),
            other => {
                let width = usize::try_from(int("indent", other.as_ref())?.unwrap_or(4)).unwrap_or(0);
                self.budget.bytes(width)?;
                Text::trusted(" ".repeat(width))
            }
        };
        let ranges = strings::lines(subject.as_str(), false);
        self.budget.bytes(subject.len().saturating_add((indention.len() + 1).saturating_mul(ranges.len() + 1)))?;
        let mut out = Text::default();
        // As in Jinja, a newline at the end stays, and is a line of its own when blank lines are indented.
        let open = subject.is_empty() || subject.as_str().ends_with(['\n', '\r']);
        let tail = open.then_some(subject.len()..subject.len());
        for (index, range) in ranges.into_iter().chain(tail).enumerate() {
            if index > 0 {
                out.push_str("\n");
            }
            if (index > 0 || first) && (blank || !range.is_empty() || index == 0) {
                out.push(&indention);
            }
            out.push_slice(&subject, range);
        }
        self.text(out)
    }

    fn truncate(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [length, kill, end, leeway] = given.bind("truncate", ["length", "killwords", "end", "leeway"])?;
        let subject = self.printed(value)?;
        let length = usize::try_from(int("truncate", length.as_ref())?.unwrap_or(255)).unwrap_or(0);
        let leeway = usize::try_from(int("truncate", leeway.as_ref())?.unwrap_or(5)).unwrap_or(0);
        let end = end.unwrap_or_else(|| Value::trusted("..."));
        let end = self.printed(&end)?;
        if char_count(subject.as_str()) <= length.saturating_add(leeway) {
            return Ok(Value::Text(subject));
        }
        let cut = byte_of(subject.as_str(), length.saturating_sub(char_count(end.as_str())));
        let kept = &subject.as_str()[..cut];
        let cut = match kill.is_some_and(|kill| self.truth(&kill)) {
            true => cut,
            false => kept.rfind(' ').unwrap_or(cut),
        };
        self.budget.bytes(cut + end.len())?;
        let mut out = subject.slice(0..cut);
        out.push(&end);
        self.text(out)
    }

    /// The attribute that a filter's argument names: `a.b`, or an index.
    pub(crate) fn path(&mut self, value: &Value, path: &Value) -> Result<Value> {
        let Value::Text(path) = path else { return self.item(value, path) };
        let mut value = value.clone();
        for part in path.as_str().split('.') {
            self.budget.steps(1)?;
            let key = match part.parse() {
                Ok(index) => Value::Int(index),
                Err(_) => Value::trusted(part),
            };
            value = self.item(&value, &key)?;
        }
        Ok(value)
    }
}

fn not_a_number(name: &str, value: &Value) -> Error {
    match value {
        Value::Undefined(name) => undefined(name),
        other => Error::operation(format!("{name} wants a number, not {}", other.type_name())),
    }
}

/// What Python's `int` reads, or the integer part of what its `float` reads.
fn integer(text: &str, base: i64) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = text.strip_prefix('-').map_or((1, text.strip_prefix('+').unwrap_or(text)), |rest| (-1, rest));
    let digits = match base {
        16 => digits.trim_start_matches("0x").trim_start_matches("0X"),
        8 => digits.trim_start_matches("0o"),
        2 => digits.trim_start_matches("0b"),
        _ => digits,
    };
    let radix = u32::try_from(base).ok().filter(|base| (2..=36).contains(base))?;
    if let Ok(value) = i64::from_str_radix(digits, radix) {
        return Some(sign * value);
    }
    let value: f64 = text.parse().ok()?;
    (value.is_finite() && value.abs() < 9e18).then_some(value as i64)
}
