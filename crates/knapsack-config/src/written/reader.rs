//! From JSON values to typed ones, with an error at its place for each that is of another type.

use super::object::{Field, Given, Key, Value};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::parse::{Kind, Member, Node};
use crate::render::quoted;
use crate::source_map::Span;
use crate::suggest::nearest;

/// What reading one file needs and leaves.
pub(crate) struct Reader<'a> {
    pub(crate) hf_endpoint: Option<&'a str>,
    /// Whether the file extends another: only then null means something.
    pub(crate) extends: bool,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
}

/// Keys of another place, and what that place is called.
pub(crate) type Elsewhere<'a> = (&'a [&'a str], &'a str);

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

    /// A key's value of the kind that its row names.
    pub(crate) fn field<T: Value>(&mut self, member: &Member) -> Field<T> {
        if T::REMOVABLE {
            return self.removable(member, |reader, node| T::read(node, reader));
        }
        let given = T::read(&member.value, self).map_or(Given::Wrong, Given::Value);
        Field { key: member.key.span, span: member.value.span, given }
    }

    /// A value that null may remove.
    pub(crate) fn removable<T>(
        &mut self,
        member: &Member,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Field<T> {
        let node = &member.value;
        let given = if node.kind == Kind::Null {
            self.null(node.span)
        } else {
            read(self, node).map_or(Given::Wrong, Given::Value)
        };
        Field { key: member.key.span, span: node.span, given }
    }

    fn null<T>(&mut self, span: Span) -> Given<T> {
        if self.extends {
            return Given::Null;
        }
        let error = Diagnostic::error(codes::NULL_WITHOUT_BASE, span, "null has nothing to remove")
            .label("leave the key out")
            .help("null removes what a file named by `extends` says; this file extends nothing");
        self.diagnostics.push(error);
        Given::Wrong
    }

    /// Reports every key that is not known, with the key that was probably meant or the place where it belongs.
    pub(crate) fn unknown_keys(
        &mut self,
        members: &[Member],
        known: &[&str],
        place: &str,
        elsewhere: &[Elsewhere<'_>],
    ) {
        for member in members.iter().filter(|member| !known.contains(&member.key.value.as_str())) {
            let key = member.key.value.as_str();
            let home = elsewhere.iter().find(|(keys, _)| keys.contains(&key));
            let label = match (home, nearest(key, known.iter().copied())) {
                (Some((_, home)), _) => format!("this belongs into {home}"),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => "unknown".to_owned(),
            };
            let message = format!("unknown key {} in {place}", quoted(key));
            let mut error = Diagnostic::error(codes::UNKNOWN_KEY, member.key.span, message).label(label);
            if home.is_none() {
                let accepted: Vec<&str> = known.iter().copied().filter(|key| !key.starts_with('$')).collect();
                error = error.help(format!("accepted are {}", accepted.join(", ")));
            }
            self.diagnostics.push(error);
        }
    }
}

/// The names of keys, in the order of their rows.
pub(crate) fn names(keys: &[Key]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
}
