//! `knapsack cache …`: what was computed (Knapsack's own cache, and the one that a team shares) and what was downloaded (the hub
//! cache, shared with Python).

mod downloads;
mod shared;

use crate::cli::{CacheArgs, CacheCleanArgs, CacheCommand};
use crate::packaging;
use crate::report::Reporter;
use crate::table::{Align, Table, bytes};
use anyhow::Result;
use knapsack_bundle::Cache;
use knapsack_bundle::cache::{Summary, Verified};
use knapsack_source::Settings;
use serde_json::{Value, json};
use std::time::UNIX_EPOCH;

/// Shows, checks or empties the cache.
pub fn run(args: &CacheArgs, reporter: &Reporter) -> Result<()> {
    let cache = packaging::cache()?;
    let settings = Settings::from_env(cache.root())?;
    match &args.command {
        CacheCommand::List(args) if args.shared => shared::list(args.json.json, reporter),
        CacheCommand::List(args) => list(&cache, &settings, args.json.json || reporter.is_json(), reporter),
        CacheCommand::Verify(args) if args.shared => shared::verify(args.json.json, reporter),
        CacheCommand::Verify(args) => verify(&cache, &settings, args.json.json || reporter.is_json(), reporter),
        CacheCommand::Push(form) => shared::push(&cache, form.json, reporter),
        CacheCommand::Pull(args) => shared::pull(cache, args, reporter),
        CacheCommand::Gc(args) => shared::gc(args, reporter),
        CacheCommand::Clean(args) => clean(&cache, &settings, *args, reporter),
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

fn list(cache: &Cache, settings: &Settings, json: bool, reporter: &Reporter) -> Result<()> {
    let entries = cache.list();
    let total = entries.iter().map(|entry| entry.bytes).sum();
    let repositories = knapsack_source::list_downloads(settings)?;
    if json {
        let entries: Vec<_> = entries.iter().map(summary).collect();
        let downloads = downloads::json(settings, &repositories);
        let value = json!({ "path": cache.root(), "bytes": total, "entries": entries, "downloads": downloads });
        return reporter.line(value);
    }
    let plural = if entries.len() == 1 { "entry" } else { "entries" };
    reporter.line(format_args!("{}: {} {plural}, {}", cache.root().display(), entries.len(), bytes(total)))?;
    if !entries.is_empty() {
        reporter.stdout(|out| write!(out, "{}", table(&entries)))?;
    }
    downloads::list(settings, &repositories, reporter)
}

/// Damaged entries are removed, so that they are made again when they are needed; their presence is still a failure.
fn verify(cache: &Cache, settings: &Settings, json: bool, reporter: &Reporter) -> Result<()> {
    let verified = cache.verify(true)?;
    let damaged: Vec<&Verified> = verified.iter().filter(|entry| !entry.problems.is_empty()).collect();
    let (files, damage) = downloads::verify(settings, reporter)?;
    if json {
        let problems: Vec<_> = damaged
            .iter()
            .map(|entry| json!({ "entry": summary(&entry.summary), "problems": entry.problems }))
            .collect();
        let files_damaged: Vec<_> = damage
            .iter()
            .map(|found| json!({ "repository": found.repository.to_string(), "path": found.path, "problem": found.reason }))
            .collect();
        let downloads = json!({ "path": settings.cache, "checked": files, "damaged": files_damaged });
        let value =
            json!({ "path": cache.root(), "checked": verified.len(), "damaged": problems, "downloads": downloads });
        reporter.line(value)?;
    } else {
        for entry in &damaged {
            let (key, problems) = (&entry.summary.key, entry.problems.join("; "));
            reporter.line(format_args!("{key} ({}): {problems}: removed", subject(&entry.summary)))?;
        }
        for found in &damage {
            let (path, reason) = (found.path.display(), &found.reason);
            reporter.line(format_args!("{path} ({}): {reason}: removed", found.repository))?;
        }
        reporter.line(format_args!("{} entries checked, {} damaged", verified.len(), damaged.len()))?;
        reporter.line(format_args!("{files} downloaded files checked, {} damaged", damage.len()))?;
    }
    anyhow::ensure!(damaged.is_empty(), "{} of {} cache entries were damaged", damaged.len(), verified.len());
    anyhow::ensure!(damage.is_empty(), "{} of {files} downloaded files were damaged", damage.len());
    Ok(())
}

fn clean(cache: &Cache, settings: &Settings, args: CacheCleanArgs, reporter: &Reporter) -> Result<()> {
    let cleaned = cache.clean()?;
    let downloads = downloads::clean(settings, args.downloads)?;
    if args.json.json || reporter.is_json() {
        let removed: Vec<_> =
            downloads.removed.iter().map(|(name, bytes)| json!({ "repository": name, "bytes": bytes })).collect();
        return reporter.line(json!({
            "path": cache.root(),
            "removed": cleaned.entries,
            "bytes": cleaned.bytes,
            "in_use": cleaned.in_use,
            "downloads": { "path": settings.cache, "incomplete_bytes": downloads.partial, "removed": removed },
        }));
    }
    if cleaned.in_use > 0 {
        reporter.warning(format_args!("{} entries are in use by another run and stay", cleaned.in_use));
    }
    reporter.line(format_args!("{} entries removed, {}", cleaned.entries, bytes(cleaned.bytes)))?;
    for (name, size) in &downloads.removed {
        reporter.line(format_args!("download of {name} removed, {}", bytes(*size)))?;
    }
    reporter.line(format_args!("interrupted downloads removed, {}", bytes(downloads.partial)))
}
