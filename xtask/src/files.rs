//! Rules about single files: their length, and that nothing names a path of somebody's machine.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a Rust file beyond which it should be split.
const MAX_LINES: usize = 800;

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for (path, text) in sources(root)? {
        let lines = text.lines().count();
        if lines > MAX_LINES && !path.ends_with("tests.rs") {
            problems.push(format!("{}: {lines} lines, {MAX_LINES} at most", path.display()));
        }
    }
    for path in tracked(root)? {
        let Ok(text) = std::fs::read_to_string(root.join(&path)) else { continue };
        if path.starts_with("xtask")
            || path.extension().is_some_and(|e| e == "lock" || e == "safetensors" || e == "bin")
        {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if ["/home/", "/root/", "/Users/", "/work/"].iter().any(|p| names_a_folder(line, p)) {
                problems.push(format!("{}:{}: names a path of a machine", path.display(), number + 1));
            }
        }
    }
    Ok(problems)
}

/// Whether an absolute path below `prefix` stands in the line (and not merely a URL or a placeholder that contains it).
fn names_a_folder(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + prefix.len()..].chars().next();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '.' | '-' | '_' | '/' | '}' | '~'))
            && after.is_some_and(|c| c.is_ascii_lowercase())
    })
}

/// Every Rust source that git tracks, with its text.
pub(crate) fn sources(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    tracked(root)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs") && root.join(path).exists())
        .map(|path| {
            let text = std::fs::read_to_string(root.join(&path)).with_context(|| path.display().to_string())?;
            Ok((path, text))
        })
        .collect()
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().context("cannot run git")?;
    let list = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    Ok(list.split('\0').filter(|p| !p.is_empty()).map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::names_a_folder;

    #[test]
    fn only_absolute_paths_count() {
        assert!(names_a_folder("see /home/ada/x", "/home/"));
        assert!(!names_a_folder("https://example.org/home/ada", "/home/"));
    }
}
