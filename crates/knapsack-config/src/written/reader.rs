//! From JSON values to typed ones, with an error at its place for each that is of another type.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::parse::{Kind, Member, Node};
use crate::source_map::Span;

/// What reading one file needs and leaves.
pub(crate) struct Reader<'a> {
    pub(crate) hf_endpoint: Option<&'a str>,
    /// Whether the file extends another: only then null means something.
    pub(crate) extends: bool,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    pub(crate) fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
    ) {
        self.diagnostics.push(Diagnostic::error(code, span, message).label(label));
    }

    pub(crate) fn wrong_type(&mut self, node: &Node, expected: &str) {
        if node.kind != Kind::Reported {
            let message = format!("expected {expected}, found {}", node.describe());
            self.error(codes::WRONG_TYPE, node.span, message, format!("expected {expected}"));
        }
    }

    pub(crate) fn object<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Member]> {
        if let Kind::Object(members) = &node.kind {
            return Some(members);
        }
        self.wrong_type(node, &format!("an object ({what})"));
        None
    }

    pub(crate) fn list<'n>(&mut self, node: &'n Node, of: &str) -> Option<&'n [Node]> {
        if let Kind::List(items) = &node.kind {
            return Some(items);
        }
        self.wrong_type(node, &format!("a list of {of}"));
        None
    }

    pub(crate) fn string<'n>(&mut self, node: &'n Node) -> Option<&'n str> {
        if let Kind::String(text) = &node.kind {
            return Some(text);
        }
        self.wrong_type(node, "a string");
        None
    }

    pub(crate) fn bool(&mut self, node: &Node) -> Option<bool> {
        if let Kind::Bool(value) = node.kind {
            return Some(value);
        }
        self.wrong_type(node, "true or false");
        None
    }
}
