//! `knapsack check`: reads the manifest and everything that it can be checked against without fetching anything.

use crate::cli::CheckArgs;
use crate::packaging;
use crate::report::Reporter;
use knapsack_config::Severity;
use serde_json::json;

/// Checks a manifest. Wrong ones exit with 2.
pub fn run(args: &CheckArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let read = packaging::read(&args.manifest, reporter)?;
    reporter.diagnostics(read.report());
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
