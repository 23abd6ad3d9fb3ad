//! What phones said before: files of `knapsack bench --adb --report`.

use crate::files::read_limited;
use crate::table::{Align, Table, bytes};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Largest report that is read.
const MAX_BYTES: u64 = 1 << 20;
/// Most reports of a folder.
const MAX_REPORTS: usize = 10_000;

/// A figure of a phone for a model.
#[derive(Clone, Debug, Serialize)]
pub(in crate::ops) struct Measured {
    pub(in crate::ops) model: String,
    phone: String,
    device: String,
    decode_tokens_per_second: f64,
    prefill_tokens_per_second: f64,
    /// Highest resident memory of the process.
    resident: Option<u64>,
}

#[derive(Deserialize)]
struct Report {
    format: String,
    version: u32,
    phone: Phone,
    model: String,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Phone {
    manufacturer: String,
    model: String,
}

#[derive(Deserialize)]
struct Run {
    device: String,
    figures: Option<Figures>,
}

#[derive(Deserialize)]
struct Figures {
    decode_tokens_per_second: f64,
    prefill_tokens_per_second: f64,
    peak_rss_bytes: Option<u64>,
}

/// Every figure of the reports (`*.json`) in a folder, in order of their names.
///
/// # Errors
/// A folder that cannot be read, or a file that is no report.
pub(in crate::ops) fn read(folder: &Path) -> Result<Vec<Measured>> {
    let shown = || format!("cannot read {}", folder.display());
    let entries =
        std::fs::read_dir(folder).with_context(shown)?.collect::<std::io::Result<Vec<_>>>().with_context(shown)?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
    paths.sort();
    ensure!(paths.len() <= MAX_REPORTS, "{} holds {} reports", folder.display(), paths.len());
    let mut found = Vec::new();
    for path in paths {
        let text = read_limited(&path, MAX_BYTES)?;
        let report: Report =
            serde_json::from_slice(&text).with_context(|| format!("{} is no report of a phone", path.display()))?;
        let known = report.format == "knapsack-phone-report" && report.version == 1;
        ensure!(known, "{} is no report of a phone that this version reads", path.display());
        let phone = format!("{} {}", report.phone.manufacturer, report.phone.model);
        let with_figures = report.runs.into_iter().filter_map(|run| Some((run.device, run.figures?)));
        found.extend(with_figures.map(|(device, figures)| Measured {
            model: report.model.clone(),
            phone: phone.clone(),
            device,
            decode_tokens_per_second: figures.decode_tokens_per_second,
            prefill_tokens_per_second: figures.prefill_tokens_per_second,
            resident: figures.peak_rss_bytes,
        }));
    }
    Ok(found)
}

/// The figures of a model; `None` when there are none.
pub(in crate::ops) fn table(all: &[Measured], model: &str) -> Option<Table> {
    let mut table = Table::new(&[
        ("measured on", Align::Left),
        ("device", Align::Left),
        ("prefill", Align::Right),
        ("decode", Align::Right),
        ("resident", Align::Right),
    ]);
    let mut any = false;
    for row in all.iter().filter(|row| row.model == model) {
        any = true;
        let rate = |rate: f64| format!("{rate:.1} tokens/s");
        let (prefill, decode) = (rate(row.prefill_tokens_per_second), rate(row.decode_tokens_per_second));
        table.row([
            row.phone.clone(),
            row.device.clone(),
            prefill,
            decode,
            row.resident.map_or_else(|| "-".to_owned(), bytes),
        ]);
    }
    any.then_some(table)
}
