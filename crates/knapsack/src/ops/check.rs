//! `knapsack check`: reads the manifest and everything that it can be checked against without fetching anything.

use crate::cli::CheckArgs;
use crate::exit::{AlreadyReported, WRONG_INPUT};
use crate::report::Reporter;
use knapsack_config::{DeviceProfiles, Environment, Loaded, Severity, load};
use serde_json::json;
use std::path::Path;

/// Checks a manifest. Wrong ones exit with 2.
pub fn run(args: &CheckArgs, reporter: &Reporter) -> anyhow::Result<()> {
    let loaded = read(&args.manifest.config, reporter)?;
    let (models, warnings) = (loaded.manifest.models.len(), loaded.report.count(Severity::Warning));
    if reporter.is_json() {
        let ids: Vec<&str> = loaded.manifest.models.iter().map(|model| model.model_id.value.as_str()).collect();
        let summary = json!({
            "manifest": args.manifest.config.display().to_string(),
            "device": loaded.manifest.device.value,
            "models": ids,
            "warnings": warnings,
            "notices": loaded.report.count(Severity::Notice),
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
            loaded.manifest.device.value
        ),
    );
    Ok(())
}

/// Reads and checks a manifest, and shows what is wrong with it. Warnings and notices are shown too.
fn read(path: &Path, reporter: &Reporter) -> anyhow::Result<Loaded> {
    let environment = Environment { hf_endpoint: hf_endpoint(), devices: DeviceProfiles::built_in()? };
    match load(path, &environment) {
        Ok(loaded) => {
            reporter.diagnostics(&loaded.report);
            Ok(loaded)
        }
        Err(report) => {
            reporter.diagnostics(&report);
            Err(AlreadyReported(WRONG_INPUT).into())
        }
    }
}

/// The hub's address, when the environment names another than Hugging Face's.
fn hf_endpoint() -> Option<String> {
    std::env::var("HF_ENDPOINT").ok().filter(|address| !address.trim().is_empty())
}
