//! Files that the sources make: the JSON Schema of the manifest, and the tables of its keys in the documentation.

use anyhow::{Context, Result};
use std::path::Path;

/// What stands around the tables.
const TABLES: (&str, &str) = ("<!-- keys -->\n", "<!-- /keys -->\n");

/// Each file that is not what the sources say, with what it should be.
fn stale(root: &Path) -> Result<Vec<(&'static str, String)>> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    let manual = read("docs/manifest.md")?;
    let right =
        between(&manual, TABLES, &knapsack_config::key_tables()).context("docs/manifest.md has no place for keys")?;
    let files = [
        ("docs/manifest.md", manual, right),
        (
            "schemas/mlc-package-config.schema.json",
            read("schemas/mlc-package-config.schema.json")?,
            knapsack_config::json_schema(),
        ),
    ];
    Ok(files.into_iter().filter(|(_, kept, right)| kept != right).map(|(path, _, right)| (path, right)).collect())
}

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let problem = |(path, _)| format!("{path} is not what the sources say: run `cargo xtask generate`");
    Ok(stale(root)?.into_iter().map(problem).collect())
}

/// Writes what is not right.
pub(crate) fn write(root: &Path) -> Result<()> {
    for (path, right) in stale(root)? {
        std::fs::write(root.join(path), right).with_context(|| path.to_owned())?;
        println!("wrote {path}");
    }
    Ok(())
}

/// The text with `content` between the two marks, each of which stands once.
fn between(text: &str, (begin, end): (&str, &str), content: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}{content}{end}{after}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_stands_between_the_marks_is_replaced() {
        let replaced = super::between("a[old]b", ("[", "]"), "new");
        assert_eq!(replaced.as_deref(), Some("a[new]b"));
        assert_eq!(super::between("a[old", ("[", "]"), "new"), None);
    }

    #[test]
    fn the_kept_files_are_up_to_date() {
        let problems = super::check(&crate::root()).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
}
