//! From a source to tokens without macros: a C preprocessor for what the kernels use of one.

use std::collections::HashMap;
use std::rc::Rc;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Word(Rc<str>),
    Integer(u32),
    Float,
    Sign(&'static str),
}

impl Token {
    pub(super) fn is(&self, sign: &str) -> bool {
        matches!(self, Token::Sign(s) if *s == sign)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self, Token::Word(w) if **w == *word)
    }
}

const SIGNS: [&str; 39] = [
    "<<=", ">>=", "==", "!=", "<=", ">=", "&&", "||", "<<", ">>", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "++", "--",
    "+", "-", "*", "/", "%", "&", "|", "^", "!", "~", "<", ">", "=", "?", ":", ";", ",", ".", "(", ")",
];
const BRACKETS: [&str; 4] = ["{", "}", "[", "]"];

/// The tokens of one line or several, comments aside.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut list = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]).trim_start();
            continue;
        }
        let length = if first.is_ascii_digit() {
            let (token, length) = number(rest)?;
            list.push(token);
            length
        } else if first.is_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            list.push(Token::Word(rest[..end].into()));
            end
        } else {
            let sign = SIGNS.iter().chain(&BRACKETS).find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| format!("`{first}` is no token"))?;
            list.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest[length..].trim_start();
    }
    Ok(list)
}

/// A number and its length in the text.
fn number(text: &str) -> Result<(Token, usize), String> {
    let mut end = 0;
    let bytes = text.as_bytes();
    while end < bytes.len() {
        let exponent = end > 0 && matches!(bytes[end - 1], b'e' | b'E') && !text.starts_with("0x");
        match bytes[end] {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' => end += 1,
            b'+' | b'-' if exponent => end += 1,
            _ => break,
        }
    }
    let written = &text[..end];
    let digits = written.trim_end_matches(['u', 'U']);
    let value = match digits.strip_prefix("0x") {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok(),
        None => digits.parse().ok(),
    };
    match value {
        Some(value) => Ok((Token::Integer(value), end)),
        None if written.contains('.') || written.contains('e') => Ok((Token::Float, end)),
        None => Err(format!("the number {written}")),
    }
}

#[derive(Debug)]
struct Macro {
    parameters: Option<Vec<Rc<str>>>,
    body: Vec<Token>,
}

/// What is defined.
#[derive(Default)]
pub(super) struct Macros(HashMap<Rc<str>, Rc<Macro>>);

impl Macros {
    /// The tokens of a source with its macros expanded. `condition` evaluates what stands after `#if`.
    pub(super) fn preprocess(
        &mut self,
        source: &str,
        condition: impl Fn(Vec<Token>) -> Result<bool, String>,
    ) -> Result<Vec<Token>, String> {
        let source = source.replace("\\\n", " ");
        let (mut all, mut text) = (Vec::new(), String::new());
        // For each open condition: whether its lines count, and whether one of its branches has.
        let mut open: Vec<(bool, bool)> = Vec::new();
        for line in source.lines() {
            let Some(directive) = line.trim_start().strip_prefix('#') else {
                if open.iter().all(|(on, _)| *on) {
                    text += line;
                    text.push('\n');
                }
                continue;
            };
            all.extend(self.expand(tokens(&std::mem::take(&mut text))?, &mut Vec::new())?);
            let (name, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            let outside = open.iter().rev().skip(1).all(|(on, _)| *on);
            let holds = |rest: &str| condition(self.expand(tokens(rest)?, &mut Vec::new())?);
            match name {
                "ifdef" | "ifndef" => {
                    let on = self.0.contains_key(rest.trim()) == (name == "ifdef");
                    open.push((on, on));
                }
                "if" => {
                    let on = open.iter().all(|(on, _)| *on) && holds(rest)?;
                    open.push((on, on));
                }
                "elif" | "else" => {
                    let (_, done) = *open.last().ok_or("#else without #if")?;
                    let on = outside && !done && (name == "else" || holds(rest)?);
                    open.pop();
                    open.push((on, done || on));
                }
                "endif" => drop(open.pop()),
                "define" if open.iter().all(|(on, _)| *on) => self.define(rest)?,
                "undef" if open.iter().all(|(on, _)| *on) => drop(self.0.remove(rest.trim())),
                _ => {}
            }
        }
        all.extend(self.expand(tokens(&text)?, &mut Vec::new())?);
        Ok(all)
    }

    /// Takes what stands after `#define`.
    pub(super) fn define(&mut self, text: &str) -> Result<(), String> {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let (parameters, body) = match rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((list, body)) => (Some(list.split(',').map(|name| name.trim().into()).collect()), body),
            None => (None, rest),
        };
        self.0.insert(name.into(), Rc::new(Macro { parameters, body: tokens(body)? }));
        Ok(())
    }

    fn expand(&self, list: Vec<Token>, hidden: &mut Vec<Rc<str>>) -> Result<Vec<Token>, String> {
        let mut done = Vec::with_capacity(list.len());
        let mut at = 0;
        while at < list.len() {
            let token = &list[at];
            at += 1;
            let found = match token {
                Token::Word(name) if !hidden.contains(name) => self.0.get(name).map(|found| (name, found)),
                _ => None,
            };
            let Some((name, found)) = found else {
                done.push(token.clone());
                continue;
            };
            let body = match &found.parameters {
                None => found.body.clone(),
                Some(_) if !list.get(at).is_some_and(|next| next.is("(")) => {
                    done.push(token.clone());
                    continue;
                }
                Some(parameters) => {
                    let (arguments, end) = arguments(&list, at + 1).ok_or_else(|| format!("{name}( without )"))?;
                    at = end;
                    let arguments: Vec<_> = arguments
                        .into_iter()
                        .map(|argument| self.expand(argument, hidden))
                        .collect::<Result<_, _>>()?;
                    substitute(&found.body, parameters, &arguments)
                }
            };
            hidden.push(name.clone());
            done.extend(self.expand(body, hidden)?);
            hidden.pop();
        }
        Ok(done)
    }
}

/// The arguments of a macro from `at` on, and where the tokens after its `)` begin.
fn arguments(list: &[Token], mut at: usize) -> Option<(Vec<Vec<Token>>, usize)> {
    let (mut all, mut depth) = (vec![Vec::new()], 0);
    loop {
        let token = list.get(at)?;
        at += 1;
        match token {
            Token::Sign(")") if depth == 0 => return Some((all, at)),
            Token::Sign(",") if depth == 0 => {
                all.push(Vec::new());
                continue;
            }
            Token::Sign("(") => depth += 1,
            Token::Sign(")") => depth -= 1,
            _ => {}
        }
        all.last_mut()?.push(token.clone());
    }
}

fn substitute(body: &[Token], parameters: &[Rc<str>], arguments: &[Vec<Token>]) -> Vec<Token> {
    let mut done = Vec::new();
    for token in body {
        let index = match token {
            Token::Word(word) => parameters.iter().position(|parameter| parameter == word),
            _ => None,
        };
        match index.and_then(|index| arguments.get(index)) {
            Some(argument) => done.extend_from_slice(argument),
            None => done.push(token.clone()),
        }
    }
    done
}
