use super::format::{Item, Shape};
use super::literal::{Broken, Reader};
use super::{Tool, ToolFormat};
use crate::rng::{SplitMix64, random_seed};
use crate::text::ToolCall;
use serde_json::{Map, Value};

/// What an answer brings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parsed {
    Text(String),
    /// A call begins.
    Begin {
        id: String,
        name: String,
    },
    /// More of the JSON text of the arguments of the call that began last.
    Arguments(String),
    /// A call that began is complete, or the answer ended within it: its arguments are the text that came then.
    Call(ToolCall),
}

/// Takes the calls out of an answer as it comes. What looks like the beginning of one is held back until it is one, or is not.
pub(crate) struct ToolParser {
    format: ToolFormat,
    /// What may be called.
    tools: Vec<Tool>,
    ids: SplitMix64,
    held: String,
    state: State,
    /// The calls since the last mark that were told of.
    told: Vec<Told>,
}

/// A call that was told of before it was complete.
struct Told {
    id: String,
    /// Bytes of the arguments that were given.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but blanks came.
    Start,
    Text,
    /// After the mark that opens a call.
    Call,
}

type Calls = Vec<(String, Value)>;

impl ToolParser {
    pub(crate) fn new(format: ToolFormat, tools: Vec<Tool>) -> Self {
        let ids = SplitMix64::new(random_seed());
        Self { format, tools, ids, held: String::new(), state: State::Start, told: Vec::new() }
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Parsed> {
        self.held.push_str(text);
        let mut found = Vec::new();
        while self.step(&mut found) {}
        found
    }

    /// Ends the answer: a call that was cut off before its arguments began is the text that it is.
    pub(crate) fn finish(&mut self) -> Vec<Parsed> {
        if !self.told.is_empty() {
            return self.cut_off();
        }
        let open = if self.state == State::Call { self.format.shape().open } else { "" };
        let rest = format!("{open}{}", std::mem::take(&mut self.held));
        let blank = rest.trim().is_empty() && self.state == State::Start;
        if rest.is_empty() || blank { Vec::new() } else { vec![Parsed::Text(rest)] }
    }

    /// Whether something was decided, so that more may be.
    fn step(&mut self, found: &mut Vec<Parsed>) -> bool {
        let shape = self.format.shape();
        match self.state {
            State::Call => self.call(&shape, found),
            State::Start if shape.open.is_empty() => match self.held.trim_start().chars().next() {
                None => false,
                Some(first) => {
                    self.state = if first == '{' { State::Call } else { State::Text };
                    true
                }
            },
            State::Start | State::Text => self.text(&shape, found),
        }
    }

    fn text(&mut self, shape: &Shape, found: &mut Vec<Parsed>) -> bool {
        let (end, opened) = match self.held.find(shape.open).filter(|_| !shape.open.is_empty()) {
            Some(at) => (at, true),
            None => (self.held.len() - beginning(&self.held, shape.open), false),
        };
        let text: String = self.held.drain(..end).collect();
        // Blanks between calls, or before the first, are no text.
        if self.state == State::Text || !text.trim().is_empty() {
            self.state = State::Text;
            if !text.is_empty() {
                found.push(Parsed::Text(text));
            }
        }
        if opened {
            self.held.drain(..shape.open.len());
            self.state = State::Call;
        }
        opened
    }

    /// Tells of what came of calls, as far as it was not told.
    fn tell(&mut self, shape: &Shape, found: &mut Vec<Parsed>) {
        for (index, begun) in begun(&self.held, shape).into_iter().enumerate() {
            if index == self.told.len() {
                let id = self.format.id(self.ids.next());
                found.push(Parsed::Begin { id: id.clone(), name: begun.name });
                self.told.push(Told { id, bytes: 0 });
            }
            if let Some(told) = self.told.get_mut(index)
                && let Some(more) = begun.arguments.get(told.bytes..).filter(|more| !more.is_empty())
            {
                found.push(Parsed::Arguments(more.to_owned()));
                told.bytes = begun.arguments.len();
            }
        }
    }

    /// The calls that were told of, as they are now.
    fn cut_off(&mut self) -> Vec<Parsed> {
        let (held, told) = (std::mem::take(&mut self.held), std::mem::take(&mut self.told));
        let call = |(told, begun): (Told, Begun<'_>)| {
            let arguments = ToolCall::parse_arguments(begun.arguments.into());
            Parsed::Call(ToolCall { id: told.id, name: begun.name, arguments })
        };
        told.into_iter().zip(begun(&held, &self.format.shape())).map(call).collect()
    }

    fn call(&mut self, shape: &Shape, found: &mut Vec<Parsed>) -> bool {
        self.tell(shape, found);
        match calls(&self.held, shape, &self.tools) {
            Ok((calls, used)) => {
                let mut told = std::mem::take(&mut self.told).into_iter();
                for (name, arguments) in calls {
                    let id = told.next().map(|told| told.id).unwrap_or_else(|| {
                        let id = self.format.id(self.ids.next());
                        found.push(Parsed::Begin { id: id.clone(), name: name.clone() });
                        found.push(Parsed::Arguments(arguments.to_string()));
                        id
                    });
                    found.push(Parsed::Call(ToolCall { id, name, arguments }));
                }
                self.held.drain(..used);
                self.state = State::Start;
                // Where the answer is the call, the rest is text.
                if shape.open.is_empty() {
                    self.state = State::Text;
                }
                true
            }
            Err(Broken::Unfinished) => false,
            Err(Broken::Wrong) if !self.told.is_empty() => {
                found.extend(self.cut_off());
                self.state = State::Text;
                false
            }
            Err(Broken::Wrong) => {
                found.push(Parsed::Text(format!("{}{}", shape.open, std::mem::take(&mut self.held))));
                self.state = State::Text;
                false
            }
        }
    }
}

/// Length of the longest proper beginning of `mark` that `text` ends with.
fn beginning(text: &str, mark: &str) -> usize {
    let longest = mark.len().saturating_sub(1).min(text.len());
    (1..=longest).rev().find(|&n| mark.is_char_boundary(n) && text.ends_with(&mark[..n])).unwrap_or(0)
}

/// A call as far as it came.
struct Begun<'a> {
    name: String,
    /// The JSON text of an object, perhaps only its beginning.
    arguments: &'a str,
}

/// The calls between two marks whose arguments have begun and are written as JSON.
fn begun<'a>(text: &'a str, shape: &Shape) -> Vec<Begun<'a>> {
    let mut reader = Reader { rest: text, mark: "" };
    let mut found = Vec::new();
    let mut more = !shape.list || reader.take("[").is_ok();
    while more && let Ok(name) = heading(&mut reader, shape.item) {
        reader.space();
        let (arguments, rest) = object(reader.rest);
        if arguments.is_empty() {
            break;
        }
        found.push(Begun { name, arguments });
        reader.rest = rest;
        let ended = matches!(shape.item, Item::Named(_)) || reader.take("}").is_ok();
        more = shape.list && ended && reader.take(",").is_ok();
    }
    found
}

/// What stands before the arguments of a call: gives its name.
fn heading(reader: &mut Reader<'_>, item: Item) -> Result<String, Broken> {
    match item {
        Item::Json(_) => {
            reader.take("{")?;
            key(reader, &["name"])?;
            let name = reader.quoted()?;
            reader.take(",")?;
            key(reader, &["arguments", "parameters"])?;
            Ok(name)
        }
        Item::Named(mark) => {
            let end = reader.rest.find(mark).ok_or(Broken::Unfinished)?;
            let name = reader.rest[..end].trim().to_owned();
            reader.rest = &reader.rest[end + mark.len()..];
            Ok(name)
        }
        Item::Python | Item::Call(_) | Item::Tagged => Err(Broken::Wrong),
    }
}

/// One of these keys of an object.
fn key(reader: &mut Reader<'_>, names: &[&str]) -> Result<(), Broken> {
    let key = reader.quoted()?;
    reader.take(":")?;
    if names.contains(&key.as_str()) { Ok(()) } else { Err(Broken::Wrong) }
}

/// The JSON object that a text begins with, as far as it came, and what follows it.
fn object(text: &str) -> (&str, &str) {
    let (mut depth, mut quoted, mut escaped) = (0u32, false, false);
    if !text.starts_with('{') {
        return ("", text);
    }
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return text.split_at(at + 1);
        }
    }
    (text, "")
}

/// The calls between two marks, and how much text they and the closing mark take.
fn calls(text: &str, shape: &Shape, tools: &[Tool]) -> Result<(Calls, usize), Broken> {
    let mark = if let Item::Call(mark) = shape.item { mark } else { "" };
    let mut reader = Reader { rest: text, mark };
    let mut calls = Vec::new();
    if shape.list {
        reader.take("[")?;
        while !reader.sees("]") {
            calls.push(call(&mut reader, shape, tools)?);
            if !reader.sees("]") {
                reader.take(",")?;
            }
        }
        reader.take("]")?;
    } else {
        calls.push(call(&mut reader, shape, tools)?);
    }
    if !shape.close.is_empty() {
        reader.take(shape.close)?;
    }
    Ok((calls, text.len() - reader.rest.len()))
}

fn call(reader: &mut Reader<'_>, shape: &Shape, tools: &[Tool]) -> Result<(String, Value), Broken> {
    match shape.item {
        Item::Json(_) => named(json(reader)?),
        Item::Named(mark) => {
            let end = reader.rest.find(mark).ok_or(Broken::Unfinished)?;
            let name = reader.rest[..end].trim().to_owned();
            reader.rest = &reader.rest[end + mark.len()..];
            Ok((name, json(reader)?))
        }
        Item::Python => {
            let name = reader.name(&['('])?.to_owned();
            reader.take("(")?;
            Ok((name, reader.entries('=', ")", 0)?.into()))
        }
        Item::Call(_) => {
            reader.take("call:")?;
            let name = reader.name(&['{'])?.to_owned();
            reader.take("{")?;
            Ok((name, reader.entries(':', "}", 0)?.into()))
        }
        Item::Tagged => {
            reader.take("<function=")?;
            let name = reader.name(&['>'])?.to_owned();
            reader.take(">")?;
            let tool = tools.iter().find(|tool| tool.name == name);
            let mut arguments = Map::new();
            loop {
                match reader.take("</function>") {
                    Ok(()) => return Ok((name, arguments.into())),
                    Err(Broken::Unfinished) => return Err(Broken::Unfinished),
                    Err(Broken::Wrong) => {}
                }
                let (key, text) = reader.tagged()?;
                let property = tool.and_then(|tool| tool.parameters.get("properties")?.get(key));
                arguments.insert(key.to_owned(), written(text, property));
            }
        }
    }
}

/// What a value between tags means: text where the schema says so, else what JSON or Python would call a value, if any.
pub(super) fn written(text: &str, property: Option<&Value>) -> Value {
    match (property.and_then(|property| property.get("type")?.as_str()), text.trim()) {
        (Some("string"), _) => text.into(),
        (_, "True") => true.into(),
        (_, "False") => false.into(),
        (_, "None") => Value::Null,
        (_, trimmed) => match serde_json::from_slice(trimmed.as_bytes()) {
            // What has a schema is held to JSON, texts in their quotes among it.
            Ok(Value::String(_)) if property.is_none() => text.into(),
            Ok(value) => value,
            Err(_) => text.into(),
        },
    }
}

/// One JSON value.
fn json(reader: &mut Reader<'_>) -> Result<Value, Broken> {
    let mut stream = serde_json::Deserializer::from_slice(reader.rest.as_bytes()).into_iter::<Value>();
    match stream.next() {
        None => Err(Broken::Unfinished),
        Some(Err(error)) if error.is_eof() => Err(Broken::Unfinished),
        Some(Err(_)) => Err(Broken::Wrong),
        Some(Ok(value)) => {
            reader.rest = &reader.rest[stream.byte_offset()..];
            Ok(value)
        }
    }
}

/// Name and arguments of an object. Models mix the keys of each other's formats, and some write the arguments as text.
fn named(value: Value) -> Result<(String, Value), Broken> {
    let Value::Object(mut map) = value else { return Err(Broken::Wrong) };
    let Some(Value::String(name)) = map.remove("name") else { return Err(Broken::Wrong) };
    let arguments = ["arguments", "parameters"].into_iter().find_map(|key| map.remove(key));
    let arguments = match arguments {
        None => Value::Object(Map::new()),
        Some(Value::String(text)) => serde_json::from_slice(text.as_bytes()).unwrap_or(Value::String(text)),
        Some(arguments) => arguments,
    };
    Ok((name, arguments))
}
