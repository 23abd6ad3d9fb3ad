//! From JSON values to typed ones, with an error at its place for each that is of another type.

use super::object::{Field, Given, Key, Null, Value};
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
        self.value(member, T::NULL, |reader, node| T::read(node, reader))
    }

    /// A key's value, which null may stand in place of.
    pub(crate) fn value<T>(
        &mut self,
        member: &Member,
        null: Null,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Field<T> {
        let node = &member.value;
        let given = match null {
            Null::Removes | Null::Absent if node.kind == Kind::Null => self.null(node.span, null),
            _ => read(self, node).map_or(Given::Wrong, Given::Value),
        };
        Field { key: member.key.span, span: node.span, given }
    }

    fn null<T>(&mut self, span: Span, null: Null) -> Given<T> {
        if self.extends || null == Null::Absent {
            return Given::Null;
        }
        let error = Diagnostic::error(codes::NULL_WITHOUT_BASE, span, "null has nothing to remove")
            .label("leave the key out")
            .help("null removes what a file named by `extends` says; this file extends nothing");
        self.diagnostics.push(error);
        Given::Wrong
    }

    /// Looks at the keys that are not known. One that was probably meant to be a known one, or belongs elsewhere, is an error; of the
    /// others there is a warning that says `so`.
    pub(crate) fn unknown_keys<'m, 'p>(
        &mut self,
        members: &'m [Member],
        place: &Place<'p>,
        so: &str,
        help: &str,
    ) -> Unknown<'m, 'p> {
        let known = |key: &str| place.keys.contains(&key);
        let mut unknown = Unknown { own: Vec::new(), meant: Vec::new() };
        for member in members.iter().filter(|member| !known(&member.key.value)) {
            let key = member.key.value.as_str();
            let message = format!("unknown key {} in {}", quoted(key), place.name);
            if let Some((_, home)) = place.elsewhere.iter().find(|(keys, _)| keys.contains(&key)) {
                self.error(codes::UNKNOWN_KEY, member.key.span, message, format!("this belongs into {home}"));
            } else if let Some(near) = place.meant(key) {
                unknown.meant.push((near, member));
                let accepted: Vec<&str> = place.keys.iter().copied().filter(|key| !key.starts_with('$')).collect();
                let error = Diagnostic::error(codes::UNKNOWN_KEY, member.key.span, message)
                    .label(format!("did you mean `{near}`?"))
                    .help(format!("accepted are {}", accepted.join(", ")));
                self.diagnostics.push(error);
            } else {
                let warning = Diagnostic::warning(codes::UNKNOWN_KEY, member.key.span, message).label(so);
                self.diagnostics.push(warning.help(help));
                unknown.own.push(member);
            }
        }
        unknown
    }
}

/// Keys that are not known where they stand.
pub(crate) struct Unknown<'m, 'p> {
    /// Those that resemble no known one.
    pub(crate) own: Vec<&'m Member>,
    /// Those that were probably meant to be a known one, and which.
    pub(crate) meant: Vec<(&'p str, &'m Member)>,
}

/// Where keys stand: for those that are not known there.
pub(crate) struct Place<'a> {
    /// As messages name it.
    pub(crate) name: &'a str,
    /// What is known.
    pub(crate) keys: &'a [&'a str],
    /// What known keys are called in other files.
    pub(crate) rows: &'static [Key],
    /// Keys of other places, and what those are called.
    pub(crate) elsewhere: &'a [(&'a [&'a str], &'a str)],
}

impl<'a> Place<'a> {
    /// What an unknown key was probably meant to be.
    fn meant(&self, key: &str) -> Option<&'a str> {
        let other = self.rows.iter().find(|row| row.elsewhere.contains(&key)).map(|row| row.name);
        other.or_else(|| nearest(key, self.keys.iter().copied()))
    }
}

/// The names of keys, in the order of their rows.
pub(crate) fn names(keys: &[Key]) -> Vec<&'static str> {
    keys.iter().map(|key| key.name).collect()
}
