//! `knapsack package`: the whole way from a manifest to a package.

use crate::cli::PackageArgs;
use crate::exit::OrWrongInput;
use crate::ops::plan::table;
use crate::packaging::{self, Shown};
use crate::report::Reporter;
use crate::runtime;
use anyhow::Result;
use knapsack_package::{Destination, Planned};
use serde_json::json;

/// `SOURCE_DATE_EPOCH`, by which reproducible builds are told their date.
fn source_date() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| (0..1 << 36).contains(seconds));
    let wrong = || anyhow::anyhow!("SOURCE_DATE_EPOCH is {}, not a number of seconds since 1970", text.display());
    seconds.map(Some).ok_or_else(wrong).or_wrong_input()
}

/// Packages. See [`knapsack_package`] for the stages.
pub fn run(args: &PackageArgs, reporter: &Reporter) -> Result<()> {
    let started = std::time::Instant::now();
    let shown = Shown::new(reporter);
    let packager = packaging::packager(&shown, args.lock.offline())?;
    let mut read = packaging::read(&args.manifest, reporter)?;
    let runtime = runtime::of(args.sdk.as_deref(), read.manifest.device.value.form, &args.output)?;
    packager.check_destination(&read.manifest, &args.output)?;
    let found = packager.find(&read.manifest, &args.lock.policy())?;
    let found = read.settle(found)?;
    let planned = packager.plan(&read.manifest, found.models, args.allow_over_budget);
    let planned = packaging::within_stores(&read.manifest, planned, args.store);
    let planned = read.settle(planned)?;
    let built = packager.build(&read.manifest, planned)?;
    let built = packaging::libraries_within_stores(&read.manifest, built, args.store);
    let built = read.settle(built)?;
    let ready = packager.make_ready(built)?;
    let ready = read.settle(ready)?;
    let destination = Destination {
        folder: &args.output,
        link_mode: args.link_mode,
        sync: !args.no_sync,
        date: source_date()?,
        runtime: &runtime,
    };
    let report = packager.bundle(&read.manifest, &ready, destination)?;
    let report = read.settle(report)?;
    let planned = || ready.iter().map(|model| &model.built.planned);
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
            "models": planned().map(Planned::row).collect::<Vec<_>>(),
            "written": report.written.iter().map(|file| &file.path).collect::<Vec<_>>(),
            "kept": report.kept.len(),
            "removed": report.removed.iter().map(|file| &file.path).collect::<Vec<_>>(),
            "bytes": report.total_bytes(),
        });
        return reporter.result("packaged", &value);
    }
    if !reporter.is_quiet() {
        reporter.stdout(|out| write!(out, "{}", table(planned())))?;
    }
    let what = format_args!(
        "{} to {} ({}, {} files written, {} kept) in {:.2} s",
        read.manifest.device.value,
        args.output.display(),
        crate::table::bytes(report.total_bytes()),
        report.written.len(),
        report.kept.len(),
        started.elapsed().as_secs_f64()
    );
    reporter.status(if report.is_fresh() { "Fresh" } else { "Packaged" }, what);
    Ok(())
}
