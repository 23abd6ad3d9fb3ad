//! `knapsack cache list|verify|clean`.

use crate::cli::{CacheArgs, CacheCommand};
use crate::report::Reporter;
use crate::table::{Align, Table, bytes};
use anyhow::Result;
use knapsack_bundle::Cache;
use knapsack_bundle::cache::{Summary, Verified};
use serde_json::{Value, json};
use std::time::UNIX_EPOCH;

/// The cache where the environment wants it.
///
/// # Errors
/// When the environment does not even name a home folder.
pub fn open() -> Result<Cache> {
    Ok(Cache::at(Cache::place(|name| std::env::var_os(name))?))
}

/// Shows, checks or empties the cache.
pub fn run(args: &CacheArgs, reporter: &Reporter) -> Result<()> {
    let cache = open()?;
    match &args.command {
        CacheCommand::List(form) => list(&cache, form.json || reporter.is_json(), reporter),
        CacheCommand::Verify(form) => verify(&cache, form.json || reporter.is_json(), reporter),
        CacheCommand::Clean(form) => clean(&cache, form.json || reporter.is_json(), reporter),
    }
}

fn summary(summary: &Summary) -> Value {
    let made = summary.made.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs());
    json!({
        "bucket": summary.bucket.folder(),
        "key": summary.key.to_string(),
        "path": summary.path,
        "bytes": summary.bytes,
        "subject": summary.inputs.as_ref().map(|inputs| &inputs.subject),
        "inputs": summary.inputs.as_ref().map(|inputs| &inputs.values),
        "made_unix_seconds": made,
    })
}

fn subject(summary: &Summary) -> String {
    summary.inputs.as_ref().map_or_else(|| "(unreadable)".to_string(), |inputs| inputs.subject.clone())
}

fn table(entries: &[Summary]) -> Table {
    let mut table =
        Table::new(&[("bucket", Align::Left), ("key", Align::Left), ("size", Align::Right), ("for", Align::Left)]);
    for entry in entries {
        let key = entry.key.to_string();
        table.row([entry.bucket.folder().into(), key[..12].into(), bytes(entry.bytes), subject(entry)]);
    }
    table
}

fn list(cache: &Cache, json: bool, reporter: &Reporter) -> Result<()> {
    let entries = cache.list();
    let total = entries.iter().map(|entry| entry.bytes).sum();
    if json {
        let entries: Vec<_> = entries.iter().map(summary).collect();
        return reporter.line(json!({ "path": cache.root(), "bytes": total, "entries": entries }));
    }
    let plural = if entries.len() == 1 { "entry" } else { "entries" };
    reporter.line(format_args!("{}: {} {plural}, {}", cache.root().display(), entries.len(), bytes(total)))?;
    if entries.is_empty() { Ok(()) } else { reporter.stdout(|out| write!(out, "{}", table(&entries))) }
}

/// Damaged entries are removed, so that they are made again when they are needed; their presence is still a failure.
fn verify(cache: &Cache, json: bool, reporter: &Reporter) -> Result<()> {
    let verified = cache.verify(true)?;
    let damaged: Vec<&Verified> = verified.iter().filter(|entry| !entry.problems.is_empty()).collect();
    if json {
        let problems: Vec<_> = damaged
            .iter()
            .map(|entry| json!({ "entry": summary(&entry.summary), "problems": entry.problems }))
            .collect();
        reporter.line(json!({ "path": cache.root(), "checked": verified.len(), "damaged": problems }))?;
    } else {
        for entry in &damaged {
            let (key, problems) = (&entry.summary.key, entry.problems.join("; "));
            reporter.line(format_args!("{key} ({}): {problems}: removed", subject(&entry.summary)))?;
        }
        reporter.line(format_args!("{} checked, {} damaged", verified.len(), damaged.len()))?;
    }
    anyhow::ensure!(damaged.is_empty(), "{} of {} cache entries were damaged", damaged.len(), verified.len());
    Ok(())
}

fn clean(cache: &Cache, json: bool, reporter: &Reporter) -> Result<()> {
    let cleaned = cache.clean()?;
    if json {
        return reporter.line(json!({
            "path": cache.root(),
            "removed": cleaned.entries,
            "bytes": cleaned.bytes,
            "in_use": cleaned.in_use,
        }));
    }
    if cleaned.in_use > 0 {
        reporter.warning(format_args!("{} entries are in use by another run and stay", cleaned.in_use));
    }
    reporter.line(format_args!("{} entries removed, {}", cleaned.entries, bytes(cleaned.bytes)))
}
