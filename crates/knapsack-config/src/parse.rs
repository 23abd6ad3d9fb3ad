//! One file of JSON with comments and trailing commas into values with spans.
//!
//! A strict parser stops at the first slip. So that one run tells all that is wrong, text that is only sloppy (a comma
//! forgotten, single quotes, a key without quotes) is read leniently, and every slip is an error of its own.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::render::quoted;
use crate::source_map::{FileId, SourceMap, Span, Spanned};
use jsonc_parser::ast;
use jsonc_parser::common::{Range, Ranged};
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::tokens::{Token, TokenAndRange};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// Longest file that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Deepest nesting that is accepted.
pub(crate) const MAX_NESTING: usize = 64;

/// A JSON value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

/// What a JSON value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// As written, in JSON's own grammar.
    Number(String),
    String(String),
    List(Vec<Node>),
    Object(Vec<Member>),
    /// Something for which an error was reported already.
    Reported,
}

/// A key and its value. Keys are unique within their object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) key: Spanned<String>,
    pub(crate) value: Node,
}

impl Node {
    /// The value as it is; numbers beyond 64 bits become the nearest that a float holds, as in any reader of JSON.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.kind {
            Kind::Null | Kind::Reported => serde_json::Value::Null,
            Kind::Bool(value) => (*value).into(),
            Kind::Number(text) => serde_json::from_str(text).unwrap_or_default(),
            Kind::String(text) => text.as_str().into(),
            Kind::List(items) => items.iter().map(Node::to_json).collect(),
            Kind::Object(members) => {
                let members = members.iter().map(|member| (member.key.value.clone(), member.value.to_json()));
                serde_json::Value::Object(members.collect())
            }
        }
    }

    /// The value's type, for "expected …, found …".
    pub(crate) fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "a boolean",
            Kind::Number(_) => "a number",
            Kind::String(_) => "a string",
            Kind::List(_) => "a list",
            Kind::Object(_) => "an object",
            Kind::Reported => "an invalid value",
        }
    }
}

/// What `knapsack` accepts: JSON, comments, trailing commas.
pub(crate) const STRICT: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// What can still be understood well enough to look for further errors.
const LENIENT: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: true,
    allow_missing_commas: true,
    allow_single_quoted_strings: true,
    allow_hexadecimal_numbers: true,
    allow_unary_plus_numbers: true,
    allow_bare_decimal_point_numbers: true,
    allow_non_finite_numbers: true,
    allow_extended_string_escapes: true,
};

/// Reads the text of a file. `None` when it can not be understood at all; the reason is in `diagnostics` then.
pub(crate) fn parse(sources: &SourceMap, file: FileId, diagnostics: &mut Vec<Diagnostic>) -> Option<Node> {
    let text = sources.file(file).text();
    let mut reader = Reader { file, text, diagnostics };
    let strict = match parse_to_ast(text, &CollectOptions::default(), &STRICT) {
        Ok(result) => return reader.root(result.value),
        Err(error) => error,
    };
    let collect = CollectOptions { tokens: true, ..CollectOptions::default() };
    match parse_to_ast(text, &collect, &LENIENT) {
        Ok(result) => {
            if !reader.slips(&result.tokens.unwrap_or_default()) {
                reader.syntax_error(&strict);
            }
            reader.root(result.value)
        }
        Err(lenient) => {
            if strict.range().start < lenient.range().start {
                reader.syntax_error(&strict);
            }
            reader.syntax_error(&lenient);
            None
        }
    }
}

struct Reader<'a, 'd> {
    file: FileId,
    text: &'a str,
    diagnostics: &'d mut Vec<Diagnostic>,
}

impl Reader<'_, '_> {
    fn span(&self, range: Range) -> Span {
        let end = range.end.min(self.text.len());
        Span { file: self.file, start: range.start.min(end) as u32, end: end as u32 }
    }

    fn root(&mut self, value: Option<ast::Value<'_>>) -> Option<Node> {
        if value.is_none() {
            let at = Range { start: self.text.len(), end: self.text.len() };
            let error = Diagnostic::error(codes::SYNTAX, self.span(at), "the file holds no JSON value");
            self.diagnostics.push(error.help("`knapsack init` writes a manifest to start from"));
        }
        value.map(|value| self.node(value, 0))
    }

    fn node(&mut self, value: ast::Value<'_>, depth: usize) -> Node {
        let span = self.span(value.range());
        if depth > MAX_NESTING {
            let message = format!("nested deeper than {MAX_NESTING} levels");
            self.diagnostics.push(Diagnostic::error(codes::TOO_LARGE, Span { end: span.start + 1, ..span }, message));
            return Node { span, kind: Kind::Reported };
        }
        let kind = match value {
            ast::Value::NullKeyword(_) => Kind::Null,
            ast::Value::BooleanLit(literal) => Kind::Bool(literal.value),
            ast::Value::NumberLit(literal) if is_json_number(literal.value) => Kind::Number(literal.value.to_owned()),
            ast::Value::NumberLit(_) => Kind::Reported,
            ast::Value::StringLit(literal) => Kind::String(literal.value.into_owned()),
            ast::Value::Array(array) => {
                Kind::List(array.elements.into_iter().map(|element| self.node(element, depth + 1)).collect())
            }
            ast::Value::Object(object) => Kind::Object(self.members(object, depth)),
        };
        Node { span, kind }
    }

    fn members(&mut self, object: ast::Object<'_>, depth: usize) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::new();
        let mut first_of = std::collections::HashMap::new();
        for property in object.properties {
            let span = self.span(property.name.range());
            let key = property.name.into_string();
            let value = self.node(property.value, depth + 1);
            if let Some(first) = first_of.get(&key) {
                let message = format!("the key {} stands twice in one object", quoted(&key));
                let error = Diagnostic::error(codes::DUPLICATE_KEY, span, message).label("again here");
                self.diagnostics.push(error.related(*first, "first here"));
                continue;
            }
            first_of.insert(key.clone(), span);
            members.push(Member { key: Spanned::new(key, span), value });
        }
        members
    }

    fn syntax_error(&mut self, error: &ParseError) {
        let message = error.kind().to_string();
        let mut letters = message.chars();
        let message: String = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
        let code = match error.kind() {
            ParseErrorKind::NestingDepthExceeded => codes::TOO_LARGE,
            _ => codes::SYNTAX,
        };
        let help = match error.kind() {
            ParseErrorKind::UnterminatedObject => Some("a closing `}` is missing".to_owned()),
            ParseErrorKind::UnterminatedArray => Some("a closing `]` is missing".to_owned()),
            _ => None,
        };
        self.diagnostics.push(Diagnostic::error(code, self.span(error.range()), message).maybe_help(help));
    }

    /// Reports what only the lenient grammar accepts. Says whether there was any.
    fn slips(&mut self, tokens: &[TokenAndRange<'_>]) -> bool {
        let before = self.diagnostics.len();
        for (index, token) in tokens.iter().enumerate() {
            if let Some(previous) = index.checked_sub(1).map(|index| &tokens[index])
                && ends_value(&previous.token)
                && starts_value(&token.token)
            {
                let at = Range { start: previous.range.end, end: previous.range.end };
                self.slip(at, "a comma is missing", "expected `,` here".to_owned());
            }
            let is_key = tokens.get(index + 1).is_some_and(|next| next.token == Token::Colon);
            let source = self.text.get(token.range.start..token.range.end).unwrap_or_default();
            match &token.token {
                Token::String(value) if source.starts_with('\'') => {
                    let written = serde_json::Value::from(value.as_ref()).to_string();
                    self.slip(token.range, "strings need double quotes", format!("write {written}"));
                }
                Token::Word(_) | Token::Number(_) | Token::Boolean(_) | Token::Null if is_key => {
                    self.slip(token.range, "keys need double quotes", format!("write \"{source}\""));
                }
                Token::Number(number) if !is_json_number(number) => {
                    self.slip(token.range, "not a JSON number", "write it with decimal digits".to_owned());
                }
                _ => {}
            }
        }
        self.diagnostics.len() > before
    }

    fn slip(&mut self, range: Range, message: &str, label: String) {
        self.diagnostics.push(Diagnostic::error(codes::SYNTAX, self.span(range), message).label(label));
    }
}

fn ends_value(token: &Token<'_>) -> bool {
    matches!(token, Token::CloseBrace | Token::CloseBracket) || is_literal(token)
}

fn starts_value(token: &Token<'_>) -> bool {
    matches!(token, Token::OpenBrace | Token::OpenBracket) || is_literal(token)
}

fn is_literal(token: &Token<'_>) -> bool {
    matches!(token, Token::String(_) | Token::Word(_) | Token::Boolean(_) | Token::Number(_) | Token::Null)
}

/// JSON's own grammar of numbers: `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> (Option<Node>, Vec<String>) {
        let mut sources = SourceMap::default();
        let file = sources.add("m.json".into(), text.to_owned());
        let mut diagnostics = Vec::new();
        let node = parse(&sources, file, &mut diagnostics);
        let shown = diagnostics.iter().map(|found| {
            let place = found.span.map(|span| sources.position(span).to_string()).unwrap_or_default();
            format!("{place} {} {}", found.message, found.label).trim_end().to_owned()
        });
        (node, shown.collect())
    }

    #[test]
    fn comments_and_trailing_commas_are_fine() {
        let (node, found) = findings("// a\n{ \"a\": [1, /* b */ 2,], }\n");
        assert!(node.is_some() && found.is_empty(), "{found:?}");
    }

    #[test]
    fn every_slip_is_told() {
        let (node, found) = findings("{\n  a: 'x'\n  \"b\": +1,\n  \"c\": [1 2 0x10]\n}");
        assert!(node.is_some());
        assert_eq!(
            found,
            [
                "2:3 keys need double quotes write \"a\"",
                "2:6 strings need double quotes write \"x\"",
                "2:9 a comma is missing expected `,` here",
                "3:8 not a JSON number write it with decimal digits",
                "4:10 a comma is missing expected `,` here",
                "4:12 a comma is missing expected `,` here",
                "4:13 not a JSON number write it with decimal digits",
            ]
        );
    }

    #[test]
    fn what_can_not_be_understood_stops_the_file() {
        let (node, found) = findings("{\"a\": }");
        assert!(node.is_none() && found.len() == 1, "{found:?}");
        let (node, found) = findings("");
        assert!(node.is_none() && found == ["1:1 the file holds no JSON value"], "{found:?}");
    }

    #[test]
    fn nesting_is_capped() {
        let (_, found) = findings(&("[".repeat(70) + &"]".repeat(70)));
        assert_eq!(found, ["1:66 nested deeper than 64 levels"]);
        let (node, found) = findings(&"[".repeat(100_000));
        assert!(node.is_none() && found.len() == 1, "{found:?}");
    }

    #[test]
    fn numbers_follow_the_grammar() {
        for good in ["0", "-0", "12", "1.5", "1e9", "-2.5E+3"] {
            assert!(is_json_number(good), "{good}");
        }
        for bad in ["", "-", "+1", "01", ".5", "5.", "0x1", "1e", "NaN", "1e+-2", "１"] {
            assert!(!is_json_number(bad), "{bad}");
        }
    }
}
