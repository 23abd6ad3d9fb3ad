//! Printing as Python prints: `str`, `repr`, `%` and `str.format`.

use crate::error::{Error, Result};
use crate::interpreter::{Given, Interpreter, undefined};
use crate::strings::{byte_of, char_count};
use crate::text::Text;
use crate::value::{Number, Value};
use std::sync::Arc;

/// Widest field of a format.
const MAX_WIDTH: usize = 1 << 20;

impl Interpreter<'_> {
    /// `str(value)`.
    pub(crate) fn printed(&mut self, value: &Value) -> Result<Arc<Text>> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            Value::Undefined(_) => Ok(Arc::default()),
            other => {
                let mut out = Text::default();
                self.represent(other, &mut out)?;
                Ok(Arc::new(out))
            }
        }
    }

    /// `repr(value)`, appended.
    pub(crate) fn represent(&mut self, value: &Value, out: &mut Text) -> Result<()> {
        self.budget.down()?;
        self.budget.bytes(24)?;
        match value {
            Value::Undefined(_) => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
            Value::Int(value) => out.push_str(&value.to_string()),
            Value::Float(value) => out.push_str(&float(*value)),
            Value::Text(text) => {
                self.budget.bytes(text.len() * 6)?;
                quote(text, out);
            }
            Value::List(id) => {
                out.push_str("[");
                self.represent_items(*id, out)?;
                out.push_str("]");
            }
            Value::Tuple(id) => {
                out.push_str("(");
                self.represent_items(*id, out)?;
                out.push_str(if self.heap.lists[*id as usize].len() == 1 { ",)" } else { ")" });
            }
            Value::Dict(id) | Value::Namespace(id) => {
                let namespace = matches!(value, Value::Namespace(_));
                out.push_str(if namespace { "<Namespace {" } else { "{" });
                for index in 0..self.heap.dicts[*id as usize].len() {
                    let (key, value) = self.heap.dicts[*id as usize].get_index(index).expect("the index is in range");
                    let (key, value) = (Value::from(key), value.clone());
                    if index > 0 {
                        out.push_str(", ");
                    }
                    self.represent(&key, out)?;
                    out.push_str(": ");
                    self.represent(&value, out)?;
                }
                out.push_str(if namespace { "}>" } else { "}" });
            }
            Value::Loop(_) | Value::Macro(_) | Value::Function(_) | Value::Method(_) => {
                out.push_str(&format!("<{}>", value.type_name()));
            }
        }
        self.budget.up();
        Ok(())
    }

    fn represent_items(&mut self, id: u32, out: &mut Text) -> Result<()> {
        for index in 0..self.heap.lists[id as usize].len() {
            if index > 0 {
                out.push_str(", ");
            }
            let item = self.heap.lists[id as usize][index].clone();
            self.represent(&item, out)?;
        }
        Ok(())
    }

    /// `format % arguments`.
    pub(crate) fn percent_format(&mut self, format: &Text, arguments: &Value) -> Result<Value> {
        let mut positional = match arguments {
            Value::Tuple(id) => self.heap.lists[*id as usize].clone(),
            other => vec![other.clone()],
        }
        .into_iter();
        let source = format.as_str();
        let mut out = Text::default();
        let mut from = 0;
        while let Some(at) = source[from..].find('%').map(|at| from + at) {
            self.copy(format, from..at, &mut out)?;
            self.budget.steps((source.len() - at) / 64 + 1)?;
            let mut directive = Directive::default();
            let mut rest = source[at + 1..].chars().peekable();
            let mut named = None;
            if rest.next_if_eq(&'(').is_some() {
                let key: String = rest.by_ref().take_while(|&c| c != ')').collect();
                let Value::Dict(id) = arguments else { return Err(Error::operation("format requires a mapping")) };
                named = Some(self.entry(*id, &key).ok_or_else(|| Error::operation(format!("no key {key:.40}")))?);
            }
            while let Some(flag) = rest.next_if(|c| "#0- +".contains(*c)) {
                match flag {
                    '-' => directive.align = Some('<'),
                    '0' => directive.zero = true,
                    '+' | ' ' => directive.sign = Some(flag),
                    _ => {}
                }
            }
            directive.width = digits(&mut rest);
            if rest.next_if_eq(&'.').is_some() {
                directive.precision = Some(digits(&mut rest).unwrap_or(0));
            }
            let kind = rest.next().ok_or_else(|| Error::operation("incomplete format"))?;
            from = source.len() - rest.collect::<String>().len();
            if kind == '%' {
                out.push_str("%");
                continue;
            }
            let value = match named {
                Some(value) => value,
                None => positional.next().ok_or_else(|| Error::operation("not enough arguments for the format"))?,
            };
            directive.kind = Some(kind);
            self.directive(&directive, &value, &mut out)?;
        }
        self.copy(format, from..source.len(), &mut out)?;
        if positional.next().is_some() && !matches!(arguments, Value::Dict(_)) && from > 0 {
            return Err(Error::operation("not all arguments were converted by the format"));
        }
        self.text(out)
    }

    fn copy(&mut self, text: &Text, range: std::ops::Range<usize>, out: &mut Text) -> Result<()> {
        self.budget.bytes(range.len())?;
        out.push_slice(text, range);
        Ok(())
    }

    /// `format.format(…)`: fields by position or name, with attributes and items, `!r` and `!s`, and a format.
    pub(crate) fn brace_format(&mut self, format: &Text, given: Given) -> Result<Value> {
        let source = format.as_str();
        let mut out = Text::default();
        let (mut from, mut next) = (0, 0usize);
        while let Some(at) = source[from..].find(['{', '}']).map(|at| from + at) {
            self.copy(format, from..at, &mut out)?;
            let brace = &source[at..=at];
            if source[at + 1..].starts_with(brace) {
                out.push_str(brace);
                from = at + 2;
                continue;
            }
            let Some(end) = source[at..].find('}').filter(|_| brace == "{").map(|end| at + end) else {
                return Err(Error::operation("single brace in a format"));
            };
            let field = &source[at + 1..end];
            from = end + 1;
            let (field, spec) = field.split_once(':').unwrap_or((field, ""));
            let (field, conversion) = field.split_once('!').unwrap_or((field, ""));
            let mut value = self.field(field, &given, &mut next)?;
            if conversion == "r" {
                let mut text = Text::default();
                self.represent(&value, &mut text)?;
                value = self.text(text)?;
            }
            let directive = Directive::parse(spec)?;
            self.directive(&directive, &value, &mut out)?;
        }
        self.copy(format, from..source.len(), &mut out)?;
        self.text(out)
    }

    fn field(&mut self, field: &str, given: &Given, next: &mut usize) -> Result<Value> {
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (name, mut path) = field.split_at(end);
        let value = if name.is_empty() {
            *next += 1;
            given.positional.get(*next - 1)
        } else if let Ok(index) = name.parse::<usize>() {
            given.positional.get(index)
        } else {
            given.named.iter().find(|(known, _)| **known == *name).map(|(_, value)| value)
        };
        let mut value = value.cloned().ok_or_else(|| Error::operation("a field of the format has no argument"))?;
        while let Some(kind) = path.chars().next() {
            let rest = &path[1..];
            if kind == '.' {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                value = self.attribute(&value, &rest[..end].into())?;
                path = &rest[end..];
            } else {
                let end = rest.find(']').ok_or_else(|| Error::operation("a field of the format has no ]"))?;
                let index = match rest[..end].parse() {
                    Ok(index) => Value::Int(index),
                    Err(_) => Value::trusted(&rest[..end]),
                };
                value = self.item(&value, &index)?;
                path = &rest[end + 1..];
            }
        }
        Ok(value)
    }

    fn directive(&mut self, directive: &Directive, value: &Value, out: &mut Text) -> Result<()> {
        let width = directive.width.unwrap_or(0);
        if width > MAX_WIDTH || directive.precision.unwrap_or(0) > 1000 && !matches!(directive.kind, None | Some('s')) {
            return Err(Error::limit("a field of a format is too wide"));
        }
        self.budget.bytes(width * 4 + directive.precision.unwrap_or(0).min(1000) + 32)?;
        let mut text = match directive.kind {
            None | Some('s') => {
                if let (None, Some(number)) = (directive.kind, value.number().filter(|_| directive.formats_number())) {
                    Arc::new(Text::trusted(directive.number(number)?))
                } else {
                    self.printed(value)?
                }
            }
            Some('r' | 'a') => {
                let mut text = Text::default();
                self.represent(value, &mut text)?;
                Arc::new(text)
            }
            Some(_) => match (value, value.number()) {
                (_, Some(number)) => Arc::new(Text::trusted(directive.number(number)?)),
                (Value::Undefined(name), _) => return Err(undefined(name)),
                (other, _) => return Err(Error::operation(format!("a number is required, not {}", other.type_name()))),
            },
        };
        if let (None | Some('s'), Some(precision)) = (directive.kind, directive.precision)
            && value.number().is_none()
        {
            let end = byte_of(text.as_str(), precision);
            text = Arc::new(text.slice(0..end));
        }
        self.budget.bytes(text.len())?;
        let missing = width.saturating_sub(char_count(text.as_str()));
        let numeric = value.number().is_some();
        let align = directive.align.unwrap_or(if numeric || directive.percent_style() { '>' } else { '<' });
        let fill = if directive.zero && numeric && directive.align.is_none() { '0' } else { directive.fill };
        let pad = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
        let sign = usize::from(fill == '0' && text.as_str().starts_with(['-', '+']));
        let left = match align {
            '<' => 0,
            '^' => missing / 2,
            _ => missing,
        };
        out.push_slice(&text, 0..sign);
        out.push_str(&pad(left));
        out.push_slice(&text, sign..text.len());
        out.push_str(&pad(missing - left));
        Ok(())
    }
}

/// One field of a format.
#[derive(Debug)]
struct Directive {
    fill: char,
    align: Option<char>,
    sign: Option<char>,
    zero: bool,
    comma: bool,
    width: Option<usize>,
    precision: Option<usize>,
    kind: Option<char>,
    braces: bool,
}

impl Default for Directive {
    fn default() -> Self {
        Self {
            fill: ' ',
            align: None,
            sign: None,
            zero: false,
            comma: false,
            width: None,
            precision: None,
            kind: None,
            braces: false,
        }
    }
}

impl Directive {
    /// `[[fill]align][sign][0][width][,][.precision][type]`.
    fn parse(spec: &str) -> Result<Self> {
        let mut directive = Directive { braces: true, ..Directive::default() };
        let mut rest = spec.chars().peekable();
        let mut ahead = spec.chars();
        let (first, second) = (ahead.next(), ahead.next());
        let aligns = |c: Option<char>| c.filter(|c| "<>^=".contains(*c));
        if let (Some(fill), Some(align)) = (first, aligns(second)) {
            (directive.fill, directive.align) = (fill, Some(align));
            rest.nth(1);
        } else if let Some(align) = aligns(first) {
            directive.align = Some(align);
            rest.next();
        }
        directive.sign = rest.next_if(|c| "+- ".contains(*c)).filter(|&sign| sign != '-');
        directive.zero = rest.next_if_eq(&'0').is_some();
        directive.width = digits(&mut rest);
        directive.comma = rest.next_if_eq(&',').is_some();
        if rest.next_if_eq(&'.').is_some() {
            directive.precision = digits(&mut rest);
        }
        directive.kind = rest.next();
        match rest.next() {
            None => Ok(directive),
            Some(_) => Err(Error::operation("invalid format")),
        }
    }

    /// In `%` formats strings stand to the right, too.
    fn percent_style(&self) -> bool {
        !self.braces
    }

    fn formats_number(&self) -> bool {
        self.precision.is_some() || self.sign.is_some() || self.comma
    }

    fn number(&self, number: Number) -> Result<String> {
        let kind = self.kind.unwrap_or(match number {
            Number::Int(_) => 'd',
            Number::Float(_) => 'g',
        });
        let precision = self.precision.unwrap_or(6);
        let mut text = match (kind, number) {
            ('d' | 'i' | 'u', Number::Int(value)) => value.to_string(),
            ('d' | 'i' | 'u', Number::Float(value)) if self.percent_style() => format!("{:.0}", value.trunc()),
            ('x', Number::Int(value)) => radix(value, format!("{:x}", value.unsigned_abs())),
            ('X', Number::Int(value)) => radix(value, format!("{:X}", value.unsigned_abs())),
            ('o', Number::Int(value)) => radix(value, format!("{:o}", value.unsigned_abs())),
            ('b', Number::Int(value)) => radix(value, format!("{:b}", value.unsigned_abs())),
            ('f' | 'F', value) => format!("{:.precision$}", value.float()),
            ('%', value) => format!("{:.precision$}%", value.float() * 100.0),
            ('e', value) => exponent(&format!("{:.precision$e}", value.float())),
            ('g', value) => general(value.float(), precision),
            _ => return Err(Error::operation(format!("unknown format {kind:?}"))),
        };
        if self.comma {
            text = grouped(&text);
        }
        match self.sign {
            Some(sign) if !text.starts_with('-') => Ok(format!("{sign}{text}")),
            _ => Ok(text),
        }
    }
}

fn digits(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut text = String::new();
    while let Some(digit) = characters.next_if(char::is_ascii_digit) {
        text.push(digit);
    }
    // More digits than a number has are a width beyond every limit.
    (!text.is_empty()).then(|| text.parse().unwrap_or(usize::MAX / 8))
}

fn radix(value: i64, digits: String) -> String {
    if value < 0 { format!("-{digits}") } else { digits }
}

/// `1e5` as C and Python write it: `1e+05`.
fn exponent(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// C's `%g`.
fn general(value: f64, precision: usize) -> String {
    if !value.is_finite() {
        return float(value);
    }
    let precision = precision.max(1);
    let scientific = format!("{:.*e}", precision - 1, value);
    let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= precision as i32 {
        let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        exponent(&format!("{}e{power}", trim(mantissa)))
    } else {
        trim(&format!("{:.*}", (precision as i32 - 1 - power).max(0) as usize, value))
    }
}

fn grouped(text: &str) -> String {
    let (sign, rest) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let whole = rest.find('.').unwrap_or(rest.len());
    let mut out = String::from(sign);
    for (index, digit) in rest[..whole].chars().enumerate() {
        if index > 0 && (whole - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + &rest[whole..]
}

/// `repr` of a float: the shortest digits that give the number back, as Python lays them out.
pub(crate) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    if (-4..16).contains(&power) || value == 0.0 {
        let plain = format!("{value}");
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        exponent(&scientific)
    }
}

/// `repr` of a string, appended.
fn quote(text: &Text, out: &mut Text) {
    let quote = if text.as_str().contains('\'') && !text.as_str().contains('"') { '"' } else { '\'' };
    let escaped = text.map(|part| {
        let mut escaped = String::with_capacity(part.len());
        for character in part.chars() {
            match character {
                '\\' => escaped.push_str("\\\\"),
                '\n' => escaped.push_str("\\n"),
                '\r' => escaped.push_str("\\r"),
                '\t' => escaped.push_str("\\t"),
                c if c == quote => escaped.extend(['\\', c]),
                c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                    let code = u32::from(c);
                    escaped.push_str(&if code < 0x100 { format!("\\x{code:02x}") } else { format!("\\u{code:04x}") });
                }
                c => escaped.push(c),
            }
        }
        escaped
    });
    out.push_str(&quote.to_string());
    out.push(&escaped);
    out.push_str(&quote.to_string());
}
