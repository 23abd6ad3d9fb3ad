//! From a template's source to tokens, with Jinja's rules for white space: `trim_blocks` and `lstrip_blocks` are on, one newline at
//! the very end is dropped.

use crate::error::{Error, ErrorKind, Result};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Data(String),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Text(String),
    Int(i64),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Longest first, so that a prefix never hides a longer one.
const OPERATORS: [&str; 25] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",",
];

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    /// Where the line number was counted up to, and that number.
    counted: (usize, u32),
    tokens: Vec<(Token, u32)>,
    /// Whether what came before ended a line.
    line_starting: bool,
}

pub(crate) fn tokens(source: &str) -> Result<Vec<(Token, u32)>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, counted: (0, 1), tokens: Vec::new(), line_starting: true };
    while lexer.at < source.len() {
        lexer.root()?;
    }
    let line = lexer.line();
    lexer.tokens.push((Token::End, line));
    Ok(lexer.tokens)
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn line(&mut self) -> u32 {
        let newlines = self.source[self.counted.0..self.at].bytes().filter(|&byte| byte == b'\n').count();
        self.counted = (self.at, self.counted.1 + newlines as u32);
        self.counted.1
    }

    fn push(&mut self, token: Token) {
        let line = self.line();
        self.tokens.push((token, line));
    }

    fn error(&mut self, message: impl Into<String>) -> Error {
        let line = self.line();
        Error::new(ErrorKind::Syntax, message).at(line)
    }

    /// Data up to the next tag, and the tag.
    fn root(&mut self) -> Result<()> {
        let rest = self.rest();
        let tag = rest
            .match_indices('{')
            .map(|(at, _)| at)
            .find(|&at| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')));
        let Some(tag) = tag else {
            self.data(rest, None);
            self.at = self.source.len();
            return Ok(());
        };
        let kind = rest.as_bytes()[tag + 1];
        let sign = rest.as_bytes().get(tag + 2).copied().filter(|sign| matches!(sign, b'-' | b'+'));
        let strip = match sign {
            Some(b'-') => Some(Strip::All),
            Some(_) => None,
            None if kind == b'{' => None,
            None => Some(Strip::Line),
        };
        self.data(&rest[..tag], strip);
        self.at += tag + 2 + usize::from(sign.is_some());
        match kind {
            b'#' => self.comment(),
            b'%' if self.raw_follows() => self.raw(),
            b'%' => {
                self.push(Token::BlockBegin);
                self.inside("%}")?;
                self.push(Token::BlockEnd);
                Ok(())
            }
            _ => {
                self.push(Token::PrintBegin);
                self.inside("}}")?;
                self.push(Token::PrintEnd);
                Ok(())
            }
        }
    }

    fn data(&mut self, text: &str, strip: Option<Strip>) {
        let kept = match strip {
            Some(Strip::All) => text.trim_end_matches(is_space),
            Some(Strip::Line) => {
                let start = text.rfind('\n').map_or(0, |at| at + 1);
                let blank = text[start..].chars().all(is_space);
                if blank && (start > 0 || self.line_starting) { &text[..start] } else { text }
            }
            None => text,
        };
        if !kept.is_empty() {
            self.push(Token::Data(kept.to_owned()));
        }
    }

    /// What follows the end of a tag: all white space after `-`, one newline after a block or comment.
    fn after(&mut self, minus: bool, newline: bool) {
        let start = self.at;
        if minus {
            self.at += self.rest().len() - self.rest().trim_start_matches(is_space).len();
        } else if newline && self.rest().starts_with('\n') {
            self.at += 1;
        }
        self.line_starting = self.source[..self.at].ends_with('\n') && self.at > start;
    }

    fn comment(&mut self) -> Result<()> {
        let Some(length) = self.rest().find("#}") else { return Err(self.error("a comment has no end")) };
        let sign = self.rest().as_bytes()[..length].last().copied();
        self.at += length + 2;
        self.after(sign == Some(b'-'), sign != Some(b'+'));
        Ok(())
    }

    fn raw_follows(&self) -> bool {
        let rest = self.rest().trim_start_matches(is_space);
        rest.strip_prefix("raw").is_some_and(|rest| {
            let rest = rest.trim_start_matches(is_space);
            rest.starts_with("%}") || rest.starts_with("-%}")
        })
    }

    fn raw(&mut self) -> Result<()> {
        let Some(begin) = self.rest().find("%}") else { return Err(self.error("raw has no end")) };
        let minus = self.rest()[..begin].ends_with('-');
        self.at += begin + 2;
        self.after(minus, false);
        let mut from = 0;
        loop {
            let rest = self.rest();
            let Some(tag) = rest[from..].find("{%").map(|at| at + from) else {
                return Err(self.error("raw has no endraw"));
            };
            let inner = &rest[tag + 2..];
            let sign = inner.as_bytes().first().copied().filter(|sign| matches!(sign, b'-' | b'+'));
            let name = inner[usize::from(sign.is_some())..].trim_start_matches(is_space);
            let end = name.strip_prefix("endraw").map(|end| end.trim_start_matches(is_space));
            let Some(end) = end.filter(|end| ["%}", "-%}", "+%}"].iter().any(|mark| end.starts_with(mark))) else {
                from = tag + 2;
                continue;
            };
            let strip = match sign {
                Some(b'-') => Some(Strip::All),
                Some(_) => None,
                None => Some(Strip::Line),
            };
            self.data(&rest[..tag], strip);
            let mark = end.as_bytes()[0];
            let length = rest.len() - end.len() + if mark == b'%' { 2 } else { 3 };
            self.at += length;
            self.after(mark == b'-', mark != b'+');
            return Ok(());
        }
    }

    /// The tokens of a tag, up to its end.
    fn inside(&mut self, end: &'static str) -> Result<()> {
        let mut open = Vec::new();
        loop {
            let spaces = self.rest().len() - self.rest().trim_start_matches(is_space).len();
            self.at += spaces;
            let rest = self.rest();
            if open.is_empty() && self.tag_ends(rest, end) {
                return Ok(());
            }
            let Some(first) = rest.chars().next() else {
                return Err(self.error(format!("a tag has no {end}")));
            };
            match first {
                '\'' | '"' => self.string(first)?,
                '0'..='9' => self.number()?,
                first if first == '_' || first.is_alphabetic() => {
                    let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                    self.push(Token::Name(rest[..length].to_owned()));
                    self.at += length;
                }
                _ => {
                    let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator)) else {
                        return Err(self.error(format!("unexpected character {first:?}")));
                    };
                    match operator {
                        "(" => open.push(")"),
                        "[" => open.push("]"),
                        "{" => open.push("}"),
                        ")" | "]" | "}" if open.pop() != Some(operator) => {
                            return Err(self.error(format!("unexpected {operator:?}")));
                        }
                        _ => {}
                    }
                    self.push(Token::Operator(operator));
                    self.at += operator.len();
                }
            }
        }
    }

    fn tag_ends(&mut self, rest: &str, end: &str) -> bool {
        let block = end == "%}";
        let (length, minus, newline) = if rest.starts_with(end) {
            (2, false, block)
        } else if rest.starts_with('-') && rest[1..].starts_with(end) {
            (3, true, false)
        } else if block && rest.starts_with('+') && rest[1..].starts_with(end) {
            (3, false, false)
        } else {
            return false;
        };
        self.at += length;
        self.after(minus, newline);
        true
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest[1..].char_indices().find_map(|(at, character)| match character {
            _ if escaped => {
                escaped = false;
                None
            }
            '\\' => {
                escaped = true;
                None
            }
            character => (character == quote).then_some(at + 1),
        });
        let Some(end) = end else { return Err(self.error("a string has no end")) };
        self.push(Token::Text(unescape(&rest[1..end])));
        self.at += end + 1;
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        let radix = match rest.get(..2) {
            Some("0x" | "0X") => 16,
            Some("0o" | "0O") => 8,
            Some("0b" | "0B") => 2,
            _ => 10,
        };
        if radix != 10 {
            let length = rest[2..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(rest.len(), |n| n + 2);
            let value = i64::from_str_radix(&rest[2..length].replace('_', ""), radix);
            let Ok(value) = value else { return Err(self.error("not a number")) };
            self.push(Token::Int(value));
            self.at += length;
            return Ok(());
        }
        let mut length = digits(rest);
        let mut float = false;
        if rest[length..].starts_with('.') && rest[length + 1..].starts_with(|c: char| c.is_ascii_digit()) {
            length += 1 + digits(&rest[length + 1..]);
            float = true;
        }
        if rest[length..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
            let exponent = digits(&rest[length + 1 + sign..]);
            if exponent > 0 {
                length += 1 + sign + exponent;
                float = true;
            }
        }
        let text = rest[..length].replace('_', "");
        let token = if float { text.parse().ok().map(Token::Float) } else { text.parse().ok().map(Token::Int) };
        let Some(token) = token else { return Err(self.error(format!("the number {text:.40} is too large"))) };
        self.push(token);
        self.at += length;
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Strip {
    All,
    Line,
}

/// White space as Python's `\s` and `str.strip` know it.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// Python's escapes; an unknown one stays as it is.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(kind) = rest.chars().next() else {
            out.push('\\');
            break;
        };
        let code = |length: usize| {
            let digits = rest.get(1..=length)?;
            let code = u32::from_str_radix(digits, 16).ok()?;
            Some((char::from_u32(code)?, 1 + length))
        };
        let found = match kind {
            'n' => Some(('\n', 1)),
            't' => Some(('\t', 1)),
            'r' => Some(('\r', 1)),
            'a' => Some(('\x07', 1)),
            'b' => Some(('\x08', 1)),
            'f' => Some(('\x0c', 1)),
            'v' => Some(('\x0b', 1)),
            '\\' | '\'' | '"' => Some((kind, 1)),
            '0'..='7' => {
                let length = rest.bytes().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                u32::from_str_radix(&rest[..length], 8).ok().and_then(char::from_u32).map(|c| (c, length))
            }
            'x' => code(2),
            'u' => code(4),
            'U' => code(8),
            '\n' => {
                rest = &rest[1..];
                continue;
            }
            _ => None,
        };
        match found {
            Some((character, length)) => {
                out.push(character);
                rest = &rest[length..];
            }
            None => out.push('\\'),
        }
    }
    out.push_str(rest);
    out
}
