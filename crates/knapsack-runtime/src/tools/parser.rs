use super::ToolFormat;
use super::format::{Item, Shape};
use super::literal::{Broken, Reader};
use crate::rng::{SplitMix64, random_seed};
use crate::text::ToolCall;
use serde_json::{Map, Value};

/// What an answer brings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parsed {
    Text(String),
    Call(ToolCall),
}

/// Takes the calls out of an answer as it comes. What looks like the beginning of one is held back until it is one, or is not.
pub(crate) struct ToolParser {
    format: ToolFormat,
    ids: SplitMix64,
    held: String,
    state: State,
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
    pub(crate) fn new(format: ToolFormat) -> Self {
        Self { format, ids: SplitMix64::new(random_seed()), held: String::new(), state: State::Start }
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Parsed> {
        self.held.push_str(text);
        let mut found = Vec::new();
        while self.step(&mut found) {}
        found
    }

    /// Ends the answer: a call that was cut off is the text that it is.
    pub(crate) fn finish(&mut self) -> Vec<Parsed> {
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

    fn call(&mut self, shape: &Shape, found: &mut Vec<Parsed>) -> bool {
        match calls(&self.held, shape) {
            Ok((calls, used)) => {
                for (name, arguments) in calls {
                    found.push(Parsed::Call(ToolCall { id: self.format.id(self.ids.next()), name, arguments }));
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

/// The calls between two marks, and how much text they and the closing mark take.
fn calls(text: &str, shape: &Shape) -> Result<(Calls, usize), Broken> {
    let mark = if let Item::Call(mark) = shape.item { mark } else { "" };
    let mut reader = Reader { rest: text, mark };
    let mut calls = Vec::new();
    if shape.list {
        reader.take("[")?;
        while !reader.sees("]") {
            calls.push(call(&mut reader, shape)?);
            if !reader.sees("]") {
                reader.take(",")?;
            }
        }
        reader.take("]")?;
    } else {
        calls.push(call(&mut reader, shape)?);
    }
    if !shape.close.is_empty() {
        reader.take(shape.close)?;
    }
    Ok((calls, text.len() - reader.rest.len()))
}

fn call(reader: &mut Reader<'_>, shape: &Shape) -> Result<(String, Value), Broken> {
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
    }
}

/// One JSON value.
fn json(reader: &mut Reader<'_>) -> Result<Value, Broken> {
    let mut stream = serde_json::Deserializer::from_str(reader.rest).into_iter::<Value>();
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
        Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Some(arguments) => arguments,
    };
    Ok((name, arguments))
}
