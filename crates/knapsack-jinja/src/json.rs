//! `tojson` as transformers defines it: Python's `json.dumps`, without escapes of non-ASCII text unless asked for.

use crate::error::{Error, Result};
use crate::format::float;
use crate::interpreter::{Given, Interpreter, undefined};
use crate::methods;
use crate::text::Text;
use crate::value::{Key, Value};

struct Style {
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Interpreter<'_> {
    pub(crate) fn tojson(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [ascii, indent, separators, sort] =
            given.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
        let indent = match indent {
            Some(Value::Text(text)) => Some(text.as_str().to_owned()),
            other => match methods::int("tojson", other.as_ref())? {
                Some(width) if width > 1000 => return Err(Error::limit("tojson() indents by 1000 at most")),
                width => width.map(|width| " ".repeat(usize::try_from(width).unwrap_or(0))),
            },
        };
        let (item, key) = match separators {
            None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
            Some(pair) => match &self.iterate(&pair)?[..] {
                [Value::Text(item), Value::Text(key)] => (item.as_str().to_owned(), key.as_str().to_owned()),
                _ => return Err(Error::operation("tojson() wants two separators")),
            },
        };
        let on = |interpreter: &Self, value: Option<Value>| value.is_some_and(|value| interpreter.truth(&value));
        let style = Style { ascii: on(self, ascii), sort: on(self, sort), indent, item, key };
        let mut out = Text::default();
        self.write_json(value, &style, 0, &mut out)?;
        self.text(out)
    }

    fn write_json(&mut self, value: &Value, style: &Style, depth: usize, out: &mut Text) -> Result<()> {
        self.budget.down()?;
        self.budget.bytes(24)?;
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => out.push_str(&value.to_string()),
            Value::Float(value) => out.push_str(&json_float(*value)),
            Value::Text(text) => self.write_string(text, style, out)?,
            Value::List(id) | Value::Tuple(id) => {
                let count = self.heap.lists[*id as usize].len();
                out.push_str("[");
                for index in 0..count {
                    self.between(style, index, depth + 1, out)?;
                    let item = self.heap.lists[*id as usize][index].clone();
                    self.write_json(&item, style, depth + 1, out)?;
                }
                self.close(style, count, depth, "]", out)?;
            }
            Value::Dict(id) => self.write_dict(*id, style, depth, out)?,
            Value::Undefined(name) => return Err(undefined(name)),
            other => return Err(Error::operation(format!("a {} is no JSON", other.type_name()))),
        }
        self.budget.up();
        Ok(())
    }

    fn write_dict(&mut self, id: u32, style: &Style, depth: usize, out: &mut Text) -> Result<()> {
        let dict = &self.heap.dicts[id as usize];
        self.budget.bytes(dict.len() * 48)?;
        let mut entries: Vec<(Text, Value)> = dict
            .iter()
            .map(|(key, value)| {
                let key = match key {
                    Key::None => Text::trusted("null"),
                    Key::Bool(value) => Text::trusted(if *value { "true" } else { "false" }),
                    Key::Int(value) => Text::trusted(value.to_string()),
                    Key::Text(text) => (**text).clone(),
                };
                (key, value.clone())
            })
            .collect();
        if style.sort {
            self.budget.steps(entries.len() * 16)?;
            entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        }
        out.push_str("{");
        for (index, (key, value)) in entries.iter().enumerate() {
            self.between(style, index, depth + 1, out)?;
            self.write_string(key, style, out)?;
            out.push_str(&style.key);
            self.write_json(value, style, depth + 1, out)?;
        }
        self.close(style, entries.len(), depth, "}", out)
    }

    /// What comes before an item.
    fn between(&mut self, style: &Style, index: usize, depth: usize, out: &mut Text) -> Result<()> {
        self.budget.bytes(style.item.len() + style.key.len())?;
        if index > 0 {
            out.push_str(&style.item);
        }
        self.line(style, depth, out)
    }

    fn close(&mut self, style: &Style, count: usize, depth: usize, end: &str, out: &mut Text) -> Result<()> {
        if count > 0 {
            self.line(style, depth, out)?;
        }
        out.push_str(end);
        Ok(())
    }

    fn line(&mut self, style: &Style, depth: usize, out: &mut Text) -> Result<()> {
        if let Some(indent) = &style.indent {
            self.budget.bytes(1 + indent.len() * depth)?;
            out.push_str("\n");
            (0..depth).for_each(|_| out.push_str(indent));
        }
        Ok(())
    }

    fn write_string(&mut self, text: &Text, style: &Style, out: &mut Text) -> Result<()> {
        self.budget.bytes(text.len() * 6 + 2)?;
        out.push_str("\"");
        out.push(&text.map(|part| escaped(part, style.ascii)));
        out.push_str("\"");
        Ok(())
    }
}

fn escaped(text: &str, ascii: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || ascii && !c.is_ascii() => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn json_float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        float(value)
    }
}
