//! `knapsack check`: reads the manifest and everything that it can be checked against without fetching anything.

use crate::cli::CheckArgs;
use crate::exit::{AlreadyReported, WRONG_INPUT};
use crate::packaging;
use crate::report::Reporter;
use knapsack_config::{LocalSource, Manifest, ModelForm, ModelSource, Severity, Shipped};
use serde_json::json;

/// Most files of a model that are looked at.
const MAX_FILES: usize = 1 << 16;

/// Bytes of the models that lie in folders as they will be shipped; what the others take is known to `plan`.
fn local_sizes(manifest: &Manifest) -> Vec<Shipped<'_>> {
    let shipped = |entry| {
        let mut shipped = Shipped { entry, bytes: 0, largest_file: 0 };
        if let ModelSource::Local(LocalSource { path, kind: ModelForm::Mlc }) = &entry.source.value {
            for file in std::fs::read_dir(path).into_iter().flatten().flatten().take(MAX_FILES) {
                // Through symbolic links: caches of the hub have them.
                let bytes =
                    std::fs::metadata(file.path()).ok().filter(std::fs::Metadata::is_file).map_or(0, |m| m.len());
                shipped.bytes += bytes;
                shipped.largest_file = shipped.largest_file.max(bytes);
            }
        }
        shipped
    };
    manifest.models.iter().map(shipped).collect()
}

/// Checks a manifest. Wrong ones exit with 2.
pub fn run(args: &CheckArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let mut read = packaging::read(&args.manifest, reporter)?;
    read.find(packaging::store_findings(&read.manifest, &local_sizes(&read.manifest), None, args.store));
    reporter.diagnostics(read.report());
    if read.report().has_errors() {
        return Err(AlreadyReported(WRONG_INPUT).into());
    }
    let (models, warnings) = (read.manifest.models.len(), read.report().count(Severity::Warning));
    if reporter.is_json() {
        let ids: Vec<&str> = read.manifest.models.iter().map(|model| model.model_id.value.as_str()).collect();
        let summary = json!({
            "manifest": args.manifest.config.display().to_string(),
            "device": read.manifest.device.value,
            "models": ids,
            "warnings": warnings,
            "notices": read.report().count(Severity::Notice),
        });
        return reporter.result("checked", &summary);
    }
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let suffix = if warnings == 0 { String::new() } else { format!(", {}", plural(warnings, "warning")) };
    reporter.status(
        "Checked",
        format_args!(
            "{}: {} for {}{suffix}",
            args.manifest.config.display(),
            plural(models, "model"),
            read.manifest.device.value
        ),
    );
    Ok(())
}
