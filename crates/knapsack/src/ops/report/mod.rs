//! `knapsack report dist -o report.html`: everything about a package on one page that needs nothing else: no network, no script.

mod chart;
mod data;
mod page;

use crate::cli::ReportArgs;
use crate::exit::wrong_input;
use crate::files::write_atomically;
use crate::report::Reporter;
use anyhow::Result;
use data::PackageData;
use knapsack_runtime::Package;
use serde_json::json;

/// Reads the package and writes the page.
pub fn run(args: &ReportArgs, reporter: &Reporter) -> Result<()> {
    if !Package::is_package(&args.path) {
        return Err(wrong_input(format!("{} is not a package: run `knapsack package` first", args.path.display())));
    }
    let data = PackageData::read(&args.path, &args.phones)?;
    let page = page::render(&data).into_string();
    write_atomically(&args.output, page.as_bytes())?;
    if reporter.is_json() {
        let value = json!({ "output": args.output, "bytes": page.len(), "models": data.models.len() });
        return reporter.result("report", &value);
    }
    reporter.status("Wrote", format_args!("{} ({})", args.output.display(), crate::table::bytes(page.len() as u64)));
    Ok(())
}
