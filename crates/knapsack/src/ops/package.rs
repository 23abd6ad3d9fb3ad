//! `knapsack package`: the whole way from a manifest to a package.

use crate::cli::{LinkMode, PackageArgs};
use crate::ops::plan::print_plan;
use crate::packaging::{self, Workspace};
use crate::report::Reporter;
use anyhow::Result;
use serde_json::json;

/// Packages. See [`crate::packaging`] for the stages.
pub fn run(args: &PackageArgs, reporter: &Reporter) -> Result<()> {
    let started = std::time::Instant::now();
    let workspace = Workspace::new(reporter, args.lock.offline())?;
    let mut loaded = packaging::load(&args.manifest, reporter)?;
    let resolved = workspace.resolve(&loaded, &args.lock.locking())?;
    let plan = workspace.plan(&mut loaded, &resolved, args.allow_over_budget)?;
    let compiled = workspace.compile(&mut loaded, &plan)?;
    let provided = workspace.provide(&loaded, &plan, &resolved)?;
    let link_mode = match args.link_mode {
        LinkMode::Reflink => knapsack_bundle::LinkMode::Reflink,
        LinkMode::Copy => knapsack_bundle::LinkMode::Copy,
        LinkMode::Hardlink => knapsack_bundle::LinkMode::Hardlink,
    };
    let report = workspace.bundle(&loaded, &plan, compiled, provided, &args.output, link_mode)?;
    for file in &report.written {
        let reason = file.reason.map(|reason| reason.to_string()).unwrap_or_default();
        reporter.detail("Wrote", format_args!("{}: {reason}", file.path));
    }
    for file in &report.removed {
        reporter.detail("Removed", &file.path);
    }
    if reporter.is_json() {
        let value = json!({
            "output": args.output,
            "models": plan.models.iter().map(|model| model.row()).collect::<Vec<_>>(),
            "written": report.written.iter().map(|file| &file.path).collect::<Vec<_>>(),
            "kept": report.kept.len(),
            "removed": report.removed.iter().map(|file| &file.path).collect::<Vec<_>>(),
            "bytes": report.total_bytes(),
        });
        return reporter.result("packaged", &value);
    }
    if !reporter.is_quiet() {
        print_plan(&plan, reporter)?;
    }
    let what = format_args!(
        "{} to {} ({}, {} files written, {} kept) in {:.2} s",
        loaded.manifest.device.value,
        args.output.display(),
        crate::table::bytes(report.total_bytes()),
        report.written.len(),
        report.kept.len(),
        started.elapsed().as_secs_f64()
    );
    reporter.status(if report.is_fresh() { "Fresh" } else { "Packaged" }, what);
    Ok(())
}
