//! Keys that are not known where they stand.

use super::object::Key;
use super::reader::Reader;
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::parse::Member;
use crate::render::quoted;
use crate::suggest::nearest;

impl Reader<'_> {
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
