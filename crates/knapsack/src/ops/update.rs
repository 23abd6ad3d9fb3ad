//! `knapsack update`: moves the lockfile to what the hub has now.

use crate::cli::UpdateArgs;
use crate::exit::wrong_input;
use crate::packaging::{self, Shown};
use crate::phones;
use crate::report::Reporter;
use anyhow::Result;
use knapsack_config::{Manifest, ModelSource};
use knapsack_source::{LockChange, LockPolicy, Update};
use serde_json::json;

/// Asks the hub for the named models, or all; the others stay where they are.
pub fn run(args: &UpdateArgs, reporter: &Reporter) -> Result<()> {
    let shown = Shown::new(reporter);
    let packager = packaging::packager(&shown, false)?;
    let mut read = packaging::read(&args.manifest, reporter)?;
    for id in &args.models {
        check(id, &read.manifest)?;
    }
    let update = match args.models.is_empty() {
        true => Update::Everything,
        false => Update::Models(args.models.iter().cloned().collect()),
    };
    let found = packager.find(&read.manifest, &LockPolicy { locked: false, update })?;
    let changes = &read.settle(found)?.changes;
    if reporter.is_json() {
        return reporter.result("updated", &json!({ "changes": changes.iter().map(change).collect::<Vec<_>>() }));
    }
    for change in changes {
        match change {
            LockChange::Added { model_id, model } => reporter.status("Added", format_args!("{model_id} ({model})")),
            LockChange::Removed { model_id } => reporter.status("Removed", model_id),
            LockChange::Source { model_id, from, to } => {
                reporter.status("Changed", format_args!("{model_id}: {from} -> {to}"));
            }
            LockChange::Moved { model_id, from, to } => {
                let short = |commit: &str| commit.chars().take(12).collect::<String>();
                reporter.status("Moved", format_args!("{model_id}: {} -> {}", short(from), short(to)));
            }
        }
    }
    if changes.is_empty() {
        reporter.status("Unchanged", "every model is at its newest commit");
    }
    Ok(())
}

fn change(change: &LockChange) -> serde_json::Value {
    match change {
        LockChange::Added { model_id, model } => json!({ "change": "added", "model_id": model_id, "model": model }),
        LockChange::Removed { model_id } => json!({ "change": "removed", "model_id": model_id }),
        LockChange::Source { model_id, from, to } => {
            json!({ "change": "source", "model_id": model_id, "from": from, "to": to })
        }
        LockChange::Moved { model_id, from, to } => {
            json!({ "change": "moved", "model_id": model_id, "from": from, "to": to })
        }
    }
}

/// Whether the manifest has a model of this id that comes from a hub.
fn check(id: &str, manifest: &Manifest) -> Result<()> {
    match manifest.model(id).map(|model| &model.source.value) {
        Some(ModelSource::Hub(_)) => Ok(()),
        Some(ModelSource::Local(_)) => Err(wrong_input(format!("{id} is a local model, which has nothing to update"))),
        None => Err(phones::unknown_model(id, manifest)),
    }
}
