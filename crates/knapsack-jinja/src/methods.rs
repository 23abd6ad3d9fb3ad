//! The methods of Python's strings, lists and dictionaries. Those that would change a list or dictionary exist, so that a template
//! sees them, and fail: the sandbox is immutable.

use crate::error::{Error, Result};
use crate::interpreter::{Given, Interpreter, undefined};
use crate::strings::{self, byte_of, char_count, char_of};
use crate::text::Text;
use crate::value::{Key, Value};
use std::ops::Range;
use std::sync::Arc;

const OF_TEXT: [&str; 39] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
];
const OF_LIST: [&str; 11] =
    ["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const OF_DICT: [&str; 10] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "setdefault", "update", "values"];
const OF_LOOP: [&str; 2] = ["changed", "cycle"];

/// The method of that name, where the value has it.
pub(crate) fn find(value: &Value, name: &str) -> Option<&'static str> {
    let known: &[&'static str] = match value {
        Value::Text(_) if name == "zfill" => return Some("zfill"),
        Value::Text(_) => &OF_TEXT,
        Value::List(_) => &OF_LIST,
        Value::Tuple(_) => &["count", "index"],
        Value::Dict(_) => &OF_DICT,
        Value::Loop(_) => &OF_LOOP,
        _ => &[],
    };
    known.iter().find(|known| **known == name).copied()
}

/// Arguments that Python gives as numbers or leaves out.
pub(crate) fn int(function: &str, value: Option<&Value>) -> Result<Option<i64>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(Value::Int(value)) => Ok(Some(*value)),
        Some(Value::Bool(value)) => Ok(Some(i64::from(*value))),
        Some(Value::Undefined(name)) => Err(undefined(name)),
        Some(other) => Err(Error::operation(format!("{function}() wants a number, not {}", other.type_name()))),
    }
}

pub(crate) fn text<'v>(function: &str, value: Option<&'v Value>) -> Result<&'v Arc<Text>> {
    match value {
        Some(Value::Text(text)) => Ok(text),
        Some(Value::Undefined(name)) => Err(undefined(name)),
        Some(other) => Err(Error::operation(format!("{function}() wants a string, not {}", other.type_name()))),
        None => Err(Error::operation(format!("{function}() wants an argument"))),
    }
}

impl Interpreter<'_> {
    pub(crate) fn method(&mut self, value: &Value, name: &'static str, given: Given) -> Result<Value> {
        match value {
            Value::Text(subject) => self.text_method(subject, name, given),
            Value::List(id) | Value::Tuple(id) => self.list_method(*id, name, given),
            Value::Dict(id) => self.dict_method(*id, name, given),
            Value::Loop(id) => self.loop_method(*id, name, given),
            other => Err(Error::operation(format!("a {} has no method {name}", other.type_name()))),
        }
    }

    fn text_method(&mut self, subject: &Arc<Text>, name: &'static str, given: Given) -> Result<Value> {
        let whole = subject.as_str();
        self.budget.bytes(subject.len())?;
        match name {
            "strip" | "lstrip" | "rstrip" => {
                let [chars] = given.bind(name, ["chars"])?;
                let chars = match chars.as_ref() {
                    None | Some(Value::None) => None,
                    some => Some(text(name, some)?.as_str()),
                };
                self.text(strings::strip(subject, chars, name != "rstrip", name != "lstrip"))
            }
            "split" | "rsplit" => self.split(subject, name, given),
            "splitlines" => {
                let [keep] = given.bind(name, ["keepends"])?;
                let keep = keep.is_some_and(|keep| self.truth(&keep));
                self.parts(subject, strings::lines(whole, keep))
            }
            "partition" | "rpartition" => {
                let [separator] = given.bind(name, ["sep"])?;
                let separator = text(name, separator.as_ref())?.as_str();
                if separator.is_empty() {
                    return Err(Error::operation("empty separator"));
                }
                let found = if name == "partition" { whole.find(separator) } else { whole.rfind(separator) };
                let end = whole.len();
                let ranges = match found {
                    Some(at) => [0..at, at..at + separator.len(), at + separator.len()..end],
                    None if name == "partition" => [0..end, end..end, end..end],
                    None => [0..0, 0..0, 0..end],
                };
                match self.parts(subject, ranges.into())? {
                    Value::List(id) => Ok(Value::Tuple(id)),
                    other => Ok(other),
                }
            }
            "startswith" | "endswith" => self.starts_or_ends(subject, name, given),
            "find" | "rfind" | "index" | "rindex" | "count" => self.search(subject, name, given),
            "replace" => {
                let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
                let (old, new) = (text(name, old.as_ref())?, text(name, new.as_ref())?);
                let count = int(name, count.as_ref())?;
                self.replaced(subject, old.as_str(), new, count)
            }
            "removeprefix" | "removesuffix" => {
                let [affix] = given.bind(name, ["affix"])?;
                let affix = text(name, affix.as_ref())?.as_str();
                let range = match name {
                    "removeprefix" if whole.starts_with(affix) => affix.len()..whole.len(),
                    "removesuffix" if whole.ends_with(affix) => 0..whole.len() - affix.len(),
                    _ => 0..whole.len(),
                };
                self.text(subject.slice(range))
            }
            "join" => {
                let [items] = given.bind(name, ["iterable"])?;
                let items = items.ok_or_else(|| Error::operation("join() wants the parts"))?;
                let parts = self.iterate(&items)?;
                for part in &parts {
                    text(name, Some(part))?;
                }
                self.join_parts(&parts, subject)
            }
            "format" => self.brace_format(subject, given),
            "center" | "ljust" | "rjust" | "zfill" => self.padded(subject, name, given),
            "upper" | "lower" | "casefold" | "title" | "capitalize" | "swapcase" => {
                let [] = given.bind(name, [])?;
                self.cased(subject, name)
            }
            _ => {
                let [] = given.bind(name, [])?;
                Ok(Value::Bool(is(name, whole)))
            }
        }
    }

    /// The parts of a text as a list.
    fn parts(&mut self, subject: &Text, ranges: Vec<Range<usize>>) -> Result<Value> {
        self.budget.bytes(ranges.len() * 48)?;
        let parts = ranges.into_iter().map(|range| self.text(subject.slice(range))).collect::<Result<_>>()?;
        self.list(parts)
    }

    fn split(&mut self, subject: &Text, name: &'static str, given: Given) -> Result<Value> {
        let [separator, limit] = given.bind(name, ["sep", "maxsplit"])?;
        let limit = int(name, limit.as_ref())?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let whole = subject.as_str();
        let ranges = match separator.as_ref() {
            None | Some(Value::None) => strings::words(whole, limit, name == "rsplit"),
            separator => {
                let separator = text(name, separator)?.as_str();
                if separator.is_empty() {
                    return Err(Error::operation("empty separator"));
                }
                self.budget.bytes(strings::occurrences(whole, separator).min(limit) * 16)?;
                match name {
                    "split" => strings::split_ranges(whole, separator, limit),
                    _ => strings::rsplit_ranges(whole, separator, limit),
                }
            }
        };
        self.parts(subject, ranges)
    }

    fn starts_or_ends(&mut self, subject: &Text, name: &'static str, given: Given) -> Result<Value> {
        let [affix, start, end] = given.bind(name, ["affix", "start", "end"])?;
        let range = window(subject.as_str(), int(name, start.as_ref())?, int(name, end.as_ref())?);
        let part = subject.as_str().get(range).unwrap_or_default();
        let affixes = match &affix {
            Some(Value::Tuple(id)) => self.heap.lists[*id as usize].clone(),
            Some(one) => vec![one.clone()],
            None => Vec::new(),
        };
        for affix in &affixes {
            let affix = text(name, Some(affix))?.as_str();
            if if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) } {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }

    fn search(&mut self, subject: &Text, name: &'static str, given: Given) -> Result<Value> {
        let [part, start, end] = given.bind(name, ["sub", "start", "end"])?;
        let part = text(name, part.as_ref())?.as_str();
        let whole = subject.as_str();
        let range = window(whole, int(name, start.as_ref())?, int(name, end.as_ref())?);
        let (offset, inside) = (range.start, whole.get(range).unwrap_or_default());
        let found = match name {
            "count" => return Ok(Value::Int(strings::occurrences(inside, part) as i64)),
            "find" | "index" => inside.find(part),
            _ => inside.rfind(part),
        };
        match found {
            Some(at) => Ok(Value::Int(char_of(whole, offset + at) as i64)),
            None if name.ends_with("find") => Ok(Value::Int(-1)),
            None => Err(Error::operation("substring not found")),
        }
    }

    pub(crate) fn replaced(&mut self, subject: &Text, old: &str, new: &Text, count: Option<i64>) -> Result<Value> {
        let limit = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
        let occurrences = strings::occurrences(subject.as_str(), old).min(limit);
        self.budget.bytes(subject.len().saturating_add(occurrences.saturating_mul(new.len() + 16)))?;
        Ok(Value::Text(Arc::new(strings::replace(subject, old, new, limit))))
    }

    pub(crate) fn join_parts(&mut self, parts: &[Value], separator: &Text) -> Result<Value> {
        let mut out = Text::default();
        for (index, part) in parts.iter().enumerate() {
            let part = self.printed(part)?;
            self.budget.bytes(part.len() + separator.len())?;
            if index > 0 {
                out.push(separator);
            }
            out.push(&part);
        }
        self.text(out)
    }

    fn padded(&mut self, subject: &Text, name: &'static str, given: Given) -> Result<Value> {
        let [width, fill] = given.bind(name, ["width", "fillchar"])?;
        let width = int(name, width.as_ref())?.unwrap_or(0);
        let fill = match &fill {
            Some(fill) => text(name, Some(fill))?.as_str(),
            None if name == "zfill" => "0",
            None => " ",
        };
        let mut characters = fill.chars();
        let (Some(fill), None) = (characters.next(), characters.next()) else {
            return Err(Error::operation("the fill character must be exactly one character long"));
        };
        let missing = usize::try_from(width).unwrap_or(0).saturating_sub(char_count(subject.as_str()));
        self.budget.bytes(missing.saturating_mul(4))?;
        let (left, right) = match name {
            "ljust" => (0, missing),
            "center" => {
                // Python puts the odd one to the left when the width is odd.
                let left = missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1);
                (left, missing - left)
            }
            _ => (missing, 0),
        };
        let padding = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
        let mut out = Text::default();
        let sign = usize::from(name == "zfill" && subject.as_str().starts_with(['+', '-']));
        out.push_slice(subject, 0..sign);
        out.push_str(&padding(left));
        out.push_slice(subject, sign..subject.len());
        out.push_str(&padding(right));
        self.text(out)
    }

    pub(crate) fn cased(&mut self, subject: &Text, name: &str) -> Result<Value> {
        // A lower-case letter may become three times as long.
        self.budget.bytes(subject.len() * 3)?;
        let whole = subject.as_str();
        Ok(Value::Text(Arc::new(match name {
            "upper" => subject.map(str::to_uppercase),
            "lower" | "casefold" => subject.map(str::to_lowercase),
            "swapcase" => subject.map(strings::swap_case),
            "title" => subject.derived(strings::title(whole)),
            _ => subject.derived(strings::capitalize(whole)),
        })))
    }

    fn list_method(&mut self, id: u32, name: &'static str, given: Given) -> Result<Value> {
        match name {
            "copy" => {
                let items = self.heap.lists[id as usize].clone();
                self.list(items)
            }
            "index" | "count" => {
                let [wanted] = given.bind(name, ["value"])?;
                let wanted = wanted.ok_or_else(|| Error::operation(format!("{name}() wants a value")))?;
                let mut count = 0;
                for index in 0..self.heap.lists[id as usize].len() {
                    let item = self.heap.lists[id as usize][index].clone();
                    if self.equal(&item, &wanted)? {
                        if name == "index" {
                            return Ok(Value::Int(index as i64));
                        }
                        count += 1;
                    }
                }
                if name == "index" {
                    Err(Error::operation("the value is not in the list"))
                } else {
                    Ok(Value::Int(count))
                }
            }
            _ => Err(immutable("list", name)),
        }
    }

    fn dict_method(&mut self, id: u32, name: &'static str, given: Given) -> Result<Value> {
        match name {
            "get" => {
                let [key, default] = given.bind(name, ["key", "default"])?;
                let key = key.ok_or_else(|| Error::operation("get() wants a key"))?;
                let key = self.key(&key)?;
                let found = self.heap.dicts[id as usize].get(&key).cloned();
                Ok(found.or(default).unwrap_or(Value::None))
            }
            "copy" => {
                let [] = given.bind(name, [])?;
                let dict = self.heap.dicts[id as usize].clone();
                self.dict(dict)
            }
            "keys" | "values" | "items" => {
                let [] = given.bind(name, [])?;
                self.dict_parts(id, name)
            }
            _ => Err(immutable("dict", name)),
        }
    }

    /// Keys, values or items of a dictionary as a list.
    pub(crate) fn dict_parts(&mut self, id: u32, part: &str) -> Result<Value> {
        let dict = &self.heap.dicts[id as usize];
        self.budget.bytes(dict.len() * 96)?;
        let entries: Vec<(Value, Value)> = dict.iter().map(|(key, value)| (Value::from(key), value.clone())).collect();
        let mut items = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            items.push(match part {
                "keys" => key,
                "values" => value,
                _ => self.tuple(vec![key, value])?,
            });
        }
        self.list(items)
    }

    fn loop_method(&mut self, id: u32, name: &'static str, given: Given) -> Result<Value> {
        let state = &self.heap.loops[id as usize];
        if name == "cycle" {
            let index = state.index;
            return match given.positional.len() {
                0 => Err(Error::operation("cycle() wants values")),
                count => Ok(given.positional[index % count].clone()),
            };
        }
        let before = state.changed;
        let now = self.sequence(given.positional)?;
        let same = match before {
            Some(before) => self.equal(&Value::Tuple(before), &Value::Tuple(now))?,
            None => false,
        };
        self.heap.loops[id as usize].changed = Some(now);
        Ok(Value::Bool(!same))
    }

    pub(crate) fn loop_attribute(&mut self, id: u32, name: &str) -> Result<Option<Value>> {
        let state = &self.heap.loops[id as usize];
        let items = &self.heap.lists[state.items as usize];
        let (index, length) = (state.index, items.len());
        let number = |value: usize| Some(Value::Int(value as i64));
        Ok(match name {
            "index" => number(index + 1),
            "index0" => number(index),
            "revindex" => number(length - index),
            "revindex0" => number(length - index - 1),
            "first" => Some(Value::Bool(index == 0)),
            "last" => Some(Value::Bool(index + 1 == length)),
            "length" => number(length),
            "depth" => number(state.depth),
            "depth0" => number(state.depth - 1),
            "previtem" => index.checked_sub(1).map(|index| items[index].clone()),
            "nextitem" => items.get(index + 1).cloned(),
            _ => None,
        })
    }

    /// The items that a loop over `value` takes.
    pub(crate) fn iterate(&mut self, value: &Value) -> Result<Vec<Value>> {
        match value {
            Value::List(id) | Value::Tuple(id) => {
                let items = &self.heap.lists[*id as usize];
                self.budget.bytes(items.len() * 24)?;
                Ok(items.clone())
            }
            Value::Dict(id) => {
                let dict = &self.heap.dicts[*id as usize];
                self.budget.bytes(dict.len() * 24)?;
                Ok(dict.keys().map(Value::from).collect())
            }
            Value::Text(text) => {
                self.budget.bytes(text.len() * 48)?;
                let part = |(at, c): (usize, char)| Value::Text(Arc::new(text.slice(at..at + c.len_utf8())));
                Ok(text.as_str().char_indices().map(part).collect())
            }
            Value::Undefined(_) => Ok(Vec::new()),
            other => Err(Error::operation(format!("a {} has no items", other.type_name()))),
        }
    }

    /// An entry of a dictionary by name.
    pub(crate) fn entry(&self, id: u32, name: &str) -> Option<Value> {
        self.heap.dicts[id as usize].get(&Key::Text(Arc::new(Text::trusted(name)))).cloned()
    }
}

fn immutable(kind: &str, name: &str) -> Error {
    Error::operation(format!("{name}() would change a {kind}, which the sandbox does not allow"))
}

/// The bytes between two character positions, as Python's optional `start` and `end` count them.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Range<usize> {
    let count = char_count(text) as i64;
    let clamp = |bound: i64| if bound < 0 { (bound + count).max(0) } else { bound.min(count) } as usize;
    let (start, end) = (clamp(start.unwrap_or(0)), clamp(end.unwrap_or(count)));
    if start > end { 0..0 } else { byte_of(text, start)..byte_of(text, end) }
}

/// The `is…` methods: every character is so, and there is one.
fn is(name: &str, text: &str) -> bool {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let cased = || text.chars().any(|c| c.is_uppercase() || c.is_lowercase());
    match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" | "isdigit" => all(|c| if c.is_ascii() { c.is_ascii_digit() } else { c.is_numeric() }),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(crate::lexer::is_space),
        "islower" => cased() && !text.chars().any(char::is_uppercase),
        "isupper" => cased() && !text.chars().any(char::is_lowercase),
        _ => cased() && strings::title(text) == text,
    }
}
