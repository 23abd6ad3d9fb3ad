//! `knapsack models`: the families and formats that are supported, and what each was checked against.

use crate::cli::JsonArg;
use crate::report::Reporter;
use crate::table::{Align, Table};
use anyhow::Result;
use knapsack_models::FAMILIES;
use knapsack_tensor::QUANTIZATIONS;
use serde_json::json;

/// Lists families and formats.
pub fn run(args: &JsonArg, reporter: &Reporter) -> Result<()> {
    if args.json || reporter.is_json() {
        let families: Vec<_> = FAMILIES
            .iter()
            .map(|family| {
                json!({
                    "family": family.name,
                    "architectures": family.architectures,
                    "models": family.models,
                    "checked_against": family.checked,
                })
            })
            .collect();
        let formats = QUANTIZATIONS.map(|format| {
            let grouped = format.linear();
            json!({
                "quantization": format.name,
                "bits": grouped.map(|group| group.bits),
                "group": grouped.map(|group| group.group),
                "model_dtype": format.model_dtype.name(),
            })
        });
        return reporter.result("models", &json!({ "families": families, "formats": formats }));
    }
    let mut table = Table::new(&[("family", Align::Left), ("models", Align::Left), ("checked against", Align::Left)]);
    for family in FAMILIES {
        table.row([family.name, family.models, family.checked].map(str::to_owned));
    }
    let formats: Vec<&str> = QUANTIZATIONS.iter().map(|format| format.name).collect();
    reporter.stdout(|out| write!(out, "{table}\n  formats: {}\n", formats.join(", ")))
}
