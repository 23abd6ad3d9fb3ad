//! Dependencies that nothing uses: of each crate, those that its sources never name; in the workspace's table, those that no
//! crate takes; in docs/DEPENDENCIES.md, those that have no row.

use crate::architecture::{metadata, text};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let sources = crate::files::sources(root)?;
    let mut problems = Vec::new();
    let mut taken = BTreeSet::new();
    for package in metadata(root)?["packages"].as_array().context("packages")? {
        let folder =
            Path::new(text(package, "manifest_path")?).parent().context("manifest_path")?.strip_prefix(root)?;
        let of_package = sources.iter().filter(|(path, _)| path.starts_with(folder));
        let code: Vec<&str> = of_package.map(|(_, code)| code.as_str()).collect();
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let name = text(dependency, "name")?;
            let known_as = dependency["rename"].as_str().unwrap_or(name).replace('-', "_");
            // `md-5` is the crate `md5`.
            let spellings = [known_as.clone(), known_as.replace('_', "")];
            if !code.iter().any(|code| spellings.iter().any(|spelling| names(code, spelling))) {
                problems.push(format!("{} depends on {name} and never names it", text(package, "name")?));
            }
            taken.insert(name.to_owned());
        }
    }
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).context("Cargo.toml")?;
    let rows = std::fs::read_to_string(root.join("docs/DEPENDENCIES.md")).context("docs/DEPENDENCIES.md")?;
    for (name, ours) in table(&manifest) {
        if !taken.contains(name) {
            problems.push(format!("the workspace's table has {name}, which no crate takes"));
        } else if !ours && !rows.contains(&format!("`{name}`")) {
            problems.push(format!("docs/DEPENDENCIES.md has no row for {name}"));
        }
    }
    Ok(problems)
}

/// Whether the code names a crate: a word of its own, not part of another.
fn names(code: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| !code[..at].ends_with(part) && !code[at + name.len()..].starts_with(part))
}

/// Entries of `[workspace.dependencies]`, and whether they are this workspace's own crates.
fn table(manifest: &str) -> Vec<(&str, bool)> {
    let lines = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let rows = lines.take_while(|line| !line.starts_with('['));
    rows.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim(), value.contains("path ="))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_word() {
        assert!(names("use rand::Rng;", "rand") && names("rand", "rand"));
        assert!(!names("use operand::x; random()", "rand"));
    }

    #[test]
    fn the_table_ends_with_its_section() {
        let manifest = "[a]\nx = 1\n[workspace.dependencies]\nours = { path = \"o\" }\n\nserde = \"1\"\n[b]\ny = 2\n";
        assert_eq!(table(manifest), [("ours", true), ("serde", false)]);
    }
}
