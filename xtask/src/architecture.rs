//! Holds ARCHITECTURE.md against the workspace: the crate table is the list of allowed dependencies, and every path and type
//! that the text names must exist.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Crates that only tests use: any crate may have them as a dev-dependency, and they may depend on anything.
const DEVELOPMENT: [&str; 2] = ["knapsack-testkit", "xtask"];

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let mut problems = arrows(&text, &dependencies(root)?);
    problems.extend(names(root, &text)?);
    Ok(problems)
}

/// Normal and build dependencies between the workspace's crates.
fn dependencies(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut graph = BTreeMap::new();
    for package in metadata(root)?["packages"].as_array().context("packages")? {
        let name = text(package, "name")?.to_owned();
        let list = package["dependencies"].as_array().context("dependencies")?;
        let used = list
            .iter()
            .filter(|d| d["kind"].as_str() != Some("dev") && d["path"].is_string())
            .filter_map(|d| d["name"].as_str().map(str::to_owned))
            .collect();
        graph.insert(name, used);
    }
    Ok(graph)
}

/// What cargo knows of the workspace's own crates.
pub(crate) fn metadata(root: &Path) -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// A string of an object.
pub(crate) fn text<'a>(object: &'a Value, key: &'static str) -> Result<&'a str> {
    object[key].as_str().context(key)
}

/// The crate table: rows "| `knapsack-x` | role | a, b |"; "–" is nothing, "all" everything.
fn allowed(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
            let name = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
            (cells.len() == 3 && name.starts_with("knapsack")).then(|| (name.to_owned(), cells[2].to_owned()))
        })
        .collect();
    let everything: BTreeSet<String> = rows.iter().map(|(name, _)| name.clone()).collect();
    rows.iter()
        .map(|(name, cell)| {
            let list = |cell: &str| -> BTreeSet<String> {
                cell.split(',').map(|c| format!("knapsack-{}", c.trim())).filter(|c| everything.contains(c)).collect()
            };
            (name.clone(), if cell == "all" { everything.clone() } else { list(cell) })
        })
        .collect()
}

fn arrows(text: &str, graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let table = allowed(text);
    let mut problems = Vec::new();
    for (name, used) in graph {
        if DEVELOPMENT.contains(&name.as_str()) {
            continue;
        }
        let Some(may) = table.get(name) else {
            problems.push(format!("crate {name} is missing in the crate table of ARCHITECTURE.md"));
            continue;
        };
        for other in used.difference(may).filter(|other| *other != name) {
            problems
                .push(format!("{name} depends on {other}: that arrow is not in the crate table of ARCHITECTURE.md"));
        }
        // "all" is a permission, not a list.
        for other in may.difference(used).filter(|_| may.len() < table.len()) {
            problems.push(format!("ARCHITECTURE.md allows {name} to depend on {other}, and it does not"));
        }
    }
    problems.extend(
        table
            .keys()
            .filter(|name| !graph.contains_key(*name))
            .map(|name| format!("ARCHITECTURE.md names {name}, which is gone")),
    );
    problems
}

/// Code spans that look like a path must exist; those that look like a Rust type must be defined somewhere.
fn names(root: &Path, text: &str) -> Result<Vec<String>> {
    let sources = crate::files::sources(root)?;
    let mut problems = Vec::new();
    let prose: String = text.split("```").step_by(2).collect();
    for span in prose.split('`').skip(1).step_by(2) {
        let is_path = (span.starts_with("crates/") || span.starts_with("xtask/") || span.starts_with("docs/"))
            && !span.contains(['<', '*', '{', ' ']);
        if is_path && !root.join(span).exists() {
            problems.push(format!("ARCHITECTURE.md names {span}, which does not exist"));
        }
        let mut letters = span.chars();
        let is_type = letters.next().is_some_and(|c| c.is_ascii_uppercase())
            && span.chars().any(|c| c.is_ascii_lowercase())
            && letters.all(|c| c.is_ascii_alphanumeric());
        let defined = |(_, code): &(_, String)| {
            ["struct ", "enum ", "trait ", "type "].iter().any(|kind| {
                code.match_indices(&format!("{kind}{span}")).any(|(at, found)| {
                    !code[at + found.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                })
            })
        };
        if is_type && !sources.iter().any(defined) {
            problems.push(format!("ARCHITECTURE.md names the type {span}, which is not defined"));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| crate | role | may depend on |\n|---|---|---|\n| `knapsack-a` | x | – |\n| `knapsack-b` | y | a |\n| `knapsack` | z | all |\n";

    fn graph(arrows: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
        arrows.iter().map(|(n, to)| (n.to_string(), to.iter().map(|t| t.to_string()).collect())).collect()
    }

    #[test]
    fn the_table_decides() {
        let right = graph(&[("knapsack-a", &[]), ("knapsack-b", &["knapsack-a"]), ("knapsack", &["knapsack-a"])]);
        assert_eq!(arrows(TABLE, &right), Vec::<String>::new());
        let wrong =
            graph(&[("knapsack-a", &["knapsack-b"]), ("knapsack-b", &["knapsack-a"]), ("knapsack", &["knapsack-c"])]);
        assert_eq!(arrows(TABLE, &wrong).len(), 2);
        let unused = graph(&[("knapsack-a", &[]), ("knapsack-b", &[]), ("knapsack", &[])]);
        assert_eq!(
            arrows(TABLE, &unused),
            ["ARCHITECTURE.md allows knapsack-b to depend on knapsack-a, and it does not"]
        );
    }

    #[test]
    fn a_new_or_a_gone_crate_is_noticed() {
        let new = graph(&[("knapsack-a", &[]), ("knapsack-c", &[]), ("knapsack", &[])]);
        let problems = arrows(TABLE, &new);
        assert!(
            problems[0].contains("knapsack-c is missing") && problems[1].contains("knapsack-b, which is gone"),
            "{problems:?}"
        );
    }
}
