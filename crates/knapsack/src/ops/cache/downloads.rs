//! The part of the cache that is shared with Python: models downloaded from a hub.

use crate::report::Reporter;
use crate::table::{Align, Table, bytes};
use anyhow::{Context, Result};
use knapsack_source::{CachedRepository, Damage, Settings};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// What `clean` did.
#[derive(Debug, Default)]
pub(super) struct Cleaned {
    /// Bytes of interrupted downloads.
    pub(super) partial: u64,
    /// Removed repositories and their bytes.
    pub(super) removed: Vec<(String, u64)>,
}

pub(super) fn json(settings: &Settings, repositories: &[CachedRepository]) -> Value {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok();
    let commit = |commit: &knapsack_source::CachedCommit| json!({ "commit": commit.commit, "refs": commit.refs, "files": commit.files, "bytes": commit.size });
    let entries = repositories.iter().map(|found| {
        json!({
            "repository": found.repository.to_string(),
            "path": found.path,
            "bytes": found.size,
            "incomplete_bytes": found.incomplete,
            "commits": found.commits.iter().map(commit).collect::<Vec<_>>(),
            "last_used_unix_seconds": found.last_used.and_then(seconds),
            "used_by": found.used_by,
        })
    });
    json!({ "path": settings.cache, "bytes": total(repositories), "repositories": entries.collect::<Vec<_>>() })
}

pub(super) fn list(settings: &Settings, repositories: &[CachedRepository], reporter: &Reporter) -> Result<()> {
    let plural = if repositories.len() == 1 { "repository" } else { "repositories" };
    let (place, size) = (settings.cache.display(), bytes(total(repositories)));
    reporter.line(format_args!("{place}: {} downloaded {plural}, {size}", repositories.len()))?;
    if repositories.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[
        ("repository", Align::Left),
        ("commits", Align::Right),
        ("size", Align::Right),
        ("last used", Align::Left),
        ("named by", Align::Left),
    ]);
    for found in repositories {
        let used_by: Vec<_> = found.used_by.iter().map(|path| path.display().to_string()).collect();
        let used_by = if used_by.is_empty() { "-".to_owned() } else { used_by.join(", ") };
        let last_used = found.last_used.map_or_else(|| "not by Knapsack".to_owned(), age);
        let (name, commits) = (found.repository.to_string(), found.commits.len().to_string());
        table.row([name, commits, bytes(found.size), last_used, used_by]);
    }
    reporter.stdout(|out| write!(out, "{table}"))
}

/// Checks every download. Damaged files are removed: whoever needs them downloads them again.
pub(super) fn verify(settings: &Settings, reporter: &Reporter) -> Result<(usize, Vec<Damage>)> {
    let mut checked = 0;
    let damage = knapsack_source::verify_downloads(settings, &mut |path| {
        checked += 1;
        reporter.detail("Verifying", path.display());
    })?;
    for found in &damage {
        let path = &found.path;
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok((checked, damage))
}

/// Removes interrupted downloads, and on demand what Knapsack used once and no lockfile names any more.
pub(super) fn clean(settings: &Settings, unused: bool) -> Result<Cleaned> {
    let mut cleaned = Cleaned { partial: knapsack_source::clean_partial_downloads(settings)?, removed: Vec::new() };
    if unused {
        let repositories = knapsack_source::list_downloads(settings)?;
        for found in repositories.iter().filter(|found| found.last_used.is_some() && found.used_by.is_empty()) {
            let freed = knapsack_source::remove_download(settings, &found.repository)?;
            cleaned.removed.push((found.repository.to_string(), freed));
        }
    }
    Ok(cleaned)
}

fn total(repositories: &[CachedRepository]) -> u64 {
    repositories.iter().map(|found| found.size).sum()
}

/// How long ago, in days.
fn age(time: SystemTime) -> String {
    match time.elapsed().unwrap_or_default().as_secs() / 86_400 {
        0 => "today".to_owned(),
        1 => "yesterday".to_owned(),
        days => format!("{days} days ago"),
    }
}
