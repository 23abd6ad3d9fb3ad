//! The cache that a team shares: shown, checked, given, taken, and kept small.

use crate::cli::{CacheGcArgs, CachePullArgs};
use crate::exit::OrWrongInput;
use crate::packaging;
use crate::report::Reporter;
use crate::table::{Align, Table, bytes};
use anyhow::{Context, Result};
use knapsack_bundle::Cache;
use knapsack_bundle::cache::{Bucket, Key, Shared, SharedEntry};
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

fn open(reporter: &Reporter) -> Result<Shared> {
    packaging::shared(reporter)
        .or_wrong_input()?
        .context("KNAPSACK_CACHE_URL is not set: there is no shared cache")
        .or_wrong_input()
}

fn row(entry: &SharedEntry) -> Value {
    let made = entry.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs());
    json!({
        "bucket": entry.bucket.folder(), "key": entry.key.to_string(), "bytes": entry.bytes, "made_unix_seconds": made,
    })
}

fn total(entries: &[SharedEntry]) -> u64 {
    entries.iter().map(|entry| entry.bytes).sum()
}

pub(super) fn list(json: bool, reporter: &Reporter) -> Result<()> {
    let entries = open(reporter)?.entries().context("the shared cache")?;
    if json || reporter.is_json() {
        let rows: Vec<_> = entries.iter().map(row).collect();
        return reporter.line(json!({ "bytes": total(&entries), "entries": rows }));
    }
    reporter.line(format_args!("shared cache: {} entries, {}", entries.len(), bytes(total(&entries))))?;
    let mut table = Table::new(&[("bucket", Align::Left), ("key", Align::Left), ("size", Align::Right)]);
    for entry in &entries {
        table.row([entry.bucket.folder().into(), entry.key.to_string()[..12].into(), bytes(entry.bytes)]);
    }
    if entries.is_empty() { Ok(()) } else { reporter.stdout(|out| write!(out, "{table}")) }
}

pub(super) fn verify(json: bool, reporter: &Reporter) -> Result<()> {
    let shared = open(reporter)?;
    let entries = shared.entries().context("the shared cache")?;
    let mut damaged = Vec::new();
    for entry in &entries {
        if let Some(problem) = shared.verify(entry).context("the shared cache")? {
            damaged.push((entry, problem));
        }
    }
    if json || reporter.is_json() {
        let rows: Vec<_> =
            damaged.iter().map(|(entry, problem)| json!({ "entry": row(entry), "problem": problem })).collect();
        reporter.line(json!({ "checked": entries.len(), "damaged": rows }))?;
    } else {
        for (entry, problem) in &damaged {
            reporter.line(format_args!("{}: {problem}", entry.key))?;
        }
        reporter.line(format_args!("{} entries checked, {} damaged", entries.len(), damaged.len()))?;
    }
    anyhow::ensure!(
        damaged.is_empty(),
        "{} of {} entries of the shared cache are damaged",
        damaged.len(),
        entries.len()
    );
    Ok(())
}

pub(super) fn push(cache: &Cache, json: bool, reporter: &Reporter) -> Result<()> {
    let shared = open(reporter)?;
    let entries = cache.list();
    let (mut given, mut there) = (0, 0);
    for entry in &entries {
        match shared.push(entry.bucket, &entry.path).context("the shared cache")? {
            true => given += 1,
            false => there += 1,
        }
    }
    if json || reporter.is_json() {
        return reporter.line(json!({ "pushed": given, "already_there": there }));
    }
    reporter.line(format_args!("{given} entries given, {there} were there"))
}

pub(super) fn pull(cache: Cache, args: &CachePullArgs, reporter: &Reporter) -> Result<()> {
    let shared = open(reporter)?;
    let whole: Vec<Key> = args.keys.iter().filter_map(|key| Key::parse(key)).collect();
    // Whole keys need no list, which not every store has.
    let wanted: Vec<(Bucket, Key)> = if !whole.is_empty() && whole.len() == args.keys.len() {
        Bucket::ALL.iter().flat_map(|bucket| whole.iter().map(|key| (*bucket, key.clone()))).collect()
    } else {
        let named = |key: &Key| {
            args.keys.is_empty() || args.keys.iter().any(|begin| key.to_string().starts_with(begin.as_str()))
        };
        let entries = shared.entries().context("the shared cache")?;
        entries.into_iter().filter(|entry| named(&entry.key)).map(|entry| (entry.bucket, entry.key)).collect()
    };
    let cache = cache.with_shared(shared);
    let here: std::collections::HashSet<_> = cache.list().into_iter().map(|entry| (entry.bucket, entry.key)).collect();
    let (mut taken, mut there) = (0, 0);
    for (bucket, key) in wanted {
        match here.contains(&(bucket, key.clone())) {
            true => there += 1,
            false => taken += usize::from(cache.pull(bucket, &key)?),
        }
    }
    if json_wanted(args.json.json, reporter) {
        return reporter.line(json!({ "pulled": taken, "already_here": there }));
    }
    reporter.line(format_args!("{taken} entries taken, {there} were here"))
}

pub(super) fn gc(args: &CacheGcArgs, reporter: &Reporter) -> Result<()> {
    let age = Duration::from_secs(u64::from(args.older_than) * 86_400);
    let gone = open(reporter)?.gc(age, args.dry_run).context("the shared cache")?;
    if json_wanted(args.json.json, reporter) {
        return reporter.line(json!({ "removed": gone.entries, "bytes": gone.bytes, "dry_run": args.dry_run }));
    }
    let verb = if args.dry_run { "would be removed" } else { "removed" };
    reporter.line(format_args!("{} entries {verb}, {}", gone.entries, bytes(gone.bytes)))
}

fn json_wanted(flag: bool, reporter: &Reporter) -> bool {
    flag || reporter.is_json()
}
