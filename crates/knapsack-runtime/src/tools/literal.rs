//! Values as models write them when it is not quite JSON: Python's literals, and Gemma's with text between two marks.

use serde_json::{Map, Number, Value};

/// Deepest nesting of a value.
const MAX_DEPTH: usize = 64;

/// Why a text is no value: it goes on, or it never was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Unfinished,
    Wrong,
}

/// Reads from the front of a text.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a str,
    /// Stands on both sides of a text without quotes; may be empty.
    pub(super) mark: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    pub(super) fn take(&mut self, text: &str) -> Result<(), Broken> {
        self.space();
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None if text.starts_with(self.rest) => Err(Broken::Unfinished),
            None => Err(Broken::Wrong),
        }
    }

    /// Whether `text` comes next.
    pub(super) fn sees(&mut self, text: &str) -> bool {
        self.space();
        self.rest.starts_with(text)
    }

    /// A text in double quotes.
    pub(super) fn quoted(&mut self) -> Result<String, Broken> {
        match self.sees("\"") {
            true => self.text(),
            false if self.rest.is_empty() => Err(Broken::Unfinished),
            false => Err(Broken::Wrong),
        }
    }

    /// A name up to one of `ends`, which is left.
    pub(super) fn name(&mut self, ends: &[char]) -> Result<&'a str, Broken> {
        self.space();
        let end = self.rest.find(ends).ok_or(Broken::Unfinished)?;
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(name.trim())
    }

    /// `<parameter=key>`, a value and `</parameter>`: the key and the value without the ends of line around it.
    pub(super) fn tagged(&mut self) -> Result<(&'a str, &'a str), Broken> {
        self.take("<parameter=")?;
        let key = self.name(&['>'])?;
        let value = &self.rest[1..];
        let end = value.find("</parameter>").ok_or(Broken::Unfinished)?;
        self.rest = &value[end + "</parameter>".len()..];
        let value = &value[..end];
        let value = value.strip_prefix('\n').unwrap_or(value);
        Ok((key, value.strip_suffix('\n').unwrap_or(value)))
    }

    /// `key=value, …` up to `end`.
    pub(super) fn entries(&mut self, is: char, end: &str, depth: usize) -> Result<Map<String, Value>, Broken> {
        let mut map = Map::new();
        loop {
            if self.sees(end) {
                self.take(end)?;
                return Ok(map);
            }
            let key = match self.sees("\"") || self.sees("'") {
                true => self.text()?,
                false => self.name(&[is])?.to_owned(),
            };
            self.take(is.encode_utf8(&mut [0; 4]))?;
            map.insert(key, self.value(depth + 1)?);
            if !self.sees(end) {
                self.take(",")?;
            }
        }
    }

    pub(super) fn value(&mut self, depth: usize) -> Result<Value, Broken> {
        self.space();
        if depth > MAX_DEPTH {
            return Err(Broken::Wrong);
        }
        if !self.mark.is_empty() && self.rest.starts_with(self.mark) {
            let text = &self.rest[self.mark.len()..];
            let end = text.find(self.mark).ok_or(Broken::Unfinished)?;
            self.rest = &text[end + self.mark.len()..];
            return Ok(text[..end].into());
        }
        match self.rest.chars().next().ok_or(Broken::Unfinished)? {
            '"' | '\'' => self.text().map(Value::from),
            '{' => {
                self.take("{")?;
                self.entries(':', "}", depth).map(Value::from)
            }
            '[' => {
                self.take("[")?;
                let mut list = Vec::new();
                loop {
                    if self.sees("]") {
                        self.take("]")?;
                        return Ok(list.into());
                    }
                    list.push(self.value(depth + 1)?);
                    if !self.sees("]") {
                        self.take(",")?;
                    }
                }
            }
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Value, Broken> {
        let end = self.rest.find([',', ')', ']', '}']).ok_or(Broken::Unfinished)?;
        let (word, rest) = self.rest.split_at(end);
        let value = match word.trim() {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" => Value::Null,
            number => Value::Number(serde_json::from_slice::<Number>(number.as_bytes()).map_err(|_| Broken::Wrong)?),
        };
        self.rest = rest;
        Ok(value)
    }

    /// A quoted text with the escapes that JSON and Python share.
    fn text(&mut self) -> Result<String, Broken> {
        let quote = self.rest.chars().next().ok_or(Broken::Unfinished)?;
        let mut characters = self.rest[1..].char_indices();
        let mut text = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => {
                    let (_, escaped) = characters.next().ok_or(Broken::Unfinished)?;
                    match escaped {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        'b' => text.push('\u{8}'),
                        'f' => text.push('\u{c}'),
                        'u' => {
                            let rest = characters.as_str();
                            let hex = rest.get(..4).ok_or(Broken::Unfinished)?;
                            let code = u32::from_str_radix(hex, 16).map_err(|_| Broken::Wrong)?;
                            text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                            characters.nth(3);
                        }
                        other => text.push(other),
                    }
                }
                _ if character == quote => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Ok(text);
                }
                _ => text.push(character),
            }
        }
        Err(Broken::Unfinished)
    }
}
