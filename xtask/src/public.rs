//! Public functions and constants that nobody outside of their crate names: they should be `pub(crate)`, where the compiler tells
//! when nobody uses them at all. Types are left out, because signatures reach them; so are rows of tables (constants of the type
//! that has them), and what a crate's documentation links to.

use anyhow::Result;
use std::collections::{BTreeSet, HashSet};
use std::path::Path;

/// Crates whose users are not in this workspace: a program, and what apps in other languages link.
const FOR_OTHERS: [&str; 2] = ["crates/knapsack/src/", "crates/knapsack-ffi/src/"];

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let sources = crate::files::sources(root)?;
    let sources: Vec<(String, &str)> =
        sources.iter().map(|(path, text)| (path.to_string_lossy().replace('\\', "/"), text.as_str())).collect();
    let roots: BTreeSet<&str> = sources.iter().filter_map(|(path, _)| path.strip_suffix("lib.rs")).collect();
    let mut problems = Vec::new();
    for folder in roots.into_iter().filter(|folder| !FOR_OTHERS.contains(folder)) {
        let (own, others): (Vec<_>, Vec<_>) = sources.iter().partition(|(path, _)| path.starts_with(folder));
        let named: HashSet<&str> = others.iter().flat_map(|(_, text)| words(text)).collect();
        let documented: String = own.iter().flat_map(|(_, text)| comments(text)).collect();
        for (path, text) in own {
            let linked = |name: &str| {
                [format!("[`{name}`]"), format!("::{name}`]"), format!("[`{name}()`]")]
                    .iter()
                    .any(|link| documented.contains(link.as_str()))
            };
            let unused = public(text).filter(|(_, name)| !named.contains(name) && !linked(name));
            problems.extend(unused.map(|(line, name)| format!("{path}:{line}: `{name}` can be pub(crate)")));
        }
    }
    Ok(problems)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn comments(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.trim_start().starts_with("//"))
}

/// Public functions and constants before the tests, with their lines.
fn public(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    code.lines().enumerate().filter_map(|(line, code)| {
        let mut words = words(code.trim_start().strip_prefix("pub ")?.split(['(', '<', ':']).next()?);
        let keyword = words.find(|word| !matches!(*word, "const" | "unsafe" | "async"));
        let name = match keyword? {
            "fn" => words.next()?,
            name if code.contains("pub const ") && !is_row(code) => name,
            _ => return None,
        };
        Some((line + 1, name))
    })
}

/// Whether a constant is of a type of its crate, written as a row of it.
fn is_row(code: &str) -> bool {
    let kind = code.split_once(": ").map_or("", |(_, kind)| kind);
    code.starts_with(' ') && kind.starts_with(char::is_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_and_constants_are_found() {
        let text = "\
pub const MAX: usize = 1;
pub(crate) const LEAST: usize = 1;
pub struct Row;
impl Row {
    pub const FIRST: Row = Row;
    pub const COUNT: u32 = 1;
    pub const fn new() -> Self {}
    pub unsafe fn raw<T>() {}
    fn own() {}
}

#[cfg(test)]
mod tests {
    pub fn of_tests() {}
}
";
        let found: Vec<_> = public(text).collect();
        assert_eq!(found, [(1, "MAX"), (6, "COUNT"), (7, "new"), (8, "raw")]);
    }
}
